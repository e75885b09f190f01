"""What this process has written on its engine's word, to be taken back or looked for should that turn out wrong."""

import time
from collections.abc import Callable, Sequence

from audit.verdict import Outcome, Verdict

KEY_BYTES = 32
MOST_KEYS = 500_000
"""16 MB. Processes are replaced long before; one that was told never to be forgets its keys, and drops by time."""


class Written:
    """Content keys that went into the cache since the process started, and verdicts since its last right canary."""

    def __init__(self, *, most_keys: int = MOST_KEYS, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = bytearray()  # of a size that is known, where a set of texts would take ten times as much
        self._most = most_keys
        self._clock = clock
        self._overflowed = False
        self._trusted_at = self.began_at = clock()
        self.verdicts = 0

    def about_to(self, outcomes: Sequence[Outcome]) -> None:
        """Note their keys; before they are recorded, since a COMMIT's answer may be lost."""
        for outcome in outcomes:
            if outcome.content_key and not outcome.cached:
                self._keys += bytes.fromhex(outcome.content_key)
        if len(self._keys) > KEY_BYTES * self._most:
            self._overflowed = True
            self._keys.clear()

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """Count those that the engine has answered."""
        self.verdicts += sum(isinstance(outcome.result, Verdict) and not outcome.cached for outcome in outcomes)

    def trusted(self) -> None:
        """The engine has just answered a known question rightly."""
        self._trusted_at, self.verdicts = self._clock(), 0

    @property
    def trusted_at(self) -> float:
        """When it last did, by this clock."""
        return self._trusted_at

    @property
    def keys(self) -> frozenset[str] | None:
        """Every key, or None when there were too many to keep: then those of the time since `began_at` are meant."""
        if self._overflowed:
            return None
        held = bytes(self._keys)
        return frozenset(held[at : at + KEY_BYTES].hex() for at in range(0, len(held), KEY_BYTES))
