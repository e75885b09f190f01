"""One real run, as an operator sees it: the page docs/results/observability.md.

    python -m benchmarks.observability_page [--write]

A worker judges pairs of the drawn world with the shipped model, everything on, spans to an OTLP receiver. Then one of
its processes is killed with a chunk in hand. The page shows what was logged, scraped, traced and answered; nothing in
it is written by hand but the sentences between.
"""

import argparse
import json
import re
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from audit.settings import Settings
from benchmarks.drawn_pairs import heldout_pairs
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import fresh_ledger, machine
from db.queries import progress
from tests.support.manifests import write_csv
from tests.support.otlp_receiver import Receiver, Span, receiving
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, find_redis
from tests.support.running import Worker, finished, ledger, submitted
from tests.support.tracing import SOON, working
from tests.support.tracing import submitted as submitted_by_command
from tests.support.waiting import wait_until

RESULTS = SUBMIT_RESULTS.with_name("observability.md")
PAIRS, MORE = 6, 60
SCRAPED = re.compile(
    "caption_audit_(verdicts_total|failures_total|flagged_total|queue_wait_seconds_(sum|count)|stage_seconds_(sum|count)"
    "|images_total|cache_lookups_total|canaries_total|restarts_total|queue_pairs|queue_oldest_seconds|slots"
    "|slot_rss_bytes|canary_age_seconds|health|model_info|host_memory_ratio)[{ ]"
)


def manifest(folder: Path, name: str, count: int, *, broken: bool) -> Path:
    """Held-out pairs as files; with `broken`, the third picture ends early."""
    rows = []
    for number, (picture, caption, _) in enumerate(heldout_pairs(count)):
        file = folder / f"{name}-{number}.png"
        picture.save(file)
        if broken and number == 2:
            file.write_bytes(file.read_bytes()[:300])
        rows.append((f"p{number}", file.name, caption))
    return write_csv(folder / f"{name}.csv", rows)


@contextmanager
def everything(folder: Path) -> Iterator[tuple[Settings, Receiver, dict[str, str]]]:
    """Settings of a worker with everything on, a receiver of its spans, and the variables that lead there."""
    with ExitStack() as stack:
        redis = RedisServer(str(find_redis()))
        stack.callback(redis.close)
        redis.start()
        receiver = stack.enter_context(receiving())
        home = folder / "home"
        home.mkdir()
        fields = {"home": home, "database_url": stack.enter_context(fresh_ledger(home, None)), "redis_url": redis.url}
        fields |= {"devices": "cpu", "http_port": free_port(), "canary_every_s": 5, "tell_every_s": 1}
        settings = Settings.model_validate({**fields, "log_level": "debug", "log_format": "text", "chunk_pairs": 64})
        yield settings, receiver, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **SOON}


def asked(settings: Settings, path: str) -> tuple[int, str]:
    """Status and body of one of the worker's pages."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.http_port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""  # it does not listen yet


def lines_of(worker: Worker, *, having: str, since: int = 0) -> list[str]:
    """Lines of the log with this text."""
    return [line for line in worker.log.read_text().splitlines()[since:] if re.search(having, line)]


def tree(spans: Sequence[Span], parent: str = "", depth: int = 0) -> Iterator[str]:
    """Spans below a parent, in the order they began: name, milliseconds, what they tell."""
    for span in (span for span in spans if span.parent == parent):
        told = " ".join(f"{name.removeprefix('caption_audit.')}={value}" for name, value in span.attributes.items())
        failed = f" FAILED {span.status}" if span.failed else ""
        yield f"{'  ' * depth}{span.name:<{14 - 2 * depth}} {span.seconds * 1000:8.1f} ms{failed}  {told}"
        yield from tree(spans, span.id, depth + 1)


def healing(settings: Settings, folder: Path, worker: Worker) -> tuple[list[str], dict[str, Any]]:
    """Kill the process that has a chunk in hand; returns what was logged, and the batch's end."""
    since = len(worker.log.read_text().splitlines())
    batch = submitted(settings, manifest(folder, "more", MORE, broken=False))
    with ledger(settings) as database:
        wait_until(lambda: progress(database, batch).state == "running", timeout_s=60, what="a claim")
        worker.children()[0].kill()
        finished(settings, batch, watch=worker)
        seen = progress(database, batch)
    wait_until(lambda: asked(settings, "/health")[0] == 200, timeout_s=60, what="health")
    told = {"judged": seen.judged, "failed": seen.failed, "state": seen.state}
    words = "taken over|chunk claimed|chunk ended|pool process|process died|model proved|slot pinned|restart"
    return lines_of(worker, having=words, since=since), told


