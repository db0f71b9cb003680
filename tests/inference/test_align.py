import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hfaudio.decoding.align import WILDCARD, AlignmentCosts, WordSpan
from hfaudio.decoding.greedy import Word
from hfaudio.inference.align import (
    AlignedWord,
    Aligner,
    Alignment,
    TextUnit,
    as_labels_write,
    covering,
    text_units,
    timed_labels,
    to_json,
    to_subtitles,
    to_textgrid,
    word_delimiter,
    word_ids,
)
from hfaudio.processing.tokenizer import build_bpe_tokenizer, build_char_tokenizer, ctc_labels

FORCED = AlignmentCosts(1.0, 1.0, math.inf)
ONE_SECOND = Alignment(
    (
        AlignedWord("Hi,", 0.25, 0.5, 0.9, (Word("h", 0.25, 0.3, 0.95), Word("i", 0.4, 0.5, 0.85))),
        AlignedWord("--", math.nan, math.nan, 0.0, ()),
        AlignedWord('"you"', 0.5, 0.75, 0.8, (Word("u", 0.5, 0.75, 0.8),)),
    ),
    1.0,
)


@pytest.mark.parametrize(
    ("text", "normalizer", "expected"),
    [
        ("Hi, you!", "basic", [("Hi,", "hi"), ("you!", "you")]),
        ("a -- b --", "basic", [("a", "a"), ("--", ""), ("b", "b"), ("--", "")]),
        ("well-known cat", "basic", [("well-known", "well known"), ("cat", "cat")]),
        ("a (two words) b", "basic", [("a", "a"), ("(two words)", ""), ("b", "b")]),
        ("cost $5 now", "english", [("cost", "cost"), ("$5", "five dollars"), ("now", "now")]),
        ("a 2 million b", "english", [("a", "a"), ("2", "two"), ("million", "million"), ("b", "b")]),
        ("a $5 million b", "english", [("a", "a"), ("$5 million", "five million dollars"), ("b", "b")]),
        ("$5 (two words) b", "english", [("$5", "five dollars"), ("(two words)", ""), ("b", "b")]),
        ("", "basic", []),
    ],
)
def test_every_word_of_the_text_and_what_it_is_read_as(
    text: str, normalizer: str, expected: list[tuple[str, str]]
) -> None:
    merged = [TextUnit(original, tuple(spoken.split())) for original, spoken in expected]
    assert text_units(text, normalizer) == merged


def test_intervals_cover_the_recording_without_gap_or_overlap() -> None:
    intervals = covering([Word("a", 0.1, 0.2, 1.0), Word("b", 0.2, 0.5, 1.0), Word("c", 1.0, 1.0, 1.0)], 1.0)
    assert intervals == [(0.0, 0.1, ""), (0.1, 0.2, "a"), (0.2, 0.5, "b"), (0.5, 1.0, "")]
    assert covering([], 2.0) == [(0.0, 2.0, "")]


def test_textgrid_has_two_full_tiers_and_doubles_quotes() -> None:
    content = to_textgrid(ONE_SECOND)
    assert content.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n')
    sizes = [int(size) for size in re.findall(r"intervals: size = (\d+)", content)]
    assert sizes == [4, 6]
    for tier, size in zip(content.split("item [")[2:], sizes, strict=True):
        bounds = re.findall(r"xmin = (\S+)\s+xmax = (\S+)", tier)[1:]
        assert len(bounds) == size and bounds[0][0] == "0.000000" and bounds[-1][1] == "1.000000"
        assert all(left[1] == right[0] for left, right in pairwise(bounds))
    assert 'text = """you"""' in content


def test_json_has_null_times_for_what_is_not_spoken() -> None:
    words = json.loads(to_json(ONE_SECOND))["words"]
    assert [word["start"] for word in words] == [0.25, None, 0.5]
    assert [label["text"] for label in words[0]["labels"]] == ["h", "i"]


