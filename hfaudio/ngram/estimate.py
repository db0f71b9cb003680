"""Interpolated modified Kneser-Ney estimation, with the numbers of KenLM's lmplz.

Chen & Goodman 1998 (TR-10-98) for the discounts, Heafield et al. 2013 for how lmplz counts. Differences to lmplz:
small corpora, for which the discounts are not defined, get fixed ones and a note instead of an error; words outside a
given vocabulary become <unk> before counting, as in SRILM.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hfaudio.ngram.table import BOS, LOG_ZERO, MARKS, SPACE_MARK, UNITS, UNK, NGramTable
from hfaudio.ngram.vocabulary import Vocabulary, limited, number_lines

logger = logging.getLogger(__name__)

MAX_ORDER = 6
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # of counts 1, 2, and 3 or more; lmplz --discount_fallback


@dataclass(frozen=True, eq=False)
class Estimate:
    """A model as tables, and what there is to say about it."""

    words: list[str]
    tables: list[NGramTable]
    unit: str
    discounts: np.ndarray  # (N, 3), of adjusted counts 1, 2, and 3 or more
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Counts:
    """N-grams of one order as they were counted, rows sorted by (prefix, word); arrays (n,)."""

    prefix: np.ndarray  # int32
    word: np.ndarray  # int32
    suffix: np.ndarray  # int32
    raw: np.ndarray  # int64, how often it is in the text
    starts: np.ndarray  # bool, begins with <s>


def estimate(
    lines: Iterable[str],
    order: int = 3,
    *,
    unit: str = "word",
    tokenize: Callable[[str], Sequence[str]] | None = None,
    prune: Sequence[int] = (),
    vocabulary: Collection[str] | None = None,
    vocab_size: int | None = None,
    min_count: int = 1,
    closed: bool = False,
) -> Estimate:
    """A model of sentences.

    Args:
        lines: sentences; what white space parts are words. An empty line is an empty sentence.
        order: words of the longest n-grams, 1 to 6.
        unit: "word"; "char" for characters, the space as "▁"; "bpe" for the pieces that `tokenize` makes.
        prune: drop n-grams of order k that occur at most prune[k - 1] times; the last number holds for higher orders.
        vocabulary: words outside of it become <unk>.
        vocab_size: keep so many words, the most frequent ones.
        min_count: keep words that occur at least so often.
        closed: give <unk> no probability; for texts in which there are no other words.

    Raises:
        ValueError: no text, a mark such as <s> inside it, or options that contradict each other.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"the order of a model is 1 to {MAX_ORDER}, got {order}")
    if unit not in UNITS:
        raise ValueError(f"the unit of a model is one of {', '.join(UNITS)}, got {unit!r}")
    if vocab_size is not None and vocab_size < 1:
        raise ValueError(f"vocab_size is how many words are kept, at least 1; got {vocab_size}")
    if (unit == "bpe") != (tokenize is not None):
        raise ValueError("unit 'bpe' and a tokenize function belong together; give both or neither")
    words_of = Vocabulary()
    ids = number_lines(unit_lines(lines, unit, tokenize), words_of)
    words = words_of.words()
    if len(ids) <= 2 * (ids == BOS).sum():
        raise ValueError("there is no word in the text to estimate a language model from; is it empty?")
    ids, words = limit_vocabulary(ids, words, vocabulary, vocab_size, min_count)
    counts = count_ngrams(ids, order, len(words))
    return estimate_counts(words, counts, thresholds(prune, order), unit=unit, closed=closed)


def unit_lines(lines: Iterable[str], unit: str, tokenize: Callable[[str], Sequence[str]] | None) -> Iterable[str]:
    """Sentences with a space between their units."""
    if unit == "word":
        return lines
    if unit == "char":
        return (" ".join(" ".join(line.split()).replace(" ", SPACE_MARK)) for line in lines)
    assert tokenize is not None
    split = tokenize
    return (" ".join(split(" ".join(line.split()))) for line in lines)


