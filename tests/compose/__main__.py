"""`make compose-test`: the compose file, built and run for real, with a crash of the worker and of Redis in the middle.

It draws sample pictures, submits them from inside the network, kills the worker's main process, its container and Redis
once each, and holds what PostgreSQL has at the end against what was submitted. Everything is taken down at the end, or
after a failure or Ctrl-C; the image stays, so that the next build is quick. Exit status 0 when every promise held.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.compose.flower import check_flower
from tests.compose.project import Failed, Project, image_size, wait_until

BROKEN = 10
"""Samples that demo.samples spoils on purpose."""
CHUNK_PAIRS = 64
STOP_OR_GO = (
    "import glob, json, os, sys; "
    "path = glob.glob(os.environ['AUDIT_HOME'] + '/run/worker-*.json')[0]; "
    "os.kill(json.load(open(path))['pid'], int(sys.argv[1]))"
)


def main() -> int:
    """Parse the command line, run, take down."""
    parser = argparse.ArgumentParser(prog="python -m tests.compose", description=__doc__)
    parser.add_argument("--compose", default=os.environ.get("COMPOSE", "docker compose"), help="the compose command")
    parser.add_argument("--pairs", type=int, default=2000, help="how many pictures to draw")
    chosen = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell starts what it puts behind itself without it
        signal.signal(number, _interrupt)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="caption-audit-compose-", ignore_cleanup_errors=True) as name:
        project = Project(chosen.compose, Path(name), say=say)
        try:
            figures = rehearse(project, pairs=chosen.pairs)
        except (Failed, KeyboardInterrupt) as error:
            say(f"FAILED: {str(error) or 'interrupted'}")
            if isinstance(error, Failed):
                _show_logs(project)
            return 130 if isinstance(error, KeyboardInterrupt) else 1
        finally:
            say("taking everything down")
            project.down()
    say("passed")
    print("\n".join(["", *(f"  {what:42} {value}" for what, value in figures.items())]))
    return 0


def rehearse(project: Project, *, pairs: int) -> dict[str, str]:
    """Everything, in order; returns figures worth printing. Raises Failed."""
    figures: dict[str, str] = {}
    project.say("building the image")
    began = time.monotonic()
    project.run("build", "migrate", limit_s=3600)
    figures["build (cached layers are not built again)"] = _since(began)
    size = image_size()
    figures["image"] = f"{size / 1e9:.2f} GB" if size else "size unknown"
    project.say(f"built, {figures['image']}; starting redis, postgres, migrate, worker, flower")
    began = time.monotonic()
    project.run("up", "-d", limit_s=300)
    wait_until(project.healthy, limit_s=300, what="the worker to prove its model")
    figures["from nothing to a worker that is ready"] = _since(began)
    check_flower(project)
    figures["ready again after a kill of its main process"] = crash(project)
    check_stop(project)
    batch, submitted = submit(project, pairs=pairs)
    figures |= disturb(project, batch, submitted)
    figures |= account(project, batch, submitted)
    check_flower(project)
    if not project.healthy():
        raise Failed("the worker is not healthy at the end")
    return figures


def crash(project: Project) -> str:
    """The worker's main process dies of SIGKILL: the restart policy brings it back, nobody else does."""
    project.say("killing the worker's main process; its restart policy is to bring it back")
    began = time.monotonic()
    project.inside("worker", "python", "-c", STOP_OR_GO, str(int(signal.SIGKILL)))
    if project.healthy():
        raise Failed("the health check calls a worker healthy that was killed just now")
    wait_until(project.healthy, limit_s=180, what="the worker to come back by itself")
    return _since(began)


def check_stop(project: Project) -> None:
    """A worker whose main process stands still is unhealthy until it goes on."""
    project.inside("worker", "python", "-c", STOP_OR_GO, str(int(signal.SIGSTOP)))
    asked = project.inside("worker", "caption-audit", "health")
    project.inside("worker", "python", "-c", STOP_OR_GO, str(int(signal.SIGCONT)))
    if asked.returncode != 1:
        raise Failed(f"the health check of a stopped worker ended with {asked.returncode}: {asked.stdout}")
    project.say(f"a stopped worker is told to be one: {asked.stdout.strip()}")
    wait_until(project.healthy, limit_s=60, what="the worker to be healthy again")


