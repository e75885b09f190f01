"""The OFA engine: batches equal single questions, nothing is left random, and broken models answer nothing."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from audit.errors import BadCaption, DeviceTooSmall, EngineFault, OutOfDeviceMemory, PoisonedProcess
from audit.verdict import Scores
from tests.worker.engines.tiny_ofa import apart, draw_picture, edit_json, edit_weights, load, questions_of
from worker.engines.base import DeviceMemory, Engine, Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import OfaEngine, load_ofa
from worker.engines.ofa_device import bytes_of, check_room


def test_a_batch_answers_as_its_questions_do_one_by_one(engine: OfaEngine, pictures: Sequence[Image.Image]) -> None:
    """Lengths from 1 to 80 words, with premise and without, share one pass: padding must not reach any answer."""
    questions = questions_of(pictures)
    alone = [engine.judge([question])[0] for question in questions]
    assert apart(engine.judge(questions), alone) < 1e-5
    assert apart(engine.judge(questions[::-1]), alone[::-1]) < 1e-5
    assert apart(alone[:-1], alone[1:]) > 0.1, "the tiny model answers alike: the test proves nothing"


def test_pictures_and_captions_both_count(engine: OfaEngine, pictures: Sequence[Image.Image]) -> None:
    """An engine that swapped or dropped an input would still give probabilities."""
    question = Question(image=pictures[0], caption="a red circle")
    base = engine.judge([question])
    for other in (
        Question(image=pictures[5], caption="a red circle"),
        Question(image=pictures[0], caption="two dogs run"),
        Question(image=pictures[0], caption="a red circle", premise="two dogs run"),
    ):
        assert apart(engine.judge([other]), base) > 1e-3
    swapped = Question(image=pictures[0], caption="two dogs run", premise="a red circle")
    premised = Question(image=pictures[0], caption="a red circle", premise="two dogs run")
    assert apart(engine.judge([swapped]), engine.judge([premised])) > 1e-3


def test_prepared_pictures_answer_like_raw_ones(engine: OfaEngine, pictures: Sequence[Image.Image]) -> None:
    """Threads prepare pictures ahead; it must not matter."""
    raw = questions_of(pictures)
    prepared = [Question(image=engine.prepare(q.image), caption=q.caption, premise=q.premise) for q in raw]
    assert engine.judge(prepared) == engine.judge(raw)
    assert (prepared[0].image.shape, prepared[0].image.dtype) == ((64, 64, 3), np.uint8)


def test_no_questions_no_answers(engine: OfaEngine) -> None:
    """A chunk whose pictures are all broken asks nothing."""
    assert engine.judge([]) == []


def test_the_engine_is_an_engine(engine: OfaEngine) -> None:
    """The protocol is checked by mypy here, and the card goes into the cache's key."""
    as_protocol: Engine = engine
    assert (as_protocol.card.engine, as_protocol.card.precision, as_protocol.card.device) == ("ofa", "fp32", "cpu")


def test_bfloat16_gives_about_the_same(engine: OfaEngine, pristine: Path, pictures: Sequence[Image.Image]) -> None:
    """GPUs judge in bfloat16; probabilities stay probabilities, near those of float32."""
    halved = load_ofa(inspect_model(pristine), device="cpu", precision="bf16")
    questions = questions_of(pictures)
    assert apart(halved.judge(questions), engine.judge(questions)) < 0.25
    assert halved.card.precision == "bf16"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_give_a_fault_and_no_label(
    model_dir: Path, pictures: Sequence[Image.Image], value: float
) -> None:
    """NaN compares as neither larger nor smaller: an argmax over it would be a verdict."""
    edit_weights(model_dir, lambda state: state["encoder.layers.0.fc1.weight"].fill_(value))
    with pytest.raises(EngineFault, match="scores_not_finite"):
        load(model_dir).judge(questions_of(pictures))


