"""Codes of a frozen codec, computed once for each recording, kept on disk, and cut into training examples.

A cache is a folder of Arrow files below a name made of what the codes depend on: the codec's encoder and codebooks,
the number of codebooks and of channels, and the window. So another codec never meets its codes. An entry's key is a
hash of the encoded audio: captions may change, rows be added and moved, and equal recordings share an entry.
"""

import hashlib
import json
import logging
import os
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch.nn.utils import parametrize
from tqdm import tqdm

from hfaudio.audio.augment import example_rng
from hfaudio.data.crops import Caption, draw_caption
from hfaudio.data.datasets import NO_AUDIO, RowCheck, SkipRow, own_rows
from hfaudio.data.examples import BucketedExamples, Example
from hfaudio.models.musicgen import encode_audio

logger = logging.getLogger(__name__)

CONTEXT_SECONDS = 1.0  # heard on either side of a window, so that no seam is in the codes
KEY = "audio_sha256"  # column of rows
SHARD_ENTRIES = 1000  # what a killed run may lose at most, with what waits to be encoded
WAITING_BATCHES = 16  # of windows of other lengths, before incomplete batches are encoded
DECODERS = 2  # threads; libsndfile decodes outside Python's lock
SCHEMA = pa.schema(
    {"key": pa.string(), "codes": pa.large_binary(), "frames": pa.int32(), "seconds": pa.float32(), "crc": pa.uint32()}
)


def codec_hash(codec: Any) -> str:
    """SHA-256 of what codes depend on: weights of encoder and codebooks, and the config. Not of the decoder."""
    digest = hashlib.sha256()
    config = codec.config.to_dict()
    matter = (  # what no shape of a weight shows
        "sampling_rate",
        "upsampling_ratios",
        "dilation_growth_rate",
        "use_causal_conv",
        "pad_mode",
        "normalize",
        "chunk_length_s",
    )
    digest.update(json.dumps({name: config[name] for name in matter}).encode())
    for name, weight in sorted(codec.state_dict().items()):
        if name.startswith("encoder.") or name.endswith("codebook.embed"):
            digest.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def default_folder() -> Path:
    """Where caches lie that nobody named a place for: beside the cache of `datasets`."""
    return Path(datasets.config.HF_DATASETS_CACHE, "hfaudio_codes")


