"""`python -m parity`: compare engine and modelscope, and exit with status 1 when they differ."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from parity.compare import Comparison, compare
from parity.environment import build_environment
from parity.large import write_large
from parity.pairs import modes_and_sizes, write_pairs
from parity.report import Section, report

ROOT = Path(__file__).resolve().parent.parent
PROBABILITY_LIMIT = 1e-5
RELATIVE_LOGIT_LIMIT = 1e-4
"""Of the spread of a label's logits from pair to pair; float32 sums in another order differ by about 1e-6."""


def main(arguments: list[str]) -> int:
    """Compare on the shipped model, then on a random large one; print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m parity", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "demo" / "model")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--large-pairs", type=int, default=8)
    parser.add_argument(
        "--skip-large", action="store_true", help="leave out the large model: 2 GB of disk, 6 of memory"
    )
    parser.add_argument("--scratch", type=Path, help="where the large model is written for a while; default: TMPDIR")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "results" / "parity.md")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(int(os.environ.setdefault("PARITY_THREADS", "1")))
    python = build_environment()
    sections = [_shipped(python, options.model, options.pairs)]
    if not options.skip_large:
        sections.append(_large(python, options.large_pairs, options.scratch))
    text = report(sections)
    options.report.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(section.passed for section in sections) else 1


def _shipped(python: Path, model: Path, count: int) -> Section:
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        folder = Path(name)
        pairs = write_pairs(folder, count=count, seed=1)
        comparison = compare(python, model.resolve(), folder, pairs, batches=(1, 4, 16))
        modes, sizes = modes_and_sizes(folder, pairs)
    words = [len(pair.caption.split()) for pair in pairs]
    text = (
        f"{len(pairs)} pairs, {sum(pair.premise is not None for pair in pairs)} of them with a premise; captions of "
        f"{min(words)} to {max(words)} words; pictures of {len(sizes)} sizes from {_size(min(sizes))} to "
        f"{_size(max(sizes))} in files of modes {', '.join(sorted(modes))}."
    )
    passed = all(
        gap.probability <= PROBABILITY_LIMIT and gap.winner <= PROBABILITY_LIMIT and not gap.flips and not gap.ids
        for gap in comparison.gaps
    )
    return Section(title=f"The model `{_shown(model)}`", text=text, comparison=comparison, passed=passed)


def _large(python: Path, count: int, scratch: Path | None) -> Section:
    with (
        tempfile.TemporaryDirectory(prefix="parity-") as name,
        tempfile.TemporaryDirectory(prefix="parity-large-", dir=scratch) as model,
    ):
        pairs = write_pairs(Path(name), count=count, seed=2)
        parameters = write_large(Path(model), [pair.caption for pair in pairs], seed=3)
        comparison = compare(python, Path(model), Path(name), pairs, batches=(1, 4))
    text = (
        f"{parameters / 1e6:.0f} million random parameters, the configuration of OFA-large with pictures of 480 x 480; "
        f"{len(pairs)} pairs, {sum(pair.premise is not None for pair in pairs)} of them with a premise. Its answers "
        f"mean nothing, so the logits count: a label's logit moves by {comparison.logit_spread:.3g} from pair to pair."
    )
    return Section(title="A random OFA-large", text=text, comparison=comparison, passed=_logits_agree(comparison))


def _logits_agree(comparison: Comparison) -> bool:
    limit = RELATIVE_LOGIT_LIMIT * comparison.logit_spread
    return all(gap.logit <= limit and not gap.flips and not gap.ids for gap in comparison.gaps)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _shown(model: Path) -> str:
    model = model.resolve()
    return str(model.relative_to(ROOT)) if model.is_relative_to(ROOT) else model.name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
