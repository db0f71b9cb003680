"""Audio files to codes and back with an EnCodec, and the file format that keeps the codes.

A code file (`.hfac`) is

    HFAC1 | length of the header, 4 bytes little endian | header, UTF-8 JSON | codes, log2(codebook_size) bits each

with the codes of a frame beside each other, coarsest codebook first, frame after frame, and no bits between. The
header says which model wrote it (`model`, and `codebooks_sha256`, by which another model is refused), rate, channels,
samples, frames, codebooks and their size, and for models that normalise the scale of each chunk.
"""

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfaudio.data.bundled import place_of
from hfaudio.models.codec import open_encodec

MAGIC = b"HFAC1"
BLOCK_SECONDS, CONTEXT_SECONDS = 30.0, 1.0  # of long recordings: what is coded at once, and what is heard around it


@dataclass(frozen=True)
class Codes:
    """A coded recording; `codes` is (K, T) of integers below `codebook_size`."""

    codes: np.ndarray
    codebook_size: int
    sample_rate: int
    channels: int
    num_samples: int
    model: str
    codebooks_sha256: str
    scales: list[float] = field(default_factory=list)  # of chunks, where the model normalises

    @property
    def bits_per_second(self) -> float:
        """Of the codes; the header of the file comes on top."""
        bits = self.codes.size * bits_of(self.codebook_size)
        return bits / (self.num_samples / self.sample_rate)


