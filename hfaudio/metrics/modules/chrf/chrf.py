"""chrF for `evaluate.load`: sacrebleu's corpus score, 0 to 100, as one float."""

import datasets
import evaluate
from sacrebleu.metrics import CHRF

DESCRIPTION = "F-score of character n-grams of 1 to 6, recall weighted twice; 0 to 100, higher is better."

CITATION = """\
@inproceedings{popovic2015chrf,
  title={chrF: character n-gram F-score for automatic MT evaluation},
  author={Popović, Maja},
  booktitle={Proceedings of the Tenth Workshop on Statistical Machine Translation},
  year={2015}
}
"""


class Chrf(evaluate.Metric):
    """chrF of a corpus with one reference a text; texts are compared as they are."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description="predictions and references: two lists of strings, one pair a text",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> float:
        return float(CHRF().corpus_score(predictions, [references]).score)
