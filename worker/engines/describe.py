"""A model in numbers and sentences: what its folder says, and what the engine will do with that. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.models import RECORD, read_record
from worker.engines.hub_listing import is_plain_data
from worker.engines.model_files import CHECKSUMS, ModelFiles
from worker.engines.ofa_spec import ANSWERS, read_json
from worker.engines.weights_file import WeightsFile

PRECISIONS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
NO_PARAMETERS = (
    "rp_bucket",
    "image_position_idx",
    "num_batches_tracked",
    "running_mean",
    "running_var",
    ".version",
)
"""Ends of names of tensors that are computed or counted, not learnt."""
TABLES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
DEFAULTS = {
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "d_model": 512,
    "resnet_type": "resnet101",
}
"""modelscope's own (ofa/configuration_ofa.py), where config.json is silent."""
LOADERS = ("plugins", "allow_remote", "trust_remote_code", "requirements")
"""Keys of configuration.json that would make modelscope's loaders install and run what a folder brings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """All that `model show` says; `to_json` has stable names."""

    files: ModelFiles
    record: Mapping[str, Any]
    total_bytes: int
    weights_bytes: int
    parameters: int | None
    precision: str | None
    never_read: tuple[str, ...]
    ignored_keys: tuple[str, ...]

    def architecture(self) -> dict[str, Any]:
        """Sizes of the network, modelscope's defaults included."""
        config = self.files.spec.config
        return {name: config.get(name, default) for name, default in DEFAULTS.items()} | {
            "embedding_rows": self.files.spec.embedding_shape[0],
            "parameters": self.parameters,
        }

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        spec, record = self.files.spec, self.record
        return {
            "model": self.files.name,
            "directory": str(self.files.directory),
            "revision": self.files.revision,
            "fetched": {name: record.get(name) for name in ("id", "asked", "hub", "hub_commit", "fetched_at")}
            if record
            else None,
            "bytes": self.total_bytes,
            "weights": {"file": self.files.weights.name, "bytes": self.weights_bytes, "precision": self.precision},
            "checksums": CHECKSUMS if (self.files.directory / CHECKSUMS).exists() else None,
            "architecture": self.architecture(),
            "gen_type": spec.gen_type,
            "prompt": {"caption": spec.caption_prompt, "premise": spec.premise_prompt},
            "labels": dict(zip(ANSWERS, spec.label_ids, strict=True)),
            "limits": {"words": spec.max_src_length, "tokens": spec.max_src_length, "image_px": spec.patch_image_size},
            "canary_questions": len(self.files.known_answers),
            "never_read": list(self.never_read),
            "ignored_keys": list(self.ignored_keys),
            "engine": self.engine_does(),
        }

    def engine_does(self) -> list[str]:
        """What will happen to each of these facts, a sentence each."""
        spec = self.files.spec
        side, length = spec.patch_image_size, spec.max_src_length
        does = [
            f"scores the labels itself, whatever gen_type says ({spec.gen_type}): one encoder and one decoder pass",
            "softmax of the logits of yes, no and maybe after the question: three probabilities a pair",
            f"asks the caption prompt as the decoder's prefix, cut at {length} words and {length} tokens",
            "asks the premise prompt when a pair has a premise"
            if spec.premise_prompt is not None
            else "refuses a pair with a premise (premise_unsupported): the folder's own prompt has one place",
            f"squashes each picture to {side} x {side} pixels, bicubic, its sides' ratio lost",
            f"judges in AUDIT_PRECISION (fp32 on a CPU, bf16 on CUDA), stored is {self.precision or 'a pickle'}",
        ]
        if self.files.weights.shapes is None:
            does.append(
                "unpickles the weights with weights_only=True; `model fetch` would have made safetensors of them"
            )
        if self.never_read:
            does.append(f"never opens {', '.join(self.never_read[:8])}")
        if self.ignored_keys:
            does.append(f"ignores {', '.join(self.ignored_keys)} of configuration.json: nothing is installed or run")
        if self.files.known_answers:
            does.append(f"must answer {len(self.files.known_answers)} known questions of canary.json before it judges")
        return does


def describe(files: ModelFiles) -> Description:
    """Describe an inspected directory; reads names and sizes alone."""
    directory = files.directory
    configuration = read_json(directory / "configuration.json")
    section = configuration.get("model", {})
    entries = [path for path in directory.iterdir() if path.is_file()]
    used = {*files.sha256, CHECKSUMS, RECORD}
    return Description(
        files=files,
        record=read_record(directory),
        total_bytes=sum(path.stat().st_size for path in entries),
        weights_bytes=(directory / files.weights.name).stat().st_size,
        parameters=parameters(files),
        precision=precision(files.weights),
        never_read=tuple(sorted(_foreign(directory, used))),
        ignored_keys=tuple(name for name in LOADERS if name in configuration or name in section),
    )


def parameters(files: ModelFiles) -> int | None:
    """Learnt numbers, the shared table once; None for a pickled file."""
    shapes = files.weights.shapes
    if shapes is None:
        return None
    shared = files.spec.config.get("share_decoder_input_output_embed", True)
    tables = [name for name in TABLES if name in shapes]
    again = tables[1:] if shared else [name for name in tables[1:] if name == TABLES[1] and tables[0] == TABLES[0]]
    learnt = [name for name in shapes if not name.endswith(NO_PARAMETERS) and name not in again]
    return sum(math.prod(shapes[name]) for name in learnt)


def precision(weights: WeightsFile) -> str | None:
    """How most of the weights are stored: fp32, bf16 ...; None for a pickled file."""
    shapes, dtypes = weights.shapes, weights.dtypes
    if shapes is None or dtypes is None:
        return None
    counts: dict[str, int] = {}
    for name, shape in shapes.items():
        if dtypes[name] in PRECISIONS:
            counts[dtypes[name]] = counts.get(dtypes[name], 0) + math.prod(shape)
    return PRECISIONS[max(counts, key=lambda dtype: counts[dtype])] if counts else None


def _foreign(directory: Path, used: set[str]) -> list[str]:
    """Code, subfolders and whatever else `model fetch` would not have taken."""
    entries = [path for path in directory.iterdir() if path.name not in used and not is_plain_data(path.name)]
    code = [path for path in directory.iterdir() if path.suffix in (".py", ".so", ".pkl", ".sh")]
    return [f"{path.name}/" if path.is_dir() else path.name for path in {*entries, *code}]
