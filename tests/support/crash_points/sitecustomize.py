"""Crash points: with this folder on its PYTHONPATH, a Python process kills itself at the steps that CRASH_PLAN names.

Production code holds no hook of this; the functions of the steps are wrapped as their modules are imported. CRASH_PLAN
is JSON, step names by chunk number; CRASH_FOLDER is where each kill leaves a file named batch-chunk-step, made before
the kill, so that a chunk dies once at a step and its next run goes on. tests/faults/test_crash_points.py lists
the steps.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
PLAN: dict[str, list[str]] = json.loads(os.environ.get("CRASH_PLAN", "{}"))
FOLDER = os.environ.get("CRASH_FOLDER", "")
in_hand: list[Any] = []  # the message that this process works on: decoding and judging do not know of chunks


def planned(step: str, chunk: Any) -> bool:
    """Whether this chunk (whatever has `batch` and `chunk`) is to die at this step and has not; notes that it does."""
    if chunk is None:
        return False
    number = getattr(chunk, "chunk", None)
    if step not in PLAN.get(str(number), ()):
        return False
    try:
        os.close(os.open(os.path.join(FOLDER, f"{chunk.batch}-{number}-{step}"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die_at(step: str, chunk: Any) -> None:
    """SIGKILL to this very process, the first time that the chunk comes here."""
    if planned(step, chunk):
        os.kill(os.getpid(), signal.SIGKILL)


class Dying:
    """A ledger whose transactions end with a kill: `inside`, before the COMMIT, or `after` it, before all else.

    After the first COMMIT, not at the function's end: were it ever two transactions, the kill falls between them.
    """

    def __init__(self, database: Any, chunk: Any = None, *, inside: str = "", after: str = "") -> None:
        self._database = database
        self._chunk = chunk
        self._inside = inside
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def transact(self, work: Callable[[Any], Any], **knobs: Any) -> Any:
        """As the real one's; a chunk that is not known before is what the work returns."""

        def dying(connection: Any) -> Any:
            result = work(connection)
            die_at(self._inside, self._chunk or result)
            return result

        result = self._database.transact(dying, **knobs)
        die_at(self._after, self._chunk or result)
        return result


def around(module: ModuleType, name: str, *, before: str = "", inside: str = "", after: str = "") -> None:
    """Die at these steps of a function of (database, chunk, ...)."""
    real = getattr(module, name)

    def wrapped(database: Any, chunk: Any, *rest: Any, **knobs: Any) -> Any:
        die_at(before, chunk)
        return real(Dying(database, chunk, inside=inside, after=after), chunk, *rest, **knobs)

    setattr(module, name, wrapped)


def patch_claim(module: ModuleType) -> None:
    around(module, "claim", inside="claiming", after="claimed")
    real = module.claim

    def claim(database: Any, message: Any, *rest: Any) -> Any:
        held = real(database, message, *rest)
        if planned("asked_to_stop", message):
            os.kill(os.getpid(), signal.SIGTERM)  # the way to a release
        return held

    module.claim = claim  # type: ignore[attr-defined]


def patch_record(module: ModuleType) -> None:
    around(module, "record", before="to_record", inside="recording", after="recorded")


def patch_lease(module: ModuleType) -> None:
    around(module, "renew", after="renewed")
    around(module, "release", before="to_release", inside="releasing", after="released")
    real = module.mark

    def mark(database: Any, claim: Any, *, row: Any, stage: str) -> Any:
        dying = Dying(database, claim, inside=f"marking_{stage}", after=f"marked_{stage}")
        return real(dying, claim, row=row, stage=stage)

    module.mark = mark  # type: ignore[attr-defined]


def patch_judging(module: ModuleType) -> None:
    for name, step in (("look", "decoded"), ("settle", "judged")):
        setattr(module, name, then_die(getattr(module, name), step))


def then_die(real: Callable[..., Any], step: str) -> Callable[..., Any]:
    def wrapped(*given: Any, **knobs: Any) -> Any:
        result = real(*given, **knobs)
        die_at(step, in_hand[-1] if in_hand else None)
        return result

    return wrapped


def patch_stub(module: ModuleType) -> None:
    real = module.StubEngine.judge

    def judge(self: Any, questions: Sequence[Any]) -> Any:
        if in_hand:
            die_at("judging", in_hand[-1])
        return real(self, questions)

    module.StubEngine.judge = judge


def patch_tasks(module: ModuleType) -> None:
    real = module.judge_chunk

    def judge_chunk(message: Any, office: Any) -> Any:
        in_hand[:] = [message]
        die_at("received", message)
        ending = real(message, office)
        die_at("ended", message)
        in_hand.clear()
        return ending

    module.judge_chunk = judge_chunk  # type: ignore[attr-defined]


def patch_feed(module: ModuleType) -> None:
    real = module.feed

    def feed(*given: Any, **knobs: Any) -> Any:
        bells = real(*given, **knobs)
        for bell in bells:
            die_at("fed", bell)
        return bells

    module.feed = feed  # type: ignore[attr-defined]


def patch_redis_side(module: ModuleType) -> None:
    real = module.RedisSide.ring

    def ring(self: Any, bells: Sequence[Any]) -> None:
        real(self, bells)
        for bell in bells:
            die_at("rung", bell)

    module.RedisSide.ring = ring


def patch_sweep(module: ModuleType) -> None:
    real = module.sweep

    def sweep(database: Any, *rest: Any, **knobs: Any) -> Any:
        return real(Dying(database, inside="burying", after="buried"), *rest, **knobs)

    module.sweep = sweep  # type: ignore[attr-defined]


def patch_board(module: ModuleType) -> None:
    """Who dies by plan, chunk after chunk, is not sick: such slots are tested elsewhere, and would only wait here."""
    module.is_doubted = module.is_out = lambda deaths: False  # type: ignore[attr-defined]


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "db.claim": patch_claim,
    "db.feed": patch_feed,
    "db.lease": patch_lease,
    "db.record": patch_record,
    "db.sweep": patch_sweep,
    "worker.board": patch_board,
    "worker.engines.stub": patch_stub,
    "worker.judging": patch_judging,
    "worker.redis_side": patch_redis_side,
    "worker.tasks": patch_tasks,
}


class Patcher(importlib.abc.MetaPathFinder):
    """Finds those modules as everybody does, and wraps their functions before anybody else has seen them."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        patch = PATCHES.get(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if patch else None
        loader = spec.loader if spec else None
        if patch is None or loader is None:
            return None
        real = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            real(module)
            patch(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def run_the_next_sitecustomize() -> None:
    """Python runs the first one that it finds; whoever had one before keeps it."""
    path = [folder for folder in sys.path if os.path.abspath(folder) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec and spec.loader:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if PLAN and __name__ == "sitecustomize":
    sys.meta_path.insert(0, Patcher())
if __name__ == "sitecustomize":
    run_the_next_sitecustomize()
