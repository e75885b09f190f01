"""Text from outside, made visible: it must not move a cursor, reorder a line or begin a new one."""

import unicodedata


def plain(text: str) -> str:
    """The text with everything invisible shown as an escape.

    Control characters, escape sequences, direction marks, zero-width characters and lone surrogates could otherwise
    move the cursor, reorder the line or hide words.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    # C*: control, format, surrogate, private, unassigned; Zl and Zp: line and paragraph separators.
    category = unicodedata.category(character)
    if category[0] != "C" and category not in ("Zl", "Zp"):
        return character
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
