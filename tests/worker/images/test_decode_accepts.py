"""Odd but good pictures are read as a person would see them, and say so with a flag."""

import io
import struct
from collections.abc import Callable

import pytest
from PIL import Image, ImageCms

from tests.worker.images.pictures import (
    FORMATS,
    animation,
    close,
    encoded,
    exif,
    flag,
    noise,
    png_of,
    png_with,
    try_decode,
)
from worker.images.codes import IMAGE_FLAGS
from worker.images.decode import Decoded

pytestmark = pytest.mark.filterwarnings("error")  # A million odd pictures would be a million lines on stderr.


def good(data: bytes, name: str | None = None) -> Decoded:
    outcome = try_decode(data, name)
    assert isinstance(outcome, Decoded), outcome
    assert outcome.image.mode == "RGB"
    assert outcome.image.size == (outcome.width, outcome.height)
    assert set(outcome.flags) <= IMAGE_FLAGS
    return outcome


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read_without_a_flag(kind: str) -> None:
    """A flag on an ordinary picture would teach people to ignore flags."""
    outcome = good(encoded(flag(), kind), f"a.{kind.lower()}")
    assert (outcome.flags, close(outcome.image, flag())) == ((), True)


@pytest.mark.parametrize("kind", FORMATS)
def test_bytes_after_a_complete_picture_do_not_matter(kind: str) -> None:
    """Cameras and web servers append things; the picture is all there."""
    assert close(good(encoded(flag(), kind) + b"appended \xff\xd8\xff\xd9" * 50).image, flag())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_all_eight_orientations_give_the_same_upright_picture(kind: str, order: str) -> None:
    """A phone held sideways must not change a verdict."""
    turned: dict[int, Callable[[Image.Image], Image.Image]] = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }
    for orientation, turn in turned.items():
        data = encoded(turn(flag()), kind, exif=b"Exif\0\0" + exif(orientation, order))
        assert close(good(data).image, flag()), orientation


@pytest.mark.parametrize("block", [b"", b"junk", exif(9), exif(0), exif(6)[:12], b"II*\0\xff\xff\xff\xff", b"MM"])
def test_broken_exif_is_ignored(block: bytes) -> None:
    """EXIF is written by every tool and checked by none."""
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(flag(), kind, exif=b"Exif\0\0" + block)
        assert close(good(data).image, flag())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_read(kind: str) -> None:
    """One verdict belongs to one picture, and the flag says which one was looked at."""
    outcome = good(animation(kind))
    assert (outcome.flags, close(outcome.image, flag())) == (("animated",), True)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("a.png", ("format_mismatch",)),
        ("a.JPG", ()),
        ("a.jpeg", ()),
        ("folder.png/a", ()),
        ("a.html", ("format_mismatch",)),
        ("photo.2024-05", ()),
        ("a", ()),
        ("", ()),
        ("a.jpg.gif", ("format_mismatch",)),
        (".png", ("format_mismatch",)),
    ],
)
def test_the_content_decides_and_a_false_extension_is_flagged(name: str, flags: tuple[str, ...]) -> None:
    """Extensions lie; a wrong one is worth telling, an absent one is not."""
    assert good(encoded(flag(), "JPEG"), name).flags == flags


