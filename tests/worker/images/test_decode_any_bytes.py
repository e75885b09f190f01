"""Whatever the bytes are: a picture, or a failure with a known code. Never another exception."""

import functools
import struct

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.worker.images.pictures import FORMATS, animation, encoded, noise, try_decode
from worker.images.codes import DECODE_CODES, IMAGE_FLAGS
from worker.images.decode import Decoded
from worker.images.exif import orientation

MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"RIFF\x40\0\0\0WEBPVP8X",
    b"II*\0",
    b"\0\0\0\x0cjP  ",
)


@functools.cache
def seeds() -> tuple[bytes, ...]:
    small = noise(23, 17)
    plain = [encoded(small, kind) for kind in FORMATS]
    odd = [
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("P"), "BMP"),
        encoded(small, "WEBP", lossless=True),
    ]
    return (*plain, *odd, *(animation(kind) for kind in ("GIF", "WEBP", "PNG")))


def holds(data: bytes) -> None:
    outcome = try_decode(data, "name.png")
    if isinstance(outcome, Decoded):
        assert outcome.image.mode == "RGB"
        assert len(outcome.image.tobytes()) == 3 * outcome.width * outcome.height
        assert set(outcome.flags) <= IMAGE_FLAGS
    else:
        assert outcome in DECODE_CODES


@given(start=st.sampled_from([b"", *MAGIC]), rest=st.binary(max_size=400))
@example(start=b"BM", rest=struct.pack("<IIIIiiHHI", 0, 0, 0, 40, 1, -(2**31), 1, 24, 0) + bytes(20))
def test_arbitrary_bytes_are_a_picture_or_a_failure(start: bytes, rest: bytes) -> None:
    """An exception that nobody expected would cost the whole chunk."""
    holds(start + rest)


@settings(max_examples=300)
@given(
    seed=st.integers(0, 10),
    edits=st.lists(st.tuples(st.floats(0, 1), st.sampled_from("soi"), st.binary(min_size=1, max_size=6)), max_size=6),
    keep=st.floats(0.2, 1),
)
def test_damaged_pictures_are_a_picture_or_a_failure(
    seed: int, edits: list[tuple[float, str, bytes]], keep: float
) -> None:
    """Bit rot and clumsy tools: bytes overwritten, dropped and put in."""
    data = bytearray(seeds()[seed])
    for place, kind, patch in edits:
        index = int(place * place * (len(data) - 1))  # Squared: headers matter more than pixels.
        if kind == "s":
            data[index : index + len(patch)] = patch
        elif kind == "o":
            del data[index : index + len(patch)]
        else:
            data[index:index] = patch
    holds(bytes(data[: int(len(data) * keep)]) if keep < 0.9 else bytes(data))


@given(st.binary(max_size=200))
def test_an_orientation_is_always_one_of_eight(block: bytes) -> None:
    """EXIF comes from anywhere."""
    for start in (b"", b"II*\0", b"MM\0*", b"II*\0\x08\0\0\0\x01\0\x12\x01", b"Exif\0\0II*\0\x08\0\0\0"):
        assert 1 <= orientation(start + block) <= 8
