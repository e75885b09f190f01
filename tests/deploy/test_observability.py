"""Alert rules, Alertmanager and the dashboard: valid, tested, and about metrics that exist."""

import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from telemetry.metrics import meters
from tests.support.alert_table import PAGE, page_with_table
from tests.support.command_lines import ROOT
from tests.support.observability import (
    FOLDER,
    OF_PROMETHEUS,
    RULE_TESTS,
    RULES,
    Alert,
    alerts,
    dashboard,
    exported,
    fired_in_a_unit_test,
    metrics_in,
    panels,
    queries,
    rules,
)
from worker.gauge_values import GAUGES

RUNBOOK = ROOT / "docs" / "runbook.md"


def run(program: str, *arguments: str | Path) -> str:
    """What the program prints when it is content; skips without it."""
    found = shutil.which(program)
    if found is None:
        package = "prometheus-alertmanager" if program == "amtool" else "prometheus"
        pytest.skip(f"there is no {program}: install it (apt: {package})")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_of_rules_is_looked_at() -> None:
    """A new one that the tests do not know would be checked by nobody."""
    assert sorted(RULES) == sorted((FOLDER / "alerts").glob("*"))


def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    """A file with a typing error stops Prometheus at its next start, or leaves the rules of yesterday in force."""
    assert "is valid" in run("promtool", "check", "config", "prometheus.yml")
    run("promtool", "check", "rules", *RULES)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(path: Path) -> None:
    """At the threshold, after the time; not just below it, and not for want of data."""
    run("promtool", "test", "rules", path)


def test_alertmanager_takes_its_configuration() -> None:
    """It is the last one in the chain: when it does not start, nobody hears of anything."""
    run("amtool", "check-config", "alertmanager.yml")


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "mail-and-webhook"), ("warning", "mail")])
def test_what_is_critical_takes_the_webhook_too(severity: str, receiver: str) -> None:
    """A warning waits for the morning; the other one rings."""
    told = run("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", f"severity={severity}")
    assert told.split() == [receiver]


def test_no_secret_stands_in_a_file() -> None:
    """They are read from files that no repository has."""
    for path in FOLDER.rglob("*.y*ml"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(password|token|credentials|secret): *\S", text), path
    assert "smtp_auth_password_file:" in (FOLDER / "alertmanager.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert: Alert) -> None:
    """Whoever is woken has a sentence, a number, and a page that says what to do."""
    assert alert.severity in ("warning", "critical")
    assert alert.name.startswith("CaptionAudit")
    assert set(alert.annotations) == {"summary", "description", "runbook"}
    assert "{{ $value" in alert.annotations["description"]
    page, _, anchor = alert.annotations["runbook"].partition("#")
    assert (page, bool(re.fullmatch(r"[a-z]+(-[a-z]+)*", anchor))) == ("docs/runbook.md", True)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_an_alert_has_a_unit_test(alert: Alert) -> None:
    """One that never fires looks like one that has nothing to say."""
    assert (alert.name, alert.severity) in fired_in_a_unit_test()


def test_tiers_of_an_alert_speak_of_the_same_thing() -> None:
    """The critical one takes the warning's place (inhibition), so it says the same and points to the same page."""
    told: dict[str, dict[str, str]] = {}
    for alert in alerts():
        assert told.setdefault(alert.name, alert.annotations) == alert.annotations
    names = [(alert.name, alert.severity) for alert in alerts()]
    assert len(names) == len(set(names))


def test_the_page_says_what_the_rules_say() -> None:
    """Its table is made of them: `python -m tests.support.alert_table`."""
    text = PAGE.read_text(encoding="utf-8")
    assert page_with_table(text) == text


def test_the_runbook_has_what_alerts_point_to() -> None:
    """Whoever follows a link at night finds a page that begins with what to do."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
    assert {alert.annotations["runbook"].partition("#")[2] for alert in alerts()} - anchors == set()


def test_rules_ask_for_metrics_that_exist() -> None:
    """A rule about a metric that was renamed is silent for ever."""
    known = exported() | {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for rule in rules() for name in metrics_in(rule["expr"])}
    assert asked - known == set()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert recorded - asked == set(), "recorded, and used by nobody"


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    """An empty panel looks like a calm one. Recorded ones are left out: it works where nobody took the rules over."""
    asked = {name for query in queries(dashboard()) for name in metrics_in(query)}
    assert asked - exported() == set()
    others = {name for query in queries(dashboard()) for name in re.findall(r"\b(\w+)\{", query)} - asked
    assert others == OF_PROMETHEUS


def test_every_metric_is_looked_at() -> None:
    """What is measured and shown nowhere costs and helps nobody."""
    asked = {name for query in queries(dashboard()) for name in metrics_in(query)}
    assert {f"caption_audit_{name}" for name in GAUGES} - asked == set()
    for field in fields(meters()):
        (described,) = getattr(meters(), field.name).describe()
        assert any(name.startswith(described.name) for name in asked), described.name


def test_panels_can_be_told_apart_and_understood() -> None:
    """Grafana needs the ids, people the rest: what it is, in which unit, and what to make of it."""
    made = dashboard()
    ids = [panel["id"] for panel in panels(made, rows=True)]
    assert len(ids) == len(set(ids))
    for panel in panels(made):
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["expr"] for target in panel["targets"]), panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)), panel["title"]
    titles = [row["title"] for row in panels(made, rows=True) if row["type"] == "row"]
    assert titles[0] == "Is it well?"
    assert len(titles) == 7


def test_panels_do_not_lie_on_each_other() -> None:
    """Grafana moves what overlaps, and the order is lost."""
    taken: dict[tuple[int, int], str] = {}
    for panel in panels(dashboard(), rows=True):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_grafana_finds_its_datasource_and_the_dashboard() -> None:
    """Provisioned by files, so that a fresh Grafana shows everything without a click."""
    made = dashboard()
    variables = {one["name"]: one for one in made["templating"]["list"]}
    assert list(variables) == ["datasource", "model", "instance"]
    assert {panel["datasource"]["uid"] for panel in panels(made)} == {"${datasource}"}
    assert made["schemaVersion"] == 42
    provisioning = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "files.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
