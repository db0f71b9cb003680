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
    greens = [picture[24:134, 70:610, 1] for picture in pictures]  # within the axes
    middle = 79 - 24  # 4 of 8 kHz
    assert abs(int(greens[0].mean(1).argmax()) - middle) <= 2 and greens[0].max() > 0.6
    assert np.ptp(greens[1]) < 0.02
