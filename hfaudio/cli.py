"""The `hfaudio` command. Nothing heavy is imported until a command runs: `hfaudio --help` answers at once.

Exit code 0, 1 when some of the recordings could not be read (`doctor`: when something must be fixed), 2 for a mistake
in the command.
"""

import argparse
import importlib.util
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hfaudio

FORMATS = ("txt", "json", "srt", "vtt")
ALIGNMENT_FORMATS = ("textgrid", "json", "srt")

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

# Options of `hfaudio transcribe` that are fields of `LongFormSettings`, for models that generate.
LONG_FORM_OPTIONS: dict[str, dict[str, Any]] = {
    "way": {"choices": ("sequential", "chunked"), "help": "Whisper window by window, or windows in batches"},
    "vad": {"action": "store_true", "help": "leave out what is no speech; needs hfaudio[vad]"},
    "language": {"help": "of a multilingual Whisper (detected)"},
    "task": {"choices": ("transcribe", "translate"), "help": "of a multilingual Whisper (transcribe)"},
    "temperatures": {"type": float, "nargs": "+", "help": "tried in turn on texts that fail (0 0.2 0.4 0.6 0.8 1)"},
    "compression_ratio_threshold": {"type": float, "help": "texts that repeat themselves more fail (1.35)"},
    "logprob_threshold": {"type": float, "help": "texts that are less probable fail (-1)"},
    "no_speech_threshold": {"type": float, "help": "failed windows more probably without speech are empty (0.6)"},
    "condition_on_previous_text": {"action": "store_true", "help": "give each window the text before it"},
    "seed": {"type": int, "help": "of the sampling at temperatures above 0 (0)"},
}

# Options of `hfaudio generate` that are fields of `Sampling`.
SAMPLING_OPTIONS: dict[str, dict[str, Any]] = {
    "guidance_scale": {"type": float, "help": "how much the text counts; 1 is no guidance (3)"},
    "temperature": {"type": float, "help": "0 takes the likeliest codes (1)"},
    "top_k": {"type": int, "help": "draw from so many of the likeliest codes; 0 is all (250)"},
    "top_p": {"type": float, "help": "draw from the likeliest codes with this share together; 1 is all (1)"},
}

# Options of `hfaudio demo` that are fields of `Limits`.
LIMIT_OPTIONS: dict[str, dict[str, Any]] = {
    "file_mb": {"type": float, "help": "largest upload (100)"},
    "file_minutes": {"type": float, "help": "longest recording (60)"},
    "live_minutes": {"type": float, "help": "longest live session and recording of the microphone (30)"},
    "music_seconds": {"type": float, "help": "longest clip of music (30)"},
    "queue_size": {"type": int, "help": "requests that wait; more are refused (40)"},
    "keep_minutes": {"type": float, "help": "after which uploads and results are deleted (60)"},
}

