"""An engine proves itself on the canary before it is given anybody's pairs."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from audit.errors import EngineFault, ModelRefused
from audit.settings import DEMO_MODEL
from audit.verdict import Label, Scores
from tests.worker.engines.tiny_ofa import draw_picture, edit_weights, load
from worker.engines.base import Question
from worker.engines.canary import Known, WrongAnswer, ask_again, prove
from worker.engines.model_files import inspect_model
from worker.engines.ofa import OfaEngine, load_ofa
from worker.engines.stub import StubEngine, load_stub

LABELS = {"yes": Label.YES, "no": Label.NO, "maybe": Label.MAYBE}


class NeighbourlyEngine(StubEngine):
    """A fake whose answers depend on how many questions share the batch, as a padding mistake makes them."""

    def judge(self, questions: Sequence[Question]) -> list[Scores]:
        share = 1 / (1 + len(questions))
        return [Scores(p_yes=share, p_no=1 - share, p_maybe=0.0) for _ in questions]


def write_known(directory: Path, *, label: str) -> None:
    draw_picture(3).save(directory / "canary-1.png")
    entry = {"image_file": "canary-1.png", "caption": "a red circle", "label": label}
    (directory / "canary.json").write_text(json.dumps([entry]))


def test_a_sound_engine_proves_itself(engine: OfaEngine) -> None:
    """Ready means that this process judged the canary, so a good model must pass in both precisions."""
    prove(engine)
    prove(load_stub())


def test_an_engine_in_bfloat16_proves_itself(pristine: Path) -> None:
    """Rounding is no fault."""
    prove(load_ofa(inspect_model(pristine), device="cpu", precision="bf16"))


def test_the_shipped_model_proves_itself() -> None:
    """What the two README commands judge with is whole, and knows the answers that it was shipped with."""
    prove(load(DEMO_MODEL))


def test_an_answer_that_depends_on_its_neighbour_is_a_fault() -> None:
    """A pair judged in company must get the verdict that it gets alone."""
    with pytest.raises(EngineFault, match="canary_failed: the canary's answer changes with its neighbour"):
        prove(NeighbourlyEngine())


def test_weights_that_are_not_finite_do_not_pass(model_dir: Path) -> None:
    """A worker with a broken model must not become ready."""
    edit_weights(model_dir, lambda state: state["decoder.layer_norm.weight"].fill_(torch.nan))
    with pytest.raises(EngineFault, match="scores_not_finite"):
        prove(load(model_dir))


def test_known_answers_must_come_out_right(model_dir: Path, engine: OfaEngine) -> None:
    """A model that answers, but wrongly, is found out when its directory says what is right."""
    answer = engine.judge([Question(image=draw_picture(3), caption="a red circle")])[0].label
    right = next(name for name, label in LABELS.items() if label is answer)
    write_known(model_dir, label=right)
    prove(load(model_dir))
    wrong = next(name for name, label in LABELS.items() if label is not answer)
    write_known(model_dir, label=wrong)
    with pytest.raises(EngineFault, match=f"is {LABELS[wrong]}, but was judged {answer}"):
        prove(load(model_dir))


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "[1]",
        '[{"image_file": "../a.png", "caption": "a", "label": "yes"}]',
        '[{"image_file": "a.png", "caption": "a", "label": "perhaps"}]',
        '[{"image_file": "a.png", "label": "yes"}]',
    ],
)
def test_a_malformed_canary_is_refused(model_dir: Path, content: str) -> None:
    """An operator's own canary that is never asked would be a false comfort."""
    (model_dir / "canary.json").write_text(content)
    with pytest.raises(ModelRefused, match=r"canary\.json"):
        inspect_model(model_dir)


def test_the_canarys_picture_must_be_there(model_dir: Path) -> None:
    """Refused at the start, not when the first child has loaded 2 GB."""
    write_known(model_dir, label="yes")
    (model_dir / "canary-1.png").unlink()
    with pytest.raises(ModelRefused, match=r"canary-1\.png: missing"):
        inspect_model(model_dir)


@pytest.fixture(scope="module")
def shipped() -> tuple[OfaEngine, tuple[Known, ...]]:
    """The shipped model, and how it answered when it was loaded."""
    engine = load(DEMO_MODEL)
    return engine, prove(engine)


def test_a_sound_model_answers_as_it_did_also_in_another_thread(shipped: tuple[OfaEngine, tuple[Known, ...]]) -> None:
    """An idle process asks in a thread of its own, and torch computes with other threads there."""
    engine, known = shipped
    assert [one.label for one in known] == [None, Label.YES, Label.NO, Label.MAYBE]
    with ThreadPoolExecutor(1) as other:
        for one in known:
            ask_again(engine, one)
            other.submit(ask_again, engine, one).result()


@pytest.mark.parametrize("what", ["one weight", "precision", "not finite"])
def test_weights_that_change_while_it_runs_are_found_by_the_known_questions(
    shipped: tuple[OfaEngine, tuple[Known, ...]], what: str
) -> None:
    """A flipped bit in a device's memory, sums of too few bits, and what is no number at all."""
    engine, known = shipped
    weights = dict(engine._model.named_parameters())
    kept = {name: tensor.detach().clone() for name, tensor in weights.items()}
    with torch.no_grad():
        if what == "precision":
            for tensor in weights.values():
                tensor.copy_((tensor * 8).round() / 8)
        else:
            tensor = weights["decoder.layer_norm.weight"]
            tensor[0] = 1e4 if what == "one weight" else torch.nan
    found = []
    try:
        for one in known:
            try:
                ask_again(engine, one)
            except WrongAnswer as error:
                found.append(error.told["got"])
    finally:
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(kept[name])
    assert found
    for one in known:
        ask_again(engine, one)
