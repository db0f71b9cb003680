"""Keeping a pretrained model near its start while it is tuned."""

from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class PullToStart(TrainerCallback):
    """Pulls trained weights w to where they started, w0, after each step: w -= learning rate * strength * (w - w0).

    L2-SP (Li, Grandvalet & Davoine 2018, arXiv:1802.01483), taken out of the loss as AdamW takes weight decay out, so
    that Adam does not divide it by the size of the gradient. The copies take the memory of the trained weights. Make
    it before training, also in a run that is resumed: the start is that of the first run.

    Raises:
        ValueError: for a strength that is not above 0, or a model with adapters: these start at no change at all, and
            weight decay keeps them there.
    """

    def __init__(self, model: nn.Module, strength: float) -> None:
        if not strength > 0:
            raise ValueError(f"the strength must be above 0, got {strength:g}")
        if isinstance(model, PeftModel):
            raise ValueError("--l2_to_start pulls whole weights to their start; for adapters use --weight_decay")
        self.strength = strength
        self.start = {name: weight.detach().clone() for name, weight in trained_weights(model)}

    @torch.no_grad()
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        share = kwargs["lr_scheduler"].get_last_lr()[0] * self.strength
        for name, weight in trained_weights(kwargs["model"]):
            weight.lerp_(self.start[name].to(weight.device), share)


def trained_weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Trained weights by their names without the wrapper of distributed training."""
    return [
        (name.removeprefix("module."), weight) for name, weight in model.named_parameters() if weight.requires_grad
    ]