def limit_vocabulary(
    ids: np.ndarray, words: list[str], vocabulary: Collection[str] | None, vocab_size: int | None, min_count: int
) -> tuple[np.ndarray, list[str]]:
    """Ids and words with what the limits leave out as <unk>."""
    if vocabulary is None and vocab_size is None and min_count <= 1:
        return ids, words
    counts = np.bincount(ids, minlength=len(words))
    keep = counts >= min_count
    if vocabulary is not None:
        allowed = set(vocabulary)
        keep &= np.array([word in allowed for word in words])
    if vocab_size is not None and keep[len(MARKS) :].sum() > vocab_size:
        candidates = np.where(keep, counts, -1)
        candidates[: len(MARKS)] = -1
        chosen = np.argsort(-candidates, kind="stable")[:vocab_size]
        keep = np.zeros(len(words), bool)
        keep[chosen] = True
    ids, words = limited(ids, words, keep)
    if len(words) == len(MARKS):
        raise ValueError("no word of the text is inside the limits of the vocabulary; is it written in another case?")
    return ids, words


def thresholds(prune: Sequence[int], order: int) -> list[int]:
    """The count at which n-grams of each order are dropped; the last one given holds for the orders above."""
    values = [*prune, *[prune[-1] if prune else 0] * order][:order]
    if len(prune) > order or any(value < 0 for value in values) or values != sorted(values):
        raise ValueError(f"--prune takes up to {order} counts of at least 0 that do not fall, got {list(prune)}")
    return values


