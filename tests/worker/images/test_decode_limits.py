"""Limits hold before pixels are decoded, whatever other libraries have done to Pillow."""

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
    bombs,
    encoded,
    flag,
    noise,
    png_of,
    try_decode,
    webp_canvas,
)
from worker.images.decode import Decoded, decode
from worker.images.limits import ImageLimits

CUT = png_of(struct.pack(">IIBBBBB", 50, 50, 8, 2, 0, 0, 0), bytes(range(256)) * 30, cut=40)
"""A PNG with good checksums whose packed pixels stop in the middle: only Pillow itself can tell."""


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
