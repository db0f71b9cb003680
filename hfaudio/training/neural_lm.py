"""Parts of recipes/neural_lm.py: texts, tokenizer, model and perplexity of a small neural language model."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hfaudio.data.datasets import DataArguments, load_splits
from hfaudio.metrics.results import command_line, write_results
from hfaudio.models.lstm_lm import LstmLMConfig, LstmLMForCausalLM
from hfaudio.text.normalize import normalize

logger = logging.getLogger(__name__)

UNITS = ("char", "word", "bpe")
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
MAX_POSITIONS = 512  # tokens that the Transformer reads at once
RESAMPLES = 1000


@dataclass
class NeuralLMArguments:
    """What the language model is made of."""

    model: str = field(
        default="lstm",
        metadata={"help": "'lstm' or 'gpt2' for a small new model, or a folder or Hub id to train further."},
    )
    unit: str = field(default="char", metadata={"help": f"Tokens of a new model: one of {', '.join(UNITS)}."})
    vocab_size: int = field(default=1000, metadata={"help": "At most so many words or BPE pieces."})
    hidden_size: int = field(default=192, metadata={"help": "Width of a new model."})
    num_hidden_layers: int = field(default=1, metadata={"help": "Layers of a new model."})
    dropout: float = field(default=0.2, metadata={"help": "Dropout of a new model."})
    text_files: list[str] | None = field(
        default=None, metadata={"help": "Train on the lines of these files, one sentence each, not on transcripts."}
    )
    held_out: float = field(default=0.05, metadata={"help": "Share of the lines of --text_files that validates."})

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"--unit must be one of {', '.join(UNITS)}; got {self.unit!r}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held_out must be between 0 and 1; got {self.held_out:g}")


def load_texts(args: NeuralLMArguments, data: DataArguments, *, seed: int) -> dict[str, list[str]]:
    """Normalised sentences by split, empty ones left out; of text files a random share is "validation"."""
    if args.text_files is None:
        texts = {
            name: _normalized((row["text"] or "" for row in rows.select_columns("text")), data.normalizer)
            for name, rows in load_splits(data).items()
        }
    else:
        lines: list[str] = []
        for file in args.text_files:
            if not Path(file).is_file():
                raise ValueError(f"--text_files: there is no file {file}; check the path")
            with open(file, encoding="utf-8") as stream:
                lines += _normalized(stream, data.normalizer)
        order = np.random.default_rng(seed).permutation(len(lines))
        count = max(1, round(args.held_out * len(lines)))
        chosen = set(order[:count].tolist())
        texts = {
            "train": [line for i, line in enumerate(lines) if i not in chosen],
            "validation": [line for i, line in enumerate(lines) if i in chosen],
        }
    texts["train"] = list(islice(texts["train"], data.max_train_examples))
    for name, sentences in texts.items():
        if not sentences:
            raise ValueError(f"the {name} split has no sentence with a word; give more text")
        logger.info("%s: %d sentences, %d words", name, len(sentences), sum(len(s.split()) for s in sentences))
    return texts


def _normalized(lines: Any, normalizer: str) -> list[str]:
    return [text for text in (normalize(line, normalizer) for line in lines) if text]


def build_text_tokenizer(texts: Sequence[str], unit: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """A stock fast tokenizer of characters, words or BPE pieces, with the sentence marks around every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>") if unit == "bpe" else models.WordLevel(unk_token="<unk>"))
    if unit == "char":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        tokenizer.decoder = decoders.Fuse()
    elif unit == "word":
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    trainer_class = trainers.BpeTrainer if unit == "bpe" else trainers.WordLevelTrainer
    size = 100_000 if unit == "char" else vocab_size  # characters are all kept
    tokenizer.train_from_iterator(
        texts, trainer_class(vocab_size=size, special_tokens=list(SPECIALS), show_progress=False)
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="right", **names)


def build_neural_lm(args: NeuralLMArguments, texts: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A new model with its tokenizer, or a trained one with its own."""
    if args.model not in ("lstm", "gpt2"):
        return AutoModelForCausalLM.from_pretrained(args.model), AutoTokenizer.from_pretrained(args.model)
    tokenizer = build_text_tokenizer(texts, args.unit, args.vocab_size)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    if args.model == "lstm":
        config = LstmLMConfig(
            vocab_size=len(tokenizer),
            hidden_size=args.hidden_size,
            num_hidden_layers=args.num_hidden_layers,
            dropout=args.dropout,
            **ids,
        )
        return LstmLMForCausalLM(config), tokenizer
    gpt2 = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_POSITIONS,
        n_embd=args.hidden_size,
        n_layer=args.num_hidden_layers,
        n_head=max(1, args.hidden_size // 64),
        embd_pdrop=args.dropout,
        attn_pdrop=args.dropout,
        resid_pdrop=args.dropout,
        **ids,
    )
    return GPT2LMHeadModel(gpt2), tokenizer


class TextExamples(torch.utils.data.Dataset):
    """Sentences as `{"input_ids": [...]}` between the sentence marks; longer ones are cut at `max_tokens`."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        encoded = tokenizer(list(texts), add_special_tokens=False).input_ids
        self.ids = [[start, *ids, tokenizer.eos_token_id][:max_tokens] for ids in encoded]
        if cut := sum(len(ids) + 2 > max_tokens for ids in encoded):
            logger.warning("%d of %d sentences are cut at %d tokens", cut, len(encoded), max_tokens)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.ids[index]}


def collate_texts(examples: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Ids, mask and labels (B, T), padded on the right with 0, 0 and -100.

    Not transformers' collator: it takes the pad token out of the labels, which in GPT-2 is the end of the sentence.
    """
    rows = [torch.tensor(example["input_ids"]) for example in examples]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad(rows, batch_first=True, padding_value=-100),
    }


def perplexity(log_probs: np.ndarray, texts: Sequence[str], *, seed: int) -> dict[str, float | int]:
    """Perplexity per word, the end of a sentence counting as one, from ln probabilities (n,); with a 95 % interval.

    Comparable between characters, words and BPE pieces as long as no text has an unknown token. The interval is a
    bootstrap over sentences.
    """
    words = np.array([len(text.split()) + 1 for text in texts])
    draws = np.random.default_rng(seed).integers(len(texts), size=(RESAMPLES, len(texts)))
    values = np.exp(-log_probs[draws].sum(1) / words[draws].sum(1))
    low, high = np.percentile(values, (2.5, 97.5))
    value = float(np.exp(-log_probs.sum() / words.sum()))
    return {"value": value, "low": float(low), "high": float(high), "n": len(texts), "words": int(words.sum())}


def write_perplexities(
    path: Path, metrics: dict[str, dict[str, float | int]], *, seed: int, seconds: float, **facts: Any
) -> dict[str, Any]:
    """`metrics.json` as every recipe writes it."""
    results = write_results(path, {}, seed=seed, seconds=seconds, command=command_line(), **facts)
    results["metrics"] = metrics
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return results
