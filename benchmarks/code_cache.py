"""Clips a second that a music dataset is coded with: hfaudio's code cache against the codec called clip by clip.

    python benchmarks/code_cache.py                                   # the bundled music and codec
    python benchmarks/code_cache.py --dataset output/music --clips 300 --threads 2

Both decode the same rows and give the same codes; the share that differs is printed. Clip by clip is what recipes do
that code inside `datasets.map` (musicgen-dreamboothing, whose comment says that EnCodec's batches do not work).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import EncodecModel

from hfaudio.data.bundled import path
from hfaudio.data.codes import cache_codes
from hfaudio.data.datasets import DataArguments, RowCheck, load_split
from hfaudio.models.musicgen import codec_bandwidth


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="bundled_music", help="as of the recipes")
    parser.add_argument("--codec", default=str(path("codec")), help="EnCodec: folder or Hub id")
    parser.add_argument("--num_codebooks", type=int, default=4)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--batch_size", type=int, help="default: 16 on a GPU, 1 on a CPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, for both")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of each is counted")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    codec = EncodecModel.from_pretrained(args.codec).eval()
    rows = load_split(DataArguments(dataset=args.dataset), "train", labelled=False)
    rows = rows.select(range(min(args.clips, len(rows))))
    check = RowCheck(codec.config.sampling_rate, labelled=False, max_seconds=3600)
    bandwidth = codec_bandwidth(codec, args.num_codebooks)

    @torch.no_grad()
    def clip_by_clip() -> list[np.ndarray]:
        coded = []
        for row in rows:
            samples, _ = check.decode(row)
            codes = codec.encode(torch.from_numpy(samples)[None, None], bandwidth=bandwidth).audio_codes
            coded.append(codes[0, 0].numpy())
        return coded

    def cached() -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            found = cache_codes(
                rows, check, codec, Path(folder), num_codebooks=args.num_codebooks, batch_size=args.batch_size
            )
            return [found.codes(number).copy() for number in range(len(found.rows))]

    seconds, results = {}, {}
    for name, way in (("clip by clip", clip_by_clip), ("code cache", cached)):
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            results[name] = way()
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    differing = np.mean([np.mean(a != b) for a, b in zip(*results.values(), strict=True)])
    print(f"{len(rows)} clips, {args.threads} threads of torch, batches of {args.batch_size or 'default size'}")
    for name, time_taken in seconds.items():
        print(f"{name:<14}{len(rows) / time_taken:8.1f} clips/s")
    print(f"ratio {seconds['clip by clip'] / seconds['code cache']:.2f}; codes that differ: {differing:.4%}")


if __name__ == "__main__":
    main()
