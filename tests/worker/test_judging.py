"""One outcome a pair, in the pair's own words, whatever its neighbours do."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import EngineFault, OutOfDeviceMemory, PoisonedProcess
from audit.pair import Pair, Row
from audit.settings import read_settings
from audit.verdict import Failure, Outcome, Scores, Verdict
from tests.support.manifests import draw
from worker.batching import MicroBatch
from worker.desk import Desk
from worker.device_lock import DeviceLock
from worker.engines.base import DeviceMemory, Engine, EngineCard, Question
from worker.engines.canary import prove
from worker.engines.stub import StubEngine
from worker.judging import content_key, judge_pairs
from worker.pictures import quick_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good picture, one that is empty."""
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder / "red.png")
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def decoders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield pool


def desk(
    decoders: ThreadPoolExecutor,
    *,
    micro_batch: int = 4,
    remembered: dict[str, Scores] | None = None,
    device: DeviceLock | None = None,
) -> Desk:
    return Desk(
        engine=StubEngine(),
        prove=prove,
        remember=(remembered or {}).get,
        max_caption_chars=4000,
        micro_batch=MicroBatch(micro_batch),
        device=device,
        decoders=decoders,
        decode_ahead=micro_batch + 2,
    )


def pairs(*described: tuple[str, str]) -> list[Pair]:
    return [
        Pair(row=Row(row), id=f"p{row}", image=image, caption=caption) for row, (image, caption) in enumerate(described)
    ]


def judged(chunk: Sequence[Pair], folder: Path, at: Desk) -> list[Outcome]:
    with quick_pictures(str(folder), read_settings({})) as pictures:
        return [
            outcome
            for some in judge_pairs(chunk, desk=at, pictures=pictures, stopping=lambda: False)
            for outcome in some
        ]


def codes(outcomes: Sequence[Outcome]) -> list[str]:
    return [
        outcome.result.code if isinstance(outcome.result, Failure) else str(outcome.result.label)
        for outcome in outcomes
    ]


@given(
    kinds=st.lists(st.sampled_from(["yes", "no", "empty", "missing", "blank", "nan", "oom"]), max_size=30),
    micro_batch=st.integers(1, 9),
)
def test_every_pair_gets_its_own_outcome_in_order(
    kinds: list[str], micro_batch: int, folder: Path, decoders: ThreadPoolExecutor
) -> None:
    """No mix of good and bad neighbours, and no batch size, changes what a pair gets."""
    described = {
        "yes": ("red.png", "stub:yes", "Yes"),
        "no": ("red.png", "stub:no", "No"),
        "empty": ("empty.png", "stub:yes", "image_empty"),
        "missing": ("gone.png", "stub:yes", "file_missing"),
        "blank": ("red.png", " \u200b ", "caption_empty"),
        "nan": ("red.png", "stub:nan", "engine_failed"),
        "oom": ("red.png", "stub:oom>0", "out_of_device_memory"),
    }
    chunk = pairs(*(described[kind][:2] for kind in kinds))
    outcomes = judged(chunk, folder, desk(decoders, micro_batch=micro_batch))
    assert [outcome.row for outcome in outcomes] == list(range(len(kinds)))
    assert codes(outcomes) == [described[kind][2] for kind in kinds]


def test_a_remembered_pair_does_not_ask_the_engine(folder: Path, decoders: ThreadPoolExecutor) -> None:
    """The same picture, caption and model were judged before; the answer is marked as cached."""
    first = judged(pairs(("red.png", "stub:yes")), folder, desk(decoders))[0]
    assert isinstance(first.result, Verdict)
    again = desk(decoders, remembered={str(first.content_key): first.result.scores})
    second = judged(pairs(("red.png", "stub:yes")), folder, again)[0]
    assert (second.cached, second.result, "model" in second.stage_ms) == (True, first.result, False)


def test_a_sick_engine_is_nobodys_fault(folder: Path, decoders: ThreadPoolExecutor) -> None:
    """When the canary fails too, no pair is blamed: the whole chunk goes back."""

    def sick(_engine: Engine) -> None:
        raise EngineFault("canary_failed", "it cannot judge at all")

    at = desk(decoders)
    broken = replace(at, prove=sick)
    with pytest.raises(EngineFault, match="canary_failed"):
        judged(pairs(("red.png", "stub:yes"), ("red.png", "stub:nan")), folder, broken)


