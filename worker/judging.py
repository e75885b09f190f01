"""Judging a chunk: pairs in, exactly one outcome each out.

Threads read and decode ahead while the engine computes; a pair that cannot be judged becomes a failure and costs its
neighbours nothing. Nothing here knows of SQL, leases or Celery.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from audit.errors import EngineFault, OutOfDeviceMemory, Permanent, PoisonedProcess
from audit.pair import Pair, Row
from audit.verdict import Failure, Outcome, Scores, Verdict
from telemetry.logs import logger
from telemetry.metrics import meters
from telemetry.stages import about, stage
from worker.batching import MicroBatch
from worker.captions import clean_premise, clean_text
from worker.device_lock import DeviceLock
from worker.engines.base import Engine, EngineCard, Question
from worker.pictures import Pictures

log = logger(__name__)
Progressed = Callable[[], None]
Holding = Callable[[Row, Row], None]
LAST_TRIES, PAUSE_S, ALONE_PATIENCE_S = 3, 0.5, 10.0
"""A pair that alone is out of memory has so many tries with the device to itself: neighbours make room in a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What one worker process judges with. `remember` looks a content key up in the cache."""

    engine: Engine
    prove: Callable[[Engine], None]
    remember: Callable[[str], Scores | None]
    max_caption_chars: int
    micro_batch: MicroBatch
    device: DeviceLock | None  # None where nobody competes for memory
    decoders: ThreadPoolExecutor
    decode_ahead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A pair whose texts are clean and whose picture is decoded (or whose scores were remembered)."""

    pair: Pair
    flags: tuple[str, ...]
    image_sha256: str
    content_key: str
    decode_ms: float
    question: Question | None
    remembered: Scores | None = None

    def outcome(self, result: Verdict | Failure, *, model_ms: float | None = None) -> Outcome:
        """The pair's outcome with all that looking found out."""
        stage_ms = {"decode": self.decode_ms} | ({} if model_ms is None else {"model": model_ms})
        return Outcome(
            row=self.pair.row,
            result=result,
            flags=self.flags,
            image_sha256=self.image_sha256,
            content_key=self.content_key,
            cached=self.remembered is not None,
            stage_ms=stage_ms,
        )


def judge_pairs(
    pairs: Sequence[Pair],
    *,
    desk: Desk,
    pictures: Pictures,
    stopping: Callable[[], bool],
    progressed: Progressed = lambda: None,
    holding: Holding = lambda _first, _last: None,
) -> Iterator[list[Outcome]]:
    """Judge at full speed, in order, and yield outcomes as micro-batches are done.

    `progressed` is called after each picture and each pass, `holding` before each picture with the first and the last
    row that are begun and not judged. When `stopping()` turns true it ends early: the pairs not
    yielded have no outcome. Raises EngineFault when the engine, not a pair, is at fault; PoisonedProcess when the
    process must leave.
    """
    ahead: deque[Future[Looked | Outcome]] = deque()
    rows: deque[Row] = deque()  # of those, and of the group that is being settled
    waiting = iter(pairs)
    try:
        while not stopping():
            while len(ahead) < desk.decode_ahead and (pair := next(waiting, None)) is not None:
                rows.append(pair.row)
                holding(rows[0], pair.row)
                ahead.append(desk.decoders.submit(look, pair, desk=desk, pictures=pictures))
            if not ahead:
                return
            group = []
            for _ in range(min(desk.micro_batch.size, len(ahead))):
                group.append(ahead.popleft().result())
                progressed()
            outcomes = settle(group, desk=desk, progressed=progressed)
            for _ in group:
                rows.popleft()
            yield outcomes
    finally:
        for future in ahead:
            future.cancel()


def look(pair: Pair, *, desk: Desk, pictures: Pictures) -> Looked | Outcome:
    """Clean the texts, read and decode the picture; a failure when the pair cannot be judged."""
    with about(pair=pair.row), stage("preprocess", pair=pair.row):
        return _look(pair, desk=desk, pictures=pictures)


def _look(pair: Pair, *, desk: Desk, pictures: Pictures) -> Looked | Outcome:
    began = time.perf_counter()
    image_sha256: str | None = None
    try:
        caption = clean_text(pair.caption, field="caption", max_chars=desk.max_caption_chars)
        cleaned = clean_premise(pair.premise, max_chars=desk.max_caption_chars)
        premise, premise_flags = (cleaned.text, cleaned.flags) if cleaned else (None, ())
        text_flags = desk.engine.text_flags(caption.text, premise)
        picture = pictures(pair.image)
        image_sha256 = picture.sha256
        key = content_key(image_sha256, caption.text, premise, desk.engine.card)
        scores = desk.remember(key)
        question = None
        if scores is None:
            image = desk.engine.prepare(picture.image)
            question = Question(image=image, caption=caption.text, premise=premise)
        return Looked(
            pair=pair,
            flags=tuple(dict.fromkeys((*picture.flags, *caption.flags, *premise_flags, *text_flags))),
            image_sha256=image_sha256,
            content_key=key,
            decode_ms=(time.perf_counter() - began) * 1000,
            question=question,
            remembered=scores,
        )
    except Permanent as error:
        failure = Failure(code=error.code, detail=error.detail)
        stage_ms = {"decode": (time.perf_counter() - began) * 1000}
        return Outcome(row=pair.row, result=failure, image_sha256=image_sha256, stage_ms=stage_ms)


