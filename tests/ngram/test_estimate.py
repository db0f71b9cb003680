"""Models against KenLM's lmplz, and by their sums.

fixtures/lmplz_ORDER.arpa.gz is what `lmplz -o ORDER` makes of lmplz_text.txt, with --prune 1 1 2 (3_prune), 0 0 1
(4_prune) or 0 1 1 2 (5_prune); 3_prune, 5 and 5_prune with --discount_fallback, as 3_fallback, which is of the first
eight lines.
"""

import logging
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from hfaudio.ngram import scratch, vocabulary
from hfaudio.ngram.arpa import read_arpa
from hfaudio.ngram.estimate import Estimate, estimate
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.query import step
from hfaudio.ngram.table import BOS, UNK, NGramTable

FIXTURES = Path(__file__).parent / "fixtures"
TEXT = (FIXTURES / "lmplz_text.txt").read_bytes().decode().split("\n")[:-1]


def ngrams(words: list[str], tables: list[NGramTable]) -> list[dict[str, tuple[float, float]]]:
    """log10 probability and back-off of every n-gram of each order, by its text."""
    texts, result = [""], []
    for k, table in enumerate(tables, start=1):
        last = [words[word] for word in table.word]
        texts = last if k == 1 else [f"{texts[p]} {word}" for p, word in zip(table.prefix, last, strict=True)]
        result.append(
            dict(zip(texts, zip(table.log_prob.tolist(), table.log_backoff.tolist(), strict=True), strict=True))
        )
    return result


def lm_of(model: Estimate) -> NGramLM:
    return NGramLM.from_tables(model.words, model.tables, unit=model.unit)


def sums(lm: NGramLM) -> list[float]:
    """Sum of p(word) over all words but <s>, after every context of known words, whether it was seen or not."""
    states = {lm.kernel.start_state, 0}
    frontier = set(states)
    while frontier:
        frontier = {step(lm.kernel, state, word)[1] for state in frontier for word in range(len(lm.words))} - states
        states |= frontier
    words = [word for word in range(len(lm.words)) if word != BOS]
    return [sum(10.0 ** step(lm.kernel, state, word)[0] for word in words) for state in states]


@pytest.mark.parametrize(
    ("name", "order", "prune", "lines"),
    [
        ("1", 1, (), TEXT),
        ("2", 2, (), TEXT),
        ("3", 3, (), TEXT),
        ("4", 4, (), TEXT),
        ("5", 5, (), TEXT),
        ("4_prune", 4, (0, 0, 1), TEXT),
        ("3_prune", 3, (1, 1, 2), TEXT),
        ("5_prune", 5, (0, 1, 1, 2), TEXT),
        ("3_fallback", 3, (), TEXT[:8]),
    ],
)
def test_it_equals_lmplz(name: str, order: int, prune: tuple[int, ...], lines: list[str]) -> None:
    expected = ngrams(*read_arpa(FIXTURES / f"lmplz_{name}.arpa.gz"))
    model = estimate(lines, order, prune=prune)
    found = ngrams(model.words, model.tables)
    assert [len(table) for table in model.tables] == [len(table) for table in expected]
    expected[0]["<s>"] = (found[0]["<s>"][0], expected[0]["<s>"][1])  # lmplz gives it log10 p = 0, nobody asks for it
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        difference = np.array([ours[text] for text in theirs]) - np.array(list(theirs.values()))
        assert np.abs(difference).max() < 2e-6


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("prune", [(), (0, 1)])
def test_every_context_sums_to_one(order: int, prune: tuple[int, ...]) -> None:
    model = estimate(TEXT[:60], order, prune=prune[:order])
    found = sums(lm_of(model))
    assert len(found) == 1 if order == 1 else len(found) > 20
    assert found == pytest.approx([1.0] * len(found), abs=2e-5)


def test_prefixes_and_suffixes_are_rows_of_the_order_below() -> None:
    model = estimate(TEXT, 4)
    texts: list[list[tuple[str, ...]]] = [[()]]
    for k, table in enumerate(model.tables, start=1):
        below = texts[-1]
        rows = [(*below[p if k > 1 else 0], model.words[w]) for p, w in zip(table.prefix, table.word, strict=True)]
        if k > 1:
            assert [below[s] for s in table.suffix] == [row[1:] for row in rows]
        key = table.prefix.astype(np.int64) * len(model.words) + table.word
        assert (np.diff(key) > 0).all()
        texts.append(rows)
    bigrams = {pair for line in TEXT for pair in zip(["<s>", *line.split()], [*line.split(), "</s>"], strict=True)}
    assert set(texts[2]) == bigrams


