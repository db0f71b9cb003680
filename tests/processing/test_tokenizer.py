from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer

from hfaudio.processing.tokenizer import (
    LabelFrames,
    build_bpe_tokenizer,
    build_char_tokenizer,
    check_coverage,
    check_vocabulary,
    ctc_labels,
    frames_needed,
    label_text,
)

TEXTS = ["hello book", "नमस्ते दुनिया", "مرحبا", "你好"]


def test_characters_are_bijective_reproducible_and_blank_is_pad_is_zero() -> None:
    tokenizer = build_char_tokenizer(TEXTS)
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert set("".join(TEXTS)) - {" "} <= set(vocabulary)
    assert vocabulary["<pad>"] == tokenizer.pad_token_id == 0
    assert build_char_tokenizer(reversed(TEXTS)).get_vocab() == vocabulary
    assert "<s>" not in vocabulary and "</s>" not in vocabulary


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_ids_also_after_saving(text: str, tmp_path: Path) -> None:
    for tokenizer in (build_char_tokenizer(TEXTS), build_bpe_tokenizer(TEXTS, 60)):
        tokenizer.save_pretrained(tmp_path)
        for opened in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
            assert label_text(opened(text).input_ids, ctc_labels(opened)) == text
            assert opened.decode(opened(text).input_ids, group_tokens=False) == text


def test_pipeline_decode_of_a_ctc_path_keeps_double_letters() -> None:
    tokenizer = build_char_tokenizer(TEXTS)
    path = [i for label in tokenizer("hello book").input_ids for i in (label, label, 0)]
    assert tokenizer.decode(path) == "hello book"


def test_unknown_characters_are_visible_and_special_tokens_are_silent() -> None:
    labels = ctc_labels(build_char_tokenizer(["ab"]))
    assert label_text(build_char_tokenizer(["ab"])("a zb").input_ids, labels) == "a \ufffdb"
    assert labels[0] == ""


def test_labels_of_a_stock_tokenizer_with_sentence_marks(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5}')
    labels = ctc_labels(Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json")))
    assert labels == ["", "", "", "\ufffd", " ", "A"]


def test_bpe_merges_and_spells_spaces() -> None:
    tokenizer = build_bpe_tokenizer(["low lower lowest"] * 5, 16)
    ids = tokenizer("lower low").input_ids
    assert len(ids) < len("lower low")
    assert label_text(ids, ctc_labels(tokenizer)) == "lower low"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a|b"], "which stands for the space; use --normalizer basic"),
        ([" ", ""], "is the text column the right one"),
        (["e\u0301"], "not in Unicode NFC"),
    ],
)
def test_texts_that_break_the_vocabulary_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_char_tokenizer(texts)


def test_bpe_vocabulary_below_the_alphabet_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size 5 is too small for 4 characters"):
        build_bpe_tokenizer(["abcd"], 5)


def test_an_id_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 3}')
    with pytest.raises(ValueError, match="do not have the ids"):
        check_vocabulary(Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token=None, eos_token=None))


def test_a_kept_vocabulary_of_another_case_is_refused() -> None:
    tokenizer = build_char_tokenizer(["HELLO BOOK"])
    check_coverage(tokenizer, ["BOOK HELLO x"])
    with pytest.raises(ValueError, match=r"100% of the transcripts' characters .*--normalizer none"):
        check_coverage(build_char_tokenizer(["AB"]), ["cdcd"])
    with pytest.raises(ValueError, match=r"unknown to the kept vocabulary \(o"):
        check_coverage(tokenizer, ["hello book"])


def test_frames_needed_counts_a_blank_between_equal_labels() -> None:
    assert [frames_needed(ids) for ids in ([], [1], [1, 2], [1, 1, 1], [1, 1, 2, 2])] == [0, 1, 2, 5, 6]
    assert LabelFrames(build_char_tokenizer(["hello"]))("hello") == 6


def test_label_text_does_not_collapse() -> None:
    assert label_text(np.array([1, 1, 2, 2, 1]), ["", "o", " "]) == "oo o"
