"""The command baseline, with real processes; the stub engine takes as long as it is told to."""

import json
import os
import time
from pathlib import Path

import psutil
import pytest

from audit.baseline import read_baseline
from tests.ops.conftest import Cli
from tests.support.manifests import draw, write_csv

STUB = {"AUDIT_ENGINE": "stub", "AUDIT_DEVICES": "cpu"}
QUICK = {**STUB, "AUDIT_STUB_PAIR_S": "0.01"}
SLOW = {**STUB, "AUDIT_STUB_PAIR_S": "0.5"}


@pytest.fixture
def home(environment: dict[str, str]) -> Path:
    return Path(environment["AUDIT_HOME"])


def test_a_baseline_is_measured_saved_and_shown_without_redis_and_without_a_ledger(cli: Cli, home: Path) -> None:
    """It is what a new machine is asked first, before anything else runs on it."""
    done = cli("baseline", "--pairs", "30", "--json", **QUICK)
    assert done.returncode == 0, done.stderr
    made = read_baseline(home)
    assert made is not None
    assert json.loads(done.stdout) == json.loads(json.dumps(made.to_json()))
    assert (made.pairs, made.model, made.engine, made.source) == (30, "demo", "stub", "30 drawn pairs")
    assert made.samples == {"preprocess": 30, "inference": 30}
    assert made.stages["inference"]["p50"] >= 0.01
    assert 0 < made.pairs_per_second < 100
    assert 20_000_000 < made.peak_rss_bytes < 2_000_000_000
    assert made.peak_device_bytes is None
    assert made.notes == [
        "preprocess: p99 is the largest of 30 times",
        "inference: p99 is the largest of 30 times",
    ]
    assert sorted(path.name for path in home.iterdir()) == ["baseline.json"]
    for line in ("drawing 30 pictures", "loading demo on 1 slot", f"saved as {home / 'baseline.json'}"):
        assert line in done.stderr.splitlines()
    shown = cli("baseline", "--show")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "30 verdicts of 30 drawn pairs" in shown.stdout
    assert "note: inference: p99 is the largest of 30 times" in shown.stdout
    assert cli("baseline", "--show", "--json").stdout == done.stdout


def test_a_machine_that_got_slower_is_told_by_the_status(cli: Cli, home: Path) -> None:
    """The saved one stays: comparing twice must not make slowness the new normal."""
    assert cli("baseline", "--pairs", "4", **STUB).returncode == 0
    saved = (home / "baseline.json").read_bytes()
    same = cli("baseline", "--compare", "--pairs", "4", "--factor", "1000", "--json", **STUB)
    assert (same.returncode, json.loads(same.stdout)["worse"]) == (0, [])
    slow = cli("baseline", "--compare", "--pairs", "4", "--factor", "3", **SLOW)
    assert slow.returncode == 3, slow.stderr
    last = slow.stdout.splitlines()[-1]
    assert last.startswith("worse: ")
    assert {"inference p50", "pairs_per_second"} <= set(last.removeprefix("worse: ").split(", "))
    assert "too few pairs to judge" in slow.stdout
    assert (home / "baseline.json").read_bytes() == saved


def test_the_time_bounds_it_and_one_pair_is_judged_at_least(cli: Cli, home: Path) -> None:
    """A model that takes seconds a pair has a baseline too, of few pairs, which says so."""
    began = time.monotonic()
    done = cli("baseline", "--seconds", "0.1", **STUB, AUDIT_STUB_PAIR_S="0.5")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 120
    made = read_baseline(home)
    assert made is not None
    assert made.pairs == 1
    assert "inference: p95 and p99 are the largest of 1 time" in made.notes


def test_every_slot_of_a_worker_judges_at_the_same_time(cli: Cli, home: Path) -> None:
    """A worker's rate is that of all its processes together, which compete for the machine."""
    two = {**QUICK, "AUDIT_SLOTS_PER_DEVICE": "2"}
    assert cli("baseline", "--pairs", "40", **two).returncode == 0
    made = read_baseline(home)
    assert made is not None
    assert (made.machine["slots"], made.pairs) == (2, 40)
    assert 0 < made.pairs_per_second < 200  # each sleeps for 10 ms a pair


