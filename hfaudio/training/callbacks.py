"""Watching a training: its place in the data, its last step, non-finite losses and blank collapse."""

import logging
import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hfaudio.data.loader import BatchLoader

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


class DataPlace(TrainerCallback, ExportableState):
    """Keeps the place in the training data in `trainer_state.json`, counts epochs by it and ends the last one.

    transformers' own way, when resumed, is to take and throw away all batches before; for streams it also counts
    only steps, not epochs.
    """

    def __init__(self) -> None:
        self.loader: BatchLoader | None = None

    def state(self) -> dict[str, Any]:
        """What transformers writes into every checkpoint."""
        return {"args": {}, "attributes": {"place": None if self.loader is None else self.loader.state_dict()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go where the checkpoint was, if there is one."""
        assert self.loader is not None
        state.num_train_epochs = math.ceil(args.num_train_epochs)
        self.loader.num_epochs = args.num_train_epochs if counts_epochs(args) else None
        if self.loader.num_epochs is None and state.global_step >= state.max_steps:
            self.loader.num_epochs = 0  # a run that is resumed at its end is not trained on
        if state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__)  # type: ignore[union-attr, attr-defined]
        if not saved or saved["attributes"]["place"] is None:
            raise ValueError(
                f"the checkpoint at step {state.global_step} does not say how far it had come in the data (it was "
                "written by an older hfaudio); start without --resume_from_checkpoint, with --model CHECKPOINT"
            )
        self.loader.load_state_dict(saved["attributes"]["place"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the last step to the end of the last epoch: the number of steps was an estimate.

        The batches of the step have been taken by now, so that it is known whether they end the epoch.
        """
        assert self.loader is not None
        if not counts_epochs(args):
            return
        if self.loader.is_last_step and self.loader.epoch + 1 >= args.num_train_epochs:
            state.max_steps = state.global_step + 1
        else:
            state.max_steps = max(state.max_steps, state.global_step + 2)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the epoch."""
        assert self.loader is not None
        state.epoch = self.loader.epochs

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """End, evaluated and saved, if the last epoch's last rows were too few for a step that could tell it."""
        assert self.loader is not None
        if counts_epochs(args) and self.loader.epoch >= args.num_train_epochs and not control.should_training_stop:
            control.should_training_stop = True
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = args.save_strategy != "no"
        return control


def counts_epochs(args: TrainingArguments) -> bool:
    """Whether training ends with a whole number of epochs rather than after a number of steps."""
    return args.max_steps <= 0 and args.num_train_epochs == int(args.num_train_epochs)


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite."""


class DivergenceMonitor(TrainerCallback):
    """Ends a training whose loss is no longer finite, and says what is probably wrong."""

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


class CTCMonitor(DivergenceMonitor):
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
        super().on_log(args, state, control, logs, **kwargs)
        if logs and "blank_share" in logs:
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
