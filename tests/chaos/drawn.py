"""The same rain over the real model: drawn pairs, and for the truth a quiet run of the same pairs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.drawn_pairs import heldout_pairs
from demo.evaluate import CAPTIONS_A_PICTURE
from tests.chaos.plan import BAD_PICTURES, PlannedBatch, PlannedPair
from tests.chaos.stage import staged
from tests.chaos.truth import Expected, spoil, write_manifest
from tests.support.running import finished, submitted, told

QUIET_LIMIT_S = 1800.0


def draw_pairs(folder: Path, *, seed: int, pairs: int, killers: int) -> list[PlannedPair]:
    """Held-out pairs of the drawn world with their pictures, and among them pictures that no decoder survives."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[PlannedPair] = []
    for number, (picture, caption, premise) in enumerate(heldout_pairs(pairs)):
        name = f"{number // CAPTIONS_A_PICTURE}.png"
        if number % CAPTIONS_A_PICTURE == 0:
            picture.save(folder / name)
        made.append(PlannedPair(id=f"p{number}", image=name, caption=caption, premise=premise or ""))
    spoil(folder, folder / "0.png")
    rng = Random(f"drawn {seed}")
    evil = [kind for kind in BAD_PICTURES for _ in range(killers)]
    for place, kind in zip(rng.sample(range(pairs), min(pairs, len(evil))), evil, strict=False):
        image = f"{kind}-{place % 3}.png"
        made[place] = PlannedPair(id=f"p{place}", image=image, caption=made[place].caption, code=BAD_PICTURES[kind])
    return made


def expected_of_quiet_run(
    pairs: Sequence[PlannedPair], folder: Path, pictures: Path, settings: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Expected]:
    """What the model answers when nothing disturbs it."""
    good = [pair for pair in pairs if pair.code is None]
    batch = PlannedBatch(name="quiet", lane="bulk", tenant="one", at_s=0, fate="plain", pairs=good)
    manifest = write_manifest(pictures, batch)
    folder.mkdir()
    with staged(folder, database="sqlite", workers=1, **settings) as stage:
        number = submitted(stage.settings, manifest)
        finished(stage.settings, number, timeout_s=QUIET_LIMIT_S, watch=stage.supervisor.posts[0].worker)
        rows = told(stage.settings, number)
    say(f"the quiet run has judged {len(rows):,} pairs")
    expected = {pair.id: Expected(code=pair.code) for pair in pairs if pair.code is not None}
    for name, row in rows.items():
        scores = (row.p_yes or 0.0, row.p_no or 0.0, row.p_maybe or 0.0)
        expected[name] = Expected(code=row.failure_code, label=row.label, scores=scores)
    return expected
