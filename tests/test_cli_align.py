"""`hfaudio align` in this process, with a model of the letters of "a dog sang"."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2Processor

from hfaudio.cli import main
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An untrained model, a recording of noise and what is said in it."""
    torch.manual_seed(0)
    tokenizer = build_char_tokenizer(["a dog sang"])
    folder = tmp_path_factory.mktemp("align")
    config = LstmCTCConfig(vocab_size=len(tokenizer), hidden_size=16, conv_channels=16, text_normalizer="basic")
    LstmForCTC(config).save_pretrained(folder / "model")
    Wav2Vec2Processor(SpectralFeatureExtractor(), tokenizer).save_pretrained(folder / "model")
    soundfile.write(folder / "a.wav", 0.1 * np.random.default_rng(0).normal(size=48_000), 16_000)
    (folder / "a.txt").write_text("\ufeffA dog --\nSang.\n", encoding="utf-8")
    (folder / "latin1.txt").write_bytes("é".encode("latin-1"))
    (folder / "broken.wav").write_bytes(b"RIFF")
    return {file.name: str(file) for file in folder.iterdir()}


def run(files: dict[str, str], audio: str = "a.wav", text: str = "a.txt", *options: str) -> int:
    given = [files.get(audio, audio), files.get(text, text), "--device", "cpu"]
    return main(["align", files["model"], *given, *options])


def test_textgrid_on_the_terminal_and_what_is_not_spoken_beside_it(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith('File type = "ooTextFile"') and 'text = "Sang."' in printed.out
    assert "1 of 4 words are not spoken: --" in printed.err


def test_json_and_subtitles_in_a_file(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(files, "a.wav", "a.txt", "--format", "json", "-o", str(output)) == 0
    words = json.loads(output.read_text(encoding="utf-8"))["words"]
    assert [word["text"] for word in words] == ["A", "dog", "--", "Sang."]
    assert 0 <= words[0]["start"] < words[0]["end"] <= words[1]["start"] < words[3]["end"] <= 3
    assert run(files, "a.wav", "a.txt", "--format", "srt", "-o", str(output)) == 0
    assert output.read_text(encoding="utf-8").startswith("1\n00:00:0")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("audio", "text", "code", "message"),
    [
        ("a.wav", "none.txt", 2, "there is no file none.txt"),
        ("none.wav", "a.txt", 2, "there is no file none.wav"),
        ("a.wav", "latin1.txt", 2, "save it as UTF-8"),
        ("broken.wav", "a.txt", 1, "broken.wav"),
    ],
)
def test_mistakes(
    files: dict[str, str], audio: str, text: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files, audio, text) == code
    assert message in capsys.readouterr().err
