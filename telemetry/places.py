"""Where what a worker's processes count lies: memory that they share, a place for each of them.

prometheus-client would write files, named by process, and a file that grows on a full disk kills whoever counts. This
is anonymous memory, made and reserved before the first fork, as the board is: there are no files to pile up or to clear
away. A process that replaces another one goes on with its place, so nothing counted is forgotten, and a process that
is killed has lost at most the step that it was at: a value is one word, and a new one is announced after it is written.
"""

import json
import mmap
from collections.abc import Iterator
from functools import cache
from threading import RLock
from typing import Any

PLACE_BYTES = 256 * 1024
"""Every value of every instrument takes about a fifth of it."""
WORD = 8
USED, LOST, FIRST = 0, 1, 2
"""Words of a place: bytes in use, what had no room, and where values begin: length of a key, key, value."""
LONGEST_KEY = 1024

Counted = tuple[str, str, tuple[tuple[str, str], ...]]
"""Name of a metric, name of one of its samples, labels."""


class Places:
    """Places by number, from 0. Raises OSError (or OverflowError) when there is no memory for them."""

    def __init__(self, count: int, *, place_bytes: int = PLACE_BYTES) -> None:
        # Reserved now: memory that runs out later is met by a signal.
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
        self._memory = memoryview(mmap.mmap(-1, count * place_bytes, flags=flags))
        self._count = count
        self._bytes = place_bytes

    def place(self, number: int) -> "Place":
        """For the one process that may write there now."""
        return Place(self._of(number))

    def totals(self) -> dict[Counted, float]:
        """Every value, summed over the places."""
        sums: dict[Counted, float] = {}
        for number in range(self._count):
            memory = self._of(number)
            values = memory.cast("d")
            for key, at in _entries(memory):
                sample = _sample(key)
                if sample is not None:
                    sums[sample] = sums.get(sample, 0.0) + values[at]
        return sums

    def had_no_room(self) -> bool:
        """Whether something was not counted for want of room in a place."""
        return any(self._of(number).cast("d")[LOST] for number in range(self._count))

    def _of(self, number: int) -> memoryview:
        return self._memory[number * self._bytes : (number + 1) * self._bytes]


class Place:
    """A place as its process writes to it. `is_whole`: all that a predecessor has counted here was readable."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._words = memory.cast("Q")
        self.values = memory.cast("d")
        self._at = dict(_entries(memory))
        end = WORD * max([FIRST, *(at + 1 for at in self._at.values())])
        self.is_whole = self._words[USED] in (0, end)
        self._words[USED] = end  # what somebody's wild pointer has made of the rest is cut off

    @property
    def used_bytes(self) -> int:
        """Of the place's bytes."""
        return self._words[USED]

    def find(self, key: str) -> int:
        """Index among `values` of what has this key, made when it is new; one for all that has no room."""
        at = self._at.get(key)
        return self._add(key) if at is None else at

    def _add(self, key: str) -> int:
        begin, encoded = self._words[USED], key.encode()
        at = _value_at(begin, len(encoded))
        if len(encoded) > LONGEST_KEY or WORD * (at + 1) > len(self._memory):
            return LOST
        self.values[at] = 0.0
        self._memory[begin + WORD : begin + WORD + len(encoded)] = encoded
        self._words[begin // WORD] = len(encoded)
        self._words[USED] = WORD * (at + 1)  # last: until now nobody sees it
        self._at[key] = at
        return at


def _value_at(begin: int, length: int) -> int:
    """Index of the value that follows a key of this length."""
    return begin // WORD + 1 + -(-length // WORD)


def _entries(memory: memoryview) -> Iterator[tuple[str, int]]:
    """Keys with the index of their value, up to the first that makes no sense."""
    words = memory.cast("Q")
    begin, used = WORD * FIRST, min(words[USED], len(memory))
    while begin < used:
        length = words[begin // WORD]
        at = _value_at(begin, length)
        if not 0 < length <= LONGEST_KEY or WORD * (at + 1) > used:
            return
        try:
            key = str(memory[begin + WORD : begin + WORD + length], "utf-8")
        except UnicodeDecodeError:
            return
        yield key, at
        begin = WORD * (at + 1)


@cache
def _sample(key: str) -> Counted | None:
    try:
        metric, name, labels = json.loads(key)
        return metric, name, tuple(zip(labels[::2], labels[1::2], strict=True))
    except (ValueError, TypeError):
        return None


def value_class(place: Place) -> type:
    """What prometheus-client keeps each of its numbers in: here, a word of this place."""
    # One for all values, and of a process that holds it still when a signal's handler counts something.
    lock, values = RLock(), place.values

    class SharedValue:
        _multiprocess = True

        def __init__(
            self, _type: str, metric: str, name: str, label_names: Any, label_values: Any, _help: str, **_: Any
        ) -> None:
            labels = [text for pair in zip(label_names, label_values, strict=True) for text in pair]
            with lock:
                self._at = place.find(json.dumps([metric, name, labels]))

        def inc(self, amount: float) -> None:
            with lock:
                values[self._at] += amount

        def set(self, value: float, _timestamp: float | None = None) -> None:
            with lock:
                values[self._at] = value

        def get(self) -> float:
            return values[self._at]

        def set_exemplar(self, exemplar: object) -> None:
            """Exemplars are not kept."""

        def get_exemplar(self) -> None:
            return None

    return SharedValue
