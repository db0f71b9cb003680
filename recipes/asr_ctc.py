"""Fine-tune, or train from nothing, a CTC speech recogniser.

The bundled spoken prompts, a small LSTM, a few minutes on a laptop CPU:

    accelerate launch recipes/asr_ctc.py

Your own recordings and a pretrained encoder (Whisper, wav2vec2, HuBERT, WavLM, w2v-BERT, Parakeet CTC, ...):

    accelerate launch recipes/asr_ctc.py --model facebook/wav2vec2-base --dataset user/recordings --output_dir my_model

Options are the defaults, then a YAML file, then flags (recipes/asr_ctc.py recipes/configs/digits.yaml --seed 1);
--help lists them. The result is a folder that `pipeline("automatic-speech-recognition", model=FOLDER)` opens, with
its language model, metrics.json, curves.png, lm_tuning.png and worst_utterances.md beside the weights.
"""

import dataclasses
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from transformers import Wav2Vec2Processor, set_seed

from hfaudio.audio.augment import Augment, AugmentArguments
from hfaudio.data.collate import CTCCollator
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, known_rows, load_splits, training_texts
from hfaudio.data.examples import ExampleEncoder, SpeechExamples, SpeechStream
from hfaudio.hub.publish import check_login, publish_run
from hfaudio.metrics.error_rate import ErrorRate
from hfaudio.metrics.results import split_rates
from hfaudio.models.frames import FrameCount
from hfaudio.processing.language_model import remove_language_model
from hfaudio.processing.remote_code import carry_code
from hfaudio.processing.tokenizer import LabelFrames, ctc_labels
from hfaudio.training.adapters import (
    AdapterArguments,
    GradientCheck,
    add_adapter,
    quantization_config,
    save_trained,
    trainable_table,
    training_facts,
)
from hfaudio.training.arguments import AudioTrainingArguments, parse_arguments
from hfaudio.training.callbacks import CTCMonitor
from hfaudio.training.ctc_models import ModelArguments, build_model, build_tokenizer, duration_limits, head_names
from hfaudio.training.language_model import LanguageModelArguments, LMDecoding, build_lm
from hfaudio.training.report import write_report
from hfaudio.training.scoring import CTCScorer
from hfaudio.training.trainer import CTCTrainer

logger = logging.getLogger(__name__)


@dataclass
class CTCTrainingArguments(AudioTrainingArguments):
    output_dir: str | None = field(default="output/asr_ctc", metadata={"help": "Where model and results go."})
    learning_rate: float | None = field(default=None, metadata={"help": "Default: 3e-3 for the LSTM, else 1e-4."})
    num_train_epochs: float = field(default=14, metadata={"help": "Passes over the training split."})
    metric_for_best_model: str | None = field(default="wer", metadata={"help": "What the best checkpoint is by."})
    greater_is_better: bool | None = field(default=False, metadata={"help": "False for error rates."})


