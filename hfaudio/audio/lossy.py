"""Round trips through Opus, MP3 and AAC at measured bit rates: the codecs people know, to compare neural ones with.

Coded by FFmpeg through PyAV, an optional dependency (`pip install 'hfaudio[video]'`): libopus both ways, libmp3lame
and FFmpeg's mp3, FFmpeg's aac both ways. Packets go from encoder to decoder in memory, without a container.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hfaudio.audio.resample import resample

CodecName = Literal["opus", "mp3", "aac"]

ENCODERS = {"opus": "libopus", "mp3": "libmp3lame", "aac": "aac"}
DECODERS = {"opus": "libopus", "mp3": "mp3float", "aac": "aac"}
LOWEST_BIT_RATE = 6000  # of Opus (RFC 6716, section 2); the other two need more
OPUS_HIGHEST = 256_000  # a channel, in FFmpeg
OPUS_RATE = 48_000
# In its speech modes, chosen at low bit rates, libopus misses the delay that it states by a few samples at 48 kHz:
# measured 3 to 4.5 late in narrow band (6 and 8 kbit/s), 1 to 2.5 early in the wider ones; its music mode is exact.
# 2.25 samples alone hold the SNR of a 1 kHz tone to 11 dB.
OPUS_REACH = 5
MPEG_KBITS = {  # layer III by the highest sample rate: MPEG-2.5, MPEG-2, MPEG-1; LAME stops at 64 in the first
    12_000: (8, 16, 24, 32, 40, 48, 56, 64),
    24_000: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    48_000: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
AAC_BITS_PER_SAMPLE = 6  # at most, a channel: 6144 for a block of 1024 (ISO/IEC 14496-3)
CONSTANT_TOLERANCE = 0.05  # an Opus packet is whole bytes, 3 % at 6.2 kbit/s; MP3's bit rates are 10 % apart or more
AVERAGE_TOLERANCE = 0.25  # AAC near the low end of its range: up to 23 % more than asked, for a tone; below it 50 %
AAC_SETTLING = 1.0  # seconds; before that, its average tells little


@dataclass(frozen=True)
class Lossy:
    """A codec and the bits a second asked of it: Opus and MP3 at constant rate, AAC on average."""

    name: CodecName
    bit_rate: int

    def __post_init__(self) -> None:
        if self.name not in get_args(CodecName):
            raise ValueError(f"unknown codec {self.name!r}; choose one of {', '.join(get_args(CodecName))}")
        if self.bit_rate < LOWEST_BIT_RATE:
            raise ValueError(f"bit_rate must be at least {LOWEST_BIT_RATE} bits a second, got {self.bit_rate}")


@dataclass(frozen=True)
class RoundTrip:
    """What came back: `samples` in the shape of the input and in time with it.

    `bits_per_second` is measured: the bits of all packets, without a container's headers, over the time that the
    packets stand for. That includes the encoder's delay and the filling of the last packet, so that a short clip has
    the rate of the long stream that it could be part of.
    """

    samples: np.ndarray
    bits_per_second: float
    codec: Lossy


def round_trip(samples: np.ndarray, sample_rate: int, codec: Lossy) -> RoundTrip:
    """Encode and decode (N,) or (2, N) samples: float32 of the same shape and rate, free of the codec's delay.

    Opus works at 48 kHz, where what it decodes is moved by up to 5 samples (0.1 ms) to where it correlates best with
    the input. MP3 and AAC work at `sample_rate`, which must be one of theirs. AAC takes fewer bits than asked where
    the sound needs no more, almost none for silence, and up to 25 % more, or any number in clips below a second:
    plot over `bits_per_second`. A bit rate that the encoder does not keep raises ValueError.
    """
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and len(samples) != 2) or samples.shape[-1] == 0:
        raise ValueError(f"expected samples (N,) or (2, N) with N > 0, got {samples.shape}; mix to mono or stereo")
    if not np.isfinite(samples).all():
        raise ValueError("samples hold NaN or infinity; repair them or leave the clip out")
    channels = np.atleast_2d(samples).astype(np.float32)
    if codec.name == "opus":
        wide = resample(channels, sample_rate, OPUS_RATE)
        decoded, bits_per_second = _code(wide, OPUS_RATE, codec)
        decoded = resample(_aligned(decoded, wide), OPUS_RATE, sample_rate)[:, : channels.shape[1]]
    else:
        decoded, bits_per_second = _code(channels, sample_rate, codec)
    return RoundTrip(decoded.reshape(samples.shape), bits_per_second, codec)


def _code(samples: np.ndarray, sample_rate: int, codec: Lossy) -> tuple[np.ndarray, float]:
    """Decoded (C, N) samples without the delay that the encoder states, and the bits a second of the packets."""
    try:
        import av  # optional, and 0.1 s to import
    except ImportError as error:
        raise ValueError(f"{codec.name} is coded by PyAV, which is absent: pip install 'hfaudio[video]'") from error
    layout = "stereo" if len(samples) == 2 else "mono"
    encoder: Any = av.CodecContext.create(ENCODERS[codec.name], "w")
    if sample_rate not in encoder.codec.audio_rates:
        rates = ", ".join(map(str, sorted(encoder.codec.audio_rates)))
        raise ValueError(f"{codec.name} has no sample rate of {sample_rate} Hz; resample to one of {rates}")
    encoder.sample_rate, encoder.layout, encoder.bit_rate = sample_rate, layout, codec.bit_rate
    encoder.format = "flt" if codec.name == "opus" else "fltp"
    encoder.options = {"vbr": "off", "application": "audio"} if codec.name == "opus" else {}
    try:
        encoder.open()
    except av.FFmpegError as error:
        raise ValueError(_refusal("refuses", codec, sample_rate, len(samples))) from error
    interleaved = samples.T.reshape(1, -1) if encoder.format.is_packed else samples
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(interleaved), format=encoder.format.name, layout=layout)
    frame.sample_rate, frame.pts = sample_rate, 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]

    bits = 8 * sum(packet.size for packet in packets)
    seconds = len(packets) * encoder.frame_size / sample_rate
    if not _kept(bits, seconds, codec) or encoder.bit_rate != codec.bit_rate:
        raise ValueError(_refusal(f"made {bits / seconds:.0f} of", codec, sample_rate, len(samples)))

    decoder: Any = av.CodecContext.create(DECODERS[codec.name], "r")
    decoder.sample_rate, decoder.layout, decoder.extradata = sample_rate, layout, encoder.extradata
    # Some decoders drop the delay and others do not; told to keep it, all give whole packets.
    decoder.options = {"flags2": "+skip_manual", "request_sample_fmt": "flt" if codec.name == "opus" else "fltp"}
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    planes = [
        frame.to_ndarray().reshape(-1, len(samples)).T if frame.format.is_packed else frame.to_ndarray()
        for frame in frames
    ]
    delay = -packets[0].pts  # the input's first sample has time 0, and the clock ticks samples
    return np.concatenate(planes, axis=1)[:, delay : delay + samples.shape[1]], bits / seconds


def _kept(bits: int, seconds: float, codec: Lossy) -> bool:
    """Whether the packets have the bit rate that was asked for."""
    asked = codec.bit_rate * seconds
    if codec.name == "aac":
        return seconds < AAC_SETTLING or bits <= (1 + AVERAGE_TOLERANCE) * asked
    return abs(bits - asked) <= CONSTANT_TOLERANCE * asked


def _refusal(did: str, codec: Lossy, sample_rate: int, channels: int) -> str:
    """Value, rule and remedy for a bit rate that the encoder cannot keep."""
    if codec.name == "opus":
        rule = f"ask for {LOWEST_BIT_RATE} to {OPUS_HIGHEST * channels}"
    elif codec.name == "mp3":
        kbits = next(kbits for highest, kbits in MPEG_KBITS.items() if sample_rate <= highest)
        rule = f"ask for 1000 times one of {', '.join(map(str, kbits))}, or change the sample rate"
    else:
        rule = (
            f"it goes to {AAC_BITS_PER_SAMPLE * sample_rate * channels}, and how low depends on the sound: "
            "ask for another bit rate, or change the sample rate"
        )
    of = f"{channels} channel{'s' if channels > 1 else ''} at {sample_rate} Hz"
    return f"{codec.name} {did} {codec.bit_rate} bit/s for {of}; {rule}"


def _aligned(decoded: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`decoded` (C, N), moved by at most OPUS_REACH samples to where it correlates best with `reference` (C, N)."""
    padded = np.pad(decoded, ((0, 0), (OPUS_REACH, OPUS_REACH)))
    size = decoded.shape[1]

    def likeness(lag: int) -> float:
        return float(np.vdot(padded[:, OPUS_REACH + lag : OPUS_REACH + lag + size], reference))

    lag = max(sorted(range(-OPUS_REACH, OPUS_REACH + 1), key=abs), key=likeness)  # of equals, as in silence, 0
    return padded[:, OPUS_REACH + lag : OPUS_REACH + lag + size]
