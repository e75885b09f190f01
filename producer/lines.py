"""Reading a manifest's lines in bounded memory, hashing its bytes on the way."""

import codecs
import hashlib
import io
from collections.abc import Iterator
from typing import BinaryIO

from audit.errors import ManifestInvalid

BLOCK_BYTES = 1 << 18
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Lines:
    """The lines of a UTF-8 file from its start, without a byte order mark; each keeps its line end.

    Bytes that are not UTF-8 become lone surrogates (`surrogateescape`), so that nothing is lost. `record_starts` says
    that the next line begins a record; one that grows over `max_bytes` raises ManifestInvalid and is never held whole.
    """

    def __init__(self, file: BinaryIO, *, max_bytes: int) -> None:
        self._hash = hashlib.sha256()
        file.seek(0)
        self._file = io.BufferedReader(_Hashing(file, self._hash), BLOCK_BYTES)
        self.max_bytes = max_bytes
        self._left = max_bytes
        self._first_line = 1
        self.ended = False

    @property
    def sha256(self) -> str:
        """Hash of what was read; of the whole file once `ended`."""
        return self._hash.hexdigest()

    def record_starts(self, line: int) -> None:
        """Count a record's bytes from the next line on, whose number is `line`."""
        self._left = self.max_bytes
        self._first_line = line

    def __iter__(self) -> Iterator[str]:
        readline = self._file.readline
        start = self._file.peek(4)[:4]
        if start.startswith(UTF16):
            raise ManifestInvalid("manifest_invalid", "line 1: this is UTF-16 text; save the file as UTF-8")
        if start.startswith(codecs.BOM_UTF8):
            self._file.read(len(codecs.BOM_UTF8))
        while line := readline(self._left + 1):
            self._left -= len(line)
            if self._left < 0:
                raise self._too_long()
            yield line.decode("utf-8", "surrogateescape")
        self.ended = True

    def _too_long(self) -> ManifestInvalid:
        limit = f"{self.max_bytes:,} bytes (AUDIT_MAX_LINE_BYTES)"
        detail = f"line {self._first_line}: the record is longer than {limit}; is a quote not closed?"
        return ManifestInvalid("manifest_invalid", detail)


class _Hashing(io.RawIOBase):
    """A file that hashes what is read from it."""

    def __init__(self, file: BinaryIO, digest: "hashlib._Hash") -> None:
        self._file = file
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]  # stub wants Buffer
        block = self._file.read(len(buffer))
        self._digest.update(block)
        buffer[: len(block)] = block
        return len(block)
