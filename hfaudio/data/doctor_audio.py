"""What one pass over a recording tells: format, level, silence, clipping, and fingerprints that find copies of it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hfaudio.audio.io import audio_info, stream_audio
from hfaudio.data.datasets import NO_AUDIO

FRAME_SECONDS = 0.01
FRAMES_PER_BLOCK = 3000  # 30 s are in memory at once

# 0.99997 is the largest positive sample of 16 bit; lossy codecs ripple around it. The full scale of 8 bit (0.992) and
# of mu-law (0.98) lies below: clipping there is not found, nor clipping that was turned down afterwards.
FULL_SCALE = 0.999
CLIPPED_SAMPLES = 8  # a clip normalised to its peak touches full scale with one to three samples
CLIPPED_SHARE = 1e-4  # of the samples; 16 in ten seconds at 16 kHz

SILENT_DB = -60.0  # dBFS, of the loudest frame; a whisper into a good microphone reaches -45
EDGE_DB = -35.0  # under the loudest frame; weak consonants lie about 25 to 30 dB under vowels

# The shape is taken from two bands that survive 8 kHz, mp3 and Opus, which removes rumble. The edges lie between the
# 50 Hz bins of a 20 ms window, so that a window of 19.95 ms (22,050 Hz) has the same bins in each band.
BANDS = ((225, 975), (975, 2975))  # Hz
BAND_STEPS = 32  # numbers for each band, one byte each
SHAPE_SIZE = BAND_STEPS * len(BANDS)
SHAPE_REACH = 2.5  # standard deviations of the energy over time that the shape spans to both sides


@dataclass(frozen=True)
class Clip:
    """A readable recording. Lengths in seconds, `loudest_db` in dB under full scale (the loudest 10 ms, RMS).

    `fingerprint` is a hash of the decoded samples: the same for copies in wav, flac or any other lossless file,
    whatever its tags. `spread` and `shape` stay nearly the same when a copy is coded by mp3 or Opus, resampled, made
    louder or padded with silence: the standard deviation in seconds of the energy's distribution over time, and that
    distribution in units of `spread` around its mean, as SHAPE_SIZE signed bytes. Zeros for a silent clip.
    """

    encoding: str
    sample_rate: int
    channels: int
    seconds: float
    leading_silence: float
    trailing_silence: float
    loudest_db: float
    samples: int
    full_scale_samples: int
    fingerprint: int
    spread: float
    shape: bytes

    @property
    def silent(self) -> bool:
        """Whether nothing can be heard in it."""
        return self.loudest_db < SILENT_DB

    @property
    def clipped(self) -> bool:
        """Whether its peaks are cut off, and not only normalised to full scale."""
        return self.full_scale_samples >= max(CLIPPED_SAMPLES, CLIPPED_SHARE * self.samples)


def measure_clip(audio: Mapping[str, Any] | None) -> Clip:
    """Measures of an undecoded row's audio, channels averaged, at its own sample rate; AudioError if it is unreadable.

    It is decoded once, or twice where the header has no length (piped flac, webm).
    """
    audio = audio or NO_AUDIO
    info = audio_info(audio)
    frame = max(1, round(FRAME_SECONDS * info.sample_rate))
    digest = hashlib.blake2b(digest_size=8)
    samples = full_scale = 0
    energies, bands = [], []
    for block in stream_audio(audio, info.sample_rate, block_seconds=FRAMES_PER_BLOCK * frame / info.sample_rate):
        digest.update(block.tobytes())
        samples += len(block)
        full_scale += int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
        energies.append(np.add.reduceat(np.square(block, dtype=np.float64), np.arange(0, len(block), frame)))
        bands.append(band_energies(block, frame, info.sample_rate))
    energy = np.concatenate(energies)
    seconds, frame_seconds = samples / info.sample_rate, frame / info.sample_rate
    loudest_db = float(10 * np.log10(max(energy.max() / frame, 1e-20)))
    silent = loudest_db < SILENT_DB
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (EDGE_DB / 10))
    spread, shape = (0.0, bytes(SHAPE_SIZE)) if silent else energy_shape(np.concatenate(bands))
    return Clip(
        encoding=encoding(_head(audio)),
        sample_rate=info.sample_rate,
        channels=info.channels,
        seconds=seconds,
        leading_silence=seconds if silent else float(loud[0]) * frame_seconds,
        trailing_silence=0.0 if silent else max(0.0, seconds - float(loud[-1] + 1) * frame_seconds),
        loudest_db=loudest_db,
        samples=samples,
        full_scale_samples=full_scale,
        fingerprint=int.from_bytes(digest.digest()),
        spread=spread * frame_seconds,
        shape=shape,
    )


def band_energies(samples: np.ndarray, frame: int, sample_rate: int) -> np.ndarray:
    """Energies (T, len(BANDS)) of samples (N,) in windows of two frames around each of the T = ceil(N / frame)."""
    count = -(-len(samples) // frame)
    padded = np.pad(samples, (frame // 2, count * frame - len(samples) + frame - frame // 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * frame)[::frame]
    window = np.sin(np.pi * (np.arange(2 * frame) + 0.5) / (2 * frame))  # overlapping squares add up to one everywhere
    spectra = np.fft.rfft(windows * window.astype(np.float32))
    powers = np.square(spectra.real) + np.square(spectra.imag)
    hertz = np.fft.rfftfreq(2 * frame, 1 / sample_rate)
    return np.stack([powers[:, (low <= hertz) & (hertz < high)].sum(axis=1) for low, high in BANDS], axis=1)


def energy_shape(energies: np.ndarray) -> tuple[float, bytes]:
    """Standard deviation in frames and shape of energies (T, len(BANDS)) over time; (0.0, zeros) if there are none.

    Mean and deviation of the distribution place the shape, so that silence before and after does not matter.
    """
    if energies.sum() <= 0:
        return 0.0, bytes(SHAPE_SIZE)
    shares = energies / energies.sum()
    middles = np.arange(len(shares)) + 0.5
    mean = shares.sum(axis=1) @ middles
    spread = float(np.sqrt(shares.sum(axis=1) @ (middles - mean) ** 2 + 1 / 12))  # 1/12: a frame is not a point
    edges = mean + spread * np.linspace(-SHAPE_REACH, SHAPE_REACH, BAND_STEPS + 1)
    cumulated = np.concatenate([np.zeros((1, len(BANDS))), np.cumsum(shares, axis=0)])
    masses = [np.diff(np.interp(edges, np.arange(len(cumulated)), band)) for band in cumulated.T]
    shape = np.sqrt(np.maximum(np.concatenate(masses), 0))  # amplitudes: loud vowels weigh less than in energies
    shape -= shape.mean()
    return spread, np.round(127 * shape / max(np.abs(shape).max(), 1e-9)).astype(np.int8).tobytes()


def similar_pairs(
    spreads: np.ndarray, shapes: np.ndarray, *, max_spread_change: float, min_similarity: float, block: int = 1024
) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows whose spreads (N,) differ by at most a share and whose shapes (N, SHAPE_SIZE) correlate so much.

    Rows in order of their spread are compared with the next ones only, block by block: of a million rows with
    spreads of 0.5 to 3 s about 1 % of the pairs. Speed: 7 s for 300,000 rows on one core.
    """
    order = np.argsort(spreads, kind="stable")
    sorted_spreads = spreads[order]
    for start in range(0, len(order), block):
        rows = np.arange(start, min(start + block, len(order)))
        limits = sorted_spreads[rows] * (1 + max_spread_change)
        others = np.arange(start, np.searchsorted(sorted_spreads, limits[-1], side="right"))
        similarity = _unit(shapes[order[rows]]) @ _unit(shapes[order[others]]).T
        close = (similarity >= min_similarity) & (sorted_spreads[others] <= limits[:, None])
        for row, other in zip(*np.nonzero(close & (others > rows[:, None])), strict=True):
            first, second = sorted((int(order[rows[row]]), int(order[others[other]])))
            yield first, second, float(similarity[row, other])


