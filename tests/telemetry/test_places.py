"""What is counted by processes that come and go, and by those that are killed while they count."""

import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric

from audit.pair import Row
from audit.policy import Policy
from audit.verdict import Failure, Outcome, Scores, Verdict
from telemetry import metrics
from telemetry.exposition import exposition
from telemetry.metrics import MAIN, forget_places, had_no_room, instruments, meters, share, take_place, totals
from telemetry.places import FIRST, PLACE_BYTES, WORD, Place, Places, value_class
from tests.support.scraping import parsed
from tests.support.waiting import wait_until
from worker.captions import CAPTION_CODES, CAPTION_FLAGS
from worker.images.codes import IMAGE_CODES, IMAGE_FLAGS
from worker.metrics_page import KNOWN


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    forget_places()
    yield
    forget_places()


def forked(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def value(name: str, **labels: str) -> float:
    return parsed(exposition().decode()).value(f"caption_audit_{name}", **labels)


def test_a_replacement_counts_on_where_its_predecessor_was_killed() -> None:
    """A worker replaces its processes for months: nothing may be forgotten, and nothing may pile up."""
    share(2)
    used = set()
    for _ in range(5):

        def work() -> None:
            assert take_place(1)
            meters().failures.labels("file_missing").inc(2)
            meters().stage_seconds.labels("record").observe(0.2)
            os.kill(os.getpid(), signal.SIGKILL)

        assert ended(forked(work)) == -signal.SIGKILL
        assert metrics._places is not None
        used.add(metrics._places.place(2).used_bytes)
    meters().fenced_writes.inc()
    assert value("failures_total", code="file_missing") == 10
    assert value("stage_seconds_count", stage="record") == 5
    assert value("stage_seconds_sum", stage="record") == pytest.approx(1.0)
    assert value("stage_seconds_bucket", stage="record", le="0.1") == 0
    assert value("stage_seconds_bucket", stage="record", le="0.25") == 5
    assert value("fenced_writes_total") == 1
    assert len(used) == 1, "each process has taken more of the place"


def test_a_process_that_is_killed_while_it_counts_loses_the_last_step_at_most() -> None:
    """SIGKILL comes at any moment: the place must stay readable, for the scraper and for the next process."""
    share(1)
    for number in range(20):

        def work(first: int = number * 1_000_000) -> None:
            take_place(0)
            for step in range(1_000_000):
                meters().fenced_writes.inc()
                meters().failures.labels(f"code_{(first + step) % 600}").inc()

        before = value("fenced_writes_total")
        pid = forked(work)
        wait_until(lambda at_least=before + 50: value("fenced_writes_total") > at_least, timeout_s=60, what="counts")  # type: ignore[misc]  # its default
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        assert 0 <= value("fenced_writes_total") - value("failures_total") <= number + 1


def test_a_fork_counts_for_itself_until_it_takes_a_place() -> None:
    """Two processes that add to the same number lose each other's steps, and a lock of the parent's may be held."""
    share(1)
    meters().fenced_writes.inc(5)

    def work() -> None:
        meters().fenced_writes.inc(100)
        take_place(0)
        meters().fenced_writes.inc(10)

    assert ended(forked(work)) == 0
    meters().fenced_writes.inc()
    assert value("fenced_writes_total") == 16


SCRIBBLES = st.one_of(
    st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=64)),
    st.tuples(
        st.integers(0, 20).map(lambda word: WORD * word),
        st.sampled_from((0, 1, 24, 1_000, 4_000, 5_000, 2**62)).map(lambda number: number.to_bytes(WORD, "little")),
    ),
)


@given(st.lists(SCRIBBLES, min_size=1, max_size=5))
def test_what_a_wild_pointer_has_overwritten_stops_nobody(scribbles: list[tuple[int, bytes]]) -> None:
    """Native code may write anywhere before it crashes: reading goes on, and so does the next process's counting."""
    places = Places(1, place_bytes=4096)
    count_some(places.place(0))
    memory = places._of(0)
    for at, text in scribbles:
        memory[at : at + len(text)] = text
    places.totals()
    successor = count_some(places.place(0))
    assert successor.used_bytes <= 4096
    assert count_some(places.place(0)).is_whole, "the second one finds what the first one has mended"


def count_some(place: Place) -> Place:
    kind = value_class(place)
    for code in "abc":
        kind("counter", "m", "m_total", ("code",), (code,), "help").inc(1)
    return place


def test_what_has_no_room_is_dropped_and_told() -> None:
    """A mistake that makes labels of ids must cost numbers, and never a process."""
    places = Places(1, place_bytes=4096)
    kind = value_class(places.place(0))
    for number in range(1_000):
        kind("counter", "m", "m_total", ("id",), (str(number),), "help").inc(1)
    kind("counter", "m", "m_total", ("id",), ("y" * 5_000,), "help").inc(1)
    assert 20 < sum(places.totals().values()) < 100
    assert places.had_no_room()
    share(1)
    assert not had_no_room()


