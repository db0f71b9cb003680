"""Train, or fine-tune, a neural codec for music or speech: EnCodec, with adversaries.

The bundled music, a codec of 1.5 million weights:

    accelerate launch recipes/codec.py

Your own recordings, a pretrained codec, a GPU:

    accelerate launch recipes/codec.py --model facebook/encodec_32khz --dataset user/songs --crop_seconds 2 --bf16 True

Options are the defaults, then a YAML file, then flags (recipes/codec.py recipes/configs/music_codec.yaml); --help
lists them. The result is a folder that `EncodecModel.from_pretrained(FOLDER)` opens without hfaudio, with
metrics.json, curves.png and samples/ (audio and spectrograms) beside the weights. `--resume_from_checkpoint last`
goes on where a run was stopped.
"""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import IterableDataset
from torch import Tensor
from transformers import EncodecFeatureExtractor

from hfaudio.data.crops import CropEncoder, CropExamples, stack_crops
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, known_rows, load_splits
from hfaudio.data.examples import SpeechStream, random_rows
from hfaudio.data.loader import BatchLoader
from hfaudio.hub.publish import check_login, publish_run
from hfaudio.metrics.results import Mean, command_line, result_line, write_results
from hfaudio.models.codec_losses import LossBalancer, SpectralLoss
from hfaudio.models.discriminator import (
    MultiScaleSTFTDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    halves,
)
from hfaudio.models.guide import SpectralGuide
from hfaudio.training.arguments import parse_arguments
from hfaudio.training.codec_models import CodecArguments, build_codec
from hfaudio.training.codec_report import CODEC_PANELS, clips_of, save_samples, score_codec
from hfaudio.training.loop import LoopArguments, adamw, fit, make_accelerator
from hfaudio.training.report import plot_history

logger = logging.getLogger(__name__)

GUIDE_CROPS = 256  # on which the guide is fitted


@dataclass
class CodecDataArguments(DataArguments):
    dataset: str = field(default="bundled_music", metadata={"help": "As of the other recipes; needs no transcripts."})
    max_seconds: float = field(default=3600.0, metadata={"help": "Longer recordings are skipped and counted."})
    crop_seconds: float = field(default=1.0, metadata={"help": "Length of a training example."})
    eval_clips: int = field(default=32, metadata={"help": "Validation clips scored on the way; all at the end."})
    eval_seconds: float = field(default=10.0, metadata={"help": "At most so much of each clip is scored."})


@dataclass
class LossArguments:
    """Weights are the shares of the losses' gradients (loss balancer)."""

    waveform_weight: float = field(default=0.1, metadata={"help": "L1 distance of samples."})
    mel_weight: float = field(default=1.0, metadata={"help": "Distance of mel spectra."})
    stft_weight: float = field(default=1.0, metadata={"help": "Distance of magnitude spectra."})
    complex_weight: float = field(default=1.0, metadata={"help": "Distance of complex spectra, phases included."})
    adversarial_weight: float = field(default=1.5, metadata={"help": "Discriminators: hinge and feature matching."})
    adversarial_start: int = field(default=2000, metadata={"help": "Step at which the discriminators begin."})
    discriminator_every: int = field(default=2, metadata={"help": "Discriminators learn at every N-th step."})
    discriminator_seconds: float = field(default=0.3, metadata={"help": "They see so much of each example."})
    discriminator_filters: int = field(default=8, metadata={"help": "Their channels."})
    discriminator_n_ffts: list[int] = field(
        default_factory=lambda: [2048, 1024, 512], metadata={"help": "Lengths of their STFTs, one each."}
    )