def submit(project: Project, *, pairs: int) -> tuple[int, int]:
    """Draw the samples and submit them from inside the network; returns the batch and how many pairs it has."""
    project.say(f"drawing {pairs} pictures inside the image")
    user = f"{os.getuid()}:{os.getgid()}"  # so that this process can remove them
    draw = ("-m", "demo.samples", "/out", "--count", str(pairs))
    place = ("-v", f"{project.values['PICTURES']}:/out", "-u", user, "--entrypoint", "python")
    project.run("run", "--rm", "--no-deps", "-T", *place, "worker", *draw, limit_s=900)
    small = ("env", f"AUDIT_CHUNK_PAIRS={CHUNK_PAIRS}")  # many chunks, so that a kill finds some of them undone
    asked = project.inside("worker", *small, "caption-audit", "submit", "/pictures/samples.csv", "--json")
    if asked.returncode:
        raise Failed(f"submit ended with {asked.returncode}: {asked.stderr[-1000:]}")
    told = json.loads(asked.stdout)
    project.say(f"submitted batch {told['batch']}: {told['pairs']} pairs in {told['chunks']} chunks")
    if told["pairs"] != pairs + BROKEN:
        raise Failed(f"{told['pairs']} pairs were submitted, not {pairs + BROKEN}")
    return int(told["batch"]), int(told["pairs"])


def disturb(project: Project, batch: int, submitted: int) -> dict[str, str]:
    """Kill the worker's container, and then Redis, in the middle of the batch."""
    figures: dict[str, str] = {}
    _wait_for(project, batch, submitted // 8)
    before = _in_the_middle(project, batch, submitted)
    project.say(f"killing the worker's container with {before} of {submitted} pairs done")
    began = time.monotonic()
    project.run("kill", "-s", "KILL", "worker")
    project.run("start", "worker")
    wait_until(project.healthy, limit_s=180, what="the worker to be ready after its container was killed")
    figures["worker's container killed: ready after"] = _since(began)
    before = _done(project, batch)
    wait_until(lambda: _done(project, batch) > before, limit_s=240, what="more outcomes after the kill")
    figures["... first new outcomes after"] = _since(began)
    _wait_for(project, batch, max(submitted // 2, before + 1))
    now = "SELECT extract(epoch FROM clock_timestamp())"
    at = float(project.sql(now))
    before = _in_the_middle(project, batch, submitted)
    project.say(f"killing Redis with {before} of {submitted} pairs done")
    began = time.monotonic()
    project.run("kill", "-s", "KILL", "redis")
    project.run("start", "redis")
    back = float(project.sql(now))
    claimed = f"SELECT count(*) FROM chunks WHERE batch = {batch} AND claimed_at > {back}"
    finished = f"SELECT count(*) FROM chunks WHERE batch = {batch} AND done_at IS NULL"
    wait_until(
        lambda: project.number(claimed) or not project.number(finished),
        limit_s=240,
        what="a claim after Redis came back",
    )
    figures["Redis killed: back after"] = f"{back - at:.1f} s"
    figures["... next chunk claimed after"] = _since(began)
    return figures


def account(project: Project, batch: int, submitted: int) -> dict[str, str]:
    """At the end: one outcome for every pair, failures for exactly what is broken, by PostgreSQL's own count."""
    _wait_for(project, batch, submitted)
    where = f"FROM outcomes WHERE batch = {batch}"
    rows, different = (project.number(f"SELECT count({what}) {where}") for what in ("*", "DISTINCT row"))
    verdicts = project.number(f"SELECT count(*) FROM verdicts WHERE batch = {batch}")
    failures = project.number(f"SELECT count(*) FROM failures WHERE batch = {batch}")
    project.say(f"PostgreSQL has {rows} outcomes: {verdicts} verdicts and {failures} failures")
    if not rows == different == submitted == verdicts + failures:
        raise Failed(f"{submitted} pairs were submitted, of {different} there are {rows} outcomes")
    odd = project.sql(f"SELECT id, failure_code FROM failures WHERE batch = {batch} AND id NOT LIKE 'broken-%' LIMIT 5")
    if failures != BROKEN or odd:
        raise Failed(f"{failures} pairs failed, {BROKEN} are broken; others: {odd or 'none'}")
    took_s = float(project.sql(f"SELECT max(done_at) - min(claimed_at) FROM chunks WHERE batch = {batch}"))
    return {
        "outcomes": f"{rows} of {submitted}, {failures} failures, none doubled",
        "judged, with both kills in the middle": f"{took_s:.0f} s, {rows / took_s:.1f} pairs/s",
    }


def _done(project: Project, batch: int) -> int:
    return project.number(f"SELECT count(*) FROM outcomes WHERE batch = {batch}")


def _in_the_middle(project: Project, batch: int, submitted: int) -> int:
    done = _done(project, batch)
    if done >= submitted:
        raise Failed("the batch was finished before something could be killed: take more --pairs")
    return done


def _wait_for(project: Project, batch: int, outcomes: int) -> None:
    wait_until(lambda: _done(project, batch) >= outcomes, limit_s=1200, what=f"{outcomes} outcomes", every_s=2.0)


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def _show_logs(project: Project) -> None:
    for service in ("migrate", "worker", "flower", "postgres", "redis"):
        with contextlib.suppress(Failed):
            told = project.run("logs", "--tail", "25", service, limit_s=60, check=False)
            print(f"\n--- {service}\n{told.stdout}{told.stderr}", file=sys.stderr)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
