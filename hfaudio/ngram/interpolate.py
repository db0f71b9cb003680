"""Linear interpolation of n-gram models: weights fitted on a text, and one model that stands for the mixture.

A model's <unk> stands for all words that it does not know. Where the mixture knows m of these, each gets, as the
mixture's own <unk>, 1 / (m + 1) of its probability; so the parts speak of the same words, and all sums stay one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.query import Kernel, step
from hfaudio.ngram.table import EOS, LOG_ZERO, MARKS, UNK, NGramTable

SMALLEST = 1e-12  # probability mass that is left where float32 scores add up to more than one


def fit_weights(models: Sequence[NGramLM], lines: Iterable[str], *, tolerance: float = 1e-5) -> list[float]:
    """Weights, which sum to one, with which a mixture of models gives sentences the highest probability; by EM.

    Raises:
        ValueError: models of different units, or no sentence.
    """
    words = mixture_words(models)
    ids = {word: index for index, word in enumerate(words)}
    text = [word for line in lines for word in (*(ids.get(token, UNK) for token in models[0].tokens(line)), EOS)]
    if not text:
        raise ValueError("there is no sentence to fit weights on; is the file empty?")
    probs = np.array([score_text(lm.kernel, np.array(text), *mapping(lm, words)) for lm in models])  # (M, T)
    weights = np.full(len(models), 1.0 / len(models))
    while True:
        joint = weights[:, None] * probs
        updated = (joint / joint.sum(axis=0)).mean(axis=1)
        if np.abs(updated - weights).max() < tolerance:
            return updated.tolist()
        weights = updated


def interpolate(models: Sequence[NGramLM], weights: Sequence[float]) -> NGramLM:
    """One back-off model with the n-grams of all models, each with its probability in the mixture; as SRILM's -mix-lm.

    It equals the mixture for n-grams that one of the models has; for the others it backs off once for all models.

    Raises:
        ValueError: models of different units, or weights that are not a distribution over the models.
    """
    words = mixture_words(models)
    if len(weights) != len(models) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-3:
        raise ValueError(
            f"{len(models)} models need as many weights of at least 0 that sum to one, got {list(weights)}"
        )
    mappings = [mapping(lm, words) for lm in models]
    parts = [Part(lm.tables(), ids := known_ids(lm, words), ids) for lm in models]
    states = [np.zeros(1, np.int64) for _ in models]  # of each model after each n-gram one order lower
    lower = np.zeros(0)  # the mixture's probabilities one order lower
    tables: list[NGramTable] = []
    for k in range(1, max(lm.order for lm in models) + 1):
        if k == 1:
            every, zeros = np.arange(len(words), dtype=np.int32), np.zeros(len(words), np.int32)
            prefix, word, suffix = zeros, every, zeros
        else:
            parts = [part for part in parts if len(part.tables) >= k]
            prefix, word, suffix, parts = union(parts, k, len(words))
        prob = np.zeros(len(word))
        for index, (lm, weight, (ids, shares)) in enumerate(zip(models, weights, mappings, strict=True)):
            scores, states[index] = score_rows(lm.kernel, states[index], prefix, ids[word])
            prob += weight * shares[word] * 10.0**scores
        if k > 1:
            left = 1.0 - np.bincount(prefix, prob, len(lower))
            lower_left = 1.0 - np.bincount(prefix, lower[suffix], len(lower))
            tables[-1].log_backoff[:] = np.log10(np.maximum(left, SMALLEST) / np.maximum(lower_left, SMALLEST))
        log_prob = np.log10(np.clip(prob, 10.0**LOG_ZERO, 1.0)).astype(np.float32)
        tables.append(NGramTable(prefix, word, suffix, log_prob, np.zeros(len(word), np.float32)))
        lower = prob
    return NGramLM.from_tables(words, tables, unit=models[0].unit)


@dataclass(frozen=True, eq=False)
class Part:
    """A model on its way into the mixture."""

    tables: list[NGramTable]
    words: np.ndarray  # int64, the mixture's id of each word
    rows: np.ndarray  # int64, the mixture's row of each n-gram of the order that was merged last


def mixture_words(models: Sequence[NGramLM]) -> list[str]:
    """The words of all models; ValueError if these are not words, characters, or word pieces alike."""
    units = {lm.unit for lm in models}
    if len(units) != 1:
        raise ValueError(f"models of one unit can be mixed, got {', '.join(sorted(units)) or 'no model'}")
    return [*MARKS, *dict.fromkeys(word for lm in models for word in lm.words[len(MARKS) :])]


def known_ids(lm: NGramLM, words: Sequence[str]) -> np.ndarray:
    """The mixture's id of each word of a model: int64."""
    ids = {word: index for index, word in enumerate(words)}
    return np.array([ids[word] for word in lm.words], np.int64)


def mapping(lm: NGramLM, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The model's id of each word of the mixture (W,), and the share (W,) that the word has in that id."""
    ids = np.array([lm.word_id(word) for word in words])
    unknown = ids == UNK
    return ids, np.where(unknown, 1.0 / unknown.sum(), 1.0)


def union(parts: Sequence[Part], k: int, num_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Part]]:
    """Prefix, word and suffix of all n-grams of an order, and the parts with their rows there."""
    keys, suffixes = [], []
    for part in parts:
        table = part.tables[k - 1]
        keys.append(part.rows[table.prefix] * num_words + part.words[table.word])
        suffixes.append(part.rows[table.suffix])
    distinct, example = np.unique(np.concatenate(keys), return_index=True)
    prefix, word = np.divmod(distinct, num_words)
    suffix = np.concatenate(suffixes)[example]
    merged = [replace(part, rows=np.searchsorted(distinct, key)) for part, key in zip(parts, keys, strict=True)]
    return prefix.astype(np.int32), word.astype(np.int32), suffix.astype(np.int32), merged


@njit(cache=True, nogil=True, error_model="numpy")
def score_rows(
    kernel: Kernel, states: np.ndarray, prefix: np.ndarray, words: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log10 probabilities (n,) of words after the states of their contexts, and the states (n,) after them."""
    scores, after = np.empty(len(words)), np.empty(len(words), np.int64)
    for row in range(len(words)):
        scores[row], after[row] = step(kernel, states[prefix[row]], words[row])
    return scores, after


@njit(cache=True, nogil=True, error_model="numpy")
def score_text(kernel: Kernel, text: np.ndarray, ids: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Probabilities (T,) of the words of sentences that end in </s>."""
    probs, state = np.empty(len(text)), kernel.start_state
    for index, word in enumerate(text):
        score, state = step(kernel, state, ids[word])
        probs[index] = 10.0**score * shares[word]
        if word == EOS:
            state = kernel.start_state
    return probs
