"""A tiny random OFA, made on the fly: the architecture of the real one, two layers, its own vocabulary.

Its weights are drawn so large that its answers differ much between questions: near-uniform scores would prove nothing.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer

from audit.verdict import Scores
from worker.engines.base import Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import OfaEngine, load_ofa
from worker.engines.ofa_imports import import_ofa

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = [
    ' does the image describe " a red circle is on the left "?',
    ' can image and text1 " two dogs run " imply text2 " there are birds "?',
    " yes no maybe yes no maybe",
]
CONFIG: dict[str, Any] = {
    "model_type": "ofa",
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "resnet_type": "resnet18",
    "max_position_embeddings": 256,
    "token_bucket_size": 32,
    "image_bucket_size": 8,
    "code_image_size": 64,
    "init_std": 0.3,
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
        "patch_image_size": 64,
        "answer2label": "ans2label.json",
        "valid_batch_size": 3,
        "beam_search": {"beam_size": 3},
    },
    "preprocessor": {"type": "ofa-tasks-preprocessor"},
    "pipeline": {"type": "visual-entailment"},
}
COMPUTED = ("rp_bucket", "image_position_idx")
Edit = Callable[[dict[str, Any]], object]


CAPTIONS = (
    "a red circle",
    "There are TWO dogs - and birds/cats, running on the left!",
    "yes",
    "maybe " * 100,
    "the circle is red " * 12,
    "caf\u00e9 \U0001f415",
    "it's 3 o'clock",
    "x" * 300,
)
PREMISES = (None, "two dogs run", None, None, "there are birds " * 6, None, "a", "NO")


def draw_picture(number: int) -> Image.Image:
    picture = Image.new("RGB", (40 + 37 * number, 200 - 19 * number), (30 * number, 255 - 30 * number, 128))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((5 + number, 9, 35 + 4 * number, 60), fill=(255 - 20 * number, 40 * (number % 5), 12 * number))
    pen.line((0, 0, *picture.size), fill=(255, 255, 255), width=1 + number)
    return picture


def edit_json(path: Path, edit: Edit) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_tiny_ofa(directory: Path) -> None:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS * 5, vocab_size=400, min_frequency=1, special_tokens=SPECIAL)
    tokenizer.save_model(str(directory))
    # A merge across the border of letters and digits, which the splitting into words must keep from ever happening.
    edit_json(directory / "vocab.json", lambda vocabulary: vocabulary.update(a1=len(vocabulary)))
    with (directory / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("a 1\n")
    config = CONFIG | {"vocab_size": tokenizer.get_vocab_size() + 1 + 9192}
    files = {
        "config.json": config,
        "configuration.json": CONFIGURATION,
        "ans2label.json": {"no": 0, "yes": 1, "maybe": 2},
        "tokenizer_config.json": {"tokenizer_class": "OFATokenizer", "model_max_length": 1024},
    }
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value), encoding="utf-8")
    ofa = import_ofa()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = ofa.model(ofa.config(**config))
        for name, tensor in model.state_dict().items():
            # Zero by default, so nothing would notice a wrong distance between words or places.
            if "rel_pos_table" in name:
                tensor.normal_(std=0.5)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.endswith(COMPUTED)}
    save_file(state, directory / "model.safetensors")


def edit_weights(directory: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    edit(state)
    save_file(state, path)


def load(directory: Path) -> OfaEngine:
    return load_ofa(inspect_model(directory), device="cpu", precision="fp32")


def questions_of(pictures: Sequence[Image.Image]) -> list[Question]:
    pairs = zip(pictures, CAPTIONS, PREMISES, strict=True)
    return [Question(image=picture, caption=caption, premise=premise) for picture, caption, premise in pairs]


def apart(left: Sequence[Scores], right: Sequence[Scores]) -> float:
    pairs = zip(left, right, strict=True)
    return max(max(abs(a.p_yes - b.p_yes), abs(a.p_no - b.p_no), abs(a.p_maybe - b.p_maybe)) for a, b in pairs)
