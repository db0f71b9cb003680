import tracemalloc

import jiwer
import numpy as np
import pytest

from hfaudio.metrics.error_rate import (
    ErrorCounts,
    ErrorTally,
    Measure,
    char_error_rate,
    correct_words,
    count_char_errors,
    count_word_errors,
    match_error_rate,
    paired_bootstrap,
    word_error_rate,
)


def random_texts(rng: np.random.Generator, n: int) -> list[str]:
    """Texts of 1 to 8 words over a few short words, so that pairs share some."""
    words = ["a", "ab", "ba", "cat", "\u0915\u093e", "\u4f60\u597d", "don't"]
    return [" ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(n)]


def corrupted(rng: np.random.Generator, references: list[str], rates: np.ndarray) -> list[str]:
    """Each word replaced with the probability of its utterance."""
    return [
        " ".join("x" if rng.random() < rate else word for word in reference.split())
        for reference, rate in zip(references, rates, strict=True)
    ]


def test_a_hand_written_alignment() -> None:
    #                         the cat sat on the mat
    #                         the big cat sit on mat        1 insertion, 1 substitution, 1 deletion
    counts = count_word_errors("the cat sat on the mat", "the big cat sit on mat")
    assert counts == ErrorCounts(hits=4, substitutions=1, deletions=1, insertions=1)
    assert (counts.errors, counts.reference_length) == (3, 6)
    assert counts.rate == 0.5
    assert counts.mer == 3 / 7
    assert count_char_errors("hello", "helo") == ErrorCounts(hits=4, deletions=1)


def test_counts_equal_jiwer_on_random_texts() -> None:
    rng = np.random.default_rng(0)
    for reference, hypothesis in zip(random_texts(rng, 2000), random_texts(rng, 2000), strict=True):
        words = jiwer.process_words(reference, hypothesis)
        counts = count_word_errors(reference, hypothesis)
        assert counts == ErrorCounts(words.hits, words.substitutions, words.deletions, words.insertions)
        assert counts.rate == words.wer
        assert counts.mer == words.mer
        chars = jiwer.process_characters(reference, hypothesis)
        counts = count_char_errors(reference, hypothesis)
        assert counts == ErrorCounts(chars.hits, chars.substitutions, chars.deletions, chars.insertions)
        assert counts.rate == chars.cer


def test_corpus_rates_equal_jiwer() -> None:
    rng = np.random.default_rng(1)
    references, hypotheses = random_texts(rng, 300), random_texts(rng, 300)
    hypotheses[7] = ""
    assert word_error_rate(references, hypotheses).value == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    assert char_error_rate(references, hypotheses).value == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)
    assert match_error_rate(references, hypotheses).value == pytest.approx(
        jiwer.mer(references, hypotheses), abs=1e-12
    )


def test_empty_sides() -> None:
    for count in (count_word_errors, count_char_errors):
        assert count("", "") == count(" ", "\t") == ErrorCounts()
        assert count("", "a") == ErrorCounts(insertions=1)
        assert count("a", "") == ErrorCounts(deletions=1)
    assert count_word_errors("", "two words") == ErrorCounts(insertions=2)
    assert ErrorCounts().rate == ErrorCounts().mer == 0
    assert ErrorCounts(insertions=2).rate == 2  # jiwer's convention
    assert ErrorCounts(insertions=2).mer == 1
    # in a corpus, the insertions are errors on the words of the others
    assert word_error_rate(["", "one two three four"], ["noise", "one two three four"]).value == 0.25
    assert word_error_rate(["", ""], ["a b", "c"]).value == 3


def test_any_white_space_separates_words() -> None:
    assert count_word_errors("a\tb\nc", " a  b\u00a0c ") == ErrorCounts(hits=3)


def test_zero_utterances_and_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="zero utterances"):
        word_error_rate([], [])
    with pytest.raises(ValueError, match="2 references and 1 hypotheses"):
        word_error_rate(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="2 references and 1 groups"):
        word_error_rate(["a", "b"], ["a", "b"], groups=["x"])
    with pytest.raises(ValueError, match="'wil'; choose wer, cer or mer"):
        tally = ErrorTally()
        tally.add("a", "b")
        tally.rate("wil")  # type: ignore[arg-type]


