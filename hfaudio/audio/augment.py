"""Changed copies of speech for training: speed, rooms, noise, channels, codecs, level, and masked features.

Waveforms are float32 (N,), features (T, D). The functions are pure: what is random comes from `rng`. `Augment`
applies them with an `rng` made from (seed, epoch, example id), so that a clip gets the same change whichever process,
worker or order it is read in, and another one in the next epoch.
"""

import hashlib
import io
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
from torch import Tensor

from hfaudio.audio.io import audio_info, load_audio
from hfaudio.audio.resample import resample

Features = TypeVar("Features", np.ndarray, Tensor)
Option = TypeVar("Option")

SPEED_OF_SOUND = 343.0  # m/s
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def add_noise(x: np.ndarray, snr_db: float, rng: np.random.Generator, noise: np.ndarray | None = None) -> np.ndarray:
    """`x` plus noise whose energy over the clip lies `snr_db` below that of `x`.

    `noise` (M,) is repeated if too short and cut at a random place if too long. Without it the noise is Gaussian with
    a power spectrum 1 / f**a, a drawn between 0 (white) and 1 (pink). Where `x` or the noise is silent, `x` comes
    back: it has no signal-to-noise ratio.
    """
    if noise is None:
        noise = _coloured_noise(len(x), rng.uniform(0, 1), rng)
    elif len(noise) > len(x):
        offset = rng.integers(len(noise) - len(x) + 1)
        noise = noise[offset : offset + len(x)]
    else:
        noise = np.resize(noise, len(x))
    signal_energy, noise_energy = _energy(x), _energy(noise)
    if signal_energy == 0 or noise_energy == 0:
        return x
    scale = math.sqrt(signal_energy / noise_energy / 10 ** (snr_db / 10))
    return x + np.float32(scale) * noise


def image_source_response(
    rng: np.random.Generator,
    sample_rate: int,
    *,
    reverberation_seconds: tuple[float, float] = (0.1, 0.4),
    max_seconds: float = 0.3,
) -> np.ndarray:
    """Impulse response (K,) of a random shoebox room, unit energy, the direct sound at index 0.

    Image source method of Allen & Berkley 1979, doi:10.1121/1.382599, delays rounded to samples as there. Walls, floor
    and ceiling reflect alike; their coefficient follows from a reverberation time T60 drawn from
    `reverberation_seconds` (Eyring's formula), and is negative, which spares the response the low-frequency swell
    of positive ones (Lehmann & Johansson 2008, doi:10.1121/1.2936367). The room measures 3-8 x 3-6 x 2.4-3.5 m;
    talker and microphone stand at least 0.3 m from every wall. Images beyond `max_seconds` are left out.
    """
    room = rng.uniform((3.0, 3.0, 2.4), (8.0, 6.0, 3.5))
    talker, microphone = rng.uniform(0.3, room - 0.3), rng.uniform(0.3, room - 0.3)
    volume, surface = room.prod(), 2 * (room[0] * room[1] + room[1] * room[2] + room[0] * room[2])
    # Eyring: T60 = 24 ln(10) / c * V / (-S ln(1 - absorption)); energy is reflected by 1 - absorption
    decay = 24 * math.log(10) / SPEED_OF_SOUND * volume / surface / rng.uniform(*reverberation_seconds)
    reflection = -math.exp(-decay / 2)

    reach = np.linalg.norm(talker - microphone) + SPEED_OF_SOUND * max_seconds
    squares, gains = [], []  # for each axis, of all its images: squared distance to the microphone, reflections passed
    for length, source, receiver in zip(room, talker, microphone, strict=True):
        n = np.arange(-math.ceil(reach / (2 * length)), math.ceil(reach / (2 * length)) + 1)
        positions = np.concatenate([2 * n * length + source, 2 * n * length - source])
        reflections = np.concatenate([np.abs(2 * n), np.abs(2 * n - 1)])
        near = np.abs(positions - receiver) < reach
        squares.append((positions[near] - receiver) ** 2)
        gains.append(reflection ** reflections[near])
    distances = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2]).ravel()
    amplitudes = (gains[0][:, None, None] * gains[1][:, None] * gains[2]).ravel() / distances
    delays = np.rint((distances - distances.min()) * (sample_rate / SPEED_OF_SOUND)).astype(np.int64)
    size = max(1, round(max_seconds * sample_rate))
    response = np.bincount(delays, weights=amplitudes, minlength=size)[:size]
    return (response / math.sqrt(_energy(response))).astype(np.float32)


