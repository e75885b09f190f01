"""The page: one file that loads nothing, runs nothing, and shows what strangers wrote as text."""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ops.report.facts import Report
from ops.report.figures import figures, share
from ops.report.pictures import Thumbnail
from ops.text import duration, plain

NAME_CHARS = 160
TEXT_CHARS = 700
DETAIL_CHARS = 300


def page(report: Report, thumbnails: Mapping[int, Thumbnail] | None) -> str:
    """The HTML. `thumbnails` maps rows of the flagged pairs; None leaves pictures out."""
    return rendered(
        "report.html.j2",
        report=report,
        seen=report.seen,
        counts=report.counts,
        sql={name: answer.sql for name, answer in report.answers.items()},
        facts=_facts(report),
        figures=figures(report),
        flagged=report.rows("flagged"),
        thumbnails=thumbnails,
        samples=_samples(report),
        share=share,
    )


def rendered(template: str, **values: Any) -> str:
    """A page from one of this package's templates, which escapes every value.

    The Content-Security-Policy allows the style sheet by its hash and pictures from data: URIs, and nothing else: no
    script at all.
    """
    style = files("ops.report").joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("ops.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": _name, "words": _words, "detail": _detail, "count": lambda number: f"{number:,}"}
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - our own file
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        version=version("caption-audit"),
        **values,
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    """What the headline says about the batch, as (word, text)."""
    seen = report.seen
    facts = [("batch", f"{seen.batch}"), ("state", seen.state), ("model", _name(seen.model))]
    used = list(dict.fromkeys(_revision(row) for row in report.rows("judged_with")))
    if used:
        more = f" and {len(used) - 1} more, see below" if len(used) > 1 else ""
        facts.append(("revision", used[0] + more))
    facts += [("policy", _policy(seen.policy)), ("submitted", _time(seen.created_at))]
    if seen.started_at is not None and seen.finished_at is not None:
        rate = f", {seen.rate:.1f} pairs/s" if seen.rate else ""
        facts.append(("judged in", duration(seen.finished_at - seen.started_at) + rate))
    elif seen.started_at is not None:
        facts.append(("begun", _time(seen.started_at)))
    if seen.tenant != "default":
        facts.append(("tenant", _name(seen.tenant)))
    return [*facts, ("written", _time(report.written_at))]


def _revision(row: Mapping[str, Any]) -> str:
    return _name(f"{row['model_revision']}, {row['engine']}, {row['precision']}")


def _policy(policy: str) -> str:
    """The policy in words."""
    value = json.loads(policy)
    parts = [f"label {label}" for label in value["labels"]]
    if value["p_no_at_least"] is not None:
        parts.append(f"p_no of {value['p_no_at_least']:g} or more")
    return "flags " + (" or ".join(parts) or "nothing")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _samples(report: Report) -> list[tuple[str, int, list[Mapping[str, Any]]]]:
    """(code, pairs, a few of them), the most frequent first."""
    codes = [(str(row["failure_code"]), int(row["pairs"])) for row in report.rows("failures")]
    rows = report.rows("failure_samples")
    return [(code, pairs, [row for row in rows if row["failure_code"] == code]) for code, pairs in codes]


def _name(text: object) -> str:
    return _shown(str(text), NAME_CHARS)


def _words(text: object) -> str:
    return _shown(str(text), TEXT_CHARS)


def _detail(text: object) -> str:
    return _shown(str(text), DETAIL_CHARS)


def _shown(text: str, limit: int) -> str:
    """Of bearable length, and with everything invisible shown as an escape; cut first, since escapes are longer."""
    if len(text) <= limit:
        return plain(text)
    return f"{plain(text[:limit])}… ({len(text):,} characters)"
