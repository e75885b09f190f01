"""Tables on a terminal that is too narrow for them."""

from io import StringIO

from rich.console import Console

from ops.narrow import fitted
from ops.show import add_row, table

NAMES = ("host", "worker", "slot", "device", "model", "state", "chunk", "since", "canary", "deaths", "recycled", "seen")
ROW = ("vm", "13960", "0", "cpu", "demo", "idle", "batch 12, 7", "4.0 s", "passed 20 s ago", "0", "0", "3.7 s ago")


def shown(width: int, *rows: tuple[str, ...], names: tuple[str, ...] = NAMES) -> str:
    made = table(*names)
    for row in rows:
        add_row(made, *row)
    output = StringIO()
    console = Console(file=output, width=width, highlight=False)
    console.print(fitted(made, width))
    return output.getvalue()


def test_a_table_of_80_columns_keeps_whole_what_it_is_looked_at_for() -> None:
    """Whoever types `workers` in a plain terminal wants the state and the canary, not a row of empty columns."""
    text = shown(80, ROW)

    assert all(len(line) <= 80 for line in text.splitlines())
    assert [word for word in ("13960", "idle", "passed 20 s", "deaths", "batch 12, 7") if word not in text] == []
    assert "\nno room for recycled, host" in text


def test_columns_that_say_nothing_go_first() -> None:
    """A column that is empty in each row costs the reader nothing."""
    empty = {"since": "", "host": ""}
    row = tuple(empty.get(name, cell) for name, cell in zip(NAMES, ROW, strict=True))

    assert shown(95, row).splitlines()[-1] == "no room for host, since, recycled (--json has all)"


def test_a_table_that_fits_is_shown_as_it_is() -> None:
    """What a pipe reads stays the same, also where columns are empty."""
    assert "no room" not in shown(160, ROW)
    assert "recycled" in shown(160, ROW)


def test_captions_are_folded_before_a_probability_goes() -> None:
    """Pairs are found by their id, which has to be copied whole."""
    names = ("id", "image", "caption", "label", "p_no")
    text = shown(70, ("drawn-0028", "pictures/0028.jpg", "here are green houses and " * 4, "No", "1.000"), names=names)

    assert "drawn-0028" in text
    assert "no room" not in text
