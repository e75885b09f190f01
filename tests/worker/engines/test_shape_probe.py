"""Whether weights fit their architecture, told from names and shapes alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from audit.errors import ModelRefused
from tests.worker.engines.tiny_ofa import edit_json, edit_weights
from worker.engines.model_files import inspect_model
from worker.engines.ofa_weights import build_model
from worker.engines.shape_probe import look

TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")


@pytest.mark.parametrize(
    "edit",
    [
        lambda state: None,
        lambda state: [state.pop(name) for name in TABLES[1:]],
        lambda state: state.pop("encoder.layers.1.fc1.weight"),
        lambda state: state.update({"encoder.adapter": torch.zeros(3)}),
        lambda state: state.update({"decoder.layer_norm.bias": torch.zeros(3)}),
    ],
)
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_it_finds_what_loading_finds(
    model_dir: Path, edit: Callable[[dict[str, torch.Tensor]], Any], kind: str
) -> None:
    """Word by word: a check that knows better, or less, than the engine is of no use."""
    edit_weights(model_dir, edit)
    state = load_file(model_dir / "model.safetensors")
    if kind == "pytorch_model.bin":
        torch.save(state, model_dir / kind)
        (model_dir / "model.safetensors").unlink()
    try:
        build_model(inspect_model(model_dir))
        refused = ""
    except ModelRefused as error:
        refused = error.detail
    told = look(model_dir, kind)
    assert told == {"problem": refused, "tensors": "" if refused else str(len(state))}


def test_a_folder_that_the_engine_does_not_understand_is_told(model_dir: Path) -> None:
    """Its own texts are read before its weights."""
    edit_json(model_dir / "configuration.json", lambda value: value.update({"task": "captioning"}))
    assert "task is 'captioning'" in look(model_dir, "model.safetensors")["problem"]


def test_no_weight_is_made_on_the_way(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of gigabytes must be checked beside a worker that holds one: nothing but shapes comes into memory."""
    from worker.engines import ofa_weights

    devices: set[str] = set()
    shapes_of = ofa_weights.shapes_of

    def seen(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        devices.update(tensor.device.type for tensor in state.values())
        return shapes_of(state)

    torch.save(load_file(model_dir / "model.safetensors"), model_dir / "pytorch_model.bin")
    monkeypatch.setattr(ofa_weights, "shapes_of", seen)
    assert look(model_dir, "pytorch_model.bin")["problem"] == ""
    assert devices == {"meta"}
