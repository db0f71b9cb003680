"""Audio from files, bytes and dataset rows as float32, mono or stereo, at a wanted rate; all audio is opened here.

wav, flac, ogg (Vorbis, Opus) and mp3 are read by libsndfile; mp4, m4a, webm, mkv and raw aac by PyAV, an optional
dependency: `pip install 'hfaudio[video]'`. Neither needs an FFmpeg program or torchcodec. The reader is chosen by the
first bytes of the content, never by the name, so a text file called .wav is "corrupt" everywhere.
"""

import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile

from hfaudio.audio.headers import states_length, with_length
from hfaudio.audio.resample import resample_blocks

Reason = Literal["corrupt", "empty", "not finite", "unsupported", "missing"]
Source = str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, Any]

BLOCK_SECONDS = 30.0
MP3_LENGTH_TOLERANCE = 3 * 1152  # samples: the delay and padding of encoders that do not write theirs down
MP3_PREROLL = 5 * 1152  # samples; after a seek the first frames lack the bits that earlier ones hold for them
WAV_LENGTH_TOLERANCE = 1024  # bytes; headers wrong by their own 44 bytes exist
WAV_LENGTH_UNKNOWN = 0x7FFF_F000  # bytes; a wav written to a pipe states this (sox) or more (arecord, ffmpeg)
CUT_CHUNK = re.compile(r"(?:data|SSND) *: (\d+) \(should be (\d+)\)")  # libsndfile's log of a cut wav or aiff
MP4_LENGTH_TOLERANCE = 0.25  # seconds; encoder delay and padding are below 0.1 s
SAVED_AS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
}


class AudioError(ValueError):
    """Audio that cannot be used; `reason` is what skipped rows are counted by.

    "corrupt": no audio file, or a damaged or truncated one. "empty": no samples. "not finite": NaN or infinity.
    "unsupported": readable only by PyAV, which is absent, or not at all. "missing": no such file.
    """

    def __init__(self, name: str, reason: Reason, detail: str) -> None:
        super().__init__(f"{name}: {reason}: {detail}")
        self.name = name
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, Reason, str]]:
        return AudioError, (self.name, self.reason, self.detail)  # it travels back from DataLoader workers


@dataclass(frozen=True)
class AudioInfo:
    """What the header says; `sample_rate` in Hz."""

    sample_rate: int
    channels: int
    seconds: float


def load_audio(
    source: Source, sample_rate: int = 16_000, *, start: float = 0.0, seconds: float | None = None, channels: int = 1
) -> np.ndarray:
    """Mono float32 samples (N,) at `sample_rate`: the mean of the channels, from `start` on, at most `seconds` long.

    With `channels=2`, stereo (2, N): as it is, or mono twice; a source of more channels is then "unsupported".
    `source` is a path, the bytes of a file, a seekable binary file (read from its first byte), an undecoded row of
    `datasets` `{"bytes", "path"}`, or a decoded one `{"array", "sampling_rate"}` with (N,) or (channels, N) floats.
    The excerpt is cut first and resampled then, as if silence surrounded it. Samples of float files that lie outside
    [-1, 1] stay as they are. One sample is audio; none, and all that AudioError lists, raises it.
    """
    if not (start >= 0 and (seconds is None or seconds > 0)):
        raise ValueError(f"start must be >= 0 and seconds > 0, got start={start}, seconds={seconds}")
    if channels not in (1, 2):
        raise ValueError(f"channels must be 1 (their mean) or 2 (stereo), got {channels}")
    with _open(source) as recording:
        if channels == 2 and recording.channels > 2:
            detail = f"stereo was asked of {recording.channels} channels; load with channels=1, or mix the file to two"
            raise AudioError(recording.name, "unsupported", detail)
        first = round(start * recording.sample_rate)
        frames = None if seconds is None else max(1, round(seconds * recording.sample_rate))
        blocks = _finite(recording.read(first, frames, channels), recording.name)
        pieces = list(resample_blocks(blocks, recording.sample_rate, sample_rate))
        if not pieces:
            raise AudioError(recording.name, "empty", f"no samples from {start:g} s on; leave the clip out")
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)


