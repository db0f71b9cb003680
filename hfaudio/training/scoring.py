"""Error rates during evaluation, counted batch by batch."""

from collections.abc import Sequence
from typing import Any

from transformers import EvalPrediction

from hfaudio.data.examples import SpeechExamples
from hfaudio.decoding.greedy import collapse
from hfaudio.decoding.tune import LogProbCache
from hfaudio.metrics.error_rate import ErrorTally
from hfaudio.processing.tokenizer import label_text


class CTCScorer:
    """`compute_metrics` of `CTCTrainer`: greedy hypotheses against label ids, as running counts.

    References come from the label ids: an unknown character spells U+FFFD, so its word is an error instead of
    vanishing from the reference. Nothing but counts and the worst utterances is kept, unless `keep_log_probs` is set:
    then texts and log-probabilities stay for other ways of decoding (`LogProbCache`, on every rank).

    Args:
        labels: what each id spells (`hfaudio.processing.ctc_labels`).
        blank_id: id of the CTC blank.
    """

    def __init__(self, labels: Sequence[str], blank_id: int) -> None:
        self.labels = labels
        self.blank_id = blank_id
        self.keep_log_probs = False
        self._speakers: Sequence[str] | None = None
        self._reset()

    def _reset(self) -> None:
        self.tally = ErrorTally()
        self.log_probs = LogProbCache()
        self.references: list[str] = []
        self.hypotheses: list[str] = []

    def start(self, dataset: SpeechExamples) -> None:
        """Count from zero; the utterances will come in the order of this dataset."""
        self._reset()
        self._speakers = dataset.rows["speaker"] if "speaker" in dataset.rows.column_names else None

    @property
    def speakers(self) -> list[str] | None:
        """The speaker of each utterance so far, where the dataset names them."""
        return None if self._speakers is None else list(self._speakers[: len(self.tally)])

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add a batch of argmax ids (B, T) and labels (B, U), both padded with -100; on the last one, the rates.

        With `keep_log_probs` the predictions are those ids and log-probabilities (B, T, V).
        """
        predictions: Any = prediction.predictions  # with batch_eval_metrics these are tensors
        ids_of_all, log_probs = predictions if self.keep_log_probs else (predictions, None)
        references: Any = prediction.label_ids
        pairs = zip(ids_of_all.cpu().numpy(), references.cpu().numpy(), strict=True)
        for index, (ids, label_ids) in enumerate(pairs):
            tokens, *_ = collapse(ids[ids >= 0], self.blank_id)
            speaker = None if self._speakers is None else self._speakers[len(self.tally)]
            reference, hypothesis = label_text(label_ids[label_ids >= 0], self.labels), label_text(tokens, self.labels)
            self.tally.add(reference, hypothesis, speaker)
            if log_probs is not None:
                self.references.append(reference)
                self.hypotheses.append(hypothesis)
                self.log_probs.append(log_probs[index, : (ids >= 0).sum()].cpu().numpy())
        if not compute_result:
            return {}
        return {measure: self.tally.rate(measure, num_resamples=1).value for measure in ("wer", "cer")}
