"""Which model with a decoder a recipe tunes: any `AutoModelForSpeechSeq2Seq`."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from hfaudio.models.seq2seq import crop_encoder, decoder_positions
from hfaudio.processing.targets import PlainTargets, WhisperTargets
from hfaudio.processing.whisper_tokenizer import CONTROL, build_whisper_tokenizer
from hfaudio.text.normalize import NORMALIZERS

PARTS = ("encoder", "decoder", "convolutions", "embeddings")
TARGETS = ("transcript", "caption")
NEW_MODEL_OPTIONS = ("d_model", "encoder_layers", "decoder_layers", "dropout", "vocab_size")
WHISPER_SECONDS = 30.0


@dataclass
class Seq2SeqModelArguments:
    """Which model, which parts of it are trained, and what its decoder learns."""

    model: str = field(
        default="new",
        metadata={
            "help": "'new' trains a small one in Whisper's format from nothing; else a Hub id or folder that "
            "AutoModelForSpeechSeq2Seq opens: Whisper, Moonshine, SpeechT5, ..."
        },
    )
    d_model: int = field(default=192, metadata={"help": "Width of a new model."})
    encoder_layers: int = field(default=3, metadata={"help": "Encoder layers of a new model."})
    decoder_layers: int = field(default=2, metadata={"help": "Decoder layers of a new model."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of a new model."})
    vocab_size: int = field(default=400, metadata={"help": "Byte-level BPE entries of a new model."})
    score_normalizer: str = field(
        default="basic",
        metadata={
            "help": "How both sides of a score are written, saved with the model; --normalizer is what it learns."
        },
    )
    target: str = field(
        default="transcript",
        metadata={"help": "What is learned: transcript, or caption (a description, scored by chrF, BLEU and facts)."},
    )
    task: str = field(default="transcribe", metadata={"help": "Of a multilingual Whisper: transcribe or translate."})
    freeze: list[str] | None = field(
        default=None, metadata={"help": f"Parts that stay as they are, of: {', '.join(PARTS)}."}
    )
    train_window_seconds: float = field(
        default=0.0, metadata={"help": "Training clips are padded with silence to this; 30 is Whisper's own window."}
    )
    eval_window_seconds: float = field(
        default=10.0, metadata={"help": "The same for evaluation; an untuned Whisper repeats itself below 8."}
    )
    timestamp_probability: float = field(
        default=0.5, metadata={"help": "Share of clips with segments that is learned with times (Whisper)."}
    )
    previous_text_probability: float = field(
        default=0.5, metadata={"help": "Share of clips with a previous text that gets it as a prompt (Whisper)."}
    )
    mask_time_prob: float | None = field(
        default=None, metadata={"help": "SpecAugment inside models on waveforms; default: as their config says."}
    )

    def __post_init__(self) -> None:
        if self.score_normalizer not in NORMALIZERS:
            raise ValueError(
                f"--score_normalizer must be one of {', '.join(NORMALIZERS)}; got {self.score_normalizer!r}"
            )
        defaults = {f.name: f.default for f in fields(self)}
        given = [name for name in NEW_MODEL_OPTIONS if getattr(self, name) != defaults[name]]
        if given and self.model != "new":
            raise ValueError(f"--{given[0]} is an option of --model new, not of {self.model}; leave it out")
        if self.target not in TARGETS:
            raise ValueError(f"--target must be one of {', '.join(TARGETS)}; got {self.target!r}")
        unknown = sorted(set(self.freeze or []) - set(PARTS))
        if unknown:
            raise ValueError(f"--freeze takes {', '.join(PARTS)}; got {', '.join(unknown)}")
        for option in ("train_window_seconds", "eval_window_seconds"):
            if not 0 <= getattr(self, option) <= WHISPER_SECONDS:
                raise ValueError(f"--{option} must be between 0 and 30; got {getattr(self, option):g}")
        for option in ("timestamp_probability", "previous_text_probability"):
            if not 0 <= getattr(self, option) <= 1:
                raise ValueError(f"--{option} must be between 0 and 1; got {getattr(self, option)}")


def open_seq2seq(
    args: Seq2SeqModelArguments, texts: list[str], quantization: Any = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model in float32 (or quantised) and its processor; a Whisper takes clips of any length up to 30 s.

    `texts` are those that a new model's vocabulary is made of.
    """
    model, processor = new_whisper(args, texts) if args.model == "new" else open_pretrained(args, quantization)
    crop_encoder(model)
    freeze(model, args.freeze or [])
    model.config.text_normalizer = args.score_normalizer
    return model, processor


