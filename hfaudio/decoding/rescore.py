"""N-best lists put in a new order by a neural language model, any `AutoModelForCausalLM`.

    total = acoustic + ngram_weight * n-gram + neural_weight * neural + word_bonus * words        (natural logarithms)

The neural scores are computed once; weights are then tried on arrays, thousands of settings in a second.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hfaudio.decoding.beam import Hypothesis

NEURAL_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
WORD_BONUSES = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)
NGRAM_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True)
class RescoreWeights:
    """Weights of the scores; the default keeps the decoder's order.

    Args:
        ngram: of the decoder's own LM score, which already holds its alpha and beta.
        neural: of the neural LM's log-probability.
        word_bonus: for each word, as longer texts are less probable under every language model.
    """

    ngram: float = 1.0
    neural: float = 0.0
    word_bonus: float = 0.0


@dataclass(frozen=True, eq=False)
class NBestScores:
    """Natural-log scores and numbers of words of the n hypotheses of one utterance, each array (n,)."""

    acoustic: np.ndarray
    ngram: np.ndarray
    neural: np.ndarray
    words: np.ndarray


@dataclass(frozen=True)
class WeightSearch:
    """The best weights on development data, their word errors, and those of the decoder's own order."""

    weights: RescoreWeights
    errors: int
    errors_before: int


def combine(scores: NBestScores, weights: RescoreWeights) -> np.ndarray:
    """Total score (n,) of each hypothesis."""
    return (
        scores.acoustic
        + weights.ngram * scores.ngram
        + weights.neural * scores.neural
        + weights.word_bonus * scores.words
    )


class NeuralRescorer:
    """ln probabilities of texts under a causal language model: `NeuralRescorer("gpt2")(["a text", "a test"])`.

    A text is scored from the model's sentence start (bos, or the eos where there is no bos) to its eos, where the
    tokenizer has them; without a start its first token is free of charge, as nothing predicts it.

    Args:
        model: a folder or Hub id.
        format_text: how the LM's training texts were written, where they differ from the transcripts: `str.upper`.
        batch_size: texts in one forward pass; scores do not depend on it.
        device: "cpu", "cuda" ...
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        format_text: Callable[[str], str] = str,
        batch_size: int = 32,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model, trust_remote_code=trust_remote_code
        )
        opened: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=trust_remote_code)
        self.model = opened.eval().to(device)  # type: ignore[arg-type]
        self.format_text = format_text
        self.batch_size = batch_size
        self.longest = longest_text(opened.config)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """ln probability (len(texts),) of each text with its end; equal texts are scored once."""
        ids = {text: self.token_ids(text) for text in texts}
        order = sorted(ids, key=lambda text: len(ids[text]))  # similar lengths share a batch
        scores: dict[str, float] = {}
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            scores |= zip(batch, self._log_probs([ids[text] for text in batch]), strict=True)
        return np.array([scores[text] for text in texts])

    def token_ids(self, text: str) -> list[int]:
        """Ids of a text between the sentence marks; ValueError for one that is longer than the model can read."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        start = end if start is None else start
        ids = self.tokenizer(self.format_text(text), add_special_tokens=False).input_ids
        ids = [*([] if start is None else [start]), *ids, *([] if end is None else [end])]
        if len(ids) > self.longest:
            raise ValueError(f"a text has {len(ids)} tokens and the model reads {self.longest}; decode shorter pieces")
        return ids

    @torch.inference_mode()
    def _log_probs(self, batch: Sequence[list[int]]) -> list[float]:
        longest = max(map(len, batch))
        if longest < 2:  # no text, and no sentence marks: nothing is predicted
            return [0.0] * len(batch)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch], device=self.model.device)
        logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        chosen = logits.gather(2, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
        return chosen.masked_fill(mask[:, 1:] == 0, 0.0).double().sum(1).tolist()


def longest_text(config: PretrainedConfig) -> float:
    """Tokens that a model reads at once, infinite for a recurrent one. GPT-2 calls them by another name."""
    name = "max_position_embeddings"
    return config.to_dict().get(config.attribute_map.get(name, name), math.inf)


def score_n_best(
    n_best: Sequence[Sequence[Hypothesis]], scorer: Callable[[Sequence[str]], np.ndarray]
) -> list[NBestScores]:
    """All scores of each utterance's hypotheses; the scorer (a `NeuralRescorer`) sees all texts at once."""
    neural = iter(scorer([hypothesis.text for hypotheses in n_best for hypothesis in hypotheses]).tolist())
    return [
        NBestScores(
            acoustic=np.array([hypothesis.acoustic_score for hypothesis in hypotheses]),
            ngram=np.array([hypothesis.lm_score for hypothesis in hypotheses]),
            neural=np.array([next(neural) for _ in hypotheses]),
            words=np.array([len(hypothesis.text.split()) for hypothesis in hypotheses]),
        )
        for hypotheses in n_best
    ]


def rescore(
    n_best: Sequence[Sequence[Hypothesis]], scores: Sequence[NBestScores], weights: RescoreWeights
) -> list[list[Hypothesis]]:
    """Each utterance's hypotheses, best total first, with the total as their score; equal totals keep their order.

    `lm_score` becomes total minus acoustic score, so that the two still add up.
    """
    reordered = []
    for hypotheses, of_utterance in zip(n_best, scores, strict=True):
        totals = combine(of_utterance, weights)
        reordered.append([with_total(hypotheses[i], float(totals[i])) for i in np.argsort(-totals, kind="stable")])
    return reordered


def with_total(hypothesis: Hypothesis, total: float) -> Hypothesis:
    return replace(hypothesis, score=total, lm_score=total - hypothesis.acoustic_score)


def fit_weights(
    scores: Sequence[NBestScores],
    texts: Sequence[Sequence[str]],
    references: Sequence[str],
    *,
    count_errors: Callable[[str, str], int],
    neural: Sequence[float] = NEURAL_WEIGHTS,
    word_bonus: Sequence[float] = WORD_BONUSES,
    ngram: Sequence[float] = NGRAM_WEIGHTS,
) -> WeightSearch:
    """Weights with the fewest word errors on development data: every combination of the three lists.

    Errors of each hypothesis are counted once. Of weights with equal errors those nearest to leaving the decoder's
    order alone are taken, and never any with more errors than that order has.

    Args:
        texts: the hypotheses' texts, as many for each utterance as it has scores.
        count_errors: word errors of (reference, hypothesis).

    Raises:
        ValueError: no utterance, or one without a hypothesis.
    """
    if not scores or any(not len(of_utterance.acoustic) for of_utterance in scores):
        raise ValueError("weights need utterances that each have a hypothesis; decode with n of at least 1")
    errors = [
        np.array([count_errors(reference, text) for text in candidates])
        for reference, candidates in zip(references, texts, strict=True)
    ]

    def total_errors(weights: RescoreWeights) -> int:
        chosen = zip(errors, scores, strict=True)
        return int(sum(counts[combine(of_utterance, weights).argmax()] for counts, of_utterance in chosen))

    def key(weights: RescoreWeights) -> tuple[int, float]:
        return total_errors(weights), abs(weights.ngram - 1) + abs(weights.neural) + abs(weights.word_bonus)

    start = RescoreWeights()
    grid = [RescoreWeights(a, b, c) for a in ngram for b in neural for c in word_bonus]
    best = min([start, *grid], key=key)
    return WeightSearch(best, total_errors(best), total_errors(start))
