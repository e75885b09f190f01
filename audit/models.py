"""Where a model's files are, and whether they are there: names to directories, without loading anything.

Fetched models are in AUDIT_HOME/models/<name>/<revision>/. `<revision>` is the model revision that every outcome names;
beside the files stands `fetched.json`, which says what was asked of which hub, and when. A folder that was copied from
elsewhere, with or without that record, counts as well, once all its files are there. Names that start with a dot are
downloads at work, and are never found.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from audit.errors import ModelRefused
from audit.settings import DEMO_MODEL, Settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
PINNED = re.compile(rf"({HUB_ID.pattern})@([\w.-]+)", re.ASCII)
RECORD = "fetched.json"
NEEDED = ("configuration.json", "config.json", "vocab.json", "merges.txt")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The first one that is there counts, as in modelscope."""
MAX_RECORD_BYTES = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One revision of a model under AUDIT_HOME/models.

    `hub_id` and `asked` (a branch, tag or commit) are None without a record; `since` is when it was fetched, by the
    record, or else when configuration.json was written here (seconds since the epoch); `lacks` names the first file
    that is missing or has another size than was fetched, and is None for a complete folder.
    """

    directory: Path
    revision: str
    hub_id: str | None
    asked: str | None
    since: float
    lacks: str | None


def model_directory(settings: Settings) -> Path:
    """The directory of settings.model; raises ModelRefused when there is no such model here, or only a part of it."""
    name = settings.model_name
    if name == "demo":
        return _checked(DEMO_MODEL, name)
    if name.startswith("/"):
        return _checked(Path(name), name)
    hub_id, revision = split_pin(name)
    found = installed(settings.home, hub_id)
    for one in found:
        if one.lacks is None and one.revision.startswith(revision):
            return one.directory
    what = f"`caption-audit model fetch {hub_id}` fetches it"
    if found and revision and not any(one.revision.startswith(revision) for one in found):
        what = f"there are {', '.join(one.revision for one in found)}"
    elif found:
        what = f"{found[0].directory / str(found[0].lacks)} is missing or cut off; {what}"
    raise ModelRefused("unknown_model", f"{name} is not under {settings.home / 'models'}: {what}")


def split_pin(name: str) -> tuple[str, str]:
    """The id and the revision (or its beginning) of `iic/name@revision`; raises ModelRefused when it is no id."""
    pinned = PINNED.fullmatch(name)
    if pinned:
        return pinned[1], pinned[2]
    if HUB_ID.fullmatch(name):
        return name, ""
    raise ModelRefused("unknown_model", f"{name!r} is neither `demo`, nor a directory, nor a ModelScope id")


def folder_of(home: Path, hub_id: str) -> Path:
    """The folder that holds a model's revisions; it need not exist."""
    return home / "models" / hub_id.rsplit("/", 1)[1]


def installed(home: Path, hub_id: str) -> list[Installed]:
    """Revisions of this model, the one to use first: complete before incomplete, newest first, then by name.

    Only folders that were fetched under this id, or that do not say; another owner's model of the same name is not it.
    """
    found = [one for one in revisions_in(folder_of(home, hub_id)) if one.hub_id in (hub_id, None)]
    return sorted(found, key=lambda one: (one.lacks is None, one.since, one.revision), reverse=True)


def revisions_in(folder: Path) -> list[Installed]:
    """Every revision in the folder of one name: its subfolders, and the folder itself when files lie in it."""
    candidates = [folder, *sorted(path for path in _listed(folder) if path.is_dir())]
    return [_look(path) for path in candidates if any((path / name).is_file() for name in (*NEEDED, RECORD))]


def read_record(directory: Path) -> Mapping[str, Any]:
    """What fetched.json says; nothing when there is none, or it is not one."""
    path = directory / RECORD
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            return {}
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _listed(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []


def _look(directory: Path) -> Installed:
    record = read_record(directory)
    hub_id, asked = record.get("id"), record.get("asked")
    return Installed(
        directory=directory,
        revision=directory.name,
        hub_id=hub_id if isinstance(hub_id, str) else None,
        asked=asked if isinstance(asked, str) else None,
        since=_since(directory, record),
        lacks=_lacks(directory, record),
    )


def _since(directory: Path, record: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(record.get("fetched_at"))).timestamp()
    except (ValueError, OverflowError):
        pass
    try:
        return (directory / "configuration.json").stat().st_mtime
    except OSError:
        return 0.0


def _lacks(directory: Path, record: Mapping[str, Any]) -> str | None:
    """The first file that is not there as a whole, as far as sizes tell: for hashes there is `model verify`."""
    for name in NEEDED:
        if not (directory / name).is_file():
            return name
    if not any((directory / name).is_file() for name in WEIGHTS):
        return WEIGHTS[0]
    files = record.get("files")
    for name, entry in files.items() if isinstance(files, dict) else ():
        wanted = entry.get("size") if isinstance(entry, dict) else None
        try:
            if (directory / os.path.basename(name)).stat().st_size != wanted:
                return str(name)
        except OSError:
            return str(name)
    return None


def _checked(directory: Path, name: str) -> Path:
    if not directory.is_dir():
        raise ModelRefused("unknown_model", f"{name}: no such directory")
    if not (directory / "configuration.json").is_file():
        raise ModelRefused("unknown_model", f"{name}: configuration.json is missing, so this is no ModelScope model")
    return directory