def test_every_instrument_with_every_known_label_fills_half_a_place_at_most() -> None:
    """What has no room is not counted, so there is room for twice of all that is known."""
    share(1)
    take_place(0)
    named = (*CAPTION_CODES, *IMAGE_CODES, *(f"some_longer_failure_code_{number}" for number in range(60)))
    known = {
        **KNOWN,
        "failures": named,
        "images": ("JPEG", "PNG", "WEBP", "GIF", "BMP"),
        "image_flags": (*CAPTION_FLAGS, *IMAGE_FLAGS, *(f"flag_{number}" for number in range(20))),
        "errors": ("model_loading", "preprocess", "inference", "postprocess", "queue", "ledger", "none"),
    }
    metrics.start_at_zero(known)
    labelled = {
        instrument._name.removeprefix("caption_audit_") for instrument in instruments() if instrument._labelnames
    }
    assert labelled == known.keys()
    assert metrics._places is not None
    used = metrics._places.place(1).used_bytes
    assert PLACE_BYTES / 10 < used < PLACE_BYTES / 2, used


def test_a_place_is_told_as_prometheus_client_itself_would() -> None:
    """The format is theirs; what is ours is where the numbers lie."""
    count_everything()
    own = without_times(exposition())
    share(1)
    take_place(0)
    count_everything()
    forked_in = ended(forked(lambda: None))
    assert forked_in == 0
    assert without_times(exposition()) == own
    take_place(MAIN)
    count_everything()
    assert value("verdicts_total", label="Yes") == 2


def count_everything() -> None:
    for instrument in instruments():
        one = instrument.labels("some") if instrument._labelnames else instrument
        one.observe(0.3) if hasattr(one, "observe") else one.inc(2)
    scores = Scores(p_yes=0.9, p_no=0.06, p_maybe=0.04)
    verdict = Outcome(row=Row(1), result=Verdict(scores=scores), cached=True, stage_ms={"decode": 3.0})
    failure = Outcome(row=Row(2), result=Failure(code="file_missing", detail=""), flags=("animated",))
    metrics.count_outcomes([verdict, failure], policy=Policy())


def without_times(page: bytes) -> set[str]:
    """Lines but those that say when a counter was made, which only a single process can tell."""
    return {line for line in page.decode().splitlines() if "_created" not in line}


def test_outcomes_are_counted_by_what_became_of_them() -> None:
    """One line of a dashboard for each."""
    count_everything()
    page = parsed(exposition().decode())
    assert page.by("caption_audit_verdicts_total", "label") == {"some": 2, "Yes": 1}
    assert page.by("caption_audit_failures_total", "code") == {"some": 2, "file_missing": 1}
    assert page.by("caption_audit_cache_lookups_total", "result") == {"some": 2, "hit": 1}
    assert page.by("caption_audit_image_flags_total", "flag") == {"some": 2, "animated": 1}
    assert page.value("caption_audit_stage_seconds_sum", stage="preprocess") == pytest.approx(0.003)
    assert page.value("caption_audit_confidence_bucket", label="Yes", le="0.8") == 0
    assert page.value("caption_audit_confidence_bucket", label="Yes", le="0.9") == 1


def test_without_memory_for_places_everything_else_goes_on() -> None:
    """Counting is no reason to stop judging."""
    with pytest.raises(OSError, match=r"."):
        share(1 << 50)
    meters().fenced_writes.inc()
    assert totals() is None
    assert value("fenced_writes_total") == 1


def test_values_lie_on_whole_words() -> None:
    """A value that crosses a word could be read half written."""
    places = Places(1, place_bytes=4096)
    place = places.place(0)
    assert [place.find("x" * length) for length in range(1, 20)] == sorted(
        {FIRST + sum(2 + -(-before // WORD) for before in range(1, length + 1)) - 1 for length in range(1, 20)}
    )


def _families() -> list[Metric]:
    return [family for instrument in instruments() for family in instrument.describe()]


def test_no_label_is_made_for_an_id() -> None:
    """A label with a value for each batch, pair or process would be a new time series each."""
    labels = {name for instrument in instruments() for name in instrument._labelnames}
    assert labels <= {"label", "code", "result", "format", "flag", "ending", "lane", "reason", "ended", "stage"}
    assert all(family.documentation.endswith(".") for family in _families())


def test_no_bound_of_seconds_is_over_twice_the_one_before() -> None:
    """Where a stage always takes 1.1 ms, a percentile between 1 and 2.5 ms would be read as 2.4: a false alert."""
    pairs = list(pairwise(metrics.SECONDS))
    assert [(one, after) for one, after in pairs if after > 2 * one] == []
    assert metrics.SECONDS[0] <= 0.0005, "a fast device judges a pair in less than a millisecond"
