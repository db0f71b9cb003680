"""Error rates during evaluation, counted batch by batch."""

from collections.abc import Sequence
from typing import Any

from transformers import EvalPrediction

from hfaudio.data.examples import SpeechExamples
from hfaudio.decoding.greedy import collapse
from hfaudio.metrics.error_rate import ErrorTally
from hfaudio.processing.tokenizer import label_text


class CTCScorer:
    """`compute_metrics` of `CTCTrainer`: greedy hypotheses against label ids, as running counts.

    References come from the label ids: an unknown character spells U+FFFD, so its word is an error instead of
    vanishing from the reference. Nothing but counts and the worst utterances is kept.

    Args:
        labels: what each id spells (`hfaudio.processing.ctc_labels`).
        blank_id: id of the CTC blank.
    """

    def __init__(self, labels: Sequence[str], blank_id: int) -> None:
        self.labels = labels
        self.blank_id = blank_id
        self.tally = ErrorTally()
        self._speakers: Sequence[str] | None = None

    def start(self, dataset: SpeechExamples) -> None:
        """Count from zero; the utterances will come in the order of this dataset."""
        self.tally = ErrorTally()
        self._speakers = dataset.rows["speaker"] if "speaker" in dataset.rows.column_names else None

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add a batch of argmax ids (B, T) and labels (B, U), both padded with -100; on the last one, the rates."""
        predictions: Any = prediction.predictions  # with batch_eval_metrics these are tensors
        references: Any = prediction.label_ids
        for ids, label_ids in zip(predictions.cpu().numpy(), references.cpu().numpy(), strict=True):
            tokens, *_ = collapse(ids[ids >= 0], self.blank_id)
            speaker = None if self._speakers is None else self._speakers[len(self.tally)]
            self.tally.add(
                label_text(label_ids[label_ids >= 0], self.labels), label_text(tokens, self.labels), speaker
            )
        if not compute_result:
            return {}
        return {measure: self.tally.rate(measure, num_resamples=1).value for measure in ("wer", "cer")}