def test_subtitles_leave_out_what_is_not_spoken() -> None:
    assert to_subtitles(ONE_SECOND) == '1\n00:00:00,250 --> 00:00:01,250\nHi, "you"\n'


def test_words_keep_their_spelling_and_follow_each_other(lstm_folder: Path, noise: np.ndarray) -> None:
    aligner = Aligner(lstm_folder, costs=FORCED, progress=False)
    alignment = aligner({"array": noise, "sampling_rate": 16_000}, "A dog, 7 gods -- SANG!")
    assert [word.text for word in alignment.words] == ["A", "dog,", "7", "gods", "--", "SANG!"]
    assert [word.is_spoken for word in alignment.words] == [True, True, True, True, False, True]
    assert alignment.seconds == pytest.approx(7.3)
    assert [label.text for label in alignment.words[1].labels] == ["d", "o", "g"]
    assert [label.text for label in alignment.words[2].labels] == ["7"]  # the model has no label for it
    spoken = alignment.spoken
    assert all(a.start < a.end <= b.start for a, b in pairwise(spoken))
    assert spoken[-1].end <= 7.3


def test_a_long_recording_is_read_in_chunks_with_the_same_result(
    short_sighted_folders: dict[str, Path], noise: np.ndarray
) -> None:
    source = {"array": noise, "sampling_rate": 16_000}
    whole = Aligner(short_sighted_folders["lstm"], costs=FORCED, progress=False)(source, "a dog sang a song")
    chunked = Aligner(
        short_sighted_folders["lstm"], costs=FORCED, progress=False, chunk_seconds=2.0, stride_seconds=0.4
    )(source, "a dog sang a song")
    for a, b in zip(whole.spoken, chunked.spoken, strict=True):
        assert (a.text, a.start, a.end) == (b.text, b.start, b.end)
        assert a.confidence == pytest.approx(b.confidence, rel=1e-3)


def test_texts_that_cannot_be_spoken(lstm_folder: Path, whisper_folder: Path, noise: np.ndarray) -> None:
    aligner = Aligner(lstm_folder, progress=False)
    source = {"array": noise[:16_000], "sampling_rate": 16_000}
    with pytest.raises(ValueError, match="no word that could be spoken"):
        aligner(source, " -- ")
    with pytest.raises(ValueError, match=r"needs .* frames and the recording has"):
        aligner(source, "dog " * 50)
    with pytest.raises(ValueError, match="needs a CTC model"):
        Aligner(whisper_folder)


def test_pieces_bring_their_space_and_no_label_stands_between_words() -> None:
    tokenizer = build_bpe_tokenizer(["a dog sang a song", "the dogs sing"], 24)
    labels = ctc_labels(tokenizer)
    assert " " in labels and word_delimiter(labels) is None
    assert "".join(labels[i] for i in word_ids("dog", tokenizer, None)) == " dog"
    found = word_ids("gods", tokenizer, None)
    assert labels[found[0]] == " " and "".join(labels[i] for i in found) == " gods"
    assert word_ids("zen", tokenizer, None)[:2] == [labels.index(" "), WILDCARD]
    span = WordSpan(np.array([[i, i + 1] for i in range(len(found))]), np.full(len(found), 0.5))
    timed = timed_labels("gods", found, span, labels, 1.0, 9.0)
    assert "".join(label.text for label in timed) == "gods" and timed[0].start == 1.0


def test_characters_have_a_delimiter_and_capitals_where_the_model_knows_no_others() -> None:
    labels = ctc_labels(build_char_tokenizer(["A DOG SANG"]))
    assert labels[word_delimiter(labels) or 0] == " "
    assert as_labels_write("dog's", labels) == "DOG'S"
    assert as_labels_write("Dog", [*labels, "d"]) == "Dog"
    assert as_labels_write("ab", ["", "\u4f60"]) == "ab"


def test_a_text_in_another_script_is_refused(lstm_folder: Path, noise: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no label for any letter"):
        Aligner(lstm_folder, progress=False)({"array": noise, "sampling_rate": 16_000}, "привет мир")
