from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hfaudio.training.arguments import AudioTrainingArguments, parse_arguments


@dataclass
class Options:
    width: int = field(default=8, metadata={"help": "Width."})
    rate: float = field(default=0.1, metadata={"help": "Rate."})
    place: str = field(default="here", metadata={"help": "Place."})
    pair: list[float] = field(default_factory=lambda: [1.0, 2.0], metadata={"help": "Two numbers."})


def parse(*argv: str) -> Options:
    return parse_arguments(Options, argv=list(argv))[0]


def test_defaults_then_yaml_then_flags(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("width: 16\nrate: 1e-4\npair: [3, 4]\n")
    assert parse() == Options()
    assert parse(str(config)) == Options(width=16, rate=1e-4, pair=[3, 4])
    assert parse(str(config), "--width", "32", "--pair", "5", "6") == Options(width=32, rate=1e-4, pair=[5, 6])


def test_typos_are_refused_in_yaml_and_in_flags(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("widht: 16\n")
    with pytest.raises(ValueError, match=r"unknown keys in the config file: \['widht'\]"):
        parse(str(config))
    with pytest.raises(ValueError, match="--widht"):
        parse("--widht", "3")


def test_yaml_values_are_checked_like_flags(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    for line in ("width: 1.5", "width: [1, 2]", "rate: fast"):
        config.write_text(line)
        with pytest.raises((SystemExit, ValueError)):
            parse(str(config))
    config.write_text("width: null\npair: 7\n")
    assert parse(str(config)) == Options(pair=[7.0])


@pytest.mark.parametrize(("option", "message"), [("dataloader_persistent_workers", "repeat")])
def test_what_would_go_wrong_in_silence_is_refused(option: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        AudioTrainingArguments(output_dir=str(tmp_path), **{option: True})


def test_the_finished_folder_is_pushed_not_checkpoints(tmp_path: Path) -> None:
    """The Trainer sees no push_to_hub; the recipe pushes in the end."""
    args = AudioTrainingArguments(output_dir=str(tmp_path), push_to_hub=True)
    assert args.push_result and not args.push_to_hub
    assert not AudioTrainingArguments(output_dir=str(tmp_path)).push_result


def test_environment_variables_in_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("place: $SOMEWHERE/data\npair: [$NUMBER, 4]\n")
    monkeypatch.setenv("SOMEWHERE", "there")
    monkeypatch.setenv("NUMBER", "3")
    assert parse(str(config)).place == "there/data" and parse(str(config)).pair == [3, 4]
    monkeypatch.delenv("SOMEWHERE")
    with pytest.raises(ValueError, match="environment variable is not set"):
        parse(str(config))


def test_a_config_that_is_missing_or_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no config file"):
        parse("nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="got a list"):
        parse(str(tmp_path / "list.yaml"))


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to --output_dir .*choose another folder"):
        AudioTrainingArguments(output_dir=str(tmp_path / "file" / "model"))


def test_resume_from_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint in .* yet"):
        AudioTrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint="last")
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-11").mkdir()  # killed while saving
    arguments = AudioTrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint="last")
    assert arguments.resume_from_checkpoint == str(tmp_path / "checkpoint-10")
