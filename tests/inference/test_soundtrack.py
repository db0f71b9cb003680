"""Videos made here, of cuts at known times; what is muxed is read back packet by packet and sample by sample."""

import sys
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest

from hfaudio.audio.io import load_audio, save_audio
from hfaudio.inference.soundtrack import check_output, find_cuts, mux, plan_soundtrack, tempo_of, with_tempo

RATE, SIZE = 25, 64  # pictures a second; pixels


def write_video(
    file: Path, pictures: Iterable[np.ndarray], codec: str = "mpeg4", b_frames: int = 0, first: int = 0
) -> Path:
    """Pictures (64, 64, 3) at 25 a second, the first one at time `first` / 25."""
    with av.open(str(file), "w", options={"movflags": "faststart"} if file.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=RATE, options={"preset": "ultrafast"} if codec == "libx264" else {})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.max_b_frames = b_frames
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = first + number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file


def shot(seconds: float, colour: tuple[int, int, int], rng: np.random.Generator) -> list[np.ndarray]:
    """A square moves up and down over a background, under noise that is drawn anew for every picture."""
    pictures = []
    for number in range(round(seconds * RATE)):
        picture = np.full((SIZE, SIZE, 3), colour, np.int16)
        place = abs(2 * number % 80 - 40)
        picture[place : place + 16, 20:36] = 255 - picture[place : place + 16, 20:36]
        picture += rng.integers(-20, 21, picture.shape, dtype=np.int16)
        pictures.append(picture.clip(0, 255).astype(np.uint8))
    return pictures


def film(*seconds: float) -> list[np.ndarray]:
    """Shots of so many seconds, neighbours in different colours."""
    rng = np.random.default_rng(0)
    colours = [(200, 60, 40), (40, 70, 190), (60, 150, 60), (25, 25, 30)]
    return [picture for n, s in enumerate(seconds) for picture in shot(s, colours[n % 4], rng)]


def packets(file: Path) -> list[tuple[bytes, float, float]]:
    """Content, and the time at which it is shown, of the pictures' packets; and for how long."""
    with av.open(str(file)) as container:
        return [
            (bytes(p), float(p.pts * p.time_base), float((p.duration or 0) * p.time_base))
            for p in container.demux(video=0)
            if p.size
        ]


