"""Music from text, clips to continue and melodies: a MusicGen's codes, sampled by a loop of our own, and their audio.

Letters: B clips, K codebooks, T frames, V codes of a codebook, C channels, N samples, L positions of conditions,
R rows of a forward pass (B, or 2 B with guidance: those with conditions first, those without behind them).
"""

# Why not `model.generate` of transformers 5.23: `num_return_sequences` above 1 scrambles the codebooks, `streamer`
# gets nothing after the first call, `MusicgenForCausalLM` loses its prompt, MusicGen-melody refuses clips to continue,
# there is no generator for each item, and nothing slides over the window that a model was trained on.

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Generator, Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from tqdm import tqdm
from transformers import AutoProcessor, DynamicCache, EncoderDecoderCache

from hfaudio.audio.io import Source, load_audio
from hfaudio.data.bundled import place_of
from hfaudio.models.delay import apply_delay, delays, undo_delay
from hfaudio.models.modes import evaluating
from hfaudio.models.musicgen import (
    check_codec,
    check_conditions,
    decode_codes,
    encode_audio,
    null_chroma,
    open_musicgen,
    window_frames,
)

logger = logging.getLogger(__name__)

Clip = np.ndarray | Source  # samples (N,) or (C, N) at the model's rate, or what `load_audio` reads, at any rate

# Samples (C, N) and their rate to samples of the same shape, float32, that a detector knows again.
Watermark = Callable[[np.ndarray, int], np.ndarray]

BLOCK_SECONDS = 30.0  # decoded at once, so that memory does not grow with the clip
# Heard by the codec around what is decoded. Convolutions of the bundled one reach 4 frames, its LSTM remembers: tunes
# differ from those decoded whole by at most 3e-4 of full scale (1.8e-3 with 1 s on the left).
LEFT_SECONDS, RIGHT_SECONDS = 2.0, 0.2
KEPT_SHARE = 0.5  # of a full window, which the next one begins with
ASKED = -1  # in place of codes that are to be drawn
BAR = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}, {rate_noinv_fmt}]"
SILENCE = 1e-4  # -80 dB; a clip that is nowhere louder cannot be continued


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn from the model's logits."""

    guidance_scale: float = 3.0  # logits = null + scale * (conditional - null); 1 = conditional ones alone
    temperature: float = 1.0  # 0 = always the most probable code
    top_k: int = 250  # only so many codes, the most probable ones; 0 = all
    top_p: float = 1.0  # only the most probable codes that have this share together; 1 = all

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale must be a number >= 0, got {self.guidance_scale}; 1 is no guidance")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be a number >= 0, got {self.temperature}; 0 draws the likeliest codes")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0, got {self.top_k}; 0 is all codes")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}; 1 is all codes")


