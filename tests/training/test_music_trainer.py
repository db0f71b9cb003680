"""The trainer of MusicGen: audio or codes, accumulation, gaps that show whether captions reach the model, samples."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hfaudio.data.collate import MusicCollator
from hfaudio.data.sampler import BucketSampler
from hfaudio.models.musicgen import encode_audio, label_codes
from hfaudio.training.arguments import AudioTrainingArguments
from hfaudio.training.music_models import MusicModelArguments, open_music_model
from hfaudio.training.music_trainer import ConditionScorer, MusicTrainer, SampleCallback

TEXTS = ["low", "high"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32, "text_hidden_size": 16}


class LowOrHigh(torch.utils.data.Dataset):
    """Codes below 20 under the caption "low", above 490 under "high": a caption is worth ln 2 nats at most."""

    def __init__(self, n: int, frames: int = 6, null_share: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.examples = [
            {
                "codes": rng.integers(0, 20, (4, frames - i % 3)) + 490 * (i % 2),
                "text": "" if rng.random() < null_share else TEXTS[i % 2],
                "seconds": 1.0,
            }
            for i in range(n)
        ]

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]

    def batches(self, max_seconds, max_examples, num_replicas, rank, seed, step_multiple) -> BucketSampler:  # type: ignore[no-untyped-def]
        seconds = [1.0] * len(self)
        return BucketSampler(seconds, max_seconds, max_examples, num_replicas, rank, seed, step_multiple=step_multiple)


def build(folder: Path, train: Any, watched: Any = None, callbacks: Any = (), **options: Any) -> MusicTrainer:
    torch.manual_seed(0)
    model, processor = open_music_model(MusicModelArguments(**SIZES, dropout=0.0), TEXTS)  # type: ignore[arg-type]
    arguments: dict[str, Any] = {"logging_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    arguments |= {"load_best_model_at_end": False, "dataloader_num_workers": 0, "warmup_steps": 0}
    arguments |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 1e9}
    weights = options.pop("codebook_weights", None)
    args = AudioTrainingArguments(output_dir=str(folder), **arguments | options)
    collator = MusicCollator(processor, model.decoder.config)
    return MusicTrainer(
        model=model,
        args=args,
        processor=processor,
        codebook_weights=weights,
        train_dataset=train,
        eval_dataset=watched,
        data_collator=collator,
        callbacks=list(callbacks),
    )


def test_gap_appears_when_captions_are_learned(tmp_path: Path) -> None:
    trainer = build(
        tmp_path,
        LowOrHigh(64, null_share=0.2),
        LowOrHigh(16),
        max_steps=60,
        learning_rate=1e-2,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=8,
    )
    before = trainer.evaluate()
    assert abs(before["eval_null_gap"]) < 0.1
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"] - 1
    assert after["eval_wrong_gap"] > 0.5
    assert 0 < after["eval_null_gap"] < after["eval_wrong_gap"]
    assert {f"codebook/{k}" for k in (1, 2, 3, 4)} <= trainer.state.log_history[0].keys()


def test_accumulated_micro_batches_equal_one_batch(tmp_path: Path) -> None:
    """Clips of other lengths, and an unequal share of them, in each micro-batch."""
    weights = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        trainer = build(
            tmp_path,
            LowOrHigh(8),
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        weights.append(torch.cat([w.detach().flatten() for w in trainer.model.decoder.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_codebook_weights_are_shares_of_the_gradient(tmp_path: Path) -> None:
    """With all of the weight on the first codebook, the heads of the others get no gradient."""
    trainer = build(tmp_path, LowOrHigh(4))
    twin = build(tmp_path, LowOrHigh(4), codebook_weights=[1, 0, 0, 0])
    gradients = []
    for one in (trainer, twin):
        batch = one.model_inputs(one.data_collator([one.train_dataset[n] for n in range(4)]))
        one.compute_loss(one.model.eval(), batch).backward()
        gradients.append([head.weight.grad for head in one.model.decoder.lm_heads])
    torch.testing.assert_close(gradients[1][0], 4 * gradients[0][0])
    assert not any(gradient.any() for gradient in gradients[1][1:])
    with pytest.raises(ValueError, match="one weight of at least 0 for each of the 4 codebooks"):
        build(tmp_path, LowOrHigh(4), codebook_weights=[1, 1])


def test_audio_is_trained_on_as_its_codes(tmp_path: Path) -> None:
    trainer = build(tmp_path, LowOrHigh(2))
    model, collator = trainer.model, trainer.data_collator
    audio = [0.1 * torch.randn(1, 16_000), torch.cat([0.1 * torch.randn(1, 9_000), torch.zeros(1, 7_000)], 1)]
    examples = [
        {"input_values": clip.numpy(), "num_samples": samples, "text": "low"}
        for clip, samples in zip(audio, (16_000, 9_000), strict=True)
    ]
    made = trainer.model_inputs(collator(examples))
    codes = encode_audio(model.audio_encoder, torch.stack(audio), 4)
    expected = label_codes([codes[0], codes[1, :, :15]], model.decoder.config)  # 9,000 samples are 14.1 frames
    assert made["labels"].equal(expected["labels"])
    assert made["decoder_input_ids"].equal(expected["decoder_input_ids"])


def test_empty_caption_is_a_row_of_zeros_in_the_mask(tmp_path: Path) -> None:
    collator = build(tmp_path, LowOrHigh(2)).data_collator
    batch = collator([{"codes": np.zeros((4, 2), int), "text": text} for text in ("low", "", "high high low")])
    assert batch["attention_mask"].sum(1).tolist() == [2, 0, 4]


def test_checkpoint_is_a_whole_model_folder(tmp_path: Path) -> None:
    trainer = build(tmp_path, LowOrHigh(4), max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    model, processor = open_music_model(MusicModelArguments(model=str(tmp_path / "checkpoint-1")), [])
    assert processor.tokenizer("low").input_ids == trainer.processor.tokenizer("low").input_ids
    assert model.decoder.lm_heads[0].weight.equal(trainer.model.decoder.lm_heads[0].weight)


def test_captions_that_two_clips_share_are_no_wrong_ones() -> None:
    scorer = ConditionScorer()
    scorer.start(None)
    losses = torch.tensor([[[1.0, 2.0], [2.0, 2.0], [3.0, 3.0]], [[1.0, 2.0], [1.0, 3.0], [np.nan, np.nan]]])
    scorer(EvalPrediction(losses, torch.zeros(2)), compute_result=False)  # type: ignore[arg-type]
    results = scorer.results("test")
    assert results["test/codebook/2"].value == 2
    assert results["test/null_gap"].value == 0.5
    assert (results["test/wrong_gap"].value, results["test/wrong_gap"].n) == (1.5, 1)


def test_samples_are_written_by_the_main_process_in_evaluation_mode(tmp_path: Path) -> None:
    model = torch.nn.Dropout()
    modes = []

    def play(played: Any) -> list[np.ndarray]:
        modes.append(played.training)
        return [np.zeros((1, 800), np.float32)]

    callback = SampleCallback(play, tmp_path / "samples", 16_000)
    state = SimpleNamespace(is_world_process_zero=False, global_step=3)
    callback.on_evaluate(None, state, None, model=model)  # type: ignore[arg-type]
    assert not modes
    state.is_world_process_zero = True
    callback.on_evaluate(None, state, None, model=model)  # type: ignore[arg-type]
    assert modes == [False]
    assert model.training
    assert (tmp_path / "samples" / "step-3-1.wav").is_file()


def test_label_smoothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        build(tmp_path, LowOrHigh(2), label_smoothing_factor=0.1)
