"""The runbook names events, metrics, spans, codes and commands: each of them as the code has it today."""

import ast
import re
import shutil
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import yaml

from telemetry.span_names import SPANS
from tests.support.command_lines import ROOT, tokens
from tests.support.observability import alerts, exported, metrics_in, rules
from tests.test_house import PACKAGES, sources

RUNBOOK = ROOT / "docs" / "runbook.md"
TEXT = RUNBOOK.read_text(encoding="utf-8")
EVENT_LINE = re.compile(r"^(?:\[[\d:., -]+\] )?\[([A-Z]+)\] \[(\w+)\] (.+)$", re.MULTILINE)
EVENT_ENDS = re.compile(r" (?:\w+=|\.\.\.)")
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
OF_OTHERS = ("Connected to ", "consumer: Cannot connect", "Failed to capture events", "Canceling queue")
"""Beginnings of lines that Celery and Flower write."""


def entries() -> dict[str, str]:
    """Each symptom's text by its heading."""
    parts = re.split(r"^(#{2,3}) (.+)$", TEXT.partition("## Calendar")[0], flags=re.MULTILINE)
    return {
        title: body for mark, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True) if mark == "###"
    }


def blocks() -> str:
    """What stands in its code blocks."""
    return "\n".join(token.content for token in tokens(RUNBOOK) if token.type == "fence")


def words() -> list[str]:
    """What stands in backticks within its sentences."""
    return [token.content for token in tokens(RUNBOOK) if token.type == "code_inline"]


@cache
def written() -> tuple[frozenset[str], dict[str, set[str]]]:
    """All texts in our code, and of those that are logged, the levels."""
    texts: set[str] = set()
    levels: dict[str, set[str]] = defaultdict(set)
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                for first in node.args[:1]:
                    if isinstance(first, ast.Constant):
                        level = node.func.attr.replace("exception", "error")
                        levels[str(first.value)].add(level)
    return frozenset(texts), levels


@pytest.mark.parametrize("title", entries())
def test_an_entry_leads_from_what_is_seen_to_what_is_done(title: str) -> None:
    """At night nobody reads a page to its end to find out whether it has a cure."""
    body = entries()[title]
    found = re.findall(r"^\*\*(.+?)\.?\*\*", body, re.MULTILINE)
    assert "Cure" in found
    assert found[-1] == "So that it does not come back"
    assert any(line.startswith(("```", "|")) for line in body.splitlines()), "nothing that proves the cause"


def test_events_are_logged_as_the_runbook_shows_them() -> None:
    """An event that was renamed is searched for, not found, and its cause ruled out."""
    texts, levels = written()
    shown = {(level.lower(), EVENT_ENDS.split(rest)[0]) for level, _, rest in EVENT_LINE.findall(blocks())}
    ours = {(level, event) for level, event in shown if not event.startswith(OF_OTHERS)}
    assert len(ours) > 20
    assert {event for _, event in ours} - texts == set()
    assert {(level, event) for level, event in ours if event in levels and level not in levels[event]} == set()


def test_codes_of_errors_exist() -> None:
    """The word in parentheses is what scripts and people search for."""
    named = re.findall(r"^caption-audit: .*\((\w+)\)$", blocks(), re.MULTILINE)
    named += re.findall(r"worker cannot serve reason=\"(\w+):", blocks())
    assert len(named) > 10
    assert set(named) - written()[0] == set()


def test_metrics_and_alerts_exist() -> None:
    """A query for a metric that is gone shows nothing, as a healthy system does."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert metrics_in(TEXT) - exported() - recorded == set()
    assert set(re.findall(r"\bCaptionAudit\w+", TEXT)) - {alert.name for alert in alerts()} == set()


def test_queries_can_be_asked(tmp_path: Path) -> None:
    """They are copied into Prometheus as they stand."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("queries are read by Prometheus' promtool, and there is none")
    asked = sorted({word for word in words() if re.search(r"\bcaption_audit_\w|^up\b", word)})
    made = [{"record": f"asked:{number}", "expr": query} for number, query in enumerate(asked)]
    file = tmp_path / "asked.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": made}]}))
    told = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert len(asked) > 20


def test_spans_exist() -> None:
    """Whoever looks for them in a trace finds them under these names."""
    named = {
        span
        for run in re.findall(r"\bspans?:? ((?:`[^`]+`(?:,? and |, | of |, or )?)+)", TEXT)
        for span in re.findall(r"`([^`]+)`", run)
    }
    assert len(named) > 2
    assert named - set(SPANS) == set()


def test_drills_and_tests_that_are_named_exist() -> None:
    """A drill that cannot be started is found out on the day of the drill."""
    for path in re.findall(r"\btests/[\w/.]+\w", TEXT):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"-m (?:benchmarks\.)(\w+)", TEXT):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w[\w-]*)", "\n".join([blocks(), *words()]), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for variable in re.findall(r"\bCHAOS_\w+", TEXT):
        assert f"$({variable})" in makefile, variable
