"""What a real worker logs: enough to follow each pair, in files of its own, and never what the pairs say."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from audit.settings import DEMO_MODEL, Settings
from tests.support.manifests import draw, write_csv
from tests.support.running import Worker, changed, finished, ledger, results, running, submitted

MARK = "Zebrafink"
QUICK = {"devices": "cpu", "cache": False, "feed_every_s": 0.2, "tell_every_s": 1}
IDS = {"batch", "chunk", "attempt", "trace_id", "span_id"}


def manifest(folder: Path, *captions: str) -> Path:
    """Pictures with the mark in their names, captions with the mark in them."""
    draw(folder / f"{MARK}.png", size=(300, 240))
    rows = [(f"p{number}", f"{MARK}.png", f"{MARK} {caption}") for number, caption in enumerate(captions)]
    rows += [("missing", f"{MARK} gone.png", f"{MARK} not there"), ("empty", f"{MARK}.png", "...")]
    return write_csv(folder / "pairs.csv", rows)


def everything(worker: Worker) -> str:
    """All that the worker has written: its stderr and its files."""
    files = sorted((worker.settings.home / "logs").glob("*.log"))
    return "".join(path.read_text(errors="replace") for path in (worker.log, *files))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_worker_tells_of_its_pairs_and_not_what_they_say(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Captions are the users' and not the operator's, at DEBUG too, and also when the engine fails with them in hand.

    Safeguard: telemetry/log_text.py leaves a foreign error's words out while pairs are in hand.
    """
    settings = changed(sqlite_settings, log_level="debug", log_files=True, **QUICK)
    orders = ("stub:yes", "stub:no", "stub:quote", "stub:complain", f"{'red ' * 2_000}", "stub:maybe\x1b[2J\u2028")
    with running(settings, tmp_path) as worker:
        batch = submitted(settings, manifest(tmp_path, *orders))
        finished(settings, batch, watch=worker)
        ended = worker.wait_for("chunk ended")
        told = results(settings, batch)
        assert worker.stop() == 0
    assert told == {
        "p0": "Yes",
        "p1": "No",
        "p2": "internal_error",
        "p3": "engine_failed",
        "p4": "caption_too_long",
        "p5": "Maybe",
        "missing": "file_missing",
        "empty": "caption_empty",
    }
    text = everything(worker)
    assert MARK.lower() not in text.lower()
    lines = worker.lines()
    (failed,) = worker.events("chunk failed")
    assert "ValueError: (its words are left out: they may quote a caption)" in failed["exception"]
    assert ", in judge\n" in failed["exception"], "the stack says where"
    for line in lines:
        if line["logger"] in ("worker.told", "worker.tasks", "worker.careful_judging") and "reason" not in line:
            assert line.keys() >= IDS, line
    one = next(line for line in worker.events("pair ended") if line["pair"] == 0)
    assert (one["level"], one["width"], one["height"], one["mode"]) == ("debug", 300, 240, "RGB")
    assert (one["format"], one["label"], one["p_yes"], one["flags"]) == ("PNG", "Yes", 0.9, [])
    assert one["bytes"] == (tmp_path / f"{MARK}.png").stat().st_size
    assert len(one["sha256"]) == 64
    assert {"preprocess_ms", "inference_ms"} <= one.keys()
    measured = {"claim_ms", "preprocess_ms", "inference_ms", "postprocess_ms", "record_ms", "rss_bytes", "cpu_percent"}
    assert measured <= ended[-1].keys()
    assert (ended[-1]["ending"], ended[-1]["careful"]) == ("done", True)
    assert {line["stage"] for line in lines} <= {
        "model_loading", "preprocess", "inference", "postprocess", "queue", "ledger",
    }  # fmt: skip


def test_each_process_writes_a_file_of_its_own(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Where nobody keeps stderr; a process's successor goes on in the same file, and slow pairs have one apart."""
    settings = changed(
        sqlite_settings,
        log_files=True,
        log_format="text",
        slow_pair_s=0.2,
        max_tasks_per_child=1,
        chunk_pairs=2,
        **QUICK,
    )
    with running(settings, tmp_path) as worker:
        batch = submitted(settings, manifest(tmp_path, "stub:sleep=0.4", "stub:yes"))
        finished(settings, batch, watch=worker)
        assert worker.stop() == 0
    folder = settings.home / "logs"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert texts.keys() == {"worker-main.log", "worker-slot-0.log", "slow.log"}
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in texts} == {0o600}
    assert "[INFO] [queue] worker ready slots=1" in texts["worker-main.log"]
    assert texts["worker-slot-0.log"].count("[INFO] [model_loading] model proved") >= 2
    (slow,) = texts["slow.log"].splitlines()
    assert "[WARNING] [postprocess] pair slow batch=" in slow
    assert slow in texts["worker-slot-0.log"]
    assert "inference_ms=4" in slow
    shown = worker.log.read_text()
    assert all(line.startswith(("[", "    | ")) for line in shown.splitlines()), shown


@pytest.mark.long
def test_a_real_model_tells_what_it_runs_on(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Two machines that disagree are compared by this line; and real libraries at DEBUG are as silent on captions."""
    settings = changed(sqlite_settings, engine="ofa", model=str(DEMO_MODEL), log_level="debug", **QUICK)
    with running(settings, tmp_path) as worker:
        batch = submitted(settings, manifest(tmp_path, "a red square", "a blue circle " * 40))
        finished(settings, batch, watch=worker)
        assert worker.stop() == 0
    (proved,) = worker.events("model proved")
    assert proved.keys() >= {
        "python",
        "torch",
        "revision",
        "sha256",
        "parameters",
        "precision",
        "load_attempt",
        "took_s",
    }
    assert (proved["load_attempt"], proved["device"], proved["precision"]) == (1, "cpu", "fp32")
    assert proved["parameters"] > 100_000
    assert MARK.lower() not in everything(worker).lower()
    ended = {line["pair"]: line for line in worker.events("pair ended")}
    assert ended[0]["tokens"] > 3
    assert "caption_truncated" in ended[1]["flags"]
    with ledger(settings):
        assert len(results(settings, batch)) == 4


def test_a_killed_process_is_told_of_as_an_event(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Restarts are looked for in the log, and a line that is no JSON is lost to whoever collects it.

    Safeguards: worker/deaths.py tells of it, telemetry/logs.py takes billiard's own line.
    """
    settings = changed(sqlite_settings, **QUICK)
    with running(settings, tmp_path) as worker:
        worker.wait_for("model proved")
        (child,) = worker.children()
        child.kill()
        (died,) = worker.wait_for("worker process died")
        worker.wait_for("model proved", count=2)
        assert worker.stop() == 0
    assert (died["level"], died["pid"], died["status"], died["reason"]) == ("warning", child.pid, -9, "killed")
    assert [line for line in worker.log.read_text().splitlines() if not line.startswith("{")] == []