# Those of `hfaudio doctor`, which reads all splits and limits rows itself.
DOCTOR_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: option for name, option in DATA_OPTIONS.items() if name != "max_eval_examples"},
    "id_column": {"help": "column naming the row ('id', where there is one)"},
    "normalizer": {"help": "how transcripts are written for training: none, basic or english (basic)"},
    "min_seconds": {"type": float, "help": "training skips shorter recordings (0.1)"},
    "max_seconds": {"type": float, "help": "training skips longer recordings (20)"},
    "streaming": {"action": "store_true", "help": "read the splits as streams, without preparing them on disk"},
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
    parser = argparse.ArgumentParser(prog="hfaudio", description="Speech and music with fine-tuned models.")
    parser.add_argument("--version", action="version", version=f"hfaudio {hfaudio.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("transcribe", help="recordings to text, JSON or subtitles")
    command.set_defaults(run=run_transcribe)
    add_model_options(command)
    command.add_argument("files", metavar="FILE", nargs="+", help="recordings: wav, flac, ogg, mp3, m4a, mp4, webm")
    command.add_argument("--format", choices=FORMATS, default="txt", help="what is written (txt)")
    command.add_argument("--output_dir", type=Path, help="one file for each recording here, instead of the terminal")
    command.add_argument("--hotwords", nargs="+", metavar="PHRASE", help="words or phrases that are likely to occur")
    command.add_argument("--chunk_seconds", type=float, default=20.0, help="what a CTC model reads at once (20)")
    command.add_argument("--stride_seconds", type=float, default=3.0, help="context at both ends of a chunk (3)")
    command.add_argument(
        "--pause_seconds", type=float, help="read a CTC model's recordings cut at such pauses, not in chunks (0.5 ...)"
    )
    command.add_argument("--batch_size", type=int, default=4, help="chunks or windows read together (4)")
    for name, option in LONG_FORM_OPTIONS.items():
        command.add_argument(f"--{name}", default=argparse.SUPPRESS, **option)

    command = commands.add_parser("align", help="when the words of a known text are spoken")
    command.set_defaults(run=run_align)
    command.add_argument("model", metavar="MODEL", help="folder or Hub id of a CTC model")
    command.add_argument("audio", metavar="AUDIO", type=Path, help="the recording")
    command.add_argument("text", metavar="TEXT", type=Path, help="text file of what is said, in UTF-8")
    command.add_argument("--format", choices=ALIGNMENT_FORMATS, default="textgrid", help="what is written (textgrid)")
    command.add_argument("-o", "--output", type=Path, help="file to write instead of the terminal")
    command.add_argument("--device", help="cpu, cuda, cuda:1 ... (the accelerator, if there is one)")
    command.add_argument("--trust_remote_code", action="store_true", help="run code that the model's folder brings")

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

    command = commands.add_parser("doctor", help="what must be repaired in a dataset before training")
    command.set_defaults(run=run_doctor)
    command.add_argument("dataset", metavar="DATASET", help="'bundled', an id on the Hub, a folder or a manifest file")
    command.add_argument("--splits", nargs="+", metavar="SPLIT", help="splits to examine (all)")
    command.add_argument("--max_rows", type=int, help="read only the first rows of each split")
    command.add_argument(
        "--frames_per_second", type=float, default=50.0, help="of the model to be trained; labels must fit (50)"
    )
    command.add_argument("--accept", nargs="+", default=[], metavar="NAME", help="findings that are known and fine")
    command.add_argument("--threads", type=int, help="that decode (one for each processor)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    command.add_argument("--html", type=Path, metavar="FILE", help="write the report as one page with plots")
    for name, option in DOCTOR_OPTIONS.items():
        command.add_argument(f"--{name}", default=argparse.SUPPRESS, **option)

    command = commands.add_parser("generate", help="music from text")
    command.set_defaults(run=run_generate)
    add_generate_options(command)

    command = commands.add_parser("publish", help="check a model folder, write its card and push it to the Hub")
    command.set_defaults(run=run_publish)
    add_publish_options(command)

    command = commands.add_parser("demo", help="a page for captions, live captions and text to music")
    command.set_defaults(run=run_demo)
    add_demo_options(command)

    command = commands.add_parser("codec", help="recordings to code files and back by a neural codec")
    add_codec_commands(command.add_subparsers(dest="codec_command", required=True, metavar="COMMAND"))

    command = commands.add_parser("lm", help="n-gram language models: train, eval, mix, convert")
    add_lm_commands(command.add_subparsers(dest="lm_command", required=True, metavar="COMMAND"))
    return parser


def add_generate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="folder or Hub id of a MusicGen, or 'bundled'")
    command.add_argument("prompts", metavar="PROMPT", nargs="*", help="what is to be heard; one clip or more of each")
    command.add_argument("-o", "--output", type=Path, required=True, help="file to write: .wav, .flac, .ogg, .opus")
    command.add_argument("--unconditional", action="store_true", help="without a prompt")
    command.add_argument("--seconds", type=float, help="length, behind --continue_from (10)")
    command.add_argument("--samples", type=int, default=1, help="clips of each prompt (1)")
    command.add_argument("--seed", type=int, default=0, help="of each prompt's first sample, the next has 1 more (0)")
    command.add_argument("--continue_from", type=Path, metavar="FILE", help="recording that each clip begins with")
    command.add_argument("--melody", type=Path, metavar="FILE", help="recording of a melody to play (MusicGen-melody)")
    command.add_argument("--adapter", metavar="FOLDER", help="PEFT adapter of the model")
    command.add_argument("--match", type=Path, metavar="VIDEO", help="write this video with the clip as its sound")
    command.add_argument("--stop_below_db", type=float, help="end after a second that is quieter, such as -60 (never)")
    command.add_argument("--lufs", type=loudness, default=-16.0, help="loudness of what is written, or none (-16)")
    command.add_argument("--batch_size", type=int, default=8, help="clips generated together (8)")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (cpu)")
    for name, option in SAMPLING_OPTIONS.items():
        command.add_argument(f"--{name}", default=argparse.SUPPRESS, **option)


def add_publish_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="FOLDER", type=Path, help="what a recipe left: a model or an adapter")
    command.add_argument("repo_id", metavar="USER/NAME", help="repository, made if it is not there")
    command.add_argument("--revision", help="branch, made if it is not there (main)")
    command.add_argument("--private", action="store_true", default=None, help="if the repository is made")
    command.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    command.add_argument("--base_model", metavar="USER/NAME", help="of an adapter: where others find its base")
    command.add_argument("--license", help="of the model, such as apache-2.0 (that of the base, where it is known)")
    choice = command.add_mutually_exclusive_group()
    choice.add_argument("--clips", type=Path, nargs="+", metavar="FILE", help="recordings to check with (bundled)")
    choice.add_argument("--prompts", nargs="+", metavar="TEXT", help="texts to check with")
    command.add_argument("--dry_run", action="store_true", help="check, write the card and show what would be pushed")


