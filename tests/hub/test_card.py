"""Cards of folders as recipes leave them, read back as huggingface_hub reads them."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries, repocard
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.numpy import save_file

from hfaudio.data.bundled import path
from hfaudio.hub import card
from hfaudio.hub.card import build_card, write_card
from hfaudio.hub.figures import escape
from hfaudio.hub.kind import CODEC, CTC, LANGUAGE, MUSIC, SEQ2SEQ, kind_of, usage

MODEL_CARDS = Path(__file__).parents[2] / "model_cards"
BUNDLED = ("asr", "codec", "musicgen")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a network, but at once."""

    def refuse(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(card, "hf_hub_download", refuse)
    monkeypatch.setattr(repocard, "hf_hub_download", refuse)


def rate(value: float, n: int = 100) -> dict[str, Any]:
    return {"value": value, "low": value / 2, "high": value * 2, "n": n, "reference_length": 7 * n}


def ctc_results(**facts: Any) -> dict[str, Any]:
    """Of two ways of decoding, two splits and two speakers."""
    metrics = {
        f"{split}/{measure}/{variant}": rate(number / 1000)
        for number, (split, measure, variant) in enumerate(
            [(s, m, v) for s in ("validation", "test") for v in ("greedy", "lm") for m in ("wer", "cer", "mer")], 101
        )
    }
    metrics |= {f"test/wer/{variant}/{who}": rate(0.2, 50) for variant in ("greedy", "lm") for who in ("a|b", "*c/d*")}
    settings = {"alpha": 0.5, "beta": 1.5, "beam_width": 100}
    model = {
        "order": 4,
        "ngrams": [10, 20],
        "validation_perplexity": 5.5,
        "validation_oov": 0.01,
        "settings": settings,
    }
    difference = {"value": -0.05, "low": -0.07, "high": -0.03, "p_value": 0.0004, "n": 100}
    return {
        "metrics": metrics,
        "comparisons": {"test/wer/lm - test/wer/greedy": difference},
        "language_model": model,
        "seed": 1,
        "versions": {"torch": "2.14.1"},
        "command": "recipes/asr_ctc.py /home/somebody/digits.yaml --output_dir=/data/out --model user/base",
        "seconds": 300.0,
        "skipped": {"train": {"too long": 3}, "test": {}},
        "weights": 1000,
        "trained_weights": 10,
    } | facts


def folder_with(folder: Path, files: dict[str, Any]) -> Path:
    """Files of a folder: JSON of what is no text, and a weight of ten numbers."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    weights = "adapter_model" if "adapter_config.json" in files else "model"
    save_file({"weight": np.zeros((2, 5), np.float32)}, folder / f"{weights}.safetensors")
    return folder


CTC_CONFIG = {"architectures": ["Wav2Vec2ForCTC"], "model_type": "wav2vec2"}


@pytest.fixture
def ctc(tmp_path: Path) -> Path:
    results = ctc_results(base_model="user/base", dataset="user/speech", dataset_id="user/speech", language="hi")
    files = {"config.json": CTC_CONFIG, "metrics.json": results, "curves.png": "", "language_model/decoder.json": {}}
    return folder_with(tmp_path / "my_model", files)


def adapter_config(**settings: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "auto_mapping": {"base_model_class": "WhisperForConditionalGeneration"},
        "base_model_name_or_path": "openai/whisper-tiny",
    } | settings


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table of a Markdown text."""
    found = re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in found]


def test_a_folder_is_what_its_architecture_says(tmp_path: Path) -> None:
    kinds = {
        "Wav2Vec2ForCTC": (CTC, "automatic-speech-recognition"),
        "LstmForCTC": (CTC, "automatic-speech-recognition"),
        "WhisperForConditionalGeneration": (SEQ2SEQ, "automatic-speech-recognition"),
        "MusicgenMelodyForConditionalGeneration": (MUSIC, "text-to-audio"),
        "EncodecModel": (CODEC, "codec"),
        "LstmLMForCausalLM": (LANGUAGE, "text-generation"),
    }
    for architecture, (name, task) in kinds.items():
        kind = kind_of(folder_with(tmp_path / architecture, {"config.json": {"architectures": [architecture]}}))
        assert (kind.name, kind.task, kind.library_name, kind.is_adapter) == (name, task, "transformers", False)
    kind = kind_of(folder_with(tmp_path / "lora", {"adapter_config.json": adapter_config()}))
    assert (kind.name, kind.task, kind.library_name, kind.is_adapter) == (SEQ2SEQ, kind.pipeline_tag, "peft", True)


