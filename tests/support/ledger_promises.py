"""What a ledger promises at every moment, told without the reference; and what the feed may send."""

from collections.abc import Container, Sequence
from typing import Any

from tests.support.ledger_reference import Reference
from tests.support.ledger_reference_values import Chunk

DEADLY = ("decoder_crashed", "worker_died", "timed_out")


class Promises:
    """Remembers what may not change any more."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, int], Any] = {}
        self._cancelled: set[tuple[str, int]] = set()

    def check(self, ledger: dict[str, Any]) -> None:
        """Raises AssertionError when a promise is broken."""
        for name, batch in ledger.items():
            assert set(batch["outcomes"]) <= set(batch["pairs"])
            for row, outcome in batch["outcomes"].items():
                if outcome[0] in ("Yes", "No", "Maybe"):
                    assert self._verdicts.setdefault((name, row), outcome) == outcome, "a verdict has changed"
            for number, chunk in batch["chunks"].items():
                assert (name, number) not in self._cancelled or chunk["state"] == "cancelled", "revived"
                if chunk["state"] == "cancelled":
                    self._cancelled.add((name, number))
        for name, row in self._verdicts:
            assert row in ledger[name]["outcomes"], "a verdict is gone"


def check_sums(seen: dict[str, Any]) -> None:
    """Of what people see: every pair is counted once."""
    for batch in seen.values():
        progress = batch["progress"]
        judged = progress["Yes"] + progress["No"] + progress["Maybe"] + progress["failed"]
        assert progress["submitted"] == judged + progress["cancelled"] + progress["remaining"]


def check_fed(
    reference: Reference,
    told: Sequence[tuple[str, int]],
    *,
    model: str,
    window: int,
    slots: int,
    resend_s: int,
    looked_at: Container[str],
) -> None:
    """What was fed was due, and the window is used; raises AssertionError otherwise.

    Whose turn it is, is for tests/db/test_feed.py and its like. `looked_at` are lanes whose queue is known to be empty.
    """
    assert len(set(told)) == len(told), "a chunk was sent twice at once"
    ours = {
        (name, number): chunk
        for name, batch in reference.batches.items()
        if (batch.state, batch.model) == ("open", model)
        for number, chunk in batch.chunks.items()
    }
    assert all(key in ours for key in told)
    for lane in ("interactive", "bulk"):
        of_lane = {key: chunk for key, chunk in ours.items() if reference.batches[key[0]].lane == lane}
        chosen = {key for key in told if key in of_lane}
        sent = {key for key, chunk in of_lane.items() if chunk.state == "sent"}
        pending = {key for key, chunk in of_lane.items() if chunk.state == "pending"}
        lost = {key for key in sent if lane in looked_at and _is_lost(of_lane[key], reference.now, resend_s)}
        assert chosen <= sent | pending
        assert lost <= chosen, "a lost message was not sent again"
        starving = len((chosen & sent) - lost)
        assert starving <= (lane == "bulk"), "a message that is not lost was sent again"
        assert len(chosen & pending) <= max(0, window) + 2 * slots
        assert len(chosen & pending) >= min(len(pending), window - len(sent)), "there is room in the window"


def _is_lost(chunk: Chunk, now: int, resend_s: int) -> bool:
    patience_s: int = resend_s * 2 ** min(chunk.sends - 1, 2)
    return now - chunk.sent_at > patience_s
