import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2Processor

import hfaudio
from hfaudio import cli
from hfaudio.data.datasets import DataArguments
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer

HEAVY = ("torch", "transformers", "datasets", "numpy", "soundfile")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained model that says something."""
    torch.manual_seed(0)
    tokenizer = build_char_tokenizer(["a dog sang"])
    model = LstmForCTC(LstmCTCConfig(vocab_size=len(tokenizer), hidden_size=16, conv_channels=16, blank_bias=-9.0))
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    Wav2Vec2Processor(SpectralFeatureExtractor(), tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recordings(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    files = [tmp_path / "one.wav", tmp_path / "two.flac"]
    for file in files:
        soundfile.write(file, 0.1 * rng.normal(size=24_000), 16_000)
    return [str(file) for file in files]


def test_help_and_version_import_nothing_heavy_and_answer_at_once() -> None:
    for option, expected in (("--help", "evaluate"), ("--version", f"hfaudio {hfaudio.__version__}")):
        program = (
            "import sys; from hfaudio.cli import main\n"
            f"try: main([{option!r}])\n"
            f"finally: print([name for name in {HEAVY} if name in sys.modules])"
        )
        best = float("inf")
        for _ in range(3):  # the best of three: other work on the machine does not count
            start = time.perf_counter()
            result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            best = min(best, time.perf_counter() - start)
        assert expected in result.stdout
        assert result.stdout.endswith("[]\n")
        assert best < 0.3


def test_data_options_are_fields_of_data_arguments() -> None:
    assert set(cli.DATA_OPTIONS) <= set(DataArguments.__dataclass_fields__)
    parsed = cli.build_parser().parse_args(["evaluate", "m", "--dataset", "d", "--max_seconds", "30"])
    given = {name: value for name, value in vars(parsed).items() if name in cli.DATA_OPTIONS}
    assert given == {"max_seconds": 30.0}  # what is not given keeps the default of DataArguments


def test_transcribe_to_standard_output(model: str, recordings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["transcribe", model, *recordings, "--format", "json"]) == 0
    one, two = capsys.readouterr().out.split("}\n{")
    first, second = json.loads(one + "}"), json.loads("{" + two)
    assert first["seconds"] == second["seconds"] == 1.5
    assert first["words"]
    assert cli.main(["transcribe", model, *recordings]) == 0
    assert capsys.readouterr().out == f"{first['text']}\n{second['text']}\n"


def test_transcribe_to_files(model: str, recordings: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "subtitles"
    for name, beginning in (("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:00:0")):
        assert cli.main(["transcribe", model, *recordings, "--format", name, "--output_dir", str(folder)]) == 0
        for stem in ("one", "two"):
            assert (folder / f"{stem}.{name}").read_text(encoding="utf-8").startswith(beginning)
    assert len(list(folder.iterdir())) == 4


def test_a_bad_recording_does_not_stop_the_others(
    model: str, recordings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "text.wav"
    bad.write_text("this is no sound")
    assert cli.main(["transcribe", model, recordings[0], str(bad), recordings[1]]) == 1
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 2
    assert f"hfaudio transcribe: {bad}: corrupt: " in output.err


def test_evaluate(model: str, tmp_path: Path, recordings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"clip": "one.wav", "text": "A dog", "speaker": "ann"},
        {"clip": "two.flac", "text": "sang", "speaker": "bob"},
        {"clip": "three.wav", "text": "missing", "speaker": "bob"},
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    output, errors = tmp_path / "results" / "metrics.json", tmp_path / "results" / "worst.md"
    command = ["evaluate", model, "--dataset", str(tmp_path / "test.jsonl"), "--audio_column", "clip"]
    assert cli.main([*command, "-o", str(output), "--errors", str(errors)]) == 0
    metrics = json.loads(output.read_text(encoding="utf-8"))["metrics"]
    assert metrics["test/wer/greedy"]["n"] == 2
    printed = capsys.readouterr().out
    assert f"test/wer/greedy {100 * metrics['test/wer/greedy']['value']:.2f} % (95 % interval" in printed
    assert "test/wer/greedy/bob" in printed
    assert "skipped 1 rows: missing" in printed
    assert "| a dog<br>" in errors.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("transcribe MODEL nothing.wav", "there is no file nothing.wav; check the path"),
        ("transcribe EMPTY ONE", "EMPTY is no model folder: it has no config.json"),
        ("transcribe MODEL ONE ONE --output_dir EMPTY", "2 of the recordings would be written to EMPTY/one.txt"),
        ("transcribe MODEL ONE --chunk_seconds 1", "chunk_seconds more than twice that, got 3 and 1"),
        ("transcribe MODEL ONE --device abacus", "there is no device 'abacus' here; choose from"),
        ("transcribe MODEL ONE --output_dir ONE", "ONE"),
        ("evaluate EMPTY --dataset bundled", "EMPTY is no model folder"),
        ("evaluate MODEL --dataset bundled --split tset", "no split 'tset', it has: train, validation, test"),
        ("evaluate MODEL --dataset bundled --text_column words", "no column 'words', it has: "),
        ("evaluate MODEL --dataset EMPTY", "no dataset in EMPTY"),
        ("evaluate MODEL --dataset bundled --normalizer none --max_seconds 0", "--min_seconds must be at least 0"),
        ("evaluate MODEL --dataset bundled -o EMPTY", "Is a directory: 'EMPTY'"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(
    model: str,
    recordings: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"MODEL": model, "EMPTY": str(empty), "ONE": recordings[0]}
    for name, place in places.items():
        command, message = command.replace(name, place), message.replace(name, place)
    assert cli.main(command.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"hfaudio {command.split()[0]}: ")
    assert message in output.err
    assert "Traceback" not in output.err
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("command", ["", "transcribe MODEL", "transcribe MODEL a.wav --format doc", "evaluate MODEL"])
def test_incomplete_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(command.split())
    assert caught.value.code == 2
    assert "usage: hfaudio" in capsys.readouterr().err