class Codec:
    """An EnCodec for files: long recordings in blocks, any of its bandwidths.

    Recordings longer than 30 s are coded in blocks which hear a second more on either side, so that memory is bounded
    and no seam is heard. Models that work in chunks of their own (EnCodec at 48 kHz) are left to it.

    Args:
        model: folder or Hub id of an `EncodecModel`, or "bundled".
        device: "cpu", "cuda", ...
    """

    def __init__(self, model: str = "bundled", device: str = "cpu") -> None:
        self.name = model
        self.model: Any = open_encodec(place_of(model, "codec"))
        self.model.to(device)
        self.config = self.model.config

    @property
    def codebooks_sha256(self) -> str:
        """Of all codebook vectors, which tell one trained model from another."""
        digest = hashlib.sha256()
        for layer in self.model.quantizer.layers:
            digest.update(layer.codebook.embed.cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def encode(self, samples: np.ndarray, bandwidth: float | None = None) -> Codes:
        """Codes of samples (N,) or (channels, N) at the model's rate; bandwidth in kbit/s, default the highest.

        ValueError for a bandwidth or a number of channels that the model does not have, and for no samples.
        """
        allowed = self.config.target_bandwidths
        bandwidth = allowed[-1] if bandwidth is None else bandwidth
        if bandwidth not in allowed:
            raise ValueError(
                f"bandwidth must be one of {', '.join(f'{b:g}' for b in allowed)} kbit/s; got {bandwidth:g}"
            )
        audio = torch.from_numpy(np.atleast_2d(samples))
        if len(audio) != self.config.audio_channels or not audio.shape[1]:
            raise ValueError(
                f"expected samples ({self.config.audio_channels}, N) with N > 0, got {tuple(audio.shape)}; load with "
                f"load_audio(file, {self.config.sampling_rate}, channels={self.config.audio_channels})"
            )
        scales: list[float] = []
        if self.config.chunk_length_s is not None:
            chunks, chunk_scales, padding = self.model.encode(
                audio[None].to(self.model.device), bandwidth=bandwidth, return_dict=False
            )
            codes = chunks[:, 0].permute(1, 0, 2).flatten(1)[:, : chunks.shape[0] * chunks.shape[-1] - padding]
            scales = [float(scale) for scale in chunk_scales if scale is not None]
        else:
            codes = torch.cat(
                [self._encode_block(audio, block, bandwidth) for block in self._blocks(audio.shape[1])], 1
            )
        return Codes(
            codes.cpu().numpy().astype(np.int16),
            self.config.codebook_size,
            self.config.sampling_rate,
            len(audio),
            audio.shape[1],
            self.name,
            self.codebooks_sha256,
            scales,
        )

    @torch.no_grad()
    def decode(self, coded: Codes) -> np.ndarray:
        """Samples (channels, num_samples) float32; ValueError if the codes are of another model."""
        if coded.codebooks_sha256 != self.codebooks_sha256:
            raise ValueError(
                f"the codes were written by {coded.model} and {self.name} has other codebooks; decode with the model "
                "that encoded them (--model)"
            )
        codes = torch.from_numpy(coded.codes.astype(np.int64))
        if self.config.chunk_length_s is not None:
            audio = self._decode_chunks(codes, coded.scales)
        else:
            audio = torch.cat([self._decode_block(codes, block) for block in self._blocks(coded.num_samples)], 1)
        return audio[:, : coded.num_samples].cpu().numpy()

    def _blocks(self, num_samples: int) -> list[tuple[int, int]]:
        """First and last frame (exclusive) of each block."""
        frames = -(-num_samples // self.config.hop_length)
        size = max(1, round(BLOCK_SECONDS * self.config.sampling_rate / self.config.hop_length))
        return [(first, min(first + size, frames)) for first in range(0, frames, size)]

    @property
    def _context(self) -> int:
        """Frames of context on either side of a block."""
        return round(CONTEXT_SECONDS * self.config.sampling_rate / self.config.hop_length)

    def _encode_block(self, audio: Tensor, block: tuple[int, int], bandwidth: float) -> Tensor:
        """Codes (K, frames) of a block of audio (channels, N)."""
        first, hop = max(0, block[0] - self._context), self.config.hop_length
        piece = audio[:, first * hop : (block[1] + self._context) * hop]
        chunks = self.model.encode(piece[None].to(self.model.device), bandwidth=bandwidth, return_dict=False)[0]
        return chunks[0, 0][:, block[0] - first : block[1] - first]

    def _decode_block(self, codes: Tensor, block: tuple[int, int]) -> Tensor:
        """Audio (channels, frames * hop_length) of a block of codes (K, T)."""
        first, hop = max(0, block[0] - self._context), self.config.hop_length
        piece = codes[:, first : block[1] + self._context].to(self.model.device)
        audio = self.model.decode(piece[None, None], [None], return_dict=False)[0][0]
        return audio[:, (block[0] - first) * hop : (block[1] - first) * hop]

    def _decode_chunks(self, codes: Tensor, scales: list[float]) -> Tensor:
        """Audio (channels, N) of a model with chunks of its own, whose last one may be shorter."""
        length = -(-int(self.config.chunk_length or 0) // self.config.hop_length)
        chunks = [chunk.to(self.model.device)[None] for chunk in codes.split(length, dim=1)]
        padding = length - chunks[-1].shape[-1]
        chunks[-1] = torch.nn.functional.pad(chunks[-1], (0, padding))
        factors: list[Any] = [torch.tensor([[s]], device=self.model.device) for s in scales] or [None] * len(chunks)
        return self.model.decode(torch.stack(chunks), factors, last_frame_pad_length=padding, return_dict=False)[0][0]


def bits_of(codebook_size: int) -> int:
    """Bits of a code: 9 for 512."""
    return (codebook_size - 1).bit_length()


def write_codes(coded: Codes, file: Path) -> None:
    """Write a code file."""
    bits = bits_of(coded.codebook_size)
    header = {
        "model": coded.model,
        "codebooks_sha256": coded.codebooks_sha256,
        "sample_rate": coded.sample_rate,
        "channels": coded.channels,
        "num_samples": coded.num_samples,
        "codebooks": coded.codes.shape[0],
        "codebook_size": coded.codebook_size,
        "frames": coded.codes.shape[1],
        "scales": coded.scales,
    }
    text = json.dumps(header).encode()
    frame_major = coded.codes.T.reshape(-1, 1).astype(np.int64)
    packed = np.packbits((frame_major >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8))
    file.write_bytes(MAGIC + struct.pack("<I", len(text)) + text + packed.tobytes())


def read_codes(file: Path) -> Codes:
    """Read a code file; ValueError if it is none, or cut short."""
    content = file.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{file} is no code file of hfaudio (it does not begin with {MAGIC.decode()})")
    try:
        start = len(MAGIC) + 4
        (length,) = struct.unpack("<I", content[len(MAGIC) : start])
        header = json.loads(content[start : start + length])
        bits, count = bits_of(header["codebook_size"]), header["codebooks"] * header["frames"]
        packed = np.frombuffer(content[start + length :], dtype=np.uint8)
        if len(packed) != -(-count * bits // 8):
            raise ValueError(f"{len(packed)} bytes of codes, expected {-(-count * bits // 8)}")
        digits = np.unpackbits(packed)[: count * bits].reshape(count, bits)
        codes = digits @ (1 << np.arange(bits - 1, -1, -1))
        return Codes(
            codes.reshape(header["frames"], header["codebooks"]).T.astype(np.int16),
            header["codebook_size"],
            header["sample_rate"],
            header["channels"],
            header["num_samples"],
            header["model"],
            header["codebooks_sha256"],
            header["scales"],
        )
    except (struct.error, KeyError, ValueError) as error:  # json's errors are ValueErrors
        raise ValueError(f"{file} is damaged: {error}; encode or copy it again") from error
