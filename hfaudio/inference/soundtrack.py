"""Music for a video: its length, its cuts, the tempo they suggest; and the video with new sound, pictures untouched.

Needs PyAV: pip install 'hfaudio[video]'.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hfaudio.audio.resample import resample
from hfaudio.text.prompts import TEMPOS

# Cuts a minute. A rule of thumb, measured on no listeners: films of today have shots of 4 to 6 s on average, those
# before 1960 of 8 to 11 s (Bordwell 2006, "The Way Hollywood Tells It"). What is cut faster than a shot in 3 s, as
# action is, gets fast music, what is cut slower than a shot in 8 s slow music.
FAST_CUTS, SLOW_CUTS = 60 / 3, 60 / 8

FRAME_SIZE, REGIONS = 64, 4  # pictures are reduced to 64 x 64 pixels, in 4 x 4 regions
MIN_SHOT_SECONDS = 0.3
# Chosen on 10 cuts in six clips of 2 to 25 s: the least of them changes the picture by 0.06, and all 10 times as much
# as pictures around them; what was no cut (fades, motion) by at most 0.043, and above 0.02 less than twice as much.
LEAST_CHANGE = 0.03  # of the range from black to white
CUT_FACTOR = 6.0
AROUND = 12  # pictures on either side, whose median a change is compared with: half a second
LENGTH_TOLERANCE = 0.25  # seconds that may be missing of what a header promises
BAR_DELAY = 2.0  # seconds of work before a progress bar appears

AUDIO_RATE = 48_000
AAC_BIT_RATE = 96_000  # a channel
WRITTEN_AS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # what holds AAC
# FFmpeg opens only what is named here: a playlist called .mp4 could make it read other files, or the network.
READ_AS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,wav,mp3,flac,aac"


@dataclass(frozen=True)
class SoundtrackPlan:
    """What a video asks of its music. `cuts`: seconds from its beginning; `tempo`: a band of TEMPOS."""

    seconds: float
    cuts: tuple[float, ...]
    cuts_per_minute: float
    tempo: str


def plan_soundtrack(video: Path) -> SoundtrackPlan:
    """Length, cuts and the tempo band that they suggest: more than 20 cuts a minute fast, fewer than 7.5 slow.

    Fades and dissolves are no cuts; a flash counts as one. Pictures are decoded one by one; two numbers of each stay.
    ValueError for a file that cannot be read or holds no pictures.
    """
    times, changes = [], []
    end = 0.0
    with _open_video(video) as (container, stream):
        seconds = float(container.duration / 1_000_000) if container.duration else None
        stream.thread_type = "AUTO"
        before = None
        with tqdm(total=seconds, unit="s", desc="looking for cuts", delay=BAR_DELAY, leave=False, disable=None) as bar:
            for frame in container.decode(stream):
                picture = _sorted_regions(frame)
                times.append(frame.time)
                changes.append(0.0 if before is None else _distance(before, picture))
                before = picture
                end = frame.time + _seconds(frame.duration, stream)
                bar.update(end - times[0] - bar.n)
        if not times:
            raise ValueError(f"{video} holds no pictures; check the file")
        _check_whole(container, stream, end - times[0])
    cuts = find_cuts(np.array(times) - times[0], np.array(changes))
    length = end - times[0]
    rate = 60 * len(cuts) / length
    return SoundtrackPlan(length, tuple(cuts.tolist()), rate, tempo_of(rate))


def tempo_of(cuts_per_minute: float) -> str:
    """The tempo band, one of TEMPOS, for so many cuts a minute."""
    return "fast" if cuts_per_minute > FAST_CUTS else "slow" if cuts_per_minute < SLOW_CUTS else "medium"


def with_tempo(prompt: str, tempo: str) -> str:
    """The prompt with a band's word before it ("flute tune" -> "slow flute tune"), unless it has a tempo word."""
    if tempo not in TEMPOS:
        raise ValueError(f"tempo must be one of {', '.join(TEMPOS)}, got {tempo!r}")
    known = {word for words in TEMPOS.values() for word in words}
    if known & set(re.findall(r"\w+", prompt.lower())):
        return prompt
    article, _, rest = prompt.partition(" ")
    return f"{article} {tempo} {rest}" if article.lower() in ("a", "an", "the") else f"{tempo} {prompt}"