def stream_audio(
    source: Source, sample_rate: int = 16_000, *, block_seconds: float = BLOCK_SECONDS
) -> Iterator[np.ndarray]:
    """Consecutive mono float32 blocks (block_seconds * sample_rate,), the last one shorter, of a file of any length.

    Their concatenation is `load_audio(source, sample_rate)`; only about two blocks are in memory, and of an mp3
    that does not state its length the encoded bytes.
    """
    size = round(block_seconds * sample_rate)
    if size < 1:
        raise ValueError(f"block_seconds must hold at least one sample at {sample_rate} Hz, got {block_seconds}")
    with _open(source) as recording:
        blocks = _finite(recording.read(0, None, 1), recording.name)
        empty = True
        for block in _regroup(resample_blocks(blocks, recording.sample_rate, sample_rate), size):
            empty = False
            yield block
        if empty:
            raise AudioError(recording.name, "empty", "the file holds no samples; leave it out")


def audio_info(source: Source) -> AudioInfo:
    """Rate, channels and the length that `load_audio` will deliver; only a flac written to a pipe is decoded for it.

    Exact but for mp4, webm and mkv, where it is off by one packet at most: 0.02 s, at 16 kHz 0.064 s. A file of no
    samples and a wav cut short raise AudioError; damage that only the decoder meets is left to `load_audio`.
    For 8 s at 16 kHz: wav 0.05 ms (decoded 0.7), flac 0.1 (2.0), opus 0.16 (12), vorbis 0.5 (3.8), mp3 0.1 (2.9) and
    0.3 without header, mp4 0.4 (5), aac 0.9 (4.8), webm 1.5 (40).
    """
    with _open(source) as recording:
        frames = recording.count()
        if not frames:
            raise AudioError(recording.name, "empty", "the file holds no samples; leave it out")
        return AudioInfo(recording.sample_rate, recording.channels, frames / recording.sample_rate)


def save_audio(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int) -> None:
    """Write (N,) or (channels, N) samples as 16-bit .wav or .flac, Vorbis .ogg or .opus, by the suffix of `path`.

    Samples beyond [-1, 1] are clipped.
    """
    path = Path(path)
    if path.suffix.lower() not in SAVED_AS:
        raise ValueError(f"cannot write '{path.name}': the suffix must be one of {', '.join(SAVED_AS)}")
    if not np.isfinite(samples).all():
        raise ValueError(f"cannot write '{path.name}': samples hold NaN or infinity")
    container, codec = SAVED_AS[path.suffix.lower()]
    if codec == "OPUS" and sample_rate not in (8_000, 12_000, 16_000, 24_000, 48_000):
        raise ValueError(f"Opus has no rate of {sample_rate} Hz; resample to 48000 Hz with hfaudio.audio.resample")
    frames = np.asarray(samples, dtype=np.float32).T
    channels = 1 if frames.ndim == 1 else frames.shape[1]
    with soundfile.SoundFile(path, "w", sample_rate, channels, subtype=codec, format=container) as file:
        # In one call the Vorbis encoder of libsndfile 1.2.2 crashes the process at three minutes of 16 kHz.
        for offset in range(0, len(frames), 1 << 16):
            file.write(frames[offset : offset + (1 << 16)])


@dataclass(frozen=True)
class _Recording:
    """An open source, to be used once.

    `read(first, frames, channels)` yields float32 blocks (n,) for one channel and (2, n) for two, `frames` None
    meaning up to the end; `count()` is the number of frames that it would yield in all, from headers where they tell.
    """

    name: str
    sample_rate: int
    channels: int
    count: Callable[[], int]
    read: Callable[[int, int | None, int], Iterator[np.ndarray]]


