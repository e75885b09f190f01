"""The search for a micro-batch: on engines whose cost is known, and on the real one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from audit.errors import OutOfDeviceMemory
from audit.verdict import Scores
from tests.worker.engines.tiny_ofa import apart, questions_of
from worker.engines.base import Question
from worker.engines.micro_batch import SIZES, Found, search
from worker.engines.ofa import OfaEngine
from worker.engines.stub import StubEngine
from worker.micro_batch_file import key_of, read_size, write_found


def rates(found: Found) -> list[tuple[int, bool]]:
    return [(trial.size, trial.pairs_a_s is not None) for trial in found.trials]


def test_the_smallest_size_near_the_best_rate_is_chosen() -> None:
    """4 ms a pass and 1 ms a pair: 96 % of the best rate is reached with 128 pairs, 67 % with 8."""
    found = search(StubEngine(call_s=0.004, pair_s=0.001), slots=1, limit_s=60)
    assert found.size >= 32
    flat = search(StubEngine(pair_s=0.004), slots=1, limit_s=60)
    assert flat.size <= 4, "where a pass costs nothing, more pairs only mean a longer wait"
    assert flat.ended == "no gain"


def test_it_stops_where_the_memory_ends() -> None:
    """The largest size that fits is used, and the one that did not is told."""
    engine = StubEngine(call_s=0.02, device_pairs=10)
    found = search(engine, slots=2)
    assert rates(found) == [(1, True), (2, True), (4, True), (8, True), (16, False)]
    assert (found.size, found.ended) == (8, "out of memory")
    assert engine.releases >= len(found.trials), "each try begins with nothing cached"


@pytest.mark.parametrize(("slots", "largest"), [(1, 32), (2, 16), (4, 8)])
def test_it_plans_with_its_own_share_of_the_memory(slots: int, largest: int) -> None:
    """Two children share a device: what fits while the neighbour is still loading will not fit later."""
    found = search(StubEngine(call_s=0.02, device_pairs=40, tells_memory=True), slots=slots)
    assert (found.size, found.ended) == (largest, "memory")


def test_it_is_bounded_in_time() -> None:
    """A slow device must not spend its start on measuring: sizes that would take too long are not tried."""
    now = 0.0

    class Slow(StubEngine):
        def judge(self, questions: Sequence[Question]) -> list[Scores]:
            nonlocal now
            now += 0.5 + 0.25 * len(questions)
            return []

    found = search(Slow(), slots=1, limit_s=10.0, clock=lambda: now)
    assert found.ended == "time"
    assert now <= 10.0
    assert found.size in SIZES


def test_a_device_that_takes_no_pair_at_all_is_out_of_memory() -> None:
    """There is no micro-batch of none."""
    with pytest.raises(OutOfDeviceMemory, match="not one pair fits"):
        search(_never_fits(), slots=1)


def _never_fits() -> StubEngine:
    class Full(StubEngine):
        def judge(self, questions: Sequence[Question]) -> list[Scores]:
            raise OutOfDeviceMemory("out_of_device_memory", "full")

    return Full()


def test_the_real_engine_is_searched_and_answers_as_before(engine: OfaEngine, pictures: Sequence[Image.Image]) -> None:
    """On CPU the figures mean little, but the way is the same; and measuring must leave no trace in the answers."""
    questions = questions_of(pictures)
    before = engine.judge(questions)
    found = search(engine, slots=1, limit_s=5)
    assert found.size in SIZES
    assert all(trial.pairs_a_s and trial.pairs_a_s > 0 for trial in found.trials)
    assert apart(engine.judge(questions), before) == 0.0


FOUND = search(StubEngine(call_s=0.001), slots=1, limit_s=1)


def test_what_was_found_is_kept_for_its_device_model_and_slots(tmp_path: Path) -> None:
    """The next process need not measure; one with more memory, another model or more neighbours must."""
    key = key_of(StubEngine(device_pairs=40), slots=2)
    assert read_size(tmp_path, key) is None
    write_found(tmp_path, key, FOUND)
    assert read_size(tmp_path, key) == FOUND.size
    for other in (key_of(StubEngine(device_pairs=80), slots=2), key_of(StubEngine(device_pairs=40), slots=1)):
        assert read_size(tmp_path, other) is None
        write_found(tmp_path, other, FOUND)
    assert read_size(tmp_path, key) == FOUND.size, "writing one must keep the others"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version": 2, "found": {"KEY": {"size": 8}}}',
        b'{"version": 1, "found": {"KEY": {"size": 9}}}',
        b'{"version": 1, "found": {"KEY": {"size": true}}}',
        b'{"version": 1, "found": {"KEY": {"size": "8"}}}',
        b'{"version": 1, "found": {"KEY": 8}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_measured_anew_and_mended(tmp_path: Path, damage: bytes) -> None:
    """It is a cache: nothing that is in it may keep a worker from starting, or make it judge a million at once."""
    write_found(tmp_path, "KEY", FOUND)
    (tmp_path / "cache" / "micro_batch.json").write_bytes(damage)
    assert read_size(tmp_path, "KEY") is None
    write_found(tmp_path, "KEY", FOUND)
    assert read_size(tmp_path, "KEY") == FOUND.size