def test_a_folder_without_a_model_we_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no model: it has neither config.json nor adapter_config.json; give"):
        build_card(tmp_path)
    with pytest.raises(ValueError, match=r"names the architecture 'BertModel', which is no .* by hand"):
        build_card(folder_with(tmp_path, {"config.json": {"architectures": ["BertModel"]}}))


def test_the_hub_reads_the_results(ctc: Path) -> None:
    write_card(ctc, "me/digits", base_license="mit")
    data = ModelCard.load(ctc / "README.md").data.to_dict()
    assert data["pipeline_tag"] == "automatic-speech-recognition" and data["library_name"] == "transformers"
    assert (data["base_model"], data["base_model_relation"], data["license"]) == ("user/base", "finetune", "mit")
    assert (data["datasets"], data["language"], data["metrics"]) == (["user/speech"], ["hi"], ["wer", "cer"])
    assert data["model-index"][0]["name"] == "digits"
    read = ModelCard.load(ctc / "README.md").data.eval_results
    names = [f"{measure} ({way})" for way in ("greedy", "with 4-gram") for measure in ("WER", "CER")]
    assert [result.metric_name for result in read] == names * 2
    metrics = ctc_results()["metrics"]
    for result in read:
        variant = "lm" if "4-gram" in result.metric_name else "greedy"
        entry = metrics[f"{result.dataset_split}/{result.metric_type}/{variant}"]
        assert result.metric_value == pytest.approx(100 * entry["value"], abs=0.005)
        assert result.metric_args["interval_95"] == pytest.approx([100 * entry["low"], 100 * entry["high"]], abs=0.005)
        assert (result.metric_args["n"], result.dataset_type) == (100, "user/speech")


def test_the_table_holds_what_metrics_json_holds(ctc: Path) -> None:
    whole, by_speaker = tables(build_card(ctc).text)
    assert [cell.strip() for cell in whole[0]] == [
        *("split", "variant", "WER, %", "CER, %", "WER less greedy's, points", "n")
    ]
    assert {rule.strip("-") for rule in whole[1]} == {"", ":"}
    metrics = ctc_results()["metrics"]
    for split, variant, wer, cer, *_ in whole[2:]:
        for cell, measure in ((wer, "wer"), (cer, "cer")):
            entry = metrics[f"{split.strip()}/{measure}/{'lm' if 'gram' in variant else 'greedy'}"]
            assert [float(x) for x in re.findall(r"[\d.]+", cell)] == [
                round(100 * entry[name], 2) for name in ("value", "low", "high")
            ]
    assert whole[-1][-2].strip() == "-5.00 (-7.00 to -3.00), p < 0.001"
    assert [row[0].strip() for row in by_speaker[2:]] == [r"a\|b", r"\*c/d\*"]


