"""A tone is a bright line at its height."""

from pathlib import Path

import numpy as np
from matplotlib import image

from hfaudio.inference.spectrogram import plot_spectrograms

RATE = 16_000


def test_a_tone_is_a_line_and_silence_is_dark(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 4_000 * np.arange(2 * RATE) / RATE)
    pictures = []
    for name, clip in (("tone", np.stack([tone, tone])), ("silence", np.zeros((1, 2 * RATE), np.float32))):
        plot_spectrograms({name: clip}, RATE, tmp_path / f"{name}.png")
        pictures.append(image.imread(tmp_path / f"{name}.png")[..., :3])
    yellow = pictures[0][..., 0] + pictures[0][..., 1] - pictures[0][..., 2] > 1.4
    rows = np.flatnonzero(yellow.sum(1) > yellow.shape[1] / 2)
    height = pictures[0].shape[0]
    assert 0.3 * height < rows.mean() < 0.65 * height and len(rows) < 0.2 * height  # 4 of 8 kHz
    assert not (pictures[1][..., 0] + pictures[1][..., 1] - pictures[1][..., 2] > 1.4).any()
