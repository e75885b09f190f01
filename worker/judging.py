"""Judging a chunk: pairs in, exactly one outcome each out.

Threads read and decode ahead while the engine computes; a pair that cannot be judged becomes a failure and costs its
neighbours nothing. Nothing here knows of SQL, leases or Celery.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from audit.errors import Permanent
from audit.pair import Pair, Row
from audit.verdict import Failure, Outcome, Scores, Verdict
from telemetry.logs import logger
from telemetry.metrics import meters
from telemetry.stages import about, stage
from worker.captions import clean_premise, clean_text
from worker.desk import Desk
from worker.engines.base import EngineCard, Question
from worker.images.codes import IMAGE_SMALL, SMALL_SIDE_PX
from worker.images.decode import Decoded, PictureFacts
from worker.passes import ask
from worker.pictures import Pictures
from worker.told import tell_pairs

log = logger(__name__)
Progressed = Callable[[], None]
Holding = Callable[[Row, Row], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A pair whose texts are clean and whose picture is decoded (or whose scores were remembered)."""

    pair: Pair
    flags: tuple[str, ...]
    image_sha256: str
    content_key: str
    decode_ms: float
    picture: PictureFacts
    question: Question | None
    remembered: Scores | None = None

    def outcome(
        self, result: Verdict | Failure, more_flags: Sequence[str] = (), *, model_ms: float | None = None
    ) -> Outcome:
        """The pair's outcome with all that looking found out."""
        stage_ms = {"decode": self.decode_ms} | ({} if model_ms is None else {"model": model_ms})
        return Outcome(
            row=self.pair.row,
            result=result,
            flags=(*self.flags, *more_flags),
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
            again = partial(in_time, desk=desk, pictures=pictures, progressed=progressed)
            outcomes = [again(one, outcome) for one, outcome in zip(group, outcomes, strict=True)]
            tell_pairs(group, outcomes, desk=desk)
            for _ in group:
                rows.popleft()
            yield outcomes
    finally:
        for future in ahead:
            future.cancel()


def look(pair: Pair, *, desk: Desk, pictures: Pictures) -> Looked | Outcome:
    """Clean the texts, read and decode the picture; a failure when the pair cannot be judged."""
    with about(pair=pair.row), stage("preprocess", pair=pair.row) as seen:
        looked = _look(pair, desk=desk, pictures=pictures)
        if isinstance(looked, Looked):
            seen.tell(cached=looked.remembered is not None, flags=looked.flags)
        elif isinstance(looked.result, Failure):
            seen.fail(looked.result.code)
        return looked


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
        meters().images.labels(picture.format).inc()
        key = content_key(image_sha256, caption.text, premise, desk.engine.card)
        scores = desk.remember(key)
        question = None
        if scores is None:
            image = desk.engine.prepare(picture.image)
            question = Question(image=image, caption=caption.text, premise=premise)
        return Looked(
            pair=pair,
            flags=tuple(dict.fromkeys((*_picture_flags(picture), *caption.flags, *premise_flags, *text_flags))),
            image_sha256=image_sha256,
            content_key=key,
            decode_ms=(time.perf_counter() - began) * 1000,
            picture=picture.facts,
            question=question,
            remembered=scores,
        )
    except Permanent as error:
        failure = Failure(code=error.code, detail=error.detail)
        stage_ms = {"decode": (time.perf_counter() - began) * 1000}
        return Outcome(row=pair.row, result=failure, image_sha256=image_sha256, stage_ms=stage_ms)


def _picture_flags(picture: Decoded) -> tuple[str, ...]:
    small = min(picture.width, picture.height) < SMALL_SIDE_PX
    return (*picture.flags, IMAGE_SMALL) if small else picture.flags


def settle(group: Sequence[Looked | Outcome], *, desk: Desk, progressed: Progressed = lambda: None) -> list[Outcome]:
    """Ask the engine about those of the group that need it; one outcome each, in the group's order."""
    asked = [(one, one.question) for one in group if isinstance(one, Looked) and one.question is not None]
    began = time.perf_counter()
    answers = ask([question for _, question in asked], desk=desk, progressed=progressed) if asked else []
    model_ms = (time.perf_counter() - began) * 1000 / max(1, len(asked))
    with stage("postprocess", pairs=len(group)) as seen:
        answered = zip((one for one, _ in asked), answers, strict=True)
        by_row = {one.pair.row: one.outcome(got.result, got.flags, model_ms=model_ms) for one, got in answered}
        outcomes = [_outcome(one, by_row) for one in group]
        seen.tell(failed=sum(isinstance(outcome.result, Failure) for outcome in outcomes))
        return outcomes


def in_time(
    one: Looked | Outcome, outcome: Outcome, *, desk: Desk, pictures: Pictures, progressed: Progressed = lambda: None
) -> Outcome:
    """The outcome, unless its pair took longer than a pair may: then that of another try, alone.

    A pair that takes too long twice has failed. Once may be anybody's doing: a machine that was suspended, a neighbour.
    """
    first_s = _took_s(outcome)
    if isinstance(one, Outcome) or first_s <= desk.pair_limit_s:
        return outcome
    progressed()
    log.warning("pair over its limit", pair=one.pair.row, took_s=round(first_s, 1), limit_s=desk.pair_limit_s)
    again = settle([look(one.pair, desk=desk, pictures=pictures)], desk=desk, progressed=progressed)[0]
    if (second_s := _took_s(again)) <= desk.pair_limit_s:
        return again
    detail = f"took {first_s:.1f} s, and alone {second_s:.1f} s; a pair may take {desk.pair_limit_s:g} s"
    return replace(again, result=Failure(code="timed_out", detail=detail))


def _took_s(outcome: Outcome) -> float:
    return sum(outcome.stage_ms.values()) / 1000


def _outcome(one: Looked | Outcome, by_row: dict[Any, Outcome]) -> Outcome:
    if isinstance(one, Outcome):
        return one
    if one.remembered is not None:
        return one.outcome(Verdict(scores=one.remembered))
    return by_row[one.pair.row]


def content_key(image_sha256: str, caption: str, premise: str | None, card: EngineCard) -> str:
    """The cache's key: sha256 over length-prefixed parts, so that no two lists of parts share a text."""
    digest = hashlib.sha256()
    without_premise = "" if premise is None else f"+{premise}"
    parts = (image_sha256, caption, without_premise, card.engine, card.revision, card.precision, card.prompt)
    for part in (*parts, card.preprocessing):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
