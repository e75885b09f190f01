"""Where a model's files are, and whether they are there: names to directories, without loading anything."""

import re
from pathlib import Path

from audit.errors import ModelRefused
from audit.settings import DEMO_MODEL, Settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_directory(settings: Settings) -> Path:
    """The directory of settings.model; raises ModelRefused when there is no such model here."""
    name = settings.model_name
    if name == "demo":
        return _checked(DEMO_MODEL, name)
    if name.startswith("/"):
        return _checked(Path(name), name)
    if not HUB_ID.fullmatch(name):
        raise ModelRefused("unknown_model", f"{name!r} is neither `demo`, nor a directory, nor a ModelScope id")
    fetched = fetched_directory(settings.home, name)
    if fetched is None:
        raise ModelRefused("unknown_model", f"{name} is not under {settings.home / 'models'}: copy its folder there")
    return _checked(fetched, name)


def fetched_directory(home: Path, hub_id: str) -> Path | None:
    """The newest complete revision under AUDIT_HOME/models/<name>/<sha>/, or <name>/ itself when copied by hand."""
    folder = home / "models" / hub_id.rsplit("/", 1)[1]
    if (folder / "configuration.json").is_file():
        return folder
    revisions = [path.parent for path in folder.glob("*/configuration.json")]
    return max(revisions, key=lambda path: (path.stat().st_mtime, path.name), default=None)


def _checked(directory: Path, name: str) -> Path:
    if not directory.is_dir():
        raise ModelRefused("unknown_model", f"{name}: no such directory")
    if not (directory / "configuration.json").is_file():
        raise ModelRefused("unknown_model", f"{name}: configuration.json is missing, so this is no ModelScope model")
    return directory
