"""Every look has its own time and its own fate: one that hangs or fails hides no other."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from audit.errors import LedgerUnavailable
from ops.doctor.asking import ask
from ops.doctor.lines import Line, Probe, State, Topic, ok


def probe(name: str, look: Callable[[], Iterator[Line]], *, limit_s: float = 60) -> Probe:
    return Probe(topic=Topic.SQL, name=name, look=look, limit_s=limit_s)


def fine() -> Iterator[Line]:
    yield ok("fine", "as it should be")


def test_a_look_that_hangs_is_a_line_and_keeps_what_it_found() -> None:
    """A database that says nothing is why somebody asks; everything else must still be told."""
    goes_on = threading.Event()

    def hangs() -> Iterator[Line]:
        yield ok("first", "this much was seen")
        goes_on.wait()

    began = time.monotonic()
    told = [line for _, line in ask([probe("hangs", hangs, limit_s=0.2), probe("fine", fine)])]
    goes_on.set()
    assert time.monotonic() - began < 60
    assert [(line.name, line.state) for line in told] == [
        ("first", State.OK),
        ("hangs", State.WRONG),
        ("fine", State.OK),
    ]
    assert told[1].found == "no answer within 0.2 s"


def test_a_look_that_fails_is_a_line_and_no_traceback() -> None:
    """What a check did not expect is what nobody has seen yet: that must not be hidden by its own fault."""

    def fails() -> Iterator[Line]:
        yield from fine()
        raise ZeroDivisionError("by nothing")

    told = [line for _, line in ask([probe("fails", fails), probe("other", fine)])]
    assert [line.name for line in told] == ["fine", "fails", "fine"]
    assert told[1].found == "this check failed (ZeroDivisionError: by nothing)"
    assert told[1].state is State.WRONG


@pytest.mark.parametrize(
    "error", [ValueError("postgresql://me:s3cret@host"), LedgerUnavailable("ledger_unavailable", "s3cret is wrong")]
)
def test_an_errors_text_with_a_password_in_it_is_kept_back(error: Exception) -> None:
    """Texts of other people's errors hold what they were given."""

    def fails() -> Iterator[Line]:
        raise error
        yield

    (line,) = [line for _, line in ask([probe("fails", fails)], secrets=["s3cret"])]
    assert "s3cret" not in line.found
    assert type(error).__name__ in line.found


def test_looks_are_asked_at_once() -> None:
    """Ten checks of five seconds must not take a minute: each waits here for all the others."""
    together = threading.Barrier(4)

    def waits() -> Iterator[Line]:
        together.wait(timeout=60)
        yield from fine()

    assert [line.state for _, line in ask([probe(f"{n}", waits) for n in range(4)])] == [State.OK] * 4
