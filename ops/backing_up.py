"""The command db backup: a copy of a SQLite ledger while workers write to it."""

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from audit.errors import Permanent, UsageError
from ops.arguments import JsonOption, any_ledger

if TYPE_CHECKING:
    from db.engine import Database

EXAMPLES = ("caption-audit db backup /srv/backup/audit.db", "caption-audit db backup /srv/backup/monday.db --json")


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The copy; it must not exist yet.")],
    as_json: JsonOption = False,
) -> None:
    """Copy a SQLite ledger while workers go on: the state of one moment, checked, complete under its name or not there.

    For PostgreSQL it only says which pg_dump to run (status 2). How to restore: docs/backup.md.
    """
    from ops.show import print_json

    with any_ledger() as (_, database):
        target = _target(database, file)
        size = _copy(database, target)
    if as_json:
        print_json({"file": target, "bytes": size})
    else:
        print(f"copied the ledger to {target} ({size:,} bytes)")


def _target(database: "Database", file: str) -> str:
    if not database.is_sqlite:
        url = database.engine.url
        where = "".join(f" --{name}={value}" for name, value in (("host", url.host), ("port", url.port)) if value)
        user = f" --username={url.username}" if url.username else ""
        command = f"pg_dump --format=custom --file={file}{where}{user} {url.database}"
        raise UsageError("not_sqlite", f"the ledger is PostgreSQL's, which has its own way: {command}")
    target = os.path.abspath(file)
    if os.path.lexists(target):
        raise UsageError("file_exists", f"{target} is there already, and is not overwritten: name another file")
    if not os.path.isdir(os.path.dirname(target)):
        raise Permanent("bad_output", f"there is no folder {os.path.dirname(target)}: make it, or name another file")
    return target


def _copy(database: "Database", target: str) -> int:
    """Returns the copy's size in bytes. Raises Permanent for a copy that is damaged, LedgerUnavailable, OSError."""
    from db.copying import copy_sqlite

    part = f"{target}.{os.getpid()}.part"
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        damage = copy_sqlite(database, part)
        if damage:
            raise Permanent("damaged", f"the ledger is damaged, its copy was thrown away: {damage}")
        _sync(part)
        _name(part, target)
        _sync(os.path.dirname(target))
        return os.stat(target).st_size
    except FileExistsError as error:
        raise UsageError("file_exists", f"{error.filename2 or error.filename} is there already") from error
    finally:
        for ending in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(part + ending)


def _name(part: str, target: str) -> None:
    try:
        os.link(part, target)  # unlike a rename it never replaces a file that somebody made meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "File exists", target) from None
        os.rename(part, target)


def _sync(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
