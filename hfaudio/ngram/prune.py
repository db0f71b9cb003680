"""Entropy pruning: n-grams without which a model says nearly the same are dropped (Stolcke 1998)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hfaudio.ngram.table import BOS, EOS, NGramTable

SMALLEST = 1e-12  # probability mass that is left where float32 scores add up to more than one


def prune_entropy(tables: Sequence[NGramTable], threshold: float) -> list[NGramTable]:
    """Tables without the n-grams that each raise the perplexity by a ratio below `threshold`, as SRILM's -prune.

    1e-8 is careful, 1e-6 drops most of a model. Every context still sums to one: back-offs are computed anew. An
    n-gram stays if a longer one that stays begins or ends with it (SRILM drops the latter, but our tables, as KenLM's,
    would have to put it back). A history's probability comes from the model itself, which for Kneser-Ney is worth less
    than its predictions (Chelba et al. 2010): pruning it hard costs more than the threshold says.

    Raises:
        ValueError: a negative threshold.
    """
    if threshold < 0:
        raise ValueError(f"the threshold of entropy pruning is a ratio of perplexities of at least 0, got {threshold}")
    history = history_probabilities(tables)
    kept = [np.ones(len(table), bool) for table in tables]
    backoffs = [table.log_backoff for table in tables]
    for k in range(len(tables), 1, -1):
        table, contexts = tables[k - 1], tables[k - 2]
        prob, lower = 10.0 ** table.log_prob.astype(float), 10.0 ** contexts.log_prob[table.suffix].astype(float)
        alpha = 10.0 ** contexts.log_backoff.astype(float)
        # mass that a context leaves to words it does not list: by its own distribution, and one order lower
        lower_left = np.maximum(1.0 - np.bincount(table.prefix, lower, len(contexts)), SMALLEST)
        left = alpha * lower_left
        loss = history[k - 2][table.prefix] * entropy_increase(
            prob, lower, alpha[table.prefix], left[table.prefix], lower_left[table.prefix]
        )
        keep = np.expm1(loss) >= threshold
        if k < len(tables):
            longer = tables[k]
            keep[longer.prefix[kept[k]]] = True
            keep[longer.suffix[kept[k]]] = True
        kept[k - 1] = keep
        gone = ~keep
        left += np.bincount(table.prefix[gone], prob[gone], len(contexts))
        lower_left += np.bincount(table.prefix[gone], lower[gone], len(contexts))
        backoffs[k - 2] = np.log10(left / lower_left).astype(np.float32)
        has_children = np.zeros(len(contexts), bool)
        has_children[table.prefix[keep]] = True
        backoffs[k - 2][~has_children] = 0.0
    return select([replace(table, log_backoff=backoff) for table, backoff in zip(tables, backoffs, strict=True)], kept)


def history_probabilities(tables: Sequence[NGramTable]) -> list[np.ndarray]:
    """Probabilities of the n-grams below the highest order as stretches of text; <s> is as frequent as </s>."""
    result: list[np.ndarray] = []
    for table in tables[:-1]:
        prob = 10.0 ** table.log_prob.astype(float)
        if result:
            prob *= result[-1][table.prefix]
        else:
            prob[BOS] = prob[EOS]
        result.append(prob)
    return result


def entropy_increase(
    prob: np.ndarray, lower: np.ndarray, alpha: np.ndarray, left: np.ndarray, lower_left: np.ndarray
) -> np.ndarray:
    """Relative entropy, in nats, of a context's distribution to what it becomes without one n-gram (equation 4).

    All (n,), for each n-gram: its probability, that of back-off, the context's back-off weight, and what the context
    leaves to unlisted words. The words listed with it keep their probabilities.
    """
    log_alpha_change = np.log((left + prob) / (lower_left + lower)) - np.log(alpha)
    log_prob_change = np.log(lower) + log_alpha_change + np.log(alpha) - np.log(prob)
    return -(prob * log_prob_change + left * log_alpha_change)


def select(tables: Sequence[NGramTable], kept: Sequence[np.ndarray]) -> list[NGramTable]:
    """Tables of the rows that are kept; what kept rows begin and end with must be kept as well."""
    result: list[NGramTable] = []
    below = np.zeros(1, np.int32)  # new numbers of the rows one order lower
    for k, (table, keep) in enumerate(zip(tables, kept, strict=True), start=1):
        zeros = np.zeros(int(keep.sum()), np.int32)
        result.append(
            NGramTable(
                below[table.prefix[keep]] if k > 1 else zeros,
                table.word[keep],
                below[table.suffix[keep]] if k > 1 else zeros,
                table.log_prob[keep],
                table.log_backoff[keep],
            )
        )
        below = np.cumsum(keep, dtype=np.int32) - 1
    while len(result) > 1 and not len(result[-1]):  # a model of which nothing is left at the highest order
        result.pop()
        result[-1].log_backoff[:] = 0.0
    return result
