import unicodedata

import pytest

from hfaudio.data.doctor_text import (
    character_name,
    composed_and_decomposed,
    invisible_characters,
    is_broken,
    mixed_script_words,
)

CYRILLIC_A = "\u0430"
JOINER, NON_JOINER = "\u200d", "\u200c"


@pytest.mark.parametrize(
    "text", ["plain words", "\u043f\u0440\u0438\u0432\u0435\u0442 Bob", "T\u30b7\u30e3\u30c4", "na\u00efve"]
)
def test_words_in_one_alphabet_are_not_mixed(text: str) -> None:
    assert mixed_script_words(text) == []


def test_a_look_alike_letter_is_found_in_its_word() -> None:
    assert mixed_script_words(f"to p{CYRILLIC_A}y now") == [f"p{CYRILLIC_A}y"]
    assert mixed_script_words("\u03bfne") == ["\u03bfne"]  # Greek omicron


def test_forms_of_accented_letters() -> None:
    assert composed_and_decomposed("cafe") == (False, False)
    assert composed_and_decomposed("caf\u00e9") == (True, False)
    assert composed_and_decomposed("cafe\u0301") == (False, True)
    assert composed_and_decomposed(unicodedata.normalize("NFD", "\ud55c\uad6d")) == (False, True)  # Korean syllables


def test_invisible_characters_are_named() -> None:
    assert invisible_characters("a\u00adb\u200b") == ["U+00AD SOFT HYPHEN", "U+200B ZERO WIDTH SPACE"]
    assert invisible_characters("a\tb\u00a0c") == ["U+0009", "U+00A0 NO-BREAK SPACE"]
    assert invisible_characters("caf\u00e9, na\u00efve \u2014 \u304b\u306a") == []


def test_joiners_are_spelling_in_persian_and_hindi_only() -> None:
    persian = f"\u0645\u06cc{NON_JOINER}\u0631\u0648\u0645"
    hindi = f"\u0915\u094d{JOINER}\u0937"
    assert invisible_characters(persian) == invisible_characters(hindi) == []
    assert invisible_characters(f"wo{JOINER}rd") == ["U+200D ZERO WIDTH JOINER"]


def test_broken_encodings() -> None:
    word = "caf\u00e9"
    assert is_broken(word.encode("utf-8").decode("cp1252"))
    assert is_broken("caf\ufffd")
    assert not is_broken(word)
    assert not is_broken("\u00bfqu\u00e9?")
    assert not is_broken("\u4e2d\u6587")


def test_control_characters_have_only_a_number() -> None:
    assert character_name("\x00") == "U+0000"