def count_ngrams(ids: np.ndarray, order: int, num_words: int) -> list[Counts]:
    """Counts of the n-grams of order 1 to N in sentences <s> ... </s>; none crosses a sentence.

    An n-gram is numbered by the row of its prefix times the number of words, plus its last word; sorting these numbers
    brings equal ones together, and makes the rows of the next order.
    """
    n = len(ids)
    begins = np.flatnonzero(ids == BOS)
    position = np.arange(n, dtype=np.int32)
    position -= np.repeat(position[begins], np.diff(np.append(begins, n)))
    zeros = np.zeros(num_words, np.int32)
    raw = np.bincount(ids, minlength=num_words)
    every = np.arange(num_words, dtype=np.int32)
    counts = [Counts(zeros, every, zeros, raw, every == BOS)]
    row_at = ids.astype(np.int32, copy=False)  # the row of the n-gram that ends at each place of the text
    for k in range(2, order + 1):
        at = np.flatnonzero(position >= k - 1)
        key = row_at[at - 1].astype(np.int64)
        key *= num_words
        key += ids[at]
        sorting = np.argsort(key)
        key = key[sorting]
        is_new = np.ones(len(key), bool)
        np.not_equal(key[1:], key[:-1], out=is_new[1:])
        first = np.flatnonzero(is_new)
        example = at[sorting[first]]  # a place where each n-gram ends
        distinct = key[first]
        counts.append(
            Counts(
                (distinct // num_words).astype(np.int32),
                (distinct % num_words).astype(np.int32),
                row_at[example],
                np.diff(np.append(first, len(key))),
                position[example] == k - 1,
            )
        )
        if k < order:
            rows = np.full(n, -1, np.int32)
            rows[at[sorting]] = np.cumsum(is_new, dtype=np.int32) - 1
            row_at = rows
    return counts


def estimate_counts(
    words: list[str], counts: list[Counts], minimum: Sequence[int], *, unit: str, closed: bool
) -> Estimate:
    """The model of counts: n-grams of order k that occur at most minimum[k - 1] times are dropped."""
    order = len(counts)
    tables: list[NGramTable] = []
    discounts = np.zeros((order, 3))
    notes: list[str] = []
    kept_rows: list[np.ndarray] = []  # new row of each n-gram, -1 if it is dropped
    lower = np.zeros(0)  # probabilities one order below, of all rows
    backoffs: list[np.ndarray] = []
    for k, count in enumerate(counts, start=1):
        adjusted = adjusted_counts(counts, k)
        discounts[k - 1], remarks = modified_discounts(adjusted, k)
        notes += remarks
        keep = count.raw > minimum[k - 1]
        if k == 1:
            keep[: len(MARKS)] = True
        subtracted = np.append(0.0, discounts[k - 1])[np.minimum(adjusted, 3)]
        # what a context loses: the discounts of the n-grams that stay, the whole counts of those that are dropped
        given_up = np.where(keep, subtracted, adjusted)
        if k == 1:
            total = adjusted.sum()
            uniform = 1.0 / (len(words) - 2 if closed else len(words) - 1)  # neither <s>, nor <unk> if closed
            gamma = given_up.sum() / total
            prob = (adjusted - subtracted) / total + gamma * uniform
            prob[UNK] = 0.0 if closed else prob[UNK]
            prob[BOS] = 1.0  # never predicted; lmplz writes 0
        else:
            size = len(counts[k - 2].word)
            total = np.bincount(count.prefix, weights=adjusted, minlength=size)
            lost = np.bincount(count.prefix, weights=given_up, minlength=size)
            gamma_of = np.divide(lost, total, out=np.ones(size), where=total > 0)
            prob = (adjusted - subtracted) / total[count.prefix] + gamma_of[count.prefix] * lower[count.suffix]
            backoffs.append(gamma_of)
        lower = prob
        rows = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
        above = kept_rows[-1] if kept_rows else rows
        with np.errstate(divide="ignore"):
            log_prob = np.minimum(np.log10(prob[keep]), 0.0)
        tables.append(
            NGramTable(
                above[count.prefix[keep]] if k > 1 else np.zeros(int(keep.sum()), np.int32),
                count.word[keep] if k == 1 else kept_rows[0][count.word[keep]],
                above[count.suffix[keep]] if k > 1 else np.zeros(int(keep.sum()), np.int32),
                np.maximum(log_prob, LOG_ZERO).astype(np.float32),
                np.zeros(int(keep.sum()), np.float32),
            )
        )
        kept_rows.append(rows)
        if k > 1:
            log_backoff = np.log10(backoffs[-1][kept_rows[-2] >= 0])
            tables[-2].log_backoff[:] = log_backoff
    words = [word for word, row in zip(words, kept_rows[0].tolist(), strict=True) if row >= 0]
    tables[0].word[:] = np.arange(len(words))
    for note in notes:
        logger.warning(note)
    return Estimate(words, tables, unit, discounts, tuple(notes))


def adjusted_counts(counts: Sequence[Counts], k: int) -> np.ndarray:
    """Counts of order k for Kneser-Ney: below the highest order the number of words seen before an n-gram.

    What begins with <s> has nothing before it and keeps its count; <s> itself is never predicted.
    """
    count = counts[k - 1]
    if k == len(counts):
        adjusted = count.raw.copy()
    else:
        before = np.bincount(counts[k].suffix, minlength=len(count.word))
        adjusted = np.where(count.starts, count.raw, before)
    if k == 1:
        adjusted[BOS] = 0
    return adjusted


def modified_discounts(adjusted: np.ndarray, k: int) -> tuple[np.ndarray, list[str]]:
    """Discounts of the adjusted counts 1, 2, and 3 or more (Chen & Goodman, equation 26); a note if they are fixed.

    They are not defined, or not between 0 and the count, where few n-grams occur once to four times.
    """
    t1, t2, t3, t4 = np.bincount(np.minimum(adjusted, 5), minlength=6)[1:5].astype(float)
    if min(t1, t2, t3) > 0:
        y = t1 / (t1 + 2 * t2)
        found = np.array([1 - 2 * y * t2 / t1, 2 - 3 * y * t3 / t2, 3 - 4 * y * t4 / t3])
        if ((found >= 0) & (found <= (1, 2, 3))).all():
            return found, []
    note = (
        f"order {k}: {int(t1)}, {int(t2)}, {int(t3)} and {int(t4)} n-grams with the counts 1 to 4 are too few for "
        f"Kneser-Ney's discounts, fixed ones {FALLBACK_DISCOUNTS} are used"
    )
    return np.array(FALLBACK_DISCOUNTS), [note]
