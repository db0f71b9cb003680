"""A training loop by accelerate for models that `transformers.Trainer` cannot train: two optimisers, own gradients.

What a run has learned and where it stands is in its checkpoints: models, optimisers, schedules, random numbers, the
place in the data and the log. A run that is killed and resumed ends with the weights of one that was not.
"""

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor
from tqdm import tqdm

from hfaudio.data.loader import BatchLoader, Inputs
from hfaudio.training.arguments import last_checkpoint

PLACE = "loop.json"  # written last: a checkpoint without it was not finished


@dataclass
class LoopArguments:
    """Options of the loop, by the names of `transformers.TrainingArguments`."""

    output_dir: str = field(default="output", metadata={"help": "Where model and results go."})
    max_steps: int = field(default=2000, metadata={"help": "Training steps."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Examples a step on each device."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Highest learning rate, of AdamW."})
    warmup_steps: int = field(default=50, metadata={"help": "Steps in which the learning rate rises."})
    min_lr_ratio: float = field(default=0.05, metadata={"help": "Learning rate at the end, of the highest (cosine)."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of AdamW."})
    max_grad_norm: float = field(default=10.0, metadata={"help": "Gradients are clipped to this norm."})
    logging_steps: int = field(default=20, metadata={"help": "Log every N steps."})
    eval_steps: int = field(default=500, metadata={"help": "Evaluate every N steps, and at the last one."})
    save_steps: int = field(default=500, metadata={"help": "Save every N steps, and at the last one."})
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints that are kept."})
    seed: int = field(default=0, metadata={"help": "Of weights, order, crops and dropout."})
    bf16: bool = field(default=False, metadata={"help": "Mixed precision; spectra and codebooks stay in float32."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is an accelerator."})
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that decode audio."})
    report_to: str = field(default="none", metadata={"help": "Tracker: none, tensorboard, trackio or wandb."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "A checkpoint folder, or 'last' for the newest one in output_dir."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Push the result, once it is checked."})
    hub_model_id: str | None = field(default=None, metadata={"help": "user/name (the output folder's name)."})
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Of a repository that is made."})
    hub_revision: str | None = field(default=None, metadata={"help": "Branch to push to."})
    hub_token: str | None = field(default=None, metadata={"help": "Token of the Hub (that of hf auth login)."})

    def __post_init__(self) -> None:
        self.push_result = self.push_to_hub
        for name in ("max_steps", "per_device_train_batch_size", "logging_steps", "eval_steps", "save_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1; got {getattr(self, name)}")
        if self.report_to not in ("none", "tensorboard", "trackio", "wandb"):
            raise ValueError(f"--report_to must be none, tensorboard, trackio or wandb; got {self.report_to!r}")
        if self.resume_from_checkpoint == "last":
            checkpoint = last_checkpoint(Path(self.output_dir), PLACE)
            if checkpoint is None:
                raise ValueError(f"--resume_from_checkpoint last: no checkpoint in {self.output_dir}; leave it out")
            self.resume_from_checkpoint = str(checkpoint)
        elif self.resume_from_checkpoint and not Path(self.resume_from_checkpoint, PLACE).is_file():
            raise ValueError(f"{self.resume_from_checkpoint} is no checkpoint of this recipe: it has no {PLACE}")


def make_accelerator(args: LoopArguments) -> Accelerator:
    """An accelerator as the arguments say, seeded: equal weights on all ranks, other random numbers on each."""
    accelerator = Accelerator(
        mixed_precision="bf16" if args.bf16 else None,
        cpu=args.cpu,
        log_with=None if args.report_to == "none" else args.report_to,
        project_dir=args.output_dir,
        # Codebooks and running norms are kept equal by their own reductions.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    set_seed(args.seed)
    return accelerator


def adamw(
    module: torch.nn.Module, args: LoopArguments, *, betas: tuple[float, float] = (0.8, 0.99), start: int = 0
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over what has a gradient, and a warm-up with a cosine down to `min_lr_ratio` at the last step.

    Args:
        betas: 0.8 and 0.99 are DAC's and HiFi-GAN's for training against a discriminator.
        start: the step at which this optimiser begins; its schedule is stepped from there on.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, args.learning_rate, betas=betas, weight_decay=args.weight_decay)
    steps = max(1, args.max_steps - start)

    def ratio(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, args.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return warm * (args.min_lr_ratio + (1 - args.min_lr_ratio) * cosine)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, ratio)


Step = Callable[[Inputs, int], Mapping[str, Tensor]]  # (batch, number of the step) -> scalars for the log
Evaluate = Callable[[int], Mapping[str, float]]  # number of steps done -> figures for the log, or none


def fit(
    accelerator: Accelerator, args: LoopArguments, loader: BatchLoader, step: Step, evaluate: Evaluate
) -> list[dict[str, Any]]:
    """Train for `max_steps`, from the beginning or a checkpoint; returns the log: a dict with "step" for each entry.

    All that `accelerator.prepare` and `register_for_checkpointing` were given is saved. Every rank must have the same
    number of batches, as `BatchLoader` gives them.

    Raises:
        FloatingPointError: if a loss is not finite, before its step spoils a checkpoint that is to come.
    """
    history: list[dict[str, Any]] = []
    done = 0
    if args.resume_from_checkpoint:
        accelerator.load_state(args.resume_from_checkpoint)
        place = json.loads(Path(args.resume_from_checkpoint, PLACE).read_text(encoding="utf-8"))
        loader.load_state_dict(place["loader"])
        history, done = place["history"], place["step"]
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=accelerator.device))
    counts: dict[str, int] = defaultdict(int)
    bar = tqdm(total=args.max_steps, initial=done, unit="step", disable=not accelerator.is_main_process)
    batches = _endless(loader) if done < args.max_steps else iter(())
    for batch in batches:
        for name, value in step({key: value.to(accelerator.device) for key, value in batch.items()}, done).items():
            sums[name] += value.detach()
            counts[name] += 1
        done += 1
        bar.update()
        ends = done == args.max_steps
        if done % args.logging_steps == 0 or ends:
            figures = _means(accelerator, sums, counts)
            history.append({"step": done, **figures, **loader.progress()})
            _log(accelerator, history[-1], bar)
        if (done % args.eval_steps == 0 or ends) and (figures := dict(evaluate(done))):
            history.append({"step": done, **figures})
            _log(accelerator, history[-1], bar)
        if done % args.save_steps == 0 or ends:
            _save(accelerator, args, {"step": done, "loader": loader.state_dict(), "history": history})
        if ends:
            break
    bar.close()
    return history


def _endless(loader: BatchLoader) -> Any:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("the training data gives no batch; use a smaller batch, fewer processes or more data")


def _means(accelerator: Accelerator, sums: dict[str, Tensor], counts: dict[str, int]) -> dict[str, float]:
    """Means over the steps since the last log and over all ranks; the sums start anew."""
    names = list(sums)
    means = torch.stack([sums[name] / counts[name] for name in names])
    means = accelerator.reduce(means, "mean")
    sums.clear()
    counts.clear()
    figures = dict(zip(names, means.tolist(), strict=True))
    if wrong := [name for name, value in figures.items() if not math.isfinite(value)]:
        raise FloatingPointError(
            f"not finite: {', '.join(wrong)}; lower --learning_rate, or leave out --bf16, and resume from a checkpoint"
        )
    return figures


def _log(accelerator: Accelerator, entry: Mapping[str, Any], bar: tqdm) -> None:
    figures = {name: value for name, value in entry.items() if isinstance(value, (int, float)) and name != "step"}
    accelerator.log(figures, step=entry["step"])
    if accelerator.is_main_process:
        bar.write(f"step {entry['step']}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


def _save(accelerator: Accelerator, args: LoopArguments, place: Mapping[str, Any]) -> None:
    """A checkpoint; the oldest ones beyond `save_total_limit` are removed once it is whole."""
    folder = Path(args.output_dir, f"checkpoint-{place['step']}")
    accelerator.save_state(str(folder))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (folder / PLACE).write_text(json.dumps(place), encoding="utf-8")
        checkpoints = sorted(Path(args.output_dir).glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
        for old in checkpoints[: -args.save_total_limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
