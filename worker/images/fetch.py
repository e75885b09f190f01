"""From a reference to bytes: files inside the image root, and nothing else.

Linux only: a path is first opened as a mere place (O_PATH), which touches no device, waits for no FIFO and needs no
right to read; where it lies and what it is are asked of that place, and the same place is then opened for reading.
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import NoReturn

from audit.errors import BadImage, Transient
from worker.captions import show
from worker.images.codes import (
    FILE_MISSING,
    FILE_UNREADABLE,
    IMAGE_EMPTY,
    NOT_A_FILE,
    PATH_DENIED,
    PICTURES_AWAY,
    URL_SCHEME,
)
from worker.images.limits import ImageLimits, check_bytes

_SCHEME = re.compile(r"[\s\x00-\x20]*([A-Za-z][A-Za-z0-9+.-]+):")
_SHOWN_CHARS = 120
_BLOCK = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_OUR_OWN_LACK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_LOST_MOUNT = frozenset({errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN})


def read_picture(reference: str, *, root: Path, limits: ImageLimits) -> bytes:
    """The bytes of the picture that `reference` names: a path relative to `root`, or an absolute one inside it.

    A name that is not UTF-8 comes with surrogate escapes, as os.fsdecode() makes them. `root` and what lies in it may
    be symbolic links, as long as they lead into the real root. Never waits for a FIFO; never reads more than the limit
    and one block. Raises BadImage (`codes.FETCH_CODES`), and Transient when this process is out of file descriptors
    or memory, which is no picture's fault.
    """
    path = _checked(reference, root)
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        _deny_if_outside(path, root, reference)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            check_folder(root)
        _refuse(error, reference, root)
    try:
        _check_place(place, root, reference)
        return _read(place, reference, root, limits)
    finally:
        os.close(place)


def check_folder(root: str | Path) -> None:
    """Raise Transient (`pictures_away`) when the folder is not there, does not answer, or has nothing in it.

    A mount that is away leaves an empty folder behind: a host without its pictures must not write file_missing for a
    million pairs that are fine elsewhere.
    """
    try:
        with os.scandir(root) as entries:
            if next(entries, None) is not None:
                return
        cause = "is empty: is its mount away?"
    except PermissionError:
        return  # names in it can be opened all the same, where only listing it is forbidden
    except OSError as error:
        cause = f"cannot be read: {os.strerror(error.errno or 0)}"
    raise Transient(PICTURES_AWAY, f"the image folder {cause}")


def _checked(reference: str, root: Path) -> bytes:
    """The path as the kernel takes it; raises BadImage for references that no path check is needed for."""
    scheme = _SCHEME.match(reference)
    if scheme:
        raise BadImage(
            URL_SCHEME,
            f"{show(scheme[1], 20)}: is a URL's scheme, and this version reads pictures from files; a file whose name "
            "looks like that can be given as ./NAME",
        )
    if not reference:
        raise BadImage(FILE_MISSING, "the pair names no picture")
    if "\0" in reference:
        raise BadImage(PATH_DENIED, f"{_shown(reference)} has a NUL in it")
    if ".." in reference.split("/"):
        raise BadImage(PATH_DENIED, f"{_shown(reference)}: '..' is not followed")
    try:
        return os.path.join(os.fsencode(root), os.fsencode(reference))
    except UnicodeEncodeError:
        raise BadImage(FILE_MISSING, f"{_shown(reference)}: no file can have such a name") from None


def _check_place(place: int, root: Path, reference: str) -> None:
    """The place must lie in the real root and be a regular file; in this order, to tell nothing of what is outside."""
    if not _inside(os.readlink(f"/proc/self/fd/{place}".encode()), root):
        raise BadImage(PATH_DENIED, f"{_shown(reference)} leads out of the image folder")
    mode = os.fstat(place).st_mode
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "no regular file")
        raise BadImage(NOT_A_FILE, f"{_shown(reference)} is {kind}")


def _read(place: int, reference: str, root: Path, limits: ImageLimits) -> bytes:
    check_bytes(os.fstat(place).st_size, limits)
    try:
        # The same inode again, whatever the path means by now. A regular file never blocks; the flags cost nothing.
        handle = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        _refuse(error, reference, root)
    blocks, count = [], 0
    try:
        # The size is no promise: files grow, and those of /proc say 0.
        while block := os.read(handle, _BLOCK):
            blocks.append(block)
            count += len(block)
            check_bytes(count, limits)
    except OSError as error:
        _refuse(error, reference, root)
    finally:
        os.close(handle)
    if not count:
        raise BadImage(IMAGE_EMPTY, f"{_shown(reference)} has no bytes")
    return b"".join(blocks)


def _deny_if_outside(path: bytes, root: Path, reference: str) -> None:
    """A link that leads out is refused alike, whether or not anything is there: failures are no window on the host."""
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError):
        return
    if not _inside(real, root):
        raise BadImage(PATH_DENIED, f"{_shown(reference)} leads out of the image folder")


def _inside(real: bytes, root: Path) -> bool:
    real_root = os.path.realpath(os.fsencode(root))
    return real == real_root or real.startswith(real_root.rstrip(b"/") + b"/")


def _refuse(error: OSError, reference: str, root: Path) -> NoReturn:
    if error.errno in _OUR_OWN_LACK:
        raise Transient("out_of_resources", f"cannot open pictures: {os.strerror(error.errno or 0)}") from error
    if error.errno == errno.EIO:
        # Of a mount that is lost, and of one file on a bad sector: that one must not hold up all that lie beside it.
        check_folder(root)
    elif error.errno in _LOST_MOUNT:
        raise Transient(PICTURES_AWAY, f"the image folder does not answer: {os.strerror(error.errno)}") from error
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise BadImage(FILE_MISSING, f"there is no file {_shown(reference)} in the image folder") from None
    cause = os.strerror(error.errno or 0)
    raise BadImage(FILE_UNREADABLE, f"{_shown(reference)} cannot be read: {cause}") from None


def _shown(reference: str) -> str:
    return show(reference, _SHOWN_CHARS)
