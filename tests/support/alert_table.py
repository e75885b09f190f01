"""The table of alerts in docs/monitoring.md, made of the rules.

`python -m tests.support.alert_table` writes it anew; a test holds that it is up to date.
"""

import re
from itertools import groupby

from tests.support.observability import ROOT, Alert, alerts

PAGE = ROOT / "docs" / "monitoring.md"
BEGIN, END = "<!-- alerts: made by python -m tests.support.alert_table -->\n", "<!-- /alerts -->\n"
GUARD = "> 0)"
"""A divisor that is not to be nought is no threshold."""
THRESHOLD = re.compile(r"(>=|<=|==|>|<) (\d+(?:\.\d+)?)")


def table() -> str:
    """One line for each alert, with a column for each tier."""
    lines = ["| alert | it fires because | warning | critical | in the runbook |", "|---|---|---|---|---|"]
    for name, tiers in groupby(alerts(), key=lambda alert: alert.name):
        told = {alert.severity: alert for alert in tiers}
        any_of_them = next(iter(told.values()))
        cells = (_tier(told.get(severity)) for severity in ("warning", "critical"))
        anchor = any_of_them.annotations["runbook"].partition("#")[2]
        summary = any_of_them.annotations["summary"]
        lines.append(f"| `{name}` | {summary} | {' | '.join(cells)} | [{anchor}](runbook.md#{anchor}) |")
    return "\n".join(lines) + "\n"


def page_with_table(text: str) -> str:
    """The page, with its table made anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def _tier(alert: Alert | None) -> str:
    if alert is None:
        return ""
    patience = "" if alert.patience == "0s" else f", {alert.patience.removesuffix('m')} min"
    if alert.expr.startswith("absent"):
        return f"none there{patience}"
    found = THRESHOLD.search(alert.expr.replace(GUARD, ")"))
    assert found, alert.expr
    return f"{found[1]} {found[2]}{patience}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
