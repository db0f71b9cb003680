"""Windows in a batch: each as it would be alone, whatever happens to the others."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq

from hfaudio.inference import whisper_windows
from hfaudio.inference.whisper_windows import decode_windows, token_compression
from hfaudio.models.seq2seq import Generated

SETTINGS = {"language": None, "task": None, "temperatures": (0.0,), "compression_ratio_threshold": 1e9,
            "logprob_threshold": -1e9, "no_speech_threshold": 0.6}  # fmt: skip
FIRST_TIME = 275


@pytest.fixture(scope="module")
def model(small_whisper: Path):
    return AutoModelForSpeechSeq2Seq.from_pretrained(small_whisper).eval()


def windows(count: int) -> torch.Tensor:
    return torch.randn(count, 80, 3000, generator=torch.Generator().manual_seed(0))


def test_greedy_windows_are_those_of_transformers_alone(model):
    for row, ids in zip(windows(3), decode_windows(model, windows(3), **SETTINGS), strict=True):
        once = {"force_unique_generate_call": True, "return_dict_in_generate": True}
        output = model.generate(row[None], return_timestamps=True, return_segments=True, **once)
        stock = output["sequences"][0].tolist()
        stock = [token for token in stock if token not in (266, 267)]
        assert ids[: len(stock)] == stock[: len(ids)]
        assert ids[0] >= FIRST_TIME  # a time comes first


def test_a_window_alone_and_in_a_batch(model):
    together = decode_windows(model, windows(3), **SETTINGS)
    assert [decode_windows(model, row[None], **SETTINGS)[0] for row in windows(3)] == together


class Script:
    """Generated tokens by (row, temperature), in place of a model's."""

    def __init__(self, log_probs: dict[float, list[float]]) -> None:
        self.log_probs, self.asked = log_probs, []

    def __call__(self, model, inputs, prompt, *, temperature, **options) -> Generated:
        rows = [round(float(hidden[0, 0])) for hidden in inputs["encoder_outputs"].last_hidden_state]
        self.asked.append((temperature, rows))
        ids = torch.tensor([[FIRST_TIME, 10 + row, FIRST_TIME + 50, 266] for row in rows])
        return Generated(ids, torch.tensor([[self.log_probs[temperature][row]] * 4 for row in rows]))


def scripted(model, monkeypatch, log_probs, silent) -> Script:
    """The encoder gives the number of the row, the decoder's first step the probability of no speech."""
    script = Script(log_probs)
    monkeypatch.setattr(whisper_windows, "generate", script)
    rows = torch.arange(len(silent), dtype=torch.float32)[:, None, None].expand(-1, 5, 32)
    hidden = type("Out", (), {"last_hidden_state": rows})
    monkeypatch.setattr(type(model), "get_encoder", lambda self: lambda features: hidden)
    logits = torch.full((len(silent), 1, 1776), 0.0)
    for row, probability in enumerate(silent):
        logits[row, 0, FIRST_TIME - 2] = torch.logit(torch.tensor(probability)) + torch.log(torch.tensor(1775.0))
    monkeypatch.setattr(type(model), "forward", lambda self, **options: type("Out", (), {"logits": logits}))
    return script


def test_only_bad_texts_are_tried_again_and_rows_are_not_confused(model, monkeypatch):
    log_probs = {0.0: [-0.1, -2.0, -0.2, -2.0], 0.4: [9, -0.5, 9, -3.0], 0.8: [9, 9, 9, -0.4]}
    script = scripted(model, monkeypatch, log_probs, [0.0] * 4)
    settings = SETTINGS | {"temperatures": (0.0, 0.4, 0.8), "logprob_threshold": -1.0}
    ids = decode_windows(model, windows(4), **settings)
    assert script.asked == [(0.0, [0, 1, 2, 3]), (0.4, [1, 3]), (0.8, [3])]
    assert [row[1] for row in ids] == [10, 11, 12, 13]


def test_a_window_without_speech_is_empty_and_the_others_are_not(model, monkeypatch):
    scripted(model, monkeypatch, {0.0: [-2.0, -2.0, -0.1]}, [0.9, 0.1, 0.9])
    ids = decode_windows(model, windows(3), **SETTINGS | {"logprob_threshold": -1.0})
    assert ids[0] == []  # improbable, and probably no speech
    assert ids[1][1] == 11 and ids[2][1] == 12  # one of the two is not enough


def test_what_repeats_itself_is_tried_again(model, monkeypatch):
    script = scripted(model, monkeypatch, {0.0: [-0.1], 0.4: [-0.1]}, [0.0])
    decode_windows(model, windows(1), **SETTINGS | {"temperatures": (0.0, 0.4), "compression_ratio_threshold": 0.1})
    assert [temperature for temperature, _ in script.asked] == [0.0, 0.4]


@pytest.mark.parametrize("ids", [[], [5], [5, 6] * 50, list(range(100))])
def test_compression_is_measured_as_transformers_does(model, ids):
    expected = model._retrieve_compression_ratio(torch.tensor(ids), 1776) if ids else 0.0
    assert token_compression(ids, 1776) == expected
