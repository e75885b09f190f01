"""Everything that can happen to a ledger, in any order, done to a real one and to the reference (ledger_reference.py).

After each step the two are compared whole. The ledger's clock is the database's and stays so: time passes by moving the
times that are written in its rows into the past, which comes to the same.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from sqlalchemy import event

from audit.holder import this_process
from audit.pair import Row
from db.abandon import abandon
from db.death import Cause, Death
from db.engine import Database
from db.lease import mark, release, renew
from db.record import record
from db.sweep import Rules, sweep
from tests.support.ledger_batches import LedgerBatches
from tests.support.ledger_bench import Taken
from tests.support.ledger_deeds import (
    A_SLOT,
    LEASE_S,
    MAX_DEATHS,
    MOMENT_S,
    deeds,
    ends,
    falls,
    labels,
    numbers,
    outcome_of,
    picks,
    seats,
    stages,
    tolds,
)
from tests.support.ledger_reference import ELSEWHERE_S
from tests.support.ledger_reference_values import Fall
from tests.support.staff import FAR, HERE, Staff

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation, which traces every line and takes minutes."""
HURRY = {"sqlite": "PRAGMA synchronous=OFF", "postgresql": "SET synchronous_commit=off"}
"""No power is cut here, and a commit that does not wait for the disk takes a tenth of the time."""
some_claim = precondition(lambda self: self.claims)
some_holder = precondition(lambda self: self.standing()["valid"])
some_work = precondition(lambda self: self.waiting())


