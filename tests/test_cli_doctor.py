import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from hfaudio import cli
from hfaudio.data.datasets import DataArguments
from hfaudio.data.doctor import FRAMES_PER_SECOND


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_split(file: Path, seeds: list[int]) -> None:
    """Two seconds of noise for each seed."""
    rows = []
    for seed in seeds:
        content = io.BytesIO()
        noise = 0.1 * np.random.default_rng(seed).uniform(-1, 1, 32_000)
        soundfile.write(content, noise, 16_000, format="FLAC")
        rows.append({"audio": {"bytes": content.getvalue(), "path": None}, "said": "a cold bold abba call"})
    pq.write_table(pa.Table.from_pylist(rows), file)


@pytest.fixture
def leaking(tmp_path: Path) -> str:
    """A recording of the training split is in the test split."""
    folder = tmp_path / "leaking"
    folder.mkdir()
    write_split(folder / "train.parquet", [0, 1, 2])
    write_split(folder / "test.parquet", [2, 3])
    return str(folder)


def test_exit_code_1_and_files_where_something_must_be_fixed(
    leaking: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "report.json", tmp_path / "report.html"]
    options = ["--text_column", "said", "--json", str(files[0]), "--html", str(files[1])]
    assert cli.main(["doctor", leaking, *options]) == 1
    out = capsys.readouterr().out
    assert "fix   copies_across: 1 in both train and test" in out
    assert json.loads(files[0].read_text(encoding="utf-8"))["verdict"] == "fix"
    assert "copies_across" in files[1].read_text(encoding="utf-8")


def test_exit_code_0_where_nothing_must_be_fixed(leaking: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["doctor", leaking, "--text_column", "said"]
    assert cli.main([*common, "--splits", "train"]) == 0
    assert cli.main([*common, "--max_rows", "2"]) == 0  # the copy is the third row
    assert cli.main([*common, "--accept", "copies_across", "--streaming"]) == 0
    assert "copies_across (accepted)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "has no column 'text', it has: audio, said; set --text_column"),
        (["--text_column", "said", "--max_rows", "0"], "--max_rows must be at least 1; got 0"),
        (["--text_column", "said", "--accept", "copies"], "--accept takes names of findings"),
        (["--text_column", "said", "--normalizer", "latin"], "--normalizer must be one of"),
        (["--text_column", "said", "--json", "no/such/folder/x.json"], "there is no folder no/such/folder"),
    ],
)
def test_exit_code_2_for_mistakes(
    leaking: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", leaking, *options]) == 2
    assert message in capsys.readouterr().err


def test_options_are_declared_where_they_are_used() -> None:
    assert set(cli.DOCTOR_OPTIONS) <= set(DataArguments.__dataclass_fields__)
    assert cli.build_parser().parse_args(["doctor", "d"]).frames_per_second == FRAMES_PER_SECOND
