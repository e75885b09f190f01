"""How many pairs a pass: measured on the device at hand, in seconds, when a model is loaded.

A GPU needs many pairs at once, but how many differs by ten times between devices and models, and beyond that number
more pairs cost memory and a longer wait for each commit, for nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audit.errors import OutOfDeviceMemory
from worker.engines.base import Engine, Question
from worker.engines.canary import CAPTION, draw_canary

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
LIMIT_S = 10.0
GOOD_ENOUGH = 0.95
"""The smallest size that reaches this share of the best rate is chosen."""
GAIN = 1.03
"""A size that is not so much better than the best before it counts as no gain; after two of those the search ends."""
OF_A_DEVICE = 0.9
"""Share of the device's memory that its slots may plan with; the rest is CUDA's own, about half a GB a process."""
PASS_S, MOST_PASSES = 0.25, 8
LONGEST_CAPTION = " ".join(["long"] * 80)
"""Every batch is padded to its longest caption: one of 80 words makes a pass need all the memory that it ever will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One size that was tried; `pairs_a_s` is None when the batch did not fit the device."""

    size: int
    pairs_a_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The size to use, what was tried, and why nothing larger was."""

    size: int
    trials: tuple[Trial, ...]
    ended: str


def search(
    engine: Engine, *, slots: int, limit_s: float = LIMIT_S, clock: Callable[[], float] = time.perf_counter
) -> Found:
    """Try growing sizes until one more gains nothing, or time or this slot's share of the memory is used up.

    Leaves no memory cached. Raises OutOfDeviceMemory when not even one pair fits; other faults pass through.
    """
    began = clock()
    picture = engine.prepare(draw_canary())
    trials: list[Trial] = []
    pair_s, ended = 0.0, "sizes"
    for size in SIZES:
        if trials and 2.5 * pair_s * size > limit_s - (clock() - began):  # a warm-up, a pass, and their spread
            ended = "time"
            break
        if trials and not _has_room(engine, trials[-1].size, size, slots=slots):
            ended = "memory"
            break
        engine.release_memory()
        pair_s_or_none = _try(engine, _questions(picture, size), clock=clock)
        if pair_s_or_none is None:
            trials.append(Trial(size=size, pairs_a_s=None))
            ended = "out of memory"
            break
        pair_s = pair_s_or_none
        trials.append(Trial(size=size, pairs_a_s=1 / pair_s))
        if _levelled_out(trials):
            ended = "no gain"
            break
    engine.release_memory()
    fitting = [(trial.size, trial.pairs_a_s) for trial in trials if trial.pairs_a_s is not None]
    if not fitting:
        raise OutOfDeviceMemory("out_of_device_memory", "the model is loaded, but not one pair fits beside it")
    best = max(rate for _, rate in fitting)
    return Found(size=next(n for n, rate in fitting if rate >= GOOD_ENOUGH * best), trials=tuple(trials), ended=ended)


def _try(engine: Engine, questions: Sequence[Question], *, clock: Callable[[], float]) -> float | None:
    """Seconds a pair of the fastest pass; None when the batch does not fit. The first pass is a warm-up."""
    try:
        engine.judge(questions)
        began = last = clock()
        fastest_s = float("inf")
        for _ in range(MOST_PASSES):
            engine.judge(questions)  # returns Python numbers: the device has finished
            now = clock()
            fastest_s, last = min(fastest_s, now - last), now
            if now - began > PASS_S:
                break
    except OutOfDeviceMemory:
        return None
    return max(fastest_s, 1e-9) / len(questions)


def _has_room(engine: Engine, tried: int, size: int, *, slots: int) -> bool:
    """Whether `size` pairs fit this slot's share, by what the last size has used; True on devices that do not tell."""
    memory = engine.memory()
    if memory is None:
        return True
    share = OF_A_DEVICE * min(memory.total_bytes / slots, memory.free_bytes + memory.reserved_bytes)
    pair_bytes = (memory.peak_bytes - memory.weights_bytes) / tried
    return memory.weights_bytes + pair_bytes * size <= share


def _levelled_out(trials: Sequence[Trial]) -> bool:
    rates = [trial.pairs_a_s or 0.0 for trial in trials]
    return len(rates) > 2 and max(rates[-2:]) < GAIN * max(rates[:-2])


def _questions(picture: object, size: int) -> list[Question]:
    captions = [LONGEST_CAPTION, *[CAPTION] * (size - 1)]
    return [Question(image=picture, caption=caption) for caption in captions]