def cleaned(text: str, folder: Path, settings: Settings) -> str:
    """Without this machine's folders and ports."""
    return text.replace(str(folder), "/srv").replace(f":{settings.http_port}", ":9464")


def fenced(lines: Sequence[str], language: str = "") -> list[str]:
    """A block of the page."""
    return [f"```{language}", *lines, "```", ""]


def page(folder: Path) -> str:
    """Run, and return the page."""
    with everything(folder) as (settings, receiver, traced):
        with working(settings, folder, traced) as worker:
            wait_until(lambda: asked(settings, "/health")[0] == 200, timeout_s=120, what="a healthy worker")
            path = manifest(folder, "pairs", PAIRS, broken=True)
            batch = submitted_by_command(settings, path, traced)
            finished(settings, batch, watch=worker)
            chunk = receiver.wait_for("chunk")[0]
            submission = receiver.wait_for("submit")[0]
            wait_until(lambda: len(receiver.trace(chunk.trace)) > 3 * PAIRS, timeout_s=60, what="all spans")
            log = lines_of(worker, having=chunk.trace)
            started = lines_of(worker, having=r"\[model_loading\]")
            health = asked(settings, "/health")
            before = asked(settings, "/metrics")[1]
            healed, end = healing(settings, folder, worker)
            after = asked(settings, "/metrics")[1]
        samples = [line for line in before.splitlines() if SCRAPED.match(line) and not line.endswith(" 0.0")]
        counted = [line for line in after.splitlines() if "restarts_total{" in line or "chunks_total{" in line]
        changed = [line for line in counted if not line.endswith(" 0.0")]
        spans = sorted(receiver.trace(chunk.trace), key=lambda span: span.began)
        link = f"links to {chunk.links[0][0]} / {chunk.links[0][1]}, the `submit` span of its batch"
        assert chunk.links == [(submission.trace, submission.id)]
        text = [
            "# What an operator sees",
            "",
            f"One real run, written by `python -m benchmarks.observability_page --write` on {machine()}: a worker with",
            f"the shipped model and everything on, {PAIRS} held-out pairs, of which the third's picture ends early.",
            "What it costs: [telemetry_cost.md](telemetry_cost.md). What to do with it: [the runbook](../runbook.md).",
            "",
            "## The log of a start",
            "",
            *fenced(started),
            "## The log of one chunk",
            "",
            f"`AUDIT_LOG_LEVEL=debug AUDIT_LOG_FORMAT=text`, found by its trace id, `{chunk.trace}`:",
            "",
            *fenced(log),
            "## The trace of that chunk",
            "",
            f"As an OTLP receiver got it; the root {link}.",
            "",
            *fenced(list(tree(spans))),
            "Another chunk's, in a viewer that others wrote (Arize Phoenix, which takes OTLP):",
            "",
            "![The trace of a chunk](../images/trace.png)",
            "",
            "## A scrape",
            "",
            "A part of what `/metrics` answered after that chunk, zeros left out:",
            "",
            *fenced(samples),
            "## Health",
            "",
            f"`/health` answered {health[0]}:",
            "",
            *fenced(json.dumps(json.loads(health[1]), indent=1).splitlines(), "json"),
            "## A healing",
            "",
            f"The process that had a chunk of {MORE} pairs in hand was killed with SIGKILL. What was logged then:",
            "",
            *fenced(healed),
            f"The batch in the end: `{json.dumps(end)}`. What the counters say of it:",
            "",
            *fenced(changed),
            "## The dashboard",
            "",
            "Its JSON, drawn by a tool of the tests from a real Prometheus that scraped a real worker; not by Grafana.",
            "",
            "![The dashboard](../images/dashboard.png)",
        ]
        return cleaned("\n".join(text), folder, settings) + "\n"


def main() -> None:
    """Run, print, and with --write keep the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ca-page-") as folder:
        text = page(Path(folder))
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
