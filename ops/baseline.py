"""The command baseline: what this machine and model can do, saved to compare with later."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.errors import Permanent, UsageError
from ops.arguments import JsonOption, examples
from ops.text import counted, duration, one_line

if TYPE_CHECKING:
    from audit.baseline import Baseline, Compared
    from audit.pair import Pair
    from audit.settings import Settings
    from ops.measuring import Asked

MOST_PAIRS = 100_000
BESIDE = "measured beside a worker that was running"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "caption-audit baseline",
            "caption-audit baseline --manifest pairs.csv --pairs 2000 --seconds 300",
            "caption-audit baseline --show --json | jq .pairs_per_second",
            "caption-audit baseline --compare --factor 1.5",
        )
    )(baseline)


def baseline(
    *,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge these pairs instead of drawn ones; CSV, TSV, JSON Lines.")
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where their pictures are; by default the file's folder.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, max=MOST_PAIRS, help="Judge at most so many.")] = 10_000,
    seconds: Annotated[float, typer.Option(min=0.1, max=86_400, help="Judge for at most so long.")] = 30.0,
    show: Annotated[bool, typer.Option("--show", help="Show the saved baseline; measure nothing.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure, and compare with the saved one, which stays; 3: it is worse.")
    ] = False,
    factor: Annotated[float, typer.Option(min=1.0, max=1000, help="How many times worse is worse.")] = 2.0,
    beside: Annotated[
        bool, typer.Option("--beside", help="Measure though a worker of this AUDIT_HOME runs, and takes its share.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Measure this machine with its model, and save the figures as AUDIT_HOME/baseline.json.

    Seconds that the model takes to load, percentiles of a pair's seconds by stage, pairs a second, peak memory. Every
    slot that a worker would have loads the model and judges, with a worker's code and settings and without the cache.
    Neither Redis nor the ledger is needed. Exit status 3: --compare found a figure that is worse by the factor.
    """
    from audit.baseline import read_baseline, write_baseline
    from audit.settings import read_settings

    if show and (compare or manifest):
        raise UsageError("bad_option", "--show measures nothing: leave out --compare and --manifest")
    settings = read_settings()
    saved = read_baseline(settings.home) if show or compare else None
    if (show or compare) and saved is None:
        raise Permanent("no_baseline", f"there is no baseline in {settings.home}: run `caption-audit baseline`")
    if show and saved is not None:
        _print(saved, as_json=as_json)
        return 0
    running = _workers(settings, beside=beside)
    with _asked(settings, manifest, image_root, pairs, seconds) as asked:
        from ops.measuring import measure

        made = measure(asked, settings, show=_progress)
    if running:
        made = replace(made, notes=(*made.notes, BESIDE))
    if saved is not None:
        return _compared(saved, made, factor=factor, as_json=as_json)
    path = write_baseline(settings.home, made)
    _print(made, as_json=as_json)
    _progress(f"saved as {path}")
    return 0


def _workers(settings: "Settings", *, beside: bool) -> bool:
    """Whether a worker of this AUDIT_HOME runs; raises Permanent (`worker_running`) unless that is meant."""
    from worker.seen import workers_seen

    pids = [worker.pid for worker in workers_seen(settings.home, now=time.time())]
    if pids and not beside:
        raise Permanent(
            "worker_running",
            f"worker {pids[0]} of {settings.home} runs and would take its share of the machine: stop it first, or "
            "measure all the same with --beside",
        )
    return bool(pids)


