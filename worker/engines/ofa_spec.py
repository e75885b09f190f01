"""What a model directory says about itself: configuration.json, config.json, the labels and the vocabulary.

Every key that changes an answer is either understood here or refused; modelscope's own defaults stand where a key is
missing (preprocessors/ofa/base.py, preprocessors/ofa/visual_entailment.py and ofa/configuration_ofa.py of 1.40).
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import ModelRefused
from worker.engines.label_tokens import single_token

CAPTION_PROMPT = ' does the image describe " {} "?'
PREMISE_PROMPT = ' can image and text1 " {} " imply text2 " {} "?'
ANSWERS = ("yes", "no", "maybe")
ADDED_TOKENS = 8192 + 1000
"""OFA's words for image codes and places: modelscope adds them to every vocabulary, so the embedding has their rows."""
SPECIAL_IDS = {"<s>": 0, "<pad>": 1, "</s>": 2}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
MAX_JSON_BYTES = 1_000_000
MAX_VOCABULARY_BYTES = 20_000_000
POSITIONS = 1024
"""Text positions for which modelscope makes a table of distances, whatever the configuration says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfaSpec:
    """What the engine must know of a model before torch is imported.

    `config` is config.json; `premise_prompt` is None when configuration.json brings a prompt of its own, which can
    only be about a caption; `label_ids` are the token ids of yes, no and maybe, in this order; `gen_type` is kept for
    the log alone: the engine scores the labels itself, in the same way for `traverse` and `generation`.
    """

    config: Mapping[str, Any]
    gen_type: str
    max_src_length: int
    patch_image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    caption_prompt: str
    premise_prompt: str | None
    label_ids: tuple[int, int, int]
    embedding_shape: tuple[int, int]


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a small file; raises ModelRefused naming the file."""
    size = path.stat().st_size
    if size > max_bytes:
        raise ModelRefused("model_config", f"{path}: {size} bytes are more than the {max_bytes} that it may have")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelRefused("model_config", f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelRefused("model_config", f"{path}: not a JSON object")
    return value


def answers_file(configuration: Mapping[str, Any], path: Path) -> str:
    """The name of the file of labels; raises ModelRefused when configuration.json names none, or one elsewhere."""
    name = _section(configuration, path).get("answer2label")
    if not isinstance(name, str) or name != Path(name).name:
        raise ModelRefused(
            "model_config", f"{path}: model.answer2label must name a file in the directory, not {name!r}"
        )
    return name


def read_spec(directory: Path, configuration: Mapping[str, Any]) -> OfaSpec:
    """Understand the directory's texts, or raise ModelRefused naming the file and the reason."""
    path = directory / "configuration.json"
    section = _section(configuration, path)
    _check_kind(configuration, section, _refuser(path))
    caption_prompt, premise_prompt = _prompts(section, _refuser(path))
    imagenet = section.get("imagenet_default_mean_and_std", False)
    size = _count(section, "patch_image_size", 480, 2048, _refuser(path))
    length = _count(section, "max_src_length", 256, POSITIONS - 2, _refuser(path))
    vocabulary = read_json(directory / "vocab.json", max_bytes=MAX_VOCABULARY_BYTES)
    config = read_json(directory / "config.json")
    return OfaSpec(
        config=config,
        gen_type=section.get("gen_type", "generation"),
        max_src_length=length,
        patch_image_size=size,
        mean=(0.485, 0.456, 0.406) if imagenet else (0.5, 0.5, 0.5),
        std=(0.229, 0.224, 0.225) if imagenet else (0.5, 0.5, 0.5),
        caption_prompt=caption_prompt,
        premise_prompt=premise_prompt,
        label_ids=_label_ids(directory, answers_file(configuration, path), vocabulary),
        embedding_shape=_check_config(directory, config, vocabulary, side=math.ceil(size / 16), length=length),
    )


def _section(configuration: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    section = configuration.get("model")
    if not isinstance(section, dict):
        raise ModelRefused("model_config", f"{path}: it has no `model` section")
    return section


def _refuser(path: Path) -> Callable[[str], ModelRefused]:
    return lambda reason: ModelRefused("model_config", f"{path}: {reason}")


def _check_kind(
    configuration: Mapping[str, Any], section: Mapping[str, Any], refused: Callable[[str], ModelRefused]
) -> None:
    if configuration.get("task") != "visual-entailment":
        raise refused(f"task is {configuration.get('task')!r}, not 'visual-entailment'")
    if section.get("type") != "ofa" or section.get("multimodal_type", "default") != "default":
        raise refused(f"model.type is {section.get('type')!r}, not 'ofa' of the default kind")
    if section.get("language", "en") != "en":
        raise refused(f"model.language is {section.get('language')!r}: the engine knows 'en' alone")
    if section.get("gen_type", "generation") not in ("traverse", "generation"):
        raise refused(f"model.gen_type is {section.get('gen_type')!r}, not 'traverse' or 'generation'")
    prompt_type = section.get("prompt_type", "none")
    if prompt_type != "prev_output":
        raise refused(
            f"model.prompt_type is {prompt_type!r}, not 'prev_output': modelscope's own pipeline fails on it, and "
            "the visual entailment models were trained with the question as the decoder's prefix"
        )


def _prompts(section: Mapping[str, Any], refused: Callable[[str], ModelRefused]) -> tuple[str, str | None]:
    """The prompts for a caption alone and for a premise and a caption.

    modelscope fills a prompt of the configuration with (caption) or (premise, caption) alike: with one `{}` a premise
    would silently take the caption's place, so such a model is asked about captions alone.
    """
    prompt = section.get("prompt")
    if prompt is None:
        return CAPTION_PROMPT, PREMISE_PROMPT
    if not isinstance(prompt, str) or prompt.count("{}") != 1 or prompt.count("{") + prompt.count("}") != 2:
        raise refused(f"model.prompt must hold one '{{}}' and no other brace, not {prompt!r}")
    return prompt, None


def _count(
    section: Mapping[str, Any], key: str, default: int, highest: int, refused: Callable[[str], ModelRefused]
) -> int:
    value = section.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
        raise refused(f"{key} is {value!r}, not a whole number from 1 to {highest}")
    return value


def _label_ids(directory: Path, name: str, vocabulary: Mapping[str, Any]) -> tuple[int, int, int]:
    answers = read_json(directory / name)
    if set(answers) != set(ANSWERS):
        shown = ", ".join(sorted(answers)[:5]) or "nothing"
        raise ModelRefused("model_labels", f"{directory / name}: the labels are {shown}; wanted are yes, no and maybe")
    yes, no, maybe = (single_token(directory, answer, vocabulary) for answer in ANSWERS)
    return yes, no, maybe


def _check_config(
    directory: Path, config: Mapping[str, Any], vocabulary: Mapping[str, Any], *, side: int, length: int
) -> tuple[int, int]:
    """The embedding's (rows, columns), after config.json was found to be one that the engine can answer for."""
    refused = _refuser(directory / "config.json")
    if config.get("model_type", "ofa") != "ofa":
        raise refused(f"model_type is {config['model_type']!r}, not 'ofa'")
    if config.get("use_ofasys") or not config.get("use_image_feature", True):
        raise refused("use_ofasys or use_image_feature is set: the engine knows the OFA with a ResNet alone")
    if config.get("resnet_type", "resnet101") not in RESNETS:
        raise refused(f"resnet_type is {config.get('resnet_type')!r}, not one of {', '.join(RESNETS)}")
    for key in ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"):
        _count(config, key, 4, 128, refused)
    for key in ("encoder_ffn_dim", "decoder_ffn_dim"):
        _count(config, key, 2048, 65_536, refused)
    for token, wanted in SPECIAL_IDS.items():
        name = {"<s>": "bos_token_id", "<pad>": "pad_token_id", "</s>": "eos_token_id"}[token]
        if config.get(name, wanted) != wanted or vocabulary.get(token) != wanted:
            raise refused(f"{name} and vocab.json's {token} must be {wanted}")
    if side > _count(config, "image_bucket_size", 42, 256, refused):
        raise refused(f"image_bucket_size is too small for the {side} x {side} places of a picture")
    if length + 2 > _count(config, "max_position_embeddings", 1024, 65_536, refused) + 2:
        raise refused(f"max_position_embeddings is too small for {length} tokens")
    rows = _count(config, "vocab_size", 59_457, 4_000_000, refused)
    known = len(set(vocabulary) | {*SPECIAL_IDS, "<unk>", "<mask>"})
    if rows != known + ADDED_TOKENS:
        raise refused(
            f"vocab_size is {rows}, but vocab.json's {known} tokens and OFA's {ADDED_TOKENS} make another sum"
        )
    return rows, _count(config, "d_model", 512, 16_384, refused)
