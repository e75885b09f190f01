"""Measure the demo model and write what was found: `python -m demo.evaluate`.

Everything is asked about pictures of seeds that training never saw. The figures go to docs/results/model.md and into
the model card, between its two marks.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from demo.captions import LABELS, Example, sample_example
from demo.drawing import draw, through_a_file
from demo.judge import Judge
from demo.report import confusion, shares, summary
from demo.scenes import scene_of
from demo.wordings import heldout_wordings, training_wordings
from worker.engines.model_files import write_checksums

FIRST_SEED = 10_000_000
MODEL = Path(__file__).parent / "model"
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "model.md"
CARD_MARKS = ("<!-- figures -->", "<!-- end of figures -->")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was asked, what is right and what the model said."""

    axis: str
    wording: str
    label: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way of asking: `picture` is own (the caption's), blank, or another's."""

    name: str
    pictures: int
    heldout: bool = False
    premise: bool = False
    picture: str = "own"


TRIALS = (
    Trial(name="held-out pictures", pictures=1500),
    Trial(name="held-out wordings", pictures=750, heldout=True),
    Trial(name="blank pictures", pictures=400, picture="blank"),
    Trial(name="shuffled pictures", pictures=400, picture="another's"),
    Trial(name="with a premise", pictures=400, premise=True),
)
CAPTIONS_A_PICTURE = 4


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, ask and write."""
    parser = argparse.ArgumentParser(prog="python -m demo.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="the model folder to measure")
    parser.add_argument("--share", type=float, default=1.0, help="ask only this share of the pictures")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write the figures")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    judge = Judge(chosen.model)
    answers = {trial.name: ask(judge, trial, share=chosen.share) for trial in TRIALS}
    figures = write_figures(answers)
    took = f"{time.monotonic() - started:.0f} s"
    command = "python -m demo.evaluate" + (f" --share {chosen.share}" if chosen.share != 1.0 else "")
    head = f"# The demo model, measured\n\n`{command}`, {took} on {machine()}, sixteen questions at a time.\n\n"
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    chosen.results.write_text(head + figures, encoding="utf-8")
    update_card(chosen.model / "README.md", figures)
    write_checksums(chosen.model.resolve())
    print(figures)


def ask(judge: Judge, trial: Trial, *, share: float) -> list[Answer]:
    """Return the model's answers about a trial's pictures: CAPTIONS_A_PICTURE each, the labels equally often."""
    count = max(1, round(trial.pictures * share))
    examples: list[Example] = []
    answers = [answer for answer, _ in judge.answers(_questions(trial, count, examples))]
    return [
        Answer(axis=example.axis, wording=example.wording, label=example.label, answer=answer)
        for example, answer in zip(examples, answers, strict=True)
    ]


def _questions(trial: Trial, count: int, examples: list[Example]) -> Iterator[tuple[Image.Image, str, str | None]]:
    """Draw and ask picture by picture, noting in `examples` what is right."""
    wordings = heldout_wordings() if trial.heldout else training_wordings()
    for index in range(count):
        seed = FIRST_SEED + index
        rng, scene = Random(f"{trial.name} {seed}"), scene_of(seed)
        shown = _picture(FIRST_SEED + (index + 1) % count if trial.picture == "another's" else seed)
        if trial.picture == "blank":
            shown = Image.new("RGB", shown.size, scene.background)
        for turn in range(CAPTIONS_A_PICTURE):
            label = LABELS[(index * CAPTIONS_A_PICTURE + turn) % len(LABELS)]
            examples.append(sample_example(scene, rng, wordings, label=label))
            premise = sample_example(scene, rng, wordings, label="yes").caption if trial.premise else None
            yield shown, examples[-1].caption, premise


def _picture(seed: int) -> Image.Image:
    return through_a_file(draw(scene_of(seed)), Random(f"file {seed}"))


def write_figures(answers: dict[str, list[Answer]]) -> str:
    """Return every table, as Markdown."""
    triples = {name: [(one.label, one.answer) for one in given] for name, given in answers.items()}
    parts = ["## At a glance\n", summary(triples)]
    for name, given in answers.items():
        parts += [f"\n## {name[0].upper()}{name[1:]}: {len(given)} pairs\n", confusion(triples[name])]
        if name in ("held-out pictures", "held-out wordings", "with a premise"):
            parts += ["\nBy axis\n", shares([(one.axis, one.label, one.answer) for one in given])]
        if name == "held-out wordings":
            parts += ["\nBy wording\n", shares([(one.wording, one.label, one.answer) for one in given])]
        if name == "held-out pictures":
            groups = [(one.wording.split(":")[0], one.label, one.answer) for one in given]
            parts += ["\nBy group of wordings\n", shares(groups)]
    return "\n".join(parts) + "\n"


def update_card(card: Path, figures: str) -> None:
    """Put the figures between the marks of the model card, if there is one."""
    if not card.exists():
        return
    text = card.read_text(encoding="utf-8")
    before, _, rest = text.partition(CARD_MARKS[0])
    after = rest.partition(CARD_MARKS[1])[2]
    inside = figures.partition("\n## Held-out wordings")[0].rstrip()
    card.write_text(f"{before}{CARD_MARKS[0]}\n\n{inside}\n\n{CARD_MARKS[1]}{after}", encoding="utf-8")


def machine() -> str:
    """Describe this machine in a few words."""
    return f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}), Python {platform.python_version()}"


if __name__ == "__main__":
    main()
