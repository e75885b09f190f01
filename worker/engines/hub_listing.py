"""What a hub lists of a model, parsed; and which of it is taken: plain data files, and nothing that could be run."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from audit.errors import ModelRefused, Permanent
from audit.models import NEEDED, RECORD, WEIGHTS

SAFE_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
"""A file of the top folder, by a name without any sign that a path, a pattern or a terminal would read."""
TEXT_SUFFIXES = (".json", ".md", ".png", ".jpg")
"""Configuration, vocabulary, labels, the model card and a canary's pictures."""
TEXT_NAMES = ("merges.txt", "vocab.txt", "LICENSE")
MAX_TEXT_BYTES = 20_000_000
MAX_WEIGHTS_BYTES = 50_000_000_000
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """One file as the hub lists it; `sha256` and `commit` (the last to change it) where the hub says them."""

    name: str
    size: int
    sha256: str | None
    commit: str | None
    committed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files to take, small ones and weights, and names of what is left there."""

    texts: tuple[ListedFile, ...]
    weights: ListedFile
    left: tuple[str, ...]

    @property
    def taken(self) -> tuple[ListedFile, ...]:
        """All that is downloaded."""
        return (*self.texts, self.weights)

    @property
    def digest(self) -> str:
        """Changes when any file to take changes, as far as the hub tells."""
        rows = sorted(f"{file.name} {file.size} {file.sha256} {file.commit}" for file in self.taken)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:12]

    @property
    def commit(self) -> str | None:
        """The newest commit among the files that are taken."""
        newest = max(self.taken, key=lambda file: (file.commit is not None, file.committed_at))
        return newest.commit


def parse_listing(entries: Iterable[Any], *, hub_id: str) -> Listing:
    """Choose from a hub's raw entries; raises Permanent when no OFA can be made of them, or an entry is nonsense."""
    texts: dict[str, ListedFile] = {}
    weights: dict[str, ListedFile] = {}
    left: list[str] = []
    for entry in entries:
        name = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(name, str) or entry.get("type") == "tree":
            continue
        if name in WEIGHTS:
            weights[name] = _file(entry, name, hub_id=hub_id, most=MAX_WEIGHTS_BYTES)
        elif is_plain_data(name):
            texts[name] = _file(entry, name, hub_id=hub_id, most=MAX_TEXT_BYTES)
        else:
            left.append(name)
    missing = [name for name in NEEDED if name not in texts] or ([] if weights else list(WEIGHTS))
    if missing:
        what = f"the hub lists no {' nor '.join(missing)}, so this is no OFA of ours"
        raise ModelRefused("model_file", f"{hub_id}: {what}")
    best = next(name for name in WEIGHTS if name in weights)
    left += [name for name in weights if name != best]
    return Listing(texts=tuple(texts[name] for name in sorted(texts)), weights=weights[best], left=tuple(sorted(left)))


def is_plain_data(name: str) -> bool:
    """Whether a file of this name is taken beside the weights: nothing that could be run, nothing elsewhere."""
    if name == RECORD or not SAFE_NAME.fullmatch(name):  # the record is written by us alone
        return False
    return name in TEXT_NAMES or name.endswith(TEXT_SUFFIXES)


def _file(entry: dict[str, Any], name: str, *, hub_id: str, most: int) -> ListedFile:
    size, sha256, commit = entry.get("size"), entry.get("sha256"), entry.get("commit")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= most:
        raise Permanent("model_file", f"{hub_id}: the hub lists {name} with {size!r} bytes; up to {most} are taken")
    when = entry.get("committed_at")
    return ListedFile(
        name=name,
        size=size,
        sha256=sha256 if isinstance(sha256, str) and SHA256.fullmatch(sha256) else None,
        commit=commit[:64] if isinstance(commit, str) and SAFE_NAME.fullmatch(commit[:64]) else None,
        committed_at=when if isinstance(when, int) else 0,
    )