def test_a_poisoned_process_answers_nothing_more(folder: Path, decoders: ThreadPoolExecutor) -> None:
    """After a CUDA error every later answer is suspect: no splitting, no retry."""
    with pytest.raises(PoisonedProcess):
        judged(pairs(("red.png", "stub:yes"), ("red.png", "stub:poison")), folder, desk(decoders))


def test_stopping_keeps_what_is_judged(folder: Path, decoders: ThreadPoolExecutor) -> None:
    """A shutdown between two micro-batches ends the stream; the rest has no outcome."""
    answers = iter([False, False, True])
    with quick_pictures(str(folder), read_settings({})) as pictures:
        got = list(
            judge_pairs(
                pairs(*[("red.png", "stub:yes")] * 10),
                desk=desk(decoders, micro_batch=2),
                pictures=pictures,
                stopping=lambda: next(answers),
            )
        )
    assert [[outcome.row for outcome in some] for some in got] == [[0, 1], [2, 3]]


class Counting(StubEngine):
    """A stub with room for three pairs that notes the size of every pass."""

    def __init__(self) -> None:
        super().__init__(device_pairs=3)
        self.passes: list[int] = []

    def judge(self, questions: Sequence[Question]) -> list[Scores]:
        self.passes.append(len(questions))
        return super().judge(questions)


def with_engine(at: Desk, engine: Engine) -> Desk:
    return replace(at, engine=engine)


def test_a_micro_batch_that_did_not_fit_is_not_tried_again_at_once(folder: Path, decoders: ThreadPoolExecutor) -> None:
    """The smaller size sticks: every failed pass costs as much as a good one, and empties the cache."""
    engine = Counting()
    outcomes = judged(
        pairs(*[("red.png", f"a dog {number}") for number in range(20)]),
        folder,
        with_engine(desk(decoders, micro_batch=8), engine),
    )
    assert engine.passes == [8, 4, *[2] * 8, 4, *[2] * 2]
    assert engine.releases == 3
    assert all(isinstance(outcome.result, Verdict) for outcome in outcomes)


def test_the_last_try_has_the_device_to_itself(folder: Path, decoders: ThreadPoolExecutor, tmp_path: Path) -> None:
    """What a neighbour has cached is memory too: it gives it back and waits, and the pair is judged after all."""
    roomy = Event()

    class Crowded(StubEngine):
        def judge(self, questions: Sequence[Question]) -> list[Scores]:
            if not roomy.is_set():
                raise OutOfDeviceMemory("out_of_device_memory", "the neighbour has it all")
            return super().judge(questions)

    ended = Event()

    def neighbour() -> None:
        lock = DeviceLock(tmp_path, "GPU-1")
        while not ended.is_set():
            with lock.passing(roomy.set):
                pass

    at = with_engine(desk(decoders, micro_batch=1, device=DeviceLock(tmp_path, "GPU-1")), Crowded())
    with ThreadPoolExecutor(max_workers=1) as other:
        other.submit(neighbour)
        try:
            (outcome,) = judged(pairs(("red.png", "stub:yes")), folder, at)
        finally:
            ended.set()
    assert codes([outcome]) == ["Yes"]


