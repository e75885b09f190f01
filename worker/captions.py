"""Captions and premises: what the model is given, and how text of unknown origin is shown."""

import unicodedata
from dataclasses import dataclass

from audit.errors import BadCaption

CAPTION_EMPTY = "caption_empty"
CAPTION_ENCODING = "caption_encoding"
CAPTION_TOO_LONG = "caption_too_long"
CAPTION_CODES = frozenset({CAPTION_EMPTY, CAPTION_ENCODING, CAPTION_TOO_LONG})

CLEANED = "cleaned"
LANGUAGE_UNSUPPORTED = "language_unsupported"
CAPTION_FLAGS = frozenset(
    {"caption_cleaned", "language_unsupported", "premise_cleaned", "premise_language_unsupported"}
)

_PLAIN_SPACE = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029")
"""White space that ends lines or fields; \\x1c to \\x1f are white space to Python as well."""
_JOINERS = frozenset("\u200c\u200d")
_VISIBLE_FORMAT = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Of category Cf, yet drawn: the signs that Arabic, Syriac and Kaithi put before numbers."""
_BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800\ufffc\U0001d159")
"""Letters and symbols that draw nothing: Hangul fillers, Braille's empty cell, the object placeholder, a null note."""
_LATIN = (
    "LATIN",
    "FEMININE ORDINAL",
    "MASCULINE ORDINAL",
    "MATHEMATICAL",
    "FULLWIDTH LATIN",
    "SCRIPT",
    "DOUBLE-STRUCK",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanText:
    """Text for the model, and the flags of what was changed; the ledger keeps the user's own text."""

    text: str
    flags: tuple[str, ...]


def clean_text(text: str, *, field: str = "caption", max_chars: int) -> CleanText:
    """The text without what only a terminal or a text layout obeys.

    Control characters become spaces; directional marks, zero-width characters and noncharacters are removed, with the
    flag `caption_cleaned` (joiners inside emoji and words of other scripts stay). Line breaks and tabs become spaces
    without a flag. Nothing else is changed: no normalisation (NFC), no trimming, no case.
    `language_unsupported` says that most letters are not Latin: an English model will not understand those, but the
    rule knows scripts, not languages, so Spanish passes unflagged.
    `field` is `caption` or `premise`; flags and details of a premise say so, codes are the same.
    Raises BadCaption: `caption_too_long` (over `max_chars` as given), `caption_encoding` (NUL, lone surrogate, which is
    also how invalid UTF-8 arrives), `caption_empty` (nothing that draws is left).
    """
    if len(text) > max_chars:
        raise BadCaption(
            CAPTION_TOO_LONG, f"the {field} has {len(text):,} characters, over {max_chars:,} (AUDIT_MAX_CAPTION_CHARS)"
        )
    _check_encoding(text, field)
    pieces = [_replacement(text, index) for index in range(len(text))]
    cleaned = "".join(pieces)
    if not any(_draws(char) for char in cleaned):
        raise BadCaption(CAPTION_EMPTY, f"the {field} has nothing in it that could be read: {show(text, 60)}")
    flags = []
    if any(piece != char for piece, char in zip(pieces, text, strict=True) if char not in _PLAIN_SPACE):
        flags.append(f"{field}_cleaned")
    if _mostly_foreign(cleaned):
        flags.append("language_unsupported" if field == "caption" else f"{field}_language_unsupported")
    return CleanText(text=cleaned, flags=tuple(flags))


def clean_premise(text: str | None, *, max_chars: int) -> CleanText | None:
    """As clean_text(); None, empty and white space alone mean that there is no premise."""
    if text is None or not text.strip():
        return None
    return clean_text(text, field="premise", max_chars=max_chars)


def show(text: str, limit: int = 120) -> str:
    """The text as it may stand in a message, a log or a terminal: one line of at most `limit` characters.

    Control, directional, invisible and unassigned characters and surrogates are written as escapes (`\\x1b`,
    `\\u202e`); a byte of a file name that is not UTF-8 as `\\xff`. What is too long loses its middle.
    """
    head = "".join(map(_escaped, text[:limit]))
    if len(text) <= limit and len(head) <= limit:
        return head
    tail = "".join(map(_escaped, text[-limit:]))
    keep = max(limit - 1, 0)
    back = keep // 3
    return head[: keep - back] + "…" + (tail[-back:] if back else "")


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp") and char not in _BLANKS:
        return char
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _check_encoding(text: str, field: str) -> None:
    if "\0" in text:
        raise BadCaption(CAPTION_ENCODING, f"the {field} has a NUL character in it: {show(text, 60)}")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise BadCaption(CAPTION_ENCODING, f"the {field} is not valid Unicode: {show(text, 60)}")


def _replacement(text: str, index: int) -> str:
    """What the model is given for one character."""
    char = text[index]
    if " " <= char <= "~":
        return char
    category = unicodedata.category(char)
    if char in _PLAIN_SPACE or category == "Cc":
        return " "
    if char in _JOINERS:
        return char if _joins(text, index) else ""
    if category == "Cf":
        return char if char in _VISIBLE_FORMAT else ""
    return "" if _is_noncharacter(char) else char


def _joins(text: str, index: int) -> bool:
    """Whether a joiner stands between two characters that joining means something to: neither ASCII nor a joiner."""
    around = text[index - 1 : index] + text[index + 1 : index + 2]
    return len(around) == 2 and all(char >= "\u0300" and unicodedata.category(char) != "Cf" for char in around)


def _is_noncharacter(char: str) -> bool:
    code = ord(char)
    return 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE


def _draws(char: str) -> bool:
    """Whether a reader would see it: marks and variation selectors need something to stand on, spaces are empty."""
    category = unicodedata.category(char)
    return category[0] not in ("M", "Z") and category not in ("Cc", "Cf", "Cs") and char not in _BLANKS


def _mostly_foreign(text: str) -> bool:
    letters = [char for char in text if char.isalpha()]
    foreign = sum(1 for char in letters if char > "\x7f" and not unicodedata.name(char, "").startswith(_LATIN))
    return 2 * foreign > len(letters)
