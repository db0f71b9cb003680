"""Generation against transformers 5.23 on untrained models: where stock is right the same, where it is wrong not."""

import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Generator, Tensor
from transformers import EncodecConfig, EncodecModel

from hfaudio.audio.io import save_audio
from hfaudio.audio.resample import resample
from hfaudio.inference.generate import MusicGenerator, Sampling, draw, generate
from hfaudio.models.codec import bandwidths
from hfaudio.models.delay import apply_delay, undo_delay
from hfaudio.models.musicgen import encode_audio
from hfaudio.training.adapters import PRESETS
from hfaudio.training.music_models import MusicModelArguments, open_music_model

RATE, HOP, WINDOW, K, SIZE = 800, 8, 40, 4, 16  # 100 frames a second
GREEDY = Sampling(temperature=0)
PROMPTS = ["slow sad flute tune", "fast organ"]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = EncodecConfig(
        sampling_rate=RATE,
        upsampling_ratios=[4, 2],
        num_filters=4,
        hidden_size=8,
        num_lstm_layers=1,
        codebook_size=SIZE,
        use_causal_conv=False,
    )
    config.target_bandwidths = bandwidths(K, SIZE, config.frame_rate)
    model = EncodecModel(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    with torch.no_grad():  # latents of noise as wide as the codebooks, so that their codes differ
        latents = model.encoder(0.1 * torch.randn(1, 1, 800))[0]  # (8, T)
        last, mean, std = model.encoder.layers[-1].conv, latents.mean(1), latents.std(1)
        last.parametrizations.weight.original0.div_(std[:, None, None])
        last.bias.sub_(mean).div_(std)
    folder = tmp_path_factory.mktemp("codec")
    model.save_pretrained(folder)
    return str(folder)


def untrained(codec: str, **options: Any) -> MusicGenerator:
    """A model with weights so large that its codes change with the step and with the conditions."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
        "text_hidden_size": 32,
    }
    args = MusicModelArguments(codec=codec, num_codebooks=K, window_seconds=WINDOW * HOP / RATE, **sizes, **options)
    model, processor = open_music_model(args, ["slow sad flute tune in d minor", "fast organ waltz"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and not name.startswith(("text_encoder", "audio_encoder")):
                weight.mul_(6)
    return MusicGenerator.of(model.eval(), processor)


@pytest.fixture(scope="module")
def mono(codec: str) -> MusicGenerator:
    return untrained(codec)


@pytest.fixture(scope="module")
def stereo(codec: str) -> MusicGenerator:
    return untrained(codec, channels=2)


@pytest.fixture(scope="module")
def melodic(codec: str) -> MusicGenerator:
    return untrained(codec, melody=True)


def clip(seconds: float, seed: int = 0, channels: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, round(seconds * RATE)))).astype(np.float32)


def stock(generator: MusicGenerator, texts: list[str], frames: int, **options: Any) -> Tensor:
    """What transformers generates without chance: (B, C, N)."""
    inputs = generator.processor(text=texts, padding=True, return_tensors="pt")
    new = frames + K - 1  # in stereo too the last codebook is K - 1 steps late
    options = {"do_sample": False, "guidance_scale": 3.0, "max_new_tokens": new} | options
    with torch.no_grad():
        return generator.model.generate(**inputs, **options)


class Recorder:
    """A streamer that counts what it is given."""

    def __init__(self) -> None:
        self.puts = self.ends = 0

    def put(self, value: Tensor) -> None:
        self.puts += 1

    def end(self) -> None:
        self.ends += 1


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["mono", "stereo"])
def test_audio_is_that_of_transformers(kind: str, scale: float, request: pytest.FixtureRequest) -> None:
    generator = request.getfixturevalue(kind)
    assert (generator.sample_rate, generator.frame_rate, generator.window_seconds) == (RATE, 100, 0.4)
    sampling = Sampling(guidance_scale=scale, temperature=0)
    ours = generator(PROMPTS, 0.3, seeds=[0, 1], sampling=sampling)  # texts of two lengths in one batch
    expected = stock(generator, PROMPTS, 30, guidance_scale=scale)
    assert ours[0].shape == (generator.channels, 240)
    assert ours[0].dtype == np.float32
    np.testing.assert_allclose(np.stack(ours), expected.numpy(), atol=1e-5)
    assert np.abs(ours[0] - ours[1]).max() > 0.1  # the texts are heard


def test_several_samples_of_a_prompt_where_transformers_scrambles_codebooks(mono: MusicGenerator) -> None:
    """Defect D1 of transformers 5.23: `num_return_sequences`."""
    expected = stock(mono, PROMPTS, 30).numpy()
    likeliest = {"do_sample": True, "top_k": 1}  # with `do_sample=False` it refuses
    wrong = stock(mono, PROMPTS, 30, num_return_sequences=2, **likeliest)
    assert wrong.shape == (2, 1, 2 * 30 * HOP)  # four clips were asked for
    assert not np.allclose(wrong[0, :, : 30 * HOP].numpy(), expected[0], atol=1e-3)
    twice = [prompt for prompt in PROMPTS for _ in range(2)]
    ours = mono(twice, 0.3, seeds=[0, 1, 0, 1], sampling=GREEDY)
    np.testing.assert_allclose(np.stack(ours), expected[[0, 0, 1, 1]], atol=1e-5)
    one, other, again = mono.codes(PROMPTS[:1] * 3, 0.3, seeds=[0, 1, 0])
    assert torch.equal(one, again)
    assert (one != other).float().mean() > 0.3


def test_audio_comes_while_it_is_generated_where_transformers_tells_a_streamer_nothing(mono: MusicGenerator) -> None:
    """Defect D2 of transformers 5.23: `streamer`."""
    recorder = Recorder()
    stock(mono, PROMPTS[:1], 30, streamer=recorder)
    assert (recorder.puts, recorder.ends) == (1, 0)  # the pads at the start, and nothing more
    steps = []
    hook = mono.model.decoder.model.decoder.layer_norm.register_forward_hook(lambda *_: steps.append(None))
    stream = mono.stream(PROMPTS[0], 0.9, seed=3, first_seconds=0.1, chunk_seconds=0.25)
    first = next(stream)
    assert first.shape == (1, 80)
    assert len(steps) < 10 + 20 + K + 1  # 0.1 s, 0.2 s on its right, and the delay
    hook.remove()
    pieces = [first, *stream]
    assert [piece.shape[1] for piece in pieces] == [80, 200, 200, 240]
    (whole,) = mono([PROMPTS[0]], 0.9, seeds=[3])
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=1e-4)


def unlikely(generator: MusicGenerator, codes: Tensor, first: int) -> float:
    """Share of the codes (K, T) from a frame on that are not the likeliest of one pass over them, without text."""
    pad = generator.model.decoder.config.pad_token_id
    steps = torch.nn.functional.pad(apply_delay(codes[None], pad), (1, 0), value=pad)
    with torch.no_grad():
        logits = generator.model.decoder(input_ids=steps[0]).logits  # (K, T, V)
    likeliest = undo_delay(logits.argmax(-1)[None, :, :-1])[0]
    return float((likeliest != codes)[:, first:].float().mean())


def test_codes_are_continued_where_the_decoder_of_transformers_loses_them(mono: MusicGenerator) -> None:
    """Defect D3 of transformers 5.23: `MusicgenForCausalLM.generate`, which raises without `num_return_sequences`."""
    sound = clip(0.1)
    prompt = encode_audio(mono.model.audio_encoder, torch.from_numpy(sound)[None], K)[0]
    assert prompt.shape == (K, 10)
    (ours,) = mono.codes([None], 0.3, seeds=[0], continue_from=[sound], sampling=GREEDY)
    options = {"do_sample": False, "max_new_tokens": 30 + K - 1, "pad_token_id": SIZE}
    start = torch.nn.functional.pad(prompt, (1, 0), value=SIZE)
    with torch.no_grad():
        wrong = mono.model.decoder.generate(input_ids=start, num_return_sequences=1, **options)[0]
        nothing = mono.model.get_unconditional_inputs()
        right = mono.model.generate(**nothing, decoder_input_ids=prompt, **options)[0]
    assert ours.shape == wrong.shape == (K, 40)
    assert torch.equal(ours[:, :10], prompt)
    assert unlikely(mono, ours, 10) == 0
    assert unlikely(mono, wrong, 10) > 0.3
    np.testing.assert_allclose(mono.decode(ours), right.numpy(), atol=1e-5)


def test_what_is_longer_than_the_window_goes_on_from_the_last_half_of_it(mono: MusicGenerator) -> None:
    (codes,) = mono.codes([None], 0.9, seeds=[0], sampling=GREEDY)
    assert codes.shape == (K, 90)
    # windows of 40 frames: 0 to 40, 20 to 60, 40 to 80, 60 to 90
    for first, last in ((0, 40), (20, 60), (40, 80), (60, 90)):
        assert unlikely(mono, codes[:, first:last], 20 if first else 0) == 0
    assert unlikely(mono, codes, 0) > 0


def test_a_seed_gives_the_same_codes_alone_in_a_batch_and_in_a_stream(mono: MusicGenerator) -> None:
    prompts = ["slow sad flute tune in d minor", None, "fast organ", "fast organ", "waltz"]
    together = mono.codes(prompts, 0.6, seeds=range(5), batch_size=3)
    for seed, (prompt, codes) in enumerate(zip(prompts, together, strict=True)):
        (alone,) = mono.codes([prompt], 0.6, seeds=[seed])
        assert torch.equal(alone, codes)
    assert (together[2] != together[3]).float().mean() > 0.3
    state = torch.get_rng_state()
    np.testing.assert_array_equal(generate(mono, "waltz", 0.6, seed=4)[0], mono.decode(together[4]))
    assert torch.equal(torch.get_rng_state(), state)  # nothing else's chance is touched


def test_melodies_are_heard_and_continued(melodic: MusicGenerator) -> None:
    texts = ["slow sad flute tune", "fast organ waltz in"]  # of one length: transformers' padding would move codes
    tunes = [clip(0.4, seed)[0] for seed in (1, 2)]
    extractor = melodic.processor.feature_extractor
    chroma = torch.cat([extractor(tune, sampling_rate=RATE, return_tensors="pt").input_features for tune in tunes])
    sound = clip(0.1, 3)
    prompt = encode_audio(melodic.model.audio_encoder, torch.from_numpy(sound)[None], K)[0]
    expected = stock(melodic, texts, 30, input_features=chroma)
    ours = melodic(texts, 0.3, seeds=[0, 0], melody=tunes, sampling=GREEDY)
    np.testing.assert_allclose(np.stack(ours), expected.numpy(), atol=1e-5)
    without = melodic(texts, 0.3, seeds=[0, 0], sampling=GREEDY)
    np.testing.assert_allclose(np.stack(without), stock(melodic, texts, 30).numpy(), atol=1e-5)
    assert np.abs(ours[0] - without[0]).max() > 0.05
    # transformers refuses clips (`input_values`) here; given their codes it continues them
    inputs = {"input_features": chroma[:1], "decoder_input_ids": prompt}
    expected = stock(melodic, texts[:1], 30, **inputs)
    ours = melodic(texts[:1], 0.3, seeds=[0], melody=tunes[:1], continue_from=[sound], sampling=GREEDY)
    np.testing.assert_allclose(ours[0], expected[0].numpy(), atol=1e-5)


def test_texts_of_other_lengths_do_not_move_those_of_a_melody_model(melodic: MusicGenerator) -> None:
    prompts = ["waltz", "slow sad flute tune in d minor", None]
    together = melodic.codes(prompts, 0.2, seeds=[0, 1, 2])
    for seed, prompt in enumerate(prompts):
        assert torch.equal(melodic.codes([prompt], 0.2, seeds=[seed])[0], together[seed])


def test_a_melody_goes_on_in_later_windows(melodic: MusicGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second window begins after 20 frames of 8 samples, and so does its chroma."""
    tune, heard = clip(0.9)[0], []
    extractor = type(melodic.processor.feature_extractor)
    fbank = extractor._torch_extract_fbank_features
    monkeypatch.setattr(
        extractor, "_torch_extract_fbank_features", lambda self, wave: heard.append(wave[0]) or fbank(self, wave)
    )
    melodic.codes(["waltz"], 0.5, seeds=[0], melody=[tune])
    first, second = heard
    np.testing.assert_array_equal(first, tune[:320])
    np.testing.assert_array_equal(second, tune[160:480])


def test_codes_are_drawn_from_the_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(1, 1, 4)
    generators = [Generator().manual_seed(0)]

    def shares(**options: float) -> list[float]:
        drawn = torch.cat([draw(logits, Sampling(**options), generators) for _ in range(4000)])
        return [(drawn == code).float().mean().item() for code in range(4)]

    # four standard deviations of a share are 0.032
    assert shares(temperature=2) == pytest.approx((logits / 2).softmax(-1).flatten().tolist(), abs=0.032)
    two = logits[..., :2].softmax(-1).flatten().tolist()  # 0.64 and 0.24 of all
    assert shares(top_k=2) == pytest.approx([*two, 0, 0], abs=0.032)
    assert shares(top_p=0.8) == pytest.approx([*two, 0, 0], abs=0.032)
    assert shares(top_p=0.6) == shares(temperature=0) == [1, 0, 0, 0]


def test_a_clip_ends_when_it_is_quiet(mono: MusicGenerator) -> None:
    six = {"prompts": PROMPTS * 3, "seconds": 1.5, "seeds": range(6)}
    full = mono.codes(**six)
    levels = [10 * np.log10(np.square(mono.decode(codes)[:, :RATE]).mean()) for codes in full]
    ordered = sorted(levels)
    gap = int(np.argmax(np.diff(ordered)))
    ended = mono.codes(**six, stop_below_db=(ordered[gap] + ordered[gap + 1]) / 2)
    assert [codes.shape[1] for codes in ended] == [100 if level <= ordered[gap] else 150 for level in levels]
    assert all(torch.equal(a, b[:, : a.shape[1]]) for a, b in zip(ended, full, strict=True))
    steps = []
    hook = mono.model.decoder.model.decoder.layer_norm.register_forward_hook(lambda *_: steps.append(None))
    assert [codes.shape[1] for codes in mono.codes(**six, stop_below_db=0)] == [100] * 6
    hook.remove()
    assert len(steps) == 43 + 3 * 23  # windows of 40 and three times 20 frames, each with the delay, and no more


def test_long_clips_are_decoded_in_blocks_without_seams(mono: MusicGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(0, SIZE, (K, 700), generator=Generator().manual_seed(0))
    whole = mono.decode(codes)
    module = importlib.import_module("hfaudio.inference.generate")  # the package's `generate` is the function
    monkeypatch.setattr(module, "BLOCK_SECONDS", 1.5)
    assert whole.shape == (1, 700 * HOP)
    np.testing.assert_allclose(mono.decode(codes), whole, atol=1e-4)


def test_clips_to_continue_are_read_at_any_rate(mono: MusicGenerator, stereo: MusicGenerator, tmp_path: Path) -> None:
    left, right = clip(0.3, 0)[0], clip(0.3, 1)[0]
    save_audio(tmp_path / "clip.wav", np.stack([left, right]), RATE)
    rows = [tmp_path / "clip.wav", {"array": np.stack([left, right]), "sampling_rate": RATE}, np.stack([left, right])]
    for generator in (mono, stereo):
        first, *others = generator.codes([None] * 3, 0.05, seeds=[0] * 3, continue_from=rows, sampling=GREEDY)
        assert all((first == other).float().mean() > 0.9 for other in others)  # a file of 16 bits, floats
        assert first.shape[1] == 35
    both = stereo.codes([None], 0.05, seeds=[0], continue_from=[left])[0]
    assert torch.equal(both[0::2, :30], both[1::2, :30])  # mono on both sides
    twice = {"array": resample(left, RATE, 2 * RATE), "sampling_rate": 2 * RATE}
    assert mono.codes([None], 0.05, seeds=[0], continue_from=[twice])[0].shape[1] == 35
    long = mono.codes([None], 0.05, seeds=[0], continue_from=[clip(1.0)])[0]
    assert long.shape[1] == WINDOW - 1 + 5
    odd = clip(0.3)[:, 3:]  # ends within a frame: the first 5 samples are left out
    whole = encode_audio(mono.model.audio_encoder, torch.from_numpy(odd[None, :, 5:].copy()), K)[0]
    assert torch.equal(mono.codes([None], 0.05, seeds=[0], continue_from=[odd])[0][:, :29], whole)


def test_bad_requests_are_named(mono: MusicGenerator, caplog: pytest.LogCaptureFixture) -> None:
    def refused(message: str, prompts: Any = ("waltz",), seconds: float | None = 0.1, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            mono.codes(prompts, seconds, **{"seeds": [0]} | options)

    refused("None .*is no text", [" "])
    refused("must be a list", "waltz")
    refused("seconds must be above 0, got 0", seconds=0)
    refused("seconds must be above 0, got nan", seconds=float("nan"))
    refused("seeds must be as many as the prompts, got 2 for 1", seeds=[0, 1])
    refused("at least 1, got 0", batch_size=0)
    refused("louder than -80 dB", continue_from=[np.zeros((1, 800), np.float32)])
    refused("louder than -80 dB", continue_from=[np.zeros(0, np.float32)])
    refused("at least 8 samples", continue_from=[np.ones(7, np.float32)])
    refused("not trained with melodies", melody=[clip(0.1)])
    for wrong in ({"guidance_scale": -1}, {"temperature": float("inf")}, {"top_k": -1}, {"top_p": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            Sampling(**wrong)
    with pytest.raises(ValueError, match="first_seconds must be above 0"):
        next(mono.stream("waltz", first_seconds=0))
    assert not caplog.records
    mono.codes(["fast zither waltz"], 0.05, seeds=[0])
    assert "does not know, in 'fast zither waltz': zither" in caplog.text


def test_a_long_prompt_is_cut_with_a_warning(mono: MusicGenerator, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = mono.processor.tokenizer
    tokenizer.model_max_length = 4
    try:
        with caplog.at_level(logging.WARNING):
            long = mono.codes(["slow sad flute tune in d minor"], 0.1, seeds=[0])[0]
        assert "of the 8 tokens" in caplog.text
        assert torch.equal(long, mono.codes(["slow sad flute"], 0.1, seeds=[0])[0])
    finally:
        tokenizer.model_max_length = 512


def test_a_folder_is_opened_with_an_adapter(mono: MusicGenerator, codec: str, tmp_path: Path) -> None:
    mono.model.save_pretrained(tmp_path / "model")
    mono.processor.save_pretrained(tmp_path / "model")
    opened = MusicGenerator(tmp_path / "model")
    expected = mono(PROMPTS, 0.3, seeds=[0, 1])
    np.testing.assert_array_equal(np.stack(opened(PROMPTS, 0.3, seeds=[0, 1])), np.stack(expected))
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=PRESETS["musicgen"], init_lora_weights=False)
    adapted = get_peft_model(opened.model, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    merged = MusicGenerator(tmp_path / "model", adapter=tmp_path / "adapter")
    ours = merged.codes(PROMPTS, 0.1, seeds=[0, 1], sampling=GREEDY)
    apart = MusicGenerator.of(adapted.base_model.model, mono.processor)
    for a, b, base in zip(
        ours,
        apart.codes(PROMPTS, 0.1, seeds=[0, 1], sampling=GREEDY),
        mono.codes(PROMPTS, 0.1, seeds=[0, 1], sampling=GREEDY),
        strict=True,
    ):
        assert torch.equal(a, b)
        assert not torch.equal(a, base)
    with pytest.raises(ValueError, match="is a encodec model, expected one of musicgen"):
        MusicGenerator(codec)


def test_a_model_in_training_generates_without_dropout_and_stays_in_training(mono: MusicGenerator) -> None:
    expected = mono.codes(PROMPTS, 0.3, seeds=[0, 1])
    mono.model.train()
    in_training = mono.codes(PROMPTS, 0.3, seeds=[0, 1])
    assert mono.model.training
    mono.model.eval()
    assert all(torch.equal(a, b) for a, b in zip(in_training, expected, strict=True))


def test_a_watermark_marks_each_clip(mono: MusicGenerator) -> None:
    heard: list[tuple[tuple[int, ...], int]] = []

    def mark(samples: np.ndarray, sample_rate: int) -> np.ndarray:
        heard.append((samples.shape, sample_rate))
        return samples + np.float32(0.25)

    plain = mono(PROMPTS, 0.2, seeds=[0, 1])
    marked = generate(mono, PROMPTS, 0.2, watermark=mark)
    assert heard == [(clip.shape, mono.sample_rate) for clip in plain]
    np.testing.assert_allclose(np.stack(marked) - np.stack(plain), 0.25, atol=1e-6)
