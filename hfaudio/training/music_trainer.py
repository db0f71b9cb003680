"""`AudioTrainer` for MusicGen: codes of audio, the loss of each codebook, what conditions are worth, samples."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    EvalPrediction,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hfaudio.audio.io import save_audio
from hfaudio.metrics.results import Mean, mean
from hfaudio.models.modes import evaluating
from hfaudio.models.musicgen import codebook_losses, encode_audio, label_codes, null_chroma
from hfaudio.training.adapters import plain_model
from hfaudio.training.report import Panel
from hfaudio.training.trainer import AudioTrainer

CONDITIONS = ("right", "null", "wrong")


MUSIC_PANELS = (
    Panel("loss, nats per code", ("loss", "eval_loss")),
    Panel("loss of each codebook (training)", ("codebook",)),
    Panel("loss of each codebook (validation)", ("eval_codebook",)),
    Panel("what the caption is worth, nats per code", ("eval_null_gap", "eval_wrong_gap")),
)


class ConditionScorer:
    """`compute_metrics` of `MusicTrainer`: mean losses of each codebook, and the conditional gaps.

    The gap of a condition is how many nats a code costs more when the caption is left out (`null_gap`), or is that of
    another clip (`wrong_gap`). It moves long before anything can be heard; if it stays at 0 the captions do not reach
    the model, or say nothing about the audio.
    """

    def __init__(self) -> None:
        self._losses: list[np.ndarray] = []

    def start(self, dataset: Any) -> None:
        """Count from zero."""
        self._losses = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add losses (B, conditions, K), NaN where there is no wrong caption; on the last batch, the means."""
        self._losses.append(torch.as_tensor(prediction.predictions).float().cpu().numpy())
        return {name: result.value for name, result in self._means().items()} if compute_result else {}

    def results(self, split: str) -> dict[str, Mean]:
        """All means with their intervals over clips, for metrics.json."""
        return {f"{split}/{name}": result for name, result in self._means().items()}

    def _means(self) -> dict[str, Mean]:
        losses = np.concatenate(self._losses)  # (clips, conditions, K)
        right, null, wrong = losses.mean(-1).T
        found = {"nats": mean(right.tolist())}
        found |= {f"codebook/{k + 1}": mean(column.tolist()) for k, column in enumerate(losses[:, 0].T)}
        found["null_gap"] = mean((null - right).tolist())
        gaps = (wrong - right)[~np.isnan(wrong)]
        return found | ({"wrong_gap": mean(gaps.tolist())} if len(gaps) else {})


