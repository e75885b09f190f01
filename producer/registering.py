"""From an open manifest to a batch of the ledger that can be claimed, whoever else submits the same one meanwhile."""

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import astuple

from audit.errors import ManifestInvalid
from audit.pair import BatchId
from db.engine import Database
from db.register import NewBatch, Registration, add_slice, discard, find_or_create, open_batch
from db.register_pairs import Entry
from db.tables import BatchState
from producer.sources import Manifest
from telemetry.stages import stage

SLICE_ROWS = 8192
"""Rows a transaction: one fsync each, some 10 MB of memory, and SQLite's one writer is held up for 0.2 s at a time."""

OnProgress = Callable[[int, int], None]
"""Called after each slice with the rows registered and the rows that there are."""


def batch_key(manifest: Manifest, new: NewBatch, *, chunk_pairs: int, again: bool) -> str:
    """Hash over everything that makes two submissions the same: the file's bytes and the options, not its name."""
    file = (manifest.sha256, manifest.format.value, *astuple(manifest.columns))
    options = (new.tenant, new.lane.value, new.priority, new.model, new.policy, new.image_root, chunk_pairs)
    nonce = uuid.uuid4().hex if again else ""
    return hashlib.sha256(json.dumps([1, file, options, nonce]).encode()).hexdigest()


def register(
    database: Database, manifest: Manifest, new: NewBatch, *, chunk_pairs: int, on_progress: OnProgress | None = None
) -> tuple[BatchId, bool]:
    """Find or complete the batch; True when this call made it claimable.

    Raises ManifestInvalid with the batch removed when the file changed since it was checked, LedgerUnavailable with
    nothing claimable.
    """
    with stage("ledger", "register", rows=manifest.rows) as seen:
        found = find_or_create(database, new)
        if found.state is not BatchState.REGISTERING:
            seen.tell(batch=found.batch, new=False)
            return found.batch, False
        try:
            _add_rows(database, manifest, found, chunk_pairs, on_progress)
            manifest.check_unchanged()
        except ManifestInvalid:
            discard(database, found.batch)
            raise
        is_new = open_batch(database, found.batch)
        seen.tell(batch=found.batch, new=is_new)
        return found.batch, is_new


def _add_rows(
    database: Database, manifest: Manifest, found: Registration, chunk_pairs: int, on_progress: OnProgress | None
) -> None:
    slice_rows = max(SLICE_ROWS // chunk_pairs, 1) * chunk_pairs
    next_row, waiting = found.next_row, list[Entry]()
    for entry in manifest.entries(start_row=next_row):
        if entry.pair.row < next_row:
            continue  # another process that submits the same file was faster
        waiting.append(entry)
        if len(waiting) == slice_rows or entry.pair.row == manifest.rows - 1:
            manifest.check_unchanged()
            next_row = add_slice(database, found.batch, waiting, chunk_pairs=chunk_pairs)
            waiting = []
            if on_progress is not None:
                on_progress(next_row, manifest.rows)