def draw(logits: Tensor, sampling: Sampling, generators: Sequence[Generator]) -> Tensor:
    """Codes (B, K) drawn from logits (B, K, V), those of a clip by its own generator.

    The code with the largest probability / noise, noise exponential, is a draw from the probabilities; drawn on the
    CPU for each clip, it does not depend on the device or on the clips beside it.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p  # the likelier ones suffice
        probabilities = probabilities.masked_fill(outside.scatter(-1, order, outside), 0)
    noise = torch.stack([torch.empty(logits.shape[1:]).exponential_(generator=g) for g in generators])
    return (probabilities / noise.to(logits.device)).argmax(-1)


def next_logits(decoder: Any, codes: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
    """Logits (R, K, V) of the step behind codes (R, K), whose keys and values the cache, begun before, then holds too.

    The decoder's own `forward`, without what it prepares for calls of any kind: of 4.4 ms a step (2 rows, hidden size
    256, 6 layers, one thread) 1.3 ms are left out. Its modules are called as they are, so adapters are heard.
    """
    core, own, crossed = decoder.model.decoder, cache.self_attention_cache, cache.cross_attention_cache
    states = sum(embed(codes[:, k]) for k, embed in enumerate(core.embed_tokens))[:, None]
    states = states + core.embed_positions(states[..., :1], own.get_seq_length())
    has_text_beside = crossed.get_seq_length() > 0  # MusicGen-melody has it before the codes
    for index, layer in enumerate(core.layers):
        attention, heard = layer.self_attn, layer.self_attn_layer_norm(states)
        query = _by_head(attention.q_proj(heard), attention)
        keys, values = own.update(
            _by_head(attention.k_proj(heard), attention), _by_head(attention.v_proj(heard), attention), index
        )
        heard = scaled_dot_product_attention(query, keys, values)
        states = states + attention.out_proj(heard.transpose(1, 2).flatten(2))
        if has_text_beside:
            attention, text = layer.encoder_attn, crossed.layers[index]
            query = _by_head(attention.q_proj(layer.encoder_attn_layer_norm(states)), attention)
            heard = scaled_dot_product_attention(query, text.keys, text.values, mask)
            states = states + attention.out_proj(heard.transpose(1, 2).flatten(2))
        states = states + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(states))))
    states = core.layer_norm(states)[:, 0]
    return torch.stack([head(states) for head in decoder.lm_heads], 1)


def _by_head(states: Tensor, attention: Any) -> Tensor:
    """(R, n, D) to (R, heads, n, D / heads)."""
    return states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)


@dataclass(frozen=True)
class _Request:
    """A clip that is asked for."""

    tokens: Tensor | None  # (L,) of the prompt
    prefix: Tensor  # codes (K, P) that it begins with
    melody: np.ndarray | None  # mono (N,) at the rate of the chroma features
    generator: Generator


@dataclass(frozen=True)
class _Conditions:
    """What the decoder attends to: states (R, L, D), and a mask (R, 1, 1, L) that is added where lengths differ.

    The null condition is states of zeros: nothing is added to what the decoder computes, whatever their mask.
    """

    states: Tensor
    mask: Tensor | None


class MusicGenerator:
    """A MusicGen or MusicGen-melody opened once: `MusicGenerator()(["slow sad flute tune"], 10, seeds=[0])`.

    A clip's seed alone decides how it is drawn: it has the same codes alone and among others (where two codes are
    equally likely within the rounding of float32, batches of other sizes may part).

    What is longer than the window that the model was trained on is generated window by window, each beginning with
    the last half of the one before.

    Args:
        model: folder, Hub id, or "bundled".
        adapter: folder of a PEFT adapter of this model, which is merged into it.
        device: "cpu", "cuda", ...
    """

    def __init__(
        self, model: str | Path = "bundled", *, adapter: str | Path | None = None, device: str = "cpu"
    ) -> None:
        place = place_of(model, "musicgen")
        opened = open_musicgen(place)
        if adapter is not None:
            opened = PeftModel.from_pretrained(opened, adapter).merge_and_unload()
        check_conditions(opened)
        self._use(opened.eval().to(device), AutoProcessor.from_pretrained(place))

    @classmethod
    def of(cls, model: Any, processor: Any) -> "MusicGenerator":
        """Of an opened model, as it is; while it generates it is in evaluation mode."""
        generator = cls.__new__(cls)
        generator._use(model, processor)
        return generator

    def _use(self, model: Any, processor: Any) -> None:
        check_codec(model.audio_encoder, model.decoder.config)
        codec = model.audio_encoder.config
        self.model, self.processor = model, processor
        self.sample_rate: int = codec.sampling_rate
        self.channels: int = model.decoder.config.audio_channels
        self.frame_rate: float = codec.sampling_rate / codec.hop_length
        self.window_seconds: float = window_frames(model) / self.frame_rate

    @property
    def _is_melody(self) -> bool:
        return self.model.config.model_type == "musicgen_melody"

    def __call__(
        self,
        prompts: Sequence[str | None],
        seconds: float | None = None,
        *,
        seeds: Sequence[int],
        watermark: Watermark | None = None,
        **options: Any,
    ) -> list[np.ndarray]:
        """Audio (C, N), float32, of each prompt; the other arguments are those of `codes`.

        Args:
            watermark: marks each clip before it is given out. None comes with hfaudio: the packages that are kept up
                download their weights.
        """
        clips = [self.decode(codes) for codes in self.codes(prompts, seconds, seeds=seeds, **options)]
        return clips if watermark is None else [watermark(clip, self.sample_rate) for clip in clips]

    @torch.no_grad()
    def codes(
        self,
        prompts: Sequence[str | None],
        seconds: float | None = None,
        *,
        seeds: Sequence[int],
        sampling: Sampling = Sampling(),
        continue_from: Sequence[Clip | None] | None = None,
        melody: Sequence[Clip | None] | None = None,
        batch_size: int = 8,
        stop_below_db: float | None = None,
        progress: bool = False,
    ) -> list[Tensor]:
        """Codes (K, T) of a clip for each prompt.

        A prompt that is too long for the text encoder's tokenizer is cut, and of unknown words the log warns.

        Args:
            prompts: None is no text, the null condition.
            seconds: what is generated of each, rounded up to whole frames; by default the model's window.
            seeds: one for each prompt; the same prompt with other seeds gives other clips.
            continue_from: a clip for each prompt (or None), which the result begins with, as the codec gives it back.
                Of a clip that is longer than the window the last part; of one that ends within a frame, less than a
                frame is missing at its beginning. ValueError if it is silent or empty.
            melody: a clip for each prompt (or None), of MusicGen-melody; played again from its beginning where the
                result is longer.
            batch_size: clips that are generated together.
            stop_below_db: a clip ends after a second whose level (RMS, dB of full scale) is below this.
            progress: show a bar.
        """
        frames = self._frames_of(seconds)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        requests = self._requests(prompts, seeds, continue_from, melody)
        results: dict[int, Tensor] = {}
        total = frames / self.frame_rate * len(requests)
        bar = tqdm(total=total, unit="s", bar_format=BAR, disable=not progress)
        with bar, evaluating(self.model):
            for indices in self._batches(requests, batch_size):
                batch = [requests[i] for i in indices]
                clips = self._batch_codes(batch, frames, sampling, stop_below_db, bar)
                results.update(zip(indices, clips, strict=True))
        return [results[i] for i in range(len(requests))]

    @torch.no_grad()
    def stream(
        self,
        prompt: str | None,
        seconds: float | None = None,
        *,
        seed: int = 0,
        sampling: Sampling = Sampling(),
        first_seconds: float = 0.5,
        chunk_seconds: float = 1.0,
        continue_from: Clip | None = None,
        melody: Clip | None = None,
    ) -> Iterator[np.ndarray]:
        """Audio (C, n) of the clip that `codes` gives, piece by piece, while it is generated.

        A piece is decoded as soon as the frames in RIGHT_SECONDS behind it are known. Together they are the clip's
        audio but for what the codec's LSTM remembers of more than LEFT_SECONDS ago.
        """
        for name, value in (("first_seconds", first_seconds), ("chunk_seconds", chunk_seconds)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        frames = self._frames_of(seconds)
        requests = self._requests([prompt], [seed], [continue_from], [melody])
        codes = requests[0].prefix
        right = math.ceil(RIGHT_SECONDS * self.frame_rate)
        done, due = 0, math.ceil(first_seconds * self.frame_rate)
        with evaluating(self.model):
            fresh: list[Tensor] = []
            for frame in self._generate(requests, frames, sampling):
                fresh.append(frame[0])
                if codes.shape[1] + len(fresh) >= done + due + right:
                    codes, fresh = torch.cat([codes, *fresh], 1), []
                    yield self._decode_part(codes, done, codes.shape[1] - right)
                    done, due = codes.shape[1] - right, math.ceil(chunk_seconds * self.frame_rate)
            codes = torch.cat([codes, *fresh], 1)
            yield self._decode_part(codes, done, codes.shape[1])

    def decode(self, codes: Tensor) -> np.ndarray:
        """Audio (C, N), float32, of codes (K, T)."""
        size = round(BLOCK_SECONDS * self.frame_rate)
        frames = codes.shape[1]
        parts = [self._decode_part(codes, first, min(first + size, frames)) for first in range(0, frames, size)]
        return np.concatenate(parts, axis=1)

    def _decode_part(self, codes: Tensor, first: int, last: int) -> np.ndarray:
        """Audio (C, N) of the frames from `first` to before `last`, decoded with those around them."""
        start = max(0, first - math.ceil(LEFT_SECONDS * self.frame_rate))
        around = codes[:, start : last + math.ceil(RIGHT_SECONDS * self.frame_rate)]
        codec = self.model.audio_encoder
        audio = decode_codes(codec, around[None].to(self.model.device), self.channels)[0]
        hop = codec.config.hop_length
        return audio[:, (first - start) * hop : (last - start) * hop].float().cpu().numpy()

    def _frames_of(self, seconds: float | None) -> int:
        if seconds is None:
            return window_frames(self.model)
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds must be above 0, got {seconds}")
        return math.ceil(round(seconds * self.frame_rate, 6))  # 0.28 s * 25 Hz is 7.000000000000001

    def _requests(
        self,
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        clips: Sequence[Clip | None] | None,
        melodies: Sequence[Clip | None] | None,
    ) -> list[_Request]:
        """What is asked for, checked before anything is generated."""
        if isinstance(prompts, str):
            raise ValueError(f"prompts must be a list of texts, got the text {prompts!r}; put it into a list")
        count = len(prompts)
        clips, melodies = clips or [None] * count, melodies or [None] * count
        for name, values in (("seeds", seeds), ("continue_from", clips), ("melody", melodies)):
            if len(values) != count:
                raise ValueError(f"{name} must be as many as the prompts, got {len(values)} for {count}")
        tokens = {prompt: self._tokens(prompt) for prompt in dict.fromkeys(prompts)}
        return [
            _Request(tokens[prompt], self._prefix(clip), self._tune(tune), Generator().manual_seed(seed))
            for prompt, seed, clip, tune in zip(prompts, seeds, clips, melodies, strict=True)
        ]

    def _tokens(self, prompt: str | None) -> Tensor | None:
        """Token ids (L,) of a prompt; the log warns of what is cut off and of words without a token."""
        if prompt is None:
            return None
        if not prompt.strip():
            raise ValueError(f"the prompt must be text, got {prompt!r}; None (--unconditional) is no text")
        tokenizer = self.processor.tokenizer
        ids = tokenizer(prompt, verbose=False).input_ids
        if len(ids) > tokenizer.model_max_length:
            limit = tokenizer.model_max_length
            logger.warning("of the %d tokens of %r the text encoder reads the first %d", len(ids), prompt, limit)
            ids = tokenizer(prompt, truncation=True, max_length=limit).input_ids
        if not ids:
            raise ValueError(f"the model's tokenizer finds no word in the prompt {prompt!r}; name what is to be heard")
        if unknown := [word for word in prompt.split() if self._is_unknown(word)]:
            logger.warning("words that the model does not know, in %r: %s", prompt, ", ".join(unknown))
        return torch.tensor(ids)

    def _is_unknown(self, word: str) -> bool:
        tokenizer = self.processor.tokenizer
        return set(tokenizer(word, add_special_tokens=False).input_ids) == {tokenizer.unk_token_id}

    def _prefix(self, clip: Clip | None) -> Tensor:
        """Codes (K, P) of a clip, (K, 0) of none."""
        config = self.model.decoder.config
        if clip is None:
            return torch.empty(config.num_codebooks, 0, dtype=torch.long)
        samples = read_clip(clip, self.sample_rate, self.channels)
        if not np.abs(samples).max(initial=0) > SILENCE:
            raise ValueError(
                f"a clip to continue must be louder than {20 * math.log10(SILENCE):.0f} dB of full scale, got "
                f"{samples.shape[1]} samples of silence; give one with music, or none"
            )
        hop = self.model.audio_encoder.config.hop_length
        frames = min(samples.shape[1] // hop, window_frames(self.model) - 1)
        if not frames:
            raise ValueError(
                f"a clip to continue must have at least {hop} samples at {self.sample_rate} Hz (a frame of the "
                f"codec), got {samples.shape[1]}; give a longer one"
            )
        # Whole frames up to the end: a frame that is filled up with silence would be continued as a pause.
        audio = torch.from_numpy(np.ascontiguousarray(samples[None, :, -frames * hop :])).to(self.model.device)
        return encode_audio(self.model.audio_encoder, audio, config.num_codebooks)[0].cpu()

    def _tune(self, melody: Clip | None) -> np.ndarray | None:
        """Mono samples (N,) of a melody at the rate of the chroma features."""
        if melody is None:
            return None
        if not self._is_melody:
            raise ValueError("this MusicGen was not trained with melodies, which MusicGen-melody is; leave melody out")
        rate = self.processor.feature_extractor.sampling_rate
        if isinstance(melody, np.ndarray):
            melody = {"array": melody, "sampling_rate": self.sample_rate, "path": "melody"}
        samples = load_audio(melody, rate)
        if not np.abs(samples).max() > SILENCE:
            raise ValueError("the melody is silent; give one with music, or none")
        return samples

    def _batches(self, requests: Sequence[_Request], batch_size: int) -> Iterator[list[int]]:
        """Indices of requests whose sequences have one length, so that none is padded.

        Of MusicGen-melody also the texts have one length: there they come before the codes, and padding would move
        these to other positions (it changes logits by 0.4). MusicGen masks padded texts.
        """
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            length = len(request.tokens) if self._is_melody and request.tokens is not None else 0
            groups[request.prefix.shape[1], length].append(index)
        for group in groups.values():
            for first in range(0, len(group), batch_size):
                yield group[first : first + batch_size]

    def _batch_codes(
        self, batch: Sequence[_Request], frames: int, sampling: Sampling, stop_below_db: float | None, bar: tqdm
    ) -> list[Tensor]:
        """Codes (K, T) of each request of a batch; a clip that became quiet ends, and all when each has."""
        prefix = torch.stack([request.prefix for request in batch])
        second = round(self.frame_rate)
        made: list[Tensor] = []
        ends: dict[int, int] = {}
        for frame in self._generate(batch, frames, sampling):
            made.append(frame)
            bar.update(len(batch) / self.frame_rate)
            if stop_below_db is not None and len(made) % second == 0:
                heard = torch.cat([prefix, *made], 2)[..., -second - math.ceil(LEFT_SECONDS * self.frame_rate) :]
                for row, level in enumerate(self._last_levels(heard, second)):
                    if level < stop_below_db:
                        ends.setdefault(row, prefix.shape[2] + len(made))
                if len(ends) == len(batch):
                    bar.update((frames - len(made)) * len(batch) / self.frame_rate)
                    break
        codes = torch.cat([prefix, *made], 2)
        return [clip[:, : ends.get(row)] for row, clip in enumerate(codes)]

    def _last_levels(self, codes: Tensor, frames: int) -> list[float]:
        """Levels in dB (RMS, of full scale) of the last frames of codes (B, K, T)."""
        codec = self.model.audio_encoder
        audio = decode_codes(codec, codes.to(self.model.device), self.channels)
        power = audio[..., -frames * codec.config.hop_length :].square().mean((1, 2))
        return (10 * power.clamp(min=1e-12).log10()).tolist()

    def _generate(self, batch: Sequence[_Request], frames: int, sampling: Sampling) -> Iterator[Tensor]:
        """Codes (B, K, 1) of one frame after the other, behind the prefixes, on the CPU."""
        window = window_frames(self.model)
        kept = round(KEPT_SHARE * window)
        known = torch.stack([request.prefix for request in batch])  # what the next window begins with
        generators = [request.generator for request in batch]
        begin, made = 0, 0  # the window's first frame in the clip, frames generated
        while made < frames:
            length = min(window, known.shape[2] + frames - made)
            conditions = self._conditions(batch, begin, sampling.guidance_scale)
            fresh = []
            for frame in self._fill_window(known, length, conditions, sampling, generators):
                fresh.append(frame)
                yield frame
            made += len(fresh)
            begin += length - kept
            known = torch.cat([known, *fresh], 2)[..., -kept:]

    def _fill_window(
        self,
        known: Tensor,
        length: int,
        conditions: _Conditions,
        sampling: Sampling,
        generators: Sequence[Generator],
    ) -> Iterator[Tensor]:
        """Codes (B, K, 1) of the frames of a window of `length` behind those known (B, K, P)."""
        config = self.model.decoder.config
        start, channels = config.pad_token_id, config.audio_channels
        late = delays(config.num_codebooks, channels)[-1]
        asked = pad(known, (0, length - known.shape[2]), value=ASKED)
        # The sequence begins with a step of pads: (B, K, 1 + length + late).
        steps = pad(apply_delay(asked, start, channels), (1, 0), value=start)
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        inputs = steps[..., : known.shape[2] + 1]
        for step in range(known.shape[2] + 1, steps.shape[2]):
            logits = self._logits(inputs, conditions, cache, sampling.guidance_scale)
            drawn = draw(logits, sampling, generators).cpu()
            steps[..., step] = torch.where(steps[..., step] == ASKED, drawn, steps[..., step])
            inputs = steps[..., step : step + 1]
            if step > known.shape[2] + late:
                yield undo_delay(steps[..., step - late : step + 1], channels)

    def _logits(self, inputs: Tensor, conditions: _Conditions, cache: EncoderDecoderCache, scale: float) -> Tensor:
        """Guided logits (B, K, V) of the step behind the inputs (B, K, n), which the cache then holds too."""
        guided = len(conditions.states) == 2 * len(inputs)
        rows = (torch.cat([inputs, inputs]) if guided else inputs).to(self.model.device)
        if cache.get_seq_length():
            logits = next_logits(self.model.decoder, rows[..., 0], conditions.mask, cache)
        else:
            first = self.model.decoder(
                input_ids=rows.flatten(0, 1),
                encoder_hidden_states=conditions.states,
                encoder_attention_mask=conditions.mask,
                past_key_values=cache,
                use_cache=True,
            )
            logits = first.logits[:, -1].unflatten(0, (len(rows), -1))
        logits = logits.float()
        if not guided:
            return logits
        conditional, null = logits.chunk(2)
        return null + scale * (conditional - null)

    def _conditions(self, batch: Sequence[_Request], begin: int, scale: float) -> _Conditions:
        """What a window that begins at a frame of the clips is generated for."""
        model = self.model
        conditional = any(request.tokens is not None or request.melody is not None for request in batch)
        texts = [self._text_states(request.tokens) for request in batch]
        states = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        lengths = torch.tensor([len(text) for text in texts], device=model.device)
        guided = conditional and scale != 1
        if guided:
            states, lengths = torch.cat([states, torch.zeros_like(states)]), lengths.repeat(2)
        if self._is_melody:
            chroma = [self._chroma(request.melody, begin) for request in batch]
            chroma += [self._chroma(None, begin)] * (len(states) - len(batch))
            return _Conditions(torch.cat([torch.stack(chroma), states], 1), None)
        if (lengths == lengths[0]).all():
            return _Conditions(states, None)
        padded = torch.arange(states.shape[1], device=model.device) >= lengths[:, None]
        mask = torch.zeros_like(padded, dtype=states.dtype).masked_fill(padded, torch.finfo(states.dtype).min)
        return _Conditions(states, mask[:, None, None])

    def _text_states(self, tokens: Tensor | None) -> Tensor:
        """States (L, D) of a prompt; one of zeros for none, as transformers' `get_unconditional_inputs`."""
        model = self.model
        if tokens is None:
            return torch.zeros(1, model.decoder.config.hidden_size, dtype=model.dtype, device=model.device)
        states = model.text_encoder(input_ids=tokens[None].to(model.device)).last_hidden_state
        if model.text_encoder.config.hidden_size != model.decoder.config.hidden_size:
            states = model.enc_to_dec_proj(states)
        return states[0]

    def _chroma(self, tune: np.ndarray | None, begin: int) -> Tensor:
        """States (chroma_length, D) of a melody from a frame of the clip on, repeated where it is shorter."""
        model, extractor = self.model, self.processor.feature_extractor
        if tune is None:
            features = null_chroma(torch.empty(1, model.config.num_chroma))
        else:
            shift = round(begin / self.frame_rate * extractor.sampling_rate)
            heard = np.roll(tune, -shift)[: round(self.window_seconds * self.sample_rate)]
            features = extractor(heard, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features[0]
        states = features.to(model.device, model.dtype)
        if model.config.num_chroma != model.decoder.config.hidden_size:
            states = model.audio_enc_to_dec_proj(states)
        length = model.config.chroma_length
        return states.repeat(math.ceil(length / len(states)), 1)[:length]


def read_clip(clip: Clip, sample_rate: int, channels: int) -> np.ndarray:
    """Samples (channels, N) at a rate (which arrays have): mono the mean of the channels, stereo mono twice."""
    if isinstance(clip, np.ndarray):
        if not clip.size:
            return np.zeros((channels, 0), np.float32)
        clip = {"array": clip, "sampling_rate": sample_rate, "path": "clip"}
    return np.atleast_2d(load_audio(clip, sample_rate, channels=channels))


def generate(
    model: "str | Path | MusicGenerator",
    prompts: str | Sequence[str | None] | None,
    seconds: float | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> list[np.ndarray]:
    """Audio (C, N), float32, of one prompt or several, drawn with the seeds `seed`, `seed + 1`, ...

    `model` is a folder, a Hub id or "bundled", which is opened anew in every call, or a `MusicGenerator`, which knows
    the rate; `options` are those of `MusicGenerator.codes`, and `watermark`.
    """
    generator = model if isinstance(model, MusicGenerator) else MusicGenerator(model)
    texts = [prompts] if prompts is None or isinstance(prompts, str) else prompts
    return generator(texts, seconds, seeds=range(seed, seed + len(texts)), **options)
