"""Fine-tune a speech recogniser with a decoder: Whisper, Moonshine, SpeechT5, any speech-encoder-decoder.

A rank-8 LoRA of Whisper on your own recordings, whose adapter is 3 MB, and all of its weights:

    accelerate launch recipes/asr_seq2seq.py --model openai/whisper-small --dataset user/recordings --language hindi \\
        --adapter lora --output_dir my_adapter
    accelerate launch recipes/asr_seq2seq.py --model openai/whisper-small --dataset user/recordings --language hindi

Options are the defaults, then a YAML file, then flags (recipes/configs/speechocean_whisper_lora.yaml); --help lists
them. The result is a folder that `pipeline("automatic-speech-recognition", model=FOLDER)` opens, with metrics.json,
curves.png, forgetting.md and worst_utterances.md beside the weights.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from transformers import set_seed

from hfaudio.audio.augment import Augment, AugmentArguments
from hfaudio.data.collate import Seq2SeqCollator
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, known_rows, load_splits, training_texts
from hfaudio.data.examples import ExampleEncoder, SpeechExamples, SpeechStream, by_length, random_rows
from hfaudio.hub.publish import check_login, publish_run
from hfaudio.models.seq2seq import decoder_positions
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
from hfaudio.training.callbacks import DivergenceMonitor
from hfaudio.training.forgetting import ForgettingArguments, ForgettingReport, ask, open_probes
from hfaudio.training.mixing import MixingArguments, check_mixing, mix_languages, mix_replay
from hfaudio.training.regularize import PullToStart
from hfaudio.training.report import write_report
from hfaudio.training.seq2seq_models import Seq2SeqModelArguments, build_targets, longest_clip, open_seq2seq
from hfaudio.training.seq2seq_trainer import GenerationScorer, SpeechSeq2SeqTrainer

logger = logging.getLogger(__name__)


@dataclass
class Seq2SeqTrainingArguments(AudioTrainingArguments):
    output_dir: str | None = field(default="output/asr_seq2seq", metadata={"help": "Where model and results go."})
    learning_rate: float | None = field(default=None, metadata={"help": "Default: 1e-3 for adapters, else 1e-5."})
    num_train_epochs: float = field(default=3, metadata={"help": "Passes over the training split."})
    metric_for_best_model: str | None = field(default="wer", metadata={"help": "What the best checkpoint is by."})
    greater_is_better: bool | None = field(default=False, metadata={"help": "False for error rates."})
    generate_every: int = field(default=1, metadata={"help": "Write texts at every n-th evaluation, else only loss."})
    watch_examples: int = field(default=200, metadata={"help": "Validation clips that are evaluated on the way."})
    l2_to_start: float = field(default=0.0, metadata={"help": "Pull all weights to where they started (L2-SP)."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("generate_every", "watch_examples"):
            if getattr(self, option) < 1:
                raise ValueError(f"--{option} must be at least 1; got {getattr(self, option)}")


def default_learning_rate(model: str, adapter: str) -> float:
    return 1e-3 if model == "new" or adapter != "none" else 1e-5


ARGUMENTS = (
    DataArguments,
    MixingArguments,
    Seq2SeqModelArguments,
    AdapterArguments,
    AugmentArguments,
    ForgettingArguments,
    Seq2SeqTrainingArguments,
)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    start = time.time()
    data_args, mixing_args, model_args, adapter_args, augment_args, forgetting_args, args = parse_arguments(
        *ARGUMENTS, argv=argv
    )
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.WARNING)
    args.learning_rate = args.learning_rate or default_learning_rate(model_args.model, adapter_args.adapter)
    check_mixing(mixing_args, data_args)
    check_login(args)
    set_seed(args.seed)

    # Data: undecoded audio and normalised text; the training split may be a stream.
    splits = load_splits(data_args)

    # Model and processor; what its decoder learns, and what it is asked.
    texts = training_texts(data_args, splits["train"], 20_000) if model_args.model == "new" else []
    model, processor = open_seq2seq(model_args, texts, quantization_config(adapter_args))
    language = data_args.language
    writing = {"normalizer": data_args.normalizer, "row_languages": data_args.language_column is not None}
    writing |= {"seed": args.seed}
    targets = build_targets(model_args, model, processor, language, trained=True, **writing)
    vars(model.generation_config).update(targets.generate_kwargs)  # what pipeline() will ask the tuned model
    questions = build_targets(model_args, model, processor, language, trained=False, **writing)

    # Examples: rows that cannot be used are skipped and counted; workers decode, augment and extract features.
    rate = processor.feature_extractor.sampling_rate
    longest = longest_clip(model, augment_args.speeds, augment_args.silence_seconds[1])
    check = RowCheck(
        rate,
        data_args.normalizer,
        data_args.min_seconds,
        min(data_args.max_seconds, longest),
        num_tokens=targets.length,
        max_tokens=decoder_positions(model),
    )
    augment = Augment(augment_args, rate, args.seed)
    trained_on = ExampleEncoder(processor, augment, targets, model_args.train_window_seconds)
    scored_on = ExampleEncoder(processor, None, questions, model_args.eval_window_seconds)
    examples: dict[str, Any] = {}
    skipped: dict[str, dict[str, int]] = {}
    for name, rows in splits.items():
        if isinstance(rows, IterableDataset):
            examples[name] = SpeechStream(
                rows,
                check,
                trained_on,
                num_rows=known_rows(rows),
                shuffle_buffer=data_args.shuffle_buffer,
                max_broken_share=data_args.max_broken_share,
            )
            continue
        with args.main_process_first(desc="checking rows"):
            rows, counts = check_rows(rows, check, data_args.num_proc)
        logger.info("%s: %s", name, counts)
        skipped[name] = counts.by_reason
        if name != "train":
            examples[name] = SpeechExamples(by_length(rows), check, scored_on)
            continue
        mixture = mix_languages(rows, mixing_args, args.seed)
        if mixing_args.replay_dataset:
            with args.main_process_first(desc="checking rows to replay"):
                rows, mixture, counts = mix_replay(rows, mixing_args, data_args, check, args.seed)
            logger.info("replayed: %s", counts)
            skipped["replay"] = counts.by_reason
        examples[name] = SpeechExamples(rows, check, trained_on, keep_seconds=data_args.keep_seconds, mixture=mixture)
    collator = Seq2SeqCollator(processor, processor.tokenizer.pad_token_id)
    watched = by_length(random_rows(examples["validation"].rows, args.watch_examples, args.seed))

    # What the model can do before it is tuned on this; nothing, if it is new.
    is_main = args.process_index == 0
    asked = {"normalizer": model_args.score_normalizer, "generate_kwargs": questions.generate_kwargs}
    probes = []
    if is_main and model_args.model != "new":
        has_times = model.config.model_type == "whisper"
        probes = open_probes(forgetting_args, examples["validation"].rows, check, has_times=has_times, seed=args.seed)
    before = ask(model.to(args.device), processor, probes, **asked)

    # Training
    model = add_adapter(model, adapter_args)
    pull = [PullToStart(model, args.l2_to_start)] if args.l2_to_start else []
    logger.info("what is trained:\n%s", trainable_table(model))
    scorer = GenerationScorer(processor.tokenizer, model_args.score_normalizer)
    trainer = SpeechSeq2SeqTrainer(
        model=model,
        args=args,
        processor=processor,
        scorer=scorer,
        prompt_length=questions.prompt_length,
        generate_every=args.generate_every,
        train_dataset=examples["train"],
        eval_dataset=SpeechExamples(watched, check, scored_on),
        data_collator=collator,
        callbacks=[DivergenceMonitor(), GradientCheck(is_error=adapter_args.adapter != "none"), *pull],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if data_args.streaming:
        skipped["train"] = trainer.data_place.loader.skipped

    # Results of the best checkpoint on whole splits, and what it has unlearned.
    output_dir = Path(args.output_dir)
    save_trained(trainer, adapter_args, processor, output_dir, collator([examples["validation"][0]]))
    metrics: dict[str, Any] = {}
    facts = data_args.fact_columns or []
    for name in ("validation", "test"):
        if name in examples:
            trainer.evaluate(examples[name], metric_key_prefix=name)
            worst = scorer.tally.worst(50)
            metrics |= scorer.results(name, target=model_args.target, facts=facts, seed=args.seed)
    if not is_main:
        return {}
    after = ask(trainer.model, processor, probes, **asked)
    forgetting = ForgettingReport(before, after, normalizer=model_args.score_normalizer, seed=args.seed)
    (output_dir / "forgetting.md").write_text(forgetting.table(), encoding="utf-8")
    results = write_report(
        output_dir,
        metrics | forgetting.metrics(),
        worst=worst,
        log_history=trainer.state.log_history,
        seed=args.seed,
        seconds=time.time() - start,
        processes=args.world_size,
        base_model=None if model_args.model == "new" else model_args.model,
        dataset=data_args.dataset,
        dataset_id=data_args.dataset_id,
        language=data_args.language,
        skipped=skipped,
        **training_facts(trainer.model),
    )
    publish_run(args, output_dir, model=trainer.model, inputs=examples["validation"].rows["audio"][:3])
    return results


if __name__ == "__main__":
    main()
