"""The micro-batch gives way when memory is short, and comes back."""

from hypothesis import given
from hypothesis import strategies as st

from worker.batching import FITTED_BEFORE_GROWTH, MicroBatch


def fill(batch: MicroBatch, passes: int) -> None:
    for _ in range(passes):
        batch.fitted(batch.size)


def test_it_halves_sticks_and_grows_back() -> None:
    """The next group must not run into the same wall; one moment of need must not slow the whole night."""
    batch = MicroBatch(32)
    batch.did_not_fit(32)
    fill(batch, FITTED_BEFORE_GROWTH - 1)
    assert batch.size == 16
    fill(batch, 1)
    assert batch.size == 32


def test_a_growth_that_fails_is_repeated_later_and_later() -> None:
    """On a device that is just too small every growth costs a failed pass."""
    batch = MicroBatch(8)
    batch.did_not_fit(8)
    waits = []
    for _ in range(4):
        passes = 0
        while batch.size == 4:
            fill(batch, 1)
            passes += 1
        batch.did_not_fit(batch.size)
        waits.append(passes)
    assert waits == [8, 16, 32, 64]


def test_a_growth_that_held_is_not_blamed_for_what_comes_later() -> None:
    """Hours after it grew back somebody else fills the device for a moment: that must not slow the next growth."""
    batch = MicroBatch(8)
    batch.did_not_fit(8)
    fill(batch, FITTED_BEFORE_GROWTH)
    assert batch.size == 8
    fill(batch, FITTED_BEFORE_GROWTH)
    batch.did_not_fit(8)
    fill(batch, FITTED_BEFORE_GROWTH)
    assert batch.size == 8


def test_partial_passes_prove_nothing() -> None:
    """The last group of a chunk is small, and fits where a full one does not."""
    batch = MicroBatch(8)
    batch.did_not_fit(8)
    for _ in range(100):
        batch.fitted(1)
    assert batch.size == 4


@given(most=st.integers(1, 128), told=st.lists(st.tuples(st.booleans(), st.integers(1, 128)), max_size=60))
def test_the_size_stays_between_one_and_the_most(most: int, told: list[tuple[bool, int]]) -> None:
    """No order of good and bad passes leads to an empty batch, or to one larger than was found good."""
    batch = MicroBatch(most)
    for fits, pairs in told:
        if fits:
            batch.fitted(pairs)
        else:
            batch.did_not_fit(pairs)
        assert 1 <= batch.size <= most
