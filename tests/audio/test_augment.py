"""hfaudio.audio.augment: each change measured on the signal, and the same change for the same (seed, epoch, id)."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import HfArgumentParser

from hfaudio.audio.augment import (
    Augment,
    AugmentArguments,
    add_noise,
    band_limit,
    change_gain,
    change_speed,
    image_source_response,
    low_bitrate_codec,
    read_impulse_response,
    reverberate,
    spec_augment,
    telephone,
)
from hfaudio.audio.io import save_audio
from hfaudio.audio.resample import resample

RATE = 16_000
ALWAYS = AugmentArguments(
    silence_probability=1,
    speed_probability=1,
    room_probability=1,
    noise_probability=1,
    band_limit_probability=1,
    telephone_probability=1,
    codec_probability=1,
    gain_probability=1,
)
NEVER = AugmentArguments(
    silence_probability=0,
    speed_probability=0,
    room_probability=0,
    noise_probability=0,
    band_limit_probability=0,
    telephone_probability=0,
    codec_probability=0,
    gain_probability=0,
    mask_probability=0,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def white(samples: int = RATE, seed: int = 1) -> np.ndarray:
    return 0.1 * rng(seed).standard_normal(samples, dtype=np.float32)


def energy_between(x: np.ndarray, low_hz: float, high_hz: float) -> float:
    frequencies = np.fft.rfftfreq(len(x), 1 / RATE)
    power = np.abs(np.fft.rfft(x.astype(np.float64))) ** 2
    return float(power[(frequencies >= low_hz) & (frequencies < high_hz)].sum() / power.sum())


def lag(x: np.ndarray, y: np.ndarray) -> int:
    """Samples by which y comes after x, from the peak of their cross-correlation."""
    size = 2 * max(len(x), len(y))
    correlation = np.fft.irfft(np.fft.rfft(y, size) * np.conj(np.fft.rfft(x, size)), size)
    peak = int(correlation.argmax())
    return peak - size if peak > size // 2 else peak


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0, 60.0])
@pytest.mark.parametrize("noise_samples", [None, 1000, RATE, 3 * RATE])
def test_noise_has_the_exact_ratio(snr_db: float, noise_samples: int | None) -> None:
    x = white()
    noise = None if noise_samples is None else white(noise_samples, seed=2)
    noisy = add_noise(x, snr_db, rng(), noise)
    assert noisy.dtype == np.float32 and len(noisy) == len(x)
    ratio = np.square(x, dtype=np.float64).sum() / np.square(np.subtract(noisy, x, dtype=np.float64)).sum()
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.01)


def test_made_noise_lies_between_white_and_pink() -> None:
    slopes = []
    for seed in range(40):
        noise = add_noise(white(), -60.0, rng(seed))
        low, high = energy_between(noise, 500, 1000), energy_between(noise, 4000, 8000)
        slopes.append(np.log2(high / low / 8) / 3)  # 8 times the bandwidth, 3 octaves higher
    assert -1.1 < min(slopes) < -0.8
    assert -0.2 < max(slopes) < 0.1


def test_silence_has_no_signal_to_noise_ratio() -> None:
    assert not add_noise(np.zeros(100, np.float32), 10.0, rng()).any()
    x = white(100)
    np.testing.assert_array_equal(add_noise(x, 10.0, rng(), np.zeros(50, np.float32)), x)


def test_response_starts_with_the_direct_sound_and_has_unit_energy() -> None:
    for seed in range(20):
        response = image_source_response(rng(seed), RATE)
        assert response.dtype == np.float32 and len(response) == round(0.3 * RATE)
        assert response[0] > 0
        assert np.abs(response[1:]).max() > 0
        assert np.square(response).sum() == pytest.approx(1, abs=1e-4)


def test_response_of_a_cube_has_the_images_of_allen_and_berkley() -> None:
    """Brute force over all images of a room, delays and signs, against the vectorised sum."""

    class Fixed:
        """In place of a generator: the room, the talker, the microphone and T60 in the order they are drawn."""

        draws = iter([np.array([4.0, 5.0, 3.0]), np.array([1.0, 2.0, 1.5]), np.array([3.0, 2.5, 1.2]), 0.3])

        def uniform(self, low: object, high: object) -> object:
            return next(self.draws)

    response = image_source_response(Fixed(), RATE, max_seconds=0.02)  # type: ignore[arg-type]
    room, talker, microphone = np.array([4.0, 5.0, 3.0]), np.array([1.0, 2.0, 1.5]), np.array([3.0, 2.5, 1.2])
    surface = 2 * (4 * 5 + 5 * 3 + 3 * 4)
    absorption = 1 - np.exp(-0.1611 * 60 / (surface * 0.3))  # Eyring with 24 ln(10) / 343 = 0.1611 s/m
    beta = -np.sqrt(1 - absorption)
    direct = np.linalg.norm(talker - microphone)
    expected = np.zeros(320)
    for m in np.ndindex(9, 9, 9):
        for p in np.ndindex(2, 2, 2):
            n, parity = np.array(m) - 4, np.array(p)
            distance = np.linalg.norm((1 - 2 * parity) * talker + 2 * n * room - microphone)
            delay = round((distance - direct) * RATE / 343)
            if delay < 320:
                expected[delay] += beta ** (np.abs(n - parity) + np.abs(n)).sum() / distance
    expected /= np.sqrt(np.square(expected).sum())
    np.testing.assert_allclose(response, expected, atol=1e-4)


def test_made_up_rooms_have_about_the_reverberation_time_asked_for() -> None:
    times = []
    for seed in range(20):
        response = image_source_response(rng(seed), RATE, reverberation_seconds=(0.3, 0.3), max_seconds=0.4)
        decay = 10 * np.log10(np.cumsum(np.square(response)[::-1])[::-1])  # Schroeder's backward integral
        start, end = np.argmax(decay < -5), np.argmax(decay < -25)
        times.append((end - start) / RATE * 60 / 20)
    assert 0.25 < np.median(times) < 0.4


def test_a_room_does_not_move_or_lengthen_the_words() -> None:
    x = np.zeros(RATE, np.float32)
    x[5000:8000] = white(3000)
    for seed in range(5):
        echoed = reverberate(x, image_source_response(rng(seed), RATE))
        assert len(echoed) == len(x) and echoed.dtype == np.float32
        assert np.abs(echoed[:5000]).max() < 1e-6
        assert abs(echoed[5000]) > 1e-3
        assert lag(x, echoed) == 0


def test_convolution_is_numpys() -> None:
    x, response = white(300), white(70, seed=2)
    np.testing.assert_allclose(reverberate(x, response), np.convolve(x, response)[:300], atol=1e-6)


def test_a_measured_response_is_cut_to_its_peak(tmp_path: Path) -> None:
    response = np.zeros(2000, np.float32)
    response[[700, 900]] = 0.8, -0.4
    save_audio(tmp_path / "hall.wav", response, RATE)
    read = read_impulse_response(str(tmp_path / "hall.wav"), RATE)
    assert len(read) == 1300
    np.testing.assert_allclose(read[[0, 200]], np.array([2, -1]) / np.sqrt(5), atol=1e-3)
    save_audio(tmp_path / "dead.wav", np.zeros(100, np.float32), RATE)
    with pytest.raises(ValueError, match="must not be silent"):
        read_impulse_response(str(tmp_path / "dead.wav"), RATE)


@pytest.mark.parametrize(("factor", "samples"), [(0.9, 17778), (1.0, 16000), (1.1, 14546)])
def test_speed_changes_length_and_pitch(factor: float, samples: int) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    changed = change_speed(tone, factor)
    assert len(changed) == samples
    peak = np.abs(np.fft.rfft(changed)).argmax() * RATE / samples
    assert peak == pytest.approx(1000 * factor, abs=1)


def test_gain_is_in_decibels_and_does_not_clip() -> None:
    np.testing.assert_allclose(change_gain(np.array([0.5, -0.9], np.float32), 20), [5, -9], rtol=1e-6)


def test_band_limit_keeps_the_band_and_removes_the_rest() -> None:
    x = white()
    limited = band_limit(x, 500, 2000, RATE)
    assert len(limited) == len(x) and lag(x, limited) == 0
    assert energy_between(limited, 0, 440) < 1e-4
    assert energy_between(limited, 2210, 8000) < 1e-4
    kept = band_limit(limited, 300, 3000, RATE)
    np.testing.assert_allclose(kept[500:-500], limited[500:-500], atol=1e-3)


def test_telephone_removes_what_a_line_does_not_carry() -> None:
    x = white()
    call = telephone(x, RATE)
    assert call.dtype == np.float32 and len(call) == len(x) and lag(x, call) == 0
    assert energy_between(call, 4000, 8000) < 1e-3
    assert energy_between(call, 0, 250) < 1e-3
    band = resample(resample(band_limit(x, 300, 3400, RATE), RATE, 8000), 8000, RATE)
    error = np.square(call - band).mean() / np.square(band).mean()
    assert -45 < 10 * np.log10(error) < -30  # 8-bit mu-law has about 38 dB


def test_telephone_keeps_silence_silent() -> None:
    assert not telephone(np.zeros(1000, np.float32), RATE).any()


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_codec_is_lossy_in_time_and_as_long(rate: int) -> None:
    t = np.arange(rate) / rate
    voice = sum(np.sin(2 * np.pi * 150 * k * t + k**2) / k for k in range(1, 20)) * np.sin(2 * np.pi * 3 * t) ** 2
    x = (0.2 * voice + 0.005 * rng().standard_normal(rate)).astype(np.float32)
    for seed in range(4):  # seeds 0, 3: MP3; 1, 2: Opus
        coded = low_bitrate_codec(x, rate, rng(seed))
        assert coded.dtype == np.float32 and len(coded) == len(x)
        assert abs(lag(x, coded)) <= 2
        assert 1e-3 < np.square(coded - x).mean() / np.square(x).mean() < 0.5


@pytest.mark.parametrize("samples", [1, 2, 50])
def test_tiny_and_silent_clips_survive_everything(samples: int) -> None:
    augment = Augment(ALWAYS, RATE, seed=0)
    for x in (np.full(samples, 0.5, np.float32), np.zeros(samples, np.float32)):
        for example in range(4):
            changed = augment.waveform(x, 0, example)
            assert changed.dtype == np.float32 and len(changed) >= 1 and np.isfinite(changed).all()


@pytest.mark.parametrize("frames", [1, 2, 9, 10, 50, 1000])
def test_masks_leave_part_of_every_clip(frames: int) -> None:
    features = torch.randn(frames, 80, generator=torch.Generator().manual_seed(0))
    before = features.clone()
    widest = 0
    for seed in range(50):
        masked = spec_augment(features, rng(seed), time_share=0.2, time_frames=30)
        changed = masked != features
        rows, columns = changed.all(1).sum().item(), changed.all(0).sum().item() if frames > 1 else 0
        assert rows <= 2 * min(30, int(0.2 * frames)) and columns <= 2 * 16
        assert (~changed).any()
        widest = max(widest, rows)
    assert torch.equal(features, before)
    assert (widest > 0) == (frames >= 9)  # 20 % of five frames or more


def test_masks_hold_the_mean_of_the_clip() -> None:
    features = rng().standard_normal((200, 40)).astype(np.float32) + 7
    masked = spec_augment(features, rng(3))
    where = masked != features
    assert where.any()
    np.testing.assert_allclose(masked[where], np.broadcast_to(features.mean(0), features.shape)[where])


def test_masks_that_could_cover_a_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="a whole clip could vanish"):
        spec_augment(torch.zeros(10, 10), rng(), time_masks=10, time_share=0.1)


def test_silence_is_added_at_both_ends_and_the_clip_stays_whole() -> None:
    x = np.arange(1, 101, dtype=np.float32)
    longer = Augment(replace(NEVER, silence_probability=1, silence_seconds=[0.1, 0.2]), RATE, 0).waveform(x, 0, 0)
    first, last = np.flatnonzero(longer)[[0, -1]]
    assert np.array_equal(longer[first : last + 1], x)
    assert 0.1 <= first / RATE <= 0.2 and 0.1 <= (len(longer) - 1 - last) / RATE <= 0.2
    assert longer.dtype == np.float32


def test_probability_zero_changes_nothing() -> None:
    augment = Augment(NEVER, RATE, seed=0)
    x, features = white(100), torch.randn(10, 4)
    assert augment.waveform(x, 0, "a") is x
    assert augment.features(features, 0, "a") is features


def test_seed_epoch_and_example_each_matter() -> None:
    x = white(1600)
    draws = {
        Augment(AugmentArguments(noise_probability=1), RATE, seed).waveform(x, epoch, example).tobytes()
        for seed in (0, 1)
        for epoch in (0, 1)
        for example in ("a", "b")
    }
    assert len(draws) == 8


def test_same_change_in_another_process() -> None:
    """The hash of a string differs between Python processes; this one must not."""
    program = (
        "import numpy as np; from hfaudio.audio.augment import Augment, AugmentArguments;"
        "a = Augment(AugmentArguments(noise_probability=1), 16000, 7);"
        "x = np.linspace(-0.5, 0.5, 500, dtype=np.float32);"
        "print(a.waveform(x, 2, 'clip 3').tobytes().hex())"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    x = np.linspace(-0.5, 0.5, 500, dtype=np.float32)
    here = Augment(AugmentArguments(noise_probability=1), RATE, 7).waveform(x, 2, "clip 3")
    assert output.strip() == here.tobytes().hex()


class Clips(Dataset):
    """Twelve clips, augmented where they are read."""

    def __init__(self) -> None:
        self.augment = Augment(AugmentArguments(), RATE, seed=3)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray]:
        x = self.augment.waveform(white(1000, seed=index), 1, f"clip-{index}")
        return index, x, self.augment.features(np.outer(x[:100], np.ones(8)), 1, f"clip-{index}")


def test_same_change_for_any_number_of_workers_and_any_order() -> None:
    def read(workers: int, shuffle: bool) -> dict[int, tuple[bytes, bytes]]:
        loader = DataLoader(Clips(), batch_size=None, num_workers=workers, shuffle=shuffle, collate_fn=lambda row: row)
        return {index: (x.tobytes(), features.tobytes()) for index, x, features in loader}

    expected = read(0, shuffle=False)
    assert len({x for x, _ in expected.values()}) == 12
    assert read(2, shuffle=False) == expected
    assert read(0, shuffle=True) == expected


def test_rooms_from_files(tmp_path: Path) -> None:
    response = np.zeros(400, np.float32)
    response[[0, 300]] = 0.5
    save_audio(tmp_path / "echo.flac", response, RATE)
    arguments = replace(NEVER, room_probability=1, impulse_response_files=str(tmp_path))
    x = white(1000)
    expected = reverberate(x, read_impulse_response(str(tmp_path / "echo.flac"), RATE))
    np.testing.assert_array_equal(Augment(arguments, RATE, 0).waveform(x, 0, 0), expected)


@pytest.mark.parametrize("seconds", [0.01, 2.0])
def test_noise_from_files(tmp_path: Path, seconds: float) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 3000 * np.arange(round(seconds * RATE)) / RATE)
    save_audio(tmp_path / "tone.wav", tone, RATE)
    arguments = replace(NEVER, noise_probability=1, noise_files=str(tmp_path))
    low = band_limit(white(), 100, 1000, RATE)
    noisy = Augment(arguments, RATE, 0).waveform(low, 0, 0)
    assert energy_between(noisy - low, 2990, 3010) > 0.99


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="check the folder"):
        Augment(AugmentArguments(noise_files=str(tmp_path)), RATE, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_probability": 1.5}, "noise_probability must be between 0 and 1, got 1.5"),
        ({"noise_snr_db": [30.0, 10.0]}, "the lower one first"),
        ({"gain_db": [1.0]}, "gain_db must be two numbers"),
        ({"speed_factors": []}, "speed_factors must be between 0.5 and 2"),
        ({"room_seconds": [0.0, 0.2]}, "room_seconds must be positive"),
        ({"band_limit_low_hz": [50.0, 4000.0]}, "below band_limit_high_hz"),
        ({"time_masks": 10}, "a whole clip could vanish"),
        ({"time_mask_frames": -1}, "time_mask_frames must be at least 0"),
    ],
)
def test_impossible_arguments_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentArguments(**change)


def test_transformers_reads_the_declaration() -> None:
    line = ["--noise_probability", "0.25", "--noise_snr_db", "5", "15", "--noise_files", "noises"]
    (arguments,) = HfArgumentParser(AugmentArguments).parse_args_into_dataclasses(line)
    assert arguments == AugmentArguments(noise_probability=0.25, noise_snr_db=[5.0, 15.0], noise_files="noises")
