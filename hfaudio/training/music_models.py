"""Which MusicGen a run trains: a pretrained one, or a new one around a codec; and what of it fits into memory."""

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyFeatureExtractor,
    MusicgenMelodyForConditionalGeneration,
    MusicgenMelodyProcessor,
    MusicgenProcessor,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from hfaudio.data.bundled import place_of
from hfaudio.models.codec import bandwidths, open_encodec
from hfaudio.models.delay import delays
from hfaudio.models.musicgen import check_codec, open_musicgen
from hfaudio.training.adapters import PRESETS

# Low-rank updates of a MusicGen's layers, and of what is particular to each codebook.
HEADS_AND_EMBEDDINGS = rf"{PRESETS['musicgen']}|decoder\.lm_heads\.\d+|decoder\.model\.decoder\.embed_tokens\.\d+"

CHROMA_HOP_SECONDS = 0.128  # of a new melody model; MusicGen-melody hears chroma of 4096 samples at 32 kHz


@dataclass
class MusicModelArguments:
    """A MusicGen to fine-tune, or sizes of a new one; the defaults are for a laptop."""

    model: str = field(
        default="new", metadata={"help": "Hub id or folder of a MusicGen or MusicGen-melody, 'bundled', or 'new'."}
    )
    codec: str = field(default="bundled", metadata={"help": "EnCodec of a new model: Hub id, folder or 'bundled'."})
    num_codebooks: int = field(default=4, metadata={"help": "Of the codec, coarsest first, in each channel."})
    text_encoder: str | None = field(
        default=None, metadata={"help": "T5 of a new model (google-t5/t5-base). If not given: a small new one."}
    )
    freeze_text_encoder: bool | None = field(
        default=None, metadata={"help": "Default: a pretrained one is frozen, a new one is trained along."}
    )
    melody: bool = field(default=False, metadata={"help": "A new model follows the chroma of a melody, too."})
    channels: int | None = field(
        default=None, metadata={"help": "1 mono, 2 stereo: of a new model (1), or to widen a mono one to stereo."}
    )
    window_seconds: float | None = field(
        default=None, metadata={"help": "What the model is trained on at once. Default: 5.12, or as pretrained."}
    )
    hidden_size: int = field(default=224, metadata={"help": "Of a new decoder."})
    num_hidden_layers: int = field(default=6, metadata={"help": "Of a new decoder."})
    num_attention_heads: int = field(default=4, metadata={"help": "Of a new decoder."})
    ffn_dim: int = field(default=896, metadata={"help": "Of a new decoder's feed-forward layers."})
    dropout: float | None = field(
        default=None, metadata={"help": "Of decoder and text encoder. Default: 0.1, or as pretrained."}
    )
    text_hidden_size: int = field(default=128, metadata={"help": "Of a new text encoder, with two layers."})
    text_vocab_size: int = field(default=2000, metadata={"help": "At most so many words of the captions are known."})

    def __post_init__(self) -> None:
        if self.num_codebooks < 1:
            raise ValueError(f"--num_codebooks must be at least 1; got {self.num_codebooks}")
        if self.channels not in (None, 1, 2):
            raise ValueError(f"--channels must be 1 or 2; got {self.channels}")
        if self.window_seconds is not None and not self.window_seconds > 0:
            raise ValueError(f"--window_seconds must be above 0; got {self.window_seconds:g}")
        if self.melody and self.model != "new":
            raise ValueError("--melody makes a new model; a pretrained one has melodies or not (musicgen-melody has)")


def open_music_model(args: MusicModelArguments, texts: Sequence[str]) -> tuple[Any, Any]:
    """Model and processor; the codec is frozen, and so is a pretrained text encoder unless told otherwise.

    Args:
        texts: captions, of which a new model without a pretrained text encoder knows the words.

    Raises:
        ValueError: for a folder that holds another kind of model, and a codec that does not fit.
    """
    model, processor = _new_model(args, texts) if args.model == "new" else _pretrained(args)
    if args.window_seconds is not None or args.model == "new":
        frames = math.ceil((args.window_seconds or 5.12) * model.audio_encoder.config.frame_rate)
        late = delays(model.decoder.config.num_codebooks, model.decoder.config.audio_channels)[-1]
        model.generation_config.max_length = frames + late
    check_codec(model.audio_encoder, model.decoder.config)
    model.audio_encoder.requires_grad_(False)
    is_new = args.model == "new" and args.text_encoder is None
    if args.freeze_text_encoder if args.freeze_text_encoder is not None else not is_new:
        model.text_encoder.requires_grad_(False)
    return model, processor


