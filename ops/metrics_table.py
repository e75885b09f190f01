"""The table of metrics in docs/metrics.md, made from the metrics themselves.

`python -m ops.metrics_table` prints it; with `--check FILE` it compares the part between the two markers, and with
`--write FILE` it replaces that part.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from telemetry.metrics import instruments
from worker.gauge_values import GAUGES

BEGIN, END = "<!-- metrics -->", "<!-- /metrics -->"


def table() -> str:
    """Markdown: one line a metric, in the order of the code."""
    lines = ["| metric (`caption_audit_` before it) | kind | labels | what it says |", "|---|---|---|---|"]
    return "\n".join([*lines, *_rows()])


def _rows() -> Iterator[str]:
    for instrument in instruments():
        (family,) = instrument.describe()
        name = family.name.removeprefix("caption_audit_") + ("_total" if family.type == "counter" else "")
        yield _row(name, family.type, instrument._labelnames, family.documentation)
    for name, (told, labels) in GAUGES.items():
        yield _row(name, "gauge", labels, told)


def _row(name: str, kind: str, labels: tuple[str, ...], told: str) -> str:
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {told} |"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line; returns 1 when a checked file differs or has no markers."""
    parser = argparse.ArgumentParser(prog="python -m ops.metrics_table", description=__doc__)
    parser.add_argument("--check", metavar="FILE", type=Path)
    parser.add_argument("--write", metavar="FILE", type=Path)
    chosen = parser.parse_args(arguments)
    file: Path | None = chosen.write or chosen.check
    if file is None:
        print(table())
        return 0
    text = file.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if not begin or not end or (chosen.check and wanted != text):
        sys.stderr.write(f"{file}: its metrics are not those of the code: python -m ops.metrics_table --write {file}\n")
        return 1
    if chosen.write:
        file.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