def test_one_utterance_and_one_group() -> None:
    alone = word_error_rate(["a b"], ["a c"])
    assert (alone.value, alone.low, alone.high, alone.n) == (0.5, 0.5, 0.5, 1)
    # a single speaker cannot be resampled: the interval is that over the utterances
    references, hypotheses = ["a b"] * 20, ["a b", "a c"] * 10
    ungrouped = word_error_rate(references, hypotheses)
    assert ungrouped.low < ungrouped.value < ungrouped.high
    assert word_error_rate(references, hypotheses, groups=["one"] * 20) == ungrouped


def test_interval_agrees_with_the_normal_approximation() -> None:
    """Utterances of 10 words: the rate is a mean of independent utterance rates, known to be nearly normal."""
    rng = np.random.default_rng(2)
    references = [" ".join(["word"] * 10)] * 400
    hypotheses = corrupted(rng, references, np.full(400, 0.2))
    rates = [count_word_errors(r, h).rate for r, h in zip(references, hypotheses, strict=True)]
    half_width = 1.96 * np.std(rates) / np.sqrt(len(rates))
    found = word_error_rate(references, hypotheses, num_resamples=4000)
    assert found.low == pytest.approx(found.value - half_width, abs=0.1 * half_width)
    assert found.high == pytest.approx(found.value + half_width, abs=0.1 * half_width)


