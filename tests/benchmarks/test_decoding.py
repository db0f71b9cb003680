"""The decoder benchmark run for real on a made-up language, and the pieces its figures rest on."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script(open_page: Callable[[str], ModuleType]) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))  # as for a script that is run
        return open_page("benchmarks/decoding.py")


@pytest.fixture(scope="module")
def posteriors(script: ModuleType) -> ModuleType:
    return sys.modules["ctc_posteriors"]


@pytest.fixture(scope="module")
def decoders(script: ModuleType) -> ModuleType:
    return sys.modules["ctc_decoders"]


def made_up_sentences(number: int) -> list[str]:
    """Sentences of 25 words, out of 200 words of which the first ones are the most frequent."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(letters[rng.integers(0, 26, rng.integers(2, 8))]) for _ in range(200)]
    frequency = 1 / np.arange(1, 201)
    return [" ".join(rng.choice(words, 25, p=frequency / frequency.sum())) for _ in range(number)]


def test_log_probabilities_are_normalised_and_the_same_for_a_seed(posteriors: ModuleType) -> None:
    text = "the same words twice"
    made = posteriors.sharp_and_flat([text, text], seed=3, frames=100)
    assert made["sharp"].shape == made["flat"].shape == (2, 100, len(posteriors.LABELS))
    for log_probs in made.values():
        np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(made["sharp"], posteriors.sharp_and_flat([text, text], 3, frames=100)["sharp"])
    assert not np.array_equal(made["sharp"][0], made["sharp"][1])
    # an utterance does not depend on the ones beside it
    np.testing.assert_array_equal(made["sharp"][0], posteriors.sharp_and_flat([text], 3, frames=100)["sharp"][0])


def test_speech_without_hard_words_is_recognised_by_the_best_path(
    posteriors: ModuleType, decoders: ModuleType
) -> None:
    clear = posteriors.Speech(hard_word_share=0)
    text = "all well spelled letters'll be found"
    logits = posteriors.spoken_logits(np.random.default_rng(0), text, clear, frames=150)
    task = decoders.Task(posteriors.LABELS, (), "", "", "")
    assert decoders.Greedy(task).decoder()(logits) == text


def test_figures_of_the_input_are_those_of_its_docstring(script: ModuleType, posteriors: ModuleType) -> None:
    texts = script.utterances(made_up_sentences(100), 40)
    made = posteriors.sharp_and_flat(texts, seed=1)
    above = {condition: (log_probs >= -5).sum(-1).mean() for condition, log_probs in made.items()}
    assert above == pytest.approx({"sharp": 1.24, "flat": 2.19}, abs=0.05)
    assert (np.exp(made["sharp"][..., 0]) > 0.99).mean() == pytest.approx(0.46, abs=0.03)


def test_a_text_that_does_not_fit_is_an_error(posteriors: ModuleType) -> None:
    with pytest.raises(ValueError, match="do not fit into 10 frames"):
        posteriors.spoken_logits(np.random.default_rng(0), "many more letters than frames", frames=10)


def test_spoken_sentences_are_not_in_the_training_text(script: ModuleType) -> None:
    sentences = made_up_sentences(300)
    for number in (5, 50):  # few of many sentences, and as many as there are
        training, spoken = script.split_sentences(sentences, number, seed=0)
        assert spoken
        assert all(script.SHORTEST <= len(text) <= script.LONGEST for text in spoken)
        held_out = " ".join(sentence for sentence in sentences if sentence not in training)
        assert all(word in held_out for text in spoken for word in text.split())
        assert not any(sentence in text for sentence in training for text in spoken)


def test_short_sentences_are_spoken_in_a_row(script: ModuleType) -> None:
    spoken = script.utterances(["one two three four five six seven"] * 40, 3)
    assert len(spoken) == 3
    assert all(script.SHORTEST <= len(text) <= script.LONGEST for text in spoken)


