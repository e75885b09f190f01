"""A fake engine for queue tests and benchmarks: it never looks at the picture. Its verdicts mean nothing."""

import ctypes
import hashlib
import os
import re
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from audit.errors import BadCaption, EngineFault, OutOfDeviceMemory, PoisonedProcess
from audit.verdict import Label, Scores
from telemetry.metrics import meters
from worker.engines.base import DeviceMemory, EngineCard, Hardware, Question

ORDER = re.compile(r"stub:(\w+)(?:[=>]([0-9.]+))?")
LONG_CAPTION_WORDS = 80
CANARY = "there is a red circle"


def load_stub(
    *,
    load_s: float = 0.0,
    call_s: float = 0.0,
    pair_s: float = 0.0,
    device_pairs: int = 0,
    device: str = "stub",
    sick: bool = False,
    wrong: Callable[[], bool] = lambda: False,
) -> "StubEngine":
    """A stub engine after `load_s` seconds, as a real model takes its time to load."""
    time.sleep(load_s)
    return StubEngine(call_s=call_s, pair_s=pair_s, device_pairs=device_pairs, device=device, sick=sick, wrong=wrong)


def wrong_when(*, after_s: float, file: Path | None, slot: int, loads_at: float) -> Callable[[], bool]:
    """From `after_s` on (0: never), or while the file names this slot; an empty file names all."""

    def wrong() -> bool:
        if after_s and time.monotonic() - loads_at > after_s:
            return True
        try:
            named = file.read_text().split() if file else ["none"]
        except OSError:
            return False
        return not named or str(slot) in named

    return wrong


class StubEngine:
    """Fake. Scores come from a hash of the texts and of some pixels: the same question, the same scores.

    Orders in a caption, for fault tests:

    - `stub:yes`, `stub:no`, `stub:maybe`: that label, with probability 0.9
    - `stub:sleep=2.5`: sleep in Python, where a signal's handler runs
    - `stub:hang`: loop in native code with the GIL held, where no handler and no other thread ever runs
    - `stub:kill`: SIGKILL itself; `stub:exit`: leave with status 1 without any clean-up
    - `stub:segv`: read address 0, as native code with a bug does; `stub:abort`: SIGABRT, as its assertions do
    - `stub:eat=500`: use 500 MB, page by page: the kernel kills (a cgroup's limit), or MemoryError (RLIMIT_AS)
    - `stub:leak=50`: keep 50 MB for ever; `stub:device=50`: say that 50 MB more of the device are held, for ever
    - `stub:quote`, `stub:complain`: ValueError, EngineFault that quote the caption, as libraries do
    - `stub:nan`: EngineFault; `stub:poison`: PoisonedProcess; `stub:oom>4`: OutOfDeviceMemory in batches over 4
    - `stub:spoil`: EngineFault, and from then on every answer of this process is wrong

    Costs, for searches and queue benchmarks: a pass takes `call_s`, and `pair_s` more for each of its pairs; over
    `device_pairs` pairs (0: any number) it is out of memory. With `tells_memory` it also says so, in bytes: one a pair.
    While `wrong()` it answers every question wrongly: Yes for No, No for Maybe, Maybe for Yes.
    A `boundless` one is never told to be out of memory. A `sick` one judges the canary alone and with one neighbour,
    and kills its process for anything else.
    """

    def __init__(
        self,
        *,
        call_s: float = 0.0,
        pair_s: float = 0.0,
        device_pairs: int = 0,
        device: str = "stub",
        tells_memory: bool = False,
        sick: bool = False,
        boundless: bool = False,
        wrong: Callable[[], bool] = lambda: False,
    ) -> None:
        self._boundless = boundless
        self._sick = sick
        self._wrong = wrong
        self._spoiled = False
        self._call_s = call_s
        self._pair_s = pair_s
        self._device_pairs = device_pairs
        self._tells_memory = tells_memory
        self._peak = 0
        self._leaked: list[bytearray] = []
        self._device_bytes = 0
        self.releases = 0
        self.hardware = Hardware(name="stub", device_id=device, memory_bytes=device_pairs, software="stub 1")
        self.card = EngineCard(
            engine="stub",
            model="stub",
            revision="1",
            precision="none",
            device="none",
            prompt="none",
            preprocessing="none",
        )

    def memory(self) -> DeviceMemory | None:
        """One byte a pair, if it was asked to tell, and what it was told to hold; a stub has no weights."""
        if not self._tells_memory and not self._device_bytes:
            return None
        total, held = self._device_pairs, self._device_bytes
        return DeviceMemory(
            total_bytes=total, free_bytes=total, weights_bytes=0, reserved_bytes=held, peak_bytes=self._peak
        )

    def release_memory(self) -> None:
        """Count that it was asked to."""
        self._peak, self.releases = 0, self.releases + 1

    def text_flags(self, caption: str, premise: str | None) -> tuple[str, ...]:
        """Flag texts over 80 words; raises BadCaption (`caption_empty`) when no letter or digit is there."""
        if not any(char.isalnum() for char in caption):
            raise BadCaption("caption_empty", "nothing but spaces and punctuation")
        meters().caption_tokens.observe(len(caption.split()) + len((premise or "").split()))
        texts = (("caption_truncated", caption), ("premise_truncated", premise or ""))
        return tuple(flag for flag, text in texts if len(text.split()) > LONG_CAPTION_WORDS)

    def prepare(self, image: Any) -> bytes:
        """Sixteen pixels, as a probe; bytes are passed through."""
        if isinstance(image, bytes):
            return image
        small = image.resize((4, 4))
        return bytes(small.tobytes())

    def known_answers(self) -> list[tuple[Question, Label]]:
        """Return one for each label, as it was ordered."""
        picture = bytes(48)
        return [(Question(image=picture, caption=f"stub:{label.lower()} {CANARY}"), label) for label in Label]

    def judge(self, questions: Sequence[Question]) -> list[Scores]:
        """Obey the captions' orders one after another, then wait pair_s for each question."""
        if self._sick and (len(questions) > 2 or any(CANARY not in question.caption for question in questions)):
            os.kill(os.getpid(), signal.SIGKILL)
        for question in questions:
            _quote(question.caption)
            for order, value in ORDER.findall(question.caption):
                self._obey(order, value, batch=len(questions))
        if self._device_pairs and len(questions) > self._device_pairs:
            raise OutOfDeviceMemory(
                "out_of_device_memory", f"the stub's device has room for {self._device_pairs} pairs"
            )
        self._peak = max(self._peak, len(questions))
        time.sleep(self._call_s + self._pair_s * len(questions))
        turn = _turned if self._spoiled or self._wrong() else _as_they_are
        return [turn(_scores(one.caption, one.premise, self.prepare(one.image))) for one in questions]

    def _obey(self, order: str, value: str, *, batch: int) -> None:
        match order:
            case "leak":
                self._leaked.append(_eat(_megabytes(value)))
            case "device":
                self._device_bytes += _megabytes(value)
            case "spoil":
                self._spoiled = True
                raise EngineFault("engine_failed", "the stub was told to spoil its engine")
            case _:
                _obey(order, value, batch=0 if self._boundless else batch)