def simulated_coverage(by_group: bool) -> float:
    """Share of 100 simulated test sets, 20 speakers of unlike difficulty, whose interval holds the true rate 0.3."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        tally = ErrorTally()
        for speaker, rate in enumerate(rng.beta(3, 7, size=20)):  # mean 0.3
            for errors in rng.binomial(5, rate, size=8):
                reference = ["word"] * 5
                hypothesis = ["x"] * errors + ["word"] * (5 - errors)
                tally.add(" ".join(reference), " ".join(hypothesis), str(speaker) if by_group else None)
        found = tally.rate("wer", num_resamples=300)
        covered += found.low <= 0.3 <= found.high
    return covered / 100


def test_interval_covers_when_groups_are_given() -> None:
    # 95 % nominal; 20 clusters are few, so a percentile interval is a little short
    assert simulated_coverage(by_group=True) > 0.88
    # the same errors taken as independent utterances pretend to know more than they do
    assert simulated_coverage(by_group=False) < 0.8


def test_groups_widen_the_interval_of_clustered_errors() -> None:
    rng = np.random.default_rng(4)
    references = ["one two three four five"] * 200
    speakers = [f"speaker {index // 20}" for index in range(200)]
    hypotheses = corrupted(rng, references, np.repeat(np.linspace(0, 0.6, 10), 20))
    plain, grouped = (
        word_error_rate(references, hypotheses),
        word_error_rate(references, hypotheses, groups=speakers),
    )
    assert grouped.value == plain.value
    assert grouped.high - grouped.low > 1.5 * (plain.high - plain.low)


def test_seed_decides_the_interval() -> None:
    rng = np.random.default_rng(5)
    references = random_texts(rng, 50)
    hypotheses = corrupted(rng, references, np.full(50, 0.3))
    assert word_error_rate(references, hypotheses, seed=1) == word_error_rate(references, hypotheses, seed=1)
    assert word_error_rate(references, hypotheses, seed=1).low != word_error_rate(references, hypotheses, seed=2).low


@pytest.mark.parametrize("measure", ["wer", "cer", "mer"])
def test_tally_is_the_same_as_the_functions_and_its_groups_add_up(measure: Measure) -> None:
    rng = np.random.default_rng(6)
    references, hypotheses = random_texts(rng, 60), random_texts(rng, 60)
    speakers = [f"s{index % 3}" for index in range(60)]
    tally = ErrorTally()
    for reference, hypothesis, speaker in zip(references, hypotheses, speakers, strict=True):
        tally.add(reference, hypothesis, speaker)
    score = {"wer": word_error_rate, "cer": char_error_rate, "mer": match_error_rate}[measure]
    assert tally.rate(measure, seed=3) == score(references, hypotheses, groups=speakers, seed=3)
    groups = tally.by_group(measure)
    assert list(groups) == ["s0", "s1", "s2"]
    assert sum((rate.counts for rate in groups.values()), ErrorCounts()) == tally.rate(measure).counts
    assert sum(rate.n for rate in groups.values()) == len(tally) == 60
    assert groups["s1"] == score(references[1::3], hypotheses[1::3])


def test_groups_for_all_or_none() -> None:
    tally = ErrorTally()
    tally.add("a", "b")
    with pytest.raises(ValueError, match="give a group with every utterance or with none"):
        tally.add("a", "b", "speaker")
    with pytest.raises(ValueError, match="without groups"):
        tally.by_group("wer")
    tally = ErrorTally()
    tally.add("a", "b", "speaker")
    with pytest.raises(ValueError, match="got group None"):
        tally.add("a", "b")


def test_worst_are_those_with_most_word_errors_and_only_so_many_are_kept() -> None:
    rng = np.random.default_rng(7)
    references, hypotheses = random_texts(rng, 500), random_texts(rng, 500)
    tally = ErrorTally(keep_worst=10)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        tally.add(reference, hypothesis)
    pairs = zip(references, hypotheses, strict=True)
    expected = sorted(pairs, key=lambda pair: -count_word_errors(*pair).errors)[:10]  # stable: the earlier first
    assert [(utterance.reference, utterance.hypothesis) for utterance in tally.worst(10)] == expected
    assert tally.worst(3) == tally.worst(10)[:3]
    with pytest.raises(ValueError, match="keep_worst"):
        tally.worst(11)


def test_texts_are_not_kept() -> None:
    tally = ErrorTally(keep_worst=5)
    tracemalloc.start()
    for index in range(300):
        tally.add(f"{index} " * 500, f"{index} " * 499)  # 4 kB a pair, 1.2 MB in all
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 300_000  # 32 bytes an utterance, five pairs, and what jiwer holds


def test_worst_leaves_out_what_is_right() -> None:
    tally = ErrorTally()
    tally.add("a b", "a b", "x")
    tally.add("a b", "a c", "y")
    (utterance,) = tally.worst(5)
    assert (utterance.group, utterance.counts) == ("y", ErrorCounts(hits=1, substitutions=1))


def test_resampling_in_blocks_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    references = random_texts(rng, 100)
    hypotheses = corrupted(rng, references, np.full(100, 0.3))
    whole = word_error_rate(references, hypotheses)
    monkeypatch.setattr("hfaudio.metrics.error_rate.BLOCK", 700)  # 7 draws at a time, the last block is shorter
    assert word_error_rate(references, hypotheses) == whole


def test_paired_difference() -> None:
    rng = np.random.default_rng(9)
    references = ["one two three four five six"] * 300
    hypotheses_a = corrupted(rng, references, rng.beta(2, 4, size=300))
    # b repairs a tenth of the errors of a and makes none: small, but always the same way
    hypotheses_b = [r if rng.random() < 0.1 else h for r, h in zip(references, hypotheses_a, strict=True)]
    found = paired_bootstrap(references, hypotheses_a, hypotheses_b)
    rate_a, rate_b = word_error_rate(references, hypotheses_a), word_error_rate(references, hypotheses_b)
    assert found.value == pytest.approx(rate_b.value - rate_a.value, abs=1e-12)
    assert found.low < found.value < found.high < 0
    assert found.p_value < 0.001
    assert rate_b.high > rate_a.low  # unpaired, the intervals overlap
    swapped = paired_bootstrap(references, hypotheses_b, hypotheses_a)
    assert (swapped.value, swapped.p_value) == (pytest.approx(-found.value), found.p_value)


def test_a_system_against_itself() -> None:
    references, hypotheses = ["a b c", "d e"], ["a x c", "d e"]
    found = paired_bootstrap(references, hypotheses, hypotheses)
    assert (found.value, found.low, found.high, found.p_value, found.n) == (0, 0, 0, 1, 2)


def test_p_value_is_uniform_when_systems_are_equally_good() -> None:
    """Of 200 comparisons of equals about one in twenty comes out at p < 0.05."""
    rng = np.random.default_rng(10)
    references = ["a b c d"] * 50
    p_values = []
    for seed in range(200):
        pair = [corrupted(rng, references, np.full(50, 0.3)) for _ in range(2)]
        p_values.append(paired_bootstrap(references, *pair, seed=seed, num_resamples=300).p_value)
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.1
    assert 0.4 < np.mean(p_values) < 0.6


@pytest.mark.parametrize(
    ("reference", "words", "expected"),
    [
        ("the cat sat", "the cat sat", [1, 1, 1]),
        ("the cat sat", "a the cap sat", [0, 1, 0, 1]),
        ("the cat sat", "", []),
        ("", "uh", [0]),
        ("cat", "cat cat", None),
    ],
)
def test_which_words_are_right(reference: str, words: str, expected: list[int] | None) -> None:
    found = correct_words(reference, words.split())
    if expected is None:
        assert sum(found) == 1
    else:
        assert found == [bool(right) for right in expected]
