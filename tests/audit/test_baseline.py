"""The baseline's figures and file: nothing made up, nothing half written, and worse means worse."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.baseline import FILE, Baseline, compare, differences, percentiles, read_baseline, write_baseline
from audit.errors import UsageError

SOME = Baseline(
    made_at="2026-10-01T00:00:00Z",
    machine={"host": "a", "cores": 2},
    model="demo",
    revision="r1",
    precision="fp32",
    engine="ofa-1",
    load_s=4.0,
    stages={
        "preprocess": {"p50": 0.002, "p95": 0.004, "p99": 0.005},
        "inference": {"p50": 0.02, "p95": 0.03, "p99": 0.04},
    },
    samples={"preprocess": 500, "inference": 500},
    pairs=500,
    source="320 drawn pairs",
    pairs_per_second=40.0,
    peak_rss_bytes=500_000_000,
    peak_device_bytes=None,
    notes=["as it is"],
)
times = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


@given(times)
def test_a_percentile_is_a_time_that_was_measured(measured: list[float]) -> None:
    """A figure between two measurements would be one that nobody ever saw."""
    for name, value in percentiles(measured).items():
        assert value in measured
        within = sum(one <= value for one in measured)
        assert within * 100 >= int(name[1:]) * len(measured)
        assert sum(one < value for one in measured) * 100 < int(name[1:]) * len(measured)


def test_what_is_saved_is_read_again_and_is_the_owner_s_alone(tmp_path: Path) -> None:
    """Alerts read it; the format is the one that was agreed."""
    path = write_baseline(tmp_path / "home", SOME)
    assert read_baseline(tmp_path / "home") == SOME
    assert (path.name, path.stat().st_mode & 0o777) == (FILE, 0o600)
    told = json.loads(path.read_text())
    assert told["version"] == 1
    assert set(told["stages"]["inference"]) == {"p50", "p95", "p99"}
    agreed = {"made_at", "machine", "model", "revision", "precision", "engine", "load_s", "pairs_per_second"}
    assert agreed | {"peak_rss_bytes", "peak_device_bytes"} <= set(told)
    assert read_baseline(tmp_path) is None


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not cost the baseline that alerts compare with."""
    write_baseline(tmp_path, SOME)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_baseline(tmp_path, replace(SOME, pairs=7))
    assert read_baseline(tmp_path) == SOME
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2}',
        "[" * 10_000,
        json.dumps({**SOME.to_json(), "load_s": "long"}),
        json.dumps({**SOME.to_json(), "pairs_per_second": float("nan")}),
        json.dumps({**SOME.to_json(), "stages": {"inference": {"p50": 1}}}),
        json.dumps({**SOME.to_json(), "notes": "x" * 200_000}),
    ],
)
def test_a_file_that_is_no_baseline_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    """A truncated file must not turn into figures."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UsageError, match=f"{FILE} is unreadable"):
        read_baseline(tmp_path)


def worse(**changes: Any) -> list[str]:
    return [one.figure for one in compare(SOME, replace(SOME, **changes), factor=2.0) if one.worse]


def test_worse_is_what_is_worse_by_more_than_the_factor() -> None:
    """Slower, larger or fewer a second; exactly the factor is not more than it."""
    assert worse() == worse(load_s=8.0, pairs_per_second=20.0) == worse(load_s=0.1, pairs_per_second=400.0) == []
    assert worse(load_s=8.1) == ["load_s"]
    assert worse(pairs_per_second=19.9) == ["pairs_per_second"]
    assert worse(peak_rss_bytes=1_000_000_001) == ["peak_rss_bytes"]
    slow = {**SOME.stages, "inference": {"p50": 0.041, "p95": 0.03, "p99": 0.09}}
    assert worse(stages=slow) == ["inference p50", "inference p99"]


def test_a_few_milliseconds_and_the_largest_of_few_times_are_not_worse() -> None:
    """One busy moment would else be an alarm: it is shown, and not judged."""
    busy = {**SOME.stages, "preprocess": {"p50": 0.006, "p95": 0.0089, "p99": 0.0051}}
    assert worse(stages=busy) == []
    slow = {**SOME.stages, "inference": {"p50": 1.0, "p95": 1.0, "p99": 1.0}}
    few = {**SOME.samples, "inference": 50}
    assert worse(stages=slow, samples=few) == ["inference p50", "inference p95"]
    assert worse(stages=slow, samples={**few, "inference": 1}) == []


def test_what_makes_two_baselines_incomparable_is_named() -> None:
    """Another model's seconds say nothing about this machine."""
    assert differences(SOME, SOME) == []
    other = replace(SOME, model="large", machine={"host": "a", "cores": 4})
    assert differences(SOME, other) == ["model was demo, and is large", "cores was 2, and is 4"]
