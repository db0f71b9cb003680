"""Tables whose cells can be counted by hand, and pictures that show something."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from hfaudio.inference.music_report import (
    codec_table,
    confusion,
    obedience_table,
    plot_codecs,
    plot_confusion,
    plot_guidance,
    plot_obedience,
)
from hfaudio.metrics.obedience import ATTRIBUTES, Obedience, binomial_bar
from hfaudio.metrics.results import share

CHANCES = {"instrument": 1 / 8, "tempo": 1 / 3, "key": 1 / 24, "key_or_relative": 1 / 12, "mode": 1 / 2}


def scores(hits: int, n: int) -> dict[str, Obedience]:
    return {a: Obedience(share(hits, n), CHANCES[a], binomial_bar(n, CHANCES[a])) for a in ATTRIBUTES}


def test_codecs_have_the_columns_that_were_measured() -> None:
    rows = [{"name": "original", "bits": 256_000, "instrument": 1.0}, {"name": "a", "bits": 900, "mel": 1.234}]
    assert codec_table(rows, {"instrument": 0.125}).splitlines() == [
        "| codec | bit/s | mel | instrument |",
        "|---|---:|---:|---:|",
        "| original | 256,000 |  | 100.0 % |",
        "| a | 900 | 1.23 |  |",
        "| chance |  |  | 12.5 % |",
    ]


def test_each_number_of_clips_has_its_own_bar() -> None:
    # Of 192 clips guessing reaches 36 instruments (18.75 %), 80 tempos, 16 keys, 26 with relatives, 113 modes; of 48
    # 13, 25, 7, 10, 33.
    table = obedience_table({"asked": scores(96, 192), "shuffled": scores(24, 192), "unseen": scores(12, 48)})
    assert table.splitlines() == [
        "| clips | n | instrument | tempo | key | key_or_relative | mode |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| asked | 192 |" + " 50.0 (43 to 57) |" * 5,
        "| shuffled | 192 |" + " 12.5 (9 to 18) |" * 5,
        "| unseen | 48 |" + " 25.0 (15 to 39) |" * 5,
        "| chance | | 12.5 | 33.3 | 4.2 | 8.3 | 50.0 |",
        "| 1 % bar | 192 | 18.8 | 41.7 | 8.3 | 13.5 | 58.9 |",
        "| 1 % bar | 48 | 27.1 | 52.1 | 14.6 | 20.8 | 68.8 |",
    ]


def test_confusion_counts_what_was_heard_for_what_was_asked() -> None:
    asked, heard = ["flute", "flute", "organ"], ["flute", "piano", "organ"]
    assert confusion(asked, heard) == {"flute": {"flute": 1, "piano": 1}, "organ": {"organ": 1}}


@pytest.mark.parametrize(
    "plot",
    [
        lambda path: plot_obedience({"asked": scores(3, 9), "null": scores(1, 9)}, path),
        lambda path: plot_guidance({1.0: scores(1, 9), 3.0: scores(3, 9)}, path),
        lambda path: plot_confusion({"flute": {"flute": 1, "piano": 1}}, path),
        lambda path: plot_codecs(
            [{"name": "original", "bits": 256_000, "mode": 1.0}, {"name": "a 1", "bits": 900, "mode": 0.5}],
            CHANCES,
            path,
        ),
    ],
)
def test_pictures_are_drawn(plot, tmp_path: Path) -> None:
    plot(tmp_path / "picture.png")
    pixels = image.imread(tmp_path / "picture.png")
    assert min(pixels.shape[:2]) > 100 and np.ptp(pixels[..., :3]) > 0.5