def encoding(head: bytes) -> str:
    """Container and codec by the first 64 bytes of a file, such as "wav pcm 16 bit" or "ogg opus"; else "other"."""
    if head[:4] in (b"RIFF", b"RF64") and (place := head.find(b"fmt ")) > 0 and len(head) >= place + 24:
        tag, bits = (int.from_bytes(head[place + at : place + at + 2], "little") for at in (8, 22))
        kinds = {1: "pcm", 3: "float", 6: "a-law", 7: "mu-law", 0xFFFE: "extensible"}
        return f"wav {kinds.get(tag, f'codec {tag}')} {bits} bit"
    if head[:4] == b"OggS":
        return "ogg opus" if b"OpusHead" in head else "ogg vorbis" if b"vorbis" in head else "ogg"
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        return "mp3"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if head[4:8] == b"ftyp":
        return "mp4"
    return {b"fLaC": "flac", b"\x1aE\xdf\xa3": "webm"}.get(head[:4], "other")


def _head(audio: Mapping[str, Any]) -> bytes:
    if audio["bytes"] is not None:
        return bytes(audio["bytes"][:64])
    with open(audio["path"], "rb") as file:
        return file.read(64)


def _unit(shapes: np.ndarray) -> np.ndarray:
    vectors = shapes.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
