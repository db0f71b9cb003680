"""Train a small neural language model on transcripts, to rescore what a recogniser finds.

The transcripts of the bundled spoken prompts, an LSTM over characters, about a minute on a laptop CPU:

    accelerate launch recipes/neural_lm.py

Your own text, a Transformer over BPE pieces:

    accelerate launch recipes/neural_lm.py --text_files news.txt --model gpt2 --unit bpe --output_dir my_lm

The result is a folder that `AutoModelForCausalLM.from_pretrained(FOLDER)` opens, after `import hfaudio.auto` or with
`trust_remote_code=True`, with metrics.json: perplexity per word on the held-out splits.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import Trainer, set_seed

import hfaudio.auto  # noqa: F401, our folders open below
from hfaudio.data.datasets import DataArguments
from hfaudio.decoding.rescore import NeuralRescorer, longest_text
from hfaudio.hub.publish import check_login, publish_run
from hfaudio.processing.remote_code import carry_code
from hfaudio.training.arguments import AudioTrainingArguments, parse_arguments
from hfaudio.training.callbacks import LastStepCallback
from hfaudio.training.neural_lm import (
    NeuralLMArguments,
    TextExamples,
    build_neural_lm,
    collate_texts,
    load_texts,
    perplexity,
    write_perplexities,
)

logger = logging.getLogger(__name__)


@dataclass
class NeuralLMTrainingArguments(AudioTrainingArguments):
    output_dir: str | None = field(default="output/neural_lm", metadata={"help": "Where model and results go."})
    learning_rate: float = field(default=3e-3, metadata={"help": "Peak of the learning rate."})
    num_train_epochs: float = field(default=10, metadata={"help": "Passes over the training texts."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Sentences a step on each device."})
    eval_steps: float | None = field(default=200, metadata={"help": "Evaluate every N steps, and at the last one."})
    save_steps: float = field(default=200, metadata={"help": "Save every N steps, and at the last one."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that read; sentences need none."})
    batch_eval_metrics: bool = field(default=False, metadata={"help": "Keep False: the loss is all that is needed."})
    prediction_loss_only: bool = field(default=True, metadata={"help": "Keep True."})


def main(argv: list[str] | None = None) -> dict[str, Any]:
    start = time.time()
    data_args, lm_args, args = parse_arguments(DataArguments, NeuralLMArguments, NeuralLMTrainingArguments, argv=argv)
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.WARNING)
    check_login(args)
    set_seed(args.seed)

    # Texts, written as the recogniser writes; vocabulary and model from the training texts only
    texts = load_texts(lm_args, data_args, seed=args.seed)
    model, tokenizer = build_neural_lm(lm_args, texts["train"])
    longest = int(min(longest_text(model.config), 1024))
    logger.info("%s: %d parameters, %d tokens", lm_args.model, model.num_parameters(), len(tokenizer))

    # Training
    trainer = Trainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=TextExamples(texts["train"], tokenizer, longest),
        eval_dataset=TextExamples(texts["validation"], tokenizer, longest),
        data_collator=collate_texts,
        callbacks=[LastStepCallback()],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    # The saved folder is opened again, and scores the held-out texts as it will score n-best lists.
    trainer.save_model()
    if not trainer.is_world_process_zero():
        return {}
    carry_code(Path(args.output_dir))
    scorer = NeuralRescorer(args.output_dir, device=str(args.device))
    metrics = {}
    for name in ("validation", "test"):
        if name in texts:
            metrics[f"{name}/perplexity"] = perplexity(scorer(texts[name]), texts[name], seed=args.seed)
    for name, entry in metrics.items():
        logger.info("%s %.2f per word (n = %d sentences)", name, entry["value"], entry["n"])
    results = write_perplexities(
        Path(args.output_dir) / "metrics.json",
        metrics,
        seed=args.seed,
        seconds=time.time() - start,
        processes=args.world_size,
        model=lm_args.model,
        unit=lm_args.unit,
    )
    publish_run(args, Path(args.output_dir), model=trainer.model, inputs=texts["validation"][:3])
    return results


if __name__ == "__main__":
    main()