def accepted(fst: str, symbols: list[int]) -> list[list[int]]:
    """Output symbols of every path of an FST in text form that reads the symbols, epsilons (0) left out."""
    lines = [line.split() for line in fst.splitlines()]
    final = {int(line[0]) for line in lines if len(line) == 2}
    arcs = [tuple(map(int, line[:4])) for line in lines if len(line) == 5]
    paths = [(0, [])]
    for symbol in symbols:
        paths = [
            (end, [*out, o] if o else out)
            for state, out in paths
            for s, end, i, o in arcs
            if (s, i) == (state, symbol)
        ]
    return [out for state, out in paths if state in final]


def test_the_ctc_graph_collapses_repeats_and_drops_blanks(decoders: ModuleType) -> None:
    blank, a, b = 1, 2, 3  # label ids + 1
    assert accepted(decoders.ctc_fst(3), [blank, a, a, blank, a, b, b]) == [[a, a, b]]
    assert accepted(decoders.ctc_fst(3), [a, blank]) == [[a]]
    assert accepted(decoders.ctc_fst(3), []) == [[]]


def test_the_lexicon_graph_spells_words_with_their_spaces(decoders: ModuleType) -> None:
    task = decoders.Task(("", " ", "a", "b"), ("ab", "a"), "", "", "")
    graph = decoders.lexicon_fst(task, {"ab": 7, "a": 8}, back_off=5, back_off_word=9)
    space, a, b = 2, 3, 4
    assert accepted(graph, [a, b, space, a, space]) == [[7, 8]]
    assert accepted(graph, [a, space, 5, a, space]) == [[8, 9, 8]]
    assert accepted(graph, [b, space]) == []
    assert accepted(graph, [a]) == []  # a word ends with its space


def test_the_front_is_what_nothing_beats(script: ModuleType) -> None:
    def row(speed: float, wer: float, condition: str = "sharp") -> dict:
        return {"condition": condition, "utterances_per_second": speed, "wer": wer}

    rows = [row(100, 5.0), row(50, 4.0), row(40, 4.0), row(40, 6.0), row(10, 9.0, "flat")]
    assert [script.on_front(one, rows) for one in rows] == [True, True, False, False, True]


def test_a_missing_peer_is_named(decoders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders.PyCTCDecode, "modules", ("numpy", "no_such_module"))
    assert decoders.missing(decoders.PyCTCDecode) == ["no_such_module"]
    assert decoders.missing(decoders.Greedy) == []


def test_the_benchmark_runs_and_writes_its_figures(
    script: ModuleType, decoders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders.HFAudio, "points", {"default": {}, "narrow": {"token_min_logp": -4.0}})
    # a process of its own for each start-up would compile everything anew
    monkeypatch.setattr(script, "probe_process", lambda name, task_file, **environment: script.probe(name, task_file))
    monkeypatch.setattr(script, "THREADED_CLIPS", 8)
    text, output = tmp_path / "text.txt", tmp_path / "figures.json"
    text.write_text("\n".join(made_up_sentences(400)), encoding="utf-8")
    size = ["--utterances", "6", "--repeats", "1", "--order", "2", "--only", "greedy", "hfaudio"]
    script.main(["--text", str(text), *size, "-o", str(output)])
    results = json.loads(output.read_text(encoding="utf-8"))
    rows = results["rows"]
    assert {row["decoder"] for row in rows} == {"greedy", "hfaudio"}
    assert {row["condition"] for row in rows} == {"sharp", "flat"}
    assert all(row["utterances"] == 6 and row["utterances_per_second"] > 0 for row in rows)
    wer = {(row["decoder"], row["setting"], row["condition"]): row["wer"] for row in rows}
    assert wer["hfaudio", "default", "flat"] < wer["greedy", "best path", "flat"]
    assert set(results["start_up"]) == {"greedy", "hfaudio", "hfaudio, first use"}
    assert results["start_up"]["hfaudio"]["peak_megabytes"] > 20
    assert set(results["threads"]) == {"sharp", "flat"}
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "| hfaudio | default |" in output.with_suffix(".md").read_text(encoding="utf-8")
