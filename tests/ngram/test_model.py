"""Models read, asked, saved and mapped, against sentence scores of kenlm 0.2.1 (kenlm-ex) in the fixtures."""

import gzip
import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hfaudio.ngram.model import NGramLM
from hfaudio.ngram.packed import pack, unpack
from hfaudio.ngram.query import step, step_with_length
from hfaudio.ngram.table import EOS, UNK

FIXTURES = Path(__file__).parent / "fixtures"
SCORES = json.loads(gzip.decompress((FIXTURES / "kenlm_scores.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def unzipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KenLM's binaries of order 2 to 4, as build_binary wrote them."""
    folder = tmp_path_factory.mktemp("kenlm")
    for file in FIXTURES.glob("kenlm_*.bin.gz"):
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return folder


@pytest.fixture(scope="module")
def model() -> NGramLM:
    return NGramLM.load(FIXTURES / "kenlm_3.arpa.gz")


def check_scores(model: NGramLM, order: int, tolerance: float = 1e-4) -> None:
    for row in SCORES[str(order)]:
        assert model.score(row["sentence"]) == pytest.approx(row["score"], abs=tolerance)
        assert model.score(row["sentence"], bos=False, eos=False) == pytest.approx(row["inner"], abs=tolerance)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_scores_of_an_arpa_file_are_kenlms(order: int) -> None:
    model = NGramLM.load(FIXTURES / f"kenlm_{order}.arpa.gz")
    assert model.order == order
    check_scores(model, order)
    for row in SCORES[str(order)]:
        for ours, theirs in zip(model.full_scores(row["sentence"]), row["words"], strict=True):
            assert ours[0] == pytest.approx(theirs[0], abs=1e-5) and list(ours[1:]) == theirs[1:]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_scores_of_a_probing_binary_are_kenlms(order: int, unzipped: Path) -> None:
    model = NGramLM.load(unzipped / f"kenlm_{order}.bin")
    check_scores(model, order)
    assert set(model.words) == set(NGramLM.load(FIXTURES / f"kenlm_{order}.arpa.gz").words)
    assert model.counts == NGramLM.load(FIXTURES / f"kenlm_{order}.arpa.gz").counts
    for row in SCORES[str(order)]:
        for ours, theirs in zip(model.full_scores(row["sentence"]), row["words"], strict=True):
            assert list(ours[1:]) == theirs[1:]


def test_saved_and_mapped_it_is_the_same(model: NGramLM, tmp_path: Path) -> None:
    file = model.save(tmp_path / "lm")
    assert file == tmp_path / "lm" / "lm.ngram" and not list(tmp_path.glob("**/*.partial"))
    mapped = NGramLM.load(tmp_path / "lm")
    assert mapped.words == model.words and mapped.counts == model.counts
    check_scores(mapped, 3)
    for ours, theirs in zip(mapped.tables(), model.tables(), strict=True):
        for name in ("prefix", "word", "suffix", "log_prob", "log_backoff"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_packing_loses_nothing(model: NGramLM) -> None:
    tables = model.tables()
    again = unpack(pack(tables), model.counts)
    for ours, theirs in zip(again, tables, strict=True):
        for name in ("prefix", "word", "suffix", "log_prob", "log_backoff"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_quantised_it_is_smaller_and_near(model: NGramLM, tmp_path: Path) -> None:
    whole, coded = model.save(tmp_path / "whole"), model.save(tmp_path / "coded", quantize=4)
    assert coded.stat().st_size < whole.stat().st_size
    quantised = NGramLM.load(coded)
    exact, near = (np.concatenate([table.log_prob for table in lm.tables()]) for lm in (model, quantised))
    assert 0 < np.abs(exact - near).mean() < 0.05
    quantised_tables = quantised.tables()
    for ours, theirs in zip(quantised_tables[:-1], model.tables()[:-1], strict=True):
        np.testing.assert_array_equal(ours.log_backoff == 0, theirs.log_backoff == 0)  # who is a context stays
        if ours is not quantised_tables[0]:  # the probabilities of words stay whole
            assert len(np.unique(ours.log_prob)) <= 16
    with pytest.raises(ValueError, match="2 to 16 bits for a value, got 40"):
        model.save(tmp_path / "coded", quantize=40)


def test_it_travels_between_processes_as_its_path(model: NGramLM, tmp_path: Path) -> None:
    model.save(tmp_path)
    mapped = NGramLM.load(tmp_path)
    assert len(pickle.dumps(mapped)) < 1000 < len(pickle.dumps(model))
    assert pickle.loads(pickle.dumps(model)).score("the cat") == model.score("the cat")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(mapped.score, ("the cat sees",)) == pytest.approx(model.score("the cat sees"))


def test_threads_share_a_probing_binary(unzipped: Path) -> None:
    model = NGramLM.load(unzipped / "kenlm_4.bin")
    sentences = [row["sentence"] for row in SCORES["4"]] * 20
    with ThreadPoolExecutor(4) as threads:
        scores = list(threads.map(model.score, sentences))
    np.testing.assert_allclose(scores, [row["score"] for row in SCORES["4"]] * 20, atol=1e-4)


def test_a_state_is_the_longest_context_that_matters(model: NGramLM) -> None:
    """The last N - 1 words decide it; words that begin nothing in the model are forgotten."""
    kernel = model.kernel

    def state_after(words: list[str], start: int = kernel.start_state) -> int:
        for word in words:
            start = step(kernel, start, model.word_id(word))[1]
        return start

    bigrams = {tuple(model.words[w] for w in (model.tables()[0].word[p], q)) for p, q in bigram_rows(model)}
    contexts = [pair for pair in bigrams if "<s>" not in pair and "</s>" not in pair][:50]
    assert len(contexts) == 50
    for pair in contexts:
        assert state_after(["house", "under", *pair]) == state_after(["cat", *pair])
    states = {state_after(list(pair), 0) for pair in contexts}
    assert len(states) == 50  # each is a context of its own
    unseen = next((a, b) for a in model.words[3:] for b in model.words[3:] if (a, b) not in bigrams)
    assert state_after(list(unseen), 0) == state_after([unseen[1]], 0)
    assert state_after(["zebra"], 0) == 0 and step(kernel, kernel.start_state, EOS)[1] == 0


def bigram_rows(model: NGramLM) -> list[tuple[int, int]]:
    table = model.tables()[1]
    return list(zip(table.prefix.tolist(), table.word.tolist(), strict=True))


def test_every_context_sums_to_one(model: NGramLM) -> None:
    ids = [index for index in range(len(model.words)) if model.words[index] != "<s>"]
    for words in ([], ["the"], ["the", "cat"], ["zebra"]):
        state = model.kernel.start_state
        for word in words:
            state = step(model.kernel, state, model.word_id(word))[1]
        assert sum(10 ** step(model.kernel, state, word)[0] for word in ids) == pytest.approx(1, abs=1e-4)


def test_words_and_perplexity(model: NGramLM) -> None:
    assert "cat" in model and "zebra" not in model and model.word_id("zebra") == UNK
    lines = ["the cat sees", "the zebra"]
    found = model.perplexity(lines)
    scores = [score for line in lines for score in model.full_scores(line)]
    assert (found.words, found.oov) == (7, 1)
    assert found.perplexity == pytest.approx(10 ** (-sum(p for p, _, _ in scores) / 7))
    assert found.perplexity_without_oov == pytest.approx(10 ** (-sum(p for p, _, oov in scores if not oov) / 6))
    with pytest.raises(ValueError, match="no sentence"):
        model.perplexity([])


def test_orders_one_and_two_work() -> None:
    for order in (1, 2):
        lm = NGramLM.from_text(["a b", "b a", "a a b"], order=order)
        state = lm.kernel.start_state
        assert sum(10 ** step(lm.kernel, state, word)[0] for word in (0, 2, 3, 4)) == pytest.approx(1, abs=1e-5)
        assert step_with_length(lm.kernel, state, lm.word_id("a"))[2] == order


def test_characters(tmp_path: Path) -> None:
    lm = NGramLM.from_text(["ab ba", "abba"], order=3, unit="char")
    lm.save(tmp_path)
    assert NGramLM.load(tmp_path).unit == "char"
    assert lm.tokens("ab  b") == ["a", "b", "\u2581", "b"] and lm.score("abba") > lm.score("bbaa")


def test_a_no_break_space_is_part_of_a_word() -> None:
    lm = NGramLM.from_text(["dix\u00a0mille pas", "deux pas"], order=2)
    assert lm.tokens("dix\u00a0mille \t pas") == ["dix\u00a0mille", "pas"] and "dix\u00a0mille" in lm


def test_what_is_no_unicode_is_an_unknown_word() -> None:
    lm = NGramLM.from_text(["a b"], order=2)
    assert lm.score("a caf\udce9") == lm.score("a caf\ud800") == lm.score("a unknown")


def test_files_that_cannot_be_opened(unzipped: Path, model: NGramLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no language model"):
        NGramLM.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"must hold lm\.ngram or one ARPA or KenLM file, found none"):
        NGramLM.load(tmp_path)
    for name in ("a.arpa", "b.arpa"):
        (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match=r"found a\.arpa, b\.arpa"):
        NGramLM.load(tmp_path)
    file = model.save(tmp_path / "whole")
    content = file.read_bytes()
    (tmp_path / "short.ngram").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is cut off"):
        NGramLM.load(tmp_path / "short.ngram")
    (tmp_path / "newer.ngram").write_bytes(content[:8] + b"\x63" + content[9:])
    with pytest.raises(ValueError, match="format 99, this hfaudio reads up to 1"):
        NGramLM.load(tmp_path / "newer.ngram")
    binary = (unzipped / "kenlm_3.bin").read_bytes()
    (tmp_path / "short.bin").write_bytes(binary[:3000])
    with pytest.raises(ValueError, match="is cut off"):
        NGramLM.load(tmp_path / "short.bin")
    (tmp_path / "other.bin").write_bytes(binary.replace(b"version 5", b"version 4"))
    with pytest.raises(ValueError, match="another format than KenLM's version 5"):
        NGramLM.load(tmp_path / "other.bin")
    for size in (0, 1, 7, 8, 9, 15, 16, 40):
        (tmp_path / "header.ngram").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"header\.ngram is cut off within its header; copy it again"):
            NGramLM.load(tmp_path / "header.ngram")
    (tmp_path / "empty.bin").write_bytes(binary[:20])
    with pytest.raises(ValueError, match=r"cut off|another format"):
        NGramLM.load(tmp_path / "empty.bin")
    (tmp_path / "words.bin").write_bytes(binary[:-30])
    with pytest.raises(ValueError, match="words; copy it again"):
        NGramLM.load(tmp_path / "words.bin")
    with pytest.raises(ValueError, match="hashes of n-grams, not n-grams; use the ARPA file"):
        NGramLM.load(unzipped / "kenlm_3.bin").save(tmp_path / "converted")