class LedgerMachine(LedgerBatches):
    """Workers, their deaths, and sweeping; a claim that was once given can turn up again at any time."""

    @initialize()
    def both_slots_tell_of_themselves(self) -> None:
        self.other_slots_come_and_go(frozenset(HERE))

    @rule(slots=st.frozensets(st.sampled_from(HERE)))
    def other_slots_come_and_go(self, slots: frozenset[str]) -> None:
        self.reference.slots = set(slots)
        told = [A_SLOT.format(slot=slot.removeprefix("here:")) for slot in sorted(slots)]
        self.sql("DELETE FROM workers", *told)

    @some_work
    @rule(pick=picks, seat=seats, max_deaths=st.sampled_from([MAX_DEATHS, MAX_DEATHS, 2]))
    def claim(self, pick: int, seat: str, max_deaths: int) -> None:
        self.try_to_claim(*self.pick_chunk(pick), seat, max_deaths)

    @some_work
    @rule(pick=picks, seat=seats, told=labels)
    def judge(self, pick: int, seat: str, told: str) -> None:
        """A whole chunk, and nothing goes wrong."""
        got = self.try_to_claim(*self.pick_chunk(pick), seat, MAX_DEATHS)
        if got is not None:
            self._record_all(got, told)

    @some_work
    @rule(pick=picks, seat=seats, deeds=deeds, end=ends, fall=st.none() | falls)
    def a_life(self, pick: int, seat: str, deeds: list[Any], end: str, fall: Fall | None) -> None:
        """Claim, do some work, and die or hang: what leads to blame, in one step."""
        got = self.try_to_claim(*self.pick_chunk(pick), seat, MAX_DEATHS)
        if got is None:
            return
        for deed in deeds:
            if isinstance(deed, dict):
                self._record(got, deed)
            else:
                self._mark(got, *deed)
        self._end(seat, end)
        if fall is not None:
            self.sweep(trust_leases=True, keeper=True, fall=fall)

    @some_work
    @rule(pick=picks, seat=seats, times=st.integers(2, 3), fall=falls)
    def one_after_the_other_dies(self, pick: int, seat: str, times: int, fall: Fall) -> None:
        """Nobody knows of what, until the chunk is parked."""
        chunk = self.pick_chunk(pick)
        for _ in range(times):
            if self.try_to_claim(*chunk, seat, MAX_DEATHS) is not None:
                self._end(seat, "dies")
                self.time_passes(3)
                self.sweep(trust_leases=True, keeper=True, fall=fall)

    @precondition(lambda self: any(batch.failed() for batch in self.reference.batches.values()))
    @rule(seat=seats, told=labels)
    def what_failed_is_judged_again(self, seat: str, told: str) -> None:
        """A retry, and nothing goes wrong."""
        self.retry(0, None)
        for name, number in self.waiting():
            batch = self.reference.batches[name]
            if batch.retried(batch.chunks[number]):
                got = self.try_to_claim(name, number, seat, MAX_DEATHS)
                if got is not None:
                    self._record_all(got, told)

    @some_holder
    @rule(pick=picks, end=ends, fall=falls, seat=seats)
    def somebody_else_takes_over(self, pick: int, end: str, fall: Fall, seat: str) -> None:
        """Who holds a chunk dies, hangs or is only slow; the chunk is another's then, and the first may come late."""
        _, held = self.pick_claim(pick)
        self._end(held.slot, end)
        if end == "hangs":  # or the ledger was away: nobody's lease counts yet
            self.sweep(trust_leases=False, keeper=True, fall=fall)
        self.sweep(trust_leases=True, keeper=True, fall=fall)
        self.try_to_claim(held.batch, held.chunk, seat, MAX_DEATHS)

    @some_claim
    @rule(pick=picks, deed=st.sampled_from(["renew", "release", "charge", "record", "record"]), told=labels)
    def somebody_comes_late(self, pick: int, deed: str, told: str) -> None:
        """Whose claim is over, or another's: it was slow, stopped, or thinks that its COMMIT was lost."""
        groups = self.standing()
        others = groups["overtaken"] + groups["over"] or self.claims
        one = others[-1 - pick % len(others)]
        if deed == "record":
            self._record_all(one, told)
        elif deed == "renew":
            assert renew(self.database, one[0]) == self.reference.renew(one[1], lease_s=LEASE_S)
        else:
            self._release(one, charge=deed == "charge")

    @some_holder
    @rule(pick=picks)
    def renew(self, pick: int) -> None:
        real, held = self.pick_claim(pick)
        assert renew(self.database, real) == self.reference.renew(held, lease_s=LEASE_S)

    @some_holder
    @rule(pick=picks, number=numbers, stage=stages)
    def mark(self, pick: int, number: int, stage: str) -> None:
        self._mark(self.pick_claim(pick), number, stage)

    @some_holder
    @rule(pick=picks, told=tolds, again=st.booleans())
    def record(self, pick: int, told: dict[int, str], again: bool) -> None:
        """Some outcomes; also twice, as after a COMMIT whose answer was lost, and by those who were taken for dead."""
        one = self.pick_claim(pick)
        self._record(one, told)
        if again:
            self._record(one, told)

    @some_holder
    @rule(pick=picks, told=labels)
    def record_all(self, pick: int, told: str) -> None:
        self._record_all(self.pick_claim(pick), told)

    @some_holder
    @rule(pick=picks, charge=st.booleans())
    def release(self, pick: int, charge: bool) -> None:
        self._release(self.pick_claim(pick), charge)

    def _release(self, one: Taken, charge: bool) -> None:
        real, held = one
        expected = self.reference.release(held, charge=charge, max_deaths=real.claimant.max_deaths)
        assert release(self.database, real, charge=charge) == expected

    @some_holder
    @rule(pick=picks)
    def die(self, pick: int) -> None:
        self._end(self.pick_claim(pick)[1].slot, "dies")

    @some_holder
    @rule(pick=picks)
    def its_own_worker_kills_it(self, pick: int) -> None:
        """At the end of its grace period, say: nobody's fault, and no attempt."""
        seat = self.pick_claim(pick)[1].slot
        holder, name = self.staff.holder(seat), self.staff.die(seat)
        self.reference.dead.add(name)
        assert abandon(self.database, holder) == self.reference.abandon(name)

    @rule(moments=st.integers(1, 4))
    def time_passes(self, moments: int) -> None:
        seconds = moments * MOMENT_S
        self.reference.now += seconds
        times = ", ".join(f"{name} = {name} - {seconds}" for name in ("lease_until", "sent_at", "done_at"))
        self.sql(f"UPDATE chunks SET {times}", f"UPDATE suspects SET died_at = died_at - {seconds}")

    @some_holder
    @rule(trust_leases=st.booleans(), keeper=st.booleans(), fall=falls)
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

    def _end(self, seat: str, how: str) -> None:
        """Whoever sits there ends, or does nothing any more; of another host nobody here can know that one is dead."""
        if how == "dies":
            name = self.staff.die(seat)
            if seat not in FAR:
                self.reference.dead.add(name)
        elif how == "hangs":
            self.time_passes(3)

    def _mark(self, one: Taken, number: int, stage: str) -> None:
        """Careful mode: before a pair is touched, it is written down."""
        real, held = one
        batch = self.reference.batches[held.batch]
        rows = [row for row in held.rows if row not in batch.outcomes or row in batch.retries & held.retried]
        if rows:
            row = rows[number % len(rows)]
            expected = self.reference.renew(held, lease_s=LEASE_S, marker=(row, stage))
            assert mark(self.database, real, row=Row(row), stage=stage) == expected

    def _record(self, one: Taken, told: dict[int, str]) -> None:
        real, held = one
        chosen = {held.rows[number % len(held.rows)]: label for number, label in told.items()}
        results = [outcome_of(row, label) for row, label in chosen.items()]
        expected = self.reference.record(held, chosen, lease_s=LEASE_S)
        assert record(self.database, real, results) == expected

    def _record_all(self, one: Taken, told: str) -> None:
        self._record(one, dict.fromkeys(range(len(one[1].rows)), told))


def run_machine(database: Database, *, examples: int, steps: int) -> None:
    """So many examples; one that fails is shrunk, and printed with what repeats it."""
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=PHASES,
        print_blob=True,
        report_multiple_bugs=False,
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
