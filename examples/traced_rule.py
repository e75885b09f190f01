"""Submit a manifest, judge its outcomes by a business rule of one's own, and have that in the trace as a span.

    caption-audit up                                                            # in one terminal
    OTEL_TRACES_EXPORTER=console python examples/traced_rule.py pairs.csv       # in another

The rule: a caption that names a price must be a sure Yes. What it finds is printed; the spans go where the OTEL_*
variables say (docs/traces.md), and without them nowhere.
"""

import re
import sys
from collections.abc import Iterable

from audit.errors import AuditError
from db.exports import OutcomeRow
from producer import submit
from telemetry.exporting import start_traces
from telemetry.traces import span

PRICE = re.compile(r"[$€£¥]\s?\d|\d\s?(?:EUR|USD|CNY)\b")
SURE = 0.9


def broken(outcomes: Iterable[OutcomeRow]) -> list[str]:
    """Ids of the pairs that break the rule."""
    return [row.id for row in outcomes if PRICE.search(row.caption) and (row.p_yes or 0.0) < SURE]


def main(manifest: str) -> int:
    """Submit, wait, apply the rule; returns 0 when nobody breaks it, 3 otherwise."""
    start_traces(console=sys.stderr)
    # All inside is one trace: the submission's own span is a child of this one, and the chunks' traces link to it.
    with span("price_audit"), submit(manifest) as batch:
        seen = batch.wait()
        with span("rule.sure_of_prices", batch=batch.batch, pairs=seen.submitted) as rule:
            found = broken(batch.outcomes())
            rule.tell(**{"shop.broken": len(found)})  # numbers and short words: never a caption
            if found:
                rule.fail("prices_not_sure")
    # Ids are other people's text: ascii() keeps their control characters out of the terminal.
    print(f"{len(found)} of {seen.submitted} pairs break the rule: {', '.join(map(ascii, found)) or 'none'}")
    return 3 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1]))
    except AuditError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        sys.exit(error.exit_status)
