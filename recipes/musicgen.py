"""Fine-tune a MusicGen, or train a small one: music from text, and where it can from a melody.

A new model of 6 million weights on the bundled music, and the bundled model tuned to your own recordings:

    accelerate launch recipes/musicgen.py
    accelerate launch recipes/musicgen.py --model bundled --dataset my_songs --adapter lora --adapter_rank 4

MusicGen on a GPU of 16 GB, songs of any length with a caption each, or captions made of their metadata:

    accelerate launch recipes/musicgen.py --model facebook/musicgen-small --dataset user/songs --memory_gb 16
    accelerate launch recipes/musicgen.py --model facebook/musicgen-small --dataset user/songs --memory_gb 16 \\
        --caption_style fields --fact_columns genre bpm key

Options are the defaults, then a YAML file, then flags (recipes/configs/music_prompts.yaml); --help lists them. The
result is a folder that `pipeline("text-to-audio", model=FOLDER)` opens without hfaudio, with metrics.json, curves.png
and samples/ beside the weights. `--resume_from_checkpoint last` goes on where a run was stopped.
"""

import logging
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from torch.utils.data import Subset
from transformers import set_seed

from hfaudio.data.codes import CodeExamples, cache_codes, default_folder
from hfaudio.data.collate import MusicCollator
from hfaudio.data.crops import CropEncoder, CropExamples
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, known_rows, load_splits
from hfaudio.data.examples import SpeechStream
from hfaudio.hub.publish import check_login, publish_run
from hfaudio.inference.generate import MusicGenerator
from hfaudio.metrics.results import command_line, result_line, write_results
from hfaudio.models.musicgen import check_conditions, window_frames
from hfaudio.text.captions import CaptionArguments, Captions, caption_texts
from hfaudio.training.adapters import (
    AdapterArguments,
    GradientCheck,
    add_adapter,
    save_trained,
    trainable_table,
    training_facts,
)
from hfaudio.training.arguments import AudioTrainingArguments, parse_arguments
from hfaudio.training.callbacks import DivergenceMonitor
from hfaudio.training.music_models import (
    HEADS_AND_EMBEDDINGS,
    MusicModelArguments,
    open_music_model,
    plan_memory,
    save_halves,
)
from hfaudio.training.music_trainer import MUSIC_PANELS, MusicTrainer, SampleCallback
from hfaudio.training.report import plot_history

logger = logging.getLogger(__name__)


@dataclass
class MusicDataArguments(DataArguments):
    dataset: str = field(default="bundled_music", metadata={"help": "As of the other recipes."})
    normalizer: str = field(default="none", metadata={"help": "How captions are written."})
    max_seconds: float = field(default=3600.0, metadata={"help": "Longer recordings are skipped and counted."})
    openings: int = field(
        default=0,
        metadata={
            "help": "Short windows of cached codes (a quarter) beside each window; they teach tempo and key, which a "
            "model otherwise reads off the past."
        },
    )
    code_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder of codes, computed once ('none': anew at every step). Default: beside datasets' cache; of "
            "a stream, and for melodies, none."
        },
    )


@dataclass
class MusicTrainingArguments(AudioTrainingArguments):
    output_dir: str | None = field(default="output/musicgen", metadata={"help": "Where model and results go."})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Default: 1e-3 for adapters and new models, else 1e-5."}
    )
    num_train_epochs: float = field(default=20, metadata={"help": "Passes over the training split."})
    codebook_weights: list[float] | None = field(
        default=None, metadata={"help": "Shares of the codebooks in the loss, coarsest first. Default: all alike."}
    )
    adapter_heads: bool = field(default=False, metadata={"help": "Low-rank updates of heads and embeddings, too."})
    save_halves: bool = field(default=False, metadata={"help": "Write the weights as float16: half the size."})
    memory_gb: float | None = field(
        default=None,
        metadata={"help": "Choose adapter, batch and checkpointing for a device with so much memory, by estimate."},
    )
    watch_examples: int = field(default=200, metadata={"help": "Validation clips that are evaluated on the way."})
    sample_prompts: list[str] | None = field(
        default=None, metadata={"help": "Played at each evaluation. Default: four validation captions."}
    )


