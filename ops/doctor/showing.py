"""The doctor's lines for people and for scripts."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from ops.doctor.lines import Line, State, Topic
from ops.text import counted, one_line

Told = Sequence[tuple[Topic, Line]]
WIDTH = max(len(state) for state in State)


def is_well(told: Told) -> bool:
    """Whether nothing is wrong; warnings are allowed."""
    return all(line.state is not State.WRONG for _, line in told)


def to_json(told: Told) -> dict[str, Any]:
    """For scripts; the names are stable."""
    return {
        "ok": is_well(told),
        "checks": [
            {
                "topic": topic.value,
                "name": line.name,
                "state": line.state.value,
                "found": one_line(line.found),
                "means": one_line(line.means),
                "cure": one_line(line.cure),
            }
            for topic, line in told
        ],
    }


def to_text(told: Told) -> Iterator[str]:
    """A table for people: topic by topic, and at the end one sentence."""
    for topic, lines in groupby(told, key=lambda pair: pair[0]):
        yield topic.value
        for _, line in lines:
            yield from _shown(line)
    yield _summary(told)


def _shown(line: Line) -> Iterator[str]:
    remark = f" ({one_line(line.means)})" if line.means and line.state is State.OK else ""
    yield f"  {line.state.value:<{WIDTH}}  {one_line(line.name)}: {one_line(line.found)}{remark}"
    if line.state is not State.OK:
        margin = " " * (WIDTH + 4)
        yield f"{margin}means: {one_line(line.means)}"
        yield f"{margin}do:    {one_line(line.cure)}"


def _summary(told: Told) -> str:
    numbers = {state: sum(line.state is state for _, line in told) for state in State}
    parts = f"{numbers[State.WRONG]:,} wrong, {counted(numbers[State.WARNING], 'warning')}, {numbers[State.OK]:,} ok"
    return f"{'nothing is wrong' if is_well(told) else 'something is wrong'}: {parts}"
