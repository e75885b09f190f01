"""A table on a terminal that is narrower than it: columns give way one by one, and it is said which."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Column, Table

FOLDED = frozenset({"name", "image", "caption", "flags", "tenants", "model", "canary"})
"""These are broken into lines, down to so many columns, before another one gives way."""
FOLDED_TO = 12
GAP = 3
"""Columns of the terminal that a column takes besides its text."""
FIRST_TO_GO = (
    *("recycled", "on device", "host", "seen", "since", "memory"),
    *("sent", "taken", "tenants", "parked"),
    *("created", "left", "pairs/s"),
    *("p_maybe", "p_yes", "flags"),
)


def fitted(made: "Table", width: int) -> "RenderableType":
    """The table itself where it fits; else without the columns that say nothing, then the least important ones.

    rich alone would make columns so narrow that whole ones are empty.
    """
    from rich.console import Group
    from rich.text import Text

    columns = list(made.columns)
    gone: list[str] = []
    order: Iterable[Callable[[Column], bool]] = (
        lambda column: column.header in FIRST_TO_GO and not any(map(str, column.cells)),
        *((lambda column, name=name: column.header == name) for name in FIRST_TO_GO),
    )
    for goes in order:
        if _least(columns) <= width:
            break
        gone += [str(column.header) for column in columns if goes(column)]
        columns = [column for column in columns if not goes(column)]
    if not gone:
        return made
    note = f"no room for {', '.join(gone)} (--json has all)"
    return Group(_of(made, columns), Text(note))


def _least(columns: "Iterable[Column]") -> int:
    """What they take at least without breaking a word that is looked for."""
    return sum(_narrowest(column) + GAP for column in columns)


def _narrowest(column: "Column") -> int:
    from rich.cells import cell_len

    longest = max(cell_len(str(text)) for text in (column.header, *column.cells))
    return min(longest, FOLDED_TO) if column.header in FOLDED else longest


def _of(made: "Table", columns: "list[Column]") -> "Table":
    from rich.table import Table

    narrow = Table(box=made.box, pad_edge=made.pad_edge)
    for column in columns:
        narrow.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap, overflow=column.overflow)
    for cells in zip(*(column.cells for column in columns), strict=True):
        narrow.add_row(*cells)
    return narrow
