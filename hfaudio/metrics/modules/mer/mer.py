"""Match error rate for `evaluate.load`: the share of aligned word pairs that are wrong, as one float."""

import datasets
import evaluate

from hfaudio.metrics.error_rate import ErrorCounts, count_word_errors

DESCRIPTION = (
    "Share of aligned word pairs that are substitutions, deletions or insertions: 0 is perfect, 1 has no match."
)

CITATION = """\
@inproceedings{morris2004wer,
  title={From WER and RIL to MER and WIL: improved evaluation measures for connected speech recognition},
  author={Morris, Andrew Cameron and Maier, Viktoria and Green, Phil},
  booktitle={Interspeech},
  year={2004}
}
"""


class MatchErrorRate(evaluate.Metric):
    """Share of aligned word pairs that are wrong of a corpus; texts are compared as they are."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description="predictions and references: two lists of strings, one pair an utterance",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> float:
        return sum(map(count_word_errors, references, predictions), ErrorCounts()).mer
