"""The evaluations run for real: an untrained small codec and Opus on clips of the bundled music and speech; a small
untrained MusicGen, and one that plays training clips again, by heart."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hfaudio.audio.io import load_audio
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.text.prompts import INSTRUMENTS, TEMPOS
from hfaudio.training.codec_models import CodecArguments, build_codec
from hfaudio.training.music_models import MusicModelArguments, open_music_model


@pytest.fixture(scope="module")
def recipe(open_page: Callable[[str], ModuleType]) -> Callable[..., dict]:
    module = open_page("recipes/evaluate_music.py")
    return lambda *argv: module.main([str(argument) for argument in argv])


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_codec(CodecArguments(num_filters=2, hidden_size=8, codebook_size=16, num_codebooks=3))
    model.train()
    model(0.1 * torch.randn(8, 1, 16000))
    folder = tmp_path_factory.mktemp("codec")
    model.codec.save_pretrained(folder)
    return folder


def test_music_is_judged_at_every_bit_rate(codec: Path, tmp_path: Path, recipe: Callable) -> None:
    results = recipe(
        *("codec", "--model", codec, "--output_dir", tmp_path, "--bandwidths", "0.1", "0.3"),
        *("--peers", "opus:24000", "--judge_clips", "60", "--test_clips", "30", "--max_eval_examples", "30"),
    )
    value = {name: entry["value"] for name, entry in results["metrics"].items()}
    assert results["bits_per_second"] == pytest.approx(
        {"original": 256_000, "codec 0.1 kbit/s": 100, "codec 0.3 kbit/s": 300, "opus 24 kbit/s": 24_000}, rel=0.03
    )
    for name in ("original", "opus 24 kbit/s"):
        assert value[f"test/instrument/{name}"] > 0.7 > 3 * results["chances"]["instrument"]
    assert value["test/si_sdr/opus 24 kbit/s"] > 5 > value["test/si_sdr/codec 0.3 kbit/s"]
    assert value["test/mel/opus 24 kbit/s"] < value["test/mel/codec 0.3 kbit/s"]
    assert results["judge_clips"] == 60
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    table = (tmp_path / "table.md").read_text().splitlines()
    assert len(table) == 2 + 4 + 1 and table[-1].startswith("| chance |")
    assert (tmp_path / "rate_distortion.png").stat().st_size > 20_000
    assert not results["frechet"]["opus 24 kbit/s"]  # 30 clips are refused, and the rest goes on


def test_an_unknown_subject_is_refused(recipe: Callable) -> None:
    with pytest.raises(SystemExit, match="the first word says what is evaluated: codec"):
        recipe("codecs")


@pytest.fixture(scope="module")
def musicgen(codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
    args = MusicModelArguments(codec=str(codec), num_codebooks=3, window_seconds=0.64, text_hidden_size=16, **sizes)
    model, processor = open_music_model(args, ["slow piano tune in c major"])
    folder = tmp_path_factory.mktemp("musicgen")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


TRAIN = "train[:60]"  # six tunes
FACTS = ("instrument", "tempo", "key")


def test_a_musicgen_is_judged_by_captions_of_a_dataset(musicgen: Path, tmp_path: Path, recipe: Callable) -> None:
    results = recipe(
        *("generation", "--model", musicgen, "--output_dir", tmp_path, "--train_split", TRAIN, "--test_clips", "20"),
        *("--prompt_source", "dataset", "--prompts", "12", "--guidance_scale", "2", "--guidance", "3"),
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    n = {name.removeprefix("test/mode/"): m["n"] for name, m in results["metrics"].items() if "/mode/" in name}
    unseen = n.pop("unseen")  # of the captions that were drawn
    assert n == {"asked": 12, "ceiling": 20, "shuffled": 12, "null": 12, "guidance 2": 12, "guidance 3": 12}
    assert 0 < unseen < 12
    assert results["bars"]["asked"]["mode"] == 11 / 12  # 11 of 12 coins are heads in 0.3 %, 10 in 1.9 % of cases
    assert results["chances"]["instrument"] == 1 / 8
    assert results["frechet"] == {}  # 12 clips are refused, and the rest goes on
    assert results["memorisation"]["generated_runs"]["above"]["n"] == 12
    assert results["memorisation"]["generated_chroma"] is None  # of less than 3 s nothing is said
    assert {f.name for f in tmp_path.iterdir()} == {
        *("metrics.json", "table.md", "obedience.png", "guidance.png", "confusion.png", "samples")
    }
    assert load_audio(tmp_path / "samples" / "4.ogg").shape == (10_240,)  # 0.64 s
    assert (tmp_path / "samples" / "spectrograms.png").stat().st_size > 10_000


class ByHeart:
    """A generator that plays a training clip which fits the prompt; any clip without a prompt or without guidance.

    Its codec keeps what it is given and gives back the number of it, so nothing is lost.
    """

    sample_rate, channels, window_seconds, frame_rate = 16_000, 1, 3.2, 25.0

    def __init__(self, *_: Any, **__: Any) -> None:
        config = SimpleNamespace(target_bandwidths=[1.0], num_quantizers=1)
        quantizer = SimpleNamespace(get_num_quantizers_for_bandwidth=lambda _: 1)
        self.model = SimpleNamespace(
            audio_encoder=SimpleNamespace(config=config, quantizer=quantizer, encode=self.encode),
            decoder=SimpleNamespace(config=SimpleNamespace(num_codebooks=1)),
            device="cpu",
        )
        self.kept: dict[bytes, np.ndarray] = {}  # by what is heard, so that one clip has one code
        self.rows = load_split(DataArguments(dataset="bundled_music", fact_columns=[*FACTS]), TRAIN)
        self.facts = list(zip(*(self.rows[name] for name in FACTS), strict=True))

    def encode(self, audio: torch.Tensor, bandwidth: float) -> SimpleNamespace:
        samples = audio[0, 0].numpy()
        self.kept.setdefault(samples.tobytes(), samples)
        number = list(self.kept).index(samples.tobytes())
        return SimpleNamespace(audio_codes=torch.full((1, 1, 1, 80), number))

    def decode(self, codes: torch.Tensor) -> np.ndarray:
        return list(self.kept.values())[codes[0, 0]][None]

    def codes(self, prompts: Sequence[str | None], *, seeds: Sequence[int], sampling: Any, **_: Any) -> list:
        chosen = [
            self.fitting(prompt) if prompt is not None and sampling.guidance_scale > 1 else seed % len(self.rows)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        clips = [load_audio(self.rows[row]["audio"], self.sample_rate)[:51_200] for row in chosen]
        return [self.encode(torch.from_numpy(clip)[None, None], 1.0).audio_codes[0, 0] for clip in clips]

    def fitting(self, prompt: str) -> int:
        def fit(facts: tuple[str, str, str]) -> tuple[int, bool]:
            instrument, band, key = facts
            return (instrument in prompt) + any(word in prompt for word in TEMPOS[band]), prompt.endswith(key)

        return max(range(len(self.facts)), key=lambda row: fit(self.facts[row]))


def test_playing_by_heart_is_obedience_and_is_memorisation(
    tmp_path: Path, recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["evaluate_music"], "MusicGenerator", ByHeart)
    results = recipe(
        *("generation", "--output_dir", tmp_path, "--train_split", TRAIN, "--test_clips", "20"),
        *("--prompts", "36", "--guidance", "1"),
    )
    value = {name.removeprefix("test/"): entry["value"] for name, entry in results["metrics"].items()}
    bars = results["bars"]["asked"]
    for attribute in ("instrument", "tempo"):
        assert value[f"{attribute}/asked"] == value[f"{attribute}/guidance 3"] >= bars[attribute] + 0.2
        for control in ("shuffled", "null", "guidance 1"):
            assert value[f"{attribute}/{control}"] < bars[attribute]
    assert value["instrument/ceiling"] > 0.8
    n = {name.removeprefix("test/mode/"): m["n"] for name, m in results["metrics"].items() if "/mode/" in name}
    named = [  # instrument and key of each prompt
        (next(word for word in prompt.split() if word in INSTRUMENTS), prompt.rpartition(" in ")[2])
        for prompt in results["prompts"]
    ]
    unseen = set(named[36:])  # asked for in each tempo band, behind the others
    assert len(unseen) == 9 and len(named) == 36 + 27
    assert n["asked"] == 36 and n["unseen"] == sum(pair in unseen for pair in named)
    runs, alike = (results["memorisation"][f"generated_{name}"] for name in ("runs", "chroma"))
    assert runs["median"] == 3.2 and runs["above"]["value"] == 1  # whole clips
    assert alike["median"] == pytest.approx(1) and results["memorisation"]["heldout_chroma"]["most"] < 0.99
    assert sum(sum(heard.values()) for heard in results["confusion"].values()) == 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "6"], "at least 7; got 6"),
        (["--prompt_source", "web"], "language or dataset; got 'web'"),
        (
            ["--facts", "instrument", "key"],
            r"three columns, of instrument, tempo and key; got \['instrument', 'key'\]",
        ),
        (["--facts", "genre", "tempo", "key"], "has no column 'genre', it has: .*instrument"),
        (["--prompt_source", "dataset", "--prompts", "41"], "41 needs as many rows of the test split, which has 40"),
        (["--unseen_column", "tune"], "marks as unseen are in the training split"),
        (["--train_split", "train[:3]"], "the prompts ask for the instrument '.*', the judges know"),
    ],
)
def test_generation_that_cannot_be_judged_is_refused(
    options: list[str], message: str, musicgen: Path, tmp_path: Path, recipe: Callable
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("generation", "--model", musicgen, "--output_dir", tmp_path, "--train_split", TRAIN, *options)


def test_only_a_musicgen_generates_music(codec: Path, tmp_path: Path, recipe: Callable) -> None:
    with pytest.raises(ValueError, match="is a encodec model, expected one of musicgen, musicgen_melody"):
        recipe("generation", "--model", codec, "--output_dir", tmp_path)
