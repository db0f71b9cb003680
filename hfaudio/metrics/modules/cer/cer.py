"""Character error rate for `evaluate.load`: character errors per reference character, as one float."""

import datasets
import evaluate

from hfaudio.metrics.error_rate import ErrorCounts, count_char_errors

DESCRIPTION = (
    "Substituted, deleted and inserted characters per reference character; lower is better, above 1 is possible."
)

CITATION = """\
@inproceedings{morris2004wer,
  title={From WER and RIL to MER and WIL: improved evaluation measures for connected speech recognition},
  author={Morris, Andrew Cameron and Maier, Viktoria and Green, Phil},
  booktitle={Interspeech},
  year={2004}
}
"""


class CharErrorRate(evaluate.Metric):
    """Character errors per reference character of a corpus; texts are compared as they are."""

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
        return sum(map(count_char_errors, references, predictions), ErrorCounts()).rate
