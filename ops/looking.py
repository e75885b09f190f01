"""Showing how things stand: once, or again and again until Ctrl-C; as tables for people, as JSON for scripts."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.errors import Unavailable
from ops.text import one_line

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen: `value` for scripts; a table (None: empty) and lines for people; an exit status."""

    value: Any
    table: "Table | None"
    lines: list[str]
    status: int


def show(look: Callable[[], Look], *, as_json: bool, watch: bool, every_s: float = EVERY_S) -> int:
    """Print one look and return its exit status, or with `watch` go on until Ctrl-C and return 130.

    Watching survives a ledger that goes away for a while; the first look raises Unavailable.
    """
    seen = look()
    if not watch:
        _print(seen, as_json=as_json)
        return seen.status
    try:
        if as_json or not sys.stdout.isatty():
            while True:
                _print(seen, as_json=as_json, compact=True)
                time.sleep(every_s)
                seen = _again(look)
        return _live(seen, look, every_s)
    except KeyboardInterrupt:
        return 130


def _live(seen: Look, look: Callable[[], Look], every_s: float) -> int:
    from rich.live import Live

    from ops.show import console

    shown = console()
    with Live(auto_refresh=False, console=shown, vertical_overflow="visible") as live:
        while True:
            live.update(_group(seen, shown.width), refresh=True)
            time.sleep(every_s)
            seen = _again(look)


def _again(look: Callable[[], Look]) -> Look:
    try:
        return look()
    except Unavailable as error:
        return Look(value={"error": error.detail}, table=None, lines=[one_line(error.detail)], status=error.exit_status)


def _print(seen: Look, *, as_json: bool, compact: bool = False) -> None:
    if as_json:
        print(json.dumps(seen.value, indent=None if compact else 2), flush=True)
        return
    if seen.table is not None:
        from ops.show import print_table

        print_table(seen.table)
    for line in seen.lines:  # not by the console, which would break them: each is one line, for grep too
        print(line)
    sys.stdout.flush()


def _group(seen: Look, width: int) -> "Group":
    from rich.console import Group
    from rich.text import Text

    from ops.narrow import fitted

    parts: list[Any] = [] if seen.table is None else [fitted(seen.table, width)]
    return Group(*parts, *(Text(line) for line in seen.lines))
