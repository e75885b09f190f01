"""What ships logs elsewhere: its files can be read, and it finds the files and the fields that a worker writes."""

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.settings import Settings
from telemetry.log_files import LogFile, LogLimits
from telemetry.log_lines import LineFormatter, as_json
from telemetry.log_text import Cleaner
from telemetry.stages import about, stage
from tests.support.running import ROOT

FOLDER = ROOT / "deploy" / "logs"
PAGE = ROOT / "docs" / "logs.md"


def a_line() -> dict[str, Any]:
    """As a worker writes it, with a chunk in hand."""
    import logging

    record = logging.LogRecord("worker.tasks", logging.INFO, "", 0, "chunk ended", (), None)
    with about(batch=7, chunk=3, attempt=1), stage("ledger", "claim"):
        line: dict[str, Any] = json.loads(LineFormatter(as_json, cleaner=Cleaner()).format(record))
    return line


@pytest.fixture
def written(tmp_path: Path) -> dict[str, bool]:
    """Names of files that a worker has made, and whether they are to be read."""
    limits = LogLimits(file_bytes=100, days=7, total_bytes=100_000)
    for name in ("worker", "worker-main", "worker-slot-0", "slow"):
        file = LogFile(tmp_path, name, limits=limits)
        for _ in range(3):
            file.write("x" * 80)
    found = {path.name: path.name.count(".") == 1 and path.name != "slow.log" for path in tmp_path.iterdir()}
    assert len(found) == 12
    return found


def test_promtail_reads_each_line_once(written: dict[str, bool]) -> None:
    """A rotated file has a new name, and would be read again as a whole; so would what slow.log repeats."""
    (scrape,) = yaml.safe_load((FOLDER / "promtail.yml").read_text())["scrape_configs"]
    labels = scrape["static_configs"][0]["labels"]
    wanted, unwanted = Path(labels["__path__"]).name, Path(labels["__path_exclude__"]).name
    for name, read in written.items():
        assert (fnmatch.fnmatch(name, wanted) and not fnmatch.fnmatch(name, unwanted)) == read, name


def test_promtail_takes_fields_that_are_there(written: dict[str, bool]) -> None:
    """A field of another name would be an empty label, and nobody would be told."""
    (scrape,) = yaml.safe_load((FOLDER / "promtail.yml").read_text())["scrape_configs"]
    stages = {name: told for step in scrape["pipeline_stages"] for name, told in step.items()}
    taken = stages["json"]["expressions"]
    assert set(taken.values()) <= a_line().keys()
    assert {*stages["labels"], *stages["structured_metadata"], stages["timestamp"]["source"]} == taken.keys()
    assert not {"batch", "chunk", "trace_id", "span_id"} & set(stages["labels"]), "a stream of every chunk"


def test_filebeat_reads_each_line_once_and_renames_fields_that_are_there(written: dict[str, bool]) -> None:
    """As for Promtail; and `event`, a text here, must not stay under a name that is an object there."""
    told = yaml.safe_load((FOLDER / "filebeat.yml").read_text())
    (source,) = told["filebeat.inputs"]
    (pattern,) = source["prospector.scanner.exclude_files"]
    wanted = Path(source["paths"][0]).name
    for name, read in written.items():
        assert (fnmatch.fnmatch(name, wanted) and not re.search(pattern, name)) == read, name
    steps = {name: how for step in told["processors"] for name, how in step.items()}
    renamed = {field["from"]: field["to"] for field in steps["rename"]["fields"]}
    assert renamed.keys() <= {*a_line(), "exception"}
    assert (renamed["trace_id"], renamed["event"]) == ("trace.id", "caption_audit.event")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", a_line()[steps["timestamp"]["field"]])


def test_what_the_page_shows_can_be_read() -> None:
    """A data source that does not parse, or an example that is no line of ours, helps nobody."""
    blocks = re.findall(r"```(yaml|json)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    loki, jaeger = next(yaml.safe_load(text) for kind, text in blocks if kind == "yaml")["datasources"]
    assert loki["jsonData"]["derivedFields"][0]["datasourceUid"] == jaeger["uid"]
    assert jaeger["jsonData"]["tracesToLogsV2"]["datasourceUid"] == loki["uid"]
    (shown,) = (json.loads(text) for kind, text in blocks if kind == "json")
    assert a_line().keys() <= shown.keys()


def test_the_page_names_the_settings_and_their_defaults() -> None:
    """A bound that is not the one that holds is worse than none."""
    rows = re.findall(r"^\| `AUDIT_(\w+)` \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    defaults = {name: Settings.model_fields[name.lower()].default for name, _ in rows}
    assert {name: text.strip().replace(",", "") for name, text in rows} == {
        name: f"{value:g}".lower() if isinstance(value, float) else str(value).lower()
        for name, value in defaults.items()
    }
    assert len(rows) == 7
