import json
import random
from itertools import pairwise

import pytest

from hfaudio.decoding.greedy import Word
from hfaudio.inference.subtitles import Segment, segments, to_json, to_srt, to_txt, to_vtt
from hfaudio.inference.transcribe import Transcript


def words(text: str, *, start: float = 0.0, each: float = 0.4) -> list[Word]:
    """Words of `each` seconds, one after the other."""
    return [
        Word(word, start + index * each, start + (index + 1) * each, 0.5) for index, word in enumerate(text.split())
    ]


HELLO = [
    Segment("hello world", 1.0, 2.0, ()),
    Segment("a < b & c > d\nsecond line", 3723.4, 3724.9996, ()),
    Segment("much later", 36_000.0, 360_001.25, ()),
]


def test_srt() -> None:
    assert to_srt(HELLO) == (
        "1\n00:00:01,000 --> 00:00:02,000\nhello world\n"
        "\n2\n01:02:03,400 --> 01:02:05,000\na < b & c > d\nsecond line\n"
        "\n3\n10:00:00,000 --> 100:00:01,250\nmuch later\n"
    )
    assert to_srt([]) == ""


def test_vtt() -> None:
    assert to_vtt(HELLO) == (
        "WEBVTT\n"
        "\n00:00:01.000 --> 00:00:02.000\nhello world\n"
        "\n01:02:03.400 --> 01:02:05.000\na &lt; b &amp; c &gt; d\nsecond line\n"
        "\n10:00:00.000 --> 100:00:01.250\nmuch later\n"
    )
    assert to_vtt([]) == "WEBVTT\n"


def test_txt_and_json() -> None:
    transcript = Transcript("é a", (Word("é", 0.04 * 41, 2.0, 1 / 3), Word("a", 2.0, 2.5, float("nan"))), 2.96337)
    assert to_txt(transcript) == "é a\n"
    assert "é" in to_json(transcript)
    assert json.loads(to_json(transcript)) == {
        "text": "é a",
        "seconds": 2.963,
        "words": [
            {"text": "é", "start": 1.64, "end": 2.0, "confidence": 0.3333},
            {"text": "a", "start": 2.0, "end": 2.5, "confidence": None},
        ],
    }


def test_a_pause_begins_a_segment() -> None:
    first, second = words("one two"), words("three four", start=0.8 + 0.8)
    assert segments([*first, *second]) == [
        Segment("one two", 0.0, 1.0, tuple(first)),  # 0.8 s of words, shown for a second
        Segment("three four", 1.6, 2.6, tuple(second)),
    ]
    joined = segments([*first, *words("three four", start=0.8 + 0.7)])
    assert [segment.text for segment in joined] == ["one two three four"]


def test_a_full_second_only_where_the_next_segment_leaves_it() -> None:
    first, second = words("one", each=0.1), words("two", start=0.95, each=0.1)
    assert [(s.start, s.end) for s in segments([*first, *second])] == [(0.0, 0.95), (0.95, 1.95)]


def test_six_seconds() -> None:
    found = segments(words("a b c d e f g h", each=1.0))
    assert [(segment.text, segment.start, segment.end) for segment in found] == [
        ("a b c d e f", 0.0, 6.0),
        ("g h", 6.0, 8.0),
    ]
    assert [segment.text for segment in segments(words("a b c d", each=1.0), max_seconds=2)] == ["a b", "c d"]


def test_two_lines_of_42_characters() -> None:
    text = "we the people of the united states in order to form a more perfect union establish justice"
    found = segments(words(text, each=0.1))
    assert [segment.text for segment in found] == [
        "we the people of the united states\nin order to form a more perfect union",  # 34 and 37, not 40 and 31
        "establish justice",
    ]
    exact = segments(words(f"{'x' * 42} {'y' * 20} {'z' * 21}", each=0.1))
    assert [segment.text for segment in exact] == [f"{'x' * 42}\n{'y' * 20} {'z' * 21}"]
    one_more = segments(words(f"{'x' * 42} {'y' * 20} {'z' * 22}", each=0.1))
    assert [segment.text for segment in one_more] == [f"{'x' * 42}\n{'y' * 20}", "z" * 22]
    assert segments(words("well-known fact"), line_chars=11)[0].text == "well-known\nfact"


def test_a_word_longer_than_a_line_is_cut_and_its_time_with_it() -> None:
    found = segments([Word("今天天气很好" * 17, 1.0, 11.2, 0.9)])  # 102 characters in 10.2 s
    assert [segment.text for segment in found] == ["今天天气很好" * 7, "今天天气很好" * 7 + "\n" + "今天天气很好" * 3]
    assert [(s.start, s.end) for s in found] == [pytest.approx(times) for times in [(1.0, 5.2), (5.2, 11.2)]]


def test_times_that_go_wrong() -> None:
    stuck = [Word("x" * 40, 5.0, 5.0, 0.5) for _ in range(5)]
    found = segments([Word("before", -0.3, 0.2, 0.5), *stuck])
    assert [(s.start, s.end) for s in found] == [(0.0, 1.0), (5.0, 5.04), (5.04, 5.08), (5.08, 6.08)]
    back = segments([*words("one two", start=10), *words("a pause", start=3)])
    assert [segment.text for segment in back] == ["one two a pause"]
    assert back[0].start == 10


def test_nothing_said() -> None:
    assert segments([]) == []


def test_any_words_become_readable_segments() -> None:
    rng = random.Random(0)
    for _ in range(200):
        spoken, time = [], 0.0
        for _ in range(rng.randrange(1, 60)):
            time += rng.choice([0.0, 0.05, 0.1, 1.0, 3.0])
            length = rng.choice([0.02, 0.2, 0.5, 1.5, 7.0])
            spoken.append(Word("w" * rng.choice([1, 3, 7, 15, 60]), time, time + length, 0.5))
            time += length
        found = segments(spoken)
        shown = "".join(segment.text.replace("\n", "").replace(" ", "") for segment in found)
        assert shown == "".join(word.text for word in spoken)
        assert all(len(line) <= 42 for segment in found for line in segment.text.split("\n"))
        assert all(segment.text.count("\n") <= 1 for segment in found)
        assert all(0 <= segment.start < segment.end for segment in found)
        assert all(segment.end - segment.start <= 6 + 1e-9 for segment in found if len(segment.words) > 1)
        for segment, following in pairwise(found):
            assert segment.end <= following.start
            assert segment.end - segment.start >= min(1, following.start - segment.start) - 1e-9