def new_whisper(args: Seq2SeqModelArguments, texts: list[str]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """An English-only Whisper (one without language and task tokens in its prompt) of any size, from nothing."""
    tokenizer = build_whisper_tokenizer(texts, args.vocab_size)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in (*CONTROL, "endoftext")}
    common: dict[str, Any] = {
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), ids["endoftext"]),
        "decoder_start_token_id": ids["startoftranscript"],
    }
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=args.d_model,
        encoder_layers=args.encoder_layers,
        decoder_layers=args.decoder_layers,
        encoder_ffn_dim=4 * args.d_model,
        decoder_ffn_dim=4 * args.d_model,
        encoder_attention_heads=max(1, args.d_model // 64),
        decoder_attention_heads=max(1, args.d_model // 64),
        dropout=args.dropout,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **common,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        is_multilingual=False,
        max_length=config.max_target_positions,
        no_timestamps_token_id=ids["notimestamps"],
        prev_sot_token_id=ids["startofprev"],
        **common,
    )
    return model, WhisperProcessor(WhisperFeatureExtractor(), tokenizer)


def open_pretrained(args: Seq2SeqModelArguments, quantization: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """What `AutoModelForSpeechSeq2Seq` and `AutoProcessor` open; ValueError if there is none."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(args.model)
    except OSError as error:
        raise ValueError(
            f"--model: there is no folder {args.model!r}, and as a model of the Hub it cannot be opened: {error}"
        ) from error
    options: dict[str, Any] = {}
    if args.mask_time_prob is not None:
        if "mask_time_prob" not in config.to_dict() or config.model_type == "whisper":
            raise ValueError(
                f"--mask_time_prob: the features of {config.model_type} are masked before the model; leave it out"
            )
        options["mask_time_prob"] = args.mask_time_prob
    model = AutoModelForSpeechSeq2Seq.from_pretrained(
        args.model, dtype=torch.float32, quantization_config=quantization, **options
    )
    return model, AutoProcessor.from_pretrained(args.model)


def freeze(model: Any, parts: list[str]) -> None:
    """Do not train these parts (of `PARTS`)."""
    for part in parts:
        if part == "encoder":
            modules = [model.get_encoder()]
        elif part == "decoder":
            modules = [model.get_decoder()]
        elif part == "embeddings":
            modules = [model.get_input_embeddings(), model.get_output_embeddings()]
        else:
            encoder = model.get_encoder()
            names = ("conv1", "conv2", "conv3", "conv", "feature_extractor", "prenet")  # Whisper, Moonshine, ...
            modules = [module for name, module in encoder.named_modules() if name.rpartition(".")[2] in names]
            if not modules:
                raise ValueError(f"--freeze convolutions: {type(encoder).__name__} has none that are known here")
        for module in filter(None, modules):
            module.requires_grad_(False)


def build_targets(
    args: Seq2SeqModelArguments,
    model: PreTrainedModel,
    processor: Any,
    language: str | None,
    *,
    trained: bool,
    row_languages: bool = False,
    **rest: Any,
) -> PlainTargets | WhisperTargets:
    """What the decoder of this model learns; not `trained`: what it is scored on, without times and previous texts.

    `row_languages`: whether rows name their language; `rest` are the normaliser and seed of `WhisperTargets`.
    """
    if model.config.model_type != "whisper":
        if args.task != "transcribe":
            raise ValueError(f"--task {args.task}: {model.config.model_type} knows no tasks; leave it out")
        start, end = model.generation_config.decoder_start_token_id, model.generation_config.eos_token_id
        start = model.config.decoder_start_token_id if start is None else start
        return PlainTargets(processor.tokenizer, start_id=start, end_id=end)
    multilingual = bool(model.generation_config.to_dict().get("is_multilingual", False))
    if multilingual and language is None and not row_languages:
        raise ValueError("a multilingual Whisper must be told the language; set --language or --language_column")
    return WhisperTargets(
        processor.tokenizer,
        multilingual=multilingual,
        language=language,
        task=args.task,
        timestamp_probability=args.timestamp_probability if trained else 0.0,
        previous_text_probability=args.previous_text_probability if trained else 0.0,
        max_length=decoder_positions(model),
        **rest,
    )


def longest_clip(model: PreTrainedModel, speeds: list[float], silence_seconds: float) -> float:
    """The longest clip in seconds that fits at any speed with silence at both ends: Whisper has room for 30 s."""
    if model.config.model_type != "whisper":
        return float("inf")
    return WHISPER_SECONDS * min(1.0, *speeds) - 2 * silence_seconds