def read_impulse_response(path: str, sample_rate: int) -> np.ndarray:
    """A measured impulse response (K,) from a file, unit energy, from its highest peak (the direct sound) on."""
    response = load_audio(path, sample_rate)
    response = response[np.abs(response).argmax() :]
    if not response.any():
        raise ValueError(f"{path}: an impulse response must not be silent; remove the file")
    return response / np.float32(math.sqrt(_energy(response)))


def reverberate(x: np.ndarray, impulse_response: np.ndarray) -> np.ndarray:
    """`x` convolved with a response whose direct sound is at index 0, as long as `x`: words stay in place."""
    size = _power_of_two(len(x) + len(impulse_response) - 1)
    spectrum = np.fft.rfft(x, size) * np.fft.rfft(impulse_response, size)
    return np.fft.irfft(spectrum, size)[: len(x)].astype(np.float32)


def add_silence(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """`x` with so many zeros before and after it; `x` itself for none."""
    return np.pad(x, (before, after)) if before or after else x


def change_speed(x: np.ndarray, factor: float) -> np.ndarray:
    """`x` played `factor` times as fast: (N,) -> (ceil(N / factor),); tempo and pitch change (Ko et al. 2015).

    The factor is rounded to hundredths, which keeps the resampling filters short.
    """
    return resample(x, round(100 * factor), 100)


def change_gain(x: np.ndarray, db: float) -> np.ndarray:
    """`x` louder by `db`; samples beyond [-1, 1] are left there."""
    return x * np.float32(10 ** (db / 20))


def band_limit(x: np.ndarray, low_hz: float, high_hz: float, sample_rate: int) -> np.ndarray:
    """`x` without what lies outside [low_hz, high_hz], at phase 0; the edges fall to nothing within 10 %."""
    size = _power_of_two(len(x) + round(0.05 * sample_rate))  # 50 ms of zeros take up the ringing
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate).astype(np.float32)
    above = np.clip(1 - (low_hz - frequencies) / max(0.1 * low_hz, 1e-9), 0, 1)
    below = np.clip(1 - (frequencies - high_hz) / (0.1 * high_hz), 0, 1)
    response = np.sin(np.pi / 2 * above * below) ** 2
    return np.fft.irfft(np.fft.rfft(x, size) * response, size)[: len(x)].astype(np.float32)


