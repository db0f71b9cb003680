"""KenLM's binaries against sentence scores of kenlm 0.2.1 (kenlm-ex) in the fixtures, and damaged ones."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from hfaudio.ngram.kenlm_trie import TrieGrams, chopped_bits
from hfaudio.ngram.model import NGramLM

FIXTURES = Path(__file__).parent / "fixtures"
SCORES = json.loads(gzip.decompress((FIXTURES / "kenlm_trie_scores.json.gz").read_bytes()))
MODEL_TYPE = 96  # the byte of a header that says the kind of tables


def load(content: bytes, tmp_path: Path) -> NGramLM:
    (tmp_path / "lm.bin").write_bytes(content)
    return NGramLM.load(tmp_path / "lm.bin")


def fixture(name: str) -> bytes:
    return gzip.decompress((FIXTURES / f"{name}.bin.gz").read_bytes())


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_kenlms(name: str, tmp_path: Path) -> None:
    model = load(fixture(name), tmp_path)
    assert len(SCORES[name]) > 20
    for row in SCORES[name]:
        assert model.score(row["sentence"]) == pytest.approx(row["score"], abs=1e-4)
        assert model.score(row["sentence"], bos=False, eos=False) == pytest.approx(row["inner"], abs=1e-4)
        assert [length for _, length, _ in model.full_scores(row["sentence"])] == row["lengths"]


def test_the_four_kinds_of_tries_are_there() -> None:
    names = ("kenlm_4_trie", "kenlm_4_trie_quantised", "kenlm_4_trie_array", "kenlm_4_trie_quantised_array")
    assert [fixture(name)[MODEL_TYPE] for name in names] == [2, 3, 4, 5]


@pytest.mark.parametrize("name", ["kenlm_4_trie", "kenlm_4_trie_array"])
def test_a_trie_holds_the_ngrams_of_its_arpa_file(name: str, tmp_path: Path) -> None:
    trie, arpa = load(fixture(name), tmp_path), NGramLM.load(FIXTURES / "kenlm_4.arpa.gz")
    assert spelled(trie) == spelled(arpa)
    for table in trie.tables():  # -0.0 is KenLM's mark of what nothing extends
        assert not np.signbit(table.log_backoff[table.log_backoff == 0]).any()


def spelled(model: NGramLM) -> dict[tuple[str, ...], tuple[float, float]]:
    """Probability and back-off of each n-gram by its words."""
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    texts: list[tuple[str, ...]] = [()]
    for table in model.tables():
        texts = [(*texts[prefix], model.words[word]) for prefix, word in zip(table.prefix, table.word, strict=True)]
        values = zip(table.log_prob.tolist(), table.log_backoff.tolist(), strict=True)
        found.update(zip(texts, values, strict=True))
    return found


def test_ngrams_of_unk_stay_its_own_where_bos_is_missing() -> None:
    """KenLM's words here are <unk>, a, </s>; its <unk> stands for <s> too, of which it has no n-grams."""
    zeros = np.zeros(1, np.float32)
    ids = [np.array([[0], [1], [2]], np.int32), np.array([[0, 1]], np.int32)]
    trie = TrieGrams(ids, [np.zeros(3, np.float32), zeros], [np.zeros(3, np.float32), zeros], end=0)
    bigrams = trie.tables(np.array([0, 0, 2, 1]))[1]
    assert (bigrams.prefix.tolist(), bigrams.word.tolist()) == ([0], [3])


def test_a_trie_becomes_a_file_of_ours(tmp_path: Path) -> None:
    trie = load(fixture("kenlm_4_trie_quantised"), tmp_path)
    ours = NGramLM.load(trie.save(tmp_path / "ours"))
    sentences = [row["sentence"] for row in SCORES["kenlm_4_trie_quantised"]]
    np.testing.assert_array_equal([ours.score(line) for line in sentences], [trie.score(line) for line in sentences])


@pytest.mark.parametrize("name", ["kenlm_3_without_bos", "kenlm_3_trie_without_bos"])
def test_a_model_without_bos_begins_with_unk_as_in_kenlm(name: str, tmp_path: Path) -> None:
    model = load(fixture(name), tmp_path)
    assert model.words[:3] == ["<unk>", "<s>", "</s>"]
    assert model.full_scores("the")[0] == model.full_scores("zebra the")[1]


@pytest.mark.parametrize("rows, highest, limit, chopped", [(216, 499, 22, 2), (500, 565, 22, 4), (500, 565, 3, 3)])
def test_pointers_are_chopped_where_it_pays(rows: int, highest: int, limit: int, chopped: int) -> None:
    """64 bits for each entry of the array against the bits saved in each row; every cheaper cut is worse."""

    def bits(cut: int) -> int:
        return 64 * (highest >> (highest.bit_length() - cut)) - rows * cut

    assert chopped_bits(rows, highest, limit) == chopped
    assert all(bits(chopped) <= bits(other) for other in range(limit + 1) if other <= highest.bit_length())


@pytest.mark.parametrize("name", [name for name in SCORES if "trie" in name])
def test_a_trie_that_is_cut_off_says_so(name: str, tmp_path: Path) -> None:
    content = fixture(name)
    for size in (*range(256, len(content) - 1, 97), len(content) - 3):
        with pytest.raises(ValueError, match=r"is cut off.*copy it again"):
            load(content[:size], tmp_path)


@pytest.mark.parametrize(
    "word, first, message",
    [
        (5, 10**6, "its 1-grams do not lead to all 2-grams"),
        (23, 214, "its 1-grams do not lead to all 2-grams"),  # the end of the last word's, one too few
        (0, 1, "its 1-grams do not lead to all 2-grams"),
    ],
)
def test_damaged_pointers_are_named(word: int, first: int, message: str, tmp_path: Path) -> None:
    content = bytearray(fixture("kenlm_4_trie"))
    struct.pack_into("<Q", content, unigrams_at(content) + 16 * word + 8, first)
    with pytest.raises(ValueError, match=f"{message}; copy it again"):
        load(bytes(content), tmp_path)


def test_damaged_words_are_named(tmp_path: Path) -> None:
    content = bytearray(fixture("kenlm_4_trie"))
    bigrams = unigrams_at(content) + 16 * (23 + 2)
    content[bigrams] |= 31  # the five bits of the first one's word
    with pytest.raises(ValueError, match="word 31 of 23 in a 2-gram; copy it again"):
        load(bytes(content), tmp_path)


def unigrams_at(content: bytearray) -> int:
    """The header ends at byte 140, aligned to eight bytes; a count and the hashes of the words follow."""
    return 144 + 8 + 8 * struct.unpack_from("<Q", content, 108)[0]


def test_other_kinds_of_binaries_are_named(tmp_path: Path) -> None:
    content = bytearray(fixture("kenlm_4_trie"))
    content[MODEL_TYPE] = 1
    with pytest.raises(ValueError, match="KenLM binary of type 1; hfaudio reads type 0"):
        load(bytes(content), tmp_path)
    content = bytearray(fixture("kenlm_4_trie_quantised"))
    content[unigrams_at(content)] = 3  # here the codes come before the unigrams
    with pytest.raises(ValueError, match=r"codes of version 3 and 4 and 3 bits, not of KenLM's version 2"):
        load(bytes(content), tmp_path)
