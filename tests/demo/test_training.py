"""The recipe: what training computes is what the engine will compute from the folder that it writes."""

from pathlib import Path
from random import Random

import pytest
import torch

from demo.captions import LABELS, sample_example
from demo.evaluate import MODEL
from demo.examples import Examples
from demo.export import export
from demo.network import Network, normalise
from demo.pool import GRID, SIDE, TARGETS, Pool, open_pool
from demo.prompts import Reader, prompt
from demo.scenes import KINDS, scene_of
from demo.train import Options, Run
from demo.wordings import heldout_wordings, training_wordings
from worker.engines.base import Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import load_ofa
from worker.engines.ofa_text import Reader as EngineReader

NAMES = [*TARGETS, tuple(f"{kind}s" for kind in KINDS)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """A pool of a few pictures."""
    return open_pool(tmp_path_factory.mktemp("pool"), count=6, first_seed=50)


def options(work: Path) -> Options:
    """Options of a run in a folder of its own."""
    return Options(work=work, out=work / "model", seed=1, minutes=1.0, pictures=6, threads=1, resume=False)


def test_a_pool_is_drawn_once(pool: Pool, tmp_path: Path) -> None:
    """Drawing 48,000 pictures takes minutes: an interrupted preparation must not be taken for a finished one."""
    assert pool.pictures.shape == (6, SIDE, SIDE, 3)
    assert pool.places.shape == (6, len(TARGETS), GRID, GRID)
    again = open_pool(tmp_path, count=6, first_seed=50)
    assert (again.pictures == pool.pictures).all()
    assert all((places[0] > 0).sum() >= len(scene_of(50 + index).things) for index, places in enumerate(pool.places))


def test_training_reads_captions_as_the_engine_does() -> None:
    """Another id in training than in an audit would be a caption that the model never saw."""
    reader, engine = Reader(MODEL, LABELS), EngineReader(inspect_model(MODEL))
    for seed in range(100):
        rng, scene = Random(seed), scene_of(seed)
        wordings = heldout_wordings() if seed % 2 else training_wordings()
        caption = sample_example(scene, rng, wordings, label=LABELS[seed % 3]).caption
        premise = sample_example(scene, rng, wordings, label="yes").caption if seed % 5 == 0 else None
        assert tuple(reader.ids(prompt(caption, premise))) == engine.read(caption, premise).ids


def test_training_moves_the_weights_and_its_checkpoint_resumes(pool: Pool, tmp_path: Path) -> None:
    """An hour of training must survive a stop."""
    torch.manual_seed(0)
    reader = Reader(MODEL, LABELS)
    names = [reader.word_ids(words) for words in NAMES]
    run = Run(options=options(tmp_path), network=Network(reader.rows, reader.label_ids, names))
    before = run.network.pointing_head.weight.clone()
    run.spent_s = 0.5 * 60
    run.one_step(Examples(pool, reader, training_wordings(), Random(1)), pool, pictures=3)
    assert not torch.equal(before, run.network.pointing_head.weight)
    run.save()
    again = Run(options=options(tmp_path), network=Network(reader.rows, reader.label_ids, names))
    again.load()
    assert (again.step, again.spent_s) == (1, 30.0)
    assert torch.equal(again.network.pointing_head.weight, run.network.pointing_head.weight)


def test_the_engine_answers_as_the_trained_network_does(pool: Pool, tmp_path: Path) -> None:
    """What is measured in training is what an audit will get."""
    torch.manual_seed(0)
    reader = Reader(MODEL, LABELS)
    network = Network(reader.rows, reader.label_ids, [reader.word_ids(words) for words in NAMES]).eval()
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    export(network, reader, vocabulary=MODEL, out=tmp_path)
    batch = Examples(pool, reader, training_wordings(), Random(3)).fixed(3, 1)
    with torch.inference_mode():
        wanted, _ = network.answers(network.see(normalise(pool.pictures[batch.pictures])), batch.questions)
    engine = load_ofa(inspect_model(tmp_path), device="cpu", precision="fp32")
    rng = Random(3)
    for index in range(3):
        label = rng.choices(LABELS)[0]
        caption = sample_example(pool.scene(index), rng, training_wordings(), label=label).caption
        (logits,) = engine.logits([Question(image=pool.pictures[index], caption=caption)])
        assert torch.allclose(torch.tensor(logits), wanted[index], atol=1e-3)
