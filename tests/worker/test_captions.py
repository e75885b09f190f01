"""Captions of unknown origin: what the model is given, what is refused, and how text is shown."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.errors import BadCaption
from worker.captions import CAPTION_CODES, CAPTION_FLAGS, CleanText, clean_premise, clean_text, show


def outcome(text: str, max_chars: int = 4_000) -> CleanText | str:
    """The clean text, or the code of the failure."""
    try:
        return clean_text(text, field="caption", max_chars=max_chars)
    except BadCaption as error:
        return error.code


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\t \r\n", "\u200b", "\u200b\u200c\u200d\ufeff", "\u00a0\u2003\u3000", "\u202e\u202c", "\u00ad",
     "\x07\x1b",
     "\u0301", "\ufe0f\ufe0f", "\U000e0100", "\u3164", "\u115f\u1160\uffa0", "\u2800\u2800", "\u034f", "\u2060",
     "\u180e",
     "\U000e0041\U000e007f", "\ufff9\ufffb", "\ufffe", "\u20dd", "\u17b4", "\u2028\u2029", "\x1f", "\u200d \u0301"],
)  # fmt: skip
def test_a_caption_with_nothing_to_read_is_empty(text: str) -> None:
    """The model would answer all the same, and the answer would mean nothing."""
    assert outcome(text) == "caption_empty"


@pytest.mark.parametrize("text", ["\ud800", "a \udfff b", "caf\udce9", "a\0b", "\0", "\ude00\ud83d"])
def test_text_that_is_not_unicode_is_refused(text: str) -> None:
    """PostgreSQL cannot hold it and the tokenizer would raise."""
    assert outcome(text) == "caption_encoding"


def test_the_limit_counts_characters_as_given() -> None:
    """Otherwise a gigabyte of zero-width characters would pass as short."""
    assert outcome("a" * 4_001) == outcome("a" + "\u200b" * 4_000) == "caption_too_long"
    assert outcome("\U0001f600" * 4_000) == CleanText(text="\U0001f600" * 4_000, flags=())
    assert outcome("abc", max_chars=2) == "caption_too_long"


@pytest.mark.parametrize(
    "text",
    ["a red car", "'; DROP TABLE pairs; --", "<script>alert(1)</script>", "{0.__class__}", "%s %n ${x}", "=CMD()", "+1",
     "-1", "@x", '"quoted"', "caf\u00e9", "cafe\u0301", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "?",
     "\u2764\ufe0f", "  padded  ", "na\u00efve \u2013 \u201cquoted\u201d", "H\u2082O", "\U0001f1e9\U0001f1ea",
     "\\x1b", "a\u00a0b",
     "\U0001d4d0\U0001d4d1", "\ufb01n", "<mask>", "NaN", "null", "\ufffd"],
)  # fmt: skip
def test_ordinary_and_odd_but_readable_text_is_left_alone(text: str) -> None:
    """Not normalised, not trimmed, not escaped: what is not dangerous to the model is the user's own business."""
    assert outcome(text) == CleanText(text=text, flags=())


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\u202eb", "ab"),
        ("a \u2066red\u2069 car", "a red car"),
        ("c\u200bat", "cat"),
        ("\ufeffa cat", "a cat"),
        ("soft\u00adware", "software"),
        ("a\x07cat", "a cat"),
        ("\x1b[31mred\x1b[0m", " [31mred [0m"),
        ("a\x7fb\x9fc", "a b c"),
        ("a\u200db", "ab"),
        ("\u200da", "a"),
        ("a\ufdd0b\U0001ffff", "ab"),
        ("a\U000e0041", "a"),
        ("\U0001f600\u200d\u200d\U0001f600", "\U0001f600\U0001f600"),
    ],
)
def test_what_only_terminals_and_layouts_obey_is_cleaned_and_flagged(text: str, cleaned: str) -> None:
    """Two captions that look the same must reach the model as the same words."""
    assert outcome(text) == CleanText(text=cleaned, flags=("caption_cleaned",))


