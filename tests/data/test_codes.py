"""The code cache: the codes of a codec called clip by clip, computed once, found again, and mended where damaged."""

import copy
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from transformers import EncodecModel

from hfaudio.data.bundled import path
from hfaudio.data.codes import CachedCodes, CodeExamples, _Encoder, cache_codes, codec_hash
from hfaudio.data.datasets import RowCheck
from hfaudio.inference.codec import Codec
from hfaudio.models.musicgen import encode_audio

RATE, HOP = 16_000, 640
CHECK = RowCheck(RATE, "none", max_seconds=60)


@pytest.fixture(scope="module")
def codec() -> Any:
    return EncodecModel.from_pretrained(path("codec")).eval()


def tune(seconds: float, seed: int) -> np.ndarray:
    """Notes of a third of a second."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitches = 220 * 2 ** (rng.integers(0, 24, 200) / 12)
    return (0.3 * np.sin(2 * np.pi * pitches[(3 * time).astype(int)] * time)).astype(np.float32)


def row(samples: np.ndarray | bytes, number: int, text: str = "a tune") -> dict[str, Any]:
    content = samples
    if not isinstance(samples, bytes):
        file = io.BytesIO()
        soundfile.write(file, samples.T, RATE, format="FLAC")
        content = file.getvalue()
    return {"audio": {"bytes": content, "path": None}, "text": text, "id": f"clip-{number}"}


def table(*rows: dict[str, Any]) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(rows))


def cached(rows: Any, codec: Any, folder: Path, **options: Any) -> CachedCodes:
    return cache_codes(rows, options.pop("check", CHECK), codec, folder, num_codebooks=4, **options)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the audio that is encoded from here on."""
    shapes: list[tuple[int, ...]] = []

    def spy(codec: Any, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        shapes.append(tuple(audio.shape))
        return encode_audio(codec, audio, num_codebooks)

    monkeypatch.setattr("hfaudio.data.codes.encode_audio", spy)
    return shapes


def test_codes_are_those_of_the_codec_called_clip_by_clip(
    codec: Any, tmp_path: Path, calls: list[tuple[int, ...]]
) -> None:
    clips = [tune(seconds, number) for number, seconds in enumerate((2, 1.5, 2, 2, 1.5, 0.3))]
    found = cached(table(*(row(clip, n) for n, clip in enumerate(clips))), codec, tmp_path, batch_size=2)
    assert sorted(calls) == [(1, 1, 4_800), (1, 1, 32_000), (2, 1, 24_000), (2, 1, 32_000)]  # equal lengths
    for number, clip in enumerate(clips):
        sent = torch.from_numpy((np.round(clip * 32_768) / 32_768).astype(np.float32))  # FLAC has 16 bits
        alone = encode_audio(codec, sent[None, None], 4)[0].numpy()
        assert found.codes(number).dtype == np.int16
        assert found.codes(number).shape == alone.shape
        assert (found.codes(number) == alone).mean() > 0.995  # sums of other batch sizes are rounded otherwise
        assert found.rows[number]["frames"] == alone.shape[1]
    assert found.rows["id"] == [f"clip-{n}" for n in range(6)]
    assert "audio" not in found.rows.column_names


def test_columns_of_the_rows_stay_what_they_are(codec: Any, tmp_path: Path) -> None:
    facts = {"key": "d minor", "codes": "x", "crc": 3, "tempo": None}
    found = cached(table(row(tune(1, 0), 0) | facts), codec, tmp_path)
    assert {name: found.rows[0][name] for name in facts} == facts


def test_song_of_several_windows_has_the_codes_of_the_codec_for_files(codec: Any, tmp_path: Path) -> None:
    """Windows of 30 s with a second around them, as `hfaudio codec encode` has."""
    song = np.round(tune(62.3, 1) * 32_768) / 32_768
    found = cached(table(row(song, 0)), codec, tmp_path, check=RowCheck(RATE, "none", max_seconds=600))
    coded = Codec().encode(song.astype(np.float32), 0.9).codes
    assert found.codes(0).shape == coded.shape == (4, -(-len(song) // HOP))
    assert (found.codes(0) == coded).mean() > 0.995


def test_second_time_nothing_is_encoded_and_captions_are_the_new_ones(
    codec: Any, tmp_path: Path, calls: list[tuple[int, ...]]
) -> None:
    first = cached(table(row(tune(1, 0), 0), row(tune(1, 1), 1)), codec, tmp_path)
    number = len(calls)
    again = cached(table(row(tune(1, 1), 1, "new"), row(tune(1, 0), 0, "words")), codec, tmp_path)
    assert len(calls) == number
    assert again.rows["text"] == ["new", "words"]
    assert np.array_equal(again.codes(0), first.codes(1))


def test_equal_recordings_are_encoded_once(codec: Any, tmp_path: Path, calls: list[tuple[int, ...]]) -> None:
    found = cached(table(*(row(tune(1, 0), n, f"text {n}") for n in range(5))), codec, tmp_path)
    assert sum(shape[0] for shape in calls) == 1
    assert found.rows["text"] == [f"text {n}" for n in range(5)]


def test_killed_run_goes_on_where_files_were_written(
    codec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr("hfaudio.data.codes.SHARD_ENTRIES", 2)
    rows = table(*(row(tune(1, n), n) for n in range(6)))
    encoded = 0

    def killed(codec: Any, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        nonlocal encoded
        if encoded == 4:
            raise KeyboardInterrupt
        encoded += 1
        return encode_audio(codec, audio, num_codebooks)

    with monkeypatch.context() as patch:
        patch.setattr("hfaudio.data.codes.encode_audio", killed)
        with pytest.raises(KeyboardInterrupt):
            cached(rows, codec, tmp_path, batch_size=1)
    kept = 2 * len(list(tmp_path.rglob("*.arrow")))
    assert kept in (2, 4)  # the last two may have been on their way from the threads
    found = cached(rows, codec, tmp_path, batch_size=1)
    assert len(calls) == 6 - kept
    assert len(found.rows) == 6


@pytest.mark.parametrize("damage", [lambda content: content[:-200], lambda content: flipped(content)])
def test_damaged_file_is_named_and_encoded_again(
    codec: Any,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
    calls: list[tuple[int, ...]],
) -> None:
    rows = table(row(tune(2, 0), 0))
    codes = cached(rows, codec, tmp_path).codes(0).copy()
    (file,) = tmp_path.rglob("*.arrow")
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        again = cached(rows, codec, tmp_path)
    assert "is damaged" in caplog.text
    assert len(calls) == 2
    assert np.array_equal(again.codes(0), codes)


def flipped(content: bytes) -> bytes:
    """One bit of the codes is another: they lie where the longest run of entropy is, before the footer."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :]


def test_another_codec_has_codes_of_its_own(codec: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = EncodecModel.from_pretrained(path("codec")).eval()
    other.quantizer.layers[0].codebook.embed.neg_()
    assert codec_hash(other) != codec_hash(codec)
    rows = table(row(tune(2, 0), 0))
    first, second = cached(rows, codec, tmp_path), cached(rows, other, tmp_path)
    assert (first.codes(0) != second.codes(0)).mean() > 0.5
    # A file moved from one cache to the other is seen through.
    (file,) = first.store.folder.glob("*.arrow")
    file.rename(second.store.folder / "moved.arrow")
    with caplog.at_level(logging.WARNING):
        again = cached(rows, other, tmp_path)
    assert "moved.arrow is damaged (it was written for" in caplog.text
    assert np.array_equal(again.codes(0), second.codes(0))


def test_hash_knows_dilations_which_no_weight_shows(codec: Any) -> None:
    config = copy.deepcopy(codec.config)
    config.num_residual_layers = 2
    first = EncodecModel(config).eval()
    config = copy.deepcopy(config)
    config.dilation_growth_rate = 3
    second = EncodecModel(config).eval()
    second.load_state_dict(first.state_dict())
    assert codec_hash(first) != codec_hash(second)


def test_hash_does_not_hear_the_decoder(codec: Any) -> None:
    other = EncodecModel.from_pretrained(path("codec")).eval()
    for weight in other.decoder.parameters():
        torch.nn.init.zeros_(weight)
    assert codec_hash(other) == codec_hash(codec)


def test_rows_that_cannot_be_used_are_counted(codec: Any, tmp_path: Path) -> None:
    rows = table(
        row(tune(1, 0), 0),
        row(b"no audio", 1),
        row(tune(0.05, 2), 2),
        row(tune(1, 3), 3, ""),
        {"audio": {"bytes": None, "path": "/nowhere.wav"}, "text": "a", "id": "clip-4"},
    )
    found = cached(rows, codec, tmp_path)
    assert found.rows["id"] == ["clip-0"]
    assert found.skipped == {"corrupt": 1, "too short": 1, "empty transcript": 1, "missing": 1}
    # Also what was encoded before is not used when its text has gone.
    with pytest.raises(ValueError, match=r"no row can be used: {'empty transcript': 1}"):
        cached(table(row(tune(1, 0), 0, "")), codec, tmp_path)


def test_many_rows_that_cannot_be_used_are_counted_too(codec: Any, tmp_path: Path) -> None:
    """More than are decoded ahead: the first rows leave the queue while others enter it."""
    rows = [row(tune(0.3, n), n) for n in range(20)]
    rows[2], rows[4], rows[19] = row(b"no audio", 2), row(b"none either", 4), row(b"nor here", 19)
    found = cached(table(*rows), codec, tmp_path)
    assert found.skipped == {"corrupt": 3}
    assert found.rows["id"] == [f"clip-{n}" for n in range(20) if n not in (2, 4, 19)]


@pytest.mark.parametrize("place", [1, 15])  # before and after the first copy has been encoded
def test_copy_of_a_recording_is_refused_for_its_own_text(codec: Any, tmp_path: Path, place: int) -> None:
    rows = [row(tune(0.3, n), n) for n in range(20)]
    rows[place] = row(tune(0.3, 0), place, text="")
    assert cached(table(*rows), codec, tmp_path).skipped == {"empty transcript": 1}


def test_rows_at_another_rate_than_the_codec_are_an_error(codec: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decoded at 8000 Hz and the codec works at 16000 Hz"):
        cached(table(row(tune(1, 0), 0)), codec, tmp_path, check=RowCheck(8_000, "none"))


def test_waiting_windows_do_not_keep_their_songs(codec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tails of songs wait for others of their length; views of the samples would keep whole songs in memory."""
    owned: list[bool] = []
    add = _Encoder.add

    def spy(encoder: Any, key: str, samples: np.ndarray) -> None:
        add(encoder, key, samples)
        owned.extend(window.piece.base is None for group in encoder.groups.values() for window in group)

    monkeypatch.setattr(_Encoder, "add", spy)
    cached(table(row(tune(5.3, 0), 0)), codec, tmp_path, window_seconds=2, batch_size=4)
    assert owned and all(owned)


def test_stream_gives_the_same_codes(codec: Any, tmp_path: Path, calls: list[tuple[int, ...]]) -> None:
    rows = table(*(row(tune(1, n), n) for n in range(5)))
    found = cached(rows, codec, tmp_path)
    number = len(calls)
    streamed = cached(rows.to_iterable_dataset(), codec, tmp_path)
    assert len(calls) == number
    assert streamed.rows["id"] == found.rows["id"]


def test_stereo_alternates_left_and_right(codec: Any, tmp_path: Path) -> None:
    sides = np.stack([tune(1, 0), tune(1, 1)])
    check = RowCheck(RATE, "none", channels=2)
    both = cache_codes(table(row(sides, 0)), check, codec, tmp_path, num_codebooks=8).codes(0)
    right = cached(table(row(sides[1], 0)), codec, tmp_path).codes(0)
    assert (both[1::2] == right).mean() > 0.995


def test_two_ranks_fill_one_cache(codec: Any, tmp_path: Path, calls: list[tuple[int, ...]]) -> None:
    rows = table(*(row(tune(1, n), n) for n in range(5)))
    for rank, first in enumerate((0, 3)):  # each with its share, as `own_rows` deals them out
        part = rows.select(range(first, (3, 5)[rank]))
        cached(part, codec, tmp_path, rank=rank)
    number = len(calls)
    assert len(cached(rows, codec, tmp_path).rows) == 5
    assert len(calls) == number


def examples_of(codec: Any, folder: Path, random_offset: bool) -> CodeExamples:
    rows = table(row(tune(10.3, 0), 0), row(tune(0.7, 1), 1))
    return CodeExamples(
        cached(rows, codec, folder),
        crop_frames=50,
        caption=lambda row, rng: f"{row['text']} {rng.random():.3f}",
        random_offset=random_offset,
    )


def test_evaluation_sees_every_frame(codec: Any, tmp_path: Path) -> None:
    examples = examples_of(codec, tmp_path, random_offset=False)
    song = examples.cached.codes(0)
    assert len(examples) == 7  # 258 frames are six windows, and a clip of 18
    pieces = [examples[n]["codes"] for n in range(6)]
    assert all(np.array_equal(piece, song[:, 50 * n : 50 * n + 50]) for n, piece in enumerate(pieces[:5]))
    assert np.array_equal(pieces[5], song[:, -50:])
    assert examples[6]["codes"].shape == (4, 18)
    assert examples.seconds == pytest.approx([2] * 6 + [0.72])


def test_seconds_of_windows_are_those_of_their_frames(codec: Any, tmp_path: Path) -> None:
    """Also behind a first row whose last frame is hardly filled (0.1 s are 3 frames of 0.04 s)."""
    found = cached(table(row(tune(0.1, 0), 0), row(tune(4, 1), 1)), codec, tmp_path)
    examples = CodeExamples(found, crop_frames=50, caption=lambda row, rng: "")
    assert examples.seconds == pytest.approx([0.12, 2, 2])


def test_training_takes_other_windows_and_captions_in_each_epoch(codec: Any, tmp_path: Path) -> None:
    examples, twin = (examples_of(codec, tmp_path, random_offset=True) for _ in range(2))
    assert len(examples) == 6
    starts: set[bytes] = set()
    for epoch in range(5):
        examples.set_epoch(epoch)
        twin.set_epoch(epoch)
        for index in (4, 1):
            assert np.array_equal(examples[index]["codes"], twin[index]["codes"])  # whatever came before
        starts.add(examples[1]["codes"].tobytes())
        assert examples[1]["codes"].shape == (4, 50)
    assert len(starts) == 5
    assert len({examples[0]["text"], twin[0]["text"]}) == 1
    before = examples[0]["text"]
    examples.set_epoch(9)
    assert examples[0]["text"] != before


def test_openings_are_short_and_have_captions_of_their_own(codec: Any, tmp_path: Path) -> None:
    whole = examples_of(codec, tmp_path, random_offset=True)
    examples = CodeExamples(whole.cached, crop_frames=50, caption=whole.caption, openings=3)
    assert len(examples) == 4 * 6
    song = examples.cached.codes(0)
    texts = set()
    for index, slot in enumerate(examples.slots):
        made = examples[index]
        assert made["codes"].shape[1] == slot.frames
        assert made["seconds"] == pytest.approx(slot.frames / 25)
        if slot.name.startswith("opening") and slot.row == 0:
            assert slot.frames == 12
            starts = np.lib.stride_tricks.sliding_window_view(song, (4, 12))[0]
            assert (starts == made["codes"]).all((1, 2)).any()
        texts.add(made["text"])
    assert len(texts) == len(examples)
