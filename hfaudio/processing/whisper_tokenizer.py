"""A tokenizer in Whisper's format for a new, small model: byte-level BPE of the training texts."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import WhisperTokenizer

END = "<|endoftext|>"
CONTROL = (
    "startoftranscript",
    "en",
    "translate",
    "transcribe",
    "startoflm",
    "startofprev",
    "nospeech",
    "notimestamps",
)
TIMES = tuple(f"{step / 50:.2f}" for step in range(1501))  # every 20 ms up to 30 s


def build_whisper_tokenizer(texts: Iterable[str], vocab_size: int) -> WhisperTokenizer:
    """Byte-level BPE (Radford et al. 2019) with Whisper's control and time tokens behind it.

    Words begin with a blank, as Whisper writes them. All 256 bytes are in the vocabulary, so nothing is unknown.

    Args:
        vocab_size: entries of the BPE, without the 1,509 special tokens.

    Raises:
        ValueError: for fewer entries than there are bytes.
    """
    if vocab_size < 256:
        raise ValueError(f"a byte-level vocabulary needs at least 256 entries; got {vocab_size}")
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator((f" {text.strip()}" for text in texts), trainer)
    vocabulary = learner.get_vocab()
    control = [f"<|{name}|>" for name in CONTROL]
    for token in (END, *control, *(f"<|{name}|>" for name in TIMES)):
        vocabulary[token] = len(vocabulary)
    merges = json.loads(learner.to_str())["model"]["merges"]  # told in the saved form only
    # Special: left out of texts, and the tokens behind the last of them are times to transformers.
    return WhisperTokenizer(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in merges],
        pad_token=END,
        additional_special_tokens=control,
    )
