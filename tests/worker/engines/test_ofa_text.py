"""Captions become the very ids that modelscope makes of them, and hostile ones stay text."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import BadCaption, ModelRefused
from worker.engines.model_files import inspect_model
from worker.engines.ofa import OfaEngine, load_ofa
from worker.engines.ofa_imports import import_ofa
from worker.engines.ofa_text import BOS, EOS, Reader, clean

SPECIAL = ("<mask>", "<s>", "</s>", "<pad>", "<unk>", "<bin_3>", "<code_7>", "<bin_999>")


@pytest.fixture(scope="module")
def reader(pristine: Path) -> Reader:
    return Reader(inspect_model(pristine))


@pytest.fixture(scope="module")
def their_tokenizer(pristine: Path) -> Any:
    import_ofa()
    from modelscope.models.multi_modal.ofa.tokenization_ofa import OFATokenizer

    return OFATokenizer.from_pretrained(str(pristine))


def their_ids(tokenizer: Any, question: str) -> list[int]:
    ids: list[int] = tokenizer(question, max_length=80, add_special_tokens=False, truncation=True).input_ids
    return [BOS, *ids, EOS]


def check_same(reader: Reader, tokenizer: Any, caption: str) -> None:
    question = f' does the image describe " {clean(caption, max_words=80)[0]} "?'
    assert list(reader.read(caption, None).ids) == their_ids(tokenizer, question)


@given(caption=st.text(alphabet=st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=120))
def test_ids_are_those_of_modelscopes_tokenizer(reader: Reader, their_tokenizer: Any, caption: str) -> None:
    """One other token is another question."""
    if not any(special in caption.lower() for special in SPECIAL):
        check_same(reader, their_tokenizer, caption)


@pytest.mark.parametrize(
    "caption",
    [
        "two dogs run",
        "a1 a 1 1a",
        "It's 3 o'clock, they're here: we've won; I'd say I'll go; I'm 1,000 (years) old!",
        "caf\u00e9 na\u00efve \u732b \U0001f415\u200d\U0001f9ba",
        "a\u00a0b\u2003c\u3000d \u0085e",
        "\u0660\u0661 \u00bd \u2167 x\u00b2",
        "\u0130stanbul \u1e9e \u01c5",
        "tabs\tand\nlines\n",
        "  many   blanks  ",
    ],
)
def test_ids_agree_on_texts_known_to_be_awkward(reader: Reader, their_tokenizer: Any, caption: str) -> None:
    """Contractions, digits, spaces beyond ASCII, case that grows: where two tokenizers fall apart."""
    check_same(reader, their_tokenizer, caption)


@pytest.mark.parametrize("special", SPECIAL)
def test_control_tokens_inside_a_caption_stay_text(reader: Reader, their_tokenizer: Any, special: str) -> None:
    """A caption must not be able to end the question, hide its own words or point at places of the picture."""
    caption = f"a red {special} circle"
    ids = reader.read(caption, None).ids[1:-1]
    assert not {0, 1, 2, 3, 4} & set(ids)
    assert max(ids) < len(their_tokenizer.get_vocab())
    shown = caption.replace("/", " ")  # the clean-up's doing
    assert their_tokenizer.decode(ids) == f' does the image describe " {shown} "?'


def test_a_lone_surrogate_is_replaced(reader: Reader) -> None:
    """It cannot be encoded: modelscope's tokenizer raises."""
    assert reader.read("a \ud800 dog", None).ids == reader.read("a ? dog", None).ids


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("Two DOGS", "two dogs"),
        (".,!?*#:;~ two dogs", "two dogs"),
        ("well-known and/or", "well known and or"),
        ("a  \t b", "a b"),
        ("two dogs\n", "two dogs"),
        ("-- dogs", "dogs"),
        ("a <person> runs", "a person runs"),
    ],
)
def test_clean_up_is_modelscopes(caption: str, cleaned: str) -> None:
    """The rules of OfaBasePreprocessor.pre_caption; docs/results/parity.md compares on whole questions."""
    assert clean(caption, max_words=80) == (cleaned, False)


def test_cuts_are_flagged(engine: OfaEngine) -> None:
    """A verdict about the first 80 words of a longer caption says so."""
    long = "the circle is red " * 30
    assert engine.text_flags("a red circle", None) == ()
    assert engine.text_flags("a red circle", "two dogs run") == ()
    assert engine.text_flags(long, None) == ("caption_truncated",)
    assert engine.text_flags(long, "two dogs run") == ("caption_truncated",)
    assert engine.text_flags("x" * 300, None) == ("caption_truncated",), "80 tokens, though one word"


def test_a_premise_that_leaves_no_room_for_the_caption_is_refused(engine: OfaEngine) -> None:
    """The pipeline would answer without having read a word of the caption."""
    with pytest.raises(BadCaption, match="premise_too_long"):
        engine.text_flags("a red circle", "two dogs run " * 40)


@pytest.mark.parametrize("caption", ["", "   ", "...", ",.!?*#:;~", "-/-", '"?"', "\u2026 \u201c\u201d", "()[]"])
def test_captions_of_punctuation_alone_are_refused(engine: OfaEngine, caption: str) -> None:
    """The pipeline gives an answer even to the empty caption."""
    with pytest.raises(BadCaption, match="caption_empty"):
        engine.text_flags(caption, None)
    with pytest.raises(BadCaption, match="premise_empty"):
        engine.text_flags("a red circle", caption)


@pytest.mark.parametrize("caption", ["3", "\U0001f415", "\u732b", "\u2192", "a"])
def test_one_sign_is_enough_to_judge(engine: OfaEngine, caption: str) -> None:
    """A digit, an emoji, a Chinese word: the model may not know it, but it is something said."""
    assert engine.text_flags(caption, None) == ()


def test_merges_that_do_not_fit_the_vocabulary_are_refused(model_dir: Path) -> None:
    """vocab.json of one model with merges.txt of another."""
    with (model_dir / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("zzz qqq\n")
    with pytest.raises(ModelRefused, match=r"merges\.txt: it does not fit vocab\.json"):
        load_ofa(inspect_model(model_dir), device="cpu", precision="fp32")