def test_numbers_of_musicgens_card_are_those_of_its_metrics_json() -> None:
    metrics = json.loads((path("musicgen") / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    [rows] = tables(build_card(path("musicgen")).text)
    asked = next(row for row in rows if row[1].strip() == "asked for")
    for cell, name in zip(asked[2:-1], ("instrument", "tempo", "key", "key_or_relative", "mode"), strict=True):
        entry = metrics[f"test/{name}/asked"]
        expected = [f"{100 * entry[end]:.1f}" for end in ("value", "low", "high")]
        assert re.findall(r"[\d.]+", cell) == expected
    claimed = {result.metric_name for result in build_card(path("musicgen")).data.eval_results}
    assert "key (asked for)" in claimed and not any("real clips" in name or "no prompt" in name for name in claimed)


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    files: dict[str, Any] = {"config.json": CTC_CONFIG}
    made = build_card(folder_with(tmp_path, files))
    assert set(made.data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    headings = re.findall(r"^## (.*)$", made.text, re.MULTILINE)
    assert headings == ["Usage", "Intended use and limits"]
    assert "None" not in str(made) and "information needed" not in str(made)


@pytest.mark.parametrize("dataset", ["output/speech", "/data/speech", "bundled"])
def test_a_path_is_never_called_a_dataset_of_the_hub(dataset: str, tmp_path: Path) -> None:
    files = {"config.json": CTC_CONFIG, "metrics.json": ctc_results(dataset=dataset, base_model=None)}
    made = build_card(folder_with(tmp_path, files))
    assert made.data.datasets is None and made.data.base_model is None
    assert {result.dataset_type for result in made.data.eval_results} == {"local"}
    assert "/data" not in str(made) and "huggingface.co" not in str(made)


def test_a_language_without_a_code_is_left_out(ctc: Path) -> None:
    assert build_card(ctc, language=["hi", "Hindi"]).data.language == ["hi"]


def test_a_language_model_with_code_is_opened_without_a_question(tmp_path: Path) -> None:
    config = {"architectures": ["LstmLMForCausalLM"], "model_type": "lstm_lm"}
    folder = folder_with(tmp_path, {"config.json": config, "hfaudio_models_lstm_lm.py": ""})
    calls = [node for node in ast.walk(ast.parse(usage(kind_of(folder), "me/lm"))) if isinstance(node, ast.Call)]
    opened = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained"]
    assert [[word.arg for word in call.keywords] for call in opened] == [["trust_remote_code"]] * 2


def test_no_path_of_the_machine_is_told(ctc: Path) -> None:
    text = build_card(ctc).text
    assert "accelerate launch recipes/asr_ctc.py digits.yaml --output_dir=out --model user/base" in text
    assert "/home" not in text and str(ctc.parent) not in text


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    assert escape("a|b *c* <i> [x](y) _z_ my_model `q` \\") == (
        r"a\|b \*c\* \<i\> \[x\](y) \_z\_ my_model \`q\` " + "\\\\"
    )
    folder = folder_with(tmp_path / "a*b*", {"config.json": CTC_CONFIG, "metrics.json": ctc_results(dataset="/d/<b>")})
    text = build_card(folder).text
    assert text.lstrip().startswith(r"# a\*b\*" + "\n") and r"\<b\>" in text


def test_an_adapter_names_its_base_and_has_the_results_of_its_run(tmp_path: Path) -> None:
    results = ctc_results(base_model="openai/whisper-tiny", dataset="bundled")
    del results["language_model"]
    run = folder_with(tmp_path / "run", {"config.json": CTC_CONFIG, "metrics.json": results, "curves.png": "picture"})
    folder = folder_with(run / "adapter", {"adapter_config.json": adapter_config()})
    write_card(folder, "me/lora", base_license="apache-2.0")
    made = ModelCard.load(folder / "README.md")
    assert (made.data.base_model, made.data.base_model_relation) == ("openai/whisper-tiny", "adapter")
    assert (made.data.library_name, made.data.license) == ("peft", "apache-2.0")
    assert (
        "A LoRA adapter (10 weights) of [openai/whisper-tiny](https://huggingface.co/openai/whisper-tiny)" in made.text
    )
    assert "That of the base model" in made.text and len(made.data.eval_results) == 8
    assert (folder / "curves.png").read_text(encoding="utf-8") == "picture" and (folder / "metrics.json").exists()


def test_what_a_person_wrote_stays(ctc: Path) -> None:
    (ctc / "README.md").write_text(
        "---\nlicense: mit\ntags: [birds]\n---\n\n# Birds of Goa\n\nGone.\n\n<!-- hfaudio:keep -->\nHeard by us.\n"
        "<!-- /hfaudio:keep -->\n\n## Training\n\nGone.\n\n<!-- hfaudio:keep -->\n## Not a section\n\nIn the rain.\n"
        "<!-- /hfaudio:keep -->\n",
        encoding="utf-8",
    )
    write_card(ctc)
    once = (ctc / "README.md").read_text(encoding="utf-8")
    made = ModelCard(once)
    assert (made.data.license, made.data.tags) == ("mit", ["hfaudio", "birds"]) and "Gone." not in once
    places = [once.index(text) for text in ("# Birds of Goa", "Heard by us.", "## Training", "In the rain.", "## Int")]
    assert places == sorted(places)
    write_card(ctc)
    assert (ctc / "README.md").read_text(encoding="utf-8") == once


def test_pictures_and_samples_are_those_that_are_there(tmp_path: Path) -> None:
    samples = [f"samples/step-{step}-{n}.wav" for step in (9, 10) for n in (1, 2)] + ["samples/step-000010.png"]
    config = {"architectures": ["MusicgenForConditionalGeneration"]}
    results = ctc_results(prompts=["slow_ *flute*", "piano"])
    files = {"config.json": config, "metrics.json": results, "lm_tuning.png": "", **dict.fromkeys(samples, "")}
    text = build_card(folder_with(tmp_path, files), "me/music").text
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links == [*samples[2:], "lm_tuning.png"]
    assert all((tmp_path / link).is_file() for link in links)
    assert r"[step-10-1.wav](samples/step-10-1.wav): slow\_ \*flute\*" in text
    assert 'src="https://huggingface.co/me/music/resolve/main/samples/step-10-2.wav"' in text


def test_results_go_to_a_leaderboard_only_if_the_dataset_is_a_benchmark(
    ctc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def eval_yaml(dataset: str, name: str, *, repo_type: str) -> str:
        assert (dataset, name, repo_type) == ("user/speech", "eval.yaml", "dataset")
        tasks = [{"id": "spoken", "split": "test"}, {"id": "other", "split": "hard"}]
        (tmp_path / name).write_text(yaml.safe_dump({"tasks": tasks}), encoding="utf-8")
        return str(tmp_path / name)

    write_card(ctc)
    assert not (ctc / ".eval_results").exists()
    monkeypatch.setattr(card, "hf_hub_download", eval_yaml)
    write_card(ctc)
    read = {
        file.name: parse_eval_result_entries(yaml.safe_load(file.read_text(encoding="utf-8")))
        for file in (ctc / ".eval_results").iterdir()
    }
    assert set(read) == {"user_speech.yaml", "user_speech_with_4_gram.yaml"}
    [plain], [with_lm] = read["user_speech.yaml"], read["user_speech_with_4_gram.yaml"]
    assert (plain.dataset_id, plain.task_id, plain.value, plain.notes) == ("user/speech", "spoken", 10.7, None)
    assert (with_lm.value, with_lm.notes) == (11.0, "with 4-gram")


def test_what_the_program_printed_stands_behind_it(ctc: Path) -> None:
    text = build_card(ctc, executed="```hello\n").text
    assert "```\n\nIt printed\n\n````text\n```hello\n````\n" in text


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize("architecture", ["Wav2Vec2ForCTC", "WhisperForCTC", "MusicgenForConditionalGeneration"])
def test_programs_of_adapters_compile(architecture: str, settings: dict[str, Any], tmp_path: Path) -> None:
    config = adapter_config(auto_mapping={"base_model_class": architecture}, **settings)
    program = usage(kind_of(folder_with(tmp_path, {"adapter_config.json": config})), 'me/"quoted"')
    ast.parse(program)
    assert ("PeftModel" in program) == (architecture == "Wav2Vec2ForCTC" or bool(settings))


def test_the_program_of_the_card_runs(tmp_path: Path) -> None:
    shutil.copytree(path("asr"), tmp_path / "asr")
    soundfile.write(tmp_path / "recording.wav", np.zeros(16_000, np.float32), 16_000)
    program = usage(kind_of(tmp_path / "asr"), "asr")
    assert program in build_card(tmp_path / "asr").text.replace("FOLDER", "asr", 1)
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr  # silence


@pytest.mark.parametrize("name", BUNDLED)
def test_the_cards_of_bundled_models_are_what_is_generated(name: str) -> None:
    """If it fails: `write_card(path(name))`, and the same text with links to the folder in model_cards/."""
    text = (path(name) / "README.md").read_text(encoding="utf-8")
    assert str(build_card(path(name))) == text
    assert re.sub(r"\]\((?!https?:)", f"](../hfaudio/data/bundled/{name}/", text) == (
        MODEL_CARDS / f"{name}.md"
    ).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", text):
        assert (path(name) / link).is_file()