def audio_key(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row's encoded audio."""
    audio = row["audio"] or NO_AUDIO
    content = audio["bytes"]
    if content is None:
        if audio["path"] is None:
            raise SkipRow("missing")
        try:
            with fsspec.open(audio["path"], "rb") as file:
                content = file.read()
        except OSError as error:
            raise SkipRow("missing") from error
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class CachedCodes:
    """Codes of the rows of a dataset: all columns but the audio, with `audio_sha256`, `frames` and `seconds`."""

    rows: datasets.Dataset
    store: "CodeStore"
    skipped: dict[str, int]  # rows that have no codes, by reason, on all ranks
    frame_seconds: float  # of a frame of codes; a recording's last one may reach beyond its end

    def codes(self, index: int) -> np.ndarray:
        """Codes (K, T) int16 of a whole recording."""
        return self.store[self.rows[index][KEY]]


class CodeStore:
    """The entries of a cache folder, memory-mapped; one writer for each rank.

    A file that is cut short or whose check sums do not fit is named and left out, so that its recordings are encoded
    again.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]
        self.folder = folder / name
        self.settings = json.dumps(settings, sort_keys=True)
        self.num_codebooks: int = settings["num_codebooks"]
        self.rank = rank
        self.entries: dict[str, tuple[int, int]] = {}  # shard and row
        self.shards: list[pa.Table] = []
        self.waiting: list[dict[str, Any]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.load()

    def load(self) -> None:
        """Open what all ranks have written."""
        self.entries, self.shards = {}, []
        for file in sorted(self.folder.glob("*.arrow")):
            try:
                self._open(file)
            except (pa.ArrowException, ValueError, OSError) as error:
                logger.warning("%s is damaged (%s); its recordings are encoded again", file, error)

    def _open(self, file: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        written_by = (table.schema.metadata or {}).get(b"settings", b"").decode()
        if written_by != self.settings:
            raise ValueError(f"it was written for {written_by or 'something else'}")
        for codes, crc in zip(table["codes"], table["crc"], strict=True):
            if zlib.crc32(codes.as_buffer()) != crc.as_py():
                raise ValueError("a check sum does not fit")
        number = len(self.shards)
        self.shards.append(table)
        self.entries |= {key: (number, row) for row, key in enumerate(table["key"].to_pylist())}

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def __getitem__(self, key: str) -> np.ndarray:
        """Codes (K, T) int16."""
        shard, row = self.entries[key]
        content = self.shards[shard]["codes"][row].as_buffer()
        return np.frombuffer(content, dtype=np.int16).reshape(self.num_codebooks, -1)

    def seconds(self, key: str) -> float:
        """Length of a recording."""
        shard, row = self.entries[key]
        return self.shards[shard]["seconds"][row].as_py()

    def add(self, key: str, codes: np.ndarray, seconds: float) -> None:
        """Keep the codes (K, T) of a recording; they are on disk after the next `write`."""
        content = np.ascontiguousarray(codes, dtype=np.int16).tobytes()
        entry = {"key": key, "codes": content, "frames": codes.shape[1], "seconds": seconds}
        self.waiting.append(entry | {"crc": zlib.crc32(content)})
        if len(self.waiting) >= SHARD_ENTRIES:
            self.write()

    def write(self) -> None:
        """Put what waits into a file of its own, which is there whole or not at all."""
        if not self.waiting:
            return
        digest = hashlib.sha256("".join(entry["key"] for entry in self.waiting).encode()).hexdigest()[:16]
        file = self.folder / f"{self.rank:04d}-{digest}.arrow"
        table = pa.Table.from_pylist(self.waiting, SCHEMA.with_metadata({"settings": self.settings}))
        unfinished = file.with_suffix(f".{os.getpid()}")
        with pa.ipc.new_file(unfinished, table.schema) as writer:
            writer.write_table(table)
        unfinished.replace(file)
        self.waiting.clear()


def cache_codes(
    rows: datasets.Dataset | datasets.IterableDataset,
    row_check: RowCheck,
    codec: Any,
    folder: Path,
    *,
    num_codebooks: int,
    window_seconds: float = 30.0,
    batch_size: int | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> CachedCodes:
    """The codes of all rows that can be used; only those that the folder lacks are computed.

    Each rank encodes its share and waits for the others. A recording longer than a window is encoded window by
    window, each with a second of what is around it, so that memory is bounded; nothing of it is left out. Windows are
    stacked with others of the same length only: the codec hears silence behind a clip, and would code its end
    otherwise. Rows that cannot be used are counted by reason.

    Args:
        rows: as `load_split` gives them, a stream too, which is read once from beginning to end.
        codec: an EnCodec on the device that is to encode.
        num_codebooks: in stereo those of left and right together.
        batch_size: windows encoded at once. Default: 16 on a GPU, 1 on a CPU.

    Raises ValueError if no row can be used, and for a `row_check` at another rate than the codec's.
    """
    rate = codec.config.sampling_rate
    if row_check.sample_rate != rate:
        raise ValueError(
            f"rows are decoded at {row_check.sample_rate} Hz and the codec works at {rate} Hz; give the row_check "
            "the codec's sampling_rate"
        )
    settings = {
        "codec": codec_hash(codec),
        "num_codebooks": num_codebooks,
        "channels": row_check.channels,
        "window_seconds": window_seconds,
    }
    store = CodeStore(folder, settings, rank)
    share = own_rows(rows, rank, ranks)
    total = len(share) if isinstance(share, datasets.Dataset) else None
    found: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    encoder = _Encoder(codec, num_codebooks, window_seconds, batch_size, store)
    known = len(store.entries)
    try:
        with parametrize.cached():  # else weight normalisation is computed anew for every batch
            for row, key, samples in _decoded(share, row_check, store, total, show=rank == 0):
                if isinstance(samples, SkipRow):
                    skipped[samples.reason] += 1
                    continue
                if samples is not None:
                    encoder.add(key, samples)
                found.append({name: value for name, value in row.items() if name != "audio"} | {KEY: key})
            encoder.finish()
    finally:
        encoder.close()
    store.write()
    if ranks > 1:
        everything: list[Any] = [None] * ranks
        patience: Any = dist.new_group(backend="gloo", timeout=timedelta(days=1))  # for the slowest rank
        dist.all_gather_object(everything, (found, skipped), patience)  # all have written by then
        found = sorted((row for part, _ in everything for row in part), key=lambda row: row["id"])
        skipped = sum((counts for _, counts in everything), Counter())
    store.load()
    logger.info(
        "codes of %d rows in %s (%d recordings were there before); skipped: %s",
        len(found),
        store.folder,
        known,
        dict(skipped) or "none",
    )
    if not found:
        raise ValueError(f"no row can be used: {dict(skipped)}; hfaudio doctor says more")
    for row in found:
        row["frames"] = store[row[KEY]].shape[1]
        row["seconds"] = store.seconds(row[KEY])
    return CachedCodes(datasets.Dataset.from_list(found), store, dict(skipped), codec.config.hop_length / rate)


def _decoded(
    rows: Any, row_check: RowCheck, store: CodeStore, total: int | None, *, show: bool
) -> Iterator[tuple[dict[str, Any], str, np.ndarray | SkipRow | None]]:
    """Rows with their key and samples (N,) or (C, N), in order, decoded ahead.

    Instead of samples None where the store has the codes or an earlier row had the same audio, and SkipRow, with an
    empty key, for a row that cannot be used. Each copy is decoded, as its own text may be refused.
    """
    met: set[str] = set()
    ahead: deque[tuple[dict[str, Any], Future[tuple[str, np.ndarray | SkipRow | None]]]] = deque()
    progress = tqdm(total=total, desc="codes", unit="clip", disable=not show)

    def load(row: dict[str, Any]) -> tuple[str, np.ndarray | SkipRow | None]:
        try:
            key = audio_key(row)
            if key not in store:
                return key, row_check.decode(row)[0]
            # The text, and the limits, may be others than when the audio was encoded.
            num_samples = round(store.seconds(key) * row_check.sample_rate)
            reason = row_check.refusal(row, row_check.normalized(row.get("text")), num_samples)
            if reason is not None:
                raise SkipRow(reason)
            return key, None
        except SkipRow as skip:
            return "", skip

    def first() -> tuple[dict[str, Any], str, np.ndarray | SkipRow | None]:
        row, future = ahead.popleft()
        key, samples = future.result()
        progress.update()
        if isinstance(samples, SkipRow):
            return row, key, samples
        is_copy = key in met
        met.add(key)
        return row, key, None if is_copy else samples

    with ThreadPoolExecutor(DECODERS) as pool:
        for row in rows:
            ahead.append((row, pool.submit(load, row)))
            if len(ahead) > 4 * DECODERS:
                yield first()
        while ahead:
            yield first()
    progress.close()


@dataclass(frozen=True)
class _Window:
    """A piece (C, N) of a recording with what is around it; frames `first` to `end` of its codes are kept."""

    key: str
    number: int
    first: int
    end: int
    piece: np.ndarray


class _Encoder:
    """Windows of recordings in batches of equal length, and the recordings whose windows are all there.

    A GPU encodes one batch after the other. On a CPU each thread encodes clips of its own: batches gain nothing there,
    and large ones lose, as their buffers go back to the system after each layer and are mapped anew. In batches of 16
    the bundled codec takes 57 ms for each clip of 5 s and 16,600 page faults; where malloc keeps them, 30 ms and none.
    """

    def __init__(
        self, codec: Any, num_codebooks: int, window_seconds: float, batch_size: int | None, store: CodeStore
    ) -> None:
        self.codec = codec
        self.num_codebooks = num_codebooks
        self.hop = codec.config.hop_length
        self.rate = codec.config.sampling_rate
        self.window = max(1, round(window_seconds * self.rate / self.hop))  # frames
        self.context = round(CONTEXT_SECONDS * self.rate / self.hop)
        self.on_cpu = codec.device.type == "cpu"
        self.batch_size = batch_size or (1 if self.on_cpu else 16)
        self.store = store
        self.groups: dict[int, list[_Window]] = defaultdict(list)  # by samples
        self.parts: dict[str, list[np.ndarray | None]] = {}
        self.lengths: dict[str, int] = {}
        self.threads = torch.get_num_threads()
        workers, setting = (self.threads, 1) if self.on_cpu else (1, self.threads)
        self.pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(setting,))
        self.running: deque[tuple[list[_Window], Future[np.ndarray]]] = deque()

    def add(self, key: str, samples: np.ndarray) -> None:
        """Take a recording, (N,) or (C, N)."""
        samples = np.atleast_2d(samples)
        frames = -(-samples.shape[1] // self.hop)
        starts = range(0, frames, self.window)
        self.parts[key] = [None] * len(starts)
        self.lengths[key] = samples.shape[1]
        for number, start in enumerate(starts):
            end = min(start + self.window, frames)
            first = max(0, start - self.context)
            # A copy: it may wait for others of its length, and a view would keep the whole recording in memory.
            piece = samples[:, first * self.hop : (end + self.context) * self.hop].copy()
            group = self.groups[piece.shape[1]]
            group.append(_Window(key, number, start - first, end - first, piece))
            if len(group) == self.batch_size:
                self._start(self.groups.pop(piece.shape[1]))
        if sum(map(len, self.groups.values())) > WAITING_BATCHES * self.batch_size:
            self._start(self.groups.pop(max(self.groups, key=lambda length: len(self.groups[length]))))

    def finish(self) -> None:
        """Encode what waits."""
        for group in self.groups.values():
            self._start(group)
        while self.running:
            self._collect()

    def close(self) -> None:
        """Also after an error; the number of threads is that of before again."""
        self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.threads)

    def _start(self, group: list[_Window]) -> None:
        self.running.append((group, self.pool.submit(self._codes, group)))
        if len(self.running) > 2 * self.threads:
            self._collect()

    def _codes(self, group: list[_Window]) -> np.ndarray:
        audio = torch.from_numpy(np.stack([window.piece for window in group])).to(self.codec.device)
        return encode_audio(self.codec, audio, self.num_codebooks).to(torch.int16).cpu().numpy()

    def _collect(self) -> None:
        group, future = self.running.popleft()
        for window, codes in zip(group, future.result(), strict=True):
            parts = self.parts[window.key]
            parts[window.number] = codes[:, window.first : window.end]
            done = [part for part in parts if part is not None]
            if len(done) == len(parts):
                del self.parts[window.key]
                whole = np.concatenate(done, axis=1)
                self.store.add(window.key, whole, self.lengths.pop(window.key) / self.rate)


class _Slot(NamedTuple):
    """From where in a row a window of some frames may come: the number-th of so many equal parts."""

    row: int
    number: int
    parts: int
    frames: int
    name: str  # by which its random numbers differ from those of the row's other windows


class CodeExamples(BucketedExamples):
    """Windows of cached codes with captions: `codes` (K, T), T at most `crop_frames`, and `text`.

    In training (`random_offset`) an epoch covers every recording once: one of M frames is divided into
    floor(M / crop) equal slots, at least one, and each epoch takes a window from a random place in each. In evaluation
    windows lie side by side, and the last one ends with the recording: every frame is seen.

    Args:
        openings: short windows, a quarter as long, that are drawn beside each window. A model that hears the past
            reads tempo and key off it, and learns to heed a caption in the first second only; here every code is in
            the first second of something.
    """

    def __init__(
        self,
        cached: CachedCodes,
        *,
        crop_frames: int,
        caption: Caption,
        seed: int = 0,
        random_offset: bool = True,
        openings: int = 0,
    ) -> None:
        self.cached = cached
        self.rows = cached.rows
        self.caption = caption
        self.seed = seed
        self.random_offset = random_offset
        self.lengths: list[int] = list(cached.rows["frames"])
        self.slots: list[_Slot] = []
        short = max(1, crop_frames // 4)
        for row, frames in enumerate(self.lengths):
            count = max(1, frames // crop_frames if random_offset else -(-frames // crop_frames))
            self.slots += [_Slot(row, n, count, min(crop_frames, frames), f"crop {n}") for n in range(count)]
            self.slots += [_Slot(row, 0, 1, min(short, frames), f"opening {n}") for n in range(openings * count)]
        self.seconds = [slot.frames * cached.frame_seconds for slot in self.slots]

    def __getitem__(self, index: int) -> Example:
        slot = self.slots[index]
        row = self.rows[slot.row]
        room = self.lengths[slot.row] - slot.frames
        start = min(slot.number * slot.frames, room)
        if self.random_offset:
            rng = example_rng(self.seed, self.epoch, slot.name, row["id"])
            start = min(int((slot.number + rng.random()) * (room + 1) / slot.parts), room)
        codes = self.cached.store[row[KEY]][:, start : start + slot.frames]
        text = draw_caption(self.caption, row, self.seed, self.epoch, slot.name)
        return {"codes": codes.astype(np.int64), "text": text, "seconds": self.seconds[index]}