def clicks(seconds: float, rate: int, channels: int) -> np.ndarray:
    """(C, N): a short one in the middle of every second."""
    samples = np.zeros((channels, round(seconds * rate)), np.float32)
    samples[:, rate // 2 :: rate] = 0.9
    return samples


@pytest.mark.parametrize(("ending", "codec", "b_frames"), [(".mp4", "mpeg4", 0), (".mkv", "libx264", 2)])
def test_cuts_are_found_where_they_are(tmp_path: Path, ending: str, codec: str, b_frames: int) -> None:
    file = write_video(tmp_path / f"film{ending}", film(1.2, 0.6, 2.0, 1.0, 1.2), codec, b_frames)
    plan = plan_soundtrack(file)
    assert plan.seconds == pytest.approx(6.0, abs=0.01)
    np.testing.assert_allclose(plan.cuts, [1.2, 1.8, 3.8, 4.8], atol=0.002)  # mkv counts milliseconds
    assert plan.cuts_per_minute == pytest.approx(40, abs=0.1)
    assert plan.tempo == "fast"


def test_pictures_with_the_same_colours_in_other_places_differ(tmp_path: Path) -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[:, 32:] = 200
    file = write_video(tmp_path / "film.mp4", [picture] * 25 + [picture[:, ::-1]] * 25)
    assert plan_soundtrack(file).cuts == pytest.approx((1.0,))


def test_times_count_from_the_first_picture(tmp_path: Path) -> None:
    plan = plan_soundtrack(write_video(tmp_path / "late.mp4", film(1.0, 1.0), first=50))
    assert plan.seconds == pytest.approx(2.0)
    assert plan.cuts == pytest.approx((1.0,))


def test_what_is_no_cut_is_not_found(tmp_path: Path) -> None:
    """A fade from black to white in 1.6 s and back, noise, and a flash, which begins and ends within 0.3 s: one."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 40)
    fade = [np.full((SIZE, SIZE, 3), level, np.uint8) for level in np.concatenate([ramp, ramp[::-1]])]
    noise = list(rng.integers(0, 256, (50, SIZE, SIZE, 3), dtype=np.uint8))
    assert plan_soundtrack(write_video(tmp_path / "fade.mp4", fade)).cuts == ()
    assert plan_soundtrack(write_video(tmp_path / "noise.mp4", noise)).cuts == ()
    still = plan_soundtrack(write_video(tmp_path / "still.mp4", film(2.0)))
    assert still.cuts == () and still.tempo == "slow"
    flash = film(2.0)
    flash[30:33] = [np.full((SIZE, SIZE, 3), 255, np.uint8)] * 3
    assert len(plan_soundtrack(write_video(tmp_path / "flash.mp4", flash)).cuts) == 1


def test_a_cut_stands_out_from_its_surroundings() -> None:
    times = np.arange(100) / RATE
    calm = np.full(100, 0.005)
    calm[[20, 60]] = 0.04
    np.testing.assert_allclose(find_cuts(times, calm), [0.8, 2.4])
    assert not len(find_cuts(times, calm / 2))  # too small a change
    wild = np.full(100, 0.03)
    wild[[20, 60]] = [0.1, 0.3]
    np.testing.assert_allclose(find_cuts(times, wild), [2.4])
    close = calm.copy()
    close[24] = 0.06  # 0.16 s behind another: the larger one
    np.testing.assert_allclose(find_cuts(times, close), [0.96, 2.4])


def test_tempo_follows_the_cuts() -> None:
    assert [tempo_of(rate) for rate in (0, 7, 8, 20, 21)] == ["slow", "slow", "medium", "medium", "fast"]


def test_a_prompt_gets_a_tempo_unless_it_has_one() -> None:
    assert with_tempo("flute tune", "slow") == "slow flute tune"
    assert with_tempo("a happy tune", "fast") == "a fast happy tune"
    assert with_tempo("a Calm, happy tune", "fast") == "a Calm, happy tune"
    assert with_tempo("breakfast song", "medium") == "medium breakfast song"
    with pytest.raises(ValueError, match="slow, medium, fast, got 'presto'"):
        with_tempo("flute tune", "presto")


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("source", [("film.mp4", "mpeg4", 0, 30), ("film.mkv", "libx264", 2, 0)], ids=lambda s: s[0])
def test_pictures_are_copied_and_sound_is_in_time(
    tmp_path: Path, source: tuple[str, str, int, int], ending: str
) -> None:
    """Of Matroska with reordered pictures FFmpeg does not say when the first two are decoded; none may be lost."""
    name, codec, b_frames, first = source
    video = write_video(tmp_path / name, film(2.0, 1.6), codec, b_frames, first)
    output = tmp_path / f"out{ending}"
    mux(video, clicks(2.6, 16_000, 2), 16_000, output)
    before, after = packets(video), packets(output)
    assert len(before) == 90
    assert [content for content, _, _ in after] == [content for content, _, _ in before]
    shown = np.array([time for _, time, _ in before])
    np.testing.assert_allclose([time for _, time, _ in after], shown - shown.min(), atol=0.002)
    with av.open(str(output)) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]
        audio = container.streams.audio[0].codec_context
        assert (audio.name, audio.sample_rate, audio.channels) == ("aac", 48_000, 2)
    sound = load_audio(output, 48_000)
    assert len(sound) / 48_000 == pytest.approx(plan_soundtrack(video).seconds, abs=1024 / 48_000)  # an AAC frame
    for middle in (0.5, 1.5, 2.5):
        around = np.abs(sound[round((middle - 0.1) * 48_000) : round((middle + 0.1) * 48_000)])
        assert around.argmax() == pytest.approx(0.1 * 48_000, abs=5)
    assert np.abs(sound[3 * 48_000 :]).max() < 1e-3  # silence behind the end of the clip


def test_sound_that_is_there_is_replaced_and_long_sound_is_cut(tmp_path: Path) -> None:
    video = write_video(tmp_path / "film.mp4", film(1.0))
    mux(video, clicks(1, 48_000, 1), 48_000, tmp_path / "once.mkv")
    mux(tmp_path / "once.mkv", np.zeros((1, 160_000), np.float32), 16_000, tmp_path / "twice.mp4")
    with av.open(str(tmp_path / "twice.mp4")) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]
    silence = load_audio(tmp_path / "twice.mp4", 48_000)
    assert len(silence) / 48_000 == pytest.approx(1.0, abs=1024 / 48_000) and not silence.any()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["film.mp4", "once.mkv", "twice.mp4"]


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "film.webm", film(0.4), "libvpx")
    save_audio(tmp_path / "song.wav", clicks(1, 16_000, 1), 16_000)
    (tmp_path / "text.mp4").write_text("no video")
    whole = write_video(tmp_path / "whole.mp4", film(0.8)).read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[:500])
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    sound, output = clicks(1, 16_000, 1), tmp_path / "out.mkv"
    before = sorted(tmp_path.iterdir())
    for name, message in {
        "none.mp4": "there is no such file",
        "song.wav": "has no video stream; give a video",
        "text.mp4": "no video that can be read",
        "head.mp4": "no video that can be read, or a damaged one",
        "half.mp4": r"the header promises 0\.80 s",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            plan_soundtrack(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            mux(tmp_path / name, sound, 16_000, output)
    with pytest.raises(ValueError, match=r"out\.webm must end in one of \.mp4"):
        check_output(video, tmp_path / "out.webm")
    with pytest.raises(ValueError, match="is the video itself"):
        mux(tmp_path / "whole.mp4", sound, 16_000, tmp_path / ".." / tmp_path.name / "whole.mp4")
    with pytest.raises(ValueError, match="there is no folder"):
        mux(video, sound, 16_000, tmp_path / "none" / "out.mkv")
    with pytest.raises(ValueError, match=r"cannot hold .*vp8.* write a \.mkv"):
        mux(video, sound, 16_000, tmp_path / "out.mp4")
    with pytest.raises(ValueError, match=r"one or two channels, got \(16000,\)"):
        mux(video, sound[0], 16_000, output)
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (lambda: plan_soundtrack(video), lambda: mux(video, sound, 16_000, output)):
        with pytest.raises(ValueError, match=r"pip install 'hfaudio\[video\]'"):
            call()
    assert sorted(tmp_path.iterdir()) == before


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    """A file of a stranger, named .mp4, that makes FFmpeg open other files or addresses."""
    write_video(tmp_path / "part.ts", film(1.0))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile part.ts\n")
    with av.open(str(tmp_path / "list.mp4")) as container:
        assert container.format.name == "concat"  # FFmpeg by itself would
    with pytest.raises(ValueError, match="no video that can be read"):
        plan_soundtrack(tmp_path / "list.mp4")