def test_line_breaks_become_spaces_without_a_flag() -> None:
    """White space is no content, and half of all scraped captions have a line break."""
    assert outcome("a\tred\r\ncar\u2028here\x85") == CleanText(text="a red  car here ", flags=())


def test_joiners_inside_words_of_other_scripts_stay() -> None:
    """Persian and Hindi need them to be spelt right."""
    for text in ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0915\u094d\u200d\u0937"):
        assert outcome(text) == CleanText(text=text, flags=("language_unsupported",))


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("\u4e00\u53ea\u732b", True),
        ("\u043a\u043e\u0448\u043a\u0430", True),
        ("\u0642\u0637\u0629", True),
        ("\uace0\uc591\uc774", True),
        ("\u3ad3 a", False),
        ("un gato rojo en la mesa", False),
        ("Stra\u00dfe, \u0130stanbul, Vi\u1ec7t", False),
        ("a cat named \u041c\u0443\u0440\u043a\u0430", False),
        ("1234 !?", False),
        ("\U0001f600\U0001f600", False),
        ("\uff21\uff22 \u00aa", False),
        ("\u212b \u2102", False),
    ],
)
def test_mostly_non_latin_letters_are_flagged(text: str, foreign: bool) -> None:
    """An English model answers to Chinese as to noise; the rule sees scripts, so Spanish is not noticed."""
    assert outcome(text) == CleanText(text=text, flags=("language_unsupported",) if foreign else ())


def test_a_premise_is_optional_and_otherwise_held_to_the_same_rules() -> None:
    """Its failures and flags say that it is the premise."""
    assert [clean_premise(text, max_chars=9) for text in (None, "", " \n\u3000")] == [None, None, None]
    assert clean_premise("a\u200bb", max_chars=9) == CleanText(text="ab", flags=("premise_cleaned",))
    assert clean_premise("\u732b", max_chars=9) == CleanText(text="\u732b", flags=("premise_language_unsupported",))
    for text, code in (("\u200b", "caption_empty"), ("\0", "caption_encoding"), ("a" * 10, "caption_too_long")):
        with pytest.raises(BadCaption, match="the premise") as caught:
            clean_premise(text, max_chars=9)
        assert caught.value.code == code


def test_messages_about_text_are_safe_to_show() -> None:
    """The message is printed in terminals and stored in databases, as the text itself could not be."""
    for text in ("\x1b[2J\0", "\u202e\ud800", "\u200b"):
        with pytest.raises(BadCaption) as caught:
            clean_text(text, max_chars=99)
        assert caught.value.detail.isprintable()
        caught.value.detail.encode()


@given(st.text(max_size=80) | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Mn", "Zs", "Lo"]), max_size=20))
@example("\u0600")
def test_any_text_is_clean_or_refused_with_a_code(text: str) -> None:
    """What passes can be encoded, tokenised and stored, and cleaning it again changes nothing."""
    found = outcome(text)
    if isinstance(found, str):
        assert found in CAPTION_CODES
        return
    assert set(found.flags) <= CAPTION_FLAGS
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in found.text)
    found.text.encode()
    again = outcome(found.text)
    assert isinstance(again, CleanText)
    assert again.text == found.text


@given(text=st.text(max_size=200), limit=st.integers(1, 100))
@example(text="\U000e0041" * 9, limit=10)
def test_shown_text_is_one_short_printable_line(text: str, limit: int) -> None:
    """In a table a name that is three lines long hides its neighbours."""
    shown = show(text, limit)
    assert len(shown) <= limit
    assert "\n" not in shown
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    if len(text) <= limit and text.isascii() and text.isprintable():
        assert shown == text


def test_shown_names_keep_both_ends() -> None:
    """The folder and the extension are what people look for."""
    assert show("folder/" + "x" * 300 + ".jpg", 30) == "folder/xxxxxxxxxxxxx…xxxxx.jpg"
    assert show("caf\udce9 \x1b \u202e \U000e0041", 99) == "caf\\xe9 \\x1b \\u202e \\U000e0041"
