"""Fine-tune, or train from nothing, a CTC speech recogniser.

The bundled spoken prompts, a small LSTM, a few minutes on a laptop CPU:

    accelerate launch recipes/asr_ctc.py

Your own recordings and a pretrained encoder (Whisper, wav2vec2, HuBERT, WavLM, w2v-BERT, Parakeet CTC, ...):

    accelerate launch recipes/asr_ctc.py --model facebook/wav2vec2-base --dataset user/recordings --output_dir my_model

Options are the defaults, then a YAML file, then flags (recipes/asr_ctc.py recipes/configs/digits.yaml --seed 1);
--help lists them. The result is a folder that `pipeline("automatic-speech-recognition", model=FOLDER)` opens, with
metrics.json, curves.png and worst_utterances.md beside the weights.
"""

import dataclasses
import logging
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, Wav2Vec2Processor, set_seed

import hfaudio.auto  # noqa: F401, folders of our own models open below
from hfaudio.audio.augment import Augment, AugmentArguments
from hfaudio.audio.features import ARTICLE_MFCC, LOG_MEL, WHISPER
from hfaudio.data.collate import CTCCollator
from hfaudio.data.datasets import DataArguments, RowCheck, SkipCounts, check_rows, load_splits
from hfaudio.data.examples import ExampleEncoder, SpeechExamples, SpeechStream
from hfaudio.hub.remote_code import carry_code
from hfaudio.metrics.error_rate import ErrorRate
from hfaudio.metrics.results import split_rates
from hfaudio.models import LstmCTCConfig, LstmForCTC, WhisperForCTC
from hfaudio.models.frames import FrameCount
from hfaudio.processing import SpectralFeatureExtractor, build_bpe_tokenizer, build_char_tokenizer, ctc_labels
from hfaudio.processing.tokenizer import LabelFrames, check_coverage
from hfaudio.text.normalize import normalize
from hfaudio.training.arguments import AudioTrainingArguments, parse_arguments
from hfaudio.training.callbacks import CTCMonitor
from hfaudio.training.report import write_report
from hfaudio.training.scoring import CTCScorer
from hfaudio.training.trainer import CTCTrainer, fresh_head

FEATURES = {"log_mel": LOG_MEL, "mfcc": ARTICLE_MFCC, "whisper": WHISPER}
VOCABULARY_ROWS = 1_000_000  # of a stream without end; a character that first comes later would be rare