class MusicTrainer(AudioTrainer):
    """Trains the decoder of a MusicGen, full or with an adapter, and its text encoder where that is not frozen.

    Overridden because transformers 5.23 has no loss of each codebook, takes undelayed labels, raises in
    `Seq2SeqTrainer`, and knows nothing of conditions. The loss is the mean over all codes of the whole step (all
    micro-batches and ranks), so that one step on N of them equals one on the joined batch.

    Args:
        codebook_weights: shares of the codebooks in the training loss, coarsest first. The finest codes are hardly
            predictable and, weighed alike, drown what the coarse ones teach. Evaluation weighs all alike.
    """

    def __init__(
        self, *, model: Any, processor: ProcessorMixin, codebook_weights: Sequence[float] | None = None, **kwargs: Any
    ) -> None:
        num_codebooks = plain_model(model).decoder.config.num_codebooks
        if codebook_weights and (len(codebook_weights) != num_codebooks or min(codebook_weights) < 0):
            raise ValueError(
                f"--codebook_weights needs one weight of at least 0 for each of the {num_codebooks} codebooks; got "
                f"{list(codebook_weights)}"
            )
        weights = torch.tensor(codebook_weights or [1.0] * num_codebooks, dtype=torch.float32)
        self.codebook_weights = weights / weights.mean()
        if kwargs["args"].label_smoothing_factor:
            raise ValueError("--label_smoothing_factor has no part in the loss of codes; leave it out")
        plain_model(model).accepts_loss_kwargs = False
        self.codebook_losses: Tensor | None = None  # (K,) of the last batch that is logged
        super().__init__(
            model=model, processor=processor, scorer=ConditionScorer(), compute_loss_func=self._code_loss, **kwargs
        )
        # transformers 5.23 aligns special tokens with *the* text config of a model, and raises as MusicGen has two.
        self.processor, self.processing_class = processor, None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        self.processor.save_pretrained(output_dir or self.args.output_dir)

    def _code_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        losses = codebook_losses(outputs.logits, labels)
        frames = (labels >= 0).sum(1)  # (B, K)
        if self.state.global_step % max(1, int(self.args.logging_steps)) == 0:
            self.codebook_losses = ((losses * frames).sum(0) / frames.sum(0)).detach()
        weights = self.codebook_weights.to(losses.device)
        return (losses * frames * weights).sum() / (frames.sum() if num_items_in_batch is None else num_items_in_batch)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As transformers', with codes: their number must be known before the loss of the first micro-batch."""
        return super().get_batch_samples(map(self._with_labels, epoch_iterator), num_batches, device)

    def _with_labels(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with codes in place of audio (B, C, N), of which `num_samples` are no padding."""
        if "input_values" not in batch:
            return batch
        model = plain_model(self.accelerator.unwrap_model(self.model))
        codec, config = model.audio_encoder, model.decoder.config
        codes = encode_audio(codec, batch["input_values"].to(self.args.device), config.num_codebooks)
        frames = -(-batch["num_samples"] // codec.config.hop_length)
        kept = {name: value for name, value in batch.items() if name not in ("input_values", "num_samples")}
        return kept | label_codes([c[:, :n] for c, n in zip(codes, frames.tolist(), strict=True)], config)

    def model_inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the model takes of a collated batch, and `labels`, on its device."""
        return self._prepare_inputs(self._with_labels(batch))

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """The loss, losses (B, conditions, K) with the right caption, none, and that of the clip before; no labels."""
        batch = self.model_inputs(inputs)
        labels = batch.pop("labels")
        mask = batch["attention_mask"]
        changed = {"right": batch, "null": batch | {"attention_mask": torch.zeros_like(mask)}}
        changed["wrong"] = batch | {"input_ids": batch["input_ids"].roll(1, 0), "attention_mask": mask.roll(1, 0)}
        if "input_features" in batch:
            changed["null"]["input_features"] = null_chroma(batch["input_features"])
            changed["wrong"]["input_features"] = batch["input_features"].roll(1, 0)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = [codebook_losses(model(**changed[name]).logits, labels) for name in CONDITIONS]
        same = (batch["input_ids"] == batch["input_ids"].roll(1, 0)).all(1)
        losses[2] = losses[2].masked_fill(same[:, None], torch.nan)  # a caption that two clips share is not wrong
        stacked = torch.stack(losses, 1)
        return stacked[:, 0].mean(), stacked, torch.zeros(len(labels), device=labels.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As of every model, with the loss of each codebook in the last batch."""
        if "loss" in logs and self.codebook_losses is not None:
            logs |= {f"codebook/{k + 1}": round(loss.item(), 4) for k, loss in enumerate(self.codebook_losses)}
        super().log(logs, *args, **kwargs)


class SampleCallback(TrainerCallback):
    """Writes what the model plays at each evaluation, always for the same prompts and seeds.

    Args:
        play: the model to audio (C, N) of each prompt; called on the main process.
        folder: where `step-<n>-<prompt number>.wav` go.
    """

    def __init__(self, play: Callable[[Any], list[np.ndarray]], folder: Path, sample_rate: int) -> None:
        self.play = play
        self.folder = folder
        self.sample_rate = sample_rate

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        model = plain_model(kwargs["model"])
        self.folder.mkdir(parents=True, exist_ok=True)
        with evaluating(model):
            clips = self.play(model)
        for number, clip in enumerate(clips):
            save_audio(self.folder / f"step-{state.global_step}-{number + 1}.wav", clip, self.sample_rate)
