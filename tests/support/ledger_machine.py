"""Everything that can happen to a ledger, in any order, done to a real one and to the reference (ledger_reference.py).

After each step the two are compared whole. The ledger's clock is the database's and stays so: time passes by moving the
times that are written in its rows into the past, which comes to the same.
"""

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from audit.errors import UsageError
from audit.message import ChunkMessage, Lane
from audit.pair import BatchId, ChunkNumber, Row
from audit.redis_lists import Lying
from db.abandon import abandon
from db.cancel import cancel_batch
from db.claim import claim
from db.doorbell import Doorbell, Window
from db.engine import Database
from db.feed import feed, unsend
from db.lease import Claim, Claimant, mark, release, renew
from db.record import record
from db.register import add_slice, discard, find_or_create, open_batch
from db.retry import retry_failures
from db.sweep import Rules, sweep, unpark
from tests.support.claims import PROVENANCE
from tests.support.ledger_deeds import (
    LEASE_S,
    MAX_DEATHS,
    MODELS,
    MOMENT_S,
    RESEND_S,
    deeds,
    lines,
    numbers,
    outcome_of,
    seats,
    stages,
    tolds,
)
from tests.support.ledger_promises import Promises, check_fed
from tests.support.ledger_reference import Reference
from tests.support.ledger_reference_values import Batch, Held
from tests.support.ledger_whole import differences, whole_ledger, whole_reference
from tests.support.registering import NEW, entry
from tests.support.row_fates import Line
from tests.support.staff import FAR, HERE, Staff