def test_what_torch_raises_gets_a_name(engine: OfaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is tried again in smaller batches; a CUDA error ends the process; the rest is a fault of the engine."""
    question = Question(image=draw_picture(1), caption="a red circle")
    for error, family in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfDeviceMemory),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), OutOfDeviceMemory),
        (torch.AcceleratorError("CUDA error: out of memory"), OutOfDeviceMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfDeviceMemory),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), PoisonedProcess),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfDeviceMemory),
        (RuntimeError("CUDA error: device-side assert triggered\nmore"), PoisonedProcess),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), PoisonedProcess),
        (RuntimeError("shapes do not fit"), EngineFault),
    ):

        def fail(*_arguments: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(engine, "_forward", fail)
        with pytest.raises(EngineFault) as fault:
            engine.judge([question])
        assert type(fault.value) is family
        assert fault.value.__context__ is None, "the error's frames would keep the batch's tensors alive"


@pytest.mark.parametrize(("free_gb", "fits"), [(2.6, True), (2.3, False)])
def test_a_model_is_weighed_before_it_is_copied(free_gb: float, fits: bool) -> None:
    """2 GB of weights and half a GB to work in: the line names both sides, so that the cure can be chosen."""
    memory = DeviceMemory(
        total_bytes=8 * 10**9, free_bytes=int(free_gb * 1e9), weights_bytes=0, reserved_bytes=0, peak_bytes=0
    )
    if fits:
        check_room(2 * 10**9, memory)
        return
    with pytest.raises(DeviceTooSmall, match=r"needs about 2\.5 GB, and the device has 2\.3 of 8\.0 GB free"):
        check_room(2 * 10**9, memory)


def test_half_the_bytes_in_bfloat16(engine: OfaEngine) -> None:
    """What a model needs is counted from its tensors, tied ones once."""
    fp32 = bytes_of(engine._model, torch.float32)
    assert fp32 == sum(tensor.numel() * tensor.element_size() for tensor in engine._model.state_dict().values()) - (
        engine._model.encoder.embed_tokens.weight.numel() * 4
    )
    assert 0.45 < bytes_of(engine._model, torch.bfloat16) / fp32 < 0.75


def test_a_prompt_of_the_models_own_is_used_for_captions_alone(model_dir: Path, engine: OfaEngine) -> None:
    """With one place in the prompt, modelscope would silently put the premise where the caption belongs."""
    edit_json(model_dir / "configuration.json", lambda c: c["model"].update(prompt=' is it true that " {} "?'))
    other = load(model_dir)
    question = Question(image=draw_picture(1), caption="a red circle")
    assert apart(other.judge([question]), engine.judge([question])) > 1e-3
    with pytest.raises(BadCaption, match="premise_unsupported"):
        other.text_flags("a red circle", "two dogs run")


@given(
    caption=st.text(max_size=200) | st.text(alphabet="<>maskpdbin_3 /s\"'?.-", max_size=60),
    premise=st.none() | st.text(max_size=60),
)
def test_any_text_gets_probabilities_or_a_reason(engine: OfaEngine, caption: str, premise: str | None) -> None:
    """No caption may crash a worker: Scores checks by itself that it is finite and sums to 1."""
    try:
        flags = engine.text_flags(caption, premise)
    except BadCaption as refused:
        codes = {"caption_empty", "premise_empty", "premise_too_long"}
        assert refused.code in codes  # noqa: PT017 - a refusal is one of two good ends
        return
    assert set(flags) <= {"caption_truncated", "premise_truncated"}
    (scores,) = engine.judge([Question(image=np.zeros((64, 64, 3), np.uint8), caption=caption, premise=premise)])
    assert isinstance(scores, Scores)


def test_pixels_are_those_of_modelscopes_transform(engine: OfaEngine) -> None:
    """Bytes to -1..1, channels first, red before green; the parity run compares real pictures' answers."""
    picture = Image.new("RGB", (50, 70), (255, 0, 51))
    pixels = engine._pixels([Question(image=picture, caption="a"), Question(image=picture, caption="b")])
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.dtype == torch.float32
    expected = torch.tensor([1.0, -1.0, -0.6]).view(1, 3, 1, 1).expand(2, 3, 64, 64)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-7)
