"""What people and producers do to batches, and the feed: rules of the ledger's machine (ledger_machine.py)."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from audit.errors import UsageError
from audit.message import Lane
from audit.redis_lists import Lying
from db.cancel import cancel_batch
from db.doorbell import Doorbell, Window
from db.engine import Database
from db.feed import feed, unsend
from db.register import discard
from db.retry import retry_failures
from db.sweep import unpark
from tests.support.ledger_bench import LedgerBench
from tests.support.ledger_deeds import MAX_DEATHS, MODELS, RESEND_S, lines, picks, sizes
from tests.support.ledger_promises import check_fed
from tests.support.row_fates import Line
from tests.support.staff import FAR, Staff

MOST_BATCHES = 8


class LedgerBatches(LedgerBench):
    """Batches and messages; both are remembered, and may turn up again at any time."""

    def __init__(self, database: Database, staff: Staff) -> None:
        super().__init__(database, staff)
        self.bells: list[Doorbell] = []

    @initialize(given=lines, chunk_pairs=sizes)
    def a_batch_is_there(self, given: list[Line], chunk_pairs: int) -> None:
        name = self.new_batch(given, chunk_pairs, model="demo", lane="bulk", tenant="ann", priority=0)
        self.register(name, slices=9)

    def open_batches(self) -> list[str]:
        return [name for name, batch in self.reference.batches.items() if batch.state == "open"]

    @precondition(lambda self: len(self.waiting()) < 3 and len(self.given) < MOST_BATCHES)
    @rule(
        given=lines,
        chunk_pairs=sizes,
        model=st.sampled_from(["demo", "demo", "demo", "another"]),
        lane=st.sampled_from(["bulk", "interactive"]),
        tenant=st.sampled_from(["ann", "bob"]),
        priority=st.integers(0, 1),
        slices=st.sampled_from([9, 9, 9, 0, 1]),
    )
    def submit(self, given: list[Line], chunk_pairs: int, slices: int, **options: Any) -> None:
        """A producer, which may end before its last slice."""
        self.register(self.new_batch(given, chunk_pairs, **options), slices)

    @rule(pick=picks, slices=st.integers(0, 4), gives_up=st.booleans())
    def submit_the_same_again(self, pick: int, slices: int, gives_up: bool) -> None:
        """It completes what was abandoned, and changes nothing otherwise; a registration may be given up."""
        name = self.pick_batch(pick)
        self.register(name, slices)
        if gives_up:
            discard(self.database, self.ids[name])
            if self.reference.batches[name].state == "registering":
                del self.ids[name], self.reference.batches[name]

    @precondition(lambda self: self.waiting())
    @rule(
        model=st.sampled_from((*MODELS, MODELS[0])),
        window=st.integers(0, 4),
        slots=st.integers(1, 2),
        looked_at=st.frozensets(st.sampled_from(list(Lane))),
    )
    def feed(self, model: str, window: int, slots: int, looked_at: frozenset[Lane]) -> None:
        """A worker's main process sends what is next, and what is lost of the lanes whose queue it finds empty."""
        lying = {lane: Lying(messages=0, chunks=frozenset()) for lane in looked_at}
        room = Window(chunks=window, slots=slots)
        bells = feed(self.database, model=model, window=room, resend_s=RESEND_S, lying=lying)
        told = [(self.names[bell.batch], int(bell.chunk)) for bell in bells]
        limits = {"window": window, "slots": slots, "resend_s": RESEND_S}
        check_fed(self.reference, told, model=model, looked_at=looked_at, **limits)
        for name, number in told:
            self.reference.sent(name, number)
        self.bells += bells

    @precondition(lambda self: self.bells)
    @rule(pick=picks)
    def a_message_cannot_be_sent(self, pick: int) -> None:
        bell = self.bells.pop(-1 - pick % len(self.bells))
        unsend(self.database, [bell])
        if bell.batch in self.names:
            self.reference.unsend(self.names[bell.batch], bell.chunk)

    @precondition(lambda self: any(chunk.state == "parked" for chunk in self.reference.chunks()))
    @rule()
    def unpark(self) -> None:
        assert unpark(self.database) == self.reference.unpark()

    @precondition(lambda self: self.open_batches() and self.claims)
    @rule(pick=picks, again=st.booleans())
    def cancel(self, pick: int, again: bool) -> None:
        some = self.open_batches()
        name = some[-1 - pick % len(some)]
        for _ in range(1 + again):
            assert cancel_batch(self.database, self.ids[name]) == self.reference.cancel(name)
        for number in self.reference.batches[name].chunks:  # messages of it still lie in Redis
            self.try_to_claim(name, number, FAR[0], MAX_DEATHS)

    @precondition(lambda self: any(batch.failed() for batch in self.reference.batches.values()))
    @rule(pick=picks, code=st.sampled_from([None, None, None, "image_empty", "worker_died"]))
    def retry(self, pick: int, code: str | None) -> None:
        """A person has mended the cause of failures, or hopes so."""
        with_failures = [name for name, batch in self.reference.batches.items() if batch.failed()]
        name = self.pick_batch(pick) if pick % 5 == 4 else with_failures[-1 - pick % len(with_failures)]
        if name not in self.ids:
            return
        try:
            asked: int | str = retry_failures(self.database, self.ids[name], code=code)
        except UsageError as refused:
            asked = refused.code
        assert asked == self.reference.retry(name, code)
