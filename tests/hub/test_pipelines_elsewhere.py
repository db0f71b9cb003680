"""Model folders in a project that has transformers and torch, and neither hfaudio nor what hfaudio needs beside them.

It is a second virtual environment, made of links to what is installed here: half a second, and no network.
"""

import json
import re
import shutil
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor, pipeline

from hfaudio.audio.io import load_audio
from hfaudio.data import bundled
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.inference.transcribe import Transcriber
from hfaudio.processing import build_char_tokenizer
from hfaudio.processing.remote_code import carry_code

TRANSFORMERS = ("transformers", "torch", "torchaudio", "safetensors", "tokenizers")
OURS = ("hfaudio", "numba", "librosa", "soundfile", "peft", "datasets", "scipy", "torchcodec", "accelerate")
CLIPS = (2, 16)  # of the bundled test speech; the LM corrects a word in each
PROMPT, STEPS = "a calm flute tune", {"do_sample": False, "max_new_tokens": 6}


def needed(names: Sequence[str]) -> list[Distribution]:
    """These distributions and all that they need, as they are installed here."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # a choice that was not made here, such as another GPU's library
            continue
        requirements = map(Requirement, found[name].requires or [])
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return list(found.values())


def link(names: Sequence[str], site: Path) -> None:
    """Put these distributions into a folder of packages, by links to their files here."""
    for installed in needed(names):
        tops = {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():  # several share a folder, as those below nvidia/ do
                (site / top).symlink_to(str(installed.locate_file(top)))


@dataclass(frozen=True)
class Expected:
    """What hfaudio makes of two clips (N,) at 16 kHz."""

    clips: list[np.ndarray]
    with_lm: list[str]
    greedy: list[str]


@pytest.fixture(scope="module")
def expected() -> Expected:
    rows = load_split(DataArguments(), "test")
    with_lm = Transcriber(bundled.path("asr"), progress=False)
    greedy = with_lm.with_decoding(language_model=False)
    clips = [load_audio(rows[number]["audio"], 16_000) for number in CLIPS]
    sources = [{"array": clip, "sampling_rate": 16_000} for clip in clips]
    return Expected(clips, [with_lm(source).text for source in sources], [greedy(source).text for source in sources])


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a stock architecture, untrained."""
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Wav2Vec2Config(**sizes, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2, vocab_size=8)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), build_char_tokenizer(["abcd e"])).save_pretrained(folder)
    return folder


# Opening a folder is tried without numba, and again once it is there, as after a `pip install numba`.
ELSEWHERE = """
import importlib.util, json, sys
import numpy as np
from transformers import pipeline

_, written, modules, numba, clips, wav2vec2, musicgen, ours, prompt, steps = sys.argv

def absent():
    return [name for name in modules.split() if importlib.util.find_spec(name) is None]

def asr(folder, **options):
    return pipeline("automatic-speech-recognition", model=folder, **options)

def error_of(**options):
    try:
        return asr(ours, **options)(clips[0])
    except Exception as error:
        return f"{type(error).__name__}: {error}"

clips = [*np.load(clips).values()]
found = {"absent": absent()}
found["wav2vec2"] = [asr(wav2vec2)(clip)["text"] for clip in clips]
audio = pipeline("text-to-audio", model=musicgen)(prompt, generate_kwargs=json.loads(steps))["audio"]
found["musicgen"] = np.ravel(audio).tolist()
found["no trust"], found["no numba"] = error_of(), error_of(trust_remote_code=True)

sys.path.append(numba)
found["absent with numba"] = absent()
pipe = asr(ours, trust_remote_code=True)
found["with LM"] = [pipe(clip)["text"] for clip in clips]
pipe.save_pretrained("again")
found["saved again"] = type(asr("again", trust_remote_code=True).lm_decoder).__name__
pipe.lm_decoder = None
found["greedy"] = [pipe(clip)["text"] for clip in clips]
json.dump(found, open(written, "w"))
"""


@pytest.fixture(scope="module")
def found(
    run_child: Callable[..., Any], expected: Expected, wav2vec2: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the program finds in the other environment, with neither a network nor a cache."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "environment", symlinks=True, with_pip=False)
    [site] = folder.glob("environment/lib/python*/site-packages")
    link(TRANSFORMERS, site)
    (folder / "numba").mkdir()
    link(["numba"], folder / "numba")
    shutil.copytree(bundled.path("asr"), folder / "asr")
    carry_code(folder / "asr")
    np.savez(folder / "clips.npz", *expected.clips)
    models = (wav2vec2, bundled.path("musicgen"), folder / "asr")
    arguments = (" ".join(OURS), folder / "numba", folder / "clips.npz", *models, PROMPT, json.dumps(STEPS))
    variables = {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return run_child(ELSEWHERE, variables, *arguments, python=str(folder / "environment" / "bin" / "python"))


def test_what_hfaudio_needs_is_not_there(found: dict[str, Any]) -> None:
    assert found["absent"] == list(OURS)
    assert found["absent with numba"] == [name for name in OURS if name != "numba"]


def test_stock_architectures_open(found: dict[str, Any], expected: Expected, wav2vec2: Path) -> None:
    here = pipeline("automatic-speech-recognition", model=str(wav2vec2))
    assert found["wav2vec2"] == [here(clip)["text"] for clip in expected.clips]
    music = pipeline("text-to-audio", model=str(bundled.path("musicgen")))
    np.testing.assert_allclose(found["musicgen"], np.ravel(music(PROMPT, generate_kwargs=STEPS)["audio"]), atol=1e-4)


def test_our_code_runs_only_where_it_is_trusted(found: dict[str, Any]) -> None:
    assert "pass the argument `trust_remote_code=True`" in found["no trust"]


def test_without_numba_there_is_an_error_and_no_text_without_the_language_model(found: dict[str, Any]) -> None:
    assert found["no numba"] == "ModuleNotFoundError: No module named 'numba'"


def test_with_numba_the_language_model_decides_as_in_hfaudio(found: dict[str, Any], expected: Expected) -> None:
    assert found["with LM"] == expected.with_lm
    assert found["greedy"] == expected.greedy
    assert all(one != other for one, other in zip(expected.with_lm, expected.greedy, strict=True))
    assert found["saved again"] == "BeamSearchDecoder"
