"""Looks of the doctor, asked directly, and lines found by their names."""

from collections.abc import Callable, Iterable

import pytest

from ops.doctor.lines import Line, State

Named = Callable[[Iterable[Line], str], Line]
LIMIT_S = 60.0
"""Time is no subject of these tests, but for those of time."""


@pytest.fixture
def named() -> Named:
    """The one line with that name."""

    def find(lines: Iterable[Line], name: str) -> Line:
        told = list(lines)
        found = [line for line in told if line.name == name]
        assert len(found) == 1, told
        assert bool(found[0].cure) == bool(found[0].state is not State.OK), "a trouble without a cure"
        assert found[0].means or found[0].state is State.OK, "a trouble that means nothing"
        return found[0]

    return find
