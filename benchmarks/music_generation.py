"""How fast music is generated: hfaudio against `generate` of transformers, in turn in one run, and streamed.

    python benchmarks/music_generation.py --model output/musicgen

Without --model, an untrained one of the bundled one's size: time does not depend on the weights. Both sample with
guidance and decode to audio; times are medians. One thread by default: the steps are so small that with more of them,
on a machine with other work, threads wait for each other most of the time.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from hfaudio.inference.generate import MusicGenerator
from hfaudio.models.delay import delays
from hfaudio.training.music_models import MusicModelArguments, open_music_model

PROMPT = "slow sad flute tune in d minor"


def untrained() -> MusicGenerator:
    """The bundled codec with 4 codebooks, a decoder of 8 million weights, a text encoder of 2 layers; 5.12 s."""
    sizes = MusicModelArguments(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, ffn_dim=768)
    model, processor = open_music_model(sizes, [PROMPT])
    return MusicGenerator.of(model.eval(), processor)


@torch.no_grad()
def stock(generator: MusicGenerator, batch: int, frames: int) -> torch.Tensor:
    """Audio (B, C, N) by transformers."""
    model = generator.model
    inputs = generator.processor(text=[PROMPT] * batch, return_tensors="pt").to(model.device)
    late = delays(model.decoder.config.num_codebooks, generator.channels)[-1]
    options = {"do_sample": True, "top_k": 250, "guidance_scale": 3.0, "max_new_tokens": frames + late}
    return model.generate(**inputs, **options)


def seconds_of(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each, one after the other in every round, after a round to warm up."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 1):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in taken]


def to_first_second(generator: MusicGenerator, seconds: float) -> None:
    """Returns when a second of a stream is there."""
    samples = 0
    for piece in generator.stream(PROMPT, seconds):
        samples += piece.shape[1]
        if samples >= generator.sample_rate:
            return


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or Hub id of a MusicGen, or 'bundled' (an untrained one)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="clips generated together (1 8)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ... (cpu)")
    args = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    generator = MusicGenerator(args.model, device=args.device) if args.model else untrained()
    generator.model.to(args.device)
    seconds = generator.window_seconds
    frames = round(seconds * generator.frame_rate)
    print(f"{seconds:.2f} s a clip with guidance, {args.threads} threads, {args.device}\n")
    print("| clips | transformers, times real time | hfaudio, times real time | ratio |\n|---:|---:|---:|---:|")
    for batch in args.batches:

        def by_stock(batch: int = batch) -> object:
            return stock(generator, batch, frames)

        def by_ours(batch: int = batch) -> object:
            return generator([PROMPT] * batch, seconds, seeds=range(batch), batch_size=batch)

        slow, fast = (batch * seconds / taken for taken in seconds_of([by_stock, by_ours], args.repeats))
        print(f"| {batch} | {slow:.1f} | {fast:.1f} | {fast / slow:.2f} |", flush=True)
    if seconds >= 1:
        (first,) = seconds_of([lambda: to_first_second(generator, seconds)], args.repeats)
        print(f"\nThe first second of a stream is there after {first:.2f} s.")
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
