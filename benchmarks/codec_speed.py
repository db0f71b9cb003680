"""How fast codecs encode and decode on one core: ours, EnCodec at 24 kHz, Opus.

    python benchmarks/codec_speed.py --model output/codec

EnCodec at 24 kHz has the sizes of facebook/encodec_24khz and random weights: time does not depend on them. Opus is
encoded at 6 kbit/s and decoded by PyAV, both together. Times real time, the median of several runs.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import EncodecConfig, EncodecModel

from hfaudio.audio.lossy import Lossy, round_trip


def times_real_time(run: Callable[[], object], seconds: float, repeats: int) -> float:
    """Seconds of audio in a second, the median of some runs after one to warm up."""
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return seconds / statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of an EnCodec")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the recording (10)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {
        args.model: EncodecModel.from_pretrained(args.model).eval(),
        "EnCodec, 24 kHz": EncodecModel(EncodecConfig()).eval(),
    }
    print("| codec | million weights | encodes, times real time | decodes, times real time |\n|---|---:|---:|---:|")
    with torch.inference_mode():
        for name, model in models.items():
            audio = 0.1 * torch.randn(1, model.config.audio_channels, round(args.seconds * model.config.sampling_rate))
            bandwidth = model.config.target_bandwidths[-1]
            codes = model.encode(audio, bandwidth=bandwidth).audio_codes

            def encode(model=model, audio=audio, bandwidth=bandwidth) -> object:
                return model.encode(audio, bandwidth=bandwidth)

            def decode(model=model, codes=codes) -> object:
                return model.decode(codes, [None])

            speeds = [times_real_time(run, args.seconds, args.repeats) for run in (encode, decode)]
            weights = sum(weight.numel() for weight in model.parameters()) / 1e6
            print(f"| {name} | {weights:.2f} | {speeds[0]:.0f} | {speeds[1]:.0f} |")
    samples = (0.1 * np.random.default_rng(0).standard_normal(round(args.seconds * 16_000))).astype(np.float32)
    opus = times_real_time(lambda: round_trip(samples, 16_000, Lossy("opus", 6000)), args.seconds, args.repeats)
    print(f"| Opus, 6 kbit/s | | {opus:.0f}, both together | |")


if __name__ == "__main__":
    main()