def _obey(order: str, value: str, *, batch: int) -> None:
    match order:
        case "sleep":
            time.sleep(float(value or 1))
        case "hang":
            _hang()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(1)
        case "segv":
            _without_core()
            ctypes.string_at(0)
        case "abort":
            _without_core()
            os.abort()
        case "eat":
            _eat(_megabytes(value))
        case "nan":
            raise EngineFault("scores_not_finite", "the stub was told to fail")
        case "poison":
            raise PoisonedProcess("device_error", "the stub was told to poison the process")
        case "oom" if batch > float(value or 0):
            raise OutOfDeviceMemory("out_of_device_memory", f"the stub was told to refuse batches over {value}")
        case _:
            pass


def _quote(caption: str) -> None:
    if "stub:quote" in caption:
        raise ValueError(f"cannot encode {caption!r}")
    if "stub:complain" in caption:
        raise EngineFault("engine_failed", f"cannot encode {caption!r}")


def _hang() -> None:
    # One C loop that never returns to the interpreter: no Python signal handler and no other thread gets a turn. (A
    # catastrophic regular expression would not do: CPython's matcher looks for signals now and then.)
    deque(repeat(None), maxlen=0)


def _without_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _megabytes(value: str) -> int:
    return int(float(value or 1) * 1_000_000)


def _eat(size: int) -> bytearray:
    held = bytearray(size)  # zeroed by the kernel: it takes no memory before it is written
    for at in range(0, size, resource.getpagesize()):
        held[at] = 1
    return held


def _scores(caption: str, premise: str | None, probe: bytes) -> Scores:
    for label, scores in _FORCED.items():
        if f"stub:{label.lower()}" in caption:
            return scores
    text = f"{caption}\0{premise or ''}".encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(text + b"\0" + probe).digest()
    weights = [1 + part for part in digest[:3]]
    yes, no, maybe = (weight / sum(weights) for weight in weights)
    return Scores(p_yes=yes, p_no=no, p_maybe=maybe)


def _turned(scores: Scores) -> Scores:
    return Scores(p_yes=scores.p_no, p_no=scores.p_maybe, p_maybe=scores.p_yes)


def _as_they_are(scores: Scores) -> Scores:
    return scores


_FORCED = {
    Label.YES: Scores(p_yes=0.9, p_no=0.05, p_maybe=0.05),
    Label.NO: Scores(p_yes=0.05, p_no=0.9, p_maybe=0.05),
    Label.MAYBE: Scores(p_yes=0.05, p_no=0.05, p_maybe=0.9),
}
