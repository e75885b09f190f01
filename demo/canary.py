"""Known answers for a new model folder: a worker that does not give them is not let near anybody's pairs."""

import json
from pathlib import Path
from random import Random

from demo.captions import LABELS, sample_example
from demo.drawing import draw
from demo.judge import Judge
from demo.scenes import scene_of
from demo.wordings import training_wordings
from worker.engines.canary import FILE

# Pictures of their own, below those of the evaluation.
FIRST_SEED = 3_000_000
CANDIDATES = 40
# Far from the border between two labels, so that no rounding of another machine can tip the answer.
SURE = 0.98


def write_canary(folder: Path) -> None:
    """Write canary.json and a picture for each label; raises ValueError when the model is sure and right too rarely."""
    judge, rng, found = Judge(folder), Random(FIRST_SEED), []
    for label in LABELS:
        for seed in range(FIRST_SEED, FIRST_SEED + CANDIDATES):
            scene = scene_of(seed)
            caption = sample_example(scene, rng, training_wordings(), label=label).caption
            picture = draw(scene)
            answer, probability = next(judge.answers([(picture, caption, None)]))
            if answer == label and probability > SURE:
                picture.save(folder / f"canary-{label}.png", optimize=True)
                found.append({"image_file": f"canary-{label}.png", "caption": caption, "label": label})
                break
        else:
            raise ValueError(f"of {CANDIDATES} {label!r} captions the model answered none with {SURE}")
    (folder / FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
