"""What may stand in a log line: no caption, no secret, nothing that breaks a line or speaks to a terminal, no novel."""

import logging
import math
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from audit.errors import AuditError
from audit.text import plain

LONGEST = 1_000
"""Characters of one value."""
LONGEST_STACK = 16_000
LONGEST_INT_BITS = 64
"""Python refuses to write a number of some thousand digits down."""
MOST_VALUES = 64
"""In a list or mapping."""
DEEPEST = 4
MOST_ERRORS, FIRST_FRAMES, LAST_FRAMES = 8, 5, 20
SHORTEST_SECRET = 4
SHORTEST_CAPTION, HEAD = 4, 24
"""A shorter caption says nothing of anybody, and would blot out words; so long a beginning gives a longer one away."""
HIDDEN, CAPTION = "***", "<caption>"
WITHHELD = "(its words are left out: they may quote a caption)"

_WORD_END = re.compile(r"\s|$")
_AUTHORITY_END = re.compile(r"[/?#]|$")
_ESCAPES = str.maketrans({"\n": r"\n", "\r": r"\r", "\t": r"\t"})


class _Texts:
    """Texts that are not to be shown, with the forms and beginnings that they are known by: made when first asked."""

    def __init__(self, texts: Iterable[str | None]) -> None:
        self._texts = texts

    @cached_property
    def forms(self) -> tuple[tuple[str, str], ...]:
        """(beginning in lower case, whole form)."""
        stripped = (text.strip() for text in self._texts if text)
        forms = {form for text in stripped for form in (text, repr(text)[1:-1]) if len(text) >= SHORTEST_CAPTION}
        return tuple((form[:HEAD].lower(), form) for form in forms)


_NONE = _Texts(())
_WITHHELD: ContextVar[_Texts] = ContextVar("withheld", default=_NONE)


@contextmanager
def withholding(texts: Sequence[str | None]) -> Iterator[None]:
    """While the block runs, no line of this thread (or of those it gives work to) shows any of these texts.

    Apart from our own at DEBUG and INFO, which hold nothing from outside.
    """
    token = _WITHHELD.set(_Texts(texts))
    try:
        yield
    finally:
        _WITHHELD.reset(token)


def secrets_of(*texts: str | None) -> tuple[str, ...]:
    """Passwords to mask wherever they turn up: each text itself or, where it is a URL, the password in it."""
    found: set[str] = set()
    for text in texts:
        password = urlsplit(text).password if text and "://" in text else text
        if password:
            found |= {password, unquote(password), quote(password, safe="")}
    return tuple(sorted((one for one in found if len(one) >= SHORTEST_SECRET), key=len, reverse=True))


