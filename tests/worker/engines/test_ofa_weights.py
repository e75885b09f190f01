"""Every tensor of a weights file is used, tied, computed by the model, or a reason to refuse it."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from audit.errors import ModelRefused
from tests.worker.engines.tiny_ofa import apart, edit_json, edit_weights, load, questions_of
from worker.engines.base import Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import OfaEngine, load_ofa

TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")


@pytest.mark.parametrize("omitted", [TABLES[1:], TABLES[2:], TABLES[:2], TABLES[:1]])
def test_a_tied_table_that_the_file_omits_is_tied(
    engine: OfaEngine, model_dir: Path, pictures: Sequence[Image.Image], omitted: Sequence[str]
) -> None:
    """The pipeline leaves an omitted output projection random, with a warning: every answer would be noise."""

    def omit(state: dict[str, torch.Tensor]) -> None:
        for name in omitted:
            del state[name]

    edit_weights(model_dir, omit)
    questions = questions_of(pictures)
    assert load(model_dir).judge(questions) == engine.judge(questions)


def test_an_output_projection_of_its_own_is_used(
    engine: OfaEngine, model_dir: Path, pictures: Sequence[Image.Image]
) -> None:
    """The pipeline uses a stored projection even when it differs from the table."""
    edit_weights(model_dir, lambda state: state.update({TABLES[2]: -state[TABLES[2]]}))
    question = Question(image=pictures[0], caption="a red circle")
    straight, turned = engine.logits([question])[0], load(model_dir).logits([question])[0]
    assert turned == tuple(-value for value in straight)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda state: state.pop("encoder.layers.1.fc1.weight"), "lacks encoder.layers.1.fc1.weight"),
        (lambda state: state.pop("encoder.embed_images.bn1.running_var"), "lacks encoder.embed_images.bn1.running_var"),
        (lambda state: state.update({"encoder.adapter": torch.zeros(3)}), "has no use for encoder.adapter"),
        (
            lambda state: state.update({"decoder.layer_norm.bias": torch.zeros(3)}),
            "has the wrong shape of decoder.layer_norm.bias",
        ),
        (lambda state: state.update({TABLES[1]: state[TABLES[1]] + 1}), "differ, but OFA shares them"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    model_dir: Path, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    """A tensor that stays at its random start is a model that nobody trained."""
    edit_weights(model_dir, edit)
    with pytest.raises(ModelRefused) as refused:
        load(model_dir)
    assert str(model_dir / "model.safetensors") in refused.value.detail
    assert reason in refused.value.detail


def test_another_architecture_is_refused(model_dir: Path) -> None:
    """config.json of one size with the weights of another."""
    edit_json(model_dir / "config.json", lambda config: config.update(encoder_layers=3, encoder_attention_heads=8))
    with pytest.raises(ModelRefused, match=r"by what config.json says, it lacks encoder.image_rel_pos_table_list.2"):
        load(model_dir)
    edit_json(model_dir / "config.json", lambda config: config.update(encoder_attention_heads=5))
    with pytest.raises(ModelRefused, match="no OFA can be built"):
        load(model_dir)


def test_pickled_weights_answer_alike(engine: OfaEngine, model_dir: Path, pictures: Sequence[Image.Image]) -> None:
    """Older models come as pytorch_model.bin."""
    torch.save(load_file(model_dir / "model.safetensors"), model_dir / "pytorch_model.bin")
    (model_dir / "model.safetensors").unlink()
    questions = questions_of(pictures)
    assert load(model_dir).judge(questions) == engine.judge(questions)


def test_pickled_code_is_not_run(model_dir: Path, tmp_path: Path) -> None:
    """A .bin file can hold any Python object; only tensors are taken."""
    (model_dir / "model.safetensors").unlink()
    torch.save({"weight": Path(tmp_path / "x")}, model_dir / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"pytorch_model.bin: cannot be read \(UnpicklingError"):
        load(model_dir)


def test_half_precision_weights_are_widened(
    engine: OfaEngine, model_dir: Path, pictures: Sequence[Image.Image]
) -> None:
    """fp32 means that sums are float32, whatever the file stores."""
    edit_weights(model_dir, lambda state: state.update({key: value.half() for key, value in state.items()}))
    questions = questions_of(pictures)
    difference = apart(load(model_dir).judge(questions), engine.judge(questions))
    assert 0 < difference < 0.1


def test_loading_and_judging_leave_the_random_generators_alone(pristine: Path, pictures: Sequence[Image.Image]) -> None:
    """The pipeline's preprocessor reseeds torch and numpy for the whole process."""
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state())
    load(pristine).judge(questions_of(pictures))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert pickle.dumps(np.random.get_state()) == before[1]


def test_a_changed_file_is_not_loaded(model_dir: Path) -> None:
    """What was checked is what is loaded."""
    files = inspect_model(model_dir)
    edit_json(model_dir / "config.json", lambda config: config.update(dropout=0.5))
    with pytest.raises(ModelRefused, match="has changed"):
        load_ofa(files, device="cpu", precision="fp32")


def test_converted_weights_do_not_keep_their_file_mapped(model_dir: Path) -> None:
    """A worker in bfloat16 would count the 2 GB of OFA-large's float32 file as its own for all its life."""
    engine = load_ofa(inspect_model(model_dir), device="cpu", precision="bf16")
    assert str(model_dir) not in Path("/proc/self/maps").read_text()
    del engine
