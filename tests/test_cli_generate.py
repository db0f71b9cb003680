"""`hfaudio generate` run for real, with an untrained model that is saved as a folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from hfaudio import cli
from hfaudio.audio.export import loudness
from hfaudio.audio.io import audio_info, load_audio, save_audio
from hfaudio.inference.generate import MusicGenerator, Sampling
from hfaudio.inference.soundtrack import SoundtrackPlan
from hfaudio.models.codec import bandwidths
from hfaudio.training.music_models import MusicModelArguments, open_music_model

RATE = 8000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """25 frames a second, windows of 20."""
    torch.manual_seed(0)
    config = EncodecConfig(
        sampling_rate=RATE, upsampling_ratios=[8, 5, 4, 2], num_filters=2, hidden_size=8, codebook_size=16
    )
    config.target_bandwidths = bandwidths(2, 16, config.frame_rate)
    codec = EncodecModel(config)
    for layer in codec.quantizer.layers:
        layer.codebook.embed.normal_()
    folder = tmp_path_factory.mktemp("model")
    codec.save_pretrained(folder / "codec")
    args = MusicModelArguments(
        codec=str(folder / "codec"),
        num_codebooks=2,
        window_seconds=0.8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        text_hidden_size=16,
    )
    music, processor = open_music_model(args, ["slow sad flute tune", "fast organ waltz"])
    music.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_sampling_options_are_fields_of_sampling() -> None:
    assert set(cli.SAMPLING_OPTIONS) == set(Sampling.__dataclass_fields__)


def test_a_clip_is_that_of_the_library(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tune.wav"
    options = ["--seconds", "1", "--seed", "3", "--top_k", "5", "--lufs", "none"]
    assert cli.main(["generate", model, "slow flute", "-o", str(output), *options]) == 0
    assert f"{output}: 1.00 s, seed 3, slow flute" in capsys.readouterr().out
    (expected,) = MusicGenerator(model)(["slow flute"], 1, seeds=[3], sampling=Sampling(top_k=5))
    np.testing.assert_allclose(load_audio(output, RATE), expected[0].clip(-1, 1), atol=1e-4)


def test_several_clips_are_numbered_and_as_loud_as_asked(model: str, tmp_path: Path) -> None:
    command = ["generate", model, "slow flute", "fast organ", "--samples", "2", "--seconds", "0.8"]
    assert cli.main([*command, "-o", str(tmp_path / "tune.flac"), "--lufs", "-50"]) == 0
    files = [tmp_path / f"tune-{number}.flac" for number in (1, 2, 3, 4)]
    assert sorted(tmp_path.iterdir()) == files
    levels = [loudness(load_audio(file, RATE)[None], RATE) for file in files]
    assert levels == pytest.approx([-50] * 4, abs=0.2)  # 16 bits round at -98 dB
    again = ["generate", model, "fast organ", "--seed", "1", "--seconds", "0.8", "--lufs", "-50"]
    assert cli.main([*again, "-o", str(tmp_path / "alone.flac")]) == 0
    np.testing.assert_array_equal(load_audio(tmp_path / "alone.flac", RATE), load_audio(files[3], RATE))


def test_a_recording_at_another_rate_is_continued(model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    save_audio(tmp_path / "clip.wav", 0.1 * rng.standard_normal((2, 22050)).astype(np.float32), 44100)
    command = ["generate", model, "--unconditional", "--continue_from", str(tmp_path / "clip.wav")]
    assert cli.main([*command, "--seconds", "0.6", "-o", str(tmp_path / "on.ogg")]) == 0
    assert audio_info(tmp_path / "on.ogg").seconds == pytest.approx(0.48 + 0.6)  # whole frames of 0.5 s


def test_a_video_tells_length_and_tempo(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, muxed = SoundtrackPlan(seconds=1.4, cuts=(0.5,), cuts_per_minute=30.0, tempo="fast"), []
    monkeypatch.setattr("hfaudio.inference.soundtrack.plan_soundtrack", lambda video: plan)
    monkeypatch.setattr("hfaudio.inference.soundtrack.mux", lambda *arguments: muxed.append(arguments))
    command = ["generate", model, "organ waltz", "slow flute", "--match", "film.mp4", "-o", str(tmp_path / "new.mp4")]
    assert cli.main(command) == 0
    assert [file.name for *_, file in muxed] == ["new-1.mp4", "new-2.mp4"]
    assert all(samples.shape == (1, 1.4 * RATE) and rate == RATE for _, samples, rate, _ in muxed)
    printed = capsys.readouterr().out
    assert "new-1.mp4: 1.40 s, seed 0, fast organ waltz" in printed
    assert "new-2.mp4: 1.40 s, seed 0, slow flute" in printed


def test_mistakes_are_named(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(message: str, *options: str, code: int = 2, output: Path = tmp_path / "a.wav") -> None:
        assert cli.main(["generate", model, *options, "-o", str(output)]) == code
        assert message in capsys.readouterr().err

    refused("got neither")
    refused("got both", "flute", "--unconditional")
    refused("is no text", " ")
    refused("seconds must be above 0", "flute", "--seconds", "0")
    refused("--samples must be at least 1", "flute", "--samples", "0")
    refused("temperature must be", "flute", "--temperature", "-1")
    refused("must end in one of .wav", "flute", output=tmp_path / "a.txt")
    refused("there is no folder", "flute", output=tmp_path / "none" / "a.wav")
    refused("must end in one of .mp4", "flute", "--match", "film.mp4")
    refused("leave out --seconds", "flute", "--match", "film.mp4", "--seconds", "3")
    refused("there is no such file", "flute", "--continue_from", str(tmp_path / "none.wav"), code=1)
    assert not list(tmp_path.iterdir())