def test_pairs_of_one_s_own_are_judged_and_failures_are_in_no_figure(cli: Cli, home: Path, tmp_path: Path) -> None:
    """A picture that is missing takes no model: its seconds would flatter the machine."""
    draw(tmp_path / "red.png")
    sheet = write_csv(
        tmp_path / "mine.csv", [(f"p{n}", "gone.png" if n % 4 == 0 else "red.png", "a") for n in range(8)]
    )
    done = cli("baseline", "--manifest", str(sheet), "--pairs", "8", **QUICK)
    assert done.returncode == 0, done.stderr
    made = read_baseline(home)
    assert made is not None
    assert (made.pairs, made.samples, made.source) == (6, {"preprocess": 6, "inference": 6}, "8 pairs of mine.csv")
    assert made.notes[0] == "pairs that could not be judged are in no figure: file_missing 2"


def test_without_one_verdict_nothing_is_saved(cli: Cli, home: Path, tmp_path: Path) -> None:
    """A baseline of nothing would make every later figure an alarm, or none."""
    sheet = write_csv(tmp_path / "mine.csv", [("p", "gone.png", "a")])
    done = cli("baseline", "--manifest", str(sheet), "--pairs", "2", **QUICK)
    assert done.returncode == 1
    assert "no pair of 1 pair of mine.csv could be judged (file_missing 2)" in done.stderr
    assert not (home / "baseline.json").exists()


def test_a_process_that_dies_is_told_and_none_is_left(cli: Cli, home: Path, tmp_path: Path) -> None:
    """A model that crashes is a finding, not a traceback; and what is left would take the machine's time."""
    draw(tmp_path / "red.png")
    sheet = write_csv(tmp_path / "mine.csv", [("p", "red.png", "stub:exit")])
    two = {**STUB, "AUDIT_SLOTS_PER_DEVICE": "2"}
    done = cli("baseline", "--manifest", str(sheet), **two)
    assert done.returncode == 69
    assert "ended with status 1 (measuring_failed)" in done.stderr
    assert not (home / "baseline.json").exists()
    ours = [
        process for process in psutil.process_iter(["cmdline"]) if "worker.measuring" in (process.info["cmdline"] or [])
    ]
    assert [process for process in ours if process.environ().get("AUDIT_HOME") == str(home)] == []


def test_a_model_that_is_refused_is_told_in_one_line(cli: Cli, tmp_path: Path) -> None:
    """As a worker says it, with its status."""
    (tmp_path / "empty").mkdir()
    done = cli("baseline", "--pairs", "1", AUDIT_MODEL=str(tmp_path / "empty"), AUDIT_DEVICES="cpu")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "empty") in done.stderr.splitlines()[-1]


def test_a_running_worker_is_not_measured_beside_unless_that_is_meant(cli: Cli, home: Path) -> None:
    """Two would share the machine, and the figures would be those of neither."""
    run = home / "run"
    run.mkdir(parents=True)
    told = {"pid": os.getpid(), "slots": 1, "ready": {}, "model": "demo"}
    (run / f"worker-{os.getpid()}.json").write_text(json.dumps(told))
    refused = cli("baseline", "--pairs", "1", **STUB)
    assert refused.returncode == 1
    assert f"worker {os.getpid()} of {home} runs" in refused.stderr
    assert cli("baseline", "--pairs", "1", "--beside", **STUB).returncode == 0
    made = read_baseline(home)
    assert made is not None
    assert made.notes[-1] == "measured beside a worker that was running"


def test_what_cannot_be_answered_is_said(cli_here: Cli) -> None:
    """Nothing saved is no empty baseline, and showing measures nothing."""
    for option in ("--show", "--compare"):
        done = cli_here("baseline", option)
        assert (done.returncode, done.stdout) == (1, "")
        assert "there is no baseline" in done.stderr
    assert cli_here("baseline", "--show", "--compare").returncode == 2
