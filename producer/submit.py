"""Submitting a manifest: register it in the ledger, then ring for the first chunks."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

from audit.errors import BrokerRefused, BrokerUnavailable, LedgerUnavailable, UsageError
from audit.message import Lane
from audit.models import model_directory
from audit.policy import Policy
from audit.settings import Settings, read_settings
from db.codec import storable
from db.engine import Database, open_database
from db.feed import Window
from db.register import NewBatch, totals
from db.schema import ensure_schema
from producer.enqueue import Bell, top_up
from producer.handle import Handle
from producer.registering import OnProgress, batch_key, register
from producer.rows import ColumnNames
from producer.sources import STDIN, Format, Manifest, open_manifest
from telemetry.exporting import start_traces, started_by
from telemetry.stages import stage
from telemetry.traces import span, traceparent, within

WINDOW_SLOTS = 4
"""How many slots the first messages are for; the workers' main processes top up within a second."""
MAX_NAME_CHARS = 200
MAX_PRIORITY = 1000


def submit(
    manifest: str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    name: str | None = None,
    file_format: Format | None = None,
    columns: ColumnNames | None = None,
    image_root: str | os.PathLike[str] | None = None,
    policy: Policy | None = None,
    again: bool = False,
    tenant: str = "default",
    lane: Lane = Lane.BULK,
    priority: int = 0,
    model: str | None = None,
    on_progress: OnProgress | None = None,
) -> Handle:
    """Register every pair of the manifest (`-` is standard input) and start its judging.

    The same file with the same options is the same batch: it is found, or completed after a crash, and never doubled;
    `again` makes a new one. Images are looked up under `image_root`, by default the manifest's folder. Raises
    UsageError (also ManifestInvalid, ModelRefused) and BrokerRefused with nothing registered, LedgerUnavailable with
    nothing claimable.
    """
    settings = settings or read_settings()
    if model is not None:
        settings = settings.model_copy(update={"model": model})
    model_directory(settings)
    start_traces(console=sys.stderr)  # stdout is for answers
    new = NewBatch(
        key="",
        name=name or "",
        tenant=tenant,
        lane=lane,
        priority=priority,
        model=settings.model_name,
        policy=(policy or Policy()).to_json(),
        image_root=_image_root(manifest, image_root),
    )
    _check_options(new)
    opening = partial(
        open_manifest, manifest, file_format=file_format, columns=columns, max_line_bytes=settings.max_line_bytes
    )
    with within(started_by()), span("submit") as seen:
        handle = _submit(opening, new, settings, again=again, on_progress=on_progress)
        seen.tell(batch=handle.batch, new=handle.new, pairs=handle.pairs, chunks=handle.chunks)
        seen.tell(duplicates=handle.duplicates, failed=handle.failed)
        return handle


def _submit(
    opening: Callable[[], AbstractContextManager[Manifest]],
    new: NewBatch,
    settings: Settings,
    *,
    again: bool,
    on_progress: OnProgress | None,
) -> Handle:
    bell = Bell(settings.broker_url)
    notes = _look_at_redis(bell)
    size = settings.chunk_pairs
    with _ledger(settings) as database:
        with opening() as opened:
            key = batch_key(opened, new, chunk_pairs=size, again=again)
            new = replace(new, key=key, name=new.name or opened.name, traceparent=traceparent())
            batch, is_new = register(database, opened, new, chunk_pairs=size, on_progress=on_progress)
            rows = opened.rows
        problem = _ring(database, bell, settings)
        held = totals(database, batch)
        return Handle(
            batch=batch,
            name=new.name,
            pairs=held.pairs,
            chunks=held.chunks,
            duplicates=rows - held.pairs,
            failed=held.failed,
            new=is_new,
            sent=problem is None,
            problem=problem,
            notes=notes,
            database=database,
        )


def _look_at_redis(bell: Bell) -> tuple[str, ...]:
    """What an operator should change about Redis; raises BrokerRefused. One that is away is told of when it is rung."""
    try:
        return tuple(bell.weaknesses())
    except BrokerRefused:
        raise
    except BrokerUnavailable:
        return ()


def _ring(database: Database, bell: Bell, settings: Settings) -> str | None:
    """Send the first messages; what cannot be sent is given back, and the reason is returned."""
    window = Window(chunks=settings.feed_chunks_per_slot * WINDOW_SLOTS, slots=WINDOW_SLOTS)
    with stage("queue", "ring", system="redis", operation="send") as seen:
        try:
            sent = top_up(database, bell, model=settings.model_name, window=window, resend_s=settings.resend_s)
            seen.tell(messages=sent)
        except (LedgerUnavailable, BrokerUnavailable) as error:  # the batch is open already: a worker finds it
            seen.fail(error.code)
            return error.detail
        return None


@contextmanager
def _ledger(settings: Settings) -> Iterator[Database]:
    """The ledger with its schema; closed when something goes wrong, and else left to the handle."""
    database = open_database(settings.ledger_url)
    try:
        ensure_schema(database)
        yield database
    except BaseException:
        database.close()
        raise


def _image_root(manifest: str | os.PathLike[str], given: str | os.PathLike[str] | None) -> str:
    path = os.fspath(manifest)
    root = given if given is not None else ("." if path == STDIN else os.path.dirname(path) or ".")
    # The real path: a link that leads to other pictures tomorrow is another batch tomorrow.
    resolved = os.path.realpath(root)
    if not os.path.isdir(resolved):
        raise UsageError("bad_image_root", f"the image root {resolved!a} is no directory")
    if not storable(resolved):
        raise UsageError("bad_image_root", f"the image root {resolved!a} is not UTF-8: rename it")
    return resolved


def _check_options(new: NewBatch) -> None:
    for what, text in (("name", new.name), ("tenant", new.tenant), ("model", new.model)):
        if not storable(text) or (what != "model" and len(text) > MAX_NAME_CHARS):
            raise UsageError("bad_option", f"the {what} must be UTF-8 text of at most {MAX_NAME_CHARS} characters")
    if not new.tenant:
        raise UsageError("bad_option", "the tenant is empty")
    if abs(new.priority) > MAX_PRIORITY:
        raise UsageError("bad_option", f"the priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}")
