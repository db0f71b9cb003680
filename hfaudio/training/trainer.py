"""`transformers.Trainer` for CTC: grouped lengths, ids instead of logits, padded frames that stay silent."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import ProcessorMixin, SequenceFeatureExtractor, Trainer
from transformers.modeling_utils import PreTrainedModel

from hfaudio.data.examples import LengthGroupedSampler, SpeechExamples
from hfaudio.training.scoring import CTCScorer


class CTCTrainer(Trainer):
    """Trains and scores any model whose `forward(input..., attention_mask, labels)` returns a loss and CTC logits.

    Overridden because transformers 5.23
    - multiplies the loss by the number of micro-batches and ranks for forwards with `**kwargs`
      (huggingface/transformers#47688), unless the model says `accepts_loss_kwargs = False`;
    - groups lengths only for a `datasets.Dataset`, and then reorders evaluation, too;
    - keeps (frames x vocabulary) logits where argmax ids are enough.
    """

    def __init__(self, *, processor: ProcessorMixin, scorer: CTCScorer, model: PreTrainedModel, **kwargs: Any) -> None:
        model.accepts_loss_kwargs = False
        self.processor = processor
        self.scorer = scorer
        self.blank_share: Tensor | None = None
        # wav2vec2-base and its like (group norm) were trained without a mask and change their mind when given one.
        self.passes_mask = processor.feature_extractor.return_attention_mask
        super().__init__(model=model, processing_class=processor, compute_metrics=scorer, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, SpeechExamples):
            return None
        args = self.args
        group_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthGroupedSampler(dataset, group_size, seed=args.seed)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler:
        return torch.utils.data.SequentialSampler(eval_dataset)  # the scorer reads speakers in this order

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The model's own loss; the share of blanks is noted for the log."""
        outputs = model(**self._model_inputs(inputs))
        if model.training and self.state.global_step % max(1, int(self.args.logging_steps)) == 0:
            valid = self._frame_mask(inputs, outputs.logits)
            self.blank_share = (outputs.logits.argmax(-1) == self._blank_id)[valid].float().mean().detach()
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, argmax ids (B, T) with blanks on padded frames, and labels (B, U)."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**self._model_inputs(inputs))
        if prediction_loss_only:
            return outputs.loss.detach().mean(), None, None
        ids = outputs.logits.argmax(-1)
        ids = ids.masked_fill(~self._frame_mask(inputs, outputs.logits), self._blank_id)
        return outputs.loss.detach().mean(), ids, inputs["labels"]

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics of a dataset; the counts behind them stay in `scorer.tally` until the next call."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        self.scorer.start(dataset)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As transformers', with the share of frames that say blank beside every training loss."""
        if "loss" in logs and self.blank_share is not None:
            logs["blank_share"] = round(self.blank_share.item(), 4)
        super().log(logs, *args, **kwargs)

    @property
    def _blank_id(self) -> int:
        return self.model.config.pad_token_id

    def _model_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in inputs.items() if self.passes_mask or name != "attention_mask"}

    def _frame_mask(self, inputs: dict[str, Tensor], logits: Tensor) -> Tensor:
        """True on the logit frames (B, T) that come from audio."""
        mask, num_frames = inputs["attention_mask"], logits.shape[1]
        lengths = logit_lengths(self.accelerator.unwrap_model(self.model), mask.sum(-1), mask.shape[-1], num_frames)
        return torch.arange(num_frames, device=logits.device) < lengths[:, None]


def logit_lengths(model: PreTrainedModel, input_lengths: Tensor, input_size: int, num_frames: int) -> Tensor:
    """Valid logit frames (B,) of inputs with these valid lengths (B,), padded to `input_size`.

    Most CTC models of transformers can say it; for the others (Parakeet) the same share as of the input, rounded up.
    """
    if hasattr(model, "_get_feat_extract_output_lengths"):
        return model._get_feat_extract_output_lengths(input_lengths).clamp(max=num_frames)
    return (input_lengths * num_frames + input_size - 1).div(input_size, rounding_mode="floor")


@dataclass(frozen=True)
class FrameCount:
    """Logit frames that a model gives for a number of samples, rounded down; `RowCheck` asks it of every row."""

    samples_per_frame: float

    def __call__(self, num_samples: int) -> int:
        return int(num_samples / self.samples_per_frame)

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: PreTrainedModel, feature_extractor: SequenceFeatureExtractor, fastest: float = 1.0
    ) -> "FrameCount":
        """Measured on ten seconds of silence, so right for any architecture without knowing its convolutions.

        `fastest` is the highest speed at which augmentation plays a clip: it leaves fewer frames.
        """
        rate = feature_extractor.sampling_rate
        silence = np.zeros(10 * rate, dtype=np.float32)
        inputs = feature_extractor(silence, sampling_rate=rate, return_tensors="pt")
        was_training = model.training
        logits = model.eval()(inputs[model.main_input_name]).logits
        model.train(was_training)
        return cls(fastest * len(silence) / logits.shape[1])


def fresh_head(model: PreTrainedModel) -> None:
    """Draw the CTC head anew: of another vocabulary of the same size its weights would mean nothing."""
    heads = [module for name, module in model.named_children() if name in ("lm_head", "ctc_head")]
    if not heads:
        raise ValueError(f"{type(model).__name__} has no lm_head or ctc_head; is it a CTC model?")
    heads[0].reset_parameters()
