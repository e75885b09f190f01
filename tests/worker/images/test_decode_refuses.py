"""Bad pictures are refused with the code that says what is wrong, before they cost anything."""

import pickle
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from audit.errors import BadImage
from tests.worker.images.pictures import (
    FORMATS,
    HARMLESS,
    LIMITS,
    animation,
    bombs,
    close,
    encoded,
    flag,
    noise,
    png_of,
    try_decode,
    webp_canvas,
)
from worker.images.decode import Decoded, decode
from worker.images.formats import inspect
from worker.images.limits import ImageLimits

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


def test_bombs_cost_little_memory_and_little_time(tmp_path: Path) -> None:
    """One of them under Pillow's defaults takes 1.5 GB; sixty-four in a chunk take the machine."""
    made = bombs()
    for number, data in enumerate(made.values()):
        (tmp_path / str(number)).write_bytes(data)
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.worker.images.pictures import *\n"
        "for number in range(int(sys.argv[2])):\n"
        "    data = (Path(sys.argv[1]) / str(number)).read_bytes()\n    start = time.process_time()\n"
        "    found = try_decode(data)\n    spent = time.process_time() - start\n"
        "    print('read' if isinstance(found, Decoded) else found, spent,"
        " Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0], sep='|')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(len(made))],
        capture_output=True, text=True, check=True, timeout=120, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    rows = dict(zip(made, (line.split("|") for line in run.stdout.splitlines()), strict=True))
    assert {name: row[0] for name, row in rows.items()} == {
        name: "read" if name in HARMLESS else "image_too_large" for name in made
    }
    # Seconds of processor time, and peak memory in kB so far (not ru_maxrss, which a new program inherits).
    assert all(float(row[1]) < 2.0 and int(row[2]) < 150_000 for row in rows.values()), rows


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (ImageLimits(max_image_pixels=96 * 64 - 1), "image_too_large"),
        (ImageLimits(max_side_ratio=1.49), "image_too_large"),
        (ImageLimits(max_image_bytes=100), "image_too_large"),
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_each_limit_holds_for_each_format(limits: ImageLimits, code: str, kind: str) -> None:
    """A limit that one format escapes is no limit."""
    assert try_decode(encoded(flag(), kind), limits=limits) == code
    assert isinstance(try_decode(encoded(flag(), kind), limits=ImageLimits(max_image_pixels=96 * 64)), Decoded)


def test_limits_hold_whatever_pillows_globals_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines of modelscope switch both of Pillow's guards off for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert try_decode(webp_canvas(16_383, 16_383)) == "image_too_large"
    for kind in FORMATS:
        data = encoded(noise(), kind)
        assert try_decode(data[: len(data) // 2]) == "image_truncated"
    assert try_decode(CUT) == "image_truncated"


def test_pillows_leniency_cannot_be_switched_on_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model loads while the first pictures are decoded: the switch can flip between two rows."""
    load, flips = ImageFile.ImageFile.load, iter([True, True, False])

    def flipping(image: ImageFile.ImageFile) -> object:
        ImageFile.LOAD_TRUNCATED_IMAGES = next(flips, False)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", flipping)
    assert try_decode(CUT) == "image_truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_many_threads_decode_at_once() -> None:
    """Pictures are decoded in threads; a shared state would mix them up."""
    pictures = [encoded(Image.new("RGB", (40, 40), (shade, 0, 255 - shade)), "PNG") for shade in range(0, 250, 10)]
    wrong: list[int] = []

    def work() -> None:
        for index, data in enumerate(pictures * 4):
            outcome = try_decode(data)
            shade = index % len(pictures) * 10
            if not isinstance(outcome, Decoded) or outcome.image.getpixel((3, 3)) != (shade, 0, 255 - shade):
                wrong.append(index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_memory_left_blames_the_size_and_a_time_limit_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is the picture's doing; the second may strike anywhere and must pass through."""

    class TimeLimit(Exception):
        """As Celery's SoftTimeLimitExceeded: a plain Exception, raised by a signal in the middle of anything."""

    for error, expected in ((MemoryError, BadImage), (TimeLimit, TimeLimit), (zlib.error, BadImage)):

        def failing(_: object, error: type[Exception] = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(ImageFile.ImageFile, "load", failing)
            with pytest.raises(expected):
                decode(encoded(flag(), "BMP"), limits=LIMITS)
