"""ModelScope's OFA visual entailment: three probabilities a pair, B pairs in one encoder and one decoder pass.

modelscope's own pipeline judges one pair at a time and returns the winner's probability alone. This engine feeds the
same ids and pixels to the same OFAModel, in batches, and reads the logits of the three labels at the last token of the
question; docs/results/parity.md compares the two.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from audit.errors import AuditError, BadCaption, EngineFault
from audit.verdict import Label, Scores
from telemetry.metrics import meters
from telemetry.traces import here
from worker.engines.base import DeviceMemory, EngineCard, Hardware, Question
from worker.engines.model_files import ModelFiles, check_unchanged
from worker.engines.ofa_device import bytes_of, check_room, fault_of, hardware_of, memory_of, release
from worker.engines.ofa_text import CLEAN_UP, EOS, PAD, Reader, clean, is_blank
from worker.engines.ofa_weights import build_model

Precision = Literal["fp32", "bf16"]
Pixels = NDArray[np.uint8]


class Logits(NamedTuple):
    """Logits of one question's labels, float32."""

    yes: float
    no: float
    maybe: float


def load_ofa(files: ModelFiles, *, device: str, precision: Precision) -> "OfaEngine":
    """Load an inspected model; raises ModelRefused when its files have changed or its weights do not fit.

    Raises DeviceTooSmall, OutOfDeviceMemory or PoisonedProcess when the device does not take it.

    `device` is `cpu` or `cuda` (the process sees one device alone). Call it in the process that judges: a fork after
    torch has run threads hangs in the child.
    """
    check_unchanged(files)
    reader = Reader(files)
    model = build_model(files)
    # Read before the check: a file that was replaced while it was read is found out.
    check_unchanged(files)
    try:
        return OfaEngine(files, reader, model, device=device, precision=precision)
    except RuntimeError as error:
        fault = fault_of(error)
    raise fault


