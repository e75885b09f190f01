"""A picture that kills or hangs its decoder is named, and nothing else is.

The crashes are real: a `sitecustomize` on PYTHONPATH, or a library in LD_PRELOAD, acts on marked pictures in the
careful process, as a broken decoder would.
"""

import os
import time
from pathlib import Path

import pytest

from audit.errors import BadImage
from tests.worker.images.crashing import careful, children, marked_root, outcome
from tests.worker.images.pictures import animation, encoded, exif, flag
from worker.images.decode import Decoded
from worker.images.limits import ImageLimits
from worker.images.load import load_picture

LIMITS = ImageLimits()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with marked pictures; the hook is on PYTHONPATH."""
    return marked_root(tmp_path, monkeypatch)


def test_it_finds_what_decoding_in_place_finds(root: Path) -> None:
    """A chunk's second attempt must not change verdicts: same pixels, flags, hash and failures."""
    (root / "turned.jpg").write_bytes(encoded(flag(), "JPEG", exif=b"Exif\0\0" + exif(6)))
    (root / "wrong.jpg").write_bytes(animation("GIF"))
    (root / os.fsdecode(b"\xff.png")).write_bytes(encoded(flag().convert("L"), "PNG"))
    (root / "half.png").write_bytes(encoded(flag(), "PNG")[:100])
    references = ("good.png", "turned.jpg", "wrong.jpg", os.fsdecode(b"\xff.png"))
    failing = ("half.png", "none", "../x", "", "\ud800", "\x1b", "http://h", "a" * 100_000)
    with careful() as decoder:
        for reference in references:
            there, here = decoder.decode(reference, root=root), load_picture(reference, root=root, limits=LIMITS)
            assert (there.image.tobytes(), there.image.size, there.flags, there.sha256, there.width, there.height) == (
                here.image.tobytes(), here.image.size, here.flags, here.sha256, here.width, here.height,
            )  # fmt: skip
        for reference in failing:
            with pytest.raises(BadImage) as caught:
                load_picture(reference, root=root, limits=LIMITS)
            assert outcome(decoder, reference, root) == str(caught.value)
        assert len(children()) == 1


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("SEGV", "signal 11 (SIGSEGV)"),
        ("ABRT", "signal 6 (SIGABRT)"),
        ("KILL", "signal 9 (SIGKILL)"),
        ("EXIT", "exit status 3"),
    ],
)
def test_a_picture_that_kills_its_decoder_is_named_and_its_neighbours_are_read(
    mark: str, words: str, root: Path
) -> None:
    """One broken file must cost neither the worker nor the pictures around it."""
    with careful() as decoder:
        assert isinstance(outcome(decoder, "good.png", root), Decoded)
        assert outcome(decoder, f"{mark}.png", root) == (
            f"decoder_crashed: decoding it killed its process, twice: {words}"
        )
        assert isinstance(outcome(decoder, "good.png", root), Decoded)


def test_one_death_blames_no_picture(root: Path) -> None:
    """The kernel's memory killer takes whom it likes; only a death in a fresh process as well is the picture's."""
    with careful() as decoder:
        assert isinstance(outcome(decoder, "ONCE.png", root), Decoded)
    assert (root.parent / "once").exists()


@pytest.mark.parametrize("mark", ["HANG", "SPIN"])
def test_a_picture_that_hangs_its_decoder_is_named(mark: str, root: Path) -> None:
    """Without a limit one file would stop a worker for ever, and its lease would be renewed for nothing."""
    with careful(limit_s=0.5) as decoder:
        start = time.monotonic()
        assert outcome(decoder, f"{mark}.png", root) == (
            "decoder_timeout: decoding it took over 0.5 s (AUDIT_DECODE_LIMIT_S)"
        )
        assert time.monotonic() - start < 10.0
        assert children() == []
    with careful() as decoder:
        assert isinstance(outcome(decoder, "good.png", root), Decoded)


def test_running_out_of_its_memory_is_the_pictures_size_and_no_crash(root: Path) -> None:
    """The process has a limit of its own, so that the machine's is never reached."""
    with careful() as decoder:
        assert str(outcome(decoder, "MEMORY.png", root)).startswith("image_too_large: ")
        assert isinstance(outcome(decoder, "good.png", root), Decoded)


def test_what_libraries_print_is_no_answer(root: Path) -> None:
    """Decoders complain on stdout and stderr; the answers have a channel of their own."""
    with careful() as decoder:
        assert isinstance(outcome(decoder, "NOISE.png", root), Decoded)


def test_the_limits_travel(root: Path) -> None:
    """Careful must not mean lenient."""
    with careful(limits=ImageLimits(max_image_pixels=100)) as decoder:
        assert str(outcome(decoder, "good.png", root)).startswith("image_too_large: 96x64 is over 100 pixels")
