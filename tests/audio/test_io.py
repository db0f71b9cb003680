"""hfaudio.audio.io: every container it names, every fault it counts, and long files in bounded memory."""

import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from hfaudio.audio.io import AudioError, AudioInfo, audio_info, load_audio, save_audio, stream_audio
from hfaudio.audio.resample import resample


def tone(seconds: float = 1.0, rate: int = 16_000, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(samples: int, channels: int | None = None) -> np.ndarray:
    shape = (samples,) if channels is None else (samples, channels)
    return 0.1 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def encode(samples: np.ndarray, rate: int, container: str = "WAV", codec: str | None = None, **options: Any) -> bytes:
    """Bytes of a file from (N,) or (N, channels) samples, by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=codec, **options)
    return file.getvalue()


def encode_by_ffmpeg(samples: np.ndarray, rate: int, container: str, codec: str, *, with_audio: bool = True) -> bytes:
    """Bytes of a file from (N,) or (2, N) samples by PyAV; without audio, a film of one black frame."""
    file = NamedTemporaryFile()  # in memory FFmpeg cannot move the header of an mp4 to the front
    with file, av.open(file.name, "w", format=container, options={"movflags": "faststart"}) as output:
        if with_audio:
            layout = "mono" if samples.ndim == 1 else "stereo"
            stream = output.add_stream(codec, rate=rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(np.atleast_2d(samples), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
        else:
            stream = output.add_stream("mpeg4", rate=1)
            stream.width = stream.height = 16
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        output.close()
        return Path(file.name).read_bytes()


def reason(source: Any) -> str:
    with pytest.raises(AudioError) as caught:
        load_audio(source)
    return caught.value.reason


@pytest.mark.parametrize(
    ("container", "codec", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "FLOAT", 0),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05),
        ("MP3", None, 0.05),
    ],
)
def test_what_libsndfile_reads(container: str, codec: str | None, tolerance: float) -> None:
    loaded = load_audio(encode(tone(), 16_000, container, codec))
    assert loaded.dtype == np.float32
    assert len(loaded) == 16_000
    np.testing.assert_allclose(loaded[:-200], tone()[:-200], atol=tolerance)  # Opus fades at the end


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [("mp4", "aac", 44_100), ("ipod", "aac", 16_000), ("adts", "aac", 44_100), ("webm", "libopus", 48_000)],
)
def test_what_pyav_reads(container: str, codec: str, rate: int) -> None:
    content = encode_by_ffmpeg(tone(1.0, rate), rate, container, codec)
    info = audio_info(content)
    assert (info.sample_rate, info.channels) == (rate, 1)
    assert info.seconds == pytest.approx(1.0, abs=0.15)
    loaded = load_audio(content)
    assert abs(len(loaded) - 16_000) < 2400
    middle = loaded[4000:12_000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 220  # 440 Hz in half a second
    assert middle.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.03)
    np.testing.assert_allclose(np.concatenate(list(stream_audio(content, block_seconds=0.1))), loaded, atol=1e-6)
    excerpt = load_audio(content, rate, start=0.25, seconds=0.5)
    np.testing.assert_allclose(excerpt, load_audio(content, rate)[rate // 4 :][: rate // 2], atol=1e-6)


def test_without_pyav_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_by_ffmpeg(tone(), 16_000, "mp4", "aac")
    monkeypatch.setitem(sys.modules, "av", None)  # what an absent package looks like to import
    with pytest.raises(AudioError, match=r"pip install 'hfaudio\[video\]'") as caught:
        load_audio(content)
    assert caught.value.reason == "unsupported"
    assert reason(b"just some text\n" * 20) == "corrupt"


def test_every_kind_of_source_gives_the_same_samples(tmp_path: Path) -> None:
    content = encode(tone(), 16_000, codec="FLOAT")
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    position = io.BytesIO(content)
    position.read(100)  # a file is read from its first byte
    sources: list[Any] = [
        path,
        str(path),
        content,
        position,
        {"bytes": content, "path": None},
        {"bytes": content, "path": "clip.wav"},
        {"bytes": None, "path": str(path)},
        {"array": tone(), "sampling_rate": 16_000},
        {"array": tone().astype(np.float64).tolist(), "sampling_rate": 16_000},
        {"array": np.stack([0.5 * tone(), 1.5 * tone()]), "sampling_rate": 16_000},
    ]
    for source in sources:
        np.testing.assert_allclose(load_audio(source), tone(), atol=1e-7)
        assert audio_info(source).seconds == 1.0
    with path.open("rb") as file:
        load_audio(file)
        assert not file.closed


def test_channels_are_averaged_and_rates_converted() -> None:
    left, right = tone(1.0, 44_100), tone(1.0, 44_100, 1000.0)
    content = encode(np.stack([left, right], axis=1), 44_100, codec="FLOAT")
    assert audio_info(content) == AudioInfo(sample_rate=44_100, channels=2, seconds=1.0)
    loaded = load_audio(content)
    assert len(loaded) == 16_000
    np.testing.assert_allclose(loaded, resample((left + right) / 2, 44_100, 16_000), atol=1e-6)
    mp3 = load_audio(encode(np.stack([left, right], axis=1), 44_100, "MP3"))
    np.testing.assert_allclose(mp3[200:-200], loaded[200:-200], atol=0.05)


PAIR = np.stack([tone(2.0, 44_100), 0.5 * tone(2.0, 44_100, 1000.0)]) + 0.1 * noise(88_200, 2).T  # left, right
STEREO: dict[str, tuple[Callable[[], Any], float]] = {  # source and tolerance
    "wav": (lambda: encode(PAIR.T, 44_100), 1e-4),
    "float wav": (lambda: encode(PAIR.T, 44_100, codec="FLOAT"), 0),
    "flac": (lambda: encode(PAIR.T, 44_100, "FLAC"), 1e-4),
    "ogg": (lambda: encode(PAIR.T, 44_100, "OGG", "VORBIS"), 0.08),
    "mp3": (lambda: encode(PAIR.T, 44_100, "MP3"), 0.08),
    "mp4": (lambda: encode_by_ffmpeg(PAIR, 44_100, "mp4", "aac"), 0.08),
    "array": (lambda: {"array": PAIR, "sampling_rate": 44_100}, 0),
    "list": (lambda: {"array": PAIR.tolist(), "sampling_rate": 44_100}, 0),
}


@pytest.mark.parametrize("name", STEREO)
def test_stereo_keeps_left_and_right(name: str) -> None:
    make, tolerance = STEREO[name]
    source = make()
    stereo = load_audio(source, 44_100, channels=2)
    assert stereo.dtype == np.float32
    assert stereo.shape[0] == 2
    np.testing.assert_allclose(stereo[:, 2000:80_000], PAIR[:, 2000:80_000], atol=tolerance)
    np.testing.assert_array_equal(load_audio(source, 44_100), stereo.mean(axis=0))
    excerpt = load_audio(source, 16_000, start=0.5, seconds=0.25, channels=2)
    assert excerpt.shape == (2, 4000)
    np.testing.assert_allclose(excerpt, resample(stereo[:, 22_050:][:, :11_025], 44_100, 16_000), atol=1e-3)


def test_stereo_of_minutes_comes_in_blocks_and_leaves_as_one() -> None:
    pair = noise(44_100 * 65, 2)
    loaded = load_audio(encode(pair, 44_100, codec="FLOAT"), channels=2)
    np.testing.assert_allclose(loaded, resample(pair.T, 44_100, 16_000), atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: encode(tone(), 16_000), lambda: encode_by_ffmpeg(tone(), 16_000, "mp4", "aac")]
)
def test_mono_is_given_to_both_channels(make: Callable[[], bytes]) -> None:
    left, right = load_audio(make(), channels=2)
    np.testing.assert_array_equal(left, load_audio(make()))
    np.testing.assert_array_equal(left, right)


def test_a_loaded_array_is_a_copy() -> None:
    for array in (tone(), np.stack([tone(), tone()])):
        load_audio({"array": array, "sampling_rate": 16_000}, channels=2)[:] = 0
        assert array.any()


def test_more_than_two_channels_are_no_stereo() -> None:
    for source in (encode(noise(1000, 6), 16_000), {"array": noise(3000).reshape(3, 1000), "sampling_rate": 16_000}):
        with pytest.raises(AudioError, match=r"stereo was asked of [36] channels; load with channels=1") as caught:
            load_audio(source, channels=2)
        assert caught.value.reason == "unsupported"
        assert load_audio(source).shape == (1000,)
    for channels in (0, 3):
        with pytest.raises(ValueError, match=f"channels must be 1 .* or 2 .*, got {channels}"):
            load_audio(encode(tone(), 16_000), channels=channels)


@pytest.mark.parametrize(("container", "codec"), [("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None)])
def test_an_excerpt_is_cut_before_resampling(container: str, codec: str | None) -> None:
    content = encode(noise(44_100 * 2), 44_100, container, codec)
    whole = load_audio(content, 44_100)
    excerpt = load_audio(content, 16_000, start=0.5, seconds=0.25)
    np.testing.assert_allclose(excerpt, resample(whole[22_050 : 22_050 + 11_025], 44_100, 16_000), atol=1e-3)
    assert len(load_audio(content, 44_100, start=1.75, seconds=9.0)) == 11_025


def test_float_samples_beyond_one_stay() -> None:
    np.testing.assert_array_equal(load_audio(encode(3 * tone(), 16_000, codec="FLOAT")), 3 * tone())


def test_one_sample_is_audio() -> None:
    assert load_audio(encode(np.array([0.25]), 16_000)).tolist() == [0.25]
    assert len(load_audio(encode(np.array([0.25]), 44_100))) == 1
    assert not load_audio(encode(np.zeros(1000), 16_000)).any()  # and so is silence


def test_faults_have_their_reasons(tmp_path: Path) -> None:
    text = tmp_path / "clip.wav"
    text.write_text("this is a transcript, not a recording\n" * 30)
    flac = encode(noise(44_100 * 3), 44_100, "FLAC")
    broken = bytearray(flac)
    broken[len(flac) // 2 : len(flac) // 2 + 500] = bytes(500)
    ogg = bytearray(encode(noise(44_100 * 3), 44_100, "OGG", "VORBIS"))
    ogg[len(ogg) // 2 : len(ogg) // 2 + 500] = bytes(500)
    mp3 = encode(tone(3.0, 44_100), 44_100, "MP3")
    mp4 = encode_by_ffmpeg(noise(44_100 * 3), 44_100, "mp4", "aac")
    with_nan = tone()
    with_nan[7] = np.nan
    assert reason(text) == "corrupt"
    assert reason(flac[: len(flac) // 2]) == "corrupt"
    assert reason(flac[:-50]) == "corrupt"
    assert reason(bytes(broken)) == "corrupt"
    assert reason(bytes(ogg)) == "corrupt"
    assert reason(mp3[: len(mp3) // 2]) == "corrupt"
    assert reason(mp4[: len(mp4) * 2 // 3]) == "corrupt"
    assert reason(mp4[:200]) == "corrupt"
    assert reason(b"RIFF") == "corrupt"
    assert reason(b"") == "empty"
    assert reason(encode(np.zeros(0), 16_000)) == "empty"
    assert reason({"array": np.zeros((2, 0)), "sampling_rate": 8000}) == "empty"
    assert reason(encode_by_ffmpeg(tone(), 16_000, "mp4", "", with_audio=False)) == "empty"
    assert reason(encode(with_nan, 16_000, codec="FLOAT")) == "not finite"
    assert reason(encode(np.full(10, np.inf), 16_000, codec="FLOAT")) == "not finite"
    assert reason({"array": with_nan, "sampling_rate": 16_000}) == "not finite"
    assert reason({"array": np.ones(5, np.int16), "sampling_rate": 16_000}) == "unsupported"
    assert reason(tmp_path / "absent.wav") == "missing"
    assert reason(tmp_path) == "missing"
    assert reason({"bytes": None, "path": None}) == "missing"


def test_an_mp4_cut_between_two_packets_is_corrupt() -> None:
    """The decoder sees no fault there; only the length in the header tells."""
    content = encode_by_ffmpeg(noise(44_100 * 3), 44_100, "mp4", "aac")
    with av.open(io.BytesIO(content)) as container:
        packets = [packet for packet in container.demux() if packet.pos]
    middle = packets[len(packets) // 2]
    with pytest.raises(AudioError, match="the header promises"):
        load_audio(content[: middle.pos + middle.size])


def strip_xing(mp3: bytes) -> bytes:
    """The file without its first frame, which holds the length and no sound."""
    sync = mp3.index(b"\xff", 2)
    while mp3[sync + 1] != mp3[1]:
        sync = mp3.index(b"\xff", sync + 1)
    return mp3[sync:]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_of_unknown_length_is_read_to_its_end(mode: str) -> None:
    """libsndfile alone drops in silence what lies beyond the length it guesses from the first frame."""
    loud_then_quiet = np.concatenate([noise(44_100 * 4), 1e-4 * noise(44_100 * 4)])
    whole = encode(loud_then_quiet, 44_100, "MP3", bitrate_mode=mode, compression_level=0.5)
    loaded = load_audio(strip_xing(whole), 44_100)
    np.testing.assert_allclose(loaded[576:][: 8 * 44_100], load_audio(whole, 44_100), atol=1e-6)  # LAME's delay stays
    excerpt = load_audio(strip_xing(whole), 44_100, start=5.0, seconds=1.0)
    np.testing.assert_allclose(excerpt, loaded[5 * 44_100 : 6 * 44_100], atol=1e-3)


def test_flac_written_to_a_pipe_has_no_length_and_loads() -> None:
    content = piped(encode(noise(30_000), 16_000, "FLAC"))
    assert len(load_audio(content)) == 30_000
    assert len(load_audio(content, start=1.0)) == 14_000
    assert audio_info(content).seconds == 1.875


def piped(flac: bytes) -> bytes:
    """The file without the 36 bits of STREAMINFO that count the samples."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


FILES = {
    "wav": lambda: encode(noise(48_123), 48_000),
    "float wav": lambda: encode(noise(48_123), 48_000, "WAV", "FLOAT"),
    "aiff": lambda: encode(noise(48_123), 48_000, "AIFF"),
    "flac": lambda: encode(noise(48_123), 48_000, "FLAC"),
    "piped flac": lambda: piped(encode(noise(48_123), 48_000, "FLAC")),
    "vorbis": lambda: encode(noise(48_123), 48_000, "OGG", "VORBIS"),
    "opus": lambda: encode(noise(48_123), 48_000, "OGG", "OPUS"),
    "mp3": lambda: encode(noise(48_123), 48_000, "MP3"),
    "mp3 of variable bit rate": lambda: encode(noise(48_123), 48_000, "MP3", bitrate_mode="VARIABLE"),
    "mp3 without header": lambda: strip_xing(encode(noise(48_123), 48_000, "MP3")),
    "mp3 of variable bit rate without header": lambda: strip_xing(
        encode(noise(48_123), 48_000, "MP3", bitrate_mode="VARIABLE")
    ),
    "aac": lambda: encode_by_ffmpeg(noise(48_123), 48_000, "adts", "aac"),
    "mp4": lambda: encode_by_ffmpeg(noise(48_123), 48_000, "mp4", "aac"),
    "webm": lambda: encode_by_ffmpeg(noise(48_123), 48_000, "webm", "libopus"),
    "mkv": lambda: encode_by_ffmpeg(noise(48_123), 48_000, "matroska", "aac"),
}
TOLERANCES = {"mp4": 1024, "webm": 48, "mkv": 48}  # samples: a packet, and the millisecond that mkv's clock ticks


@pytest.mark.parametrize("name", FILES)
def test_info_says_what_load_delivers(name: str, tmp_path: Path) -> None:
    content = FILES[name]()
    path = tmp_path / "clip"
    path.write_bytes(content)
    info = audio_info(content)
    assert (info.sample_rate, info.channels) == (48_000, 1)
    assert abs(info.seconds * 48_000 - len(load_audio(content, 48_000))) <= TOLERANCES.get(name, 1e-6)
    assert abs(info.seconds - len(load_audio(content)) / 16_000) <= (TOLERANCES.get(name, 0) + 3) / 48_000
    assert audio_info(path) == audio_info({"bytes": content, "path": "clip"}) == info
    assert audio_info({"bytes": None, "path": str(path)}) == audio_info(io.BytesIO(content)) == info


@pytest.mark.parametrize("name", sorted(set(FILES) - {"piped flac"}))
def test_info_does_not_decode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = FILES[name]()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the file was decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", refuse)
    monkeypatch.setattr(av, "AudioResampler", refuse)  # what every decoded frame passes
    audio_info(content)


@pytest.mark.parametrize("container", ["WAV", "AIFF"])
def test_a_wav_cut_short_is_corrupt(container: str) -> None:
    content = encode(noise(30_000), 16_000, container)
    for cut in (content[: len(content) // 2], content[:-2000], content[:100]):
        assert reason(cut) == "corrupt"
        with pytest.raises(AudioError, match=r"promises 600\d\d bytes of samples, the file has \d+"):
            audio_info(cut)
    assert audio_info(content[:-44]).seconds == pytest.approx(1.875, abs=0.002)  # headers this wrong exist


@pytest.mark.parametrize("size", [0x7FFF_F000, 0x8000_0000, 0xFFFF_FFFF])
def test_a_wav_written_to_a_pipe_states_no_length(size: int) -> None:
    content = bytearray(encode(noise(30_000), 16_000))
    content[40:44] = size.to_bytes(4, "little")
    assert audio_info(bytes(content)).seconds == 1.875
    assert len(load_audio(bytes(content))) == 30_000


def test_an_ogg_cut_between_pages_is_a_shorter_one() -> None:
    """A stream that was recorded has no end mark either."""
    content = encode(noise(48_000 * 4), 16_000, "OGG", "OPUS")
    cut = content[: content.rindex(b"OggS")]
    assert audio_info(cut).seconds == len(load_audio(cut)) / 16_000
    assert 0 < audio_info(cut).seconds < 12


def test_info_has_the_reasons_of_load(tmp_path: Path) -> None:
    mp4 = encode_by_ffmpeg(tone(), 16_000, "mp4", "aac")
    mp3 = encode(tone(), 16_000, "MP3")
    faults: dict[str, list[Any]] = {
        "corrupt": [b"RIFF", b"just some text\n" * 20, encode(tone(), 16_000, "FLAC")[:30], mp4[:200], mp3[:3]],
        "empty": [
            b"",
            encode(np.zeros(0), 16_000),
            encode(np.zeros(0), 16_000, "FLAC"),
            {"array": np.zeros(0), "sampling_rate": 16_000},
            encode_by_ffmpeg(tone(), 16_000, "mp4", "", with_audio=False),
        ],
        "missing": [tmp_path / "absent.mp3", {"bytes": None, "path": None}],
        "unsupported": [{"array": np.ones(5, np.int16), "sampling_rate": 16_000}],
    }
    for expected, sources in faults.items():
        for source in sources:
            with pytest.raises(AudioError) as caught:
                audio_info(source)
            assert caught.value.reason == expected == reason(source)


def test_errors_name_file_and_remedy_and_survive_pickling(tmp_path: Path) -> None:
    path = tmp_path / "silent.wav"
    path.write_bytes(encode(np.zeros(0), 16_000))
    with pytest.raises(AudioError, match=r"silent\.wav: empty: .*leave the clip out") as caught:
        load_audio(path)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.reason) == (str(caught.value), "empty")
    with pytest.raises(AudioError, match=r"^<bytes>: corrupt"):
        load_audio(b"text")


def test_wrong_arguments_are_the_callers_mistake() -> None:
    with pytest.raises(TypeError, match="decode=False"):
        load_audio(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start must be >= 0"):
        load_audio(encode(tone(), 16_000), start=-1.0)
    with pytest.raises(ValueError, match="at least one sample"):
        next(stream_audio(encode(tone(), 16_000), block_seconds=0.0))
    with pytest.raises(AudioError, match="no samples from 5 s on"):
        load_audio(encode(tone(), 16_000), start=5.0)


@pytest.mark.parametrize(("rate", "seconds"), [(44_100, 7.3), (8_000, 65.1), (16_000, 61.0)])
@pytest.mark.parametrize("block_seconds", [0.37, 30.0])
def test_stream_joins_to_the_resampled_whole(rate: int, seconds: float, block_seconds: float) -> None:
    samples = noise(round(seconds * rate))
    blocks = list(stream_audio(encode(samples, rate, codec="FLOAT"), block_seconds=block_seconds))
    assert {len(block) for block in blocks[:-1]} <= {round(block_seconds * 16_000)}
    assert 0 < len(blocks[-1]) <= round(block_seconds * 16_000)
    np.testing.assert_allclose(np.concatenate(blocks), resample(samples, rate, 16_000), atol=1e-6)


@pytest.mark.parametrize(("container", "codec"), [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_stream_of_compressed_files_equals_load(container: str, codec: str | None) -> None:
    content = encode(noise(48_000 * 35), 48_000, container, codec)  # longer than one block of the reader
    decoded, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    joined = np.concatenate(list(stream_audio(content, block_seconds=2.0)))
    np.testing.assert_array_equal(joined, load_audio(content))
    np.testing.assert_allclose(joined, resample(decoded, 48_000, 16_000), atol=1e-5)


def test_stream_refuses_what_load_refuses() -> None:
    with pytest.raises(AudioError, match="empty"):
        list(stream_audio(encode(np.zeros(0), 16_000)))
    flac = encode(noise(44_100 * 3), 44_100, "FLAC")
    with pytest.raises(AudioError, match="corrupt"):
        list(stream_audio(flac[: len(flac) // 2]))


def test_two_hours_pass_in_bounded_memory(tmp_path: Path) -> None:
    """7,200 s at 8 kHz are 461 MB as float32 at 16 kHz; a process that streams them grows by less than 100 MB."""
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16") as file:
        minute = noise(60 * 8000)
        for _ in range(120):
            file.write(minute)
    program = (
        "import resource, sys; from hfaudio.audio.io import load_audio, stream_audio;"
        "load_audio(sys.argv[1], seconds=1.0);"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); total = sum(len(block) for block in stream_audio(sys.argv[1]));"
        "print(total, peak() - before)"
    )
    output = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout
    samples, kilobytes = map(int, output.split())
    assert samples == 7200 * 16_000
    assert kilobytes < 100_000


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus"])
def test_saved_audio_loads_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    save_audio(path, tone(0.5), 16_000)
    tolerance = 1e-4 if suffix in (".wav", ".flac") else 0.05
    np.testing.assert_allclose(load_audio(path)[:-200], tone(0.5)[:-200], atol=tolerance)
    save_audio(path, np.stack([tone(0.5), np.zeros(8000)]), 16_000)
    assert audio_info(path) == AudioInfo(16_000, 2, 0.5)


def test_minutes_of_vorbis_can_be_written(tmp_path: Path) -> None:
    """In one call libsndfile 1.2.2 ends the process with a segmentation fault here."""
    save_audio(tmp_path / "long.ogg", noise(16_000 * 180), 16_000)
    assert audio_info(tmp_path / "long.ogg").seconds == 180


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix must be one of \.wav, \.flac, \.ogg, \.opus"):
        save_audio(tmp_path / "clip.mp3", tone(), 16_000)
    with pytest.raises(ValueError, match="NaN or infinity"):
        save_audio(tmp_path / "clip.wav", np.array([np.nan]), 16_000)
    with pytest.raises(ValueError, match="resample to 48000 Hz"):
        save_audio(tmp_path / "clip.opus", tone(), 44_100)
    save_audio(tmp_path / "loud.wav", np.array([2.0, -2.0]), 16_000)
    np.testing.assert_allclose(load_audio(tmp_path / "loud.wav"), [1, -1], atol=1e-4)


def test_an_excerpt_of_a_sparse_mp3_is_that_of_the_whole() -> None:
    """Frames of a pure tone at a low bit rate leave bits to later ones, which a seek alone does not bring along."""
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(10 * 44_100) / 44_100)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, tone, 44_100, format="MP3", compression_level=0.9)
    whole = load_audio(file.getvalue(), 44_100)
    for start in np.arange(1.0, 9.0, 0.37):
        excerpt = load_audio(file.getvalue(), 44_100, start=float(start), seconds=0.3)
        first = round(float(start) * 44_100)
        np.testing.assert_allclose(excerpt, whole[first : first + len(excerpt)], atol=2e-3)
