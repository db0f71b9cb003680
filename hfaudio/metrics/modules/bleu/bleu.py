"""BLEU for `evaluate.load`: sacrebleu's corpus score, 0 to 100, as one float."""

import datasets
import evaluate
from sacrebleu.metrics import BLEU

DESCRIPTION = "Precision of word n-grams of 1 to 4 with a penalty for short texts; 0 to 100, higher is better."

CITATION = """\
@inproceedings{papineni2002bleu,
  title={BLEU: a method for automatic evaluation of machine translation},
  author={Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
  booktitle={Proceedings of the 40th Annual Meeting of the Association for Computational Linguistics},
  year={2002}
}
"""


class Bleu(evaluate.Metric):
    """BLEU of a corpus with one reference a text; words by sacrebleu's tokenizer 13a, case kept."""

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
        return float(BLEU().corpus_score(predictions, [references]).score)
