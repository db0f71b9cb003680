"""The `hfaudio` command. Nothing heavy is imported until a command runs: `hfaudio --help` answers at once.

Exit code 0, 1 when some of the recordings could not be read, 2 for a mistake in the command.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hfaudio

FORMATS = ("txt", "json", "srt", "vtt")

# Options of `hfaudio evaluate` that are fields of `DataArguments`; their defaults are declared there.
DATA_OPTIONS: dict[str, dict[str, Any]] = {
    "dataset_config": {"help": "configuration of the dataset, if it has several"},
    "audio_column": {"help": "column of the recordings (audio)"},
    "text_column": {"help": "column of the transcripts (text)"},
    "speaker_column": {"help": "column naming the speaker ('speaker', where there is one)"},
    "normalizer": {"help": "none, basic or english, for models that do not name theirs (basic)"},
    "min_seconds": {"type": float, "help": "shorter recordings are skipped and counted (0.1)"},
    "max_seconds": {"type": float, "help": "longer recordings are skipped and counted (20)"},
    "max_eval_examples": {"type": int, "help": "use only the first rows"},
    "streaming": {"action": "store_true", "help": "read the split as a stream, without preparing it on disk"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line, by default that of this process."""
    arguments = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except (ValueError, OSError) as error:  # what hfaudio and transformers raise for a wrong value
        print(f"hfaudio {arguments.command}: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hfaudio", description="Speech recognition with fine-tuned models.")
    parser.add_argument("--version", action="version", version=f"hfaudio {hfaudio.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("transcribe", help="recordings to text, JSON or subtitles")
    command.set_defaults(run=run_transcribe)
    add_model_options(command)
    command.add_argument("files", metavar="FILE", nargs="+", help="recordings: wav, flac, ogg, mp3, m4a, mp4, webm")
    command.add_argument("--format", choices=FORMATS, default="txt", help="what is written (txt)")
    command.add_argument("--output_dir", type=Path, help="one file for each recording here, instead of the terminal")
    command.add_argument("--chunk_seconds", type=float, default=20.0, help="what a CTC model reads at once (20)")
    command.add_argument("--stride_seconds", type=float, default=3.0, help="context at both ends of a chunk (3)")
    command.add_argument("--batch_size", type=int, default=4, help="chunks of a CTC model read together (4)")

    command = commands.add_parser("evaluate", help="error rates of a model on a dataset")
    command.set_defaults(run=run_evaluate)
    add_model_options(command)
    command.add_argument("--dataset", required=True, help="'bundled', an id on the Hub, a folder or a manifest file")
    command.add_argument("--split", default="test", help="split to score (test)")
    command.add_argument("-o", "--output", type=Path, default=Path("metrics.json"), help="results (metrics.json)")
    command.add_argument("--errors", type=Path, metavar="FILE.md", help="write a table of the worst utterances")
    command.add_argument("--batch_size", type=int, default=1, help="clips read together (1)")
    command.add_argument("--seed", type=int, default=0, help="of the intervals' resampling (0)")
    for name, option in DATA_OPTIONS.items():
        command.add_argument(f"--{name}", default=argparse.SUPPRESS, **option)
    return parser


def add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="folder or Hub id that pipeline() opens")
    command.add_argument("--device", help="cpu, cuda, cuda:1 ... (the accelerator, if there is one)")
    command.add_argument("--trust_remote_code", action="store_true", help="run code that the model's folder brings")


def run_transcribe(arguments: argparse.Namespace) -> int:
    """Transcripts to standard output or files; a recording that cannot be read is reported, the others go on."""
    files = [Path(file) for file in arguments.files]
    outputs = [Path(arguments.output_dir or "", f"{file.stem}.{arguments.format}") for file in files]
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"there is no file {', '.join(map(str, missing))}; check the path")
    if arguments.output_dir:
        output, count = Counter(outputs).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} of the recordings would be written to {output}; rename them, or run one by one")
        arguments.output_dir.mkdir(parents=True, exist_ok=True)

    quiet_transformers()
    from hfaudio.audio.io import AudioError
    from hfaudio.inference.transcribe import Transcriber

    transcriber = Transcriber(
        arguments.model,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        chunk_seconds=arguments.chunk_seconds,
        stride_seconds=arguments.stride_seconds,
        batch_size=arguments.batch_size,
    )
    failures = 0
    for file, output in zip(files, outputs, strict=True):
        try:
            content = rendered(transcriber(file), arguments.format)
        except AudioError as error:
            print(f"hfaudio transcribe: {error}", file=sys.stderr)
            failures += 1
            continue
        if arguments.output_dir:
            output.write_text(content, encoding="utf-8")
        else:
            print(content, end="", flush=True)
    return 1 if failures else 0


def rendered(transcript: Any, output_format: str) -> str:
    """A `Transcript` in one of FORMATS."""
    from hfaudio.inference.subtitles import segments, to_json, to_srt, to_txt, to_vtt

    if output_format == "txt":
        return to_txt(transcript)
    if output_format == "json":
        return to_json(transcript)
    if transcript.text and not transcript.words:
        raise ValueError(f"this model gives no times, so no {output_format}; use --format txt or json")
    subtitles = segments(transcript.words)
    return to_srt(subtitles) if output_format == "srt" else to_vtt(subtitles)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Rates to standard output, all of the results to a file."""
    quiet_transformers()
    from hfaudio.data.datasets import DataArguments
    from hfaudio.inference.evaluate import evaluate

    given = {name: value for name, value in vars(arguments).items() if name in DATA_OPTIONS}
    results = evaluate(
        arguments.model,
        DataArguments(dataset=arguments.dataset, **given),
        split=arguments.split,
        output=arguments.output,
        errors=arguments.errors,
        batch_size=arguments.batch_size,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        seed=arguments.seed,
    )
    for name, rate in results["metrics"].items():
        value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
        print(f"{name} {value:.2f} % (95 % interval {low:.2f} to {high:.2f}, n = {rate['n']})")
    for reason, count in results["skipped"].items():
        print(f"skipped {count:,} rows: {reason}")
    speed = f"{results['audio_seconds']:,.1f} s of audio, {results['rtfx']:g} times real time"
    print(f"{speed} on {results['device']}; results in {arguments.output}")
    return 0


def quiet_transformers() -> None:
    """Keep remarks and the bar that shows weights being loaded off the terminal; errors still come."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
