"""Which CTC model a recipe trains: ours from nothing, a Whisper encoder, or any `AutoModelForCTC`."""

import dataclasses
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import hfaudio.auto  # noqa: F401, folders of our own models open below
from hfaudio.audio.features import ARTICLE_MFCC, LOG_MEL, WHISPER
from hfaudio.models import LstmCTCConfig, LstmForCTC, WhisperForCTC
from hfaudio.models.frames import FrameCount
from hfaudio.processing import SpectralFeatureExtractor, build_bpe_tokenizer, build_char_tokenizer
from hfaudio.processing.tokenizer import check_coverage

FEATURES = {"log_mel": LOG_MEL, "mfcc": ARTICLE_MFCC, "whisper": WHISPER}
LSTM_OPTIONS = ("features", "hidden_size", "num_hidden_layers", "conv_strides", "dropout")


@dataclass
class ModelArguments:
    """Which model, with which sizes and vocabulary."""

    model: str = field(
        default="lstm",
        metadata={
            "help": "'lstm' trains ours from nothing; else a Hub id or folder: of a Whisper checkpoint the encoder is "
            "taken and gets a CTC head, anything else must open by AutoModelForCTC."
        },
    )
    features: str = field(default="log_mel", metadata={"help": f"Of the LSTM: one of {', '.join(FEATURES)}."})
    hidden_size: int = field(default=192, metadata={"help": "Units of the LSTM in each direction."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Bidirectional layers of the LSTM."})
    conv_strides: list[int] | None = field(
        default=None, metadata={"help": "Of the LSTM; default: 2 2 (25 frames a second), with mfcc 1 1 (31)."}
    )
    dropout: float = field(default=0.0, metadata={"help": "Between the layers of the LSTM."})
    bpe_vocab_size: int | None = field(default=None, metadata={"help": "BPE with so many entries, not characters."})
    keep_vocabulary: bool = field(default=False, metadata={"help": "Use the checkpoint's own tokenizer and head."})
    vocabulary_rows: int = field(
        default=20_000, metadata={"help": "Rows of a stream that are read for their transcripts' vocabulary."}
    )
    freeze_feature_encoder: bool = field(default=False, metadata={"help": "Do not train the convolutions."})
    mask_time_prob: float | None = field(
        default=None, metadata={"help": "SpecAugment inside models on waveforms; default: as their config says."}
    )

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise ValueError(f"--features must be one of {', '.join(FEATURES)}; got {self.features!r}")
        defaults = {f.name: f.default for f in fields(self)}
        given = [name for name in LSTM_OPTIONS if getattr(self, name) != defaults[name]]
        if given and self.model != "lstm":
            raise ValueError(f"--{given[0]} is an option of --model lstm, not of {self.model}; leave it out")
        if self.keep_vocabulary and (self.model == "lstm" or self.bpe_vocab_size):
            raise ValueError("--keep_vocabulary needs a --model with a vocabulary, and no --bpe_vocab_size")


def build_tokenizer(args: ModelArguments, texts: list[str]) -> PreTrainedTokenizerBase:
    """The tokenizer for these (normalised, training) texts, or the checkpoint's own if it knows them."""
    if args.keep_vocabulary:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        check_coverage(tokenizer, texts)
        return tokenizer
    if args.bpe_vocab_size:
        return build_bpe_tokenizer(texts, args.bpe_vocab_size)
    return build_char_tokenizer(texts)


def build_model(
    args: ModelArguments, tokenizer: PreTrainedTokenizerBase, normalizer: str, quantization: Any = None
) -> tuple[PreTrainedModel, Any]:
    """The model with a head for this tokenizer, and the feature extractor that goes with it.

    `config.text_normalizer` records how the text was written that the model learned, and is scored on.
    """
    head = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if args.model == "lstm":
        model, extractor = build_lstm(args, head)
    else:
        config = AutoConfig.from_pretrained(args.model)
        model, extractor = open_model(args, config, head, normalizer, quantization)
    model.config.text_normalizer = normalizer
    if args.freeze_feature_encoder:
        if not hasattr(model, "freeze_feature_encoder"):
            raise ValueError(f"--freeze_feature_encoder: {type(model).__name__} has no such part; leave it out")
        freezable: Any = model
        freezable.freeze_feature_encoder()
    return model, extractor


def build_lstm(args: ModelArguments, head: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    extractor = SpectralFeatureExtractor(FEATURES[args.features], normalize=args.features != "whisper")
    config = LstmCTCConfig(
        feature_size=extractor.feature_size,
        hop_length=extractor.settings.hop_length,
        conv_strides=args.conv_strides or ([1, 1] if args.features == "mfcc" else [2, 2]),
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        dropout=args.dropout,
        **head,
    )
    return LstmForCTC(config), extractor


def open_model(
    args: ModelArguments, config: PretrainedConfig, head: dict[str, Any], normalizer: str, quantization: Any
) -> tuple[PreTrainedModel, Any]:
    if config.model_type == "whisper":
        if args.keep_vocabulary:
            raise ValueError(f"--keep_vocabulary: {args.model} is a Whisper, its decoder's vocabulary is none for CTC")
        mel = dataclasses.replace(WHISPER, n_mels=config.num_mel_bins)
        return WhisperForCTC.from_whisper(args.model, **head), SpectralFeatureExtractor(mel, normalize=False)
    known = config.to_dict()
    if args.keep_vocabulary and known.get("text_normalizer", normalizer) != normalizer:
        raise ValueError(f"{args.model} learned text as --normalizer {known['text_normalizer']} writes it; use that")
    # "mean": N equal micro-batches or ranks average to the joined batch. Ours know no other loss.
    options: dict[str, Any] = {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}
    if args.mask_time_prob is not None:
        if "mask_time_prob" not in known:
            raise ValueError(f"--mask_time_prob: {config.model_type} does not mask inside the model; leave it out")
        options["mask_time_prob"] = args.mask_time_prob
    options = {name: value for name, value in options.items() if name in known}
    if quantization is not None:
        options["quantization_config"] = quantization
    if args.keep_vocabulary:
        model = AutoModelForCTC.from_pretrained(args.model, **options)
    else:
        model = AutoModelForCTC.from_pretrained(args.model, ignore_mismatched_sizes=True, **options, **head)
        fresh_head(model)
    return model, AutoFeatureExtractor.from_pretrained(args.model)


def fresh_head(model: Any) -> None:
    """Draw the CTC head anew: of another vocabulary of the same size its weights would mean nothing."""
    names = head_names(model)
    if not names:
        raise ValueError(f"{type(model).__name__} has no lm_head or ctc_head; is it a CTC model?")
    model.get_submodule(names[0]).reset_parameters()


def head_names(model: PreTrainedModel) -> list[str]:
    """Name of the layer behind which the labels stand."""
    return [name for name, _ in model.named_children() if name in ("lm_head", "ctc_head")]


def duration_limits(
    model: PreTrainedModel, frames: FrameCount, rate: int, speed_factors: list[float]
) -> tuple[float, float]:
    """The shortest and the longest clip in seconds that the model can be trained on, played at any of the speeds.

    Models that mask spans of hidden states (wav2vec2, w2v-BERT) stop at clips shorter than a span; a Whisper encoder
    has positions for 30 s.
    """
    config = model.config.to_dict()
    slowest, fastest = min(1.0, *speed_factors), max(1.0, *speed_factors)
    shortest, longest = 0.0, float("inf")
    if config.get("mask_time_prob", 0) and not isinstance(model, LstmForCTC | WhisperForCTC):
        samples = (config["mask_time_length"] + 1 - frames.offset) * frames.samples_per_frame
        shortest = fastest * samples / rate
    if isinstance(model, WhisperForCTC):
        longest = slowest * model.config.max_source_positions * frames.samples_per_frame / rate
    return shortest, longest