def add_demo_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--asr", default="bundled", help="speech model: folder or Hub id, 'bundled', 'none'")
    command.add_argument("--music", default="bundled", help="MusicGen: folder or Hub id, 'bundled', 'none'")
    command.add_argument("--describe", help="model that describes sounds, of recipes/asr_seq2seq.py --target caption")
    command.add_argument(
        "--adapter", metavar="NAME=FOLDER", action="append", default=[], help="of the music model; may be repeated"
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1 ... (the accelerator, if there is one)")
    command.add_argument("--trust_remote_code", action="store_true", help="run code that a model's folder brings")
    command.add_argument("--port", type=int, help="(7860, or the next one that is free)")
    command.add_argument("--host", help="0.0.0.0 lets other machines in (127.0.0.1)")
    command.add_argument("--share", action="store_true", help="a public address for 72 hours, by a server of Gradio's")
    command.add_argument("--auth", metavar="USER:PASSWORD", help="ask for a login")
    for name, option in LIMIT_OPTIONS.items():
        command.add_argument(f"--{name}", default=argparse.SUPPRESS, **option)


def loudness(text: str) -> float | None:
    """ "-16" is -16 LUFS, "none" as generated."""
    return None if text == "none" else float(text)


def add_codec_commands(commands: Any) -> None:
    """The commands of `hfaudio codec`."""
    command = commands.add_parser("encode", help="a recording to a code file")
    command.set_defaults(run=run_codec_encode)
    command.add_argument("file", metavar="FILE", type=Path, help="recording: wav, flac, ogg, mp3, m4a, mp4, webm")
    command.add_argument("-o", "--output", type=Path, help="code file to write (FILE with .hfac)")
    command.add_argument("--model", default="bundled", help="folder or Hub id of an EnCodec (the bundled one)")
    command.add_argument("--bandwidth", type=float, help="kbit/s, one that the model has (its highest)")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (cpu)")

    command = commands.add_parser("decode", help="a code file to a recording")
    command.set_defaults(run=run_codec_decode)
    command.add_argument("file", metavar="FILE", type=Path, help="code file")
    command.add_argument("-o", "--output", type=Path, help="recording to write: .wav, .flac, .ogg (FILE with .wav)")
    command.add_argument("--model", help="folder or Hub id of the EnCodec (the one that the file names)")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (cpu)")


def add_lm_commands(commands: Any) -> None:
    """The commands of `hfaudio lm`."""
    command = commands.add_parser("train", help="estimate a model from text")
    command.set_defaults(run=run_lm_train)
    add_text_options(command, "TEXT", nargs="*")
    command.add_argument("--dataset", help="a text dataset on the Hub or a folder, streamed, instead of files")
    command.add_argument("--dataset_config", help="configuration of the dataset, if it has several")
    command.add_argument("--split", default="train", help="split of the dataset (train)")
    command.add_argument("--text_column", default="text", help="column of the dataset (text)")
    command.add_argument("--order", type=int, default=3, help="words of the longest n-grams, 1 to 6 (3)")
    command.add_argument("--unit", default="word", help="word, char, or bpe with --tokenizer (word)")
    command.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[],
        metavar="COUNT",
        help="drop n-grams of order 1, 2, ... that occur at most so often; the last one holds for higher orders",
    )
    command.add_argument("--vocab", metavar="FILE", help="words, parted by white space; others become <unk>")
    command.add_argument("--vocab_size", type=int, help="keep so many words, the most frequent ones")
    command.add_argument("--min_count", type=int, default=1, help="keep words that occur at least so often (1)")
    command.add_argument("--memory", help="what to sort in, such as 500M or 2G; the rest of the work goes to files")
    command.add_argument("--temp_dir", metavar="FOLDER", help="where these files are (the system's folder)")
    command.add_argument("--closed", action="store_true", help="give words outside of the text no probability")
    add_output_options(command)

    command = commands.add_parser("eval", help="perplexity of texts")
    command.set_defaults(run=run_lm_eval)
    command.add_argument("model", metavar="LM", help="folder, lm.ngram, ARPA or KenLM file")
    add_text_options(command, "TEXT", nargs="+")

    command = commands.add_parser("mix", help="interpolate models, with weights that suit a text best")
    command.set_defaults(run=run_lm_mix)
    command.add_argument("models", metavar="LM", nargs="+", help="folders, lm.ngram or ARPA files")
    choice = command.add_mutually_exclusive_group(required=True)
    choice.add_argument("--dev", metavar="TEXT", nargs="+", help="text files that the weights are fitted on")
    choice.add_argument("--weights", type=float, nargs="+", help="given weights, one for each model")
    add_line_options(command)
    add_output_options(command)

    command = commands.add_parser("convert", help="between lm.ngram (a folder or file) and ARPA (.arpa, .arpa.gz)")
    command.set_defaults(run=run_lm_convert)
    command.add_argument("model", metavar="IN", help="folder, lm.ngram or ARPA file")
    command.add_argument("output", metavar="OUT", help="a folder, or a file that ends in .ngram, .arpa or .arpa.gz")
    command.add_argument("--quantize", type=int, metavar="BITS", help="of a probability and a back-off, such as 8")


