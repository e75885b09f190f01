"""One run, from the plan to the summary."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from typer.main import get_command

from ops.cli import app
from tests.chaos.checker import SAME, Findings, check
from tests.chaos.drawn import draw_pairs, expected_of_quiet_run
from tests.chaos.faults import by_kind
from tests.chaos.plan import Plan, draw_faults, draw_plan, draw_stub_pairs
from tests.chaos.rain import Rain, drained, rain
from tests.chaos.stage import Stage, new_folder, staged
from tests.chaos.submitting import Producer, run
from tests.chaos.summary import Summary
from tests.chaos.truth import Expected, Truth, draw_pictures, expected_of_stub
from tests.chaos.watching import Watch, longest_pause, read_logs, recovery, victims

SLOTS = 2
SAME_MODEL = 1e-4
"""The same pixels through the same weights; another number of threads may add in another order."""
EVIDENCE = {
    "chunks": "SELECT * FROM chunks WHERE attempts > 1 OR state NOT IN ('done', 'cancelled')",
    "suspects": "SELECT * FROM suspects",
    "failures": "SELECT o.*, p.id, p.caption, p.image FROM outcomes o"
    " JOIN pairs p ON p.batch = o.batch AND p.row = o.row WHERE o.label IS NULL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line said."""

    seed: int
    pairs: int
    minutes: float
    faults: int
    killers: int
    database: str
    engine: str
    workers: int
    keep: bool = False

    @property
    def settings(self) -> dict[str, object]:
        """As in production, but with a short lease; a pair takes so long that the work lasts the minutes."""
        common = {"devices": "cpu", "feed_every_s": 0.5, "resend_s": 5, "max_tasks_per_child": 40, "log_level": "debug"}
        if self.engine == "ofa":  # a pair of the demo model takes 30 ms, and seconds while others have the cores
            return {**common, "chunk_pairs": 64, "pair_limit_s": 6, "decode_limit_s": 4, "lease_s": 12}
        return {
            **common,
            "engine": "stub",
            "slots_per_device": SLOTS,
            "micro_batch": 4,
            "chunk_pairs": 128 if self.pairs >= 20_000 else 64,
            "stub_pair_s": round(self.minutes * 60 * self.workers * SLOTS / self.pairs, 5),
            "pair_limit_s": 2,
            "decode_limit_s": 2,
            "lease_s": 5,
        }


def run_chaos(options: Options, *, say: Callable[[str], None] | None = None) -> Summary:
    """Plan, submit, strike, drain, check; the folder is kept when something does not hold. Raises Missing."""
    began = time.monotonic()
    say = say or (lambda text: print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True))
    folder = new_folder()
    say(f"seed {options.seed}, in {folder}")
    kept = True
    try:
        summary = _run_in(folder, options, say)
        kept = bool(summary.problems) or options.keep
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    for line in [*summary.lines(), *(f"FAILED: {problem}" for problem in summary.problems)]:
        say(line)
    if kept:
        say(f"logs and what was wrong in the ledger: {folder}")
    say("every promise held" if not summary.problems else f"{len(summary.problems)} promises did not hold")
    return summary


def _run_in(folder: Path, options: Options, say: Callable[[str], None]) -> Summary:
    pictures, drawn = folder / "pictures", {"seed": options.seed, "killers": options.killers}
    tolerance = SAME
    if options.engine == "ofa":
        pairs = draw_pairs(pictures, pairs=options.pairs, **drawn)
        expected = expected_of_quiet_run(pairs, folder / "quiet", pictures, options.settings, say)
        tolerance = SAME_MODEL
    else:
        draw_pictures(pictures, options.seed)
        pairs = draw_stub_pairs(count=options.pairs, **drawn)
        expected = expected_of_stub(pairs, pictures)
    faults = draw_faults(seed=options.seed, count=options.faults, database=options.database)
    plan = draw_plan(pairs, seed=options.seed, minutes=options.minutes, faults=faults)
    say(f"{plan.pairs:,} pairs, {plan.killers} of them must fail, {len(plan.faults)} faults to come")
    with staged(folder, database=options.database, workers=options.workers, **options.settings) as stage:
        return under_the_rain(options, stage, plan, expected=expected, pictures=pictures, say=say, tolerance=tolerance)