class _ForwardFile(soundfile.SoundFile):
    """A SoundFile read in one direction.

    After each read soundfile seeks to where it already is. That fails in files of unknown length and disturbs the
    mp3 decoder (differences of 3e-4 at block borders); it does not seek in files that are not seekable.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _open(source: Source) -> Iterator[_Recording]:
    if isinstance(source, Mapping):
        if "array" in source:
            yield _decoded(source)
            return
        content, path = source.get("bytes"), source.get("path")
        if content is None and path is None:
            raise AudioError("<row>", "missing", "the row has neither bytes nor a path; leave it out")
        name = str(path or "<bytes>")
        file = io.BytesIO(content) if content is not None else _open_path(str(path))
    elif isinstance(source, bytes):
        name, file = "<bytes>", io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        name, file = os.fspath(source), _open_path(source)
    elif hasattr(source, "read"):
        name, file = "<file>", source
    else:
        raise TypeError(
            f"expected a path, bytes, a binary file or a row with bytes, path or array, got {type(source).__name__}; "
            "of a dataset, take the undecoded column: dataset.cast_column('audio', Audio(decode=False))"
        )
    try:
        file.seek(0)
        head = file.read(12)
        file.seek(0)
        if not head:
            raise AudioError(name, "empty", "the file has no bytes; leave it out")
        container = _pyav_container(head)
        with _open_pyav(file, name, container) if container else _open_soundfile(file, name) as recording:
            yield recording
    finally:
        if file is not source:
            file.close()


def _open_path(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        return open(path, "rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise AudioError(os.fspath(path), "missing", "there is no such file; check the path") from error


def _pyav_container(head: bytes) -> str | None:
    """FFmpeg's name of a container libsndfile cannot read, from a file's first 12 bytes.

    Naming it keeps FFmpeg from guessing: data from strangers must not reach its playlist or network readers.
    """
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"  # webm too
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"  # an ADTS frame: as mp3's, but with layer bits 00
    return None


def _decoded(row: Mapping[str, Any]) -> _Recording:
    array = np.asarray(row["array"])
    name = str(row.get("path") or "<array>")
    if array.dtype.kind != "f" or array.ndim not in (1, 2):
        detail = f"expected floats (N,) or (channels, N), got {array.dtype} {array.shape}"
        raise AudioError(name, "unsupported", detail + "; divide 16-bit integers by 32768")
    samples = np.atleast_2d(array)

    def read(first: int, frames: int | None, channels: int) -> Iterator[np.ndarray]:
        yield from _after(0, 0, _mixed(samples[:, first:][:, :frames], channels))

    return _Recording(name, int(row["sampling_rate"]), len(samples), lambda: samples.shape[1], read)


@contextmanager
def _open_soundfile(file: BinaryIO, name: str) -> Iterator[_Recording]:
    sound = _sound_file(file, name)
    mp3 = sound.format in ("MP3", "MPEG")
    if mp3 and not states_length(file):
        file.seek(0)
        sound = _sound_file(io.BytesIO(with_length(file.read())), name)
    cut = CUT_CHUNK.search(sound.extra_info)
    if cut and WAV_LENGTH_TOLERANCE < int(cut[1]) - int(cut[2]) and int(cut[1]) < WAV_LENGTH_UNKNOWN:
        detail = f"the header promises {cut[1]} bytes of samples, the file has {cut[2]}; copy it again"
        raise AudioError(name, "corrupt", detail)
    promised = None if sound.frames == np.iinfo(np.int64).max else sound.frames  # None: a flac written to a pipe
    shortest = 0 if promised is None else promised - (MP3_LENGTH_TOLERANCE if mp3 else 0)
    block_frames = round(BLOCK_SECONDS * sound.samplerate)

    def read(first: int, frames: int | None, channels: int) -> Iterator[np.ndarray]:
        position = 0
        if first and promised is not None:
            position = sound.seek(min(max(0, first - (MP3_PREROLL if mp3 else 0)), promised))
        end = math.inf if frames is None else first + frames
        while position < end:
            want = int(min(block_frames, end - position))
            block = sound.read(want, dtype="float32", always_2d=True)
            yield from _after(first, position, _mixed(block.T, channels))
            position += len(block)
            if len(block) < want:
                break
        if position < min(end, shortest):
            detail = f"the header promises {promised} frames, {position} could be read; copy it again"
            raise AudioError(name, "corrupt", detail)

    def count() -> int:
        return sum(map(len, read(0, None, 1))) if promised is None else promised

    with sound:
        try:
            yield _Recording(name, sound.samplerate, sound.channels, count, read)
        except soundfile.LibsndfileError as error:
            raise AudioError(name, "corrupt", f"{error}; the file is damaged, copy it again") from error


def _sound_file(file: BinaryIO, name: str) -> soundfile.SoundFile:
    try:
        return _ForwardFile(file)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless file named .raw
        detail = "the content is no wav, flac, ogg, mp3, mp4, webm or aac; check the file or leave it out"
        raise AudioError(name, "corrupt", detail) from error


@contextmanager
def _open_pyav(file: BinaryIO, name: str, container_format: str) -> Iterator[_Recording]:
    try:
        import av  # optional, and 0.1 s to import
    except ImportError as error:
        detail = f"{container_format} is read by PyAV: pip install 'hfaudio[video]', or convert the file to flac"
        raise AudioError(name, "unsupported", detail) from error
    try:
        with av.open(file, mode="r", format=container_format) as container:
            if not container.streams.audio:
                reason: Reason = "empty" if container.streams.video else "corrupt"
                raise AudioError(name, reason, "the file has no audio stream; leave it out")
            stream = container.streams.audio[0]
            rate = stream.codec_context.sample_rate
            promised = None  # the length of raw aac is a guess, webm gives that of the whole file, pictures included
            if container_format == "mp4" and stream.duration and stream.time_base:
                promised = round(float(stream.duration * stream.time_base) * rate)

            def read(first: int, frames: int | None, channels: int) -> Iterator[np.ndarray]:
                """From the beginning, dropping what comes before `first`: seeking in these files is not exact."""
                position = 0
                end = math.inf if frames is None else first + frames
                resampler = av.AudioResampler(format="fltp", rate=rate)  # only the sample format changes
                for frame in container.decode(stream):
                    for part in resampler.resample(frame):
                        wanted = part.to_ndarray()[:, : None if frames is None else int(end) - position]
                        yield from _after(first, position, _mixed(wanted, channels))
                        position += wanted.shape[1]
                    if position >= end:
                        return
                if promised is not None and position < min(end, promised - MP4_LENGTH_TOLERANCE * rate):
                    detail = f"the header promises {promised} frames, {position} could be read; copy it again"
                    raise AudioError(name, "corrupt", detail)

            def count() -> int:
                """As promised, else from the start, behind the encoder's delay, to the end of the last packet."""
                if promised is not None:
                    return promised
                ends = [
                    packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None
                ]
                ticks = max(ends, default=0) - (stream.start_time or 0)
                return round(float(ticks * (stream.time_base or 0)) * rate)

            yield _Recording(name, rate, stream.codec_context.channels, count, read)
    except av.FFmpegError as error:
        raise AudioError(name, "corrupt", f"{error}; the file is damaged, copy it again") from error


def _mixed(block: np.ndarray, channels: int) -> np.ndarray:
    """Float32 copy of samples (C, n): their mean (n,), or for two channels stereo (2, n) from C = 1 or 2."""
    if channels == 1:
        return block.mean(axis=0, dtype=np.float32)
    return np.array(np.broadcast_to(block, (2, block.shape[1])), dtype=np.float32, order="C")


def _after(first: int, position: int, block: np.ndarray) -> Iterator[np.ndarray]:
    """The part of `block`, which begins at `position`, that lies at or after `first`; nothing if that is empty."""
    part = block[..., max(0, first - position) :]
    if part.shape[-1]:
        yield part


def _finite(blocks: Iterable[np.ndarray], name: str) -> Iterator[np.ndarray]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(name, "not finite", "samples hold NaN or infinity; repair the file or leave it out")
        yield block


def _regroup(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of `size`, the last one shorter."""
    waiting: list[np.ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(waiting)
            whole = count // size * size
            yield from np.split(joined[:whole], whole // size)
            waiting, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)
