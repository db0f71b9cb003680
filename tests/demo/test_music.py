"""Music on demand: what was asked for is in the files, seeds count, limits are told, adapters are heard."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from peft import LoraConfig, get_peft_model

from hfaudio.audio.export import loudness, true_peak
from hfaudio.audio.io import load_audio
from hfaudio.data.bundled import path
from hfaudio.demo.music import LARGEST_SEED, Wish, heard_now, made
from hfaudio.demo.settings import DemoSettings, Limits, music_model
from hfaudio.models.musicgen import open_musicgen

PROMPT = "slow flute tune in d minor"


@pytest.fixture(scope="module")
def client(address: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_the_same_seed_is_the_same_clip_and_it_is_as_loud_and_long_as_told(client: Client) -> None:
    clips = []
    for seed in (1, 1, 2):
        file, facts = client.predict(prompt=PROMPT, seconds=1.5, seed=seed, api_name="/generate_music")
        samples, rate = soundfile.read(file, always_2d=True)
        assert rate == 16_000 and len(samples) / rate == pytest.approx(1.5, abs=0.04)  # whole frames of 0.04 s
        assert facts["seed"] == seed and facts["seconds"] == pytest.approx(1.5, abs=0.04)
        level, peak = loudness(samples.T, rate), true_peak(samples.T)
        assert level == pytest.approx(-16, abs=0.1) or 20 * np.log10(peak) == pytest.approx(-1, abs=0.1)
        clips.append(samples)
    assert np.array_equal(clips[0], clips[1]) and not np.array_equal(clips[0], clips[2])


def test_without_a_seed_one_is_drawn_and_told(client: Client) -> None:
    seeds = {client.predict(prompt=PROMPT, seconds=1, api_name="/generate_music")[1]["seed"] for _ in range(2)}
    assert len(seeds) == 2 and all(0 <= seed <= LARGEST_SEED for seed in seeds)


def test_a_clip_goes_on(client: Client) -> None:
    first, _ = client.predict(prompt=PROMPT, seconds=1, seed=3, api_name="/generate_music")
    file, facts = client.predict(file=handle_file(first), prompt=PROMPT, seconds=1, seed=4, api_name="/continue_music")
    assert facts["seconds"] == pytest.approx(2.0, abs=0.08)
    whole, start = load_audio(file), load_audio(first)
    spectra = [np.abs(np.fft.rfft(samples[:16_000]))[:4_000] for samples in (whole, start)]
    assert np.corrcoef(*spectra)[0, 1] > 0.7  # it begins with the clip, as the codec gives it back


def test_a_spoken_prompt_is_understood_and_played(
    client: Client, prompts: list[tuple[str, np.ndarray]], tmp_path: Path
) -> None:
    clip = tmp_path / "prompt.wav"
    soundfile.write(clip, prompts[0][1], 16_000)
    text, file, facts = client.predict(file=handle_file(clip), seconds=1, api_name="/speak_music")
    assert text == facts["prompt"] == prompts[0][0]
    assert soundfile.info(file).duration == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": "tune " * 70}, "350 characters, at most 300"),
        ({"prompt": PROMPT, "seconds": 999}, "999"),
        ({"prompt": PROMPT, "adapter": "jazz"}, "jazz"),
    ],
)
def test_what_nobody_can_have_is_told(client: Client, values: dict[str, Any], message: str) -> None:
    with pytest.raises(AppError, match=message):
        client.predict(**{"seconds": 1, **values}, api_name="/generate_music")


def test_silence_cannot_be_continued_and_says_so_without_a_path(client: Client, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    with pytest.raises(AppError, match="silence") as told:
        client.predict(
            file=handle_file(tmp_path / "silence.wav"), prompt=PROMPT, seconds=1, api_name="/continue_music"
        )
    assert "/" not in str(told.value)


def test_wishes_are_checked_wherever_they_come_from() -> None:
    settings, generators = DemoSettings(limits=Limits(music_seconds=8)), {"": None, "folk": None}
    wish = Wish.checked(settings, generators, f" {PROMPT} ", 8, 3, 1, None, None)  # type: ignore[arg-type]
    assert wish.prompt == PROMPT and wish.adapter == "" and 0 <= wish.seed <= LARGEST_SEED
    for values, message in (((9.0, 3, 1, 0, ""), "at most 8 s, got 9"), ((1.0, 3, 1, 0, "jazz"), "there are folk")):
        with pytest.raises(gr.Error, match=message):
            Wish.checked(settings, generators, PROMPT, *values)  # type: ignore[arg-type]


def test_an_adapter_is_heard(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=r"decoder.*q_proj", init_lora_weights=False)
    get_peft_model(open_musicgen(path("musicgen")), lora).save_pretrained(tmp_path / "folk")
    settings = DemoSettings(adapters={"folk": str(tmp_path / "folk")})
    clips = []
    generators = {
        name: music_model(settings, "bundled", place) for name, place in (("", None), *settings.adapters.items())
    }
    for name in generators:
        wish = Wish(PROMPT, 1.0, 3.0, 1.0, seed=5, adapter=name)
        clips.append(made(generators, wish, tmp_path, gr.Progress()))
    samples = [load_audio(clip.wav) for clip in clips]
    assert not np.array_equal(*samples)
    assert f'alt="Spectrogram of 1.0 seconds of: {PROMPT}"' in clips[0].picture


def test_pieces_are_16_bit_frames() -> None:
    rate, frames = heard_now(np.array([[0.5, -2.0, 1.0]]), 16_000)
    assert rate == 16_000 and frames.dtype == np.int16 and frames.tolist() == [[16383], [-32767], [32767]]