def under_the_rain(
    options: Options,
    stage: Stage,
    plan: Plan,
    *,
    expected: dict[str, Expected],
    pictures: Path,
    say: Callable[[str], None],
    tolerance: float = SAME,
) -> Summary:
    """Submit, strike, drain, check, on a stage that is set."""
    began, truth, fallen = time.monotonic(), Truth(), Rain()
    summary = Summary(
        seed=options.seed, database=options.database, engine=options.engine, pairs=plan.pairs, killers=plan.killers
    )
    deadline = began + 240 * options.minutes + 900
    producer = Producer(stage=stage, plan=plan, truth=truth, expected=expected, pictures=pictures, began=began)
    thread = producer.start()
    watch = Watch(stage=stage, say=say, faults=lambda: len(fallen.struck), total=plan.pairs)
    watch.start()
    submitted = partial(_ended, thread)
    try:
        rain(stage, plan, truth, fallen, submitted=submitted, deadline=deadline)
        say(f"the rain is over after {len(fallen.struck)} faults; waiting for the rest")
        _drain(stage, summary, submitted, deadline, say)
    finally:
        watch.stop()
        producer.stopped.set()
        thread.join(timeout=150)
    summary.seconds = round(time.monotonic() - began, 1)
    summary.resent, summary.problems = watch.resent, [*summary.problems, *producer.problems]
    summary.producer_killed, summary.submits_repeated = producer.killed, producer.repeated
    if len(truth.acknowledged) != len(plan.batches):
        summary.problems.append(f"{len(truth.acknowledged)} of {len(plan.batches)} batches were acknowledged")
    if len(fallen.struck) < options.faults:
        summary.problems.append(f"{len(fallen.struck)} of {options.faults} faults found a chunk running")
    _judge(stage, summary, check(stage.settings, truth, tolerance=tolerance), fallen)
    return summary


def _drain(
    stage: Stage, summary: Summary, submitted: Callable[[], bool], deadline: float, say: Callable[[str], None]
) -> None:
    stalled = drained(stage, submitted=submitted, deadline=deadline)
    parked = stage.counts()["parked"]
    if parked:
        summary.problems.append(f"{parked} chunks were parked")
        say(f"{parked} chunks are parked: sweep --parked, once")
        run(stage, "sweep", "--parked")
        summary.revived = parked
        stalled = drained(stage, submitted=submitted, deadline=deadline)
    if stalled:
        summary.problems.append(stalled)


def _judge(stage: Stage, summary: Summary, findings: Findings, fallen: Rain) -> None:
    """Everything that is known at the end, into the summary; evidence into files when something does not hold."""
    for kind, what in findings.found.items():
        summary.problems.append(f"{len(what)} {kind}: {'; '.join(what[:10])}")
    counts, (events, unexpected) = stage.counts(), read_logs(stage.supervisor.logs)
    summary.verdicts, summary.failures = findings.verdicts, dict(sorted(findings.failures.items()))
    summary.judged, summary.cancelled = counts["judged"], findings.cancelled
    summary.attempts, summary.fenced = counts["attempts"], counts["fenced"]
    summary.events, summary.unexpected, summary.excused = dict(events), unexpected, findings.excused
    refused = (f"chunk not claimable: {why}" for why in ("held", "done", "cancelled"))
    summary.doubles_refused = sum(events[name] for name in refused)
    summary.faults, summary.counted_faults = by_kind(fallen.struck), len(fallen.struck)
    summary.missed_faults = fallen.missed
    posts = stage.supervisor.posts
    summary.workers_ended = {str(status): n for status, n in sorted(Counter(s for p in posts for s in p.ended).items())}
    summary.orphans = len(stage.supervisor.orphans())
    summary.recovery, summary.victims = recovery(stage, fallen.struck), victims(stage, fallen.struck)
    summary.longest_pause_s = longest_pause(stage)
    _verify(stage, summary)
    if summary.problems:
        _keep_evidence(stage, fallen)


def _verify(stage: Stage, summary: Summary) -> None:
    if "verify" not in getattr(get_command(app), "commands", {}):
        return
    status, out, error = run(stage, "verify", limit_s=600)
    summary.verify = f"status {status}"
    if status:
        summary.problems.append(f"verify ended with {status}: {(out + error)[-500:]}")


def _keep_evidence(stage: Stage, fallen: Rain) -> None:
    for name, statement in EVIDENCE.items():
        (stage.folder / f"{name}.json").write_text(json.dumps(stage.query(statement), indent=1, default=str))
    lines = [json.dumps(_told(one)) for one in fallen.struck]
    (stage.folder / "faults.jsonl").write_text("\n".join(lines) + "\n")


def _told(struck: Any) -> dict[str, Any]:
    held = [(one.batch, one.chunk, one.pid) for one in struck.cost_processes]
    return {"kind": struck.kind, "at": struck.at, "over_at": struck.over_at, "killed": held, "detail": struck.detail}


def _ended(thread: Any) -> bool:
    return not thread.is_alive()
