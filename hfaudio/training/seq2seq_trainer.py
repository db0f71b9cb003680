"""`AudioTrainer` for models with a decoder: exact token averages, cheap evaluation, texts of what was generated."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from hfaudio.data.examples import SpeechExamples
from hfaudio.metrics.captions import bleu, chrf, fact_accuracy
from hfaudio.metrics.error_rate import ErrorTally
from hfaudio.metrics.hallucination import HallucinationTally
from hfaudio.metrics.results import split_rates
from hfaudio.models.seq2seq import generate
from hfaudio.text.normalize import normalize
from hfaudio.training.adapters import plain_model
from hfaudio.training.trainer import AudioTrainer

ENCODER_INPUTS = ("input_features", "input_values", "attention_mask")


class GenerationScorer:
    """`compute_metrics` of `SpeechSeq2SeqTrainer`: generated texts against the rows' own, as running counts.

    Both sides are written by one normaliser. References come from the rows and not from label ids, as an unknown
    character would vanish from them. Rows must come in the order of the dataset, as they do in evaluation.

    Args:
        normalizer: one of `hfaudio.text.normalize.NORMALIZERS`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, normalizer: str) -> None:
        self.tokenizer = tokenizer
        self.normalizer = normalizer
        self._rows: Any = None
        self._reset()

    def _reset(self) -> None:
        self.tally = ErrorTally()
        self.hallucinations = HallucinationTally()
        self.references: list[str] = []
        self.hypotheses: list[str] = []  # as generated, not normalised

    def start(self, dataset: SpeechExamples) -> None:
        """Count from zero; the utterances will come in the order of this dataset."""
        self._reset()
        self._rows = dataset.rows.remove_columns("audio")

    def results(self, split: str, *, target: str, facts: Sequence[str], seed: int) -> dict[str, Any]:
        """Everything that is known of a split with its intervals, for metrics.json.

        Of transcripts error rates, of captions chrF, BLEU, and for each of the columns `facts` how often it is named.
        """
        found: dict[str, Any] = {f"{split}/{kind}": share for kind, share in self.hallucinations.shares().items()}
        if target == "transcript":
            return split_rates(self.tally, split, "generate", seed=seed) | found
        references = [normalize(text, self.normalizer) for text in self.references]
        captions = [normalize(text, self.normalizer) for text in self.hypotheses]
        found |= {f"{split}/{score.__name__}": score(references, captions, seed=seed) for score in (chrf, bleu)}
        if facts:
            known = [{name: row[name] for name in facts} for row in self._rows]
            named = fact_accuracy(known, self.hypotheses)  # a normaliser would turn "F#" into "f"
            found |= {f"{split}/fact/{name}": share for name, share in named.items()}
        return found

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add a batch of generated ids (B, U), padded with -100; on the last one, the rates."""
        ids: Any = prediction.predictions
        ids = ids.masked_fill(ids < 0, self.tokenizer.pad_token_id)
        for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True):
            row = self._rows[len(self.tally)]
            reference, hypothesis = normalize(row["text"], self.normalizer), normalize(text, self.normalizer)
            self.tally.add(reference, hypothesis, row.get("speaker"))
            self.hallucinations.add(reference, hypothesis)
            self.references.append(row["text"])
            self.hypotheses.append(text.strip())
        if not compute_result:
            return {}
        rates = {measure: self.tally.rate(measure, num_resamples=1).value for measure in ("wer", "cer")}
        return rates | {name: share.value for name, share in self.hallucinations.shares().items()}


class SpeechSeq2SeqTrainer(AudioTrainer):
    """Trains any model that takes audio, `decoder_input_ids` and gives logits (B, U, V).

    `evaluate()` during training is a teacher-forced loss on `eval_dataset`, which should be a small, fixed part of the
    validation split, sorted by length; every `generate_every`-th time texts are generated, too. `evaluate(dataset)`
    generates for all of a split.

    Not transformers' `Seq2SeqTrainer`, whose one addition is an evaluation that always generates for everything.
    The loss is summed over tokens and divided by the tokens of the whole step (all micro-batches and ranks), so that
    one step on N of them equals one on the joined batch; transformers 5.23 multiplies Whisper's by N
    (huggingface/transformers#47688).

    Args:
        prompt_length: tokens at the start of `decoder_input_ids` that generation is given.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel | PeftModel,
        processor: ProcessorMixin,
        scorer: GenerationScorer,
        prompt_length: int,
        generate_every: int = 1,
        **kwargs: Any,
    ) -> None:
        plain_model(model).accepts_loss_kwargs = False
        self.prompt_length = prompt_length
        self.generate_every = generate_every
        self._generates = True
        super().__init__(
            model=model,
            processor=processor,
            scorer=scorer,
            compute_loss_func=token_loss(kwargs["args"].label_smoothing_factor),
            **kwargs,
        )

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss, and where it is time texts, of the evaluation set; only texts of a dataset that is given."""
        if eval_dataset is not None:
            self._generates = True
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._generates = False
        metrics = super().evaluate(None, ignore_keys, metric_key_prefix)
        if self.is_time_to_generate():
            self._generates = True
            metrics |= super().evaluate(None, ignore_keys, metric_key_prefix)
        return metrics

    def is_time_to_generate(self) -> bool:
        """Whether the evaluation at this step writes texts: every `generate_every`-th one and the last one."""
        if self.args.eval_strategy != "steps" or self.state.global_step >= self.state.max_steps:
            return True
        return (self.state.global_step // self.state.eval_steps) % self.generate_every == 0

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Tensor | None]:
        """The loss alone, or the generated ids (B, U) with -100 behind their end, and the labels."""
        if not self._generates:
            loss, *_ = super().prediction_step(model, inputs, prediction_loss_only=True)
            return loss, None, None
        inputs = self._prepare_inputs(inputs)
        # Every rank generates for its own share; only where weights are sharded they must keep step.
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        plain = plain_model(self.accelerator.unwrap_model(self.model))
        with self.compute_loss_context_manager():
            generated = generate(
                plain,
                {name: inputs[name] for name in ENCODER_INPUTS if name in inputs},
                inputs["decoder_input_ids"][:, : self.prompt_length],
                synced_gpus=sharded and self.args.world_size > 1,
            )
        return None, generated.ids, inputs["labels"]

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As transformers', but an evaluation without texts has no say where the best is by their error rate."""
        name = self.args.metric_for_best_model or "loss"
        if name.removeprefix("eval_") != "loss" and f"eval_{name.removeprefix('eval_')}" not in metrics:
            return False
        return super()._determine_best_metric(metrics, trial)


def token_loss(label_smoothing: float) -> Callable[..., Tensor]:
    """`compute_loss_func` of transformers' Trainer: cross-entropy in float32, over the tokens of the whole step."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        total = cross_entropy(
            outputs.logits.float().flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
        )
        return total / ((labels >= 0).sum() if num_items_in_batch is None else num_items_in_batch)

    return loss
