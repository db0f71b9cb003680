"""hfaudio.audio.headers: frames counted as FFmpeg counts them, and mp3s without a length decoded to their end."""

import io

import av
import numpy as np
import pytest
import soundfile

from hfaudio.audio.headers import count_frames, frame_bytes, id3_bytes, states_length, with_length, xing_frame

ID3 = b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(257)  # a length of 2 * 128 + 1
ID3_AT_THE_END = b"TAG".ljust(128, b"\xff")


def encode(rate: int = 16_000, channels: int = 1, seconds: float = 1.0, mode: str = "VARIABLE") -> bytes:
    """An mp3 by LAME, of noise that falls silent, so that a variable bit rate varies."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    samples[len(samples) // 2 :] *= 1e-4
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return file.getvalue()


def without_header(mp3: bytes) -> bytes:
    """The file from its second frame on; the first holds the Xing header and no sound."""
    first, _ = count_frames(mp3)
    return mp3[first + frame_bytes(mp3[first : first + 3]) :]


def decode(mp3: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(mp3), dtype="float32")[0]


def packets(mp3: bytes) -> int:
    """Frames as FFmpeg sees them."""
    with av.open(io.BytesIO(mp3), mode="r", format="mp3") as container:
        return sum(packet.size > 0 for packet in container.demux())


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("fffb90", 417),  # MPEG 1, 128 kbit/s, 44.1 kHz: 144 * 128000 / 44100
        ("fffb92", 418),  # padded
        ("fffae4", 960),  # with checksum, 320 kbit/s, 48 kHz
        ("fff388", 288),  # MPEG 2, 64 kbit/s, 16 kHz: 72 * 64000 / 16000
        ("ffe318", 72),  # MPEG 2.5, 8 kbit/s, 8 kHz
        ("fffb00", 0),  # free format
        ("fffbf0", 0),  # no such bit rate
        ("fffb9c", 0),  # no such rate
        ("ffeb90", 0),  # no such version
        ("fffd90", 0),  # layer II
        ("fff150", 0),  # AAC
        ("fffb", 0),
    ],
)
def test_size_of_a_frame(header: str, size: int) -> None:
    assert frame_bytes(bytes.fromhex(header)) == size


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
def test_without_its_header_an_mp3_decodes_to_the_same_samples(rate: int, channels: int, mode: str) -> None:
    whole = encode(rate, channels, mode=mode)
    bare = without_header(whole)
    assert states_length(io.BytesIO(whole))
    assert not states_length(io.BytesIO(bare))
    assert count_frames(bare) == (0, packets(bare))
    repaired = with_length(bare)
    assert states_length(io.BytesIO(repaired))
    samples = decode(repaired)
    frame = 1152 if rate >= 32_000 else 576
    assert len(samples) == soundfile.info(io.BytesIO(repaired)).frames == packets(bare) * frame - 529  # decoder delay
    # LAME delays by 576 samples; its own header, which says so, is gone.
    np.testing.assert_allclose(samples[576 : 576 + rate], decode(whole), atol=1e-6)


def test_libsndfile_alone_drops_half_of_it() -> None:
    """What this module is for; when it fails, libsndfile counts and the module can go."""
    bare = without_header(encode(44_100, seconds=4.0))
    assert len(decode(bare)) < 0.6 * len(decode(with_length(bare)))


def test_tags_and_damage_are_passed_over() -> None:
    bare = without_header(encode())
    _, frames = count_frames(bare)
    assert id3_bytes(ID3) == len(ID3)
    assert id3_bytes(ID3[:10]) == len(ID3)
    assert count_frames(ID3 + bare + ID3_AT_THE_END) == (len(ID3), frames)
    assert with_length(ID3 + bare) == with_length(bare)
    assert states_length(io.BytesIO(ID3 + with_length(bare)))
    assert count_frames(bare[:-1]) == (0, frames - 1)
    size = frame_bytes(bare[:3])
    assert count_frames(bare[:size] + b"\xff\xfb\x90\xff" * 50 + bare[size:]) == (0, frames)
    assert count_frames(bare[1:])[1] == frames - 1
    alone = b"\0\xff\xe3\x18\xc4" + bytes(200)  # out of step, like a frame of 72 bytes, and none follows
    assert count_frames(alone + bare) == (len(alone), frames)
    assert count_frames(bare[:size]) == (0, 1)
    assert count_frames(b"\xff" * 5000) == (0, 0)
    assert count_frames(b"") == (0, 0)


def test_where_no_frame_is_found_nothing_changes() -> None:
    free_format = b"\xff\xfb\x00\xc4" + bytes(500)
    assert with_length(free_format) == free_format


def test_a_header_that_does_not_count_is_none() -> None:
    header = bytearray(xing_frame(b"\xff\xfb\x90\xc4", 7))
    assert len(header) == 417
    assert states_length(io.BytesIO(header))
    header[header.index(b"Xing") + 7] = 2  # only the bytes are given
    assert not states_length(io.BytesIO(header))


def test_looking_for_a_header_does_not_move_the_file() -> None:
    file = io.BytesIO(encode())
    file.seek(100)
    states_length(file)
    assert file.tell() == 100
