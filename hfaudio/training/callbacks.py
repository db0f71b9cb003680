"""Watching a CTC training: its last step, non-finite losses and blank collapse."""

import logging
import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


class LastStepCallback(TrainerCallback):
    """Evaluates and saves at the last step too, whatever `eval_steps` is.

    transformers only saves there, and `load_best_model_at_end` then chooses among the checkpoints before: not the
    one whose learning rate has come down to 0.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step >= state.max_steps and args.eval_strategy == "steps":
            control.should_evaluate = True
            control.should_save = args.save_strategy != "no"
        return control


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite."""


class CTCMonitor(TrainerCallback):
    """Says what is probably wrong when a CTC training goes wrong.

    Every CTC model answers nothing but blanks at first; that is reported only when it lasts longer than
    `patience` steps, or comes back after the model had begun to spell.

    Args:
        patience: steps in which a share of blanks above `collapsed` is no news.
        collapsed: share of blank frames at which the text is empty.
    """

    def __init__(self, patience: int = 500, collapsed: float = 0.995) -> None:
        self.patience = patience
        self.collapsed = collapsed
        self.has_spelled = False
        self.has_warned = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        for name in ("loss", "grad_norm"):
            # A single overflowing gradient under float16 is skipped by the scaler; a loss that is not finite is final.
            if name in logs and not math.isfinite(logs[name]) and not (name == "grad_norm" and args.fp16):
                raise TrainingDivergedError(diverged_message(name, logs[name], state.global_step, args))
        if "blank_share" in logs:
            self.watch_blanks(logs["blank_share"], state.global_step, args)

    def watch_blanks(self, blank_share: float, step: int, args: TrainingArguments) -> None:
        """Log one warning per collapse."""
        if blank_share < self.collapsed:
            self.has_spelled, self.has_warned = True, False
        elif not self.has_warned and (self.has_spelled or step > self.patience):
            self.has_warned = True
            logger.warning(collapse_message(blank_share, step, self.has_spelled, args))


def diverged_message(name: str, value: float, step: int, args: TrainingArguments) -> str:
    """What to try after a NaN."""
    causes = [f"the learning rate ({args.learning_rate:g}) is too high for this model: divide it by 3 to 10"]
    if args.get_warmup_steps(1000) == 0:
        causes.append("there is no warm-up: --warmup_steps 0.1")
    if args.fp16:
        causes.append("float16 overflows in encoders trained in float32 or bfloat16: --bf16 or neither")
    if not 0 < args.max_grad_norm <= 10:
        causes.append(f"gradients are hardly clipped (max_grad_norm {args.max_grad_norm:g}): --max_grad_norm 1")
    return f"{name} is {value} at step {step}; probable causes: " + "; ".join(causes)


def collapse_message(blank_share: float, step: int, has_spelled: bool, args: TrainingArguments) -> str:
    """What to try when a model says nothing."""
    if has_spelled:
        cause = f"it had begun to spell before, so the learning rate ({args.learning_rate:g}) is probably too high"
    else:
        cause = (
            f"probable causes: too few steps yet (small data and small batches need 500 to 2,000), a learning rate "
            f"({args.learning_rate:g}) too low for a new head or too high for a pretrained encoder, a frozen encoder, "
            "or transcripts that do not belong to the audio"
        )
    return f"{blank_share:.1%} of the frames say blank at step {step}, so the text is empty; {cause}"
