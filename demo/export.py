"""Writing a trained network as a model folder that modelscope loads."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from demo.captions import LABELS
from demo.network import Network
from demo.pool import SIDE
from demo.prompts import MAX_SOURCE, Reader
from worker.engines.model_files import CHECKSUMS

CONFIGURATION: dict[str, Any] = {
    "framework": "pytorch",
    "task": "visual-entailment",
    "model": {
        "type": "ofa",
        "language": "en",
        "gen_type": "traverse",
        "prompt_type": "prev_output",
        "max_src_length": MAX_SOURCE,
        "patch_image_size": SIDE,
        "max_image_size": 512,
        "imagenet_default_mean_and_std": False,
        "answer2label": "ans2label.json",
        "valid_batch_size": len(LABELS),
        "seed": 7,
        "beam_search": {"beam_size": 3, "max_len_b": 16, "min_len": 1, "no_repeat_ngram_size": 0},
    },
    "preprocessor": {"type": "ofa-tasks-preprocessor"},
    "pipeline": {"type": "visual-entailment"},
}
# Tables of positions that the code computes anew when it builds the model: 17 MB that need not be stored.
COMPUTED = ("token_rp_bucket", "image_rp_bucket", "image_position_idx")


def export(network: Network, reader: Reader, *, vocabulary: Path, out: Path) -> None:
    """Write configuration, vocabulary and weights (half precision) to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    # The engine refuses a folder whose checksums are those of an earlier model.
    (out / CHECKSUMS).unlink(missing_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(vocabulary / name, out / name)
    _write(out / "configuration.json", CONFIGURATION)
    _write(out / "config.json", network.config.to_dict() | {"architectures": ["OFAModel"]})
    _write(out / "ans2label.json", {label: index for index, label in enumerate(LABELS)})
    _write(out / "tokenizer_config.json", {"tokenizer_class": "OFATokenizer", "model_max_length": 1024})
    save_file(weights(network, reader), out / "model.safetensors", metadata={"format": "pt"})


def weights(network: Network, reader: Reader) -> dict[str, torch.Tensor]:
    """Return the tensors under modelscope's names; the tied table is there twice.

    modelscope ties the encoder's and the decoder's table by itself; the output projection without a tensor of its own
    would stay random, with a warning alone.
    """
    tensors = {name: value for name, value in network.ofa.state_dict().items() if name.split(".")[-1] not in COMPUTED}
    tensors |= {f"encoder.embed_images.{name}": value for name, value in network.resnet.state_dict().items()}
    tensors |= {f"encoder.image_proj.{name}": value for name, value in network.image_proj.state_dict().items()}
    table = tensors["encoder.embed_tokens.weight"].clone()
    # The rows of the added tokens were never trained: zeros are honest, and compress well.
    table[reader.vocabulary :] = 0
    del tensors["decoder.embed_tokens.weight"]
    tensors["encoder.embed_tokens.weight"] = tensors["decoder.output_projection.weight"] = table
    return {name: _half(value) for name, value in sorted(tensors.items())}


def _half(value: torch.Tensor) -> torch.Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format).half() if value.is_floating_point() else value


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
