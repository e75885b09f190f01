"""The page that benchmarks.ledger_cost writes, from its runs."""

import statistics
from dataclasses import dataclass

from benchmarks.submit_rate import machine

CHUNK = 256
GOAL = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One batch: seconds from its first chunk to its last, CPU seconds by process, and the machine's load."""

    seconds: float
    main_s: float
    child_s: float
    server_s: float
    load: float

    @property
    def worker_s(self) -> float:
        """CPU seconds of the worker's processes."""
        return self.main_s + self.child_s

    @property
    def total_s(self) -> float:
        """CPU seconds of both."""
        return self.worker_s + self.server_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A run with the ledger's work beside one without."""

    database: str
    on: Run
    off: Run


def report(turns: list[Turn], pairs: int, slower: float, command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# What lease, fence and feed cost",
        "",
        f"CPU seconds of a real worker that judges {pairs:,} pairs with the ledger's work (`on`), and without (`off`):",
        "one slot, the stub engine at 1 ms a pair (1,000 pairs/s), micro-batches of 16, chunks of 256, small drawn",
        "pictures that are read and decoded, the cache off. In each round all of them run at the same time, with",
        "servers of their own, so that whatever else the machine does hits them alike.",
        "CPU seconds are those of all the worker's processes, from the second chunk's begin to the last one's end; a",
        "server is all of PostgreSQL's processes. A fake engine takes no CPU time of its own: beside a model that",
        "computes, the same seconds are a smaller part.",
        *_slowed(slower),
        "",
        "`off` is the same program with these taken away (benchmarks/ledger_cost_worker.py):",
        "",
        "- claim: reads the chunk's pairs and nothing else; no write transaction with state, holder, keeper, token,",
        "  attempt and lease, no look for outcomes that are there, retries and suspects, no dead holders",
        "- record: inserts the same outcomes and judgements and marks the chunk as done; no lock, no check of the",
        "  token, no count of the chunk's outcomes, no lease",
        "- renewals, and what a child notes on the board of its progress and of the rows in hand",
        "- housekeeping's sweep, recall, feed, giving way and telling; all messages lie in Redis before the start",
        "",
        "Both write one transaction a chunk with its outcomes, and both run Celery's messages and events.",
        "",
        f"Command: `{command}`",
        f"Machine: {machine()}",
    ]
    for kind in dict.fromkeys(turn.database for turn in turns):
        lines += ["", f"## {kind}", "", *_table([turn for turn in turns if turn.database == kind], pairs, slower)]
    return "\n".join(lines) + "\n"


def _slowed(slower: float) -> list[str]:
    if slower == 1:
        return []
    return [
        "",
        f"The machine was too busy for 1,000 pairs/s, so everything was {slower:g} times slower alike: the engine, the",
        "rounds of housekeeping, telling, leases, and when messages are sent again. Each pair has as many rounds as at",
        "1,000 pairs/s. What Celery's main process does each second was not slowed, and makes both sums larger.",
        "So short and few runs tell a few per cent from none, and no more than that.",
    ]


def _table(turns: list[Turn], pairs: int, slower: float) -> list[str]:
    served = any(turn.on.server_s for turn in turns)
    heads = ["", "worker on (main process)", "off (main process)", "on / off"]
    heads += ["server on", "off", "both, on / off"] if served else []
    heads += ["pairs/s on", "off", "load"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---:|' * len(heads)}"]
    for number, turn in enumerate(turns, 1):
        on, off = turn.on, turn.off
        cells = [f"{number}", *(f"{run.worker_s:.2f} s ({run.main_s:.2f})" for run in (on, off))]
        cells.append(f"{on.worker_s / off.worker_s:.3f}")
        if served:
            cells += [f"{on.server_s:.2f} s", f"{off.server_s:.2f} s", f"{on.total_s / off.total_s:.3f}"]
        cells += [f"{pairs / on.seconds:,.0f}", f"{pairs / off.seconds:,.0f}", f"{on.load:g}, {off.load:g}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _said("The worker alone", [turn.on.worker_s / turn.off.worker_s for turn in turns])]
    if served:
        lines.append(_said("Worker and server together", [turn.on.total_s / turn.off.total_s for turn in turns]))
    chunks = pairs / CHUNK
    child_ms = statistics.median(1000 * (turn.on.child_s - turn.off.child_s) for turn in turns) / chunks
    main_ms = statistics.median(1000 * (turn.on.main_s - turn.off.main_s) for turn in turns) / chunks
    lines.append(
        f"A chunk of {CHUNK} pairs costs {child_ms:.1f} ms more in the child, {main_ms:.1f} ms in the main process."
    )
    pace = statistics.median(pairs / turn.on.seconds for turn in turns) / (1000 / slower)
    if pace < 0.9:
        and_server = " and the server's" if served else ""
        least = statistics.median(_in_step(turn, pace) for turn in turns) - 1
        lines += [
            "",
            f"The runs came to {pace:.0%} of the pace asked for, so each pair had {1 / pace:.1f} times the rounds.",
            f"With the main process's{and_server} part of the cost divided by that: {least:+.1%}. (Too little: what of",
            "it goes with chunks is divided, too.)",
        ]
    return lines


def _in_step(turn: Turn, pace: float) -> float:
    """The ratio with what goes with time made less."""
    by_time = turn.on.main_s + turn.on.server_s - turn.off.main_s - turn.off.server_s
    return (turn.off.total_s + turn.on.child_s - turn.off.child_s + by_time * pace) / turn.off.total_s


def _said(who: str, ratios: list[float]) -> str:
    middle = statistics.median(ratios) - 1
    told = "is kept in every run" if max(ratios) - 1 <= GOAL else "is missed in every run"
    if min(ratios) - 1 <= GOAL < max(ratios) - 1:
        told = "is kept in some runs and missed in others, so these do not settle it"
    return (
        f"{who}: {middle:+.1%} (median of {len(ratios)}; {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%}); the goal of"
        f" at most {GOAL:.0%} {told}.\n"
    )
