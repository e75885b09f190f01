"""From a weights file to modelscope's OFAModel: every tensor accounted for, none left random."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from audit.errors import ModelRefused
from worker.engines.model_files import ModelFiles
from worker.engines.ofa_imports import import_ofa

EMBEDDING = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
PROJECTION = "decoder.output_projection.weight"
COMPUTED = ("token_rp_bucket", "image_rp_bucket", "image_position_idx", "num_batches_tracked")
"""Buffers that the model computes by itself (or, the last one, never reads when it judges): a file may omit them."""


def build_model(files: ModelFiles) -> Any:
    """An OFAModel in evaluation mode on the CPU, in float32; raises ModelRefused naming the tensors that do not fit.

    Weights stored as float16 or bfloat16 are widened, which is exact. The global random generators are left alone.
    """
    ofa = import_ofa()
    known = set(inspect.signature(ofa.config.__init__).parameters)
    settings = {key: value for key, value in files.spec.config.items() if key in known - {"self", "kwargs"}}
    # A path in the configuration would be unpickled; the ResNet's weights are in the weights file anyway.
    settings["resnet_model_path"] = None
    with torch.random.fork_rng(devices=[]), ofa.no_init_weights():
        try:
            model = ofa.model(ofa.config(**settings))
        except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
            raise ModelRefused(
                "model_config", f"{files.directory / 'config.json'}: no OFA can be built ({error})"
            ) from error
    state = _complete(files, _read(files), model)
    model.load_state_dict(state, strict=False, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def _read(files: ModelFiles) -> dict[str, torch.Tensor]:
    path = files.directory / files.weights.name
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            # weights_only: nothing but tensors is unpickled.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ModelRefused("model_weights", f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelRefused("model_weights", f"{path}: not a mapping of names to tensors")
    # safetensors' tensors are views of one mapping of the file. Counters are copied: the model keeps them as they are,
    # and one would hold all those gigabytes mapped after the weights have become bfloat16.
    return {name: value.float() if value.is_floating_point() else value.clone() for name, value in state.items()}


def _complete(files: ModelFiles, state: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The state with the tied table under all its names; raises ModelRefused when anything else is off.

    modelscope leaves an output projection that the file omits random, with a warning: every answer would be noise.
    """
    tied = _tied(files, state)
    expected = model.state_dict()
    missing = sorted(name for name in expected if name not in tied and not name.endswith(COMPUTED))
    unexpected = sorted(name for name in tied if name not in expected)
    misfits = sorted(name for name in tied if name in expected and tied[name].shape != expected[name].shape)
    for reason, names in (("lacks", missing), ("has no use for", unexpected), ("has the wrong shape of", misfits)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ModelRefused(
                "model_weights",
                f"{files.directory / files.weights.name}: by what config.json says, it {reason} {shown}",
            )
    return tied


def _tied(files: ModelFiles, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Encoder and decoder share one table; so does the projection, unless the file or config.json says otherwise."""
    shared = files.spec.config.get("share_decoder_input_output_embed", True)
    names = [name for name in (*EMBEDDING, PROJECTION) if name in state and (shared or name != PROJECTION)]
    if not names:
        return state
    table = state[names[0]]
    if EMBEDDING[1] in names and not torch.equal(state[EMBEDDING[1]], table):
        path = files.directory / files.weights.name
        raise ModelRefused("model_weights", f"{path}: {EMBEDDING[0]} and {EMBEDDING[1]} differ, but OFA shares them")
    tied = {**state, **dict.fromkeys(EMBEDDING, table)}
    if shared:
        tied.setdefault(PROJECTION, table)
    return tied