def test_printing_colours_become_rgb() -> None:
    """Adobe stores CMYK inverted: read wrongly, a red car becomes a cyan one."""
    outcome = good(encoded(Image.new("CMYK", (64, 48), (0, 255, 255, 0)), "JPEG", quality=95))
    assert (outcome.flags, close(outcome.image, Image.new("RGB", (64, 48), (255, 0, 0)))) == (("converted_cmyk",), True)


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    """Clipping at 255 would make nearly every X-ray white."""
    image = Image.new("I;16", (4, 1))
    for x, value in enumerate((0, 256, 32_768, 65_535)):
        image.putpixel((x, 0), value)
    outcome = good(encoded(image, "PNG"))
    assert outcome.flags == ("converted_16_bit",)
    assert [outcome.image.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_scaled_too(colour: int, samples: int) -> None:
    """The same rule for every layout that PNG has."""
    row = b"\0" + struct.pack(">H", 0x8080) * (samples - 1) + struct.pack(">H", 0x8080 if colour == 2 else 0xFFFF)
    outcome = good(png_of(struct.pack(">IIBBBBB", 1, 1, 16, colour, 0, 0, 0), row))
    assert (outcome.image.getpixel((0, 0)), outcome.flags) == ((128, 128, 128), ("converted_16_bit",))


def test_grey_and_one_bit_pictures_become_rgb() -> None:
    """The model wants three channels, whatever the file has."""
    for mode in ("L", "1"):
        assert close(good(encoded(Image.new(mode, (20, 20), 255), "PNG")).image, Image.new("RGB", (20, 20), "white"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_pixels_are_laid_on_white(mode: str, kind: str) -> None:
    """Dropping alpha would show colours that nobody sees, such as the black under a logo."""
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    outcome = good(encoded(image.convert(mode), kind, **({"exact": True} if kind == "WEBP" else {})))
    assert (outcome.image.getpixel((5, 5)), outcome.flags) == ((255, 255, 255), ("alpha_on_white",))


def test_an_alpha_channel_that_hides_nothing_is_no_change() -> None:
    """Screenshots all have one."""
    assert good(encoded(flag().convert("RGBA"), "PNG")).flags == ()


def test_a_palette_with_alpha_is_laid_on_white() -> None:
    """Both spellings: one transparent entry, and a table of alphas."""
    image = Image.new("P", (10, 10), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    for transparency in (1, bytes([255, 0])):
        outcome = good(encoded(image, "PNG", transparency=transparency))
        assert (outcome.image.getpixel((5, 5)), outcome.flags) == ((255, 255, 255), ("alpha_on_white",))
    half = good(encoded(image, "PNG", transparency=bytes([255, 128])))
    assert half.image.getpixel((5, 5)) in ((227, 127, 127), (228, 127, 127))
    assert good(encoded(image, "GIF", transparency=1)).image.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("depth", "colour", "key", "row"),
    [
        (16, 0, b"\x12\x34", b"\x12\x34"),
        (16, 2, b"\x12\x34" * 3, b"\x12\x34" * 3),
        (8, 0, b"\0\x40", b"\x40"),
        (8, 2, b"\0\x40" * 3, b"\x40" * 3),
        (4, 0, b"\0\x05", b"\x50"),
        (2, 0, b"\0\x01", b"\x40"),
        (1, 0, b"\0\x01", b"\x80"),
    ],
)
def test_a_transparent_colour_is_found_at_every_depth(depth: int, colour: int, key: bytes, row: bytes) -> None:
    """Pillow widens the pixels of shallow and deep PNGs but not their transparent colour."""
    data = png_of(struct.pack(">IIBBBBB", 1, 1, depth, colour, 0, 0, 0), b"\0" + row, (b"tRNS", key))
    outcome = good(data)
    assert outcome.image.getpixel((0, 0)) == (255, 255, 255)
    assert "alpha_on_white" in outcome.flags


def test_a_colour_profile_changes_nothing_broken_or_not() -> None:
    """The model's own pipeline ignores profiles; a broken one must not cost the verdict."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG", "WEBP"):
        plain = good(encoded(flag(), kind)).image.tobytes()
        for icc in (profile, b"broken", profile[:100]):
            assert good(encoded(flag(), kind, icc_profile=icc)).image.tobytes() == plain


def test_harmless_text_and_unknown_parts_are_ignored() -> None:
    """Whatever tools write beside the pixels is not ours to judge."""
    data = png_with(encoded(flag(), "PNG"), (b"tEXt", b"k\0" + b"x" * 5_000_000), (b"prVt", b"?"), (b"gAMA", b""))
    assert close(good(data).image, flag())


def test_a_phone_picture_with_a_second_picture_inside_is_one_picture() -> None:
    """MPO is what many phones call .jpg; it is not an animation."""
    data = encoded(flag(), "MPO", save_all=True, append_images=[flag().rotate(180)])
    outcome = good(data, "a.jpg")
    assert (outcome.flags, close(outcome.image, flag())) == ((), True)


@pytest.mark.parametrize("kind", FORMATS)
def test_one_pixel_is_a_picture(kind: str) -> None:
    """Tracking pixels get a verdict like everything else."""
    assert good(encoded(Image.new("RGB", (1, 1), "white"), kind)).image.size == (1, 1)


def test_middle_grey_corners_are_no_sign_of_missing_data() -> None:
    """The check for JPEGs that end early looks there first, and must then look closer."""
    for mode, grey in (("RGB", (128, 128, 128)), ("L", 128), ("CMYK", (0, 0, 0, 127))):
        good(encoded(Image.new(mode, (640, 480), grey), "JPEG"))


def test_a_jpeg_is_read_in_all_its_ways_of_coding() -> None:
    """Subsampling, restart intervals, progressive scans, fill bytes between segments."""
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"restart_marker_blocks": 3}):
        assert close(good(encoded(flag(), "JPEG", **options)).image, flag())
    plain = encoded(flag(), "JPEG")
    assert close(good(plain[:2] + b"\xff" * 7 + plain[2:]).image, flag())
    assert close(good(encoded(noise(), "JPEG", progressive=True, quality=30)).image, noise(), tolerance=60)


def test_the_hash_is_of_the_file_and_not_of_the_pixels() -> None:
    """The cache key must not depend on the decoder's version."""
    data = encoded(flag(), "PNG")
    from hashlib import sha256

    assert good(data).sha256 == sha256(data).hexdigest()


def test_the_result_does_not_lean_on_the_file() -> None:
    """A lazy picture would be decoded, and fail, later and elsewhere."""
    outcome = good(encoded(flag(), "PNG"))
    assert type(outcome.image) is Image.Image
    assert outcome.image.info == {}
    assert io.BytesIO(outcome.image.tobytes()).getbuffer().nbytes == 96 * 64 * 3
