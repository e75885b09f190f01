"""A randomly initialised OFA of the full large configuration: 1.9 GB that no hub needs to serve."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer

from worker.engines.ofa_imports import import_ofa
from worker.engines.ofa_spec import ADDED_TOKENS

VOCABULARY = 50_265
CONFIG: dict[str, Any] = {
    "model_type": "ofa",
    "vocab_size": VOCABULARY + ADDED_TOKENS,
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "resnet_type": "resnet152",
    "max_position_embeddings": 1024,
    "token_bucket_size": 256,
    "image_bucket_size": 42,
    # Three times the default: answers then depend on the picture and the caption by more than a rounding error.
    "init_std": 0.06,
}
CONFIGURATION: dict[str, Any] = {
    "framework": "pytorch",
    "task": "visual-entailment",
    "model": {
        "type": "ofa",
        "language": "en",
        "gen_type": "traverse",
        "prompt_type": "prev_output",
        "max_src_length": 80,
        "patch_image_size": 480,
        "answer2label": "ans2label.json",
        "valid_batch_size": 3,
        "beam_search": {"beam_size": 3},
    },
    "preprocessor": {"type": "ofa-tasks-preprocessor"},
    "pipeline": {"type": "visual-entailment"},
}
COMPUTED = ("rp_bucket", "image_position_idx")


def write_large(directory: Path, texts: list[str], *, seed: int) -> int:
    """Write the model directory and return its number of parameters (tied ones once).

    Tables that start at zero and statistics that start at 0 and 1 are drawn too: a forgotten one would not show.
    """
    _write_vocabulary(directory, texts)
    files = {
        "config.json": CONFIG,
        "configuration.json": CONFIGURATION,
        "ans2label.json": {"no": 0, "yes": 1, "maybe": 2},
    }
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value, indent=1), encoding="utf-8")
    ofa = import_ofa()
    torch.manual_seed(seed)
    model = ofa.model(ofa.config(**CONFIG))
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(COMPUTED)}
    for name, value in state.items():
        if "rel_pos_table" in name:
            value.normal_(std=0.5)
        elif name.endswith(("bias", "running_mean")):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    tied = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    # Written under all names: modelscope would leave an omitted one random.
    save_file(
        {name: value.clone() if name in tied else value for name, value in state.items()},
        directory / "model.safetensors",
    )
    return sum(parameter.numel() for parameter in model.parameters())


def _write_vocabulary(directory: Path, texts: list[str]) -> None:
    """A byte-level vocabulary of these texts and the labels, filled up to OFA's size with words that nobody says."""
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        [*texts, " yes no maybe" * 99], vocab_size=5_000, min_frequency=2, special_tokens=special
    )
    tokenizer.save_model(str(directory))
    path = directory / "vocab.json"
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    vocabulary |= {f"\u0120unused{number}": number for number in range(len(vocabulary), VOCABULARY)}
    path.write_text(json.dumps(vocabulary), encoding="utf-8")
