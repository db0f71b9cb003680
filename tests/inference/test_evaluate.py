import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from transformers import AutoConfig, pipeline

from hfaudio.audio.io import load_audio
from hfaudio.data.datasets import DataArguments, RowCheck, SkipCounts, load_split
from hfaudio.inference.evaluate import blocks, evaluate, recognize, usable_clips
from hfaudio.metrics import word_error_rate
from hfaudio.text.normalize import normalize

RATE = 16_000


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="FLAC")
    return file.getvalue()


@pytest.fixture(scope="module")
def rows(noise: np.ndarray) -> list[dict]:
    """Eleven clips of 0.5 to 3 s that can be used, and four that cannot."""
    texts = ["A dog.", "gosnag", "It sang!", "a g s", "a dog sang"]
    clips = [noise[7000 * i : 7000 * i + 8000 + 4000 * (i * 7 % 11)] for i in range(11)]
    rows = [
        {"audio": {"bytes": flac(clip), "path": f"{i}.flac"}, "text": texts[i % 5], "speaker": f"s{i % 3}"}
        for i, clip in enumerate(clips)
    ]
    corrupt = {"audio": {"bytes": b"no sound at all", "path": "x.wav"}, "text": "a", "speaker": "s1"}
    silent = {"audio": {"bytes": flac(noise[:8000]), "path": "e.wav"}, "text": " ... ", "speaker": "s1"}
    short = {"audio": {"bytes": flac(noise[:10]), "path": "s.wav"}, "text": "a", "speaker": "s1"}
    return [rows[0], corrupt, *rows[1:5], silent, short, *rows[5:], corrupt]


