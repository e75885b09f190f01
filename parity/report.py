"""The comparison as a page of Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from parity.compare import Comparison

HEAD = """# Does the engine answer as modelscope does?

The engine (`worker/engines/ofa.py`) judges B pairs of different lengths in one encoder and one decoder pass. The
reference is modelscope's own `pipeline(Tasks.visual_entailment, model=DIRECTORY, device="cpu")`, one pair at a time, in
an environment of its own; its batches cannot serve as one, since they fail or answer wrongly for captions of different
lengths. Both run in float32 on the CPU. The pipeline returns the winning label and its probability (column "score");
the three probabilities and the logits are read from its decoder's output with a hook.

Measured by `make parity` (`python -m parity`), which writes this page and fails when a label or a token differs, a
probability by more than 1e-5, or a logit of the large model by more than 1e-4 of their spread.
"""
TABLE = """| batch | labels that differ | probability | score | logit | texts with other tokens | ms a pair |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One model's comparison; `text` says on what."""

    title: str
    text: str
    comparison: Comparison
    passed: bool


def report(sections: Sequence[Section]) -> str:
    """The whole page; differences are the largest absolute ones."""
    versions = ", ".join(f"{name} {version}" for name, version in sections[0].comparison.versions.items())
    parts = [
        HEAD,
        *(_section(section) for section in sections),
        f"Versions: {versions}; one thread of a shared x86-64 core.\n",
    ]
    return "\n".join(parts)


def _section(section: Section) -> str:
    comparison = section.comparison
    rows = "".join(
        f"| {gap.batch} | {gap.flips} | {gap.probability:.1e} | {gap.winner:.1e} | {gap.logit:.1e} | {gap.ids} | "
        f"{gap.ms_per_pair:.1f} |\n"
        for gap in comparison.gaps
    )
    spread = ", ".join(f"{label} {count}" for label, count in comparison.labels.items())
    verdict = "Passed." if section.passed else "**Failed.**"
    reference = f"The reference took {comparison.reference_ms_per_pair:.1f} ms a pair and answered: {spread}. {verdict}"
    return f"## {section.title}\n\n{section.text}\n\n{TABLE}{rows}\n{reference}\n"