ARGUMENTS = (
    DataArguments,
    ModelArguments,
    AdapterArguments,
    AugmentArguments,
    LanguageModelArguments,
    CTCTrainingArguments,
)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    start = time.time()
    data_args, model_args, adapter_args, augment_args, lm_args, args = parse_arguments(*ARGUMENTS, argv=argv)
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.WARNING)
    args.learning_rate = args.learning_rate or (3e-3 if model_args.model == "lstm" else 1e-4)
    check_login(args)
    set_seed(args.seed)

    # Data: undecoded audio and normalised text; the training split may be a stream.
    splits = load_splits(data_args)

    # Vocabulary from training transcripts only; what other splits have beyond it counts as an error.
    texts = training_texts(data_args, splits["train"], model_args.vocabulary_rows)
    tokenizer = build_tokenizer(model_args, texts)

    # Model and processor
    model, extractor = build_model(model_args, tokenizer, data_args.normalizer, quantization_config(adapter_args))
    processor = Wav2Vec2Processor(extractor, tokenizer)

    # Examples: rows that cannot be used are skipped and counted; workers decode, augment and extract features.
    # Only training rows must have room for their labels, at the highest speed; a test keeps what is hard.
    rate, speeds = extractor.sampling_rate, augment_args.speeds
    frames = FrameCount.of(model, extractor)
    shortest, longest = duration_limits(model, frames, rate, speeds)
    row_check = RowCheck(rate, data_args.normalizer, data_args.min_seconds, data_args.max_seconds)
    train_check = dataclasses.replace(
        row_check,
        min_seconds=max(row_check.min_seconds, shortest),
        max_seconds=min(row_check.max_seconds, longest),
        min_frames=LabelFrames(tokenizer),
        num_frames=frames.at_speed(max(speeds)),
    )
    encoder = ExampleEncoder(processor)
    augmented = ExampleEncoder(processor, Augment(augment_args, rate, args.seed))
    examples: dict[str, Any] = {}
    skipped: dict[str, dict[str, int]] = {}
    for name, rows in splits.items():
        check, encode = (train_check, augmented) if name == "train" else (row_check, encoder)
        if isinstance(rows, IterableDataset):
            examples[name] = SpeechStream(
                rows,
                check,
                encode,
                num_rows=known_rows(rows),
                shuffle_buffer=data_args.shuffle_buffer,
                max_broken_share=data_args.max_broken_share,
            )
            continue
        with args.main_process_first(desc="checking rows"):
            rows, counts = check_rows(rows, check, data_args.num_proc)
        logger.info("%s: %s", name, counts)
        skipped[name] = counts.by_reason
        keep = data_args.keep_seconds if name == "train" else 0
        examples[name] = SpeechExamples(rows, check, encode, keep_seconds=keep)

    # The language model comes before the training, so that a mistake in it does not show after hours.
    output_dir, is_main = Path(args.output_dir), args.process_index == 0
    scorer = CTCScorer(ctc_labels(tokenizer), tokenizer.pad_token_id)
    decoding = None
    if is_main and lm_args.lm != "none":
        lm = build_lm(lm_args, texts, data_args.normalizer)
        decoding = LMDecoding(lm_args, lm, scorer, seed=args.seed, device=str(args.device))

    # Training: all weights, or an adapter and the head if that is new.
    model = add_adapter(model, adapter_args, () if model_args.keep_vocabulary else head_names(model))
    logger.info("what is trained:\n%s", trainable_table(model))
    trainer = CTCTrainer(
        model=model,
        args=args,
        processor=processor,
        scorer=scorer,
        train_dataset=examples["train"],
        eval_dataset=examples["validation"],
        data_collator=CTCCollator(processor),
        callbacks=[CTCMonitor(), GradientCheck(is_error=adapter_args.adapter != "none")],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    if data_args.streaming:
        skipped["train"] = trainer.data_place.loader.skipped
        logger.info("train, over all epochs: %s", trainer.data_place.loader.progress())

    # Results of the best checkpoint: greedy, and with an n-gram language model whose weights are tuned on validation.
    save_trained(trainer, adapter_args, processor, output_dir, CTCCollator(processor)([examples["validation"][0]]))
    if is_main and decoding is None:
        remove_language_model(output_dir)
    scorer.keep_log_probs = lm_args.lm != "none"
    metrics: dict[str, ErrorRate] = {}
    for name in ("validation", "test"):
        if name not in examples:
            continue
        trainer.evaluate(examples[name], metric_key_prefix=name)
        worst = scorer.tally.worst(50)
        if not is_main:
            continue
        if decoding is None:
            metrics |= split_rates(scorer.tally, name, "greedy", seed=args.seed)
            continue
        if name == "validation":
            decoding.fit(output_dir)
        metrics |= decoding.rate(name)
    if not is_main:
        return {}
    carry_code(output_dir)
    results = write_report(
        output_dir,
        metrics,
        worst=worst,
        log_history=trainer.state.log_history,
        seed=args.seed,
        seconds=time.time() - start,
        processes=args.world_size,
        base_model=None if model_args.model == "lstm" else model_args.model,
        dataset=data_args.dataset,
        dataset_id=data_args.dataset_id,
        language=data_args.language,
        skipped=skipped,
        **training_facts(trainer.model),
        **(decoding.facts if decoding else {}),
    )
    publish_run(args, output_dir, model=trainer.model, inputs=examples["validation"].rows["audio"][:3])
    return results


if __name__ == "__main__":
    main()
