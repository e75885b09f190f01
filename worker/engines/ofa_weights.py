"""From a weights file to modelscope's OFAModel: every tensor accounted for, none left random."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from audit.errors import ModelRefused
from worker.engines.model_files import ModelFiles
from worker.engines.ofa_imports import import_ofa
from worker.engines.weights_file import WeightsFile

T = TypeVar("T")
EMBEDDING = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
PROJECTION = "decoder.output_projection.weight"
COMPUTED = ("token_rp_bucket", "image_rp_bucket", "image_position_idx", "num_batches_tracked")
"""Buffers that the model computes by itself (or, the last one, never reads when it judges): a file may omit them."""


def build_model(files: ModelFiles) -> Any:
    """An OFAModel in evaluation mode on the CPU, in float32; raises ModelRefused naming the tensors that do not fit.

    Weights stored as float16 or bfloat16 are widened, which is exact. The global random generators are left alone.
    """
    model = _empty_model(files.directory, files.spec.config)
    state = _tied(files, _read(files))
    _check_fit(files.directory / files.weights.name, shapes_of(state), shapes_of(model.state_dict()))
    model.load_state_dict(state, strict=False, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def check_shapes(directory: Path, config: Mapping[str, Any], weights: WeightsFile) -> int:
    """The number of tensors, once each has the name and the shape that the architecture wants; raises ModelRefused.

    Nothing is read into memory but names and shapes, and no tensor of the model is made: a second, whatever its size.
    """
    path = directory / weights.name
    found = dict(weights.shapes) if weights.shapes is not None else shapes_of(_unpickled(path, device="meta"))
    with torch.device("meta"), _RangesOnCpu():
        wanted = shapes_of(_empty_model(directory, config).state_dict())
    _check_fit(path, with_tied(found, config), wanted)
    return len(found)


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


class _RangesOnCpu(TorchFunctionMode):
    """modelscope's ResNet reads numbers out of a torch.linspace while it is built: on `meta` there are none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is torch.linspace:
            named.setdefault("device", "cpu")
        return func(*args, **named)


def _empty_model(directory: Path, config: Mapping[str, Any]) -> Any:
    """The architecture that config.json describes, without weights; raises ModelRefused."""
    ofa = import_ofa()
    known = set(inspect.signature(ofa.config.__init__).parameters)
    settings = {key: value for key, value in config.items() if key in known - {"self", "kwargs"}}
    # A path in the configuration would be unpickled; the ResNet's weights are in the weights file anyway.
    settings["resnet_model_path"] = None
    with torch.random.fork_rng(devices=[]), ofa.no_init_weights():
        try:
            return ofa.model(ofa.config(**settings))
        except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
            raise ModelRefused("model_config", f"{directory / 'config.json'}: no OFA can be built ({error})") from error


def _read(files: ModelFiles) -> dict[str, torch.Tensor]:
    path = files.directory / files.weights.name
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            state: Mapping[str, torch.Tensor] = load_file(path)
        except Exception as error:
            raise _unreadable(path, error) from error
    else:
        state = _unpickled(path, device="cpu")
    # safetensors' tensors are views of one mapping of the file. Counters are copied: the model keeps them as they are,
    # and one would hold all those gigabytes mapped after the weights have become bfloat16.
    return {name: value.float() if value.is_floating_point() else value.clone() for name, value in state.items()}


def _unpickled(path: Path, *, device: str) -> Mapping[str, torch.Tensor]:
    """What torch.save wrote; on the device `meta` names, types and shapes alone. Raises ModelRefused."""
    try:
        # weights_only: nothing but tensors is unpickled.
        state: Any = torch.load(path, map_location=device, weights_only=True, mmap=True)
    except Exception as error:
        raise _unreadable(path, error) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelRefused("model_weights", f"{path}: not a mapping of names to tensors")
    return state


def _unreadable(path: Path, error: Exception) -> ModelRefused:
    return ModelRefused("model_weights", f"{path}: cannot be read ({type(error).__name__}: {error})")


def _check_fit(path: Path, tied: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelRefused when a tensor is missing, is of no use or has another shape.

    modelscope leaves an output projection that the file omits random, with a warning: every answer would be noise.
    """
    missing = sorted(name for name in expected if name not in tied and not name.endswith(COMPUTED))
    unexpected = sorted(name for name in tied if name not in expected)
    misfits = sorted(name for name in tied if name in expected and tied[name] != expected[name])
    for reason, names in (("lacks", missing), ("has no use for", unexpected), ("has the wrong shape of", misfits)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ModelRefused("model_weights", f"{path}: by what config.json says, it {reason} {shown}")


def _tied(files: ModelFiles, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state with the shared table under all its names; raises ModelRefused when its copies differ."""
    if all(name in state for name in EMBEDDING) and not torch.equal(state[EMBEDDING[1]], state[EMBEDDING[0]]):
        path = files.directory / files.weights.name
        raise ModelRefused("model_weights", f"{path}: {EMBEDDING[0]} and {EMBEDDING[1]} differ, but OFA shares them")
    return with_tied(state, files.spec.config)


def with_tied(state: dict[str, T], config: Mapping[str, Any]) -> dict[str, T]:
    """Encoder and decoder share one table; so does the projection, unless the file or config.json says otherwise."""
    shared = config.get("share_decoder_input_output_embed", True)
    names = [name for name in (*EMBEDDING, PROJECTION) if name in state and (shared or name != PROJECTION)]
    if not names:
        return state
    table = state[names[0]]
    tied = {**state, **dict.fromkeys(EMBEDDING, table)}
    if shared:
        tied.setdefault(PROJECTION, table)
    return tied
