"""The ledger in plain Python, as docs/architecture.md tells it: no SQL, no processes, and a clock that is set by hand.

tests/db/test_ledger_machine.py does the same to this and to a real ledger and compares them whole. It stays readable by
being slow and by trusting its caller; it imports nothing of db/.
"""

from collections.abc import Mapping

from tests.support.ledger_reference_values import Batch, Chunk, Ending, Fall, Held, Suspect, Worker
from tests.support.row_fates import fates

OTHERS_WAIT_S = 5
ELSEWHERE_S = 30_000
UNFINISHED = ("pending", "sent", "running", "parked")


class Reference:
    """Every operation of the ledger; `dead` and `far` are workers that are proved dead, and those of another host.

    `kept` are those whose main process lives and says how they ended; `slots` are ready to judge.
    """

    def __init__(self) -> None:
        self.now = 0
        self.batches: dict[str, Batch] = {}
        self.dead: set[str] = set()
        self.far: set[str] = set()
        self.kept: set[str] = set()
        self.slots: set[str] = set()
        self._tokens = 0

    def chunks(self) -> list[Chunk]:
        """Of all batches."""
        return [chunk for batch in self.batches.values() for chunk in batch.chunks.values()]

    def add_slice(self, name: str, rows: range) -> None:
        """Commit rows with their chunks: a row that cannot be judged fails at once, one that repeats is left out."""
        batch = self.batches[name]
        told = fates(batch.lines)
        for first in range(rows.start, rows.stop, batch.chunk_pairs):
            covered = range(first, min(rows.stop, first + batch.chunk_pairs))
            held = [row for row in covered if row in told]
            failed = {row: told[row] for row in held if told[row] != "good"}
            batch.pairs |= set(held)
            batch.outcomes |= {row: Ending(told=code, attempt=0, worker="producer") for row, code in failed.items()}
            chunk = batch.chunks[first // batch.chunk_pairs] = Chunk(rows=covered, state="pending")
            if len(failed) == len(held):
                chunk.state, chunk.done_at = "done", self.now

    def claim(self, name: str, number: int, *, worker: Worker, model: str, lease_s: int, max_deaths: int) -> Held | str:
        """A pending or sent chunk, or one whose holder is this very process, or an orphan; otherwise why not."""
        batch = self.batches.get(name)
        refusal = _refused(batch, model)
        chunk = None if batch is None else batch.chunks.get(number)
        if batch is None or chunk is None or refusal:
            return refusal or "held"
        if chunk.state == "running" and chunk.worker != worker:
            if not self._is_orphan(chunk):
                return "held"
            self._bury(batch, chunk, Fall(cause="died", certain=False), max_deaths=max_deaths)
        if chunk.state in ("done", "cancelled", "parked"):
            return chunk.state
        return self._take(name, number, worker, lease_s)

    def renew(self, held: Held, *, lease_s: int, marker: tuple[int, str] | None = None) -> bool:
        """A longer lease, with a marker if one is given; False when the claim is not valid any more."""
        chunk = self.chunk(held)
        if chunk is None or chunk.state != "running" or chunk.token != held.token:
            return False
        chunk.until, chunk.marker = self.now + lease_s, marker or chunk.marker
        return True

    def record(self, held: Held, told: Mapping[int, str], *, lease_s: int) -> str:
        """Outcomes, with a valid token alone; what a pair has already, it keeps."""
        batch = self.batches.get(held.batch)
        chunk = self.chunk(held)
        if batch is None or chunk is None:
            return "fenced"
        if chunk.token != held.token or not self._may_record(chunk):
            chunk.fenced += 1
            return "fenced"
        if chunk.state == "done":
            return "done"
        for row, one in told.items():
            ending = Ending(told=one, attempt=held.attempt, worker=held.slot)
            batch.end(row, ending, replace=row in held.retried)
        if chunk.state == "cancelled":
            return "cancelled"
        chunk.marker = None
        if batch.unjudged(chunk) or batch.retried(chunk) & held.retried:
            chunk.until = self.now + lease_s
            return "kept"
        if batch.retried(chunk):  # asked for meanwhile
            _start_anew(chunk)
        else:
            chunk.state, chunk.until, chunk.done_at = "done", None, self.now
        return "done"

    def release(self, held: Held, *, charge: bool, max_deaths: int) -> str | None:
        """Give the chunk back; charged, it is a death that blames no pair, and otherwise the attempt never was."""
        chunk = self.chunk(held)
        if chunk is None or chunk.state != "running" or chunk.token != held.token:
            return None
        chunk.attempts, chunk.deaths = chunk.attempts - (not charge), chunk.deaths + charge
        _free(chunk, "parked" if charge and chunk.deaths >= max_deaths else "pending")
        return chunk.state

    def sweep(
        self, *, keeper: bool, known: Mapping[str, Fall], trust_leases: bool, max_deaths: int
    ) -> set[tuple[str, int, str, bool]]:
        """Take the chunks of orphans, of ended leases, and those of whom their main process knows how they fell."""
        buried = set()
        for name, batch in self.batches.items():
            for number, chunk in batch.chunks.items():
                if chunk.state != "running" or chunk.until is None:
                    continue
                who = chunk.worker.name
                mine = keeper and who in self.kept
                expired = trust_leases and self.now > chunk.until + (0 if mine else OTHERS_WAIT_S)
                if expired or self._is_orphan(chunk) or (mine and who in known):
                    stuck = who not in self.dead | self.far
                    outside = Fall(cause="stuck" if stuck else "died", certain=stuck)
                    fall = known.get(who, outside) if mine else outside
                    self._bury(batch, chunk, fall, max_deaths=max_deaths)
                    buried.add((name, number, fall.cause, chunk.state == "parked"))
        return buried

    def abandon(self, worker: str) -> int:
        """What this worker holds was never claimed."""
        held = [chunk for chunk in self.chunks() if (chunk.state, chunk.worker.name) == ("running", worker)]
        for chunk in held:
            chunk.attempts -= 1
            _free(chunk, "pending")
        return len(held)

    def unpark(self) -> int:
        """Everything parked starts anew, but for what is cancelled."""
        open_batches = [batch for batch in self.batches.values() if batch.state == "open"]
        parked = [chunk for batch in open_batches for chunk in batch.chunks.values() if chunk.state == "parked"]
        for chunk in parked:
            chunk.state, chunk.deaths, chunk.sends = "pending", 0, 0
        return len(parked)

    def cancel(self, name: str) -> int:
        """What has no outcome gets none, but for what a holder has judged already; returns how many pairs that is."""
        batch = self.batches[name]
        batch.retries.clear()
        batch.suspects.clear()
        for chunk in batch.chunks.values():
            if chunk.state in UNFINISHED and not batch.unjudged(chunk):
                _free(chunk, "done")
                chunk.done_at = self.now if chunk.done_at is None else chunk.done_at
        unfinished = [chunk for chunk in batch.chunks.values() if chunk.state in UNFINISHED]
        if not unfinished and batch.state != "registering":
            return 0
        batch.state = "cancelled"
        for chunk in unfinished:
            if chunk.state == "running":  # its token stays: what it has judged it may record
                chunk.state, chunk.marker = "cancelled", None
            else:
                _free(chunk, "cancelled")
        return sum(len(batch.unjudged(chunk)) for chunk in unfinished)

    def retry(self, name: str, code: str | None) -> int | str:
        """Failures that were judged are judged again, and stand until they are; their chunks start anew."""
        batch = self.batches[name]
        if batch.state != "open":
            return "batch_cancelled" if batch.state == "cancelled" else "batch_unfinished"
        asked = {row for row in batch.failed() if code in (None, batch.outcomes[row].told)}
        batch.retries |= asked
        for chunk in batch.chunks.values():
            if chunk.state == "done" and asked.intersection(chunk.rows):
                _start_anew(chunk)
        return len(asked)

    def sent(self, name: str, number: int) -> None:
        """A message is out."""
        chunk = self.batches[name].chunks[number]
        chunk.state, chunk.sent_at, chunk.sends = "sent", self.now, chunk.sends + 1

    def unsend(self, name: str, number: int) -> None:
        """The message could not be sent."""
        chunk = self.batches[name].chunks[number]
        if chunk.state == "sent":
            chunk.state, chunk.sends = "pending", chunk.sends - 1

    def chunk(self, held: Held) -> Chunk | None:
        """What this claim was for, unless its batch is gone."""
        batch = self.batches.get(held.batch)
        return None if batch is None else batch.chunks.get(held.chunk)

    def _may_record(self, chunk: Chunk) -> bool:
        if chunk.state == "cancelled":
            return chunk.until is not None and self.now < chunk.until
        return chunk.state in ("running", "done")

    def _take(self, name: str, number: int, worker: Worker, lease_s: int) -> Held | str:
        batch = self.batches[name]
        chunk = batch.chunks[number]
        retried = batch.retried(chunk)
        waiting = sorted(retried.union(batch.unjudged(chunk)))
        if not waiting:
            chunk.state, chunk.done_at = "done", self.now
            return "done"
        suspected = frozenset(batch.suspects).intersection(chunk.rows)
        left_out = frozenset(row for row in suspected if self._is_for_others(batch.suspects[row], worker.slot))
        if left_out.issuperset(waiting):
            _free(chunk, "pending")
            return "elsewhere"
        self._tokens += 1
        chunk.state, chunk.worker, chunk.token, chunk.until = "running", worker, self._tokens, self.now + lease_s
        chunk.attempts, chunk.sends, chunk.marker, chunk.claimed = chunk.attempts + 1, 0, None, True
        return Held(
            batch=name,
            chunk=number,
            token=self._tokens,
            attempt=chunk.attempts,
            careful=chunk.deaths > 0 or bool(suspected),
            rows=tuple(row for row in waiting if row not in left_out),
            suspects=suspected,
            retried=retried,
            left_out=left_out,
            slot=worker.slot,
        )

    def _is_orphan(self, chunk: Chunk) -> bool:
        return chunk.worker.name in self.dead - self.kept

    def _is_for_others(self, suspect: Suspect, slot: str) -> bool:
        """It died at this slot a moment ago, and another one is ready."""
        return suspect.slot == slot and self.now - suspect.at < ELSEWHERE_S and bool(self.slots - {slot})

    def _bury(self, batch: Batch, chunk: Chunk, fall: Fall, *, max_deaths: int) -> None:
        """A death with a marker makes a suspect, a later one names it; one without blames no pair."""
        state = "pending"
        if fall.cause != "let_go" and chunk.marker is None:
            chunk.deaths += 1
            chunk.hand = chunk.hand if fall.certain or fall.hand is None else fall.hand
            state = "parked" if chunk.deaths >= max_deaths else "pending"
        elif fall.cause != "let_go" and chunk.marker is not None:
            row, stage = chunk.marker
            deaths = 1 + (batch.suspects[row].deaths if row in batch.suspects else 0)
            in_hand = chunk.hand is not None and chunk.hand[0] <= row <= chunk.hand[1]
            if deaths >= (2 if fall.certain or in_hand else 3):
                crashed = "decoder_crashed" if stage == "decode" else "worker_died"
                code = "timed_out" if fall.cause == "stuck" else crashed
                batch.end(row, Ending(told=code, attempt=chunk.attempts, worker=chunk.worker.slot), replace=True)
            else:
                batch.suspects[row] = Suspect(deaths=deaths, slot=chunk.worker.slot, at=self.now)
        _free(chunk, state)


def _refused(batch: Batch | None, model: str) -> str:
    if batch is None:
        return "unknown"
    if batch.model != model:
        return "other_model"
    return {"open": "", "cancelled": "cancelled", "registering": "not_open"}[batch.state]


def _free(chunk: Chunk, state: str) -> None:
    chunk.state, chunk.token, chunk.until, chunk.marker = state, None, None, None


def _start_anew(chunk: Chunk) -> None:
    _free(chunk, "pending")
    chunk.attempts, chunk.deaths, chunk.sends, chunk.hand = 0, 0, 0, None
