"""The length of an mp3 that does not state it: its frames counted, and written into a header put before them.

libsndfile takes the length of an mp3 from the Xing (or Info) header. Without one it guesses from the bit rate of the
first frame and drops in silence what lies beyond: half of a clip whose first frame is a long one. A frame's own first
three bytes give its size, so counting needs no decoder.
"""

import re
from functools import cache
from typing import BinaryIO

# By the two version bits of a frame: MPEG 2.5, 2 and 1 (ISO/IEC 11172-3 and 13818-3).
SAMPLE_RATES = {0: (11_025, 12_000, 8_000), 2: (22_050, 24_000, 16_000), 3: (44_100, 48_000, 32_000)}
KILOBITS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG 2 and 2.5
KILOBITS_MPEG_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)


def states_length(mp3: BinaryIO) -> bool:
    """Whether a Xing or Info header behind the ID3 tag, if any, counts the frames; the file's position stays."""
    position = mp3.tell()
    mp3.seek(0)
    mp3.seek(id3_bytes(mp3.read(10)))
    beginning = mp3.read(2048)
    mp3.seek(position)
    return re.search(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f]", beginning) is not None  # flag 1


def with_length(mp3: bytes) -> bytes:
    """The frames of an mp3 behind a Xing header that counts them; unchanged where no frame is found (free format).

    Speed: 0.1 ms for 8 s at 16 kHz, which take 3.4 ms to decode.
    """
    first, frames = count_frames(mp3)
    return xing_frame(mp3[first : first + 4], frames) + mp3[first:] if frames else mp3


def count_frames(mp3: bytes) -> tuple[int, int]:
    """Position of the first whole layer III frame and the number of them, tags and damaged parts passed over."""
    position, end, first, frames = id3_bytes(mp3), -1, 0, 0
    while (position := mp3.find(b"\xff", position)) >= 0:
        size = frame_bytes(mp3[position : position + 3])
        following = position + size
        # Out of step, bytes that look like a frame are one if another frame or the end of the file follows.
        in_step = position == end or following == len(mp3) or frame_bytes(mp3[following : following + 3])
        if size and in_step and following <= len(mp3):
            first, frames = first if frames else position, frames + 1
            position = end = following
        else:
            position += 1
    return first, frames


@cache  # a file has few different headers
def frame_bytes(header: bytes) -> int:
    """Size of the layer III frame that begins with these 3 bytes; 0 if none does, or one of free format."""
    if len(header) < 3 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # 11 bits of sync; layer III is 01
        return 0
    version, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bit_rate in (0, 15) or rate == 3:
        return 0
    bits = 1000 * (KILOBITS_MPEG_1 if version == 3 else KILOBITS)[bit_rate - 1]
    samples = 1152 if version == 3 else 576
    return samples // 8 * bits // SAMPLE_RATES[version][rate] + (header[2] >> 1 & 1)


def xing_frame(header: bytes, frames: int) -> bytes:
    """A frame without sound that says how many like that of the 4-byte `header` follow it."""
    header = bytes([0xFF, header[1] | 1, 0x90 | header[2] & 0x0C, header[3]])  # no checksum; 80 or 128 kbit/s
    mpeg_1, mono = header[1] & 0x18 == 0x18, header[3] >= 0xC0
    side = (17 if mono else 32) if mpeg_1 else (9 if mono else 17)  # bytes of side information before the tag
    counted = b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")  # 1: the number of frames is given
    return (header + bytes(side) + counted).ljust(frame_bytes(header[:3]), b"\0")


def id3_bytes(mp3: bytes) -> int:
    """Length of the ID3v2 tag that the bytes begin with, of which the first 10 are enough; 0 if there is none."""
    if mp3[:3] != b"ID3":
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(mp3[6:10], (21, 14, 7, 0), strict=True))