def test_a_pair_that_never_fits_is_blamed_alone_after_the_last_tries(
    folder: Path, decoders: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """It ends as a failure that says so, and its neighbours get their verdicts."""
    at = desk(decoders, micro_batch=4, device=DeviceLock(tmp_path, "GPU-1"))
    chunk = pairs(("red.png", "stub:yes"), ("red.png", "stub:oom>0"), ("red.png", "stub:no"))
    assert codes(judged(chunk, folder, at)) == ["Yes", "out_of_device_memory", "No"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_device_that_somebody_else_has_filled_is_no_pairs_fault(
    shared: bool, folder: Path, decoders: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Another program on the GPU would turn every pair of every chunk into a failure that nobody tries again."""

    class Full(StubEngine):
        def judge(self, questions: Sequence[Question]) -> list[Scores]:
            raise OutOfDeviceMemory("out_of_device_memory", f"another program has it all ({len(questions)} pairs)")

    lock = DeviceLock(tmp_path, "GPU-1") if shared else None
    at = with_engine(desk(decoders, micro_batch=2, device=lock), Full())
    with pytest.raises(OutOfDeviceMemory, match="another program"):
        judged(pairs(("red.png", "stub:yes"), ("red.png", "stub:no")), folder, at)


CARD = EngineCard(engine="e", model="m", revision="r", precision="p", device="d", prompt="q", preprocessing="x")


@given(st.text(), st.text(), st.none() | st.text(), st.none() | st.text())
def test_different_questions_have_different_keys(one: str, other: str, first: str | None, second: str | None) -> None:
    """A cache that confuses two questions would answer wrongly for ever."""
    same = content_key("s", one, first, CARD) == content_key("s", other, second, CARD)
    assert same == ((one, first) == (other, second))


class Slow(StubEngine):
    """A stub that takes 0.2 s for the first passes with a caption that says so, as often as it is told."""

    def __init__(self, *, times: int) -> None:
        super().__init__()
        self.left = times

    def judge(self, questions: Sequence[Question]) -> list[Scores]:
        if any("slow" in question.caption for question in questions) and self.left:
            self.left -= 1
            time.sleep(0.2)
        return super().judge(questions)


@pytest.mark.parametrize(("times", "expected"), [(0, "Yes"), (1, "Yes"), (2, "timed_out"), (9, "timed_out")])
def test_a_pair_has_failed_when_it_takes_too_long_twice(
    times: int, expected: str, folder: Path, decoders: ThreadPoolExecutor
) -> None:
    """One slow pair must not hold a chunk up for ever; but once may be a machine that was suspended, not the pair."""
    at = replace(desk(decoders, micro_batch=1), engine=Slow(times=times), pair_limit_s=0.15)
    outcomes = judged(pairs(("red.png", "stub:no"), ("red.png", "slow stub:yes"), ("red.png", "stub:no")), folder, at)
    assert codes(outcomes) == ["No", expected, "No"]


class Full(StubEngine):
    """A device of 100 bytes: what this process has reserved is given back when it is told to."""

    def __init__(self, *, others: int, reserved: int) -> None:
        super().__init__()
        self.others, self.reserved = others, reserved

    def memory(self) -> DeviceMemory:
        free = 100 - self.others - self.reserved
        return DeviceMemory(
            total_bytes=100, free_bytes=free, weights_bytes=10, reserved_bytes=self.reserved, peak_bytes=self.reserved
        )

    def release_memory(self) -> None:
        super().release_memory()
        self.reserved = 10


@pytest.mark.parametrize(("others", "reserved", "released"), [(30, 60, 0), (30, 61, 1), (85, 10, 0), (50, 45, 1)])
def test_a_nearly_full_device_gets_back_what_is_only_cached(
    others: int, reserved: int, released: int, folder: Path, decoders: ThreadPoolExecutor
) -> None:
    """Over nine tenths the next pass of a neighbour may fail; but where nothing is cached there is nothing to give."""
    engine = Full(others=others, reserved=reserved)
    at = replace(desk(decoders), engine=engine)
    assert codes(judged(pairs(("red.png", "stub:yes"), ("red.png", "stub:no")), folder, at)) == ["Yes", "No"]
    assert engine.releases == released


def test_what_does_not_fit_the_device_is_judged_on_the_cpu_if_that_is_allowed(
    folder: Path, decoders: ThreadPoolExecutor
) -> None:
    """A hundred times slower is better than not at all for who chose it; it stands in the flags, and the next pair is
    the device's again."""
    chunk = pairs(("red.png", "stub:oom>0 stub:yes"), ("red.png", "stub:no"))
    assert codes(judged(chunk, folder, desk(decoders))) == ["out_of_device_memory", "No"]
    outcomes = judged(chunk, folder, replace(desk(decoders), on_cpu=StubEngine(boundless=True)))
    assert codes(outcomes) == ["Yes", "No"]
    assert [outcome.flags for outcome in outcomes] == [("image_small", "cpu_fallback"), ("image_small",)]


def test_a_small_picture_is_judged_and_flagged(folder: Path, decoders: ThreadPoolExecutor) -> None:
    """Whoever reads the verdicts sees that the model had little to look at; the shorter side counts."""
    draw(folder / "enough.png", size=(224, 300))
    draw(folder / "flat.png", size=(900, 223))
    outcomes = judged(pairs(("enough.png", "stub:yes"), ("flat.png", "stub:yes")), folder, desk(decoders))
    assert [outcome.flags for outcome in outcomes] == [(), ("image_small",)]