def add_text_options(command: argparse.ArgumentParser, name: str, nargs: str) -> None:
    command.add_argument(
        "text", metavar=name, nargs=nargs, help="files, a sentence a line; gzip too, - is standard input"
    )
    add_line_options(command)


def add_line_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--normalizer", default="basic", help="none, basic or english, as the recogniser's (basic)")
    command.add_argument("--tokenizer", metavar="FOLDER", help="tokenizer of a model of word pieces: folder or Hub id")


def add_output_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", required=True, help="a folder, or a file that ends in .ngram or .arpa.gz")
    command.add_argument("--arpa", metavar="FILE", help="write an ARPA file as well: .arpa or .arpa.gz")
    command.add_argument(
        "--entropy_prune",
        type=float,
        metavar="RATIO",
        help="drop n-grams that change perplexity by less, such as 1e-8",
    )
    command.add_argument("--quantize", type=int, metavar="BITS", help="of a probability and a back-off, such as 8")


def add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="folder or Hub id that pipeline() opens")
    command.add_argument("--greedy", action="store_true", help="without the language model in the model's folder")
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
    from hfaudio.inference.long_form import LongFormSettings
    from hfaudio.inference.transcribe import Transcriber

    given = {name: getattr(arguments, name) for name in LONG_FORM_OPTIONS if hasattr(arguments, name)}
    if "temperatures" in given:
        given["temperatures"] = tuple(given["temperatures"])
    transcriber = Transcriber(
        arguments.model,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        language_model=not arguments.greedy,
        hotwords=arguments.hotwords,
        chunk_seconds=arguments.chunk_seconds,
        stride_seconds=arguments.stride_seconds,
        pause_seconds=arguments.pause_seconds,
        batch_size=arguments.batch_size,
        long_form=LongFormSettings(**given, batch_size=arguments.batch_size) if given else None,
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
    from hfaudio.inference.subtitles import segment_words, segments, to_json, to_srt, to_txt, to_vtt

    if output_format == "txt":
        return to_txt(transcript)
    if output_format == "json":
        return to_json(transcript)
    words = transcript.words or segment_words(transcript)
    if transcript.text and not words:
        raise ValueError(f"this model gives no times, so no {output_format}; use --format txt or json")
    subtitles = segments(words)
    return to_srt(subtitles) if output_format == "srt" else to_vtt(subtitles)


def run_align(arguments: argparse.Namespace) -> int:
    """The alignment to standard output or a file; words that are not spoken are listed on standard error."""
    for file in (arguments.audio, arguments.text):
        if not file.is_file():
            raise ValueError(f"there is no file {file}; check the path")
    try:
        text = arguments.text.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{arguments.text} is not UTF-8 text ({error}); save it as UTF-8") from error
    quiet_transformers()
    from hfaudio.audio.io import AudioError
    from hfaudio.inference.align import Aligner, to_json, to_subtitles, to_textgrid

    writers = {"textgrid": to_textgrid, "json": to_json, "srt": to_subtitles}
    aligner = Aligner(arguments.model, device=arguments.device, trust_remote_code=arguments.trust_remote_code)
    try:
        alignment = aligner(arguments.audio, text)
    except AudioError as error:
        print(f"hfaudio align: {error}", file=sys.stderr)
        return 1
    content = writers[arguments.format](alignment)
    if arguments.output:
        arguments.output.write_text(content, encoding="utf-8")
    else:
        print(content, end="")
    if missing := [word.text for word in alignment.words if not word.is_spoken]:
        examples = " ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
        total = len(alignment.words)
        print(f"hfaudio align: {len(missing)} of {total} words are not spoken: {examples}", file=sys.stderr)
    return 0


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
        language_model=not arguments.greedy,
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


def run_doctor(arguments: argparse.Namespace) -> int:
    """The report to standard output and to files; 1 if something must be fixed."""
    for file in (arguments.json, arguments.html):
        if file and not file.parent.is_dir():  # said before hours of reading
            raise ValueError(f"there is no folder {file.parent} to write {file.name} to; make it first")
    from hfaudio.data.datasets import DataArguments
    from hfaudio.data.doctor import examine
    from hfaudio.data.doctor_report import to_html, to_json, to_text

    given = {name: value for name, value in vars(arguments).items() if name in DOCTOR_OPTIONS}
    report = examine(
        DataArguments(dataset=arguments.dataset, **given),
        splits=arguments.splits,
        max_rows=arguments.max_rows,
        frames_per_second=arguments.frames_per_second,
        accept=tuple(arguments.accept),
        threads=arguments.threads,
    )
    print(to_text(report), end="")
    for file, write in ((arguments.json, to_json), (arguments.html, to_html)):
        if file:
            file.write_text(write(report), encoding="utf-8")
    return 1 if report.verdict == "fix" else 0


def run_generate(arguments: argparse.Namespace) -> int:
    """Audio files (with --match videos), and what each is to standard output."""
    if arguments.unconditional == bool(arguments.prompts):
        raise ValueError("give either prompts or --unconditional, got " + ("both" if arguments.prompts else "neither"))
    if arguments.match and not (arguments.seconds is None and arguments.stop_below_db is None):
        raise ValueError("with --match the video tells the length; leave out --seconds and --stop_below_db")
    if arguments.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {arguments.samples}")
    quiet_transformers()
    from hfaudio.audio.export import normalise_loudness
    from hfaudio.audio.io import SAVED_AS, AudioError, save_audio
    from hfaudio.inference.generate import MusicGenerator, Sampling
    from hfaudio.inference.soundtrack import check_output, mux, plan_soundtrack, with_tempo

    prompts: list[str | None] = arguments.prompts or [None]
    seconds = 10.0 if arguments.seconds is None else arguments.seconds
    if arguments.match:
        check_output(arguments.match, arguments.output)
        plan = plan_soundtrack(arguments.match)
        seconds, prompts = plan.seconds, [text and with_tempo(text, plan.tempo) for text in prompts]
        print(f"{arguments.match}: {seconds:.2f} s, {plan.cuts_per_minute:.1f} cuts a minute, {plan.tempo}")
    elif arguments.output.suffix.lower() not in SAVED_AS:  # said before minutes of work
        raise ValueError(f"{arguments.output} must end in one of {', '.join(SAVED_AS)}")
    elif not arguments.output.parent.is_dir():
        raise ValueError(f"there is no folder {arguments.output.parent} to write to; make it first")
    sampling = Sampling(**{name: value for name, value in vars(arguments).items() if name in SAMPLING_OPTIONS})
    generator = MusicGenerator(arguments.model, adapter=arguments.adapter, device=arguments.device)
    texts = [prompt for prompt in prompts for _ in range(arguments.samples)]
    seeds = [arguments.seed + sample for _ in prompts for sample in range(arguments.samples)]
    try:
        codes = generator.codes(
            texts,
            seconds,
            seeds=seeds,
            sampling=sampling,
            continue_from=[arguments.continue_from] * len(texts) if arguments.continue_from else None,
            melody=[arguments.melody] * len(texts) if arguments.melody else None,
            batch_size=arguments.batch_size,
            stop_below_db=arguments.stop_below_db,
            progress=sys.stderr.isatty(),
        )
    except AudioError as error:
        print(f"hfaudio generate: {error}", file=sys.stderr)
        return 1
    for file, text, seed, clip in zip(numbered(arguments.output, len(texts)), texts, seeds, codes, strict=True):
        samples = generator.decode(clip)
        if arguments.lufs is not None:
            samples = normalise_loudness(samples, generator.sample_rate, arguments.lufs)
        if arguments.match:
            mux(arguments.match, samples, generator.sample_rate, file)
        else:
            save_audio(file, samples, generator.sample_rate)
        print(f"{file}: {samples.shape[1] / generator.sample_rate:.2f} s, seed {seed}, {text or 'without a prompt'}")
    return 0


def numbered(output: Path, count: int) -> list[Path]:
    """The file, or of several ones song-1.wav, song-2.wav, ..."""
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{number}") for number in range(1, count + 1)]


def run_publish(arguments: argparse.Namespace) -> int:
    """Check, card and push; what was pushed to standard output."""
    if missing := [file for file in arguments.clips or [] if not file.is_file()]:
        raise ValueError(f"there is no file {', '.join(map(str, missing))}; check the path")
    quiet_transformers()
    import logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("hfaudio").setLevel(logging.INFO)  # what was compared
    from hfaudio.hub.publish import publish

    published = publish(
        arguments.folder,
        arguments.repo_id,
        inputs=arguments.clips or arguments.prompts,
        revision=arguments.revision,
        private=arguments.private,
        create_pr=arguments.create_pr,
        base_model=arguments.base_model,
        license=arguments.license,
        dry_run=arguments.dry_run,
    )
    for file in published.files:
        print(f"{(arguments.folder / file).stat().st_size:12,d}  {file}")
    if published.commit is None:
        print(f"{published.size:12,d}  bytes would be pushed to {arguments.repo_id}; nothing was")
    else:
        print(f"{published.size:12,d}  bytes in {published.commit.pr_url or published.commit.commit_url}")
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    """Serve the page until it is interrupted, or write it as a Space."""
    adapters = dict(adapter.partition("=")[::2] for adapter in arguments.adapter)
    if incomplete := [name for name, folder in adapters.items() if not (name and folder)]:
        raise ValueError(f"--adapter {incomplete[0]}: give a name and a folder, as --adapter folk=output/folk/adapter")
    user, _, password = (arguments.auth or "").partition(":")
    if arguments.auth and not (user and password):
        raise ValueError("--auth needs a name and a password, as --auth me:secret")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the demo needs Gradio: pip install 'hfaudio[demo]'")
    quiet_transformers()
    from hfaudio.data.bundled import path
    from hfaudio.demo.app import served
    from hfaudio.demo.settings import DemoSettings, Limits

    music = None if arguments.music == "none" else arguments.music
    if music == "bundled" and not adapters:
        try:
            path("musicgen")
        except ValueError as error:  # of a wheel, which is without it
            print(f"No music: {error}. Give a MusicGen by --music.", file=sys.stderr)
            music = None

    settings = DemoSettings(
        asr=None if arguments.asr == "none" else arguments.asr,
        music=music,
        describe=arguments.describe,
        adapters=adapters,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        limits=Limits(**{name: getattr(arguments, name) for name in LIMIT_OPTIONS if hasattr(arguments, name)}),
    )
    where = {"server_port": arguments.port, "server_name": arguments.host, "share": arguments.share}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # service managers end it so; files go all the same
    with served(settings, auth=(user, password) if arguments.auth else None, **where) as address:
        print(f"The demo is at {address} (Ctrl+C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("The demo has ended; uploads and results are deleted.")
    return 0


def run_codec_encode(arguments: argparse.Namespace) -> int:
    """A code file, and its size to standard output."""
    quiet_transformers()
    from hfaudio.audio.io import AudioError, load_audio
    from hfaudio.inference.codec import Codec, write_codes

    codec = Codec(arguments.model, arguments.device)
    try:
        samples = load_audio(arguments.file, codec.config.sampling_rate, channels=codec.config.audio_channels)
    except AudioError as error:
        print(f"hfaudio codec encode: {error}", file=sys.stderr)
        return 1
    coded = codec.encode(samples, arguments.bandwidth)
    output = arguments.output or arguments.file.with_suffix(".hfac")
    write_codes(coded, output)
    seconds = coded.num_samples / coded.sample_rate
    print(f"{output}: {seconds:.2f} s, {coded.bits_per_second:,.0f} bit/s, {output.stat().st_size:,} bytes")
    return 0


def run_codec_decode(arguments: argparse.Namespace) -> int:
    """A recording, and its length to standard output."""
    if not arguments.file.is_file():
        raise ValueError(f"there is no file {arguments.file}; check the path")
    quiet_transformers()
    from hfaudio.audio.io import save_audio
    from hfaudio.inference.codec import Codec, read_codes

    coded = read_codes(arguments.file)
    samples = Codec(arguments.model or coded.model, arguments.device).decode(coded)
    output = arguments.output or arguments.file.with_suffix(".wav")
    save_audio(output, samples, coded.sample_rate)
    print(f"{output}: {samples.shape[1] / coded.sample_rate:.2f} s, {coded.sample_rate} Hz, {coded.channels} channels")
    return 0


def run_lm_train(arguments: argparse.Namespace) -> int:
    """A model folder (or file), and what it holds to standard output."""
    if bool(arguments.text) == bool(arguments.dataset):
        raise ValueError("give either text files or --dataset, got " + ("both" if arguments.text else "neither"))
    from hfaudio.ngram.estimate import estimate
    from hfaudio.text.lines import text_lines

    vocabulary = None
    if arguments.vocab:
        vocabulary = Path(arguments.vocab).read_text(encoding="utf-8").split()
    if arguments.dataset:
        from hfaudio.data.text import dataset_lines

        lines = dataset_lines(
            arguments.dataset,
            arguments.split,
            arguments.text_column,
            arguments.normalizer,
            config=arguments.dataset_config,
        )
    else:
        lines = text_lines(arguments.text, arguments.normalizer)
    model = estimate(
        lines,
        arguments.order,
        unit=arguments.unit,
        tokenize=word_pieces(arguments.tokenizer) if arguments.tokenizer else None,
        prune=arguments.prune,
        vocabulary=vocabulary,
        vocab_size=arguments.vocab_size,
        min_count=arguments.min_count,
        closed=arguments.closed,
        memory=byte_count(arguments.memory) if arguments.memory else None,
        temp_dir=arguments.temp_dir,
    )
    save_lm(model.words, model.tables, model.unit, arguments)
    return 0


def byte_count(text: str) -> int:
    """ "2G" is 2 * 2**30 bytes."""
    number, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    powers = {"": 0, "k": 10, "m": 20, "g": 30}
    try:
        return int(float(number) * 2 ** powers[unit.lower()])
    except (ValueError, KeyError) as error:
        raise ValueError(f"--memory is a number of bytes with K, M or G, such as 500M; got {text!r}") from error


def save_lm(words: list[str], tables: Any, unit: str, arguments: argparse.Namespace) -> None:
    """Write a model as `add_output_options` says."""
    from hfaudio.ngram.model import NGramLM
    from hfaudio.ngram.prune import prune_entropy

    if arguments.entropy_prune is not None:
        tables = prune_entropy(tables, arguments.entropy_prune)
    lm = NGramLM.from_tables(words, tables, unit=unit)
    file = lm.save(arguments.output, quantize=arguments.quantize)
    counts = ", ".join(f"{count:,} {order}-grams" for order, count in enumerate(lm.counts, start=1))
    print(f"{file}: {counts}, {file.stat().st_size:,} bytes")
    if arguments.arpa:
        print(lm.save(arguments.arpa))


def run_lm_eval(arguments: argparse.Namespace) -> int:
    """Perplexity, and how many words are unknown, to standard output."""
    from hfaudio.ngram.model import NGramLM

    lm = NGramLM.load(arguments.model)
    result = lm.perplexity(lm_lines(arguments.text, lm.unit, arguments))
    share = 100 * result.oov / result.words
    print(
        f"perplexity {result.perplexity:.2f}, without unknown words {result.perplexity_without_oov:.2f}; "
        f"{result.words:,} words with sentence ends, {result.oov:,} unknown ({share:.2f} %)"
    )
    return 0


def lm_lines(files: list[str], unit: str, arguments: argparse.Namespace) -> Any:
    """Sentences as a model of a unit scores them."""
    from hfaudio.text.lines import text_lines

    lines = text_lines(files, arguments.normalizer)
    if (unit == "bpe") != bool(arguments.tokenizer):
        raise ValueError(
            f"the unit of the model is {unit!r}; --tokenizer goes with models of word pieces, and only there"
        )
    if unit != "bpe":
        return lines
    split = word_pieces(arguments.tokenizer)
    return (" ".join(split(line)) for line in lines)


def word_pieces(tokenizer: str) -> Callable[[str], list[str]]:
    quiet_transformers()
    from hfaudio.data.text import piece_splitter

    return piece_splitter(tokenizer)


def run_lm_mix(arguments: argparse.Namespace) -> int:
    """One model of several, and their weights to standard output."""
    from hfaudio.ngram.interpolate import fit_weights, interpolate
    from hfaudio.ngram.model import NGramLM

    models = [NGramLM.load(model) for model in arguments.models]
    weights = arguments.weights or fit_weights(models, lm_lines(arguments.dev, models[0].unit, arguments))
    for name, weight in zip(arguments.models, weights, strict=False):
        print(f"{weight:.4f} {name}")
    lm = interpolate(models, weights)
    save_lm(lm.words, lm.tables(), lm.unit, arguments)
    return 0


def run_lm_convert(arguments: argparse.Namespace) -> int:
    from hfaudio.ngram.model import NGramLM

    file = NGramLM.load(arguments.model).save(arguments.output, quantize=arguments.quantize)
    print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


def quiet_transformers() -> None:
    """Keep remarks and the bar that shows weights being loaded off the terminal; errors still come."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
