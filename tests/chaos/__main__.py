"""`make chaos`: many pairs, planted killers, hundreds of faults from one seed, and a checker that trusts nobody.

Redis, PostgreSQL (or a SQLite file) and the workers are this run's own; all of them are ended behind it. Exit status 0
when nothing was lost or doubled, every verdict is the right one, and exactly the planted pairs are blamed.
"""

import argparse
import json
import secrets
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.chaos.run import Options, run_chaos
from tests.chaos.stage import Missing


def main() -> int:
    """Parse the command line, run, tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="decides everything; drawn and printed if not given")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long judging is to take without any fault")
    parser.add_argument("--faults", type=int, default=None, help="default: 21 a minute")
    parser.add_argument("--killers", type=int, default=None, help="pairs of each planted kind; default: 12, or fewer")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--engine", choices=("stub", "ofa"), default="stub", help="ofa: the demo model, drawn pairs")
    parser.add_argument("--workers", type=int, default=None, help="default: 2, with ofa 1")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the summary there, too")
    parser.add_argument("--keep", action="store_true", help="keep logs and ledger of a run that holds, too")
    chosen = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    options = Options(
        seed=secrets.randbelow(2**31) if chosen.seed is None else chosen.seed,
        pairs=chosen.pairs,
        minutes=chosen.minutes,
        faults=round(21 * chosen.minutes) if chosen.faults is None else chosen.faults,
        killers=max(1, min(12, chosen.pairs // 1000)) if chosen.killers is None else chosen.killers,
        database=chosen.database,
        engine=chosen.engine,
        workers=chosen.workers or (1 if chosen.engine == "ofa" else 2),
        keep=chosen.keep,
    )
    try:
        summary = run_chaos(options)
    except Missing as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(summary.as_json(), indent=1) + "\n")
    return 1 if summary.problems else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
