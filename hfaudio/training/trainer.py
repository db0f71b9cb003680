"""`transformers.Trainer` for audio: buckets by duration, places in streams; and what CTC needs beside that."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainingArguments

from hfaudio.data.loader import BatchLoader
from hfaudio.models.frames import logit_lengths
from hfaudio.training.adapters import plain_model
from hfaudio.training.callbacks import DataPlace, LastStepCallback, counts_epochs
from hfaudio.training.scoring import CTCScorer


class AudioTrainer(Trainer):
    """Training input for any of our models.

    Overridden because transformers 5.23
    - groups lengths only for a `datasets.Dataset`, and then reorders evaluation, too; has no budget of seconds;
    - resumes a stream by reading it again from its beginning, and wrongly if it is shuffled;
    - knows streams only by a number of steps.
    """

    def __init__(self, *, scorer: Any, processor: ProcessorMixin, **kwargs: Any) -> None:
        self.scorer = scorer
        args: TrainingArguments = kwargs["args"]
        args.ignore_data_skip = True  # the place in the data is loaded, not counted up to
        super().__init__(processing_class=processor, compute_metrics=scorer, **kwargs)
        self.data_place = DataPlace()
        self.add_callback(self.data_place)
        self.add_callback(LastStepCallback())

    def get_train_dataloader(self) -> BatchLoader:  # type: ignore[override]
        """Batches of this rank; accelerate, which would deal out rows or batches by itself, is left out."""
        args: Any = self.args  # AudioTrainingArguments
        examples: Any = self.train_dataset
        batches = examples.batches(
            args.batch_seconds,
            self._train_batch_size,
            num_replicas=args.world_size,
            rank=args.process_index,
            seed=args.seed,
            step_multiple=args.gradient_accumulation_steps,
        )
        self.data_place.loader = BatchLoader(
            batches,
            examples,
            self.data_collator,
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        )
        return self.data_place.loader

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """As transformers', which needs a number of steps for the learning rate, from a number of epochs.

        It is an estimate; `DataPlace` ends the training where the last epoch ends.
        """
        if args.max_steps > 0:
            return super().set_initial_training_values(args, dataloader)
        steps = dataloader.batches.steps_an_epoch() / args.gradient_accumulation_steps
        args.max_steps = max(1, math.ceil(steps * args.num_train_epochs))
        try:
            epochs, _, *others = super().set_initial_training_values(args, dataloader)
        finally:
            args.max_steps = -1
        # The second value bounds the steps of an epoch: too many to be met before the data ends.
        return epochs, math.ceil(2 * steps) + 1000, *others

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As transformers', by steps; where epochs are counted, by the share of them that has been delivered.

        The number of steps is an estimate from the first rows then: of files sorted by length, or of unlike corpora
        one after the other, the rate would be at its end long before the data is, or never.
        """
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR) and counts_epochs(self.args):
            scheduler.lr_lambdas = [self._by_epochs(rate, num_training_steps) for rate in scheduler.lr_lambdas]
        return scheduler

    def _by_epochs(self, rate: Callable[[Any], float], num_training_steps: int) -> Callable[[int], float]:
        def at_place(step: int) -> float:
            assert self.data_place.loader is not None
            share = min(1.0, self.data_place.loader.epochs / self.args.num_train_epochs)
            return rate(num_training_steps * share)

        return at_place

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        return SequentialSampler(eval_dataset)  # the scorer reads speakers in this order

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics of a dataset; the counts behind them stay in `scorer.tally` until the next call."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        self.scorer.start(dataset)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As transformers', with the audio, padding and skipped rows so far by the loss."""
        if "loss" in logs and self.data_place.loader is not None:
            logs |= self.data_place.loader.progress()
        super().log(logs, *args, **kwargs)


class CTCTrainer(AudioTrainer):
    """Trains and scores any model whose `forward(input..., attention_mask, labels)` returns a loss and CTC logits.

    Overridden because transformers 5.23
    - multiplies the loss by the number of micro-batches and ranks for forwards with `**kwargs`
      (huggingface/transformers#47688), unless the model says `accepts_loss_kwargs = False`;
    - keeps (frames x vocabulary) logits where argmax ids are enough.
    """

    def __init__(self, *, model: PreTrainedModel, processor: ProcessorMixin, scorer: CTCScorer, **kwargs: Any) -> None:
        plain_model(model).accepts_loss_kwargs = False
        self.blank_share: Tensor | None = None
        # wav2vec2-base and its like (group norm) were trained without a mask and change their mind when given one.
        self.passes_mask = processor.feature_extractor.return_attention_mask
        super().__init__(model=model, processor=processor, scorer=scorer, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's own loss; the share of blanks is noted for the log."""
        outputs = model(**self._model_inputs(inputs))
        if model.training and self.state.global_step % max(1, int(self.args.logging_steps)) == 0:
            valid = self._frame_mask(inputs, outputs.logits)
            self.blank_share = (outputs.logits.argmax(-1) == self.scorer.blank_id)[valid].float().mean().detach()
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """Loss, argmax ids (B, T) with -100 on padded frames, and labels (B, U).

        With `scorer.keep_log_probs` the ids come with log-probabilities (B, T, V) in half precision.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**self._model_inputs(inputs))
        if prediction_loss_only:
            return outputs.loss.detach().mean(), None, None
        ids = outputs.logits.argmax(-1).masked_fill(~self._frame_mask(inputs, outputs.logits), -100)
        if self.scorer.keep_log_probs:
            return outputs.loss.detach().mean(), (ids, outputs.logits.float().log_softmax(-1).half()), inputs["labels"]
        return outputs.loss.detach().mean(), ids, inputs["labels"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As of every model, with the share of blanks."""
        if "loss" in logs and self.blank_share is not None:
            logs["blank_share"] = round(self.blank_share.item(), 4)
        super().log(logs, *args, **kwargs)

    def _model_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in inputs.items() if self.passes_mask or name != "attention_mask"}

    def _frame_mask(self, inputs: dict[str, Tensor], logits: Tensor) -> Tensor:
        """True on the logit frames (B, T) that come from audio."""
        mask, num_frames = inputs["attention_mask"], logits.shape[1]
        lengths = logit_lengths(self.accelerator.unwrap_model(self.model), mask.sum(-1), mask.shape[-1], num_frames)
        return torch.arange(num_frames, device=logits.device) < lengths[:, None]
