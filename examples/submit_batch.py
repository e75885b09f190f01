"""Submit a manifest from Python, follow it, and print what was flagged.

    caption-audit up                                # in one terminal
    python examples/submit_batch.py pairs.csv       # in another

The settings are those of the command line (AUDIT_HOME, REDIS_URL, DATABASE_URL ...), read from the environment.
"""

import sys
import time

from audit.errors import AuditError
from audit.policy import Policy
from audit.verdict import Label
from producer import submit


def main(manifest: str) -> int:
    """Submit, wait, print; returns 0 when every pair was judged, 3 when some failed."""
    # Flag what the model calls No, and whatever it thinks is No with a probability of 40 % or more.
    policy = Policy(labels=frozenset({Label.NO}), p_no_at_least=0.4)
    with submit(manifest, policy=policy) as batch:
        print(f"batch {batch.batch}: {batch.pairs} pairs, {'new' if batch.new else 'submitted before'}")
        while not (seen := batch.progress()).finished:
            print(f"{seen.judged} of {seen.submitted} pairs judged")
            time.sleep(1.0)
        for row in batch.flagged():
            # Captions are other people's text: ascii() keeps their control characters out of the terminal.
            print(f"flagged: {row.id!a} p_no={row.p_no:.3f} {row.caption!a}")
        print(f"{seen.yes} Yes, {seen.no} No, {seen.maybe} Maybe, {seen.failed} failed, {seen.flagged} flagged")
    return 3 if seen.failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1]))
    except AuditError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        sys.exit(error.exit_status)
