"""The trainer for decoders on songs of tones with an untrained Whisper."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, EvalPrediction
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from hfaudio.data.collate import Seq2SeqCollator
from hfaudio.data.datasets import DataArguments, RowCheck, check_rows, load_splits
from hfaudio.data.examples import ExampleEncoder, SpeechExamples, by_length
from hfaudio.models.seq2seq import crop_encoder, generate
from hfaudio.processing.targets import WhisperTargets
from hfaudio.text.normalize import normalize
from hfaudio.training.arguments import AudioTrainingArguments
from hfaudio.training.seq2seq_trainer import GenerationScorer, SpeechSeq2SeqTrainer, token_loss


@pytest.fixture(scope="module")
def rows(songs: Path):
    return by_length(check_rows(load_splits(DataArguments(dataset=str(songs)))["validation"], RowCheck())[0])


def trainer_of(folder: Path, rows, output: Path, **options) -> SpeechSeq2SeqTrainer:
    model, processor = AutoModelForSpeechSeq2Seq.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    crop_encoder(model)
    targets = WhisperTargets(processor.tokenizer, multilingual=False)
    examples = SpeechExamples(rows, RowCheck(), ExampleEncoder(processor, None, targets))
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
    generate_every = options.pop("generate_every", 1)
    arguments = AudioTrainingArguments(
        output_dir=str(output), dataloader_num_workers=0, disable_tqdm=True, use_cpu=True, **defaults | options
    )
    return SpeechSeq2SeqTrainer(
        model=model,
        args=arguments,
        processor=processor,
        scorer=GenerationScorer(processor.tokenizer, "basic"),
        prompt_length=targets.prompt_length,
        generate_every=generate_every,
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=Seq2SeqCollator(processor, processor.tokenizer.pad_token_id),
    )


def same_length(rows):
    """Clips of one length: padding is silence to a Whisper, but not nothing."""
    length = max(set(rows["seconds"]), key=rows["seconds"].count)
    rows = rows.filter(lambda row: row["seconds"] == length)
    return rows.select(range(len(rows) - len(rows) % 2))


def test_accumulated_step_equals_the_step_on_the_joined_batch(small_whisper: Path, rows, tmp_path: Path) -> None:
    # Of different numbers of tokens, so that a mean of the micro-batches' means would be another one.
    chosen = same_length(rows)
    texts = ["a" * (1 + 4 * number) for number in range(len(chosen))]
    chosen = chosen.remove_columns("text").add_column("text", texts)
    weights = []
    for batch, accumulated in ((len(chosen), 1), (len(chosen) // 2, 2)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        trainer = trainer_of(small_whisper, chosen, tmp_path, **options)
        trainer.train()
        weights.append({name: weight.detach().clone() for name, weight in trainer.model.named_parameters()})
    start = dict(AutoModelForSpeechSeq2Seq.from_pretrained(small_whisper).named_parameters())
    assert any((weights[0][name] - start[name]).abs().max() > 1e-3 for name in start)
    for name in start:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-6, rtol=1e-4, msg=name)


def test_the_loss_is_that_of_the_model_with_its_own_shifted_labels(small_whisper: Path, rows, tmp_path: Path) -> None:
    trainer = trainer_of(small_whisper, rows, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    model = trainer.model.eval()
    labels = batch["labels"].clone()
    labels[:, 0] = 0  # what <|notimestamps|> follows is asked for by nobody; fill in anything for the shift
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    shifted = shift_tokens_right(labels, pad, start)
    assert torch.equal(shifted[:, 0], batch["decoder_input_ids"][:, 0])
    stock = model(**batch).loss
    ours = token_loss(0.0)(model(**{k: v for k, v in batch.items() if k != "labels"}), batch["labels"])
    torch.testing.assert_close(ours, stock)


def test_label_smoothing_is_torchs(small_whisper: Path, rows, tmp_path: Path) -> None:
    logits, labels = torch.randn(2, 3, 7), torch.tensor([[1, 2, -100], [3, -100, -100]])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.2)
    outputs = type("Outputs", (), {"logits": logits})
    torch.testing.assert_close(token_loss(0.2)(outputs, labels), expected)
    torch.testing.assert_close(token_loss(0.2)(outputs, labels, num_items_in_batch=6), expected / 2)


def test_texts_do_not_depend_on_the_batch_size(small_whisper: Path, rows, tmp_path: Path) -> None:
    chosen = same_length(rows)
    texts = []
    for size in (1, len(chosen)):
        trainer = trainer_of(small_whisper, chosen, tmp_path, per_device_eval_batch_size=size)
        trainer.evaluate(trainer.eval_dataset)
        texts.append(trainer.scorer.hypotheses)
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(chosen) == len(trainer.scorer.tally)


def test_what_is_scored_is_what_generate_says(small_whisper: Path, rows, tmp_path: Path) -> None:
    trainer = trainer_of(small_whisper, rows.select(range(3)), tmp_path, per_device_eval_batch_size=1)
    metrics = trainer.evaluate(trainer.eval_dataset)
    for number, batch in enumerate(trainer.get_eval_dataloader()):
        prompt = batch["decoder_input_ids"][:, :2]
        ids = generate(trainer.model, {"input_features": batch["input_features"]}, prompt).ids[0]
        text = trainer.processing_class.tokenizer.decode(ids[ids >= 0], skip_special_tokens=True)
        assert trainer.scorer.hypotheses[number] == text.strip()
    assert trainer.scorer.references == rows.select(range(3))["text"]
    assert set(metrics) >= {"eval_wer", "eval_cer", "eval_loops", "eval_empty", "eval_run_on"}
    assert "eval_loss" not in metrics


def test_evaluation_on_the_way_is_a_loss_and_now_and_then_texts(small_whisper: Path, rows, tmp_path: Path) -> None:
    trainer = trainer_of(
        small_whisper, rows.select(range(4)), tmp_path, max_steps=5, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=2, load_best_model_at_end=True, metric_for_best_model="wer",
        greater_is_better=False, generate_every=2, learning_rate=1e-4,
    )  # fmt: skip
    trainer.train()
    seen = {
        name: [entry["step"] for entry in trainer.state.log_history if name in entry]
        for name in ("eval_loss", "eval_wer")
    }
    assert seen == {"eval_loss": [1, 2, 3, 4, 5], "eval_wer": [2, 4, 5]}  # the last step always
    assert trainer.state.best_global_step in (2, 4, 5)


def test_the_scorer_normalises_both_sides_and_keeps_speakers(small_whisper: Path, rows) -> None:
    tokenizer = AutoProcessor.from_pretrained(small_whisper).tokenizer
    scorer = GenerationScorer(tokenizer, "basic")
    dataset = rows.select(range(2)).remove_columns("text").add_column("text", ["A, B!", "c d"])
    scorer.start(type("Examples", (), {"rows": dataset}))
    said = [tokenizer(" a b", add_special_tokens=False).input_ids, tokenizer(" C", add_special_tokens=False).input_ids]
    ids = torch.tensor([[*said[0], 270], [*said[1], *[-100] * (len(said[0]) + 1 - len(said[1]))]])
    result = scorer(EvalPrediction(ids, torch.zeros(2, 1)), compute_result=True)
    assert result["wer"] == 0.25
    assert scorer.tally.has_groups
    assert [normalize(text, "basic") for text in scorer.hypotheses] == ["a b", "c"]
