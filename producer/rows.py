"""What makes a manifest's row a pair, whatever the format; a row that is none becomes a failure of its own."""

from dataclasses import dataclass, replace

from audit.pair import Pair
from audit.verdict import Failure
from db.codec import storable
from db.register_pairs import Entry

MAX_ID_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnNames:
    """Which columns hold what. The premise may be absent, unless it was given a name of its own."""

    id: str = "id"
    image: str = "image"
    caption: str = "caption"
    premise: str = "premise"

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that a manifest must have."""
        always = (self.id, self.image, self.caption)
        return always if self.premise == "premise" else (*always, self.premise)


def checked(line: int, pair: Pair, *, problem: str | None = None) -> Entry:
    """The row as an entry; a failure if the format found a problem, or the texts are not what they should be.

    A row without a usable id is called `line-N`.
    """
    id_problem = _id_problem(pair.id)
    failure = _failure(pair, problem or id_problem)
    if failure is None:
        return Entry(line=line, pair=pair)
    if id_problem is not None:
        pair = replace(pair, id=f"line-{line}")
    return Entry(line=line, pair=pair, failure=replace(failure, detail=f"line {line}: {failure.detail}"))


def _failure(pair: Pair, problem: str | None) -> Failure | None:
    if problem is None and not pair.image:
        problem = "the image is empty"
    if problem is None and not pair.image.isascii() and not _names_a_file(pair.image):
        problem = "the image is no text that could name a file"
    if problem is not None:
        return Failure(code="row_invalid", detail=problem)
    for name, text in (("caption", pair.caption), ("premise", pair.premise)):
        if text is not None and not storable(text):
            what = "a NUL" if "\0" in text else "bytes that are not UTF-8"
            return Failure(code="caption_encoding", detail=f"the {name} holds {what}")
    return None


def _id_problem(name: str) -> str | None:
    if not name:
        return "the id is empty"
    if len(name) > MAX_ID_CHARS:
        return f"the id has {len(name):,} characters; the limit is {MAX_ID_CHARS}"
    if not storable(name):
        return "the id holds a NUL or bytes that are not UTF-8"
    return None


def _names_a_file(image: str) -> bool:
    # Names that are not UTF-8 are fine, as the bytes that they are; other lone surrogates are no file's name.
    try:
        image.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
