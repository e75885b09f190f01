"""One slot's part of a baseline: load the engine as a pool process does, judge pairs as it does, and tell what it took.

A process of its own (`python -m worker.measuring REQUEST`), which tells JSON lines on standard output: `ready` with the
seconds of the load, then, after a line on standard input, `progress` and at last `result`.
"""

import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import worker.child  # noqa: F401 - what a pool process holds in memory, Celery too
from audit.errors import AuditError
from audit.pair import Pair, Row
from audit.settings import Settings, read_settings
from audit.verdict import Failure, Outcome
from telemetry.logs import configure_logs
from worker.desk import Desk
from worker.judging import judge_pairs
from worker.model_pool import find_model, load_engine, make_desk
from worker.pictures import quick_pictures
from worker.slots import Slot

TELL_EVERY_S = 5.0
STAGES = {"preprocess": "decode", "inference": "model"}
"""A stage of the metrics -> what an outcome calls it."""


def measure(request: Mapping[str, Any], settings: Settings) -> None:
    """Answer one request: `slot`, `pairs` (each an object), `first` (where this slot begins), `warm_up`, `image_root`.

    `most` pairs are judged, in at most `seconds`; the pairs begin anew when they are used up. Nothing is looked up in
    the cache: every pair is asked. Raises ModelRefused, EngineFault.
    """
    slot = Slot(**request["slot"])
    model = find_model(settings)
    began = time.perf_counter()
    engine, _known = load_engine(model, settings, slot)
    load_s = time.perf_counter() - began
    desk = make_desk(engine, settings, slot, lambda _key: None)
    pairs = [Pair(**{**pair, "row": Row(pair["row"])}) for pair in request["pairs"]]
    engine.release_memory()  # counts the device's peak anew: what the search for a micro-batch took is none of judging
    judge(pairs, request, desk=desk, settings=settings, most=request["warm_up"] * desk.micro_batch.most, tell=False)
    card, hardware = engine.card, engine.hardware
    _tell(
        "ready",
        load_s=load_s,
        revision=card.revision,
        precision=card.precision,
        engine=card.engine,
        device_name=hardware.name,
        software=hardware.software,
        micro_batch=desk.micro_batch.most,
    )
    if not sys.stdin.readline():
        return  # whoever asked is gone
    judged, seconds = judge(pairs, request, desk=desk, settings=settings, most=request["most"], tell=True)
    memory = engine.memory()
    _tell("result", **told_of(judged), seconds=seconds, rss=_peak_rss(), device=memory and memory.peak_bytes)


def judge(
    pairs: Sequence[Pair], request: Mapping[str, Any], *, desk: Desk, settings: Settings, most: int, tell: bool
) -> tuple[list[Outcome], float]:
    """Judge until `most` pairs or the request's seconds are over, a micro-batch at least; also the seconds it took."""
    chosen = [pairs[(request["first"] + number) % len(pairs)] for number in range(most)]
    done: list[Outcome] = []
    began = told = time.perf_counter()

    def late() -> bool:
        return bool(done) and time.perf_counter() - began > request["seconds"]

    with quick_pictures(request["image_root"], settings) as pictures:
        for outcomes in judge_pairs(chosen, desk=desk, pictures=pictures, stopping=late):
            done += outcomes
            if tell and time.perf_counter() - told > TELL_EVERY_S:
                told = time.perf_counter()
                _tell("progress", judged=len(done))
    return done, time.perf_counter() - began


def told_of(judged: Sequence[Outcome]) -> dict[str, Any]:
    """Seconds of each stage of each verdict, and the codes of the failures: those took no model, and tell no speed."""
    verdicts = [outcome for outcome in judged if not isinstance(outcome.result, Failure)]
    stages = {
        stage: [outcome.stage_ms[name] / 1000 for outcome in verdicts if name in outcome.stage_ms]
        for stage, name in STAGES.items()
    }
    codes = [outcome.result.code for outcome in judged if isinstance(outcome.result, Failure)]
    return {"verdicts": len(verdicts), "stages": stages, "failures": codes}


def _peak_rss() -> int:
    """The most that this process held; ru_maxrss counts what its number held before it was executed, too."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _tell(kind: str, **values: Any) -> None:
    print(json.dumps({"kind": kind, **values}), flush=True)


def main() -> int:
    """Read the request's file, measure; an error is told as a line of its own, with its exit status."""
    try:
        settings = read_settings()
        configure_logs(settings.model_copy(update={"log_level": "warning", "log_files": False}))
        measure(json.loads(Path(sys.argv[1]).read_text()), settings)
    except AuditError as error:
        _tell("error", code=error.code, detail=error.detail, exit_status=error.exit_status)
        return error.exit_status
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