ARGUMENTS = (MusicDataArguments, CaptionArguments, MusicModelArguments, AdapterArguments, MusicTrainingArguments)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    start = time.time()
    data_args, caption_args, model_args, adapter_args, args = parse_arguments(*ARGUMENTS, argv=argv)
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.WARNING)
    check_login(args)
    set_seed(args.seed)

    # Data and captions: as they are, or anew in each epoch; some clips have none, which guidance needs.
    splits = load_splits(data_args, labelled=caption_args.caption_style != "prompts")
    captions = Captions.of(caption_args, data_args.fact_columns)
    fixed = Captions(captions.style, captions.facts)  # nothing is left out of those that are evaluated

    # Model, and whether what it is told changes what it plays.
    model, processor = open_music_model(model_args, caption_texts(captions, splits["train"], 20_000))
    config, codec = model.decoder.config, model.audio_encoder
    has_melody = model.config.model_type == "musicgen_melody"
    collator = MusicCollator(processor, config, has_melody=has_melody)
    check_conditions(model)
    if args.memory_gb is not None:
        plan = plan_memory(model, args.memory_gb, window_frames(model), args.per_device_train_batch_size)
        logger.info("plan: %s", plan)
        adapter_args.adapter = plan.adapter if adapter_args.adapter == "none" else adapter_args.adapter
        args.per_device_train_batch_size = plan.batch_size
        args.gradient_accumulation_steps *= plan.gradient_accumulation_steps
        args.gradient_checkpointing = plan.gradient_checkpointing
    if args.save_halves and adapter_args.adapter != "none":
        raise ValueError("--save_halves writes all weights as float16; leave it out with --adapter")
    if args.adapter_heads and adapter_args.adapter == "none":
        raise ValueError("--adapter_heads is of --adapter lora; leave it out, or name an adapter")
    if args.learning_rate is None:
        args.learning_rate = 1e-3 if model_args.model == "new" or adapter_args.adapter != "none" else 1e-5

    # Examples: windows of songs of any length, as cached codes or as audio that the trainer encodes.
    rate, frames = codec.config.sampling_rate, window_frames(model)
    seconds = frames / codec.config.frame_rate
    check = RowCheck(
        rate,
        data_args.normalizer,
        data_args.min_seconds,
        data_args.max_seconds,
        labelled=caption_args.caption_style != "prompts",
        channels=config.audio_channels,
    )
    cache = Path(data_args.code_cache or default_folder())
    is_stream = isinstance(splits["train"], IterableDataset)
    on_the_fly = has_melody or data_args.code_cache == "none" or (is_stream and data_args.code_cache is None)
    if data_args.openings and on_the_fly:
        raise ValueError("--openings are windows of cached codes; name a --code_cache, or leave them out")
    examples: dict[str, Any] = {}
    skipped: dict[str, Any] = {}
    for name, rows in splits.items():
        caption = captions if name == "train" else fixed
        crops = CropEncoder(seconds, rate, args.seed, caption)
        if not on_the_fly:
            ranks = {"rank": args.process_index, "ranks": args.world_size}
            codec.to(args.device)
            cached = cache_codes(rows, check, codec, cache, num_codebooks=config.num_codebooks, **ranks)
            skipped[name] = cached.skipped
            is_train = name == "train"
            examples[name] = CodeExamples(
                cached,
                crop_frames=frames,
                caption=caption,
                seed=args.seed,
                random_offset=is_train,
                openings=data_args.openings if is_train else 0,
            )
        elif isinstance(rows, IterableDataset):
            examples[name] = SpeechStream(
                rows,
                check,
                crops,
                num_rows=known_rows(rows),
                shuffle_buffer=data_args.shuffle_buffer,
                max_broken_share=data_args.max_broken_share,
            )
        else:
            with args.main_process_first(desc="checking rows"):
                rows, counts = check_rows(rows, check, data_args.num_proc)
            logger.info("%s: %s", name, counts)
            skipped[name] = counts.by_reason
            examples[name] = CropExamples(rows, check, crops, keep_seconds=data_args.keep_seconds)

    # Training
    if args.adapter_heads:
        adapter_args.adapter_targets = [HEADS_AND_EMBEDDINGS]
    model = add_adapter(model, adapter_args)
    logger.info("what is trained:\n%s", trainable_table(model))
    everything = range(len(examples["validation"]))
    few = random.Random(args.seed).sample(everything, min(args.watch_examples, len(everything)))
    watched = Subset(examples["validation"], few)
    prompts = args.sample_prompts or [watched[i]["text"] for i in range(min(4, len(watched)))]

    def play(tuned: Any) -> list[Any]:
        return MusicGenerator.of(tuned, processor)(prompts, seeds=range(len(prompts)))

    trainer = MusicTrainer(
        model=model,
        args=args,
        processor=processor,
        codebook_weights=args.codebook_weights,
        train_dataset=examples["train"],
        eval_dataset=watched,
        data_collator=collator,
        callbacks=[
            DivergenceMonitor(),
            GradientCheck(is_error=adapter_args.adapter != "none"),
            SampleCallback(play, Path(args.output_dir, "samples"), rate),
        ],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if is_stream and on_the_fly:
        skipped["train"] = trainer.data_place.loader.skipped

    # Results of the best checkpoint on whole splits.
    output_dir = Path(args.output_dir)
    save_trained(trainer, adapter_args, processor, output_dir, trainer.model_inputs(collator([watched[0]])))
    if args.save_halves and trainer.is_world_process_zero():
        save_halves(trainer.accelerator.unwrap_model(trainer.model), output_dir)
    metrics: dict[str, Any] = {}
    for name in ("validation", "test"):
        if name in examples:
            trainer.evaluate(examples[name], metric_key_prefix=name)
            metrics |= trainer.scorer.results(name)
    if not trainer.is_world_process_zero():
        return {}
    plot_history(trainer.state.log_history, output_dir / "curves.png", MUSIC_PANELS)
    for name, result in metrics.items():
        logger.info("%s %s", name, result_line(result))
    results = write_results(
        output_dir / "metrics.json",
        metrics,
        seed=args.seed,
        seconds=time.time() - start,
        command=command_line(),
        base_model=None if model_args.model == "new" else model_args.model,
        dataset=data_args.dataset,
        dataset_id=data_args.dataset_id,
        prompts=prompts,
        processes=args.world_size,
        skipped=skipped,
        **training_facts(trainer.model),
    )
    publish_run(args, output_dir, model=trainer.model, inputs=prompts[:3])
    return results


if __name__ == "__main__":
    main()
