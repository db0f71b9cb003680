"""A picture of what is in a clip."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window is opened, here or on a cluster
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import mlab


def plot_spectrograms(clips: Mapping[str, np.ndarray], sample_rate: int, path: Path) -> None:
    """Spectrograms of clips (C, N) by title, from -140 to -30 dB."""
    figure, axes = plt.subplots(len(clips), 1, figsize=(8, 2.2 * len(clips)), layout="constrained", squeeze=False)
    for axis, (title, clip) in zip(axes[:, 0], clips.items(), strict=True):
        power, _, _ = mlab.specgram(clip.mean(0), NFFT=1024, Fs=sample_rate, noverlap=768)
        decibels = 10 * np.log10(np.maximum(power, 1e-14))
        extent = (0, clip.shape[1] / sample_rate, 0, sample_rate / 2)
        axis.imshow(decibels, vmin=-140, vmax=-30, extent=extent, origin="lower", aspect="auto")
        axis.set(title=title, ylabel="Hz")
    axes[-1, 0].set_xlabel("s")
    figure.savefig(path, dpi=80)
    plt.close(figure)