class OfaEngine:
    """Implements worker.engines.base.Engine. judge() is for one thread; prepare() and text_flags() for any."""

    def __init__(self, files: ModelFiles, reader: Reader, model: Any, *, device: str, precision: Precision) -> None:
        spec = files.spec
        self.card = EngineCard(
            engine="ofa",
            model=files.name,
            revision=files.revision,
            precision=precision,
            device=device,
            prompt=f"{CLEAN_UP} {spec.max_src_length} {spec.caption_prompt}|{spec.premise_prompt}",
            preprocessing=f"rgb bicubic {spec.patch_image_size} mean {spec.mean[0]} std {spec.std[0]}",
            parameters=_parameters(model),
        )
        self._files = files
        self._spec = spec
        self._reader = reader
        self._device = torch.device(device)
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        if precision == "fp32" and self._device.type == "cuda":
            # cuDNN rounds convolutions to 10 bits of mantissa by default; "fp32" promises 23.
            torch.backends.cudnn.allow_tf32 = False
        # The decoder then returns what it would project: one position and three columns of 59,457 are wanted.
        projection = model.decoder.output_projection.weight[list(spec.label_ids)].clone()
        model.decoder.output_projection = None
        self._weights_bytes = bytes_of(model, self._dtype)
        check_room(self._weights_bytes, self.memory())
        self.hardware: Hardware = hardware_of(self._device)
        self._model = model.to(self._device, self._dtype)
        # In float32 whatever the rest is: bfloat16 would round a logit near 8 to steps of 1/16, and it costs nothing.
        self._projection = projection.to(self._device, torch.float32)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(spec.mean, device=self._device).view(shape)
        self._std = torch.tensor(spec.std, device=self._device).view(shape)

    def memory(self) -> DeviceMemory | None:
        """Return the device's memory as it is now; None on CPU."""
        return memory_of(self._device, weights_bytes=self._weights_bytes)

    def release_memory(self) -> None:
        """Give what torch has cached back to the device."""
        release(self._device)

    def text_flags(self, caption: str, premise: str | None) -> tuple[str, ...]:
        """Return `caption_truncated`, `premise_truncated` or nothing.

        Raises BadCaption: `caption_empty`, `premise_empty` (nothing but punctuation is left), `premise_too_long` (it
        leaves the model no word of the caption), `premise_unsupported`.
        """
        limit = self._spec.max_src_length
        if is_blank(clean(caption, max_words=limit)[0]):
            raise BadCaption("caption_empty", "nothing but spaces and punctuation, as the model reads it")
        if premise is not None and is_blank(clean(premise, max_words=limit)[0]):
            raise BadCaption(
                "premise_empty", "the premise is nothing but spaces and punctuation, as the model reads it"
            )
        reading = self._reader.read(caption, premise)
        meters().caption_tokens.observe(len(reading.ids) - 2)
        if reading.caption_gone:
            raise BadCaption("premise_too_long", f"the model reads {limit} tokens, and the premise takes them all")
        return reading.flags

    def prepare(self, image: Image.Image) -> Pixels:
        """An RGB picture as (side, side, 3) bytes; its sides are squashed, as modelscope does."""
        side = self._spec.patch_image_size
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))

    def known_answers(self) -> list[tuple[Question, Label]]:
        """Return the questions of the directory's canary.json, with pictures read and prepared."""
        known = []
        for entry in self._files.known_answers:
            with Image.open(self._files.directory / entry.image_file) as picture:
                known.append((Question(image=self.prepare(picture), caption=entry.caption), entry.label))
        return known

    def judge(self, questions: Sequence[Question]) -> list[Scores]:
        """Return one Scores a question, in order; raises EngineFault, OutOfDeviceMemory or PoisonedProcess."""
        return [_scores(logits) for logits in self.logits(questions)]

    def logits(self, questions: Sequence[Question]) -> list[Logits]:
        """Return the labels' logits, one for each question, in order; raises as judge() does."""
        if not questions:
            return []
        fault: AuditError | None = None
        try:
            ids = self._ids(questions)
            rows = self._forward(ids, self._pixels(questions)).tolist()
        except RuntimeError as error:
            fault = fault_of(error)
        if fault is not None:
            # Outside the except block: the error's frames hold the batch's tensors until it is forgotten.
            raise fault
        return [Logits(*row) for row in rows]

    def token_ids(self, question: Question) -> tuple[int, ...]:
        """Return the ids that the decoder's prefix is made of: <s> and the question, without </s>."""
        return self._reader.read(question.caption, question.premise).ids[:-1]

    def _ids(self, questions: Sequence[Question]) -> torch.Tensor:
        """(B, T) ids, padded on the right."""
        rows = [self._reader.read(question.caption, question.premise).ids for question in questions]
        here().tell(tokens=sum(map(len, rows)))
        longest = max(map(len, rows))
        return torch.tensor([row + (PAD,) * (longest - len(row)) for row in rows]).to(self._device)

    def _pixels(self, questions: Sequence[Question]) -> torch.Tensor:
        """(B, 3, side, side), normalised on the device: bytes travel four times faster than floats."""
        images = [
            image if isinstance(image := question.image, np.ndarray) else self.prepare(image) for question in questions
        ]
        pixels = torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2).contiguous()
        return pixels.float().div_(255).sub_(self._mean).div_(self._std).to(self._dtype)

    @torch.inference_mode()
    def _forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3) logits at the last token of each question.

        The decoder's prefix is the question without </s>. In a shorter row it goes on with </s> and padding; the causal
        mask keeps those from the position that is read.
        """
        encoded = self._model.encoder(
            input_ids=ids, patch_images=pixels, patch_masks=torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        )
        prefix = ids[:, :-1]
        hidden = self._model.decoder(
            prefix,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=_key_mask(encoded.padding_mask, self._dtype, prefix.shape[1]),
            src_pos_embed=encoded.position_embedding,
        ).last_hidden_state
        last = ids.eq(EOS).int().argmax(dim=1) - 1
        read = hidden[torch.arange(len(ids), device=ids.device), last].float()
        logits: torch.Tensor = read @ self._projection.T
        return logits


def _parameters(model: Any) -> int:
    """What was learnt; the table that the decoder's projection shares with the encoder counts once."""
    learnt: dict[str, int] = {name: weights.numel() for name, weights in model.named_parameters()}
    return sum(learnt.values()) - learnt.get("decoder.output_projection.weight", 0)


def _key_mask(padding: torch.Tensor, dtype: torch.dtype, queries: int) -> torch.Tensor:
    """(B, 1, queries, keys): 0 for what may be seen, the lowest number for padding."""
    mask = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    mask.masked_fill_(padding, torch.finfo(dtype).min)
    return mask[:, None, None, :].expand(-1, 1, queries, -1)


def _scores(logits: Logits) -> Scores:
    """Softmax in double precision over the three labels."""
    highest = max(logits)
    if not all(map(math.isfinite, logits)):
        raise EngineFault("scores_not_finite", f"the model answered {tuple(logits)}")
    weights = [math.exp(value - highest) for value in logits]
    total = math.fsum(weights)
    yes, no, maybe = (weight / total for weight in weights)
    return Scores(p_yes=yes, p_no=no, p_maybe=maybe)
