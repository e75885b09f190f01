"""Everything that can happen to a ledger, in any order, done to a real one and to the reference (ledger_reference.py).

After each step the two are compared whole. The ledger's clock is the database's and stays so: time passes by moving the
times that are written in its rows into the past, which comes to the same.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event

from audit.errors import UsageError
from audit.holder import this_process
from audit.message import Lane
from audit.pair import Row
from audit.redis_lists import Lying
from db.abandon import abandon
from db.cancel import cancel_batch
from db.death import Cause, Death
from db.doorbell import Doorbell, Window
from db.engine import Database
from db.feed import feed, unsend
from db.lease import Claim, mark, release, renew
from db.record import record
from db.register import discard
from db.retry import retry_failures
from db.sweep import Rules, sweep, unpark
from tests.support.ledger_bench import LedgerBench
from tests.support.ledger_deeds import (
    A_SLOT,
    LEASE_S,
    MAX_DEATHS,
    MODELS,
    MOMENT_S,
    RESEND_S,
    deeds,
    falls,
    lines,
    numbers,
    outcome_of,
    seats,
    stages,
    tolds,
)
from tests.support.ledger_promises import check_fed
from tests.support.ledger_reference import ELSEWHERE_S
from tests.support.ledger_reference_values import Fall, Held
from tests.support.row_fates import Line
from tests.support.staff import FAR, HERE, Staff

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation, which traces every line and takes minutes."""
HURRY = {"sqlite": "PRAGMA synchronous=OFF", "postgresql": "SET synchronous_commit=off"}
"""No power is cut here, and a commit that does not wait for the disk takes a tenth of the time."""


class LedgerMachine(LedgerBench):
    """The rules; a batch, a claim and a message that were once there can turn up again at any time."""

    batches: Bundle[str] = Bundle("batches")
    claims: Bundle[tuple[Claim, Held]] = Bundle("claims")
    bells: Bundle[Doorbell] = Bundle("bells")

    @initialize(target=batches, given=lines, chunk_pairs=st.integers(1, 3))
    def a_batch_is_there(self, given: list[Line], chunk_pairs: int) -> str:
        name = self.new_batch(given, chunk_pairs, model="demo", lane="bulk", tenant="ann", priority=0)
        self.register(name, slices=9)
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
        name = self.new_batch(given, chunk_pairs, **options)
        self.register(name, slices)
        return name

    @rule(name=batches, slices=st.integers(0, 4))
    def submit_the_same_again(self, name: str, slices: int) -> None:
        """It completes what was abandoned, and changes nothing otherwise."""
        self.register(name, slices)

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
        got = self.try_to_claim(name, number, seat, max_deaths)
        return multiple() if got is None else got

    @rule(target=claims, name=batches, number=numbers, seat=st.sampled_from(HERE), deeds=deeds, dies=st.booleans())
    def a_life(self, name: str, number: int, seat: str, deeds: list[Any], dies: bool) -> Any:
        """Claim, do some work, and die or hang: what leads to blame, in one step."""
        got = self.try_to_claim(name, number, seat, MAX_DEATHS)
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
        self.sql(f"UPDATE chunks SET lease_until = lease_until - {seconds}, sent_at = sent_at - {seconds}")
        self.sql(f"UPDATE suspects SET died_at = died_at - {seconds}")

    @rule(trust_leases=st.sampled_from([True, True, False]), keeper=st.booleans(), fall=falls)
    def sweep(self, trust_leases: bool, keeper: bool, fall: Fall) -> None:
        """By a worker's main process, which knows how its own processes ended, or by another one."""
        known = {name: fall for name in self.staff.dead if name in self.reference.kept}
        death = Death(cause=Cause(fall.cause), certain=fall.certain, hand=fall.hand)
        holders = {(self.staff.dead[name].pid, self.staff.dead[name].started): death for name in known}
        me = this_process() if keeper else None
        rules = Rules(max_deaths=MAX_DEATHS, trust_leases=trust_leases, keeper=me, known=holders)
        buried = {
            (self.names[one.batch], int(one.chunk), one.cause.value, one.parked) for one in sweep(self.database, rules)
        }
        assert buried == self.reference.sweep(
            trust_leases=trust_leases, keeper=keeper, known=known, max_deaths=MAX_DEATHS
        )

    @rule(slots=st.frozensets(st.sampled_from(HERE)))
    def other_slots_come_and_go(self, slots: frozenset[str]) -> None:
        self.reference.slots = set(slots)
        self.sql("DELETE FROM workers")
        for slot in slots:
            self.sql(A_SLOT.format(slot=slot.removeprefix("here:")))

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


def run_machine(database: Database, *, examples: int, steps: int) -> None:
    """So many examples; one that fails is shrunk, and printed with what repeats it."""
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=PHASES,
        print_blob=True,
        derandomize=False,
        deadline=None,  # a shared machine is slow now and then: that is no failure
        suppress_health_check=list(HealthCheck),
    )
    staff = Staff()

    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(database, staff)

    @event.listens_for(database.engine, "connect")
    def hurry(connection: Any, _: object) -> None:
        connection.execute(HURRY[database.engine.dialect.name])
        connection.commit()

    with pytest.MonkeyPatch.context() as patch:
        # Longer than any machine takes from a death to the next claim, and shorter than a moment of this one.
        patch.setattr("db.claim.ELSEWHERE_S", float(ELSEWHERE_S))
        try:
            run_state_machine_as_test(Machine, settings=limits)
        finally:
            staff.close()
