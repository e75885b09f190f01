"""Fetching a model: ask the hub, take the small files and understand them, take the weights, convert, check, publish.

Nothing is visible under AUDIT_HOME/models before it is whole, checked and published by one rename; whatever is
interrupted goes on with the next call. Nothing that is fetched is run: only plain data files are taken
(worker/engines/hub_listing.py), and a pickle's tensors are read in a child process (worker/engines/convert.py).
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from audit.errors import ModelRefused, Permanent, Unavailable
from audit.models import RECORD, WEIGHTS, Installed, folder_of, installed, read_record
from audit.urls import redact
from worker.engines.convert import convert
from worker.engines.hub_listing import ListedFile, Listing
from worker.engines.hub_process import HubProcess, Offer, Progress, hub_process
from worker.engines.model_files import inspect_model, write_checksums
from worker.engines.ofa_spec import read_json, read_spec
from worker.engines.staging import bytes_in, check_room, only_fetch, publish, staging_folder

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came of it. `fresh` is False when it was there already; `note` is worth a line to a person."""

    directory: Path
    revision: str
    hub_id: str
    asked: str
    fresh: bool
    downloaded_bytes: int
    note: str = ""


def fetch_model(home: Path, hub_id: str, *, asked: str, progress: Progress, say: Say) -> Fetched:
    """Fetch a revision (branch, tag or commit) of a model into AUDIT_HOME/models, unless it is there.

    Raises UsageError (unknown id or revision, a model that the engine refuses), Unavailable (no hub), Transient
    (another fetch is at work), Permanent (full disk, wrong bytes).
    """
    folder = folder_of(home, hub_id)
    try:
        with only_fetch(folder), hub_process(folder / ".client") as hub:
            try:
                offer = hub.ask(hub_id, revision=asked)
            except Unavailable as error:
                return _without_hub(home, hub_id, asked, error)
            here = _already_here(home, offer)
            return _fetch(folder, offer, hub, progress=progress, say=say) if here is None else _present(here, asked)
    except OSError as error:
        code = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "not_written"
        raise Permanent(code, f"{folder}: {error.strerror}; mend that, and the same command goes on") from error


def _fetch(folder: Path, offer: Offer, hub: HubProcess, *, progress: Progress, say: Say) -> Fetched:
    listing = offer.listing
    staging = staging_folder(folder, listing.digest)
    files, cache = staging / "files", staging / "cache"
    had = bytes_in(files)
    pickled = listing.weights.name == WEIGHTS[1]
    converted = pickled and (files / WEIGHTS[0]).exists()
    total = sum(file.size for file in listing.taken)
    if had:
        say(f"going on with {had / 1e6:,.1f} MB that an earlier fetch left")
    if not converted:
        check_room(folder, max(0, total - had) + (listing.weights.size if pickled else 0))
        hub.take([file.name for file in listing.texts], into=files, cache=cache, progress=progress)
        _check_bytes(files, listing.texts)
        # Before gigabytes come: a model that the engine refuses is refused now.
        read_spec(files, read_json(files / "configuration.json"))
        hub.take([listing.weights.name], into=files, cache=cache, progress=progress)
        _check_bytes(files, [listing.weights])
    hashes = _convert(files, listing, say=say) if pickled else {}
    _clear(files, listing)
    revision = _finish(files, offer, hashes)
    publish(files, folder / revision)
    shutil.rmtree(staging, ignore_errors=True)
    return Fetched(
        directory=folder / revision,
        revision=revision,
        hub_id=offer.hub_id,
        asked=offer.asked,
        fresh=True,
        downloaded_bytes=max(0, total - had),
    )


def _check_bytes(files: Path, listed: tuple[ListedFile, ...] | list[ListedFile]) -> None:
    """Compare with what the hub listed first; a file that differs is deleted, so that the next fetch asks for it."""
    for file in listed:
        path = files / file.name
        if not path.is_file() or path.is_symlink() or path.stat().st_size != file.size:
            path.unlink(missing_ok=True)
            raise Permanent("model_checksum", f"{file.name}: not the {file.size} bytes that the hub lists; fetch again")
        if file.sha256 is not None and sha256_of(path) != file.sha256:
            path.unlink()
            raise Permanent("model_checksum", f"{file.name}: not the sha256 that the hub lists; fetch again")


def _convert(files: Path, listing: Listing, *, say: Say) -> dict[str, str]:
    """Leave model.safetensors in the place of the pickle; returns the pickle's sha256, for the record."""
    # The note stands beside the files, which are cleared of all that is no part of the model.
    source, target, note = files / WEIGHTS[1], files / WEIGHTS[0], files.parent / "converted"
    if not target.exists():
        say(f"converting {source.name} ({listing.weights.size / 1e6:,.1f} MB) to {target.name}")
        # Written down first: the pickle is gone before the record is made.
        note.write_text(sha256_of(source))
        convert(source, target)
    hashes = {source.name: note.read_text()}
    source.unlink(missing_ok=True)
    return hashes


def _clear(files: Path, listing: Listing) -> None:
    """Keep what was meant to be here, and nothing that a client may have put beside it."""
    meant = {file.name for file in listing.texts} | {WEIGHTS[0]}
    for path in files.iterdir():
        if path.name in meant and path.is_file() and not path.is_symlink():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _finish(files: Path, offer: Offer, converted_from: Mapping[str, str]) -> str:
    """Record, list the checksums, and have the folder inspected as a worker will; returns its revision."""
    listing = offer.listing
    record: dict[str, Any] = {
        "id": offer.hub_id,
        "asked": offer.asked,
        "hub": redact(offer.endpoint),
        "hub_commit": listing.commit,
        "listing": listing.digest,
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "converted_from": dict(converted_from),
        "hub_sha256": {file.name: file.sha256 for file in listing.taken},
        "files": {path.name: {"size": path.stat().st_size} for path in sorted(files.iterdir())},
        "left_at_the_hub": list(listing.left[:100]),
    }
    (files / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_checksums(files)
    return inspect_model(files, name=offer.hub_id).revision


def _already_here(home: Path, offer: Offer) -> Installed | None:
    """The revision that was made of this very listing, if it is as whole as on the day it was fetched."""
    for one in installed(home, offer.hub_id):
        if read_record(one.directory).get("listing") == offer.listing.digest and _is_whole(one):
            return one
    return None


def _is_whole(one: Installed) -> bool:
    """Hashes every byte, a second or two a gigabyte: a fetch must mend what `model verify` finds damaged."""
    try:
        return one.lacks is None and inspect_model(one.directory).revision == one.revision
    except ModelRefused:
        return False


def _without_hub(home: Path, hub_id: str, asked: str, error: Unavailable) -> Fetched:
    """What was fetched of this id and revision before does; without it the error stands."""
    for one in installed(home, hub_id):
        if one.asked == asked and _is_whole(one):
            return _present(one, asked, note=f"the hub was not asked: {error.detail}")
    raise error


def _present(here: Installed, asked: str, *, note: str = "") -> Fetched:
    return Fetched(
        directory=here.directory,
        revision=here.revision,
        hub_id=here.hub_id or "",
        asked=asked,
        fresh=False,
        downloaded_bytes=0,
        note=note,
    )


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
