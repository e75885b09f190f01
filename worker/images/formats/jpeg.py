"""JPEG: the markers are walked to the end, for libjpeg fills what is missing with grey and only warns.

ITU T.81 annex B has the format.
"""

import re
import struct

from worker.images.exif import orientation
from worker.images.header import Header, too_much_work, truncated, unsupported

SOI, EOI, SOS, APP0, APP1, APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers: the segments that hold width and height."""
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
BARE = frozenset({0x01, *range(0xD0, 0xD8), SOI})
"""Markers without a segment behind them."""
MAX_SCANS = 100
"""Encoders write about 10; each scan of a progressive JPEG visits every block, so thousands would take hours."""
MAX_SEGMENTS = 5_000
"""A 20 MB profile or maker's note takes 306 segments of 64 kB."""
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
FILLER = bytes((37 * index + 11) % 251 for index in range(64))


def accepts(data: bytes) -> bool:
    """Whether the content is JPEG."""
    return data.startswith(b"\xff\xd8\xff")


def inspect(data: bytes) -> Header:
    """Width, height, orientation; `plain` lacks application data but for JFIF's and Adobe's, which say how the colours
    are meant. With the rest, Pillow would read EXIF for the resolution and look for a second picture (MPO)."""
    walk = _Walk()
    position, parts, first_scan = 2, [data[:2]], 0
    for _ in range(MAX_SEGMENTS):
        marker, start, end = _segment(data, position)
        if marker == EOI:
            if not first_scan:
                raise truncated("a JPEG without pixel data")
            head = b"".join(parts)
            plain = data if len(head) == first_scan else head + data[first_scan:]
            return walk.header(plain, len(head) + start - first_scan)
        if marker == SOS:
            first_scan = first_scan or start
            walk.scan(data[start + 4 : end])
            found = _MARKER_IN_SCAN.search(data, end)
            if found is None:
                raise truncated("the JPEG ends before its end marker")
            position = found.start()
            continue
        walk.segment(marker, data[start + 4 : end])
        if not first_scan and (marker in (APP0, APP14) or not APP0 <= marker <= 0xEF):
            parts.append(data[start:end])
        position = end
    raise too_much_work(f"a JPEG of more than {MAX_SEGMENTS:,} segments")


def with_filler(plain: bytes, end: int) -> bytes:
    """The same picture with nonsense between its last scan and the end marker.

    A decoder that has all its data never looks at it; one whose data ended early takes it for pixels. So a picture
    that decodes to something else this way lacks data at its end.
    """
    return plain[:end] + FILLER + plain[end : end + 2]


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """(marker, where its FF is, where it ends) of the next segment; stray bytes before it are skipped."""
    while True:
        start = data.find(b"\xff", position)
        if start < 0 or start + 1 >= len(data):
            raise truncated("the JPEG ends before its end marker")
        marker = data[start + 1]
        if marker == 0xFF:
            position = start + 1
        elif marker == 0 or marker in BARE:
            position = start + 2
        else:
            break
    if marker == EOI:
        return marker, start, start + 2
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    if length < 2:
        raise truncated("the JPEG has a segment without a length: it is damaged")
    end = start + 2 + length
    if end > len(data):
        raise truncated("the JPEG ends in the middle of a segment")
    return marker, start, end


class _Walk:
    """What the segments said so far."""

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None
        self.progressive = False
        self.orientation = 1
        self.scans = 0
        self.refining = False
        self.first_component: int | None = None
        self.missing_bits = [16] * 64
        """For each coefficient of the first component (brightness): how many of its low bits have not been sent."""

    def segment(self, marker: int, body: bytes) -> None:
        """Any segment but a scan."""
        if marker in SIZES and self.size is None:
            if len(body) < 7:
                raise truncated("the JPEG's header is cut off")
            height, width = struct.unpack_from(">HH", body, 1)
            self.size, self.progressive, self.first_component = (width, height), marker in PROGRESSIVE, body[6]
        elif marker == APP1 and body.startswith(b"Exif\0") and self.orientation == 1:
            self.orientation = orientation(body)

    def scan(self, body: bytes) -> None:
        """The head of one scan: components, range of coefficients, bit position (T.81 B.2.3)."""
        self.scans += 1
        if self.scans > MAX_SCANS:
            raise too_much_work(f"a JPEG of more than {MAX_SCANS} scans")
        count = body[0] if body else 0
        if len(body) < 4 + 2 * count:
            raise truncated("the JPEG has a scan whose head is cut off")
        self.refining = body[3 + 2 * count] >> 4 > 0
        if self.first_component is not None and self.first_component in body[1 : 1 + 2 * count : 2]:
            low, high, bits = body[1 + 2 * count : 4 + 2 * count]
            for index in range(low, min(high, 63) + 1):
                self.missing_bits[index] = bits & 15

    def header(self, plain: bytes, end: int) -> Header:
        """All of it; raises BadImage when a part is missing."""
        if self.size is None:
            raise unsupported("a JPEG without a picture header")
        if self.progressive and any(self.missing_bits):
            raise truncated("the progressive JPEG lacks its last scans")
        width, height = self.size
        return Header(
            kind="JPEG",
            width=width,
            height=height,
            plain=plain,
            orientation=self.orientation,
            # Half of a last refinement costs the lowest bit of some coefficients, which nobody sees; and to make sure
            # would double the time of nearly every progressive JPEG, for encoders put one last.
            elusive=self.progressive and not self.refining,
            end=end,
        )
