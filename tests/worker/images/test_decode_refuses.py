"""Bad pictures are refused with the code that says what is wrong, before they cost anything."""

import pickle
import struct
from pathlib import Path

import pytest
from PIL import Image

from audit.errors import BadImage
from tests.worker.images.pictures import (
    FORMATS,
    LIMITS,
    animation,
    close,
    encoded,
    flag,
    noise,
    png_of,
    try_decode,
)
from worker.images.decode import Decoded, decode
from worker.images.formats import inspect

CUT = png_of(struct.pack(">IIBBBBB", 50, 50, 8, 2, 0, 0, 0), bytes(range(256)) * 30, cut=40)
"""A PNG with good checksums whose packed pixels stop in the middle: only Pillow itself can tell."""


def noise_as_read(data: bytes) -> Image.Image:
    outcome = try_decode(data)
    assert isinstance(outcome, Decoded)
    return outcome.image


def test_no_bytes_are_an_empty_picture() -> None:
    """Failed downloads leave them by the thousand."""
    assert try_decode(b"") == "image_empty"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.999])
def test_half_a_picture_is_truncated(kind: str, share: float) -> None:
    """Pillow fills what is missing with grey or black, and the model would judge that."""
    data = encoded(noise(), kind)
    assert try_decode(data[: int(len(data) * share)]) == "image_truncated"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_half_an_animation_is_truncated(kind: str) -> None:
    """Its first frame may be whole, but the file is not what its owner meant."""
    data = animation(kind)
    assert try_decode(data[: len(data) * 3 // 4]) == "image_truncated"


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 5}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_a_jpeg_that_ends_early_but_has_its_end_marker_is_truncated(
    options: dict[str, int], mode: str, share: float
) -> None:
    """The decoder only warns, and nobody hears it; repair tools and proxies make such files."""
    data = encoded(noise(200, 150).convert(mode), "JPEG", **options)
    cut = data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9"
    assert try_decode(cut) == "image_truncated"


def test_a_progressive_jpeg_without_its_last_scans_is_truncated() -> None:
    """Nothing is missing but sharpness and colour, and no decoder complains."""
    data = encoded(noise(), "JPEG", progressive=True)
    scans = [place for place in range(len(data)) if data.startswith(b"\xff\xda", place)]
    assert len(scans) == 10
    for place in [*scans[1:], scans[-1] - 30, *range(scans[0] + 20, scans[-1], 997)]:
        assert try_decode(data[:place].rstrip(b"\xff") + b"\xff\xd9") == "image_truncated"


def test_a_progressive_jpeg_that_lacks_half_of_its_last_refinement_is_read() -> None:
    """That is one bit of some coefficients; without a refinement at the end a second look is taken."""
    data = encoded(noise(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    cut = data[: (last + len(data)) // 2].rstrip(b"\xff") + b"\xff\xd9"
    outcome = try_decode(cut)
    assert isinstance(outcome, Decoded)
    assert close(outcome.image, noise_as_read(data), tolerance=3)
    assert not inspect(data, LIMITS).elusive
    assert inspect(data[: last + 9] + b"\0" + data[last + 10 :], LIMITS).elusive


def test_a_png_without_its_end_or_with_a_wrong_checksum_is_truncated() -> None:
    """Pillow skips both checks for pixel data."""
    data = encoded(noise(), "PNG")
    assert try_decode(data[:-12]) == "image_truncated"
    for place in (data.index(b"IDAT") + 40, data.index(b"IDAT") + 4, len(data) - 1, len(data) - 14, 20, 30):
        broken = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert try_decode(broken) == "image_truncated", place


def test_a_png_whose_pixels_end_early_is_truncated() -> None:
    """Every checksum is right, and half of the rows are missing."""
    for interlaced, whole in ((0, 50 * 151), (1, 7_595)):
        header = struct.pack(">IIBBBBB", 50, 50, 8, 2, 0, 0, interlaced)
        assert isinstance(try_decode(png_of(header, bytes(whole))), Decoded)
        for missing in (1, 150, whole // 2, whole - 1):
            assert try_decode(png_of(header, bytes(whole - missing))) == "image_truncated"
    assert try_decode(CUT) == "image_truncated"


def test_a_gif_or_webp_whose_pixels_end_early_is_truncated() -> None:
    """The container is complete, the picture in it is not."""
    gif = encoded(noise(), "GIF")
    place = len(gif) // 2
    blocks = gif.index(b"\x2c", 781) + 11
    while blocks + gif[blocks] + 1 < place:
        blocks += gif[blocks] + 1
    assert try_decode(gif[:blocks] + b"\0\x3b") == "image_truncated"
    webp = encoded(noise(), "WEBP")[12:]
    half = webp[:4] + struct.pack("<I", len(webp) // 2 // 2 * 2) + webp[8 : 8 + len(webp) // 2 // 2 * 2]
    assert try_decode(b"RIFF" + struct.pack("<I", len(half) + 4) + b"WEBP" + half) == "image_truncated"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<?xml version='1.0'?><svg xmlns='x'/>", "SVG"),
        (b"<svg/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6", "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIF"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\n<!DOCTYPE html><title>404</title>", "HTML"),
        (b"\xef\xbb\xbf<HTML>", "HTML"),
        (pickle.dumps({"a": 1}), "pickle"),
        (b"PK\3\4", "ZIP"),
        (b'{"error": 404}', "JSON"),
        (b"BM is how this text begins, and it is long enough", "not a picture"),
        (b"\0" * 1000, "not a picture"),
        (b"x", "not a picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_other_files_are_named_in_the_failure(data: bytes, words: str) -> None:
    """`image_unsupported` alone sends people guessing; a thousand 404 pages called .jpg are one look."""
    with pytest.raises(BadImage, match=words) as caught:
        decode(data, limits=LIMITS, name="a.jpg")
    assert caught.value.code == "image_unsupported"


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "AVIF", "ICO", "PPM", "TGA", "PCX"])
def test_formats_that_pillow_reads_and_we_do_not_are_refused(kind: str) -> None:
    """Each decoder is a door; five are open."""
    assert try_decode(encoded(flag(), kind)) == "image_unsupported"


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """Whatever it is called, and also behind a picture's first bytes."""

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    for start in (b"", b"\xff\xd8\xff", b"GIF89a", b"BM"):
        try_decode(start + pickle.dumps(Trap()), "a.jpg")
    assert not (tmp_path / "sprung").exists()
