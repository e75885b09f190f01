"""Who may read and write what lies in AUDIT_HOME. Flower's password and what workers write are looked at alone."""

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from audit.settings import Settings
from ops.doctor.disk import existing, ledger_file
from ops.doctor.lines import Line, ok, warning, wrong
from ops.flower_password import NAME as PASSWORD_FILE

MOST_ENTRIES = 2_000
SECRETS = (PASSWORD_FILE, ".env")
BELOW = ("", "run", "logs", "redis")
MAY_BE_BARRED = "models"
"""A volume of models may well be read-only for workers."""


def home_lines(settings: Settings) -> Iterator[Line]:
    """Whether AUDIT_HOME is there, can be written, and by nobody else."""
    home = settings.home
    if not home.exists():
        above = existing(home)
        if os.access(above, os.W_OK | os.X_OK) and above.is_dir():
            means = "either nothing was started yet, or another AUDIT_HOME is meant"
            yield warning("AUDIT_HOME", f"{home} is not there yet", means=means, cure="`caption-audit up` makes it")
        else:
            means, cure = "nothing can be started", "make it for this user, or set AUDIT_HOME"
            yield wrong("AUDIT_HOME", f"{home} is not there, and {above} cannot be written", means=means, cure=cure)
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    if not home.is_dir() or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        cure = f"chown it to user {os.getuid()}, or run as its owner"
        yield wrong("AUDIT_HOME", f"{home} (mode {mode:04o}) cannot be written", means="no worker starts", cure=cure)
    elif mode & stat.S_IWOTH:
        means = "everybody on this host can replace the ledger, the models and the password"
        yield wrong("AUDIT_HOME", f"{home} has mode {mode:04o}", means=means, cure=f"chmod o-w {home}")
    else:
        yield ok("AUDIT_HOME", f"{home}, mode {mode:04o}")


def secret_lines(settings: Settings) -> Iterator[Line]:
    """Files with passwords: their owner alone may read them."""
    for name in SECRETS:
        path = settings.home / name
        try:
            mode = stat.S_IMODE(os.lstat(path).st_mode)
        except OSError:
            continue
        if mode & 0o077:
            means = "others on this host can read a password"
            yield wrong(name, f"{path} has mode {mode:04o}", means=means, cure=f"chmod 600 {path}, and change it")
        else:
            yield ok(name, f"mode {mode:04o}")


def file_lines(settings: Settings) -> Iterator[Line]:
    """What somebody else's process left in AUDIT_HOME, which this user cannot write: a run as root, most often."""
    if not settings.home.exists():
        return
    file = ledger_file(settings)
    beside = [] if file is None else [Path(f"{file}{end}") for end in ("", "-wal", "-shm")]
    paths = [*beside, *islice(_entries(settings.home), MOST_ENTRIES)]
    barred = sorted({str(path) for path in paths if path.exists() and not os.access(path, os.W_OK)})
    if barred:
        shown = ", ".join(barred[:3]) + (f" and {len(barred) - 3} more" if len(barred) > 3 else "")
        means = f"user {os.getuid()} cannot write what workers and `up` write"
        yield wrong("files", f"cannot be written: {shown}", means=means, cure="chown them to the user who runs workers")
    else:
        yield ok("files", "this user can write those in AUDIT_HOME")


def _entries(home: Path) -> Iterator[Path]:
    for name in BELOW:
        try:
            with os.scandir(home / name) as found:
                yield from (
                    Path(entry.path) for entry in found if not entry.is_symlink() and entry.name != MAY_BE_BARRED
                )
        except OSError:
            continue