@pytest.fixture(scope="module")
def dataset(rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    pq.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    return folder


def run(model: Path, dataset: Path, tmp_path: Path, **options: object) -> dict:
    fields = {name: options.pop(name) for name in ("streaming", "normalizer", "max_eval_examples") if name in options}
    arguments = DataArguments(dataset=str(dataset), **fields)
    return evaluate(
        str(model), arguments, output=tmp_path / "out" / "metrics.json", device="cpu", progress=False, **options
    )


def expected_rate(model: Path, rows: list[dict], normalizer: str) -> float:
    """The same by hand: the stock pipeline clip by clip, and `word_error_rate`."""
    stock = pipeline("automatic-speech-recognition", model=str(model), device="cpu")
    usable = [row for row in rows if row["audio"]["path"].endswith(".flac")]
    heard = [stock({"raw": load_audio(row["audio"]), "sampling_rate": RATE})["text"] for row in usable]
    return word_error_rate(
        [normalize(row["text"], normalizer) for row in usable], [normalize(text, normalizer) for text in heard]
    ).value


def test_rates_are_those_of_the_pipeline_clip_by_clip(
    lstm_folder: Path, dataset: Path, rows: list[dict], tmp_path: Path
) -> None:
    results = run(lstm_folder, dataset, tmp_path, errors=tmp_path / "worst.md")
    metrics = results["metrics"]
    assert list(metrics) == [
        *(f"test/{measure}/greedy" for measure in ("wer", "cer", "mer")),
        *(f"test/wer/greedy/s{i}" for i in (0, 1, 2)),
    ]
    wer = metrics["test/wer/greedy"]
    assert wer["n"] == 11
    assert wer["value"] == expected_rate(lstm_folder, rows, "basic")
    assert wer["low"] <= wer["value"] <= wer["high"]
    assert [metrics[f"test/wer/greedy/s{i}"]["n"] for i in (0, 1, 2)] == [4, 4, 3]
    assert results["skipped"] == {"corrupt": 2, "too short": 1, "empty transcript": 1}
    assert results["normalizer"] == "basic"
    assert results["device"].startswith("cpu")
    assert results["rtfx"] > 0
    assert results == json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    worst = (tmp_path / "worst.md").read_text(encoding="utf-8")
    assert "a dog sang<br>" in worst


def test_batches_and_streams_give_the_same_rates(lstm_folder: Path, dataset: Path, tmp_path: Path) -> None:
    alone = run(lstm_folder, dataset, tmp_path)
    for options in ({"batch_size": 4}, {"streaming": True}):
        other = run(lstm_folder, dataset, tmp_path, **options)
        assert (other["metrics"], other["skipped"]) == (alone["metrics"], alone["skipped"])


def test_a_model_that_generates(whisper_folder: Path, dataset: Path, rows: list[dict], tmp_path: Path) -> None:
    metrics = run(whisper_folder, dataset, tmp_path, batch_size=2)["metrics"]
    assert metrics["test/wer/generate"]["value"] == expected_rate(whisper_folder, rows, "basic")
    assert "test/wer/generate/s0" in metrics


def test_the_normaliser_of_the_model_goes_before_that_of_the_user(
    lstm_folder: Path, dataset: Path, rows: list[dict], tmp_path: Path
) -> None:
    raw = run(lstm_folder, dataset, tmp_path, normalizer="none")
    assert raw["normalizer"] == "none"
    assert raw["metrics"]["test/wer/greedy"]["n"] == 12  # "..." is a transcript now
    model = tmp_path / "model"
    model.mkdir()
    for file in lstm_folder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    config = AutoConfig.from_pretrained(lstm_folder)
    config.text_normalizer = "english"
    config.save_pretrained(model)
    results = run(model, dataset, tmp_path, normalizer="none")
    assert results["normalizer"] == "english"
    assert results["metrics"]["test/wer/greedy"]["value"] == expected_rate(model, rows, "english")


def test_without_speakers_there_is_one_rate(lstm_folder: Path, rows: list[dict], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    nameless = [{name: row[name] for name in ("audio", "text")} for row in rows]
    pq.write_table(pa.Table.from_pylist(nameless), folder / "test.parquet")
    assert len(run(lstm_folder, folder, tmp_path)["metrics"]) == 3
    half = [{**row, "speaker": None if i % 2 else "ann"} for i, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(half), folder / "test.parquet")
    names = list(run(lstm_folder, folder, tmp_path)["metrics"])[3:]
    assert names == ["test/wer/greedy/ann", "test/wer/greedy/unknown"]


def test_the_first_rows_only(lstm_folder: Path, dataset: Path, tmp_path: Path) -> None:
    results = run(lstm_folder, dataset, tmp_path, max_eval_examples=4)
    assert results["metrics"]["test/wer/greedy"]["n"] == 3
    assert results["skipped"] == {"corrupt": 1}


def test_mistakes_say_what_to_do(lstm_folder: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no split 'dev', it has: test"):
        run(lstm_folder, dataset, tmp_path, split="dev")
    with pytest.raises(ValueError, match=re.escape("is no model folder: it has no config.json")):
        run(dataset, dataset, tmp_path)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        run(lstm_folder, dataset, tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="no row can be used: skipped 1 of 1 rows: corrupt 1"):
        pq.write_table(pq.read_table(dataset / "test.parquet").slice(1, 1), tmp_path / "test.parquet")
        run(lstm_folder, tmp_path, tmp_path)


def test_every_row_is_counted(dataset: Path) -> None:
    rows, skipped = load_split(DataArguments(dataset=str(dataset)), "test"), SkipCounts()
    clips = list(usable_clips(rows, RowCheck(), skipped, progress=False))
    assert (len(clips), skipped.skipped, skipped.total) == (11, 4, 15)
    assert (clips[0].text, clips[0].speaker, len(clips[0].samples)) == ("a dog", "s0", 8000)


def test_texts_come_in_the_order_of_the_clips(lstm_folder: Path, noise: np.ndarray) -> None:
    stock = pipeline("automatic-speech-recognition", model=str(lstm_folder), device="cpu")
    clips = [noise[:n] for n in (30_000, 9_000, 50_000, 20_000)]
    alone = [stock({"raw": clip, "sampling_rate": RATE})["text"] for clip in clips]
    assert len(set(alone)) == 4
    assert recognize(stock, clips, 3) == alone


def test_blocks() -> None:
    assert list(blocks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(blocks([], 3)) == []


def test_a_language_model_is_a_variant_of_its_own(lm_folder: Path, dataset: Path, tmp_path: Path) -> None:
    with_lm, greedy = run(lm_folder, dataset, tmp_path), run(lm_folder, dataset, tmp_path, language_model=False)
    assert "test/wer/lm" in with_lm["metrics"] and "test/wer/greedy" not in with_lm["metrics"]
    assert "test/wer/greedy" in greedy["metrics"]
    assert with_lm["metrics"]["test/cer/lm"]["value"] != greedy["metrics"]["test/cer/greedy"]["value"]