def test_sentence_limits_and_the_unknown_word() -> None:
    lm = lm_of(estimate(["a b", "a c", "b"], 2))
    assert lm.words[:3] == ["<unk>", "<s>", "</s>"] and lm.words[3:] == ["a", "b", "c"]
    uniform = 1 / 5  # over a, b, c, </s> and <unk>
    adjusted = {"a": 1, "b": 2, "c": 1, "</s>": 2}  # of how many words each was seen after
    gamma = (0.5 + 1.0 + 0.5 + 1.0) / 6
    expected = {word: (c - (0.5 if c == 1 else 1.0)) / 6 + gamma * uniform for word, c in adjusted.items()}
    expected["<unk>"] = gamma * uniform
    table = ngrams(lm.words, lm.tables())[0]
    for word, probability in expected.items():
        assert 10 ** table[word][0] == pytest.approx(probability, rel=1e-6)
    assert ngrams(lm.words, lm.tables())[1].keys() == {"<s> a", "<s> b", "a b", "a c", "b </s>", "c </s>"}


def test_a_closed_vocabulary_has_no_unknown_word() -> None:
    model = estimate(TEXT[:60], 3, closed=True)
    assert model.tables[0].log_prob[UNK] == -99.0
    assert sums(lm_of(model)) == pytest.approx([1.0] * len(sums(lm_of(model))), abs=2e-5)


@pytest.mark.parametrize("limit", [{"vocabulary": ["a"]}, {"vocab_size": 2}, {"min_count": 2}])
def test_a_closed_vocabulary_has_no_limit(limit: dict) -> None:
    """Words beyond it would be <unk>, and what they were counted for would be lost: the sums would be below one."""
    with pytest.raises(ValueError, match=r"a closed vocabulary .* leave out --closed, or the limit"):
        estimate(["a b c a", "a c"], 2, closed=True, **limit)


def test_a_given_vocabulary_makes_other_words_unknown_before_counting() -> None:
    lines = ["a b a", "c a b", "b a d"]
    limited = estimate(lines, 3, vocabulary=["b", "a", "never"])
    assert limited.words == ["<unk>", "<s>", "</s>", "a", "b"]
    texts = ngrams(limited.words, limited.tables)[1].keys()
    assert texts == {
        "<s> a",
        "a b",
        "b a",
        "a </s>",
        "<s> <unk>",
        "<unk> a",
        "b </s>",
        "<s> b",
        "a <unk>",
        "<unk> </s>",
    }
    assert sums(lm_of(limited)) == pytest.approx([1.0] * len(sums(lm_of(limited))), abs=1e-5)


def test_vocabulary_limits_by_count() -> None:
    lines = ["a a a b b c", "d d b e"]  # a 3, b 3, d 2, c 1, e 1
    assert estimate(lines, 1, vocab_size=3).words[3:] == ["a", "b", "d"]
    assert estimate(lines, 1, vocab_size=2).words[3:] == ["a", "b"]
    assert estimate(lines, 1, vocab_size=99).words[3:] == ["a", "b", "c", "d", "e"]
    assert estimate(lines, 1, min_count=2).words[3:] == ["a", "b", "d"]
    assert estimate(lines, 1, min_count=2, vocab_size=1, vocabulary=["d", "c", "b"]).words[3:] == ["b"]


def test_discounts_that_are_not_defined_are_fixed_ones_and_noted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = estimate(["a b", "a c"], 2)
    assert (model.discounts == (0.5, 1.0, 1.5)).all()
    assert len(model.notes) == 2 and "order 2" in model.notes[1] and list(model.notes) == caplog.messages
    assert not estimate(TEXT, 2).notes


def test_discounts_of_text_with_enough_counts() -> None:
    model = estimate(TEXT, 2)
    pairs = [pair for line in TEXT for pair in zip(["<s>", *line.split()], [*line.split(), "</s>"], strict=True)]
    counts = np.unique([" ".join(pair) for pair in pairs], return_counts=True)[1]
    t = [int((counts == n).sum()) for n in range(5)]
    y = t[1] / (t[1] + 2 * t[2])  # Chen & Goodman, equation 26
    expected = [n - (n + 1) * y * t[n + 1] / t[n] for n in (1, 2, 3)]
    assert model.discounts[1] == pytest.approx(expected)


@pytest.mark.parametrize("lines", [[], [""], ["", " \t\r", "\n"]])
def test_a_text_without_words_is_refused(lines: list[str]) -> None:
    with pytest.raises(ValueError, match="no word in the text"):
        estimate(lines, 2)


def test_one_line_is_enough() -> None:
    for order in range(1, 7):
        lm = lm_of(estimate(["one line only"], order))
        assert lm.score("one line only") > lm.score("only line one") or order == 1
        assert sums(lm) == pytest.approx([1.0] * len(sums(lm)), abs=1e-5)