def telephone(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """`x` after a fixed-line call: 300-3400 Hz, 8 kHz, 8 bits in mu-law (255, as G.711), and back to `sample_rate`."""
    narrow = np.clip(resample(band_limit(x, 300, 3400, sample_rate), sample_rate, 8000), -1, 1)
    compressed = np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / math.log(256)
    steps = np.rint(compressed * 127) / 127  # 255 of the 256 codes, so that silence stays silent
    expanded = np.sign(steps) * np.expm1(np.abs(steps) * math.log(256)) / 255
    return resample(expanded.astype(np.float32), 8000, sample_rate)[: len(x)]


def low_bitrate_codec(x: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """`x` after Opus at 6-14 kbit/s or MP3 at about 20 kbit/s, both at 16 kHz; in time with `x` and as long.

    Samples beyond [-1, 1] are clipped. Encoding takes 15 ms (MP3) to 150 ms (Opus) for 3 s of sound.
    """
    if rng.random() < 0.5:
        # libsndfile maps 0..1 to 256..6 kbit/s
        container, codec, level = "OGG", "OPUS", rng.uniform(0.97, 1.0)
    else:
        container, codec, level = "MP3", "MPEG_LAYER_III", rng.uniform(0.9, 0.99)
    file = io.BytesIO()
    wide = resample(x, sample_rate, 16_000)
    soundfile.write(file, wide, 16_000, format=container, subtype=codec, compression_level=level)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return resample(decoded, 16_000, sample_rate)[: len(x)]


def spec_augment(
    features: Features,
    rng: np.random.Generator,
    *,
    time_masks: int = 2,
    time_share: float = 0.1,
    time_frames: int = 40,
    frequency_masks: int = 2,
    frequency_share: float = 0.2,
) -> Features:
    """A copy of features (T, D) with masked frames and masked rows, each set to the mean of the clip.

    SpecAugment (Park et al. 2019, arXiv:1904.08779) without time warping. A time mask is at most `time_frames` frames
    and `time_share` of the clip wide, a frequency mask at most `frequency_share` of D; widths and places are uniform.
    As masks * share < 1 is required, some frames and rows always remain; clips of few frames get no time mask.
    """
    if time_masks * time_share >= 1 or frequency_masks * frequency_share >= 1:
        raise ValueError(
            f"masks * share must be below 1, or a whole clip could vanish; got {time_masks} * {time_share} in time, "
            f"{frequency_masks} * {frequency_share} in frequency"
        )
    frames, size = features.shape
    mean = features.mean(0)
    masked = features.copy() if isinstance(features, np.ndarray) else features.clone()
    for _ in range(frequency_masks):
        start, end = _random_span(size, int(frequency_share * size), rng)
        masked[:, start:end] = mean[start:end]
    for _ in range(time_masks):
        start, end = _random_span(frames, min(time_frames, int(time_share * frames)), rng)
        masked[start:end] = mean
    return masked


@dataclass
class AugmentArguments:
    """How training speech is changed, in order: silence, speed, room, noise, band, line, codec, gain; then masks."""

    silence_probability: float = field(
        default=0.2, metadata={"help": "Share of clips that get silence before and after them."}
    )
    silence_seconds: list[float] = field(
        default_factory=lambda: [0.0, 0.5], metadata={"help": "Range of the silence at each end in seconds."}
    )
    speed_probability: float = field(default=0.5, metadata={"help": "Share of clips played faster or slower."})
    speed_factors: list[float] = field(
        default_factory=lambda: [0.9, 1.1], metadata={"help": "Speeds to choose from; 1.1 is 10 % faster and higher."}
    )
    room_probability: float = field(default=0.3, metadata={"help": "Share of clips that get the echo of a room."})
    room_seconds: list[float] = field(
        default_factory=lambda: [0.1, 0.4], metadata={"help": "Range of the reverberation time T60 of made-up rooms."}
    )
    impulse_response_files: str | None = field(
        default=None, metadata={"help": "Folder of measured impulse responses, used in place of made-up rooms."}
    )
    noise_probability: float = field(default=0.5, metadata={"help": "Share of clips that get additive noise."})
    noise_snr_db: list[float] = field(
        default_factory=lambda: [10.0, 40.0], metadata={"help": "Range of the signal-to-noise ratio in dB."}
    )
    noise_files: str | None = field(
        default=None, metadata={"help": "Folder of noise recordings, used in place of white to pink noise."}
    )
    band_limit_probability: float = field(
        default=0.1, metadata={"help": "Share of clips that lose their lowest and highest frequencies."}
    )
    band_limit_low_hz: list[float] = field(
        default_factory=lambda: [50.0, 300.0], metadata={"help": "Range of the lower edge of the band in Hz."}
    )
    band_limit_high_hz: list[float] = field(
        default_factory=lambda: [3000.0, 7000.0], metadata={"help": "Range of the upper edge of the band in Hz."}
    )
    telephone_probability: float = field(
        default=0.1, metadata={"help": "Share of clips sent through a telephone line (300-3400 Hz, 8-bit mu-law)."}
    )
    codec_probability: float = field(
        default=0.0,
        metadata={"help": "Share of clips coded by Opus or MP3 at a low bit rate; costs 20-150 ms for 3 s of sound."},
    )
    gain_probability: float = field(default=0.5, metadata={"help": "Share of clips made louder or softer."})
    gain_db: list[float] = field(default_factory=lambda: [-10.0, 5.0], metadata={"help": "Range of the gain in dB."})
    mask_probability: float = field(default=1.0, metadata={"help": "Share of clips whose features are masked."})
    time_masks: int = field(default=2, metadata={"help": "SpecAugment: number of masked stretches of time."})
    time_mask_share: float = field(default=0.1, metadata={"help": "SpecAugment: widest time mask as share of a clip."})
    time_mask_frames: int = field(default=40, metadata={"help": "SpecAugment: widest time mask in frames."})
    frequency_masks: int = field(default=2, metadata={"help": "SpecAugment: number of masked bands."})
    frequency_mask_share: float = field(
        default=0.2, metadata={"help": "SpecAugment: widest frequency mask as share of the features."}
    )

    @property
    def speeds(self) -> list[float]:
        """Every speed that a clip may be played at."""
        return [1.0, *self.speed_factors] if self.speed_probability else [1.0]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        for name in (
            "silence_seconds",
            "room_seconds",
            "noise_snr_db",
            "band_limit_low_hz",
            "band_limit_high_hz",
            "gain_db",
        ):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise ValueError(f"{name} must be two numbers, the lower one first, got {values}")
        if not self.speed_factors or not all(0.5 <= factor <= 2 for factor in self.speed_factors):
            raise ValueError(f"speed_factors must be between 0.5 and 2, at least one, got {self.speed_factors}")
        if self.silence_seconds[0] < 0:
            raise ValueError(f"silence_seconds must not be negative, got {self.silence_seconds}")
        if self.room_seconds[0] <= 0:
            raise ValueError(f"room_seconds must be positive, got {self.room_seconds}")
        if self.band_limit_low_hz[0] < 0 or self.band_limit_low_hz[1] >= self.band_limit_high_hz[0]:
            raise ValueError(
                f"band_limit_low_hz must be positive and below band_limit_high_hz, "
                f"got {self.band_limit_low_hz} and {self.band_limit_high_hz}"
            )
        for masks, share in (("time_masks", "time_mask_share"), ("frequency_masks", "frequency_mask_share")):
            count, width = getattr(self, masks), getattr(self, share)
            if count < 0 or width < 0 or count * width >= 1:
                raise ValueError(
                    f"{masks} * {share} must be at least 0 and below 1, or a whole clip could vanish, "
                    f"got {count} * {width}"
                )
        if self.time_mask_frames < 0:
            raise ValueError(f"time_mask_frames must be at least 0, got {self.time_mask_frames}")


def example_rng(seed: int, epoch: int, purpose: str, example_id: str | int) -> np.random.Generator:
    """Random numbers of one example, the same in every process, worker and order."""
    # blake2b: Python's hash() of a string differs from process to process.
    key = f"{seed} {epoch} {purpose} {example_id}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "little"))


@dataclass(frozen=True)
class Timing:
    """Silence in seconds before and after a clip, and how many times as fast all of that is played."""

    before: float = 0.0
    after: float = 0.0
    speed: float = 1.0

    def moved(self, seconds: float) -> float:
        """Where a place in the clip has gone."""
        return (self.before + seconds) / self.speed


UNCHANGED = Timing()


class Augment:
    """`AugmentArguments` applied to clips at one sample rate; equal (seed, epoch, example id) give equal changes."""

    def __init__(self, arguments: AugmentArguments, sample_rate: int, seed: int) -> None:
        self.arguments = arguments
        self.sample_rate = sample_rate
        self.seed = seed
        self._impulse_responses = _audio_files(arguments.impulse_response_files)
        self._noises = _audio_files(arguments.noise_files)

    def waveform(self, x: np.ndarray, epoch: int, example_id: str | int) -> np.ndarray:
        """A changed copy of samples (N,), or `x` itself where chance left it alone; longer or shorter if sped up."""
        a, rng = self.arguments, example_rng(self.seed, epoch, "waveform", example_id)
        timing = self._timing(rng)
        x = add_silence(x, *(round(seconds * self.sample_rate) for seconds in (timing.before, timing.after)))
        if timing.speed != 1:
            x = change_speed(x, timing.speed)
        if rng.random() < a.room_probability:
            x = reverberate(x, self._impulse_response(rng))
        if rng.random() < a.noise_probability:
            snr_db = _uniform(rng, a.noise_snr_db)
            x = add_noise(x, snr_db, rng, self._noise(len(x), rng) if self._noises else None)
        if rng.random() < a.band_limit_probability:
            low_hz, high_hz = _uniform(rng, a.band_limit_low_hz), _uniform(rng, a.band_limit_high_hz)
            x = band_limit(x, low_hz, high_hz, self.sample_rate)
        if rng.random() < a.telephone_probability:
            x = telephone(x, self.sample_rate)
        if rng.random() < a.codec_probability:
            x = low_bitrate_codec(x, self.sample_rate, rng)
        if rng.random() < a.gain_probability:
            x = change_gain(x, _uniform(rng, a.gain_db))
        return x

    def timing(self, epoch: int, example_id: str | int) -> Timing:
        """Where `waveform` moves what was heard when."""
        return self._timing(example_rng(self.seed, epoch, "waveform", example_id))

    def _timing(self, rng: np.random.Generator) -> Timing:
        a, before, after, speed = self.arguments, 0.0, 0.0, 1.0
        if rng.random() < a.silence_probability:
            before, after = (_uniform(rng, a.silence_seconds) for _ in range(2))
        if rng.random() < a.speed_probability:
            speed = _choice(rng, a.speed_factors)
        return Timing(before, after, speed)

    def features(self, features: Features, epoch: int, example_id: str | int) -> Features:
        """Features (T, D) with masks, or the same object where chance left it alone."""
        a, rng = self.arguments, example_rng(self.seed, epoch, "features", example_id)
        if rng.random() >= a.mask_probability:
            return features
        return spec_augment(
            features,
            rng,
            time_masks=a.time_masks,
            time_share=a.time_mask_share,
            time_frames=a.time_mask_frames,
            frequency_masks=a.frequency_masks,
            frequency_share=a.frequency_mask_share,
        )

    def _impulse_response(self, rng: np.random.Generator) -> np.ndarray:
        if self._impulse_responses:
            return _cached_impulse_response(_choice(rng, self._impulse_responses), self.sample_rate)
        low, high = self.arguments.room_seconds
        return image_source_response(rng, self.sample_rate, reverberation_seconds=(low, high))

    def _noise(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        """A random excerpt of a random noise file, without reading the rest of it."""
        path = _choice(rng, self._noises)
        seconds = samples / self.sample_rate
        latest = max(0.0, audio_info(path).seconds - seconds)
        return load_audio(path, self.sample_rate, start=rng.uniform(0, latest), seconds=seconds)


@lru_cache(maxsize=256)
def _cached_impulse_response(path: str, sample_rate: int) -> np.ndarray:
    return read_impulse_response(path, sample_rate)


def _audio_files(folder: str | None) -> list[str]:
    """The audio files below `folder` in a stable order; none without a folder."""
    if folder is None:
        return []
    files = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise ValueError(f"no {', '.join(AUDIO_SUFFIXES)} files below '{folder}'; check the folder")
    return files


def _coloured_noise(samples: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise (N,) with a power spectrum 1 / f**exponent and no constant part."""
    size = _power_of_two(samples + 1)
    spectrum = rng.standard_normal(size, dtype=np.float32).view(np.complex64)  # the bins 1 .. size / 2
    spectrum *= np.arange(1, size // 2 + 1, dtype=np.float32) ** np.float32(-exponent / 2)
    return np.fft.irfft(np.concatenate([np.zeros(1, np.complex64), spectrum]), size)[:samples].astype(np.float32)


def _uniform(rng: np.random.Generator, bounds: list[float]) -> float:
    low, high = bounds
    return rng.uniform(low, high)


def _choice(rng: np.random.Generator, options: list[Option]) -> Option:
    return options[int(rng.integers(len(options)))]


def _random_span(size: int, widest: int, rng: np.random.Generator) -> tuple[int, int]:
    """Start and end of a span of 0 to `widest` within range(size)."""
    width = int(rng.integers(widest + 1))
    start = int(rng.integers(size - width + 1))
    return start, start + width


def _energy(x: np.ndarray) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