def settle(group: Sequence[Looked | Outcome], *, desk: Desk, progressed: Progressed = lambda: None) -> list[Outcome]:
    """Ask the engine about those of the group that need it; one outcome each, in the group's order."""
    asked = [(one, one.question) for one in group if isinstance(one, Looked) and one.question is not None]
    began = time.perf_counter()
    answers = _ask([question for _, question in asked], desk=desk, progressed=progressed) if asked else []
    model_ms = (time.perf_counter() - began) * 1000 / max(1, len(asked))
    with stage("postprocess", pairs=len(group)):
        pairs = zip(asked, answers, strict=True)
        by_row = {one.pair.row: one.outcome(answer, model_ms=model_ms) for (one, _), answer in pairs}
        return [_outcome(one, by_row) for one in group]


def _outcome(one: Looked | Outcome, by_row: dict[Any, Outcome]) -> Outcome:
    if isinstance(one, Outcome):
        return one
    if one.remembered is not None:
        return one.outcome(Verdict(scores=one.remembered))
    return by_row[one.pair.row]


def _ask(questions: Sequence[Question], *, desk: Desk, progressed: Progressed) -> list[Verdict | Failure]:
    """Ask in micro-batches of the size that fits at the moment."""
    answers: list[Verdict | Failure] = []
    while len(answers) < len(questions):
        done = len(answers)
        answers += _ask_together(questions[done : done + desk.micro_batch.size], desk=desk, progressed=progressed)
    return answers


def _ask_together(questions: Sequence[Question], *, desk: Desk, progressed: Progressed) -> list[Verdict | Failure]:
    """Ask in one pass; when that fails, ask in halves, so that what does not fit or misbehaves is alone in the end."""
    problem: EngineFault | None = None
    try:
        answers = _pass(questions, desk=desk)
    except PoisonedProcess:
        raise
    except EngineFault as error:
        problem = error
    else:
        desk.micro_batch.fitted(len(questions))
        progressed()  # a large micro-batch in small passes may take longer than a lease
        return [Verdict(scores=scores) for scores in answers]
    # Outside of the except block: the exception's frames hold tensors, and with them the device's memory.
    if isinstance(problem, OutOfDeviceMemory):
        desk.engine.release_memory()
        desk.micro_batch.did_not_fit(len(questions))
        log.warning("micro-batch halved", pairs=len(questions), now=desk.micro_batch.size, most=desk.micro_batch.most)
    if len(questions) == 1:
        return [_alone(questions[0], problem, desk=desk)]
    half = len(questions) // 2
    left, right = questions[:half], questions[half:]
    return _ask(left, desk=desk, progressed=progressed) + _ask(right, desk=desk, progressed=progressed)


def _pass(questions: Sequence[Question], *, desk: Desk) -> list[Scores]:
    with stage("inference", pairs=len(questions)):
        with desk.device.passing(desk.engine.release_memory) if desk.device else nullcontext():
            answers = desk.engine.judge(questions)
        meters().micro_batch_pairs.observe(len(questions))
    if len(answers) != len(questions):
        raise EngineFault("engine_contract", f"{len(questions)} questions got {len(answers)} answers")
    return answers


def _alone(question: Question, problem: EngineFault, *, desk: Desk) -> Verdict | Failure:
    """A single pair that the engine failed on: blame it only when the engine still judges the canary."""
    if isinstance(problem, OutOfDeviceMemory):
        return _with_the_device_alone(question, problem, desk=desk)
    desk.prove(desk.engine)  # raises EngineFault: the engine is sick, and the pair innocent
    try:
        return Verdict(scores=desk.engine.judge([question])[0])
    except PoisonedProcess:
        raise
    except EngineFault as error:
        return Failure(code="engine_failed", detail=error.detail)


def _with_the_device_alone(question: Question, problem: OutOfDeviceMemory, *, desk: Desk) -> Verdict | Failure:
    """The last tries, while the neighbours wait and give back what they have cached.

    Raises EngineFault when the canary does not fit either: somebody else has the memory, and the pair is innocent.
    """
    detail = problem.detail
    with desk.device.alone(patience_s=ALONE_PATIENCE_S) if desk.device else nullcontext():
        for number in range(LAST_TRIES if desk.device else 0):
            time.sleep(number * PAUSE_S)
            try:
                return Verdict(scores=desk.engine.judge([question])[0])
            except OutOfDeviceMemory as error:
                detail = error.detail
            desk.engine.release_memory()
        desk.prove(desk.engine)
    return Failure(code="out_of_device_memory", detail=f"the pair alone does not fit the device: {detail}")


def content_key(image_sha256: str, caption: str, premise: str | None, card: EngineCard) -> str:
    """The cache's key: sha256 over length-prefixed parts, so that no two lists of parts share a text."""
    digest = hashlib.sha256()
    without_premise = "" if premise is None else f"+{premise}"
    parts = (image_sha256, caption, without_premise, card.engine, card.revision, card.precision, card.prompt)
    for part in (*parts, card.preprocessing):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
