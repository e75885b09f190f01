"""Pairs as rows of the ledger and back, without losing a byte.

SQL text holds neither NUL nor bytes that are not UTF-8 (lone surrogates in Python). Such a pair is stored escaped, to
be read by people, and once more as ASCII JSON in `raw`, to be read by programs.
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from audit.pair import Pair, Row

COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # json.dumps would build one a row


def pair_to_row(pair: Pair) -> dict[str, Any]:
    """Columns of the `pairs` table, but for batch and conflict."""
    extra = COMPACT.encode(dict(pair.extra)) if pair.extra else None
    texts = {"id": pair.id, "image": pair.image, "caption": pair.caption, "premise": pair.premise, "extra": extra}
    if all(text is None or storable(text) for text in texts.values()):
        return {"row": pair.row, **texts, "raw": None}
    raw = json.dumps({**texts, "extra": dict(pair.extra) if pair.extra else None})
    return {"row": pair.row, **{name: escape(text) for name, text in texts.items()}, "raw": raw}


def row_to_pair(row: Mapping[str, Any] | RowMapping) -> Pair:
    """The pair exactly as it was registered."""
    if row["raw"] is not None:
        return Pair(row=Row(row["row"]), **json.loads(row["raw"]))
    return Pair(
        row=Row(row["row"]),
        id=row["id"],
        image=row["image"],
        caption=row["caption"],
        premise=row["premise"],
        extra=json.loads(row["extra"]) if row["extra"] else None,
    )


def storable(text: str) -> bool:
    """Whether both databases can hold the text as it is."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def escape(text: str | None) -> str | None:
    """The text with what SQL cannot hold shown as backslash escapes; for people, not reversible."""
    if text is None or storable(text):
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
