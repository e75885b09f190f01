"""From any mode that the five formats decode to, to upright RGB on white."""

from PIL import Image, ImageMath

from worker.images.codes import ALPHA_ON_WHITE, CONVERTED_16_BIT, CONVERTED_CMYK
from worker.images.header import Header, unsupported

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (CIPA DC-008, tag 274)."""
WHITE = (255, 255, 255)


def to_rgb(image: Image.Image, header: Header) -> tuple[Image.Image, list[str]]:
    """(upright RGB picture, flags of what was changed); `image` is loaded."""
    flags: list[str] = []
    if header.kind == "PNG" and header.depth == 16:
        flags.append(CONVERTED_16_BIT)
    if image.mode == "CMYK":
        flags.append(CONVERTED_CMYK)
    if image.mode.startswith("I;16"):
        rgb, transparent = _from_16_bit_grey(image)
    else:
        rgb, transparent = _on_white(image, header.depth)
    if transparent:
        flags.append(ALPHA_ON_WHITE)
    if header.orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[header.orientation])
    rgb.info.clear()
    return rgb, flags


def _from_16_bit_grey(image: Image.Image) -> tuple[Image.Image, bool]:
    """Scaled by 255/65535 and rounded: Pillow's own convert() would clip everything over 255 to white."""
    wide = image.convert("I")
    rgb = wide.point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    hidden = image.info.get("transparency")
    if not isinstance(hidden, int):
        return rgb, False
    mask = ImageMath.lambda_eval(lambda names: (names["grey"] == hidden) * 255, grey=wide).convert("L")
    rgb.paste(WHITE, mask=mask)
    return rgb, mask.getextrema()[1] > 0


def _on_white(image: Image.Image, depth: int) -> tuple[Image.Image, bool]:
    """(RGB picture, whether anything was transparent)."""
    if "transparency" in image.info:
        _widen_key(image, depth)
        image = image.convert("RGBA")
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa"):
        return image.convert("RGB"), False
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert("RGB"), False
    rgb = Image.new("RGB", image.size, WHITE)
    rgb.paste(image, mask=alpha)
    return rgb, True


def _widen_key(image: Image.Image, depth: int) -> None:
    """Bring PNG's transparent colour to 8 bits, as Pillow does with the pixels but not with it."""
    key = image.info["transparency"]
    if image.mode == "L" and isinstance(key, int) and depth < 8:
        image.info["transparency"] = key * 255 // ((1 << depth) - 1)
    elif image.mode == "RGB" and isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    key = image.info["transparency"]
    highest = max(key) if isinstance(key, tuple) else key
    if isinstance(highest, int) and highest > 255:
        raise unsupported("a picture whose transparent colour is out of range")
