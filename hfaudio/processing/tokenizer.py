"""CTC tokenizers from training transcripts, and what their ids spell.

The classes are transformers' own, so that `pipeline()` opens them anywhere: `Wav2Vec2CTCTokenizer` for characters,
`ParakeetTokenizer` for BPE. Building them is ours: the vocabulary code of transformers' examples reads the
evaluation text as well and gives an id twice when the text holds "|".
"""

import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ParakeetTokenizer, PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
REPLACEMENT_CHARACTER = "\ufffd"  # spells <unk>: no hypothesis can match it, so an unknown character is an error


def build_char_tokenizer(texts: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """Characters of the (normalised, training) texts; blank = pad = id 0, and the same ids for the same characters.

    No <s> and </s>: the greedy path of `pipeline()` would print them.

    Raises:
        ValueError: no text, the word delimiter "|" inside the text, or text that is not NFC.
    """
    characters = set().union(*map(set, texts)) - {" "}
    if not characters:
        raise ValueError("the training transcripts hold no character; is the text column the right one?")
    if DELIMITER in characters:
        raise ValueError(
            f"the training transcripts hold {DELIMITER!r}, which stands for the space; use --normalizer basic"
        )
    check_nfc("".join(sorted(characters)))
    vocabulary = {token: i for i, token in enumerate([BLANK, UNKNOWN, DELIMITER, *sorted(characters)])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(
            str(file),
            bos_token=None,
            eos_token=None,
            pad_token=BLANK,
            unk_token=UNKNOWN,
            word_delimiter_token=DELIMITER,
        )
    check_vocabulary(tokenizer)
    return tokenizer


def build_bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> ParakeetTokenizer:
    """Byte-pair encoding of the (normalised, training) texts; blank = pad = id 0. Sennrich et al. 2016.

    Raises:
        ValueError: text without characters, or fewer entries than the characters need.
    """
    texts = list(texts)
    alphabet = set().union(*map(set, texts)) - {" "}
    if not alphabet or vocab_size < len(alphabet) + 3:
        raise ValueError(f"vocab_size {vocab_size} is too small for {len(alphabet)} characters and 3 special tokens")
    check_nfc("".join(sorted(alphabet)))
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[BLANK, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = ParakeetTokenizer(tokenizer_object=tokenizer, pad_token=BLANK, unk_token=UNKNOWN)
    check_vocabulary(wrapped)
    return wrapped


def check_nfc(text: str) -> None:
    """Raise for text that is not composed: "é" in two code points would become two labels."""
    if not unicodedata.is_normalized("NFC", text):
        raise ValueError(
            "the training transcripts are not in Unicode NFC; use --normalizer basic (or none), which compose"
        )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise unless ids are 0..V-1, each for one token, and the blank is the padding token.

    transformers' CTC models take `config.pad_token_id` for the blank.
    """
    vocabulary = tokenizer.get_vocab()
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(f"the vocabulary's {len(vocabulary)} tokens do not have the ids 0 to {len(vocabulary) - 1}")
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token; CTC takes it for the blank, so set one")


def check_coverage(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], limit: float = 0.2) -> None:
    """Raise if the tokenizer does not know more than a share of the characters, as with another case or script.

    Transcripts in lower case against the upper-case vocabulary of wav2vec2-base-960h become <unk> without a word.
    """
    known = set("".join(ctc_labels(tokenizer)))
    counts = Counter("".join(texts))
    unknown = Counter({character: n for character, n in counts.items() if character not in known})
    share = unknown.total() / max(counts.total(), 1)
    if share > limit:
        examples = " ".join(character for character, _ in unknown.most_common(10))
        raise ValueError(
            f"{share:.0%} of the transcripts' characters are unknown to the kept vocabulary ({examples}); "
            "write them as it does (--normalizer none?) or leave out --keep_vocabulary"
        )


def ctc_labels(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each id spells: "" for the blank and sentence marks, " " for the delimiter, U+FFFD for the unknown.

    BPE pieces spell their leading space: "▁the" is " the".
    """
    vocabulary = tokenizer.get_vocab()
    labels = [""] * len(vocabulary)
    silent = set(tokenizer.all_special_tokens) - {tokenizer.unk_token, DELIMITER}
    for token, i in vocabulary.items():
        if token == tokenizer.unk_token:
            labels[i] = REPLACEMENT_CHARACTER
        elif token not in silent:
            labels[i] = " " if token == DELIMITER else token.replace("\u2581", " ")
    return labels


def label_text(ids: Sequence[int] | np.ndarray, labels: Sequence[str]) -> str:
    """The text of label ids that are already collapsed (a reference, or a decoder's result); no grouping here."""
    return " ".join("".join(labels[i] for i in ids).split())


def frames_needed(label_ids: Sequence[int]) -> int:
    """Frames that CTC needs for a label: one each, and a blank between two that are equal. T >= U + repeats."""
    return len(label_ids) + sum(a == b for a, b in pairwise(label_ids))


@dataclass(frozen=True)
class LabelFrames:
    """Frames that CTC needs for a text under this tokenizer; `RowCheck` asks it of every row."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, text: str) -> int:
        return frames_needed(self.tokenizer(text).input_ids)
