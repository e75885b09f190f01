"""Flower's password: the setting, or one that is made once and kept in a file that only its owner can read."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from audit.errors import UsageError
from audit.settings import Settings

NAME = "flower-password"
RANDOM_BYTES = 24
LONGEST = 1024


def password_file(settings: Settings) -> Path | None:
    """Where the password stands; None when the operator has set one."""
    return None if settings.flower_password else settings.home / NAME


def password(settings: Settings) -> str:
    """The password, made now if there is none yet. Raises UsageError for a file that is no such thing."""
    if settings.flower_password:
        return settings.flower_password.get_secret_value()
    path = settings.home / NAME
    if not os.path.lexists(path):
        try:
            _make(path)
        except OSError as error:
            cure = "set AUDIT_FLOWER_PASSWORD, or AUDIT_HOME to a folder that can be written"
            raise UsageError("bad_password_file", f"{path} cannot be made: {error.strerror}; {cure}") from error
    return _read(path)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{NAME}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, f"{secrets.token_urlsafe(RANDOM_BYTES)}\n".encode())
        os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was quicker: its password counts
            os.link(fresh, path)
    finally:
        os.close(descriptor)
        fresh.unlink()


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise UsageError("bad_password_file", f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
        text = file.read(LONGEST + 1).decode(errors="replace").strip()
    if not 8 <= len(text) <= LONGEST or not (text.isascii() and text.isprintable()):
        raise UsageError("bad_password_file", f"{path} holds no password: remove it, and a new one is made")
    return text
