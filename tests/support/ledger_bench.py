"""A real ledger and the reference beside it, and comparing them; the rules are in ledger_machine.py."""

from dataclasses import replace
from typing import Any

from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
)
from sqlalchemy import text

from audit.holder import this_process
from audit.message import ChunkMessage, Lane
from audit.pair import BatchId, ChunkNumber
from db.claim import claim
from db.engine import Database
from db.lease import Claim, Claimant
from db.register import add_slice, find_or_create, open_batch
from tests.support.claims import PROVENANCE
from tests.support.ledger_deeds import (
    LEASE_S,
)
from tests.support.ledger_promises import Promises
from tests.support.ledger_reference import Reference
from tests.support.ledger_reference_values import Batch, Held, Worker
from tests.support.ledger_whole import differences, whole_ledger, whole_reference
from tests.support.registering import NEW, entry
from tests.support.row_fates import Line
from tests.support.staff import FAR, KEPT, Staff


class LedgerBench(RuleBasedStateMachine):
    """Both ledgers, who works at them, and what batches and tokens of the one are called in the other."""

    def __init__(self, database: Database, staff: Staff) -> None:
        super().__init__()
        self.database, self.staff = database, staff
        self.reference, self.promises = Reference(), Promises()
        self.ids: dict[str, BatchId] = {}
        self.given: dict[str, Batch] = {}
        self.tokens: dict[str, int] = {}
        self.sql("DELETE FROM batches")
        self.sql("DELETE FROM feed_credit")
        self.sql("DELETE FROM workers")

    @property
    def names(self) -> dict[BatchId, str]:
        """The other way round: what batches are called here."""
        return {batch: name for name, batch in self.ids.items()}

    @invariant()
    def the_ledger_is_as_the_reference_says(self) -> None:
        seen, expected = whole_ledger(self.database, self.names, self.tokens), whole_reference(self.reference)
        assert seen == expected, "\n".join(differences(seen, expected))
        self.promises.check(seen)

    def new_batch(self, given: list[Line], chunk_pairs: int, **options: Any) -> str:
        name = f"batch-{len(self.given)}"
        self.given[name] = Batch(lines=given, chunk_pairs=chunk_pairs, **options)
        return name

    def register(self, name: str, slices: int) -> None:
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

    def try_to_claim(self, name: str, number: int, seat: str, max_deaths: int) -> tuple[Claim, Held] | None:
        who = Worker(name=self.staff.name(seat), slot=seat)
        if seat in FAR:
            self.reference.far.add(who.name)
        if seat == KEPT:
            self.reference.kept.add(who.name)
        claimant = Claimant(
            holder=self.staff.holder(seat),
            keeper=this_process() if seat == KEPT else None,
            provenance=replace(PROVENANCE, worker=seat),
            lease_s=LEASE_S,
            max_deaths=max_deaths,
        )
        message = ChunkMessage(batch=self.ids.get(name, BatchId(999_999_999)), chunk=ChunkNumber(number))
        got = claim(self.database, message, claimant)
        expected = self.reference.claim(
            name, number, worker=who, model=PROVENANCE.model, lease_s=LEASE_S, max_deaths=max_deaths
        )
        if not isinstance(got, Claim) or isinstance(expected, str):
            assert got == expected
            return None
        rows = tuple(int(pair.row) for pair in got.pairs)
        told = (got.attempt, got.careful, rows, got.suspects, got.retried, got.left_out)
        assert told == (
            expected.attempt,
            expected.careful,
            expected.rows,
            expected.suspects,
            expected.retried,
            expected.left_out,
        )
        self.tokens[got.token] = expected.token
        return got, expected

    def sql(self, statement: str) -> None:
        self.database.transact(lambda connection: connection.execute(text(statement)))
