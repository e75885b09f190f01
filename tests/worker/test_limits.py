"""The soft limit is raised where it may be, and never inside of what must end first."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from worker.limits import SoftLimit


@pytest.fixture
def limit() -> Iterator[SoftLimit]:
    """Installed, as in a pool process; the test process gets its own handler back."""
    before = signal.getsignal(signal.SIGUSR1)
    installed = SoftLimit()
    installed.install()
    yield installed
    signal.signal(signal.SIGUSR1, before)


def section(limit: SoftLimit, *, error: Exception | None = None) -> list[int]:
    """The signal arrives in the middle of a section, which then ends, well or badly."""
    done: list[int] = []
    with limit.deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
        done += [number for number in range(1000) if str(number)]
        if error is not None:
            raise error
    return done


def test_outside_of_a_section_it_is_raised_at_once(limit: SoftLimit) -> None:
    """Judging can be interrupted anywhere."""
    with pytest.raises(SoftTimeLimitExceeded):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_section_ends_first_whichever_thread_the_kernel_chooses(limit: SoftLimit) -> None:
    """Decode threads take the signal as well as the main one; a transaction must not be cut in two."""
    with ThreadPoolExecutor(4) as decoders:
        list(decoders.map(str, range(8)))
        with pytest.raises(SoftTimeLimitExceeded) as raised:
            section(limit)
    inside = raised.traceback[1].locals  # the section's own frame, as the limit left it
    assert len(inside["done"]) == 1000


def test_an_error_of_the_section_is_not_hidden_by_the_limit(limit: SoftLimit) -> None:
    """The caller must hear that the ledger is away; the limit comes at the end of the next section."""
    with pytest.raises(ValueError, match="away"):
        section(limit, error=ValueError("away"))
    with pytest.raises(SoftTimeLimitExceeded):
        section(limit)


def test_a_limit_that_came_too_late_does_not_end_the_next_chunk(limit: SoftLimit) -> None:
    """Each chunk begins with a clean slate."""
    with pytest.raises(ValueError, match="away"):
        section(limit, error=ValueError("away"))
    limit.install()
    with limit.deferred():
        pass