@dataclass
class CodecLoopArguments(LoopArguments):
    output_dir: str = field(default="output/codec", metadata={"help": "Where model and results go."})
    max_steps: int = field(default=2500, metadata={"help": "Training steps."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Examples a step on each device."})


ARGUMENTS = (CodecDataArguments, CodecArguments, LossArguments, CodecLoopArguments)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    start = time.time()
    data_args, codec_args, loss_args, args = parse_arguments(*ARGUMENTS, argv=argv)
    check_login(args)
    accelerator = make_accelerator(args)
    is_main, output_dir = accelerator.is_main_process, Path(args.output_dir)
    logging.basicConfig(level=logging.INFO if is_main else logging.WARNING)

    # Models: the codec, and the adversaries that it learns to convince.
    codec = build_codec(codec_args)
    stock = codec.codec if codec_args.bottleneck == "rvq" else codec
    rate, channels = stock.config.sampling_rate, stock.config.audio_channels
    discriminator = MultiScaleSTFTDiscriminator(
        channels, loss_args.discriminator_n_ffts, loss_args.discriminator_filters
    )
    spectral_loss = SpectralLoss(rate).to(accelerator.device)
    balancer = LossBalancer(
        {
            "waveform": loss_args.waveform_weight,
            "mel": loss_args.mel_weight,
            "stft": loss_args.stft_weight,
            "complex": loss_args.complex_weight,
            "adversarial": loss_args.adversarial_weight,
        }
    ).to(accelerator.device)
    weights = sum(weight.numel() for weight in stock.parameters())
    logger.info("codec: %.2f million weights, %.3g frames a second", weights / 1e6, stock.config.frame_rate)

    # Data: crops of recordings, which may be a stream; transcripts are not needed.
    row_check = RowCheck(
        rate, min_seconds=data_args.min_seconds, max_seconds=data_args.max_seconds, labelled=False, channels=channels
    )
    crops = CropEncoder(data_args.crop_seconds, rate, args.seed)
    splits = load_splits(data_args, labelled=False)
    skipped: dict[str, Any] = {}
    for name, rows in splits.items():
        if not isinstance(rows, IterableDataset):
            with accelerator.main_process_first():
                splits[name], counts = check_rows(rows, row_check, data_args.num_proc)
            logger.info("%s: %s", name, counts)
            skipped[name] = counts.by_reason
    train = splits["train"]
    if isinstance(train, IterableDataset):
        examples: Any = SpeechStream(
            train,
            row_check,
            crops,
            num_rows=known_rows(train),
            shuffle_buffer=data_args.shuffle_buffer,
            max_broken_share=data_args.max_broken_share,
        )
    else:
        examples = CropExamples(train, row_check, crops, keep_seconds=data_args.keep_seconds)
    ranks, rank = accelerator.num_processes, accelerator.process_index
    batches = examples.batches(None, args.per_device_train_batch_size, ranks, rank, args.seed, step_multiple=1)
    loader = BatchLoader(batches, examples, stack_crops, num_workers=args.dataloader_num_workers)
    few = random_rows(splits["validation"], data_args.eval_clips, args.seed)
    few_clips = clips_of(few, row_check, data_args.eval_seconds, rank, ranks)

    # What a new codec starts with. A pretrained one has its own latents.
    guide = SpectralGuide(rate, stock.config.hop_length, stock.config.hidden_size)
    guide_steps = codec_args.guide_steps if codec_args.model is None else 0
    if guide_steps and not args.resume_from_checkpoint:
        guide.fit(torch.cat(gather_object([first_crops(loader, GUIDE_CROPS // ranks)])))  # the same on all ranks
    guide.to(accelerator.device)

    # Two optimisers: of the codec from the first step, of the adversaries from theirs.
    codec_optimizer, codec_schedule = adamw(codec, args)
    adversary_optimizer, adversary_schedule = adamw(discriminator, args, start=loss_args.adversarial_start)
    codec, discriminator, codec_optimizer, adversary_optimizer = accelerator.prepare(
        codec, discriminator, codec_optimizer, adversary_optimizer
    )
    accelerator.register_for_checkpointing(codec_schedule, adversary_schedule, balancer, guide)
    judge = accelerator.unwrap_model(discriminator)  # for the codec's turn, in which it learns nothing

    def step(batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        audio = batch["input_values"]
        codec.train()
        with accelerator.autocast():
            made = codec(audio, guide(audio) if number < guide_steps else None)
        copy = made.audio.float()
        losses = spectral_loss(audio, copy) | {"waveform": (audio - copy).abs().mean()}
        figures = dict(losses) | {"guide" if number < guide_steps else "bottleneck": made.bottleneck_loss}

        if number >= loss_args.adversarial_start:
            piece = random_piece(audio.shape[-1], round(loss_args.discriminator_seconds * rate), args.seed, number)
            if (number - loss_args.adversarial_start) % loss_args.discriminator_every == 0:
                with accelerator.autocast():
                    pair = discriminator(torch.cat([audio[..., piece], copy[..., piece].detach()]))
                real, fake = halves(pair)
                figures["discriminator"] = discriminator_loss(real, fake)
                adversary_optimizer.zero_grad()
                accelerator.backward(figures["discriminator"])
                accelerator.clip_grad_norm_(discriminator.parameters(), args.max_grad_norm)
                adversary_optimizer.step()
            adversary_schedule.step()
            with accelerator.autocast():
                fake = judge(copy[..., piece])
                with torch.no_grad():
                    real = judge(audio[..., piece])
            figures["adversarial"] = adversarial_loss(fake)
            figures["feature_matching"] = feature_matching_loss(real, fake)
            losses["adversarial"] = figures["adversarial"] + figures["feature_matching"]

        # One backward pass through the codec, from the balanced gradient at its output.
        gradient = balancer(losses, copy)
        codec_optimizer.zero_grad()
        bottleneck_weight = 1.0 if number < guide_steps else codec_args.bottleneck_weight
        accelerator.backward((gradient * copy).sum() + bottleneck_weight * made.bottleneck_loss)
        figures["grad_norm"] = accelerator.clip_grad_norm_(codec.parameters(), args.max_grad_norm)
        codec_optimizer.step()
        codec_schedule.step()
        return figures

    def evaluate(number: int) -> dict[str, float]:
        if number <= guide_steps:  # there are no codebooks yet
            return {}
        score = score_codec(stock, few_clips, None, accelerator.device)
        if is_main:
            save_samples(stock, few_clips[:4], output_dir / "samples", number)
        figures = {f"eval_{name}": result.value for name, result in score.means.items()}
        for name, values in score.usage().items():  # of each codebook
            figures |= {f"eval_{name}/{codebook}": value for codebook, value in enumerate(values)}
        return figures

    history = fit(accelerator, args, loader, step, evaluate)

    # Results at every bandwidth, then the folder that others open.
    metrics: dict[str, Mean] = {}
    codebooks: dict[str, Any] = {}
    for name in [name for name in ("validation", "test") if name in splits]:
        clips = clips_of(splits[name], row_check, data_args.eval_seconds, rank, ranks)
        for bandwidth in stock.config.target_bandwidths if codec_args.bottleneck == "rvq" else [None]:
            score = score_codec(stock, clips, bandwidth, accelerator.device)
            label = "kl" if bandwidth is None else f"{bandwidth:g}kbps"
            metrics |= {f"{name}/{measure}/{label}": result for measure, result in score.means.items()}
            codebooks[name] = score.usage()  # of the last, the highest, bandwidth
    if not is_main:
        return {}
    stock.save_pretrained(output_dir)
    EncodecFeatureExtractor(channels, rate).save_pretrained(output_dir)
    plot_history(history, output_dir / "curves.png", CODEC_PANELS)
    for name, result in metrics.items():
        logger.info("%s %s", name, result_line(result))
    results = write_results(
        output_dir / "metrics.json",
        metrics,
        seed=args.seed,
        seconds=time.time() - start,
        command=command_line(),
        dataset=data_args.dataset,
        dataset_id=data_args.dataset_id,
        base_model=codec_args.model,
        codebooks=codebooks,
        skipped=skipped,
        steps=args.max_steps,
    )
    examples = [{"array": clip.cpu().numpy(), "sampling_rate": rate} for clip in clips[:3]]
    publish_run(args, output_dir, model=stock, inputs=examples)
    return results


def first_crops(loader: BatchLoader, count: int) -> Tensor:
    """At least so many of the first training examples (B, channels, N), or all, which will come again in training."""
    place, batches, found = loader.state_dict(), [], 0
    for batch in loader:
        batches.append(batch["input_values"])
        found += len(batches[-1])
        if found >= count:
            break
    loader.load_state_dict(place)
    return torch.cat(batches)


def random_piece(length: int, size: int, seed: int, step: int) -> slice:
    """Where the discriminators look at this step: the same on all ranks and after a resume."""
    first = torch.randint(max(1, length - size + 1), (), generator=torch.Generator().manual_seed(seed * 2**32 + step))
    return slice(int(first), int(first) + size)


if __name__ == "__main__":
    main()
