"""One optimiser step on N micro-batches equals one step on the joined batch, for every kind of model we train."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    HubertConfig,
    HubertForCTC,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from hfaudio.audio.features import LOG_MEL, WHISPER
from hfaudio.data.collate import CTCCollator
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, known_rows, load_splits
from hfaudio.data.examples import ExampleEncoder, SpeechExamples, SpeechStream
from hfaudio.data.stream import AudioStream
from hfaudio.metrics.results import split_rates
from hfaudio.models import LstmCTCConfig, LstmForCTC, WhisperCTCConfig, WhisperForCTC
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer, ctc_labels
from hfaudio.training.arguments import AudioTrainingArguments
from hfaudio.training.scoring import CTCScorer
from hfaudio.training.trainer import CTCTrainer

TOKENIZER = build_char_tokenizer(["a b c d e"])
WAVE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embedding_groups": 2,
    "num_conv_pos_embeddings": 16,
    "vocab_size": len(TOKENIZER),
    "pad_token_id": 0,
    "ctc_loss_reduction": "mean",
    "mask_time_prob": 0.0,
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0),
    **dict.fromkeys(("final_dropout", "layerdrop"), 0.0),
}


def make(name: str) -> tuple[PreTrainedModel, object]:
    torch.manual_seed(0)
    size = {"vocab_size": len(TOKENIZER)}
    if name == "lstm":
        config = LstmCTCConfig(hidden_size=16, conv_channels=16, dropout=0.0, **size)
        return LstmForCTC(config), SpectralFeatureExtractor(LOG_MEL)
    if name == "whisper":
        sizes = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
        config = WhisperCTCConfig(final_dropout=0.0, **sizes, **size)
        return WhisperForCTC(config), SpectralFeatureExtractor(WHISPER, normalize=False)
    if name == "wav2vec2 with layer norm":
        config = Wav2Vec2Config(feat_extract_norm="layer", do_stable_layer_norm=True, **WAVE)
        return Wav2Vec2ForCTC(config), Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return HubertForCTC(HubertConfig(**WAVE)), Wav2Vec2FeatureExtractor(return_attention_mask=False)


@pytest.fixture
def stream(songs: Path):
    return load_splits(DataArguments(dataset=str(songs), streaming=True))["train"]


@pytest.fixture(scope="module")
def rows(songs: Path):
    return check_rows(load_splits(DataArguments(dataset=str(songs)))["validation"], RowCheck())[0]


def trainer_of(model, extractor, rows, folder: Path, stream=None, **options) -> CTCTrainer:
    processor = Wav2Vec2Processor(extractor, TOKENIZER)
    examples = SpeechExamples(rows, RowCheck(), ExampleEncoder(processor))
    trained = examples
    if stream is not None:
        encoder = ExampleEncoder(processor)
        trained = SpeechStream(stream, RowCheck(), encoder, num_rows=known_rows(stream), shuffle_buffer=20)
    defaults = {
        "max_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "learning_rate": 0.1,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
    }
    arguments = AudioTrainingArguments(
        output_dir=str(folder),
        dataloader_num_workers=0,
        disable_tqdm=True,
        use_cpu=True,
        **defaults | options,
    )
    return CTCTrainer(
        model=model,
        args=arguments,
        processor=processor,
        scorer=CTCScorer(ctc_labels(TOKENIZER), 0),
        train_dataset=trained,
        eval_dataset=examples,
        data_collator=CTCCollator(processor),
    )


@pytest.mark.parametrize("name", ["lstm", "whisper", "wav2vec2 with layer norm", "hubert"])
def test_accumulated_step_equals_the_step_on_the_joined_batch(name: str, rows, tmp_path: Path) -> None:
    # hubert (group norm, no mask) sees the padding, so its clips must be of one length to be comparable
    length = max(set(rows["seconds"]), key=rows["seconds"].count)
    rows = rows.filter(lambda row: row["seconds"] == length) if name == "hubert" else rows.select(range(8))
    count = len(rows) - len(rows) % 2
    weights = []
    for batch, accumulated in ((count, 1), (count // 2, 2)):
        model, extractor = make(name)
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        trainer_of(model, extractor, rows.select(range(count)), tmp_path, **options).train()
        weights.append({n: p.detach().clone() for n, p in model.named_parameters()})
    start = dict(make(name)[0].named_parameters())
    assert any((weights[0][n] - start[n]).abs().max() > 1e-3 for n in start)
    for parameter in start:
        torch.testing.assert_close(weights[0][parameter], weights[1][parameter], atol=2e-6, rtol=1e-4, msg=parameter)


@pytest.mark.parametrize("name", ["lstm", "whisper", "wav2vec2 with layer norm"])
def test_error_rate_does_not_depend_on_the_batch_size(name: str, rows, tmp_path: Path) -> None:
    model, extractor = make(name)
    rates = []
    for size in (1, 5, 13):
        trainer = trainer_of(model, extractor, rows, tmp_path, per_device_eval_batch_size=size)
        rates.append(trainer.evaluate()["eval_cer"])
        assert len(trainer.scorer.tally) == 13
    assert rates[0] == rates[1] == rates[2]


def test_padded_frames_of_a_stock_model_are_silent(rows, tmp_path: Path) -> None:
    model, extractor = make("wav2vec2 with layer norm")
    model.lm_head.bias.data[3] = 100.0  # every frame says "a", padded ones too
    trainer = trainer_of(model, extractor, rows, tmp_path)
    batch = next(iter(trainer.get_eval_dataloader()))
    _, ids, _ = trainer.prediction_step(model, batch, prediction_loss_only=False)
    spoken = (ids == 3).sum(1)
    expected = model._get_feat_extract_output_lengths(batch["attention_mask"].sum(1))
    assert spoken.tolist() == expected.tolist() and len(set(spoken.tolist())) > 1


def test_rates_are_kept_by_speaker(rows, tmp_path: Path) -> None:
    trainer = trainer_of(*make("lstm"), rows, tmp_path)
    trainer.evaluate()
    rates = split_rates(trainer.scorer.tally, "test", "greedy", seed=0)
    assert {"test/wer/greedy", "test/cer/greedy", "test/mer/greedy", "test/wer/greedy/speaker 2"} <= set(rates)
    assert rates["test/wer/greedy"].n == 13 and rates["test/wer/greedy/speaker 2"].n == 4


def test_memory_of_an_evaluation_does_not_grow_with_logits(rows, tmp_path: Path) -> None:
    trainer = trainer_of(*make("lstm"), rows, tmp_path)
    kept = []
    trainer.compute_metrics = lambda prediction, compute_result: kept.append(prediction) or {}
    output = trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation")
    assert output.predictions is None and output.label_ids is None
    assert all(prediction.predictions.dtype == torch.int64 and prediction.predictions.ndim == 2 for prediction in kept)


def test_logs_tell_the_share_of_blanks(rows, tmp_path: Path) -> None:
    trainer = trainer_of(*make("lstm"), rows, tmp_path, max_steps=2, logging_steps=1)
    trainer.train()
    assert all(0 <= entry["blank_share"] <= 1 for entry in trainer.state.log_history if "loss" in entry)


def test_the_last_step_is_evaluated_and_can_be_the_best(rows, tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 5}
    trainer = trainer_of(*make("lstm"), rows, tmp_path, **options)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_wer" in entry] == [2, 4, 5]
    assert (tmp_path / "checkpoint-5").is_dir()


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("streamed", [True, False])
def test_epochs_end_where_the_data_ends(streamed: bool, accumulated: int, rows, stream, tmp_path: Path) -> None:
    """The number of steps is an estimate from 20 of 96 rows; every row is taken and every batch stepped on."""
    options = {"max_steps": -1, "num_train_epochs": 2, "batch_seconds": 5.0, "per_device_train_batch_size": 100}
    options |= {"gradient_accumulation_steps": accumulated, "eval_strategy": "epoch", "save_strategy": "no"}
    trainer = trainer_of(*make("lstm"), rows, tmp_path, stream if streamed else None, **options)
    trainer.train()
    counts = trainer.data_place.loader.batches.counts
    assert counts.rows == 2 * (96 if streamed else 13) and counts.dropped == 0
    assert trainer.state.global_step * accumulated == counts.steps
    assert trainer.state.epoch == 2.0 and trainer.state.max_steps == trainer.state.global_step
    assert [entry["epoch"] for entry in trainer.state.log_history if "eval_wer" in entry] == [1.0, 2.0]


def test_steps_go_over_the_ends_of_epochs(rows, stream, tmp_path: Path) -> None:
    options = {"max_steps": 30, "per_device_train_batch_size": 8, "logging_steps": 10}  # 12 steps are an epoch
    trainer = trainer_of(*make("lstm"), rows, tmp_path, stream, **options)
    trainer.train()
    assert trainer.state.global_step == 30 and 2.4 < trainer.state.epoch < 2.6
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert last["audio_hours"] == pytest.approx(trainer.data_place.loader.progress()["audio_hours"])
    assert 0 < last["padding_share"] < 0.5 and last["skipped_rows"] == 0


def test_a_stream_of_unknown_length_is_trained_by_steps(rows, stream, tmp_path: Path) -> None:
    stream.info.splits = None
    trainer = trainer_of(*make("lstm"), rows, tmp_path, stream, max_steps=3)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.epoch) == (3, 0.0)
    with pytest.raises(ValueError, match="max_steps"):
        trainer_of(*make("lstm"), rows, tmp_path, stream, max_steps=-1, num_train_epochs=1)


def test_a_run_of_so_many_steps_is_finished_when_it_is_resumed_at_its_end(rows, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    trainer_of(*make("lstm"), rows, tmp_path, **options).train()
    again = trainer_of(*make("lstm"), rows, tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 3
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(weight, saved[name]) for name, weight in again.model.named_parameters())


def test_a_checkpoint_without_its_place_in_the_data_is_refused(rows, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer_of(*make("lstm"), rows, tmp_path, **options).train()
    state = tmp_path / "checkpoint-1" / "trainer_state.json"
    content = json.loads(state.read_text())
    del content["stateful_callbacks"]["DataPlace"]
    state.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="step 1 does not say how far it had come in the data"):
        trainer_of(*make("lstm"), rows, tmp_path, **options).train(resume_from_checkpoint=str(state.parent))


def test_steps_beyond_the_estimate_are_neither_evaluated_nor_saved_nor_faster(rows, stream, tmp_path: Path) -> None:
    options = {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 8, "eval_strategy": "steps"}
    options |= {"eval_steps": 1000, "save_strategy": "steps", "save_steps": 1000, "lr_scheduler_type": "cosine"}
    trainer = trainer_of(*make("lstm"), rows, tmp_path, stream, **options, warmup_steps=0, logging_steps=1)
    estimate = AudioStream.steps_an_epoch
    AudioStream.steps_an_epoch = lambda self: estimate(self) // 2  # as of a stream whose first rows are short
    try:
        trainer.train()
    finally:
        AudioStream.steps_an_epoch = estimate
    history = trainer.state.log_history
    assert trainer.state.global_step == 12 and trainer.data_place.loader.batches.counts.rows == 96
    assert [entry["step"] for entry in history if "eval_wer" in entry] == [12]
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-12"]
    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.005
    assert rates[6] == pytest.approx(0.05, abs=0.015)  # halfway through the data, whatever the estimate

    again = trainer_of(*make("lstm"), rows, tmp_path, stream, **options, warmup_steps=0)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-12"))
    assert again.state.global_step == 12  # it was finished
