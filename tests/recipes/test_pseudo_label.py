"""recipes/pseudo_label.py run for real on songs of tones."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from hfaudio.data.datasets import DataArguments, load_split

RECIPE = Path(__file__).parents[2] / "recipes" / "pseudo_label.py"
ALL = ["--min_log_prob", "-100", "--min_agreement", "0", "--device", "cpu", "--normalizer", "basic"]


@pytest.fixture(scope="module")
def run_labels(open_page: Callable[[str], ModuleType]):
    recipe = open_page("recipes/pseudo_label.py")
    return lambda *argv: recipe.main([str(argument) for argument in argv])


@pytest.fixture(scope="module")
def unlabelled(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The songs without their texts, and two rows that hold no audio."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for file in sorted(songs.glob("train-*.parquet")):
        table = pq.read_table(file).drop_columns(["text"])
        pq.write_table(table.slice(0, 8), folder / file.name)
    rows = pq.read_table(folder / "train-00000-of-00003.parquet").to_pylist()
    rows[1]["audio"] = {"bytes": b"no audio", "path": "bad.flac"}
    rows[2]["audio"] = {"bytes": b"", "path": "empty.flac"}
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00003.parquet")
    return folder


def labelled(folder: Path) -> list[tuple[str, str]]:
    rows = [row for file in sorted(folder.glob("train-*.parquet")) for row in pq.read_table(file).to_pylist()]
    return [(row["id"], row["text"]) for row in rows]


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_of_all_readable_rows_open_as_a_dataset(
    small_whisper: Path, unlabelled: Path, tmp_path: Path, run_labels, streaming: bool
) -> None:
    options = ["--streaming", "True"] if streaming else []
    results = run_labels("--teacher", small_whisper, "--dataset", unlabelled, "--output_dir", tmp_path, *ALL, *options)
    rejected = sum(results["rejected"].values())
    assert results["kept"] + rejected == 24
    assert {"corrupt", "empty"} & set(results["rejected"])
    entries = [json.loads(line) for file in tmp_path.glob("rejected-*") for line in file.read_text().splitlines()]
    assert len(entries) == rejected and all(entry["reason"] for entry in entries)
    if results["kept"]:
        rows = load_split(DataArguments(dataset=str(tmp_path)), "train")
        assert len(rows) == results["kept"] and all(rows["text"])


def test_what_is_improbable_is_left_out_with_its_reason(
    small_whisper: Path, unlabelled: Path, tmp_path: Path, run_labels
):
    options = ["--teacher", small_whisper, "--dataset", unlabelled, "--device", "cpu", "--min_log_prob", "-0.0001"]
    results = run_labels(*options, "--output_dir", tmp_path)
    assert results["kept"] == 0
    assert sum(results["rejected"].values()) == 24


def test_a_killed_run_goes_on_and_labels_each_row_once(
    small_whisper: Path, unlabelled: Path, tmp_path: Path, run_labels
):
    options = ["--teacher", small_whisper, "--dataset", unlabelled, "--part_rows", "4", *ALL]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_labels(*options, "--output_dir", whole)
    command = [sys.executable, str(RECIPE), *map(str, options), "--output_dir", str(broken)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    deadline = time.time() + 120
    while not (broken / "train-0-00001.parquet").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for file in broken.glob("train-0-0000[45].parquet"):  # it may have been faster than the signal
        file.unlink()
    results = run_labels(*options, "--output_dir", broken)
    assert labelled(broken) == labelled(whole)
    assert results["kept"] == len(labelled(whole))


def test_another_run_does_not_go_on_in_the_folder(small_whisper: Path, unlabelled: Path, tmp_path: Path, run_labels):
    options = ["--teacher", small_whisper, "--dataset", unlabelled, "--output_dir", tmp_path, "--device", "cpu"]
    run_labels(*options)
    with pytest.raises(ValueError, match=r"was begun with another min_agreement \(0.8, now 0.5\); choose another"):
        run_labels(*options, "--min_agreement", "0.5")


def test_two_processes_share_the_rows(small_whisper: Path, unlabelled: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533"]
    command += [str(RECIPE), "--teacher", str(small_whisper), "--dataset", str(unlabelled), "--part_rows", "4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([*command, "--output_dir", str(tmp_path), *ALL], check=True, env=environment, timeout=250)
    results = json.loads((tmp_path / "labels.json").read_text())
    assert results["settings"]["ranks"] == 2
    assert results["kept"] + sum(results["rejected"].values()) == 24
    ids = [row for row, _ in labelled(tmp_path)]
    assert len(ids) == len(set(ids)) == results["kept"]
    assert list(tmp_path.glob("train-1-*.parquet"))
    shutil.rmtree(tmp_path)
