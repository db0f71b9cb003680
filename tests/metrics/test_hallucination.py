import zlib

import pytest
from scipy.stats import binomtest

from hfaudio.metrics.hallucination import HallucinationTally, compression_ratio, is_loop, repeated_ngram
from hfaudio.metrics.results import share


def test_compression_ratio_is_that_of_whisper():
    text = "thank you thank you thank you"
    assert compression_ratio(text) == len(text) / len(zlib.compress(text.encode()))
    assert compression_ratio("") == 0
    assert compression_ratio("no" * 200) > 10


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the end the end the end the end", "the end"),
        ("well no no no no then", "no"),
        ("no no no", None),
        ("a b c a b c a b c", None),
        ("hahahaha", "ha"),
        ("謝謝大家謝謝大家謝謝大家謝謝大家", "謝謝大家"),
        ("aaaaaaa", None),
        ("a" * 15, None),  # though "aa" comes seven times
        ("a" * 16, "a"),
        ("100000000", None),
        ("one two three four five six seven", None),
        ("", None),
    ],
)
def test_the_shortest_ngram_that_comes_again_and_again(text, found):
    assert repeated_ngram(text) == found
    assert is_loop(text) == (found is not None)


def test_a_long_loop_of_long_sentences_shows_by_its_compression():
    sentence = "this sentence has more than ten words in it so that no n gram finds it "
    assert repeated_ngram(sentence * 4) is None
    assert is_loop(sentence * 4)
    assert not is_loop(sentence)


def test_what_is_counted():
    tally = HallucinationTally()
    tally.add("good morning", "good morning")
    tally.add("good morning", "good good good good good morning")  # loop
    tally.add("no no no no", "no no no no")  # said so
    tally.add("hello", "")
    tally.add("", "thank you")
    tally.add("", "thank you for watching and see you next time")  # 9 words for none
    counts = {name: found.count for name, found in tally.shares().items()}
    assert counts == {"loops": 1, "run_on": 1, "empty": 1}
    assert all(found.n == 6 for found in tally.shares().values())


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (77, 1240)])
def test_intervals_of_shares_are_wilsons(count, n):
    found, expected = share(count, n), binomtest(count, n).proportion_ci(method="wilson")
    assert (found.value, found.n, found.count) == (count / n, n, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("count", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_shares_of_nothing(count, n):
    with pytest.raises(ValueError, match=f"got {count} of {n}"):
        share(count, n)
