"""A real ledger and the reference beside it, and comparing them; the rules are in ledger_machine.py."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import text

from audit.holder import this_process
from audit.message import ChunkMessage, Lane
from audit.pair import BatchId, ChunkNumber
from db.claim import claim
from db.engine import Database
from db.lease import Claim, Claimant
from db.register import add_slice, find_or_create, open_batch
from tests.support.claims import PROVENANCE
from tests.support.ledger_deeds import LEASE_S
from tests.support.ledger_promises import Promises, check_sums
from tests.support.ledger_reference import Reference
from tests.support.ledger_reference_values import Batch, Held, Worker
from tests.support.ledger_whole import (
    differences,
    what_people_see,
    what_people_should_see,
    whole_ledger,
    whole_reference,
)
from tests.support.registering import NEW, entry
from tests.support.row_fates import Line
from tests.support.staff import FAR, KEPT, Staff

T = TypeVar("T")
Taken = tuple[Claim, Held]
"""A claim of the ledger, and the reference's."""


class LedgerBench(RuleBasedStateMachine):
    """Both ledgers, who works at them, and what batches and tokens of the one are called in the other.

    Claims are remembered for ever: whoever was taken for dead may still come.
    """

    def __init__(self, database: Database, staff: Staff) -> None:
        super().__init__()
        self.database, self.staff = database, staff
        self.reference, self.promises = Reference(), Promises()
        self.ids: dict[str, BatchId] = {}
        self.given: dict[str, Batch] = {}
        self.tokens: dict[str, int] = {}
        self.claims: list[Taken] = []
        self.sql("DELETE FROM batches", "DELETE FROM feed_credit", "DELETE FROM workers")
        self.looking = database.engine.connect()  # kept: a fresh one costs PostgreSQL a round trip more

    def teardown(self) -> None:
        """At the end of a history people see it, too: progress and exports take too long for each step."""
        self.looking.close()
        seen, expected = what_people_see(self.database, self.names), what_people_should_see(self.reference)
        assert seen == expected, "\n".join(differences(seen, expected))
        check_sums(seen)

    @property
    def names(self) -> dict[BatchId, str]:
        """The other way round: what batches are called here."""
        return {batch: name for name, batch in self.ids.items()}

    @invariant()
    def the_ledger_is_as_the_reference_says(self) -> None:
        expected = whole_reference(self.reference)
        with self.looking.begin():
            seen = whole_ledger(self.looking, self.names, self.tokens)
        assert seen == expected, "\n".join(differences(seen, expected))
        self.promises.check(seen)

    def standing(self) -> dict[str, list[Taken]]:
        """Claims that are valid, those whose chunk another one holds now, and all others, which are over."""
        groups: dict[str, list[Taken]] = {"valid": [], "overtaken": [], "over": []}
        for one in self.claims:
            chunk = self.reference.chunk(one[1])
            if chunk is None or chunk.state != "running":
                groups["over"].append(one)
            else:
                groups["valid" if chunk.token == one[1].token else "overtaken"].append(one)
        return groups

    def pick_claim(self, pick: int) -> Taken:
        """One that is valid in half of all cases, one that is overtaken in a third; the newest first."""
        groups = self.standing()
        wanted = (*["valid"] * 5, *["overtaken"] * 3, "over", "over")[pick // 3]
        chosen = _nth_last(groups[wanted] or groups["valid"] or groups["overtaken"] or self.claims, pick % 3)
        held = chosen[1]
        note(f"# claim {held.token} of {held.batch}/{held.chunk}")
        return chosen

    def waiting(self) -> list[tuple[str, int]]:
        """Chunks that may be claimed."""
        batches = [(name, batch) for name, batch in self.reference.batches.items() if batch.state == "open"]
        return [
            (name, number)
            for name, batch in batches
            if batch.model == PROVENANCE.model
            for number, chunk in batch.chunks.items()
            if chunk.state in ("pending", "sent")
        ]

    def pick_chunk(self, pick: int) -> tuple[str, int]:
        """One that may be claimed in most cases; or any, and one that does not exist."""
        existing = [(name, number) for name, batch in self.reference.batches.items() for number in batch.chunks]
        wanted = (*[self.waiting()] * 7, existing, existing, [])[pick // 3]
        chosen = _nth_last(wanted or [(self.pick_batch(pick), pick % 3)], pick % 3)
        note(f"# chunk {chosen}")
        return chosen

    def pick_batch(self, pick: int) -> str:
        """One that was submitted once; the newest first."""
        return _nth_last(list(self.given), pick)

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

    def try_to_claim(self, name: str, number: int, seat: str, max_deaths: int) -> Taken | None:
        """The claim, if both ledgers give one; it is remembered, too."""
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
        told = {key: getattr(got, key) for key in ("attempt", "careful", "suspects", "retried", "left_out")}
        assert {**told, "rows": rows} == {key: getattr(expected, key) for key in (*told, "rows")}
        self.tokens[got.token] = expected.token
        self.claims.append((got, expected))
        return got, expected

    def sql(self, *statements: str) -> None:
        """In one transaction."""
        self.database.transact(lambda connection: [connection.execute(text(one)) for one in statements])


def _nth_last(some: Sequence[T], pick: int) -> T:
    return some[-1 - pick % len(some)]