def _sorted_regions(frame: Any) -> np.ndarray:
    """(regions, pixels, 3) of 8 bits: the colours of each region of a picture, each sorted by itself."""
    picture = frame.to_ndarray(width=FRAME_SIZE, height=FRAME_SIZE, format="rgb24", interpolation="AREA")
    side = FRAME_SIZE // REGIONS
    regions = picture.reshape(REGIONS, side, REGIONS, side, 3).swapaxes(1, 2)
    return np.sort(regions.reshape(REGIONS**2, side**2, 3), axis=1)


def _distance(before: np.ndarray, after: np.ndarray) -> float:
    """How much the histograms of two pictures' regions differ, 0 to 1 (black to white).

    The earth mover's distance, mean over regions and colours. Of sorted values it is the mean of their differences,
    and unlike a count of bins that changed it grows slowly where light does.
    """
    return float(np.abs(before.astype(np.int16) - after).mean()) / 255


def find_cuts(times: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Times of the pictures (n,) that begin a shot; `changes` (n,) is the distance of each to the one before.

    Region histograms did best of the simple measures that Boreczky and Rowe compared (1996, "Comparison of video shot
    boundary detection techniques"). Their threshold was fixed; here a cut stands out from its own surroundings too,
    so that fades and fast motion have none: it is at least LEAST_CHANGE, CUT_FACTOR times the median of the pictures
    around it, and the largest within MIN_SHOT_SECONDS.
    """
    cuts = []
    for place in np.flatnonzero(changes >= LEAST_CHANGE):
        around = changes[max(0, place - AROUND) : place + AROUND + 1]
        first = np.searchsorted(times, times[place] - MIN_SHOT_SECONDS, side="right")
        last = np.searchsorted(times, times[place] + MIN_SHOT_SECONDS)
        if changes[place] >= CUT_FACTOR * np.median(around) and place == first + changes[first:last].argmax():
            cuts.append(times[place])
    return np.array(cuts)


def check_output(video: Path, output: Path) -> None:
    """ValueError unless `mux` can write `output`, before the work that leads to it."""
    if output.suffix.lower() not in WRITTEN_AS:
        raise ValueError(f"{output} must end in one of {', '.join(WRITTEN_AS)}, which hold a video with AAC sound")
    if output.resolve() == video.resolve():
        raise ValueError(f"{output} is the video itself, which is read while it is written; give another name")
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent} to write to; make it first")


def mux(video: Path, samples: np.ndarray, sample_rate: int, output: Path) -> None:
    """Write the video with samples (C, N) as its only sound, AAC at 48 kHz; its pictures are copied as they are.

    Sound that is shorter than the video is followed by silence, longer sound is cut; what is beyond [-1, 1] is
    clipped. Subtitles and further streams are left out. `output` appears when it is whole. ValueError where
    `check_output` raises it, for a video that cannot be read, and for a container that cannot hold its pictures.
    """
    check_output(video, output)
    if samples.ndim != 2 or len(samples) not in (1, 2) or not np.isfinite(samples).all():
        raise ValueError(f"expected finite samples (C, N) of one or two channels, got {samples.shape}")
    sound = np.clip(resample(samples.astype(np.float32), sample_rate, AUDIO_RATE), -1, 1)
    unfinished = output.with_name(f"{output.stem}.unfinished{output.suffix}")
    av = _pyav()
    try:
        with _open_video(video) as (source, pictures):
            with av.open(str(unfinished), "w", format=WRITTEN_AS[output.suffix.lower()]) as target:
                _copy(source, pictures, sound, target)
        os.replace(unfinished, output)
    finally:
        unfinished.unlink(missing_ok=True)


def _copy(source: Any, pictures: Any, sound: np.ndarray, target: Any) -> None:
    """The packets of a video stream and, beside them, sound (C, N) for as long as they last."""
    av = _pyav()
    layout = "mono" if len(sound) == 1 else "stereo"
    try:
        copied = target.add_stream_from_template(pictures)
        audio = target.add_stream("aac", rate=AUDIO_RATE, layout=layout, bit_rate=AAC_BIT_RATE * len(sound))
        target.start_encoding()
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(
            f"{target.format.name} cannot hold pictures coded as {source.name} is, {pictures.codec_context.name} "
            f"({error}); write a .mkv, which holds all"
        ) from error
    written = 0

    def write_sound(until: float) -> None:
        """Sound, then silence, up to this time of the copy, in seconds."""
        nonlocal written
        count = round(until * AUDIO_RATE) - written
        if count <= 0:
            return
        piece = sound[:, written : written + count]
        piece = np.pad(piece, ((0, 0), (0, count - piece.shape[1])))
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = AUDIO_RATE, Fraction(1, AUDIO_RATE), written
        target.mux(audio.encode(frame))
        written += count

    end = 0.0
    for packet in _timed_packets(source, pictures):
        end = max(end, float(packet.pts * packet.time_base) + _seconds(packet.duration, pictures))
        write_sound(float(packet.dts * packet.time_base))  # side by side, so that FFmpeg need not hold packets back
        packet.stream = copied
        target.mux(packet)
    _check_whole(source, pictures, end)
    write_sound(end)
    target.mux(audio.encode(None))


def _timed_packets(source: Any, pictures: Any) -> Iterator[Any]:
    """The packets of a video stream, shown from time 0 on, each with the time at which it is decoded.

    Matroska does not keep that time, and FFmpeg cannot tell it of the first packets where pictures are reordered: they
    are a picture apart and before the first known one.
    """
    start = pictures.start_time or 0
    step = max(1, round(_seconds(None, pictures) / pictures.time_base))
    untimed: list[Any] = []
    for packet in source.demux(pictures):
        if packet.dts is None and packet.size:
            untimed.append(packet)
            continue
        known = packet.dts if packet.size else min((p.pts for p in untimed), default=0)
        for place, earlier in enumerate(untimed):
            earlier.dts = known - step * (len(untimed) - place)
        for timed in [*untimed, packet] if packet.size else untimed:  # the demuxer's last packet is empty
            timed.pts, timed.dts = timed.pts - start, timed.dts - start
            yield timed
        untimed = []


def _seconds(duration: int | None, pictures: Any) -> float:
    """Of a picture, which where the file does not say is that of the mean rate."""
    return float(duration * pictures.time_base if duration else 1 / pictures.average_rate)


def _check_whole(container: Any, pictures: Any, seconds: float) -> None:
    """ValueError where fewer seconds of pictures were there than the header of the stream promises."""
    promised = float((pictures.duration or 0) * pictures.time_base)
    if seconds < promised - LENGTH_TOLERANCE:
        raise ValueError(
            f"{container.name}: the header promises {promised:.2f} s, {seconds:.2f} s could be read; copy it again"
        )


@contextmanager
def _open_video(video: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first video stream; covers of recordings are none. ValueError where there is none."""
    av = _pyav()
    if not video.is_file():
        raise ValueError(f"{video}: there is no such file; check the path")
    unreadable = f"{video} is no video that can be read, or a damaged one; check the file or copy it again"
    try:
        container = av.open(str(video), options={"format_whitelist": READ_AS, "protocol_whitelist": "file"})
    except av.FFmpegError as error:
        raise ValueError(f"{unreadable} ({error.strerror})") from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise ValueError(f"{video} has no video stream; give a video, such as mp4, mkv, webm or avi")
        try:
            yield container, streams[0]
        except av.InvalidDataError as error:  # in the middle
            raise ValueError(f"{unreadable} ({error.strerror})") from error


def _pyav() -> Any:
    """The module, optional and 0.1 s to import; ValueError where it is absent."""
    try:
        import av
    except ImportError as error:
        raise ValueError(
            "videos are read and written by PyAV, which is absent: pip install 'hfaudio[video]'"
        ) from error
    return av
