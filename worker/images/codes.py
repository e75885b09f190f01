"""Every code and flag that a picture can end with; the documentation and the careful process check against these."""

IMAGE_TOO_LARGE = "image_too_large"
IMAGE_TRUNCATED = "image_truncated"
IMAGE_EMPTY = "image_empty"
IMAGE_UNSUPPORTED = "image_unsupported"
DECODER_CRASHED = "decoder_crashed"
DECODER_TIMEOUT = "decoder_timeout"
PATH_DENIED = "path_denied"
NOT_A_FILE = "not_a_file"
FILE_MISSING = "file_missing"
FILE_UNREADABLE = "file_unreadable"
URL_SCHEME = "url_scheme"
PICTURES_AWAY = "pictures_away"
"""Of no picture: the whole folder does not answer, and the pair waits."""

FETCH_CODES = frozenset(
    {PATH_DENIED, NOT_A_FILE, FILE_MISSING, FILE_UNREADABLE, URL_SCHEME, IMAGE_TOO_LARGE, IMAGE_EMPTY}
)
DECODE_CODES = frozenset({IMAGE_TOO_LARGE, IMAGE_TRUNCATED, IMAGE_EMPTY, IMAGE_UNSUPPORTED})
CAREFUL_CODES = frozenset({DECODER_CRASHED, DECODER_TIMEOUT})
IMAGE_CODES = FETCH_CODES | DECODE_CODES | CAREFUL_CODES

FORMAT_MISMATCH = "format_mismatch"
"""The name's extension says another format than the content; the content was believed."""
ANIMATED = "animated"
"""Only the first frame was judged."""
ALPHA_ON_WHITE = "alpha_on_white"
"""Transparent pixels were laid on white."""
CONVERTED_16_BIT = "converted_16_bit"
"""16 bits a channel were scaled to the 8 that the model sees."""
CONVERTED_CMYK = "converted_cmyk"
"""Printing colours were turned into RGB without a colour profile: hues are approximate."""
IMAGE_SMALL = "image_small"
"""The shorter side has under SMALL_SIDE_PX pixels: the model sees it enlarged, and little in it."""
SMALL_SIDE_PX = 224

IMAGE_FLAGS = frozenset({FORMAT_MISMATCH, ANIMATED, ALPHA_ON_WHITE, CONVERTED_16_BIT, CONVERTED_CMYK})
