"""One pass over a clip measures what was put into it; fingerprints find copies and nothing else."""

import io
from functools import cache

import numpy as np
import pytest
import soundfile

from hfaudio.audio.io import AudioError
from hfaudio.audio.resample import resample
from hfaudio.data.doctor_audio import SHAPE_SIZE, encoding, energy_shape, measure_clip, similar_pairs

RATE = 16_000


def encoded(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> dict:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return {"bytes": file.getvalue(), "path": None}


@cache
def syllables(seed: int, seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    """Noise with the resonances and the rhythm of speech, so that codecs treat it like speech."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wave = np.zeros(len(time))
    for start in np.arange(0.1, seconds - 0.2, 0.22):
        pitch, formant, loud = rng.uniform(90, 220), rng.uniform(300, 2500), rng.uniform(0.1, 1)
        gate = np.exp(-0.5 * ((time - start - rng.uniform(0, 0.1)) / rng.uniform(0.03, 0.08)) ** 2)
        harmonics = np.arange(1, 20)[:, None] * pitch
        strength = np.exp(-0.5 * ((harmonics - formant) / 400) ** 2)
        wave += loud * gate * (strength * np.sin(2 * np.pi * harmonics * time)).sum(axis=0)
    return (0.5 * wave / np.abs(wave).max() + rng.normal(0, 1e-4, len(time))).astype(np.float32)


def test_lengths_levels_and_silent_ends() -> None:
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    clip = measure_clip(encoded(np.concatenate([np.zeros(RATE // 2), tone, np.zeros(RATE // 4)])))
    assert (clip.sample_rate, clip.channels, clip.samples, clip.encoding) == (RATE, 1, 28_000, "wav pcm 16 bit")
    assert clip.seconds == 1.75
    assert clip.leading_silence == pytest.approx(0.5, abs=0.011)
    assert clip.trailing_silence == pytest.approx(0.25, abs=0.011)
    assert clip.loudest_db == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.2)
    assert not clip.silent and not clip.clipped


def test_a_long_recording_is_the_sum_of_its_blocks() -> None:
    loud = np.zeros(70 * 8000)
    loud[30 * 8000 - 40 : 30 * 8000 + 40] = 0.5  # over the border of the first block
    clip = measure_clip(encoded(loud, 8000))
    assert clip.leading_silence == pytest.approx(30, abs=0.011)
    assert clip.trailing_silence == pytest.approx(40, abs=0.011)


def test_digital_silence_and_a_noise_floor_are_silent_and_a_whisper_is_not() -> None:
    rng = np.random.default_rng(0)
    assert measure_clip(encoded(np.zeros(RATE))).silent
    assert measure_clip(encoded(1e-4 * rng.normal(size=RATE))).silent  # -80 dBFS
    assert not measure_clip(encoded(5e-3 * rng.normal(size=RATE))).silent  # -46 dBFS


def test_clipping_is_cut_peaks_and_not_normalised_ones() -> None:
    voice = syllables(1)
    normalised = voice / np.abs(voice).max()
    assert not measure_clip(encoded(normalised)).clipped
    cut = measure_clip(encoded(np.clip(4 * normalised, -1, 1)))
    assert cut.clipped
    assert cut.full_scale_samples == np.count_nonzero(np.abs(4 * normalised) >= 0.999)


def test_the_fingerprint_is_that_of_the_samples() -> None:
    voice = syllables(2)
    exact = np.round(voice * 32767).astype(np.int16)
    wav, flac = measure_clip(encoded(exact)), measure_clip(encoded(exact, kind="FLAC"))
    assert wav.fingerprint == flac.fingerprint
    exact[1000] += 1
    assert measure_clip(encoded(exact)).fingerprint != wav.fingerprint


@pytest.mark.parametrize("copy", ["mp3", "vorbis", "opus", "8 kHz", "22.05 kHz", "softer", "padded"])
def test_copies_stay_similar(copy: str) -> None:
    clips = [syllables(seed) for seed in range(4)]
    original = clips[0]
    changed = {
        "mp3": lambda: encoded(original, kind="MP3"),
        "vorbis": lambda: encoded(original, kind="OGG", subtype="VORBIS"),
        "opus": lambda: encoded(original, kind="OGG", subtype="OPUS"),
        "8 kHz": lambda: encoded(resample(original, RATE, 8000), 8000),
        "22.05 kHz": lambda: encoded(resample(original, RATE, 22_050), 22_050),
        "softer": lambda: encoded(0.1 * original),
        "padded": lambda: encoded(np.concatenate([np.zeros(RATE), original, np.zeros(RATE // 3)])),
    }[copy]()
    measured = [measure_clip(encoded(clip)) for clip in clips] + [measure_clip(changed)]
    spreads = np.array([clip.spread for clip in measured])
    shapes = np.stack([np.frombuffer(clip.shape, np.int8) for clip in measured])
    pairs = list(similar_pairs(spreads, shapes, max_spread_change=0.02, min_similarity=0.985))
    assert [pair[:2] for pair in pairs] == [(0, 4)]


def test_similar_pairs_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    spreads = rng.uniform(0.2, 0.4, 300).astype(np.float32)
    shapes = rng.integers(-127, 128, (300, SHAPE_SIZE)).astype(np.int8)
    shapes[150:] = np.clip(shapes[:150] + rng.integers(-9, 10, (150, SHAPE_SIZE)), -127, 127)
    spreads[150:] = spreads[:150] * rng.uniform(0.96, 1.04, 150)
    brute = set()
    for i in range(300):
        for j in range(i + 1, 300):
            a, b = shapes[i].astype(float), shapes[j].astype(float)
            near = max(spreads[i], spreads[j]) <= min(spreads[i], spreads[j]) * np.float32(1.02)
            if near and a @ b >= 0.985 * np.linalg.norm(a) * np.linalg.norm(b):
                brute.add((i, j))
    found = similar_pairs(spreads, shapes, max_spread_change=0.02, min_similarity=0.985, block=7)
    assert {pair[:2] for pair in found} == brute
    assert len(brute) > 20
    assert not list(similar_pairs(spreads[:0], shapes[:0], max_spread_change=0.02, min_similarity=0.9))


def test_the_shape_of_no_energy_is_zeros() -> None:
    assert energy_shape(np.zeros((5, 2))) == (0.0, bytes(SHAPE_SIZE))


@pytest.mark.parametrize(
    ("kind", "subtype", "expected"),
    [
        ("WAV", "PCM_24", "wav pcm 24 bit"),
        ("WAV", "FLOAT", "wav float 32 bit"),
        ("WAV", "ULAW", "wav mu-law 8 bit"),
        ("FLAC", None, "flac"),
        ("OGG", "VORBIS", "ogg vorbis"),
        ("OGG", "OPUS", "ogg opus"),
        ("MP3", None, "mp3"),
    ],
)
def test_encodings_are_known_by_their_first_bytes(kind: str, subtype: str | None, expected: str) -> None:
    assert encoding(encoded(syllables(0, 0.5), kind=kind, subtype=subtype)["bytes"][:64]) == expected


def test_unreadable_audio_raises_its_reason() -> None:
    for audio, reason in ((None, "missing"), ({"bytes": b"no audio at all", "path": None}, "corrupt")):
        with pytest.raises(AudioError) as error:
            measure_clip(audio)
        assert error.value.reason == reason
