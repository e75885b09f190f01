"""How soon work goes on after each fault of docs/faults.md: the page from what `make faults` noted.

make faults && python -m benchmarks.fault_times --write
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.submit_rate import machine

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "docs" / "faults.md"
PAGE = ROOT / "docs" / "results" / "faults.md"
INTRO = """# How soon work goes on after a fault

Each line is one test of `make faults`, with real servers and processes; the clock runs from the end of the fault (for
a kill: from the kill) until work goes on, and so includes the poll of the test. Nothing here is asserted by a test: a
slow machine is no failure. The numbers are those of [faults.md](../faults.md); a fault without a line has a test that
measures no time. Times over the promise are marked.

Command: `make faults && python -m benchmarks.fault_times --write`
Machine: {machine}

| # | fault | measured | took | promised |
|---:|---|---|---:|---:|
"""


def main() -> None:
    """Print the page, and with --write keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=ROOT / "var" / "faults.jsonl", help="what `make faults` wrote")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.log.read_text().splitlines()]
    page = INTRO.format(machine=machine()) + "".join(table(lines, names()))
    print(page)
    if options.write:
        PAGE.write_text(page)


def names() -> Mapping[int, str]:
    """The faults by number, as docs/faults.md calls them."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", LIST.read_text(), flags=re.MULTILINE)
    return {int(number): name for number, name in rows}


def table(lines: Iterable[Mapping[str, Any]], known: Mapping[int, str]) -> Iterable[str]:
    """One row for each thing measured; of several runs the median and the longest."""
    by_what: dict[tuple[int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_what[(line["fault"], line["what"])].append(line)
    for (fault, what), runs in sorted(by_what.items()):
        took = sorted(run["took_s"] for run in runs)
        within = runs[0]["within_s"]
        late = bool(within) and took[-1] > within  # a promise of 0 is that nothing stands still; the test shows that
        shown = f"{took[len(took) // 2]:.1f} s" + (f", most {took[-1]:.1f} s" if len(took) > 1 else "")
        promise = "" if within is None else f"{within:g} s"
        yield f"| {fault} | {known.get(fault, '')} | {what} | {shown}{' (late)' * late} | {promise} |\n"


if __name__ == "__main__":
    main()
