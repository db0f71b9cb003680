import dataclasses
import json

import numpy as np
import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from hfaudio.audio.io import load_audio, save_audio
from hfaudio.cli import main
from hfaudio.inference import codec as codec_module
from hfaudio.inference.codec import MAGIC, Codec, Codes, read_codes, write_codes
from hfaudio.training.codec_models import CodecArguments, build_codec


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A codec of three codebooks of 32 codes, trained on noise for a moment, so that its codes differ."""
    torch.manual_seed(0)
    args = CodecArguments(
        num_filters=2, hidden_size=8, upsampling_ratios=[4, 4, 5, 8], codebook_size=32, num_codebooks=3
    )
    codec = build_codec(args)
    codec.train()
    for _ in range(3):
        codec(0.1 * torch.randn(16, 1, 16000))
    path = tmp_path_factory.mktemp("codec")
    codec.codec.save_pretrained(path)
    return str(path)


def noise(seconds: float, channels: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((channels, round(seconds * 16000)))).astype(np.float32)


def test_short_recordings_are_coded_as_by_transformers(folder: str) -> None:
    samples = noise(3.01)
    ours = Codec(folder)
    coded = ours.encode(samples, 0.25)
    stock = EncodecModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = stock.encode(torch.from_numpy(samples)[None], bandwidth=0.25)
        audio = stock.decode(expected.audio_codes, [None]).audio_values[0, :, : samples.shape[1]]
    np.testing.assert_array_equal(coded.codes, expected.audio_codes[0, 0].numpy())
    np.testing.assert_allclose(ours.decode(coded), audio.numpy(), atol=1e-6)
    assert coded.bits_per_second == pytest.approx(2 * 5 * 25, rel=0.01)


def test_long_recordings_are_coded_in_blocks_without_seams(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, whole = noise(9.3), Codec(folder)
    expected = whole.encode(samples)
    monkeypatch.setattr(codec_module, "BLOCK_SECONDS", 2.0)
    blocks = Codec(folder)
    coded = blocks.encode(samples)
    assert coded.codes.shape == expected.codes.shape
    assert (coded.codes == expected.codes).mean() > 0.97  # the LSTM hears further than a second, if faintly
    a, b = whole.decode(expected), blocks.decode(expected)
    assert np.abs(a - b).max() < 0.02 * np.abs(a).max()


def test_files_keep_what_was_coded(folder: str, tmp_path) -> None:
    coded = Codec(folder).encode(noise(2.5))
    write_codes(coded, tmp_path / "a.hfac")
    again = read_codes(tmp_path / "a.hfac")
    np.testing.assert_array_equal(again.codes, coded.codes)
    for field in dataclasses.fields(Codes):
        if field.name != "codes":
            assert getattr(again, field.name) == getattr(coded, field.name)
    header = len(json.dumps({})) + (tmp_path / "a.hfac").read_bytes().index(b"}")
    assert (tmp_path / "a.hfac").stat().st_size - header == pytest.approx(3 * 5 * 63 / 8, abs=3)


def test_codes_are_packed_as_the_format_says(tmp_path) -> None:
    codes = np.array([[1, 2], [3, 0]], dtype=np.int16)  # two codebooks of 4, two frames
    write_codes(Codes(codes, 4, 16000, 1, 1000, "m", "0"), tmp_path / "a.hfac")
    assert (tmp_path / "a.hfac").read_bytes()[-1] == 0b01_11_10_00
    assert (tmp_path / "a.hfac").read_bytes().startswith(MAGIC)


@pytest.mark.parametrize("cut", [3, 7, 40, -1])
def test_damaged_files_are_refused(cut: int, folder: str, tmp_path) -> None:
    write_codes(Codec(folder).encode(noise(1.0)), tmp_path / "a.hfac")
    (tmp_path / "b.hfac").write_bytes((tmp_path / "a.hfac").read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"b\.hfac (is damaged|is no code file)"):
        read_codes(tmp_path / "b.hfac")


def test_codes_of_another_model_are_refused(folder: str, tmp_path) -> None:
    codec = Codec(folder)
    coded = codec.encode(noise(1.0))
    codec.model.quantizer.layers[0].codebook.embed += 1
    with pytest.raises(ValueError, match="other codebooks"):
        codec.decode(coded)


def test_wrong_input_is_named(folder: str) -> None:
    codec = Codec(folder)
    for samples, bandwidth, message in (
        (noise(1.0, 2), None, r"expected samples \(1, N\)"),
        (noise(0.0), None, r"expected samples \(1, N\)"),
        (noise(1.0), 0.3, "bandwidth must be one of 0.125, 0.25, 0.375"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.encode(samples, bandwidth)
    assert codec.encode(noise(1e-4)).codes.shape == (3, 1)


def test_a_model_with_chunks_of_its_own(tmp_path) -> None:
    """As EnCodec at 48 kHz: stereo, normalised, in overlapping chunks."""
    torch.manual_seed(0)
    config = EncodecConfig(
        audio_channels=2,
        normalize=True,
        norm_type="time_group_norm",
        chunk_length_s=1.0,
        overlap=0.01,
        num_filters=2,
        hidden_size=8,
        upsampling_ratios=[8, 5, 4, 4],
        num_lstm_layers=1,
        codebook_size=32,
        sampling_rate=16000,
        target_bandwidths=[0.25],
    )
    model = EncodecModel(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    model.save_pretrained(tmp_path)
    codec, samples = Codec(str(tmp_path)), noise(2.6, 2)
    coded = codec.encode(samples)
    assert len(coded.scales) == 3
    write_codes(coded, tmp_path / "a.hfac")
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(samples)[None], bandwidth=0.25).audio_values[0]
    np.testing.assert_allclose(
        codec.decode(read_codes(tmp_path / "a.hfac")), expected[:, : samples.shape[1]].numpy(), atol=1e-5
    )


def test_the_command_goes_there_and_back(folder: str, tmp_path, capsys: pytest.CaptureFixture) -> None:
    save_audio(tmp_path / "tune.flac", noise(2.0), 16000)
    assert main(["codec", "encode", str(tmp_path / "tune.flac"), "--model", folder, "--bandwidth", "0.125"]) == 0
    assert "2.00 s, 125 bit/s" in capsys.readouterr().out
    assert main(["codec", "decode", str(tmp_path / "tune.hfac"), "-o", str(tmp_path / "again.wav")]) == 0
    assert len(load_audio(tmp_path / "again.wav")) == 32000
    assert main(["codec", "decode", str(tmp_path / "tune.flac")]) == 2
    assert "no code file" in capsys.readouterr().err
    assert main(["codec", "encode", str(tmp_path / "none.wav"), "--model", folder]) == 1
    assert main(["codec", "decode", str(tmp_path / "none.hfac")]) == 2
