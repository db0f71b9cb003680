"""Scores of free-text descriptions: chrF and BLEU with intervals, and whether they name the facts that are known.

Texts are compared as they are. One reference a clip. No clips at all is an error.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from hfaudio.metrics.error_rate import _interval, _resample
from hfaudio.metrics.results import Mean, Share, share


def chrf(references: Sequence[str], captions: Sequence[str], *, seed: int = 0, num_resamples: int = 1000) -> Mean:
    """Corpus chrF, 0 to 100, with a 95 % interval over clips.

    F-score of character n-grams of 1 to 6, recall weighted twice (Popović 2015, doi:10.18653/v1/W15-3049), as
    sacrebleu computes it by default.
    """
    return _corpus_score(CHRF(), references, captions, seed, num_resamples)


def bleu(references: Sequence[str], captions: Sequence[str], *, seed: int = 0, num_resamples: int = 1000) -> Mean:
    """Corpus BLEU, 0 to 100, with a 95 % interval over clips.

    Precision of word n-grams of 1 to 4 with a penalty for short texts (Papineni et al. 2002,
    doi:10.3115/1073083.1073135), as sacrebleu computes it by default: words by "13a", case kept, orders without a
    match smoothed. Scripts without blanks need chrF.
    """
    return _corpus_score(BLEU(), references, captions, seed, num_resamples)


def _corpus_score(
    metric: BLEU | CHRF, references: Sequence[str], captions: Sequence[str], seed: int, num_resamples: int
) -> Mean:
    """Score of the summed statistics; the interval is the percentile bootstrap of `hfaudio.metrics.error_rate`.

    sacrebleu's own bootstrap returns a half width around the mean of the draws, not the two ends.
    """
    if len(references) != len(captions):
        raise ValueError(f"got {len(references)} references and {len(captions)} captions; pass them in pairs")
    if not references:
        raise ValueError("the score of zero captions is undefined; check that the split is not empty")
    # (clips, counts): hypothesis, reference and matching n-grams of each order, which add up over clips
    statistics = np.array(metric._extract_corpus_statistics(captions, [references]))
    draws = _resample(statistics, seed, num_resamples)
    low, high = _interval(np.array([_score(metric, draw) for draw in draws]))
    return Mean(_score(metric, statistics.sum(0)), low, high, n=len(statistics))


def _score(metric: BLEU | CHRF, statistics: np.ndarray) -> float:
    return float(metric._compute_score_from_stats(statistics.tolist()).score)


def fact_accuracy(
    facts: Sequence[Mapping[str, str | None]],
    captions: Sequence[str],
    vocabulary: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Share]:
    """Share of the captions that name the true value of a fact and no other value of its vocabulary.

    `{"instrument": ..., "instrument/chance": ...}` for every fact that at least one clip has. Clips without the
    fact, or with None or an empty text for it, are not counted. Chance is naming the commonest true value everywhere.

    A value is named where its words stand whole, in any case; "bass guitar" does not name "guitar" where both are
    values, and "guitars" names neither. Values that are common words (a key "a") are found wherever these stand.

    Args:
        vocabulary: the values of each fact, by default those of `facts`: others in a caption then go unnoticed.
    """
    if len(facts) != len(captions):
        raise ValueError(f"got the facts of {len(facts)} clips and {len(captions)} captions; pass them in pairs")
    accuracies: dict[str, Share] = {}
    for fact in dict.fromkeys(name for known in facts for name in known):
        pairs = [
            (_plain(value), text) for known, text in zip(facts, captions, strict=True) if (value := known.get(fact))
        ]
        if not pairs:
            continue
        truths = Counter(value for value, _ in pairs)
        values = set(truths) if vocabulary is None else set(map(_plain, vocabulary.get(fact, ())))
        if unknown := sorted(set(truths) - values):
            raise ValueError(f"{fact} {unknown[0]!r} is not in the vocabulary of {fact}; add it there")
        pattern = _any_of(values)
        right = sum(set(pattern.findall(_plain(text))) == {value} for value, text in pairs)
        accuracies[fact] = share(right, len(pairs))
        accuracies[f"{fact}/chance"] = share(truths.most_common(1)[0][1], len(pairs))
    return accuracies


def _plain(text: str) -> str:
    """Without case, and with single blanks."""
    return " ".join(text.casefold().split())


def _any_of(values: set[str]) -> re.Pattern[str]:
    """Finds whole words ("F#" has no word "F"): the leftmost first, of the values that start there the longest."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?![\w#♯♭])")
