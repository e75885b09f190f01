"""`caption-audit workers`: every slot as its worker last told of it."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from audit.errors import LedgerUnavailable
from ops.hints import typed, typed_for
from ops.looking import Look
from ops.text import duration, one_line, plain

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.breakers import Breaker
    from db.engine import Database
    from db.queries import Progress
    from db.workers import SlotSeen

GONE_AFTER_S = 30.0


def gone(slot: "SlotSeen", settings: "Settings") -> bool:
    """Whether nothing was heard of it for so long that it must be dead, or cut off from the ledger."""
    return slot.seen_age_s > max(GONE_AFTER_S, 3 * settings.tell_every_s)


def models_held(slots: "Iterable[SlotSeen]", settings: "Settings") -> set[str]:
    """Models that some living worker holds, or loads."""
    return {slot.model for slot in slots if not gone(slot, settings)}


def judged_by_nobody(database: "Database", seen: "Progress", settings: "Settings") -> "tuple[Progress, str | None]":
    """The batch, and a line with the cure when it waits for judging and no worker is known to hold its model.

    Then it comes without a rate and a time left, which would be nonsense. No line where nothing is known: in a ledger
    without the table. Another line when workers hold it, and its pictures are away.
    """
    if seen.state not in ("queued", "running"):
        return seen, None
    if _held_or_unknown(database, seen.model, settings):
        return seen, _pictures_away(database, seen)
    up = typed_for("up", seen.model, settings)
    trouble = f"no living worker is known to hold the model {plain(seen.model)}: start one ({up})"
    return replace(seen, rate=None, eta_s=None), trouble


def _pictures_away(database: "Database", seen: "Progress") -> str | None:
    from db.breakers import open_breakers

    try:
        return "; ".join(map(_told_of, open_breakers(database, seen.batch))) or None
    except LedgerUnavailable:  # a ledger without the table, too
        return None


def _told_of(breaker: "Breaker") -> str:
    when = f"tried again in {duration(breaker.wait_s)}" if breaker.wait_s else "one chunk tries it now"
    since = f"left alone for {duration(breaker.open_age_s)}"
    host = breaker.host.split(" ")[0]
    return one_line(f"pictures wait on {host}: {breaker.place}, {since}, {when} ({breaker.reason})")


def _held_or_unknown(database: "Database", model: str, settings: "Settings") -> bool:
    from db.workers import seen

    try:
        return model in models_held(seen(database), settings)
    except LedgerUnavailable:  # a ledger without the table too; one that is away is told of by who asks for progress
        return True


def look_at_workers(settings: "Settings", database: "Database") -> Look:
    """One look; exit status 1 when no worker is alive. Raises Unavailable."""
    from db.breakers import open_breakers
    from db.workers import seen

    slots = seen(database)
    alive = [slot for slot in slots if not gone(slot, settings)]
    lines = [] if alive else [_nobody(settings)]
    lines += [
        f"slot {slot.slot} of {slot.worker}: the canary {one_line(slot.canary, limit=150)}"
        for slot in alive
        if slot.canary and slot.canary != "passed"
    ]
    lines += map(_told_of, open_breakers(database))
    return Look(
        value=[_json(slot, settings) for slot in slots],
        table=_table(slots, settings) if slots else None,
        lines=[one_line(line) for line in lines],
        status=0 if alive else 1,
    )


def _nobody(settings: "Settings") -> str:
    up, worker = typed("up", settings), typed("worker", settings)
    return f"no worker has told of itself lately: start one with `{up}` or `{worker}`"


def _json(slot: "SlotSeen", settings: "Settings") -> dict[str, Any]:
    ages = ("up_s", "chunk_age_s", "canary_age_s", "seen_age_s")
    told = asdict(slot)
    told |= {name: None if told[name] is None else round(told[name], 1) for name in ages}
    return told | {"state": _state(slot, settings)}


def _state(slot: "SlotSeen", settings: "Settings") -> str:
    return "gone" if gone(slot, settings) else slot.state.value


def _table(slots: Iterable["SlotSeen"], settings: "Settings") -> Any:
    from ops.show import add_row, table

    numbers = ("deaths", "recycled", "memory", "on device", "seen")
    names = ("host", "worker", "slot", "device", "model", "state", "chunk", "since", "canary", *numbers)
    shown = table(*names, numeric=("slot", "since", *numbers))
    for slot in slots:
        add_row(
            shown,
            slot.host.split(" ")[0],
            slot.worker.split("@")[0].removeprefix("caption-audit-"),
            str(slot.slot),
            slot.device,
            slot.model.rstrip("/").rsplit("/", 1)[-1],
            _state(slot, settings),
            "" if slot.batch is None else f"batch {slot.batch}, {slot.chunk}",
            "" if slot.chunk_age_s is None else duration(slot.chunk_age_s),
            _canary(slot),
            f"{slot.deaths:,}",
            f"{slot.recycled:,}",
            "" if slot.rss_bytes is None else _size(slot.rss_bytes),
            "" if slot.device_bytes is None else _size(slot.device_bytes),
            f"{duration(slot.seen_age_s)} ago",
        )
    return shown


def _canary(slot: "SlotSeen") -> str:
    if slot.canary is None:
        return ""
    ago = "" if slot.canary_age_s is None else f" {duration(slot.canary_age_s)} ago"
    return f"{slot.canary.partition(':')[0]}{ago}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
