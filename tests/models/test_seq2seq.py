import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from hfaudio.models.seq2seq import crop_encoder, decoder_positions, generate, pad_log_mel

START, END = 1, 2


@pytest.fixture
def whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=50, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8, max_target_positions=24,
        pad_token_id=END, bos_token_id=END, eos_token_id=END, decoder_start_token_id=START,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    for weight in model.parameters():
        weight.data *= 20  # an untrained model says the same token to everything
    model.generation_config = GenerationConfig(
        max_length=24, pad_token_id=END, bos_token_id=END, eos_token_id=END, decoder_start_token_id=START
    )
    return model


def features(seconds: float, seed: int = 0, loudness: float = 0.1) -> np.ndarray:
    clip = loudness * np.random.default_rng(seed).standard_normal(round(16_000 * seconds)).astype("f4")
    extractor = WhisperFeatureExtractor(feature_size=8)
    return extractor(clip, sampling_rate=16_000, padding=False, return_tensors="pt").input_features[0]


def test_on_30_seconds_the_cropped_encoder_is_the_stock_one(whisper):
    inputs = torch.randn(2, 8, 3000)
    stock = whisper.model.encoder(inputs).last_hidden_state
    crop_encoder(whisper)
    assert torch.equal(whisper.model.encoder(inputs).last_hidden_state, stock)


def test_a_cropped_clip_is_what_the_stock_encoder_sees_without_attention_beyond_it(whisper):
    inputs = torch.randn(1, 8, 3000)
    encoder = whisper.model.encoder
    mask = torch.zeros(1, 1, 1500, 1500)
    mask[..., 50:] = float("-inf")
    with torch.no_grad():
        hidden = torch.nn.functional.gelu(encoder.conv1(torch.nn.functional.pad(inputs[..., :100], (0, 2900))))
        # Behind the clip the first convolution must give nothing, as the cropped one sees zeros there.
        hidden[..., 100:] = 0
        hidden = torch.nn.functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1) + encoder.embed_positions.weight
        for layer in encoder.layers:
            hidden = layer(hidden, mask)
        expected = encoder.layer_norm(hidden)[:, :50]
        crop_encoder(whisper)
        assert torch.allclose(encoder(inputs[..., :100]).last_hidden_state, expected, atol=1e-4)


def test_what_is_saved_opens_as_a_stock_whisper(whisper, tmp_path):
    crop_encoder(whisper)
    whisper.save_pretrained(tmp_path)
    opened = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert type(opened.model.encoder).__name__ == "WhisperEncoder"
    assert all(torch.equal(a, b) for a, b in zip(whisper.parameters(), opened.parameters(), strict=True))


@pytest.mark.parametrize("frames", [3002, 101])
def test_lengths_that_do_not_fit_are_refused(whisper, frames):
    crop_encoder(whisper)
    with pytest.raises(ValueError, match=f"got {frames} mel frames, expected an even number up to 3000"):
        whisper.model.encoder(torch.zeros(1, 8, frames))


def test_layers_get_gradients_with_checkpointing(whisper):
    crop_encoder(whisper)
    whisper.gradient_checkpointing_enable()
    whisper.train()
    whisper(torch.randn(1, 8, 60), labels=torch.tensor([[5, 6]])).loss.backward()
    trained = [(name, weight) for name, weight in whisper.named_parameters() if weight.requires_grad]
    assert trained and all(weight.grad is not None for _, weight in trained)


@pytest.mark.parametrize("loudness", [0.1, 0.0])
def test_padding_is_the_features_of_digital_zeros(loudness):
    clip = features(0.6, loudness=loudness)
    padded = pad_log_mel([clip], frames=3000)
    samples = loudness * np.random.default_rng(0).standard_normal(9600).astype("f4")
    extractor = WhisperFeatureExtractor(feature_size=8)
    whole = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    assert padded.shape == whole.shape == (1, 8, 3000)
    # The two frames at the end of the clip see zeros behind it, or its mirror image.
    torch.testing.assert_close(padded[..., :58], whole[..., :58], atol=1e-4, rtol=0)
    torch.testing.assert_close(padded[..., 62:], whole[..., 62:], atol=1e-4, rtol=0)


def test_an_odd_clip_gets_a_frame():
    assert pad_log_mel([features(0.6)[:, :31], features(0.3)]).shape == (2, 8, 32)


def test_a_window_of_30_seconds_gives_the_text_of_whispers_own_generate(whisper):
    inputs = {"input_features": pad_log_mel([features(2.0, seed=s) for s in (1, 2, 3)], frames=3000)}
    stock = whisper.generate(**inputs, max_new_tokens=20)
    ours = generate(whisper, inputs, torch.full((3, 1), START), max_new_tokens=20).ids
    assert ours.shape == (3, 20) or (ours == -100).any()
    for row, expected in zip(ours, stock, strict=True):
        said = row[(row >= 0) & (row != END)]
        assert expected[expected != START][: len(said)].tolist() == said.tolist()
    assert len({tuple(row.tolist()) for row in ours}) > 1


def test_alone_a_clip_gets_the_text_that_it_gets_in_a_batch_of_its_length(whisper):
    crop_encoder(whisper)
    clips = [features(1.0, seed=s) for s in (1, 2, 3)]
    together = generate(whisper, {"input_features": pad_log_mel(clips)}, torch.full((3, 1), START)).ids
    for row, clip in zip(together, clips, strict=True):
        alone = generate(whisper, {"input_features": pad_log_mel([clip])}, torch.full((1, 1), START)).ids[0]
        assert alone[alone >= 0].tolist() == row[row >= 0].tolist()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_log_probs_are_those_of_the_chosen_tokens(whisper, num_beams):
    crop_encoder(whisper)
    inputs, prompt = {"input_features": pad_log_mel([features(1.0, seed=1)])}, torch.tensor([[START]])
    out = generate(whisper, inputs, prompt, max_new_tokens=6, num_beams=num_beams, with_log_probs=True)
    ids = out.ids[:, : int((out.ids >= 0).sum())]
    with torch.no_grad():
        logits = whisper(**inputs, decoder_input_ids=torch.cat([prompt, ids[:, :-1]], 1)).logits
    expected = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    torch.testing.assert_close(out.log_probs[:, : ids.shape[1]], expected, atol=1e-4, rtol=1e-4)


def test_behind_the_end_token_nothing_is_said(whisper):
    crop_encoder(whisper)
    whisper.proj_out.weight.data[END] = 0
    out = generate(whisper, {"input_features": torch.randn(4, 8, 40)}, torch.full((4, 1), START))
    assert out.ids.shape[1] <= 23  # 24 positions, one of them the prompt's
    for row in out.ids.tolist():
        if END in row:
            assert set(row[row.index(END) + 1 :]) <= {-100}


def test_a_static_cache_gives_the_same_text(whisper):
    crop_encoder(whisper)
    inputs, prompt = {"input_features": torch.randn(2, 8, 40)}, torch.full((2, 1), START)
    dynamic = generate(whisper, inputs, prompt).ids
    whisper.generation_config.cache_implementation = None
    static = generate(whisper, inputs, prompt, static_cache=True).ids
    assert torch.equal(dynamic, static)


def test_positions_of_other_decoders():
    config = MoonshineConfig(vocab_size=20, hidden_size=16, intermediate_size=16, max_position_embeddings=99)
    config.encoder_num_hidden_layers = config.decoder_num_hidden_layers = 1
    assert decoder_positions(MoonshineForConditionalGeneration(config)) == 99
