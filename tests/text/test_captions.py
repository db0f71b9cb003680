"""Captions: never a wrong word, all forms drawn, nothing left out of those that are evaluated."""

import random
from collections import Counter

import pytest

from hfaudio.text.captions import CaptionArguments, Captions, caption_texts, facts_of_row
from hfaudio.text.prompts import MOODS, TEMPOS

ROW = {
    "text": "sad flute tune in three four time",
    "instrument": "flute",
    "tempo": "slow",
    "bpm": 72,
    "mood": "sad",
    "key": "d minor",
    "metre": "three four",
    "form": "waltz",
}
FACTS = ("instrument", "tempo", "mood", "key", "metre", "form")


def test_prompts_say_what_the_facts_are_in_any_words() -> None:
    captions = Captions("prompts", FACTS)
    rng = random.Random(0)
    drawn = {captions(ROW, rng) for _ in range(400)}
    assert len(drawn) > 60
    words = set(" ".join(drawn).split())
    assert words >= {"flute", *TEMPOS["slow"], *MOODS["minor"], "waltz"}
    assert not words & {"fast", "medium", "happy", "major", "piano", "march", "72"}


def test_fields_are_left_out_by_their_share_and_the_text_stays_whole() -> None:
    captions = Captions("fields", ("key", "bpm"), field_dropout=0.25)
    rng = random.Random(0)
    counts = Counter(part for _ in range(4000) for part in captions(ROW, rng).split(", "))
    assert set(counts) == {ROW["text"], "key: d minor", "bpm: 72"}
    for part in counts:  # 0.75, and a third of the 1.6 % in which nothing would be left
        assert counts[part] / 4000 == pytest.approx(0.755, abs=0.02)


def test_a_missing_field_is_not_named() -> None:
    captions = Captions("fields", ("key", "genre"), field_dropout=0.0)
    drawn = captions({"text": "", "key": "d minor", "genre": None}, random.Random(0))
    assert drawn == "key: d minor"


def test_guidance_dropout_is_drawn_clip_by_clip() -> None:
    captions = Captions(guidance_dropout=0.2)
    rng = random.Random(0)
    empty = [captions(ROW, rng) == "" for _ in range(5000)]
    assert sum(empty) / 5000 == pytest.approx(0.2, abs=0.02)
    assert {captions(ROW, rng) for _ in range(50)} == {"", ROW["text"]}


def test_word_dropout_leaves_one_word_at_least() -> None:
    captions = Captions(word_dropout=0.9)
    drawn = [captions({"text": "a b c"}, random.Random(seed)) for seed in range(200)]
    assert {len(text.split()) for text in drawn} == {1, 2} | {len(text.split()) for text in drawn} - {0}
    assert all(drawn)


def test_captions_without_dropout_are_the_column() -> None:
    assert Captions()(ROW, random.Random(0)) == ROW["text"]


def test_texts_for_a_vocabulary_hold_every_word_of_the_language() -> None:
    words = set(" ".join(caption_texts(Captions("prompts", FACTS), [], 10)).split())
    assert words >= {"sharp", "marimba", "waltz", "something", *TEMPOS["fast"], *TEMPOS["medium"], *MOODS["major"]}


def test_texts_for_a_vocabulary_leave_nothing_out() -> None:
    captions = Captions("fields", ("key",), guidance_dropout=0.9, field_dropout=0.9)
    texts = caption_texts(captions, [ROW] * 3, 2)
    assert [set(text.split(", ")) for text in texts] == [{ROW["text"], "key: d minor"}] * 2


def test_words_of_a_row_that_has_no_facts_but_few() -> None:
    facts = facts_of_row({"instrument": "piano", "key": "c major", "tempo": "fast"}, random.Random(0))
    assert facts.tempo in TEMPOS["fast"]
    assert facts.mood == ""


@pytest.mark.parametrize(
    ("options", "columns", "message"),
    [
        ({"caption_style": "poem"}, None, "--caption_style must be one of text, prompts, fields; got 'poem'"),
        ({"guidance_dropout": 1.0}, None, "--guidance_dropout is a share of at least 0 and below 1; got 1"),
        ({"caption_style": "prompts"}, ["bpm"], "needs some of the --fact_columns instrument, tempo"),
        ({"caption_style": "fields"}, None, "needs --fact_columns, such as genre bpm key"),
    ],
)
def test_options_that_cannot_work(options: dict, columns: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Captions.of(CaptionArguments(**options), columns)
