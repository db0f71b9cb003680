"""Estimate an n-gram language model (modified Kneser-Ney, the numbers of KenLM's lmplz) and say what it is worth.

The transcripts of the bundled spoken prompts, in seconds:

    python recipes/ngram_lm.py

Your own text, a sentence a line (plain or gzip), or a text dataset streamed from the Hub:

    python recipes/ngram_lm.py --text news.txt.gz talks.txt --order 4 --prune 0 0 1 --output_dir my_lm
    python recipes/ngram_lm.py --dataset user/texts --text_column sentence --unit char --order 6

Options are the defaults, then a YAML file, then flags; --help lists them. The result is a folder with lm.ngram, which
`recipes/asr_ctc.py --lm FOLDER` and `NGramLM.load(FOLDER)` open, and metrics.json: perplexity on held-out text, and on
the same text with the words of every sentence shuffled, which a model that knows their order finds harder.
"""

import logging
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hfaudio.cli import byte_count
from hfaudio.data.datasets import DataArguments, load_splits
from hfaudio.data.text import dataset_lines, piece_splitter
from hfaudio.metrics.results import command_line, write_results
from hfaudio.ngram.estimate import estimate
from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.prune import prune_entropy
from hfaudio.text.lines import hold_out, text_lines
from hfaudio.text.normalize import normalize
from hfaudio.training.arguments import parse_arguments

logger = logging.getLogger(__name__)


@dataclass
class TextArguments:
    text: list[str] | None = field(default=None, metadata={"help": "Text files, a sentence a line, plain or gzip."})
    eval_text: list[str] | None = field(default=None, metadata={"help": "Held-out text files."})
    dataset: str = field(
        default="bundled", metadata={"help": "Without --text: 'bundled', a text dataset on the Hub, or a folder."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration, if it has several."})
    train_split: str = field(default="train", metadata={"help": "Its split to train on."})
    text_column: str = field(default="text", metadata={"help": "Its column of text."})
    normalizer: str = field(default="basic", metadata={"help": "none, basic or english, as the recogniser's."})
    eval_every: int = field(
        default=20, metadata={"help": "Without --eval_text: one line in so many is held out, at most 20,000."}
    )

    def __post_init__(self) -> None:
        if self.eval_every < 2:
            raise ValueError(
                f"--eval_every is {self.eval_every}; one line in so many is held out, so give at least 2, or a large "
                "number to hold out none"
            )


@dataclass
class NGramArguments:
    output_dir: str = field(default="output/ngram_lm", metadata={"help": "Where the model and results go."})
    order: int = field(default=3, metadata={"help": "Words of the longest n-grams, 1 to 6."})
    unit: str = field(default="word", metadata={"help": "word, char, or bpe with --tokenizer."})
    tokenizer: str | None = field(default=None, metadata={"help": "Tokenizer of --unit bpe: folder or Hub id."})
    prune: list[int] = field(
        default_factory=list, metadata={"help": "Drop n-grams of order 1, 2, ... that occur at most so often."}
    )
    entropy_prune: float | None = field(
        default=None, metadata={"help": "Drop n-grams that change the perplexity by a smaller ratio, such as 1e-8."}
    )
    vocab_size: int | None = field(default=None, metadata={"help": "Keep so many words, the most frequent ones."})
    min_count: int = field(default=1, metadata={"help": "Keep words that occur at least so often."})
    quantize: int | None = field(default=None, metadata={"help": "Bits of a probability and a back-off, such as 8."})
    memory: str | None = field(
        default=None, metadata={"help": "What to sort in, such as 500M or 2G; the rest of the work goes to files."}
    )
    temp_dir: str | None = field(default=None, metadata={"help": "Where these files are (the system's folder)."})
    seed: int = field(default=0, metadata={"help": "Of the shuffling."})


def main(argv: list[str] | None = None) -> dict[str, Any]:
    start = time.time()
    text_args, args = parse_arguments(TextArguments, NGramArguments, argv=argv)
    logging.basicConfig(level=logging.INFO)

    # Text: normalised as transcripts are, for a word that is written in two ways is two words.
    held_out: list[str] = []
    lines: Iterable[str]
    if text_args.text:
        lines = text_lines(text_args.text, text_args.normalizer)
    elif text_args.dataset == "bundled":
        splits = load_splits(DataArguments())
        lines = [normalize(row["text"], text_args.normalizer) for row in splits["train"].select_columns("text")]
        held_out = [
            normalize(row["text"], text_args.normalizer) for row in splits["validation"].select_columns("text")
        ]
    else:
        lines = dataset_lines(
            text_args.dataset,
            text_args.train_split,
            text_args.text_column,
            text_args.normalizer,
            config=text_args.dataset_config,
        )
    if text_args.eval_text:
        held_out = list(text_lines(text_args.eval_text, text_args.normalizer))
        if not held_out:
            raise ValueError(f"--eval_text {' '.join(text_args.eval_text)} holds no line; leave it out, or check it")
    elif not held_out:
        lines = hold_out(lines, text_args.eval_every, held_out)

    # Model
    split = piece_splitter(args.tokenizer) if args.tokenizer else None
    model = estimate(
        lines,
        args.order,
        unit=args.unit,
        tokenize=split,
        prune=args.prune,
        vocab_size=args.vocab_size,
        min_count=args.min_count,
        memory=byte_count(args.memory) if args.memory else None,
        temp_dir=args.temp_dir,
    )
    tables = model.tables if args.entropy_prune is None else prune_entropy(model.tables, args.entropy_prune)
    file = NGramLM.from_tables(model.words, tables, unit=model.unit).save(
        Path(args.output_dir, "lm.ngram"), quantize=args.quantize
    )

    # Results, of the file as it will be used
    lm = NGramLM.load(file)
    if not held_out:
        logger.warning(
            "the text has fewer than %d lines, so none is held out and no perplexity measured; give --eval_text, or a "
            "smaller --eval_every",
            text_args.eval_every,
        )
    rng = random.Random(args.seed)
    shuffled = [" ".join(rng.sample(words, len(words))) for words in map(str.split, held_out)]
    perplexities = {}
    for name, sentences in {"held_out": held_out, "shuffled": shuffled}.items():
        if not sentences:
            continue
        perplexities[name] = lm.perplexity(" ".join(split(line)) if split else line for line in sentences)
        logger.info("%s: %s", name, perplexities[name])
    return write_results(
        Path(args.output_dir, "metrics.json"),
        {},
        seed=args.seed,
        seconds=time.time() - start,
        command=command_line(),
        perplexity={name: asdict(result) for name, result in perplexities.items()},
        ngrams=lm.counts,
        discounts=model.discounts.round(4).tolist(),
        notes=model.notes,
        bytes=file.stat().st_size,
    )


if __name__ == "__main__":
    main()