@dataclass
class ModelArguments:
    model: str = field(
        default="lstm",
        metadata={
            "help": "'lstm' trains ours from nothing; else a Hub id or folder: of a Whisper checkpoint the encoder is "
            "taken and gets a CTC head, anything else must open by AutoModelForCTC."
        },
    )
    features: str = field(default="log_mel", metadata={"help": "Of the LSTM: 'log_mel', 'mfcc' or 'whisper'."})
    hidden_size: int = field(default=192, metadata={"help": "Units of the LSTM in each direction."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Bidirectional layers of the LSTM."})
    conv_strides: list[int] | None = field(
        default=None,
        metadata={"help": "Of the LSTM; default: 2 2 with log_mel (25 frames a second), 1 1 with mfcc (31)."},
    )
    dropout: float = field(default=0.1, metadata={"help": "Between the layers of the LSTM."})
    bpe_vocab_size: int | None = field(default=None, metadata={"help": "BPE with so many entries, not characters."})
    keep_vocabulary: bool = field(default=False, metadata={"help": "Use the checkpoint's own tokenizer and head."})
    freeze_feature_encoder: bool = field(default=False, metadata={"help": "Do not train the convolutions."})
    mask_time_prob: float = field(default=0.05, metadata={"help": "SpecAugment inside models on waveforms."})

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise ValueError(f"--features must be one of {', '.join(FEATURES)}; got {self.features!r}")


@dataclass
class CTCTrainingArguments(AudioTrainingArguments):
    output_dir: str | None = field(default="output/asr_ctc", metadata={"help": "Where model and results go."})
    learning_rate: float | None = field(default=None, metadata={"help": "Default: 3e-3 for the LSTM, else 1e-4."})
    num_train_epochs: float = field(default=16, metadata={"help": "Passes over the training split."})
    metric_for_best_model: str | None = field(default="wer", metadata={"help": "What the best checkpoint is by."})
    greater_is_better: bool | None = field(default=False, metadata={"help": "False for error rates."})


def build_model(args: ModelArguments, tokenizer: Any) -> tuple[torch.nn.Module, Any]:
    """The model with a head for this tokenizer, and the feature extractor that goes with it."""
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if args.model == "lstm":
        extractor = SpectralFeatureExtractor(FEATURES[args.features], normalize=args.features != "whisper")
        config = LstmCTCConfig(
            feature_size=extractor.feature_size,
            hop_length=extractor.hop_length,
            conv_strides=args.conv_strides or ([1, 1] if args.features == "mfcc" else [2, 2]),
            hidden_size=args.hidden_size,
            num_hidden_layers=args.num_hidden_layers,
            dropout=args.dropout,
            **sizes,
        )
        return LstmForCTC(config), extractor
    config = AutoConfig.from_pretrained(args.model)
    if config.model_type == "whisper":
        mel = dataclasses.replace(WHISPER, n_mels=config.num_mel_bins)
        return WhisperForCTC.from_whisper(args.model, **sizes), SpectralFeatureExtractor(mel, normalize=False)
    options = {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True, "mask_time_prob": args.mask_time_prob}
    model = AutoModelForCTC.from_pretrained(args.model, ignore_mismatched_sizes=True, **options, **sizes)
    if not args.keep_vocabulary:
        fresh_head(model)
    return model, AutoFeatureExtractor.from_pretrained(args.model)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    start = time.time()
    data_args, model_args, augment_args, args = parse_arguments(
        DataArguments, ModelArguments, AugmentArguments, CTCTrainingArguments, argv=argv
    )
    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.WARNING)
    args.learning_rate = args.learning_rate or (3e-3 if model_args.model == "lstm" else 1e-4)
    set_seed(args.seed)

    # Data: undecoded audio and normalised text; the training split may be a stream.
    splits = load_splits(data_args)

    # Vocabulary from training transcripts only; what other splits have beyond it counts as an error.
    rows = islice(splits["train"].select_columns("text"), VOCABULARY_ROWS)
    texts = [normalize(row["text"] or "", data_args.normalizer) for row in rows]
    if model_args.keep_vocabulary:
        tokenizer = AutoTokenizer.from_pretrained(model_args.model)
        check_coverage(tokenizer, texts)
    elif model_args.bpe_vocab_size:
        tokenizer = build_bpe_tokenizer(texts, model_args.bpe_vocab_size)
    else:
        tokenizer = build_char_tokenizer(texts)

    # Model and processor
    model, extractor = build_model(model_args, tokenizer)
    model.config.text_normalizer = data_args.normalizer  # scores of this model are on text written so
    if model_args.freeze_feature_encoder:
        model.freeze_feature_encoder()
    processor = Wav2Vec2Processor(extractor, tokenizer)

    # Examples: rows that cannot be used are skipped and counted; workers decode, augment and extract features.
    # Only training rows must have room for their labels, at the highest speed; a test keeps what is hard.
    rate = extractor.sampling_rate
    row_check = RowCheck(rate, data_args.normalizer, data_args.min_seconds, data_args.max_seconds)
    num_frames = FrameCount.of(model, extractor, fastest=max(augment_args.speed_factors))
    train_check = dataclasses.replace(row_check, min_frames=LabelFrames(tokenizer), num_frames=num_frames)
    encoder = ExampleEncoder(processor)
    augmented = ExampleEncoder(processor, Augment(augment_args, rate, args.seed))
    examples: dict[str, Any] = {}
    skipped = {name: SkipCounts() for name in splits}
    for name, rows in splits.items():
        check, encode = (train_check, augmented) if name == "train" else (row_check, encoder)
        if isinstance(rows, IterableDataset):
            examples[name] = SpeechStream(rows, check, encode, skipped[name], seed=args.seed)
            continue
        with args.main_process_first(desc="checking rows"):
            rows, skipped[name] = check_rows(rows, check, data_args.num_proc)
        keep = data_args.keep_seconds if name == "train" else 0
        examples[name] = SpeechExamples(rows, check, encode, keep_seconds=keep)

    # Training
    scorer = CTCScorer(ctc_labels(tokenizer), tokenizer.pad_token_id)
    trainer = CTCTrainer(
        model=model,
        args=args,
        processor=processor,
        scorer=scorer,
        train_dataset=examples["train"],
        eval_dataset=examples["validation"],
        data_collator=CTCCollator(processor),
        callbacks=[CTCMonitor()],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)

    # Results of the best checkpoint: rates with intervals over speakers, each speaker's rate, the worst utterances.
    metrics: dict[str, ErrorRate] = {}
    for name in ("validation", "test"):
        if name in examples:
            trainer.evaluate(examples[name], metric_key_prefix=name)
            metrics |= split_rates(scorer.tally, name, "greedy", seed=args.seed)
    trainer.save_model()
    if not trainer.is_world_process_zero():
        return {}
    carry_code(Path(args.output_dir))
    return write_report(
        Path(args.output_dir),
        metrics,
        worst=scorer.tally.worst(50),
        log_history=trainer.state.log_history,
        seed=args.seed,
        seconds=time.time() - start,
        processes=args.world_size,
        language=data_args.language,
        skipped={name: counts.as_dict() for name, counts in skipped.items()},
    )


if __name__ == "__main__":
    main()