class LedgerMachine(RuleBasedStateMachine):
    """The rules; a batch, a claim and a message that were once there can turn up again at any time."""

    batches: Bundle[str] = Bundle("batches")
    claims: Bundle[tuple[Claim, Held]] = Bundle("claims")
    bells: Bundle[Doorbell] = Bundle("bells")

    def __init__(self, database: Database, staff: Staff) -> None:
        super().__init__()
        self.database, self.staff = database, staff
        self.reference, self.promises = Reference(), Promises()
        self.ids: dict[str, BatchId] = {}
        self.given: dict[str, Batch] = {}
        self.tokens: dict[str, int] = {}
        self._sql("DELETE FROM batches")
        self._sql("DELETE FROM feed_credit")

    @property
    def names(self) -> dict[BatchId, str]:
        """The other way round: what batches are called here."""
        return {batch: name for name, batch in self.ids.items()}

    @initialize(target=batches, given=lines, chunk_pairs=st.integers(1, 3))
    def a_batch_is_there(self, given: list[Line], chunk_pairs: int) -> str:
        name = self._new_batch(given, chunk_pairs, model="demo", lane="bulk", tenant="ann", priority=0)
        self._register(name, slices=9)
        return name

    @rule(
        target=batches,
        given=lines,
        chunk_pairs=st.integers(1, 3),
        model=st.sampled_from(["demo", "demo", "another"]),
        lane=st.sampled_from(["bulk", "interactive"]),
        tenant=st.sampled_from(["ann", "bob"]),
        priority=st.integers(0, 1),
        slices=st.integers(0, 4),
    )
    def submit(self, given: list[Line], chunk_pairs: int, slices: int, **options: Any) -> Any:
        """A producer, which may end before its last slice."""
        if len(self.given) == 3:
            return multiple()
        name = self._new_batch(given, chunk_pairs, **options)
        self._register(name, slices)
        return name

    @rule(name=batches, slices=st.integers(0, 4))
    def submit_the_same_again(self, name: str, slices: int) -> None:
        """It completes what was abandoned, and changes nothing otherwise."""
        self._register(name, slices)

    @rule(name=batches)
    def give_a_registration_up(self, name: str) -> None:
        batch = self.reference.batches.get(name)
        if batch is not None:
            discard(self.database, self.ids[name])
            if batch.state == "registering":
                del self.ids[name], self.reference.batches[name]

    @rule(
        target=bells,
        model=st.sampled_from(MODELS),
        window=st.integers(0, 4),
        slots=st.integers(1, 2),
        looked_at=st.frozensets(st.sampled_from(list(Lane))),
    )
    def feed(self, model: str, window: int, slots: int, looked_at: frozenset[Lane]) -> Any:
        """A worker's main process sends what is next, and what is lost of the lanes whose queue it finds empty."""
        lying = {lane: Lying(messages=0, chunks=frozenset()) for lane in looked_at}
        room = Window(chunks=window, slots=slots)
        bells = feed(self.database, model=model, window=room, resend_s=RESEND_S, lying=lying)
        told = [(self.names[bell.batch], int(bell.chunk)) for bell in bells]
        limits = {"window": window, "slots": slots, "resend_s": RESEND_S}
        check_fed(self.reference, told, model=model, looked_at=looked_at, **limits)
        for name, number in told:
            self.reference.sent(name, number)
        return multiple(*bells)

    @rule(bell=bells)
    def a_message_cannot_be_sent(self, bell: Doorbell) -> None:
        unsend(self.database, [bell])
        if bell.batch in self.names:
            self.reference.unsend(self.names[bell.batch], bell.chunk)

    @rule(target=claims, name=batches, number=numbers, seat=seats, max_deaths=st.sampled_from([MAX_DEATHS, 2]))
    def claim(self, name: str, number: int, seat: str, max_deaths: int) -> Any:
        got = self._claim(name, number, seat, max_deaths)
        return multiple() if got is None else got

    @rule(target=claims, name=batches, number=numbers, seat=st.sampled_from(HERE), deeds=deeds, dies=st.booleans())
    def a_life(self, name: str, number: int, seat: str, deeds: list[Any], dies: bool) -> Any:
        """Claim, do some work, and die or hang: what leads to blame, in one step."""
        got = self._claim(name, number, seat, MAX_DEATHS)
        if got is None:
            return multiple()
        for deed in deeds:
            if isinstance(deed, dict):
                self.record(got, deed)
            else:
                self.mark(got, *deed)
        if dies:
            self.die(seat)
        else:
            self.time_passes(3)
        return got

    @rule(one=claims)
    def renew(self, one: tuple[Claim, Held]) -> None:
        assert renew(self.database, one[0]) == self.reference.renew(one[1], lease_s=LEASE_S)

    @rule(one=claims, number=numbers, stage=stages)
    def mark(self, one: tuple[Claim, Held], number: int, stage: str) -> None:
        """Careful mode: before a pair is touched, it is written down."""
        real, held = one
        batch = self.reference.batches[held.batch]
        rows = [row for row in held.rows if row not in batch.outcomes or row in batch.retries & held.retried]
        if not rows:
            return
        row = rows[number % len(rows)]
        expected = self.reference.renew(held, lease_s=LEASE_S, marker=(row, stage))
        assert mark(self.database, real, row=Row(row), stage=stage) == expected

    @rule(one=claims, told=tolds)
    def record(self, one: tuple[Claim, Held], told: dict[int, str]) -> None:
        """Some outcomes or all; also twice, and by those who were taken for dead."""
        real, held = one
        chosen = {held.rows[number % len(held.rows)]: label for number, label in told.items()}
        results = [outcome_of(row, label) for row, label in chosen.items()]
        expected = self.reference.record(held, chosen, lease_s=LEASE_S)
        assert record(self.database, real, results) == expected

    @rule(one=claims, told=st.sampled_from(["Yes", "No", "image_empty"]))
    def record_all(self, one: tuple[Claim, Held], told: str) -> None:
        self.record(one, dict.fromkeys(range(len(one[1].rows)), told))

    @rule(one=claims, charge=st.booleans())
    def release(self, one: tuple[Claim, Held], charge: bool) -> None:
        real, held = one
        expected = self.reference.release(held, charge=charge, max_deaths=real.claimant.max_deaths)
        assert release(self.database, real, charge=charge) == expected

    @rule(seat=seats)
    def die(self, seat: str) -> None:
        """Whoever sits there ends; of another host nobody here can know."""
        name = self.staff.die(seat)
        if seat not in FAR:
            self.reference.dead.add(name)

    @rule(seat=st.sampled_from(HERE))
    def its_own_worker_kills_it(self, seat: str) -> None:
        """At the end of its grace period, say: nobody's fault, and no attempt."""
        holder, name = self.staff.holder(seat), self.staff.die(seat)
        self.reference.dead.add(name)
        assert abandon(self.database, holder) == self.reference.abandon(name)

    @rule(moments=st.integers(1, 4))
    def time_passes(self, moments: int) -> None:
        seconds = moments * MOMENT_S
        self.reference.now += seconds
        self._sql(f"UPDATE chunks SET lease_until = lease_until - {seconds}, sent_at = sent_at - {seconds}")

    @rule(trust_leases=st.sampled_from([True, True, False]), killed=st.frozensets(st.sampled_from(HERE)))
    def sweep(self, trust_leases: bool, killed: frozenset[str]) -> None:
        overdue = frozenset(self.staff.name(seat) for seat in killed)
        holders = frozenset((one.pid, one.started) for one in map(self.staff.holder, killed))
        rules = Rules(max_deaths=MAX_DEATHS, trust_leases=trust_leases, overdue=holders)
        names = {batch: name for name, batch in self.ids.items()}
        buried = {
            (names[one.batch], int(one.chunk), one.cause.value, one.parked) for one in sweep(self.database, rules)
        }
        assert buried == self.reference.sweep(trust_leases=trust_leases, overdue=overdue, max_deaths=MAX_DEATHS)

    @rule()
    def unpark(self) -> None:
        assert unpark(self.database) == self.reference.unpark()

    @rule(name=batches)
    def cancel(self, name: str) -> None:
        if name in self.ids:
            assert cancel_batch(self.database, self.ids[name]) == self.reference.cancel(name)

    @rule(name=batches, code=st.sampled_from([None, None, "image_empty", "worker_died"]))
    def retry(self, name: str, code: str | None) -> None:
        """A person has mended the cause of failures, or hopes so."""
        if name not in self.ids:
            return
        try:
            asked: int | str = retry_failures(self.database, self.ids[name], code=code)
        except UsageError as refused:
            asked = refused.code
        assert asked == self.reference.retry(name, code)

    @invariant()
    def the_ledger_is_as_the_reference_says(self) -> None:
        seen, expected = whole_ledger(self.database, self.names, self.tokens), whole_reference(self.reference)
        assert seen == expected, "\n".join(differences(seen, expected))
        self.promises.check(seen)

    def _new_batch(self, given: list[Line], chunk_pairs: int, **options: Any) -> str:
        name = f"batch-{len(self.given)}"
        self.given[name] = Batch(lines=given, chunk_pairs=chunk_pairs, **options)
        return name

    def _register(self, name: str, slices: int) -> None:
        """From the manifest's start, as any submit command does, for so many slices."""
        given = self.given[name]
        options = {key: getattr(given, key) for key in ("tenant", "model", "priority")}
        found = find_or_create(self.database, replace(NEW, key=name, lane=Lane(given.lane), **options))
        self.ids[name] = found.batch
        batch = self.reference.batches.setdefault(name, given.unregistered())
        done = sum(len(chunk.rows) for chunk in batch.chunks.values())
        assert (found.state, found.next_row) == (batch.state, done)
        if batch.state != "registering":
            return
        entries = [
            entry(row, id_, caption, "bad" if bad else None) for row, (id_, caption, bad) in enumerate(given.lines)
        ]
        for first in range(0, len(entries), given.chunk_pairs)[:slices]:
            some = entries[first : first + given.chunk_pairs]
            if first >= done:
                self.reference.add_slice(name, range(first, first + len(some)))
                done += len(some)
            assert add_slice(self.database, found.batch, some, chunk_pairs=given.chunk_pairs) == done
        if done == len(entries):
            assert open_batch(self.database, found.batch)
            batch.state = "open"

    def _claim(self, name: str, number: int, seat: str, max_deaths: int) -> tuple[Claim, Held] | None:
        who = replace(PROVENANCE, worker=self.staff.name(seat))
        claimant = Claimant(holder=self.staff.holder(seat), provenance=who, lease_s=LEASE_S, max_deaths=max_deaths)
        if seat in FAR:
            self.reference.far.add(who.worker)
        message = ChunkMessage(batch=self.ids.get(name, BatchId(999_999_999)), chunk=ChunkNumber(number))
        got = claim(self.database, message, claimant)
        expected = self.reference.claim(
            name, number, worker=who.worker, model=who.model, lease_s=LEASE_S, max_deaths=max_deaths
        )
        if not isinstance(got, Claim) or isinstance(expected, str):
            assert got == expected
            return None
        rows = tuple(int(pair.row) for pair in got.pairs)
        told = (got.attempt, got.careful, rows, got.suspects, got.retried)
        assert told == (expected.attempt, expected.careful, expected.rows, expected.suspects, expected.retried)
        self.tokens[got.token] = expected.token
        return got, expected

    def _sql(self, statement: str) -> None:
        self.database.transact(lambda connection: connection.execute(text(statement)))


def run_machine(database: Database, staff: Staff, limits: settings) -> None:
    """So many examples; what fails is shrunk, and printed with what repeats it."""

    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(database, staff)

    run_state_machine_as_test(Machine, settings=limits)