def _pretrained(args: MusicModelArguments) -> tuple[Any, Any]:
    place = place_of(args.model, "musicgen")
    model = open_musicgen(place, args.dropout)
    if args.channels is not None and args.channels < model.decoder.config.audio_channels:
        raise ValueError(f"--channels {args.channels}: {args.model} is stereo and cannot be made mono")
    if args.channels is not None and args.channels > model.decoder.config.audio_channels:
        widen_to_stereo(model)
    return model, AutoProcessor.from_pretrained(place)


def _new_model(args: MusicModelArguments, texts: Sequence[str]) -> tuple[Any, Any]:
    codec = first_codebooks(open_encodec(place_of(args.codec, "codec")), args.num_codebooks)
    size, channels = codec.config.codebook_size, args.channels or 1
    dropout = 0.1 if args.dropout is None else args.dropout
    tokenizer: Any
    if args.text_encoder is None:
        tokenizer = word_tokenizer(texts, args.text_vocab_size)
        t5 = T5Config(
            vocab_size=len(tokenizer),
            d_model=args.text_hidden_size,
            d_kv=32,
            d_ff=2 * args.text_hidden_size,
            num_layers=2,
            num_heads=4,
            dropout_rate=dropout,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        text_encoder = T5EncoderModel(t5)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.text_encoder)
        text_encoder = T5EncoderModel.from_pretrained(args.text_encoder, dtype=torch.float32)
    config_class = MusicgenMelodyDecoderConfig if args.melody else MusicgenDecoderConfig
    decoder = config_class(
        vocab_size=size,
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.num_attention_heads,
        ffn_dim=args.ffn_dim,
        dropout=dropout,
        num_codebooks=args.num_codebooks * channels,
        audio_channels=channels,
        pad_token_id=size,
        bos_token_id=size,
    )
    decoder.decoder_start_token_id = size
    parts: dict[str, Any] = {"text_encoder": text_encoder.config, "audio_encoder": codec.config, "decoder": decoder}
    model: Any
    processor: Any
    rate = codec.config.sampling_rate
    if args.melody:
        hop = round(CHROMA_HOP_SECONDS * rate)
        extractor = MusicgenMelodyFeatureExtractor(
            sampling_rate=rate, hop_length=hop, n_fft=4 * hop, chunk_length=math.ceil(args.window_seconds or 5.12)
        )
        parts |= {"num_chroma": 12, "chroma_length": math.ceil((args.window_seconds or 5.12) * rate / hop)}
        model = MusicgenMelodyForConditionalGeneration(MusicgenMelodyConfig(**parts))
        processor = MusicgenMelodyProcessor(extractor, tokenizer)
    else:
        model = MusicgenForConditionalGeneration(MusicgenConfig(**parts))
        processor = MusicgenProcessor(EncodecFeatureExtractor(1, rate, chunk_length_s=None), tokenizer)
    model.audio_encoder.load_state_dict(codec.state_dict())
    if args.text_encoder is not None:
        model.text_encoder.load_state_dict(text_encoder.state_dict())
    generation = model.generation_config
    generation.pad_token_id = generation.bos_token_id = generation.decoder_start_token_id = size
    generation.do_sample, generation.guidance_scale, generation.top_k = True, 3.0, 250
    return model, processor


def first_codebooks(codec: EncodecModel, num_codebooks: int) -> EncodecModel:
    """A codec with the first codebooks only, so that `generate` with an audio prompt, which takes the lowest bandwidth
    of the codec, gives as many as the decoder speaks in."""
    have = codec.config.num_quantizers
    if num_codebooks > have:
        raise ValueError(
            f"--num_codebooks is {num_codebooks} and the codec has {have}; ask for at most {have}, or train a codec "
            "with more by recipes/codec.py"
        )
    config = EncodecConfig.from_dict(codec.config.to_dict())
    config._name_or_path = ""  # a folder of this machine, which transformers would write into config.json
    config.target_bandwidths = bandwidths(num_codebooks, config.codebook_size, config.frame_rate)[-1:]
    small = EncodecModel(config)
    weights = codec.state_dict()
    small.load_state_dict({name: weights[name] for name in small.state_dict()})
    return small.eval()


