"""Does bfloat16 give the labels that float32 gives? The same pairs through the engine twice, label by label.

    python -m benchmarks.precision [--pairs 6000] [--device cuda] [--model DIRECTORY] [--micro-batch 16] [--write]

The pairs are drawn from seeds that training never saw; the shipped model is a trained one, so its labels mean something
(random weights would prove nothing). Exit status 1 when more labels differ than --flips-allowed.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from audit.settings import DEMO_MODEL
from audit.verdict import Scores
from benchmarks.drawn_pairs import heldout_pairs
from worker.engines.base import Question
from worker.engines.model_files import ModelFiles, inspect_model
from worker.engines.ofa import Precision, load_ofa

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "precision.md"
PAIRS = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A pair whose label differs; `margin` is how far apart float32's two best probabilities were."""

    caption: str
    reference: Scores
    candidate: Scores
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """float32 against bfloat16 over the same pairs; `differences` is each pair's largest, of three probabilities."""

    pairs: int
    flips: tuple[Flip, ...]
    differences: tuple[float, ...]
    closest: float
    seconds: tuple[float, float]

    def percentile(self, share: float) -> float:
        """The difference that this share of the pairs does not exceed."""
        ordered = sorted(self.differences)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def compare(files: ModelFiles, *, pairs: int, device: str, micro_batch: int) -> Agreement:
    """Judge the same held-out pairs in float32 and in bfloat16."""
    reference, reference_s, captions = _judged(files, "fp32", pairs=pairs, device=device, micro_batch=micro_batch)
    candidate, candidate_s, _ = _judged(files, "bf16", pairs=pairs, device=device, micro_batch=micro_batch)
    flips = tuple(
        Flip(caption=caption, reference=one, candidate=other, margin=margin(one))
        for caption, one, other in zip(captions, reference, candidate, strict=True)
        if one.label is not other.label
    )
    return Agreement(
        pairs=len(reference),
        flips=flips,
        differences=tuple(apart(one, other) for one, other in zip(reference, candidate, strict=True)),
        closest=min(margin(one) for one in reference),
        seconds=(reference_s, candidate_s),
    )


def _judged(
    files: ModelFiles, precision: Precision, *, pairs: int, device: str, micro_batch: int
) -> tuple[list[Scores], float, list[str]]:
    """Scores in order, seconds in the engine alone, and the captions."""
    engine = load_ofa(files, device=device, precision=precision)
    waiting = heldout_pairs(pairs)
    scores: list[Scores] = []
    captions: list[str] = []
    spent_s = 0.0
    while batch := list(islice(waiting, micro_batch)):
        questions = [Question(image=engine.prepare(image), caption=text, premise=more) for image, text, more in batch]
        captions += [question.caption for question in questions]
        began = time.perf_counter()
        scores += engine.judge(questions)
        spent_s += time.perf_counter() - began
    return scores, spent_s, captions


def apart(one: Scores, other: Scores) -> float:
    """The largest difference of the three probabilities."""
    return max(abs(a - b) for a, b in zip(_three(one), _three(other), strict=True))


def margin(scores: Scores) -> float:
    """How far the winner is ahead of the second."""
    best, second, _ = sorted(_three(scores), reverse=True)
    return best - second


def _three(scores: Scores) -> tuple[float, float, float]:
    return scores.p_yes, scores.p_no, scores.p_maybe


def report(found: Agreement, *, model: str, device: str, micro_batch: int) -> str:
    """Return the figures as a Markdown section."""
    fp32_s, bf16_s = found.seconds
    lines = [
        f"Model `{model}`, {device}, {micro_batch} pairs a pass, torch {torch.__version__}.",
        "",
        "| | |",
        "|---|---:|",
        f"| pairs | {found.pairs:,} |",
        f"| labels that differ | {len(found.flips)} |",
        f"| largest difference of a probability | {max(found.differences):.4f} |",
        f"| 99.9th percentile of it | {found.percentile(0.999):.4f} |",
        f"| 99th percentile | {found.percentile(0.99):.4f} |",
        f"| median | {found.percentile(0.5):.6f} |",
        f"| smallest margin of any pair in fp32 | {found.closest:.4f} |",
        f"| pairs/s in the engine, fp32 and bf16 | {found.pairs / fp32_s:.1f}, {found.pairs / bf16_s:.1f} |",
    ]
    if found.flips:
        lines += ["", "Labels that differ:", "", "| caption | fp32 | bf16 | margin in fp32 |", "|---|---|---|---:|"]
        lines += [
            f"| {flip.caption} | {_told(flip.reference)} | {_told(flip.candidate)} | {flip.margin:.4f} |"
            for flip in sorted(found.flips, key=lambda flip: -flip.margin)
        ]
    return "\n".join(lines) + "\n"


def _told(scores: Scores) -> str:
    return f"{scores.label} {max(_three(scores)):.3f}"


def page(section: str, *, command: str) -> str:
    """Return the whole page of results."""
    cpu = platform.machine()
    machine = f"{os.cpu_count()} shared cores ({cpu}), Python {platform.python_version()}"
    return (
        "# Does bfloat16 give the labels that float32 gives?\n\n"
        "The same held-out drawn pairs (seeds that training never saw, known wordings and held-out ones in turn,\n"
        "every eighth pair with a premise) through the engine twice. The difference of a pair is the largest of its\n"
        "three probabilities.\n\n"
        f"Command: `{command}`\nMachine: {machine}\n\n{section}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how many pairs to judge twice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, help="a model directory; default: the shipped one")
    parser.add_argument("--micro-batch", type=int, default=16, help="pairs a pass")
    parser.add_argument("--flips-allowed", type=int, default=0, help="labels that may differ for exit status 0")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    chosen = parser.parse_args(arguments)
    files = inspect_model(chosen.model)
    found = compare(files, pairs=chosen.pairs, device=chosen.device, micro_batch=chosen.micro_batch)
    name = "demo" if chosen.model == DEMO_MODEL else chosen.model.name
    section = report(found, model=name, device=chosen.device, micro_batch=chosen.micro_batch)
    print(section)
    if chosen.write:
        extra = "" if chosen.device == "cpu" else f" --device {chosen.device}"
        command = f"python -m benchmarks.precision --pairs {chosen.pairs}{extra} --micro-batch {chosen.micro_batch}"
        RESULTS.write_text(page(section, command=command), encoding="utf-8")
    return int(len(found.flips) > chosen.flips_allowed)


if __name__ == "__main__":
    sys.exit(main())
