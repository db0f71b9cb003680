"""What the README tells a reader works: its Python runs, its commands name options and targets that exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import Wav2Vec2Processor

from hfaudio.audio.features import LOG_MEL
from hfaudio.cli import build_parser
from hfaudio.models import LstmCTCConfig, LstmForCTC
from hfaudio.ngram import NGramLM
from hfaudio.processing import SpectralFeatureExtractor, build_char_tokenizer
from hfaudio.training.arguments import parse_arguments

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    torch.manual_seed(0)
    tokenizer = build_char_tokenizer(["abcdefghijklmnopqrstuvwxyz'"])
    LstmForCTC(LstmCTCConfig(vocab_size=len(tokenizer), hidden_size=16, conv_channels=16)).save_pretrained(
        tmp_path / "output" / "asr_ctc"
    )
    Wav2Vec2Processor(SpectralFeatureExtractor(LOG_MEL), tokenizer).save_pretrained(tmp_path / "output" / "asr_ctc")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert " -> " in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if "recipes/" in c and "_lm.py" not in c])
def test_recipe_commands_have_only_options_that_exist(command: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "recipes")
    monkeypatch.setenv("HFAUDIO_REAL", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # with what earlier commands of the README have left there
    NGramLM.from_text(["a word"], order=2).save(tmp_path / "lm")
    (tmp_path / "output" / "neural_lm").mkdir(parents=True)
    (tmp_path / "output" / "neural_lm" / "config.json").write_text("{}")
    recipe, *argv = shlex.split(command[command.index("recipes/") :])
    module = importlib.import_module(Path(recipe).stem)
    if argv and argv[0].endswith(".yaml"):
        argv[0] = str(ROOT / argv[0])
    here = {"codec": ["--cpu"], "pseudo_label": ["--device", "cpu"], "evaluate_music": ["--device", "cpu"]}
    arguments = module.ARGUMENTS
    if Path(recipe).stem == "evaluate_music":
        arguments = arguments[argv.pop(0)]  # the word that says what is evaluated
    on_cpu = here.get(Path(recipe).stem, ["--use_cpu"])
    parse_arguments(*arguments, argv=[*argv, "--output_dir", str(tmp_path), *on_cpu])


@pytest.mark.parametrize("command", [c for c in COMMANDS if "_lm.py" in c])
def test_recipes_without_options_exist(command: str) -> None:
    assert (ROOT / command.split()[-1]).is_file()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("hfaudio ")])
def test_hfaudio_commands_parse(command: str) -> None:
    build_parser().parse_args(shlex.split(command)[1:])


def test_make_targets_exist() -> None:
    targets = {c.split()[1] for c in COMMANDS if c.startswith("make ")}
    assert targets == {"quickstart", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_file_tree_is_complete() -> None:
    tree = README.split("## How it is built")[1]
    packages = {p.parent.name for p in (ROOT / "hfaudio").glob("*/__init__.py")}
    assert not [package for package in packages if f"\n  {package}/" not in tree]


def test_every_config_parses(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "recipes")
    monkeypatch.setenv("HFAUDIO_REAL", str(tmp_path))
    (tmp_path / "data" / "text").mkdir(parents=True)
    (tmp_path / "data" / "text" / "ljspeech_transcripts.txt").write_text("a word\n")
    for config in (ROOT / "recipes" / "configs").glob("*.yaml"):
        recipe = "asr_seq2seq" if "score_normalizer:" in config.read_text() else "asr_ctc"
        recipe = "codec" if config.stem.endswith("_codec") else recipe
        recipe = "musicgen" if config.stem.startswith("music_") and recipe != "codec" else recipe
        module = importlib.import_module(recipe)
        on_cpu = "--cpu" if recipe == "codec" else "--use_cpu"
        parse_arguments(*module.ARGUMENTS, argv=[str(config), "--output_dir", str(tmp_path), on_cpu])
