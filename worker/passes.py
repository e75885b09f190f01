"""Questions to the engine, in passes: halved until what does not fit, or misbehaves, is alone.

Only then is a pair blamed, and only when the engine still answers the canary.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from audit.errors import EngineFault, OutOfDeviceMemory, PoisonedProcess
from audit.verdict import Failure, Scores, Verdict
from telemetry.logs import logger
from telemetry.metrics import meters
from telemetry.stages import stage
from worker.desk import Desk
from worker.engines.base import Engine, Question
from worker.engines.canary import WrongAnswer

log = logger(__name__)
Progressed = Callable[[], None]
LAST_TRIES, PAUSE_S, ALONE_PATIENCE_S = 3, 0.5, 10.0
"""A pair that alone is out of memory has so many tries with the device to itself: neighbours make room in a moment."""
NEARLY_FULL = 0.9
"""Share of a device's memory in use above which what this process has cached is given back before a pass."""
CPU_FALLBACK = "cpu_fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one question, and flags of how."""

    result: Verdict | Failure
    flags: tuple[str, ...] = ()


def ask(questions: Sequence[Question], *, desk: Desk, progressed: Progressed) -> list[Answer]:
    """Ask in micro-batches of the size that fits at the moment."""
    answers: list[Answer] = []
    while len(answers) < len(questions):
        done = len(answers)
        answers += _ask_together(questions[done : done + desk.micro_batch.size], desk=desk, progressed=progressed)
    return answers


def _ask_together(questions: Sequence[Question], *, desk: Desk, progressed: Progressed) -> list[Answer]:
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
        return [Answer(result=Verdict(scores=scores)) for scores in answers]
    # Outside of the except block: the exception's frames hold tensors, and with them the device's memory.
    if isinstance(problem, OutOfDeviceMemory):
        desk.engine.release_memory()
        desk.micro_batch.did_not_fit(len(questions))
        if len(questions) > 1:
            _out_of_memory("halved")
        log.warning("micro-batch halved", pairs=len(questions), now=desk.micro_batch.size, most=desk.micro_batch.most)
    if len(questions) == 1:
        with stage("inference", "alone") as seen:
            alone = _alone(questions[0], problem, desk=desk)
            if isinstance(alone.result, Failure):
                seen.fail(alone.result.code)
        return [alone]
    half = len(questions) // 2
    left, right = questions[:half], questions[half:]
    return ask(left, desk=desk, progressed=progressed) + ask(right, desk=desk, progressed=progressed)


def _pass(questions: Sequence[Question], *, desk: Desk) -> list[Scores]:
    with stage("inference", pairs=len(questions)):
        _make_room(desk.engine)
        with desk.device.passing(desk.engine.release_memory) if desk.device else nullcontext():
            answers = desk.engine.judge(questions)
        meters().micro_batch_pairs.observe(len(questions))
    if len(answers) != len(questions):
        raise EngineFault("engine_contract", f"{len(questions)} questions got {len(answers)} answers")
    return answers


def _make_room(engine: Engine) -> None:
    """Before a device is full: what torch caches for later passes is lent to it, and neighbours may need it now."""
    memory = engine.memory()
    if memory is None or memory.free_bytes >= (1 - NEARLY_FULL) * memory.total_bytes:
        return
    if memory.reserved_bytes > memory.weights_bytes:  # else there is nothing to give back
        engine.release_memory()
        share = 1 - memory.free_bytes / max(1, memory.total_bytes)
        log.warning("device memory nearly full, cache emptied", used=f"{share:.0%}", reserved=memory.reserved_bytes)


def _alone(question: Question, problem: EngineFault, *, desk: Desk) -> Answer:
    """A single pair that the engine failed on: blame it only when the engine still judges the canary."""
    if isinstance(problem, OutOfDeviceMemory):
        return _with_the_device_alone(question, problem, desk=desk)
    _prove(desk)  # raises EngineFault: the engine is sick, and the pair innocent
    try:
        return Answer(result=Verdict(scores=desk.engine.judge([question])[0]))
    except PoisonedProcess:
        raise
    except EngineFault as error:
        return Answer(result=Failure(code="engine_failed", detail=error.detail))


def _prove(desk: Desk) -> None:
    """The engine has just failed on a pair; whoever hears of a wrong answer is to know that."""
    try:
        desk.prove(desk.engine)
    except WrongAnswer as error:
        error.after_a_pair = True
        raise


def _with_the_device_alone(question: Question, problem: OutOfDeviceMemory, *, desk: Desk) -> Answer:
    """The last tries, while the neighbours wait and give back what they have cached; then the CPU, if it is allowed.

    Raises EngineFault when the canary does not fit either: somebody else has the memory, and the pair is innocent.
    """
    detail = problem.detail
    with desk.device.alone(patience_s=ALONE_PATIENCE_S) if desk.device else nullcontext():
        for number in range(LAST_TRIES if desk.device else 0):
            time.sleep(number * PAUSE_S)
            try:
                scores = desk.engine.judge([question])[0]
                _out_of_memory("alone")
                return Answer(result=Verdict(scores=scores))
            except OutOfDeviceMemory as error:
                detail = error.detail
            desk.engine.release_memory()
        if desk.on_cpu is None:
            _prove(desk)
    if desk.on_cpu is not None:
        _out_of_memory("cpu")
        return _on_cpu(question, desk.on_cpu, detail)
    _out_of_memory("failed")
    return Answer(
        result=Failure(code="out_of_device_memory", detail=f"the pair alone does not fit the device: {detail}")
    )


def _out_of_memory(ended: str) -> None:
    meters().out_of_device_memory.labels(ended).inc()


def _on_cpu(question: Question, engine: Engine, detail: str) -> Answer:
    """One pair; the next one is the device's again."""
    began = time.perf_counter()
    answer = Answer(result=Verdict(scores=engine.judge([question])[0]), flags=(CPU_FALLBACK,))
    log.warning("pair judged on the CPU", reason=detail, took_s=round(time.perf_counter() - began, 1))
    return answer