def word_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of the commonest words of the texts, in lower case without punctuation; others are `<unk>`.

    Each text ends with `</s>`, so that none has no token.
    """
    normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s'#]+"), " ")]
    )
    counts = Counter(word for text in texts for word in normalizer.normalize_str(text).split())
    special = ["<pad>", "</s>", "<unk>"]
    words = special + sorted(word for word, _ in counts.most_common(vocab_size - len(special)))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


@torch.no_grad()
def widen_to_stereo(model: Any) -> None:
    """A mono MusicGen made stereo: left and right begin with the embeddings and heads of mono (audiocraft's way).

    Embeddings are halved, so that two equal channels add up to what the layers know.
    """
    decoder, config = model.decoder, model.decoder.config
    embeddings, heads = decoder.model.decoder.embed_tokens, decoder.lm_heads
    both = [copy.deepcopy(embedding) for embedding in embeddings for _ in range(2)]
    for embedding in both:
        embedding.weight.mul_(0.5)
    decoder.model.decoder.embed_tokens = nn.ModuleList(both)
    decoder.lm_heads = nn.ModuleList([copy.deepcopy(head) for head in heads for _ in range(2)])
    config.num_codebooks *= 2
    config.audio_channels = 2
    decoder.num_codebooks = decoder.model.decoder.num_codebooks = config.num_codebooks


def save_halves(model: Any, folder: Path) -> None:
    """Write the weights as float16, in a file of half the size; opened they are in the float32 that config.json names.

    Codes are drawn at random: what rounding changes is far below that.
    """
    halves = {name: w.half() if w.is_floating_point() else w for name, w in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=halves)


# ---------------------------------------------------------------------------------------------------------------
# What fits into memory


@dataclass(frozen=True)
class MemoryPlan:
    """How to train within some memory, by estimate; what a GPU really needs differs by the kernels it uses."""

    adapter: str
    batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    gigabytes: float

    def __str__(self) -> str:
        checkpointing = ", gradient checkpointing" if self.gradient_checkpointing else ""
        return (
            f"{'all weights' if self.adapter == 'none' else self.adapter}, {self.batch_size} clips x "
            f"{self.gradient_accumulation_steps}{checkpointing}: about {self.gigabytes:.1f} GB"
        )


def plan_memory(model: Any, memory_gb: float, frames: int, step_clips: int = 16) -> MemoryPlan:
    """The first of these that fits into 80 % of the memory: all weights, all weights with checkpointing, LoRA, LoRA
    with checkpointing; each with the largest batch that fits, made up to `step_clips` by accumulation.

    Weights and gradients in float32 with AdamW's averages are 16 bytes, frozen ones 4. A layer keeps 34 bytes of
    activations for each frame and unit in half precision, with checkpointing 2 (Korthikanti et al. 2022,
    arXiv:2205.05198, equation 2; fused attention, so without its quadratic term); the logits' 12 bytes a code come on
    top. ValueError if nothing fits.
    """
    decoder = model.decoder.config
    weights = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    layer = frames * decoder.hidden_size
    logits = 12 * frames * decoder.num_codebooks * decoder.vocab_size
    for adapter, checkpointing in (("none", False), ("none", True), ("lora", False), ("lora", True)):
        fixed = 4 * weights + (12 * trained if adapter == "none" else 12 * trained // 50)
        kept = 2 * decoder.num_hidden_layers + 34 if checkpointing else 34 * decoder.num_hidden_layers
        batch = step_clips
        while batch >= 1:
            total = (fixed + batch * (kept * layer + logits)) / 1e9
            if total <= 0.8 * memory_gb:
                return MemoryPlan(adapter, batch, step_clips // batch, checkpointing, total)
            batch //= 2
    raise ValueError(
        f"--memory_gb {memory_gb:g} is too little: one clip with LoRA and gradient checkpointing takes about "
        f"{total / 0.8:.1f} GB; take a smaller model, or shorter windows (--window_seconds)"
    )