def test_one_giant_line_counts_as_one_sentence() -> None:
    words = " ".join(TEXT).split() * 20
    model = estimate([" ".join(words)], 3)
    table = ngrams(model.words, model.tables)
    starts = [text for text in table[1] if text.startswith("<s>")]
    assert starts == [f"<s> {words[0]}"] and sum(text.endswith("</s>") for text in table[1]) == 1
    assert len(table[2]) == len({tuple(words[i : i + 3]) for i in range(len(words) - 2)}) + 2


@pytest.mark.parametrize("mark", ["<s>", "</s>", "<unk>"])
def test_marks_in_the_text_are_refused(mark: str) -> None:
    with pytest.raises(ValueError, match=f"'right after {mark} here' holds {mark}"):
        estimate(["a sentence", f"right after {mark} here"], 2)
    estimate([f"inside x{mark} a word it is none"], 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, "order of a model is 1 to 6, got 0"),
        ({"order": 7}, "order of a model is 1 to 6, got 7"),
        ({"prune": [0, 0, 0, 0]}, "up to 3 counts"),
        ({"prune": [1, 0]}, "do not fall"),
        ({"prune": [-1]}, "at least 0"),
        ({"unit": "bpe"}, "tokenize"),
        ({"tokenize": str.split}, "tokenize"),
        ({"unit": "phone"}, "'phone'"),
        ({"vocabulary": ["A", "B"]}, "another case"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(["a b c"], **options)


def test_characters() -> None:
    model = estimate(["ab  ba", " a "], 3, unit="char")
    assert model.words[3:] == ["a", "b", "\u2581"] and model.unit == "char"
    assert ngrams(model.words, model.tables)[1].keys() == {
        *("<s> a", "a b", "b \u2581", "\u2581 b", "b a", "a </s>"),
    }
    lm = lm_of(model)
    assert lm.score("ab ba") == pytest.approx(sum(p for p, _, oov in lm.full_scores("ab\tba") if not oov))


def test_word_pieces() -> None:
    pieces = {"the cat": ["\u2581the", "\u2581c", "at"], "a cat": ["\u2581a", "\u2581c", "at"]}
    model = estimate(["the  cat", "a cat\n"], 2, unit="bpe", tokenize=pieces.__getitem__)
    assert model.words[3:] == ["\u2581the", "\u2581c", "at", "\u2581a"]
    assert "\u2581c at" in ngrams(model.words, model.tables)[1]


def test_order_of_the_sentences_changes_ids_only() -> None:
    a, b = estimate(TEXT, 3), estimate(TEXT[::-1], 3)
    for ours, theirs in zip(ngrams(a.words, a.tables), ngrams(b.words, b.tables), strict=True):
        assert ours.keys() == theirs.keys()
        assert [ours[text] for text in theirs] == [pytest.approx(value, abs=1e-6) for value in theirs.values()]


def test_brute_force_counts() -> None:
    """n-grams of order k that occur at most prune[k - 1] times are dropped, and no others."""
    model = estimate(TEXT, 3, prune=(0, 1, 2))
    seen: dict[tuple[str, ...], int] = {}
    for line in TEXT:
        words = ["<s>", *line.split(), "</s>"]
        for k, i in product((2, 3), range(len(words))):
            if i + k <= len(words):
                seen[tuple(words[i : i + k])] = seen.get(tuple(words[i : i + k]), 0) + 1
    for k, minimum in ((2, 1), (3, 2)):
        expected = {" ".join(gram) for gram, count in seen.items() if len(gram) == k and count > minimum}
        assert ngrams(model.words, model.tables)[k - 1].keys() == expected


@pytest.mark.parametrize("order", [1, 2, 5])
def test_pieces_on_disk_make_the_same_tables(order: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = estimate(TEXT, order, vocab_size=100)
    monkeypatch.setattr(scratch, "BYTES_A_ROW", (1 << 20) // 100)  # a hundred words at once
    sizes = []
    monkeypatch.setattr(
        vocabulary,
        "number_text",
        lambda *args, f=vocabulary.number_text: sizes.append(len(list(tmp_path.iterdir()))) or f(*args),
    )
    found = estimate(TEXT, order, vocab_size=100, memory=1 << 20, temp_dir=tmp_path)
    assert sizes == [1] and not list(tmp_path.iterdir())
    assert found.words == expected.words
    for a, b in zip(found.tables, expected.tables, strict=True):
        for name in ("prefix", "word", "suffix", "log_prob", "log_backoff"):
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
            assert not isinstance(getattr(a, name), np.memmap)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 MiB, got 1,000 bytes"):
        estimate(TEXT, memory=1000)
