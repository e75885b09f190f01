"""A pickle of tensors becomes safetensors of the same tensors, or a reason why not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audit.errors import ModelRefused
from worker.engines.convert import convert


def converted(state: object, folder: Path) -> dict[str, torch.Tensor]:
    source, target = folder / "pytorch_model.bin", folder / "model.safetensors"
    torch.save(state, source)
    convert(source, target)
    assert sorted(path.name for path in folder.iterdir()) == [target.name, source.name]
    back: dict[str, torch.Tensor] = load_file(target)
    return back


def test_every_tensor_comes_through_as_it_was(tmp_path: Path) -> None:
    """Precision, order of memory, shared memory, parts of others, empty ones, and what is no number."""
    table, part = torch.randn(8, 4), torch.randn(5, 6)
    state = {
        "encoder.embed_tokens.weight": table,
        "decoder.embed_tokens.weight": table,
        "decoder.output_projection.weight": table,
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "part": part[1:3],
        "other part": part[2:],
        "turned": part.T,
        "last": torch.randn(1, 3, 2, 2).to(memory_format=torch.channels_last),
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 2),
    }
    back = converted(state, tmp_path)
    # OFA shares this table by itself; the projection, which modelscope would leave random, is written.
    assert set(state) - set(back) == {"decoder.embed_tokens.weight"}
    for name, value in back.items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value.contiguous().view(-1).view(torch.uint8), bytes_of(state[name]))


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def test_two_tables_that_differ_are_both_kept(tmp_path: Path) -> None:
    """Then it is no OFA, and the loader says so: the conversion must not hide it."""
    state = {"encoder.embed_tokens.weight": torch.zeros(2, 2), "decoder.embed_tokens.weight": torch.ones(2, 2)}
    assert set(converted(state, tmp_path)) == set(state)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ([torch.zeros(1)], "not a mapping"),
        ({}, "not a mapping"),
        ({"model": {"weight": torch.zeros(1)}}, "'model' is no plain tensor"),
        ({"weight": torch.zeros(2, 2).to_sparse()}, "'weight' is no plain tensor"),
        ({"weight": Path("x")}, "it asks for pathlib"),
    ],
    ids=["a list", "nothing", "nested", "sparse", "an object"],
)
def test_what_is_no_mapping_of_tensors_is_refused(tmp_path: Path, state: object, reason: str) -> None:
    """In one line that names the file."""
    with pytest.raises(ModelRefused) as refused:
        converted(state, tmp_path)
    assert reason in refused.value.detail
    assert str(tmp_path / "pytorch_model.bin") in refused.value.detail
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]


def test_a_damaged_pickle_is_called_damaged(tmp_path: Path) -> None:
    """The hub may list no hash to find it by."""
    source = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(1000)}, source)
    source.write_bytes(source.read_bytes()[:-500])
    with pytest.raises(ModelRefused, match="it is damaged"):
        convert(source, tmp_path / "model.safetensors")
