"""N-grams of a back-off language model as arrays, one table for each order. All scores are log10, as in ARPA files."""

from dataclasses import dataclass

import numpy as np

UNK, BOS, EOS = 0, 1, 2  # ids of <unk>, <s> and </s> in every model
MARKS = ("<unk>", "<s>", "</s>")
LOG_ZERO = -99.0  # stands for a probability of zero, as in ARPA files
UNITS = ("word", "char", "bpe")
SPACE_MARK = "\u2581"  # "▁", a space in models of characters and word pieces


@dataclass(frozen=True, eq=False)
class NGramTable:
    """N-grams of one order, (n,) each; rows are sorted by (prefix, word).

    The n-gram without its last word is row `prefix` of the table one order lower, without its first word row `suffix`.
    """

    prefix: np.ndarray  # int32, zeros at order 1
    word: np.ndarray  # int32, the last word; at order 1 the row itself
    suffix: np.ndarray  # int32, zeros at order 1
    log_prob: np.ndarray  # float32, log10
    log_backoff: np.ndarray  # float32, log10; zeros at the highest order and where no longer n-gram extends this one

    def __len__(self) -> int:
        return len(self.word)