@contextmanager
def _asked(
    settings: "Settings", manifest: Path | None, image_root: Path | None, most: int, seconds: float
) -> Iterator["Asked"]:
    """Which pairs to judge; drawn ones are removed afterwards. Raises UsageError (also ManifestInvalid)."""
    from ops.measuring import DRAWN_AT_MOST, Asked

    if manifest is not None:
        root = os.path.realpath(image_root if image_root is not None else os.path.dirname(manifest) or ".")
        if not os.path.isdir(root):
            raise UsageError("bad_image_root", f"the image root {root!a} is no directory")
        chosen = _of_manifest(manifest, settings, most)
        what = f"{counted(len(chosen), 'pair')} of {one_line(manifest.name, limit=100)}"
        yield Asked(pairs=chosen, image_root=root, source=what, most=most, seconds=seconds)
        return
    with tempfile.TemporaryDirectory(prefix="caption-audit-") as folder:
        from demo.samples import write_samples

        count = min(most, DRAWN_AT_MOST)
        _progress(f"drawing {counted(count, 'picture')}")
        sheet = write_samples(Path(folder), count)
        drawn = [pair for pair in _of_manifest(sheet, settings, MOST_PAIRS) if (pair.extra or {})["axis"] != "broken"]
        yield Asked(pairs=drawn, image_root=folder, source=counted(count, "drawn pair"), most=most, seconds=seconds)


def _of_manifest(path: Path, settings: "Settings", most: int) -> "Sequence[Pair]":
    from producer.sources import open_manifest

    with open_manifest(path, max_line_bytes=settings.max_line_bytes) as opened:
        good = (entry.pair for entry in opened.entries() if entry.failure is None)
        chosen = list(islice(good, most))
    if not chosen:
        raise UsageError("no_pairs", f"{path} holds no pair")
    return chosen


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(made: "Baseline", *, as_json: bool) -> None:
    if as_json:
        from ops.show import print_json

        print_json(made.to_json())
        return
    print("\n".join(lines(made)))


def lines(made: "Baseline") -> list[str]:
    """The baseline for people."""
    machine = made.machine
    where = (
        f"{machine['device_name']}, {counted(machine['slots'], 'slot')}, {counted(machine['threads'], 'thread')} each"
    )
    shown = [
        f"{made.model} (revision {made.revision[:12]}, {made.precision}) on {machine['host']}: {where}",
        f"  measured   {made.made_at}, {counted(made.pairs, 'verdict')} of {made.source}",
        f"  load       {duration(made.load_s)}",
    ]
    for stage, at in made.stages.items():
        shown.append(f"  {stage:10} " + ", ".join(f"{name} {_milliseconds(value)}" for name, value in at.items()))
    shown.append(f"  throughput {made.pairs_per_second:.1f} pairs/s")
    shown.append(f"  memory     {made.peak_rss_bytes / 1e6:,.0f} MB a process at most")
    if made.peak_device_bytes is not None:
        shown.append(f"  device     {made.peak_device_bytes / 1e6:,.0f} MB at most")
    return [one_line(line) if "\n" in line else line for line in shown] + [f"  note: {note}" for note in made.notes]


def _compared(saved: "Baseline", made: "Baseline", *, factor: float, as_json: bool) -> int:
    from dataclasses import asdict

    from audit.baseline import compare, differences

    found = compare(saved, made, factor=factor)
    other = differences(saved, made)
    worse = [one.figure for one in found if one.worse]
    if as_json:
        from ops.show import print_json

        figures = [asdict(one) for one in found]
        told = {"factor": factor, "worse": worse, "differences": other, "figures": figures}
        print_json(told | {"saved": saved.to_json(), "measured": made.to_json()})
    else:
        print(f"compared with the baseline of {saved.made_at}; worse is {factor:g} times worse")
        print("\n".join(map(_line, found)))
        print(
            "\n".join(f"  note: {one_line(text)}" for text in [*other, *made.notes]),
            end="\n" if other or made.notes else "",
        )
        print(f"worse: {', '.join(worse)}" if worse else "nothing is worse")
    return 3 if worse else 0


def _line(one: "Compared") -> str:
    said = "WORSE" if one.worse else "" if one.judged else "too few pairs to judge"
    line = f"  {one.figure:18} {_value(one.figure, one.before):>12} -> {_value(one.figure, one.now):>12} {said}"
    return line.rstrip()


def _value(figure: str, value: float) -> str:
    if figure.endswith("_bytes"):
        return f"{value / 1e6:,.0f} MB"
    if figure == "pairs_per_second":
        return f"{value:.1f}"
    return duration(value) if figure == "load_s" else _milliseconds(value)


def _milliseconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
