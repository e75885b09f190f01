"""What becomes of each row of a manifest when it is registered, in the plainest words."""

from collections.abc import Sequence

Line = tuple[str, str, bool]
"""The user's id, the caption, and whether the row is bad (it cannot be a pair that is judged)."""


def fates(lines: Sequence[Line]) -> dict[int, str]:
    """Row -> `good`, or the failure's code; a row that only repeats an earlier pair is left out.

    The first good row with an id owns it: the same content again is a repetition, other content a conflict.
    """
    owners: dict[str, tuple[int, str]] = {}
    told: dict[int, str] = {}
    for row, (name, caption, bad) in enumerate(lines):
        if bad:
            told[row] = "row_invalid"
            continue
        owner, owned = owners.setdefault(name, (row, caption))
        if owner == row:
            told[row] = "good"
        elif owned != caption:
            told[row] = "id_conflict"
    return told