class Cleaner:
    """Makes values fit for a line; `secrets` are masked wherever they turn up, captions in hand if it is `wary`."""

    def __init__(self, secrets: tuple[str, ...] = (), *, wary: bool = True) -> None:
        self._secrets = secrets
        self._wary = wary

    def trusting(self) -> "Cleaner":
        """The same for lines that hold nothing from outside."""
        return Cleaner(self._secrets, wary=False)

    def value(self, value: Any, depth: int = 0) -> Any:
        """Numbers and truth values as they are, everything else as clean text, also inside of lists and mappings."""
        if value is None or (isinstance(value, int) and value.bit_length() <= LONGEST_INT_BITS):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return self.text(value)
        if depth < DEEPEST and isinstance(value, Mapping):
            items = list(value.items())[:MOST_VALUES]
            return {self.text(str(name)): self.value(inner, depth + 1) for name, inner in items}
        if depth < DEEPEST and isinstance(value, list | tuple | set | frozenset):
            return [self.value(inner, depth + 1) for inner in list(value)[:MOST_VALUES]]
        return self.text(_shown(value))

    def text(self, text: str, *, limit: int = LONGEST) -> str:
        """One line of bearable length without secrets and without any caption in hand."""
        cut = len(text) > 2 * limit
        if cut:
            text = text[: 2 * limit]
        if "://" in text:
            text = _masked(text)
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        if self._wary and (withheld := _WITHHELD.get()) is not _NONE:
            text = _without(text, withheld)
        if not (text.isascii() and text.isprintable()):
            text = plain(text.translate(_ESCAPES))
        if len(text) > limit:
            return text[: limit - 1] + "…"
        return f"{text.rpartition(' ')[0]} …" if cut else text  # its last word may be half a secret

    def stack(self, error: BaseException, *, of_pairs: bool) -> str:
        """The error with its causes, innermost first, and their stacks, as Python shows them.

        `of_pairs` is whether pairs are in hand: then a foreign error's own words are left out, for they may quote a
        caption in any form (cut, lower case, in pieces); its type, codes and stack are there.
        """
        lines: list[str] = []
        for one, follows in reversed(list(_chain(error))):
            lines += self._one(one, of_pairs=of_pairs)
            lines += [follows] if follows else []
        text = "\n".join(lines)
        if len(text) <= LONGEST_STACK:
            return text
        head, tail = text[: LONGEST_STACK // 4], text[-LONGEST_STACK * 3 // 4 :]
        return f"{head}\n...\n{tail.partition(chr(10))[2]}"

    def _one(self, error: BaseException, *, of_pairs: bool) -> Iterator[str]:
        frames = traceback.extract_tb(error.__traceback__)
        if frames:
            yield "Traceback (most recent call last):"
        for number, frame in enumerate(frames):
            if FIRST_FRAMES <= number < len(frames) - LAST_FRAMES:
                if number == FIRST_FRAMES:
                    yield f"  ... {len(frames) - FIRST_FRAMES - LAST_FRAMES} more"
                continue
            yield self.text(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}')
            if frame.line:
                yield "    " + self.text(frame.line)
        yield self._said(error, of_pairs=of_pairs)
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions[:MOST_ERRORS]:
                yield "  " + self._said(inner, of_pairs=of_pairs)

    def _said(self, error: BaseException, *, of_pairs: bool) -> str:
        name = type(error).__qualname__
        if of_pairs and not isinstance(error, AuditError):
            codes = _codes(error)
            return self.text(f"{name}: {codes} {WITHHELD}" if codes else f"{name}: {WITHHELD}")
        said = _shown(error)
        return self.text(f"{name}: {said}" if said else name)


def words_of(record: logging.LogRecord) -> str:
    """A record's words, not cleaned yet; raises nothing, as filters and formatters must not."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - somebody's arguments do not fit somebody's format
        return f"{record.msg} (its arguments do not fit)"


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """The error, what caused it, what caused that; each with the words that lead from it to the one it caused."""
    seen: set[int] = set()
    follows = ""
    one: BaseException | None = error
    while one is not None and id(one) not in seen and len(seen) < MOST_ERRORS:
        seen.add(id(one))
        yield one, follows
        if one.__cause__ is not None:
            one, follows = one.__cause__, "The above exception was the direct cause of the following exception:"
        else:
            one = None if one.__suppress_context__ else one.__context__
            follows = "During handling of the above exception, another exception occurred:"


def _codes(error: BaseException) -> str:
    """Numbers and names of what went wrong, of the system and of databases: no words of anybody's."""
    at = getattr(error, "orig", None) or error
    found = [getattr(at, name, None) for name in ("errno", "sqlstate", "sqlite_errorname")]
    told = [str(code) for code in found if isinstance(code, int | str)]
    if isinstance(error, OSError) and error.strerror:
        told.append(str(error.strerror))
    return " ".join(told)


def _masked(text: str) -> str:
    """URLs without user and password, and without their queries, which may be signatures."""
    pieces: list[str] = []
    done = 0
    while (at := text.find("://", done)) >= 0:
        begin = at + 3
        end = _end(_WORD_END, text, begin)
        word = text[begin:end]
        named, user = _end(_AUTHORITY_END, word, 0), word.rfind("@")
        if user >= 0 and (user < named or ":" in word[:named]):  # a password may hold a slash that nobody escaped
            word = f"{HIDDEN}@{word[user + 1 :]}"
        address, question, _ = word.partition("?")
        pieces += [text[done:begin], address + question + (HIDDEN if question else "")]
        done = end
    return "".join((*pieces, text[done:]))


def _end(pattern: re.Pattern[str], text: str, begin: int) -> int:
    found = pattern.search(text, begin)
    return found.start() if found else len(text)


def _without(text: str, withheld: _Texts) -> str:
    lowered = text.lower()
    for head, form in withheld.forms:
        if head in lowered:
            text = _hidden(text, form)
    return text


def _hidden(text: str, caption: str) -> str:
    """As much of the caption as is there, wherever it begins: whoever quotes a long text cuts it."""
    pieces: list[str] = []
    done = 0
    for found in re.finditer(re.escape(caption[:HEAD]), text, re.IGNORECASE):
        if found.start() < done:
            continue
        pieces += [text[done : found.start()], CAPTION]
        pairs = zip(text[found.end() :], caption[HEAD:], strict=False)
        same = next((at for at, (one, other) in enumerate(pairs) if one.lower() != other.lower()), None)
        rest = min(len(text) - found.end(), max(len(caption) - HEAD, 0))
        done = found.end() + (rest if same is None else same)
    return "".join((*pieces, text[done:]))


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - whatever a foreign object does when it is to be shown
        return f"{type(value).__name__} that cannot be shown ({type(error).__name__})"
