from dataclasses import replace

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from hfaudio.models.codec import EncodecVAE, TrainableEncodec, bandwidths, reconstruct
from hfaudio.models.guide import SpectralGuide
from hfaudio.training.codec_models import CodecArguments, build_codec, initialised

SMALL = CodecArguments(
    num_filters=2, hidden_size=8, upsampling_ratios=[4, 4, 5, 8], codebook_size=16, num_codebooks=3, guide_steps=0
)


def audio(batch: int = 2, samples: int = 3200, channels: int = 1, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(seed))


def test_bandwidths_are_one_for_each_number_of_codebooks_and_transformers_counts_alike() -> None:
    assert bandwidths(4, 512, 25) == [0.225, 0.45, 0.675, 0.9]
    model = EncodecModel(SMALL.config())
    assert model.config.num_quantizers == 3
    for number, bandwidth in enumerate(model.config.target_bandwidths, start=1):
        assert reconstruct(model.eval(), audio(), bandwidth).codes.shape == (number, 2, 5)


def test_a_trained_codec_is_a_stock_model(tmp_path) -> None:
    """What training computes is what the saved folder gives, opened by transformers alone."""
    torch.manual_seed(0)
    codec = build_codec(SMALL)
    codec.train()
    for seed in range(3):
        codec(audio(batch=40, seed=seed))  # enough frames that no two codes are alike
    codec.eval()
    made = codec(audio(samples=3000))
    codec.codec.save_pretrained(tmp_path)
    opened = EncodecModel.from_pretrained(tmp_path).eval()
    assert opened.config.architectures == ["EncodecModel"]
    again = reconstruct(opened, audio(samples=3000))
    assert torch.equal(again.codes, made.codes)
    torch.testing.assert_close(again.audio, made.audio)
    assert again.audio.shape == (2, 1, 3000)


def test_the_encoder_gets_gradients_from_the_reconstruction() -> None:
    """transformers' own forward gives it none."""
    codec = build_codec(SMALL)
    codec.train()
    codec(audio()).audio.square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in codec.codec.encoder.parameters())


def test_with_a_guide_encoder_and_decoder_learn_apart() -> None:
    codec = build_codec(SMALL)
    codec.train()
    guide = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1))
    made = codec(audio(), guide)
    (from_audio,) = torch.autograd.grad(made.audio.sum(), codec.codec.encoder.layers[0].conv.bias, allow_unused=True)
    assert from_audio is None
    latents = codec.codec.encoder(audio())
    torch.testing.assert_close(made.bottleneck_loss, (latents - guide).abs().mean())
    torch.testing.assert_close(made.audio, codec.codec.decoder(guide)[..., :3200])


def test_new_codebooks_are_made_of_the_latents_that_were_seen() -> None:
    torch.manual_seed(0)
    codec = build_codec(SMALL)
    codec.train()
    guide = torch.zeros(2, 8, 5)
    for seed in range(20):
        codec(audio(seed=seed), guide)
    assert int(codec.num_recent) == 20 * 10
    assert not codec.rvq.is_initialised
    codec(audio(seed=99))
    assert codec.rvq.is_initialised
    codes = codec.eval()(audio(batch=40)).codes
    assert len(codes[0].unique()) >= 13  # of 16


def test_quantizer_dropout_uses_fewer_codebooks_in_training_only() -> None:
    torch.manual_seed(0)
    codec = TrainableEncodec(EncodecModel(SMALL.config()), quantizer_dropout=1.0)
    drawn = torch.stack([codec._num_quantizers(audio(batch=64)) for _ in range(5)])
    assert set(drawn.unique().tolist()) == {1, 2, 3}
    codec.quantizer_dropout = 0.0
    assert codec._num_quantizers(audio()).tolist() == [3, 3]


def test_a_model_that_normalises_gives_the_same_in_training_as_transformers() -> None:
    """As EnCodec at 48 kHz: stereo, normalised, without chunks here."""
    config = EncodecConfig(
        audio_channels=2,
        normalize=True,
        norm_type="time_group_norm",
        num_filters=2,
        hidden_size=8,
        upsampling_ratios=[4, 4],
        num_lstm_layers=1,
        codebook_size=16,
        sampling_rate=1600,
        target_bandwidths=[0.8],
    )
    torch.manual_seed(0)
    codec = TrainableEncodec(EncodecModel(config))
    codec.train()
    codec(audio(channels=2, samples=320))
    codec.eval()
    made = codec(audio(channels=2, samples=320))
    expected = reconstruct(codec.codec, audio(channels=2, samples=320))
    assert torch.equal(made.codes, expected.codes)
    torch.testing.assert_close(made.audio, expected.audio)


def test_new_codecs_pass_usual_levels_at_unit_variance() -> None:
    """With transformers' initialisation the latents of audio at -20 dB hardly differ from those of silence."""
    torch.manual_seed(0)
    stock = EncodecModel(CodecArguments().config()).eval()
    torch.manual_seed(0)
    ours = initialised(EncodecModel(CodecArguments().config())).eval()

    def change(model: EncodecModel) -> float:
        with torch.no_grad():
            heard, silence = model.encoder(audio(samples=16000)), model.encoder(torch.zeros(2, 1, 16000))
        return float((heard - silence).std() / heard.std())

    assert change(ours) > 0.9
    assert change(stock) < 0.3


def test_the_variational_codec_samples_in_training_and_saves(tmp_path) -> None:
    torch.manual_seed(0)
    model = build_codec(replace(SMALL, bottleneck="kl"))
    assert isinstance(model, EncodecVAE)
    model.train()
    first, second = model(audio()), model(audio())
    assert not torch.equal(first.audio, second.audio)
    mean, log_variance = model.encode(audio())
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(normal, prior).mean()
    torch.testing.assert_close(first.bottleneck_loss, expected)
    model.save_pretrained(tmp_path)
    opened = EncodecVAE.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(opened(audio()).audio, model.eval()(audio()).audio)
    assert opened(audio()).audio.shape == (2, 1, 3200)


def test_the_guide_tells_notes_apart_and_keeps_time_with_the_codec() -> None:
    time = torch.arange(16000) / 16000
    notes = torch.stack([0.2 * torch.sin(2 * torch.pi * f * time) for f in (220.0, 233.1, 440.0, 3000.0)])[:, None]
    guide = SpectralGuide(16000, 640, 8)
    guide.fit(notes)
    latents = guide(notes)
    assert latents.shape == (4, 8, 25)
    middle = latents[..., 12]
    distances = torch.cdist(middle, middle) + 99 * torch.eye(4)
    assert distances.min() > 0.5  # a semitone is heard
    click = torch.zeros(1, 1, 16000)
    click[..., 8320 : 8320 + 64] = 0.9  # in the middle of frame 13
    bands = guide._bands(click)[0]
    short = bands[len(bands) * 3 // 4 :].mean(0)
    assert int(short.argmax()) == 13
    assert guide(torch.zeros(1, 1, 700)).shape == (1, 8, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 500}, "power of 2"),
        ({"bottleneck": "vq"}, "rvq or kl"),
        ({"channels": 3}, "1 or 2"),
        ({"upsampling_ratios": [7, 5]}, "does not divide"),
        ({"quantizer_dropout": 1.5}, "share"),
    ],
)
def test_sizes_that_cannot_be(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        CodecArguments(**change)


def test_a_folder_with_another_model_is_refused(tmp_path) -> None:
    EncodecVAE(SMALL.config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="EncodecVAE"):
        build_codec(CodecArguments(model=str(tmp_path)))
