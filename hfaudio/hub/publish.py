"""Pushing a model folder to the Hub, once a project without hfaudio has opened it and found the same results."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from safetensors import safe_open
from transformers import AutoFeatureExtractor

import hfaudio.auto  # noqa: F401, folders of our own models open below
from hfaudio.audio.io import Source, load_audio, save_audio
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.hub import stranger
from hfaudio.hub.card import sample_files, write_card
from hfaudio.hub.kind import AUTOENCODER, RECORDING, Kind, kind_of, usage
from hfaudio.models.modes import evaluating
from hfaudio.processing.remote_code import carry_code

logger = logging.getLogger(__name__)

# What a run leaves for itself. An adapter beside a merged model has a repository of its own.
NOT_PUSHED = (
    "checkpoint-*/*",
    "runs/*",
    "adapter/*",
    "training_args.bin",
    "optimizer.*",
    "scheduler.*",
    "rng_state*",
    "trainer_state.json",
    ".cache/*",
    "__pycache__/*",
    ".writable",
    "*.log",
)
# Numbers of two forward passes agree if they differ by less than this share of the largest: threads add up in another
# order (1e-6 of what it was measured on), and float16 on disk rounds weights by 2^-11.
TOLERANCE = 1e-3
HALF_TOLERANCE = 2e-2
PROMPTS = ("slow flute tune in d minor", "happy fast piano in g major", "a sad waltz on strings")
EXAMPLES = 3
READING = ("text-to-audio", "text-generation")  # tasks whose inputs are texts, not recordings

Inputs = Sequence[Source]  # recordings, as `load_audio` takes them, or prompts


class PublishError(ValueError):
    """The folder was not pushed; it is as it was, and the message says what to do."""


@dataclass(frozen=True)
class Published:
    """What was pushed, or with `dry_run` would be: files relative to the folder, and their bytes together."""

    files: tuple[Path, ...]
    size: int
    commit: CommitInfo | None  # None of a dry run


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    model: Any = None,
    inputs: Inputs | None = None,
    revision: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    base_model: str | None = None,
    license: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> Published:
    """Check a model folder as a stranger would open it, write its card, and push it.

    A fresh process, in which hfaudio does not exist, opens the folder by `pipeline()` with three inputs. Its texts
    must be those that hfaudio gets, its numbers those of `model`.

    Args:
        folder: what a recipe left: a model, or an adapter alone.
        repo_id: "user/name"; made if it is not there.
        model: the trained model in memory, to be compared with; by default the folder's, opened here.
        inputs: three recordings (what `load_audio` takes), or prompts; by default bundled ones.
        revision: a branch, made if it is not there ("main").
        private: of a repository that is made.
        create_pr: open a pull request instead.
        base_model: the Hub id of an adapter's base, in place of the local folder that it was trained on.
        license: of the model, such as "apache-2.0"; that of the base where it is known.
        token: of the Hub; by default that of `hf auth login`.
        dry_run: all but the pushing.

    Raises PublishError if the folder opens otherwise than it should, or could not be pushed.
    """
    folder = Path(folder)
    kind = kind_of(folder)
    if kind.name == AUTOENCODER:
        raise PublishError(f"{folder} opens with hfaudio alone; push it by `hf upload {repo_id} {folder}`")
    base = public_base(folder, base_model) if kind.is_adapter else base_model
    complete(folder)
    kind = kind_of(folder)  # which now carries its code
    executed = check(folder, kind, model, inputs or default_inputs(kind.task))
    if kind.is_adapter and base is not None:  # not before: the check opens the base that is here
        name_base(folder, base)
    write_card(folder, repo_id, license=license, base_model=base, executed=executed)
    files = pushed_files(folder)
    size = sum((folder / file).stat().st_size for file in files)
    commit = None
    if not dry_run:
        commit = push(folder, repo_id, files, revision=revision, private=private, create_pr=create_pr, token=token)
    return Published(tuple(files), size, commit)


def check_login(args: Any) -> None:
    """What recipes do in the beginning, so that a missing login does not show after hours of training."""
    if not args.push_result:
        return
    try:
        HfApi(token=args.hub_token).whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise PublishError(
            f"--push_to_hub: the Hub does not know you ({error}); run `hf auth login`, set HF_TOKEN, or leave it out"
        ) from error


def publish_run(args: Any, folder: Path, *, model: Any, inputs: Inputs) -> Published | None:
    """What recipes do in the end where `--push_to_hub` was given; `args` are their training arguments."""
    if not args.push_result:
        return None
    is_model = (folder / "config.json").exists()  # on a base in 4 bits there is only the adapter
    return publish(
        folder if is_model else folder / "adapter",
        args.hub_model_id or folder.resolve().name,
        model=model,
        inputs=inputs,
        revision=args.hub_revision,
        private=args.hub_private_repo,
        token=args.hub_token,
    )


def complete(folder: Path) -> None:
    """Write what other readers need: the code of our architectures, and the feature extractor in a file of its own.

    transformers 5 keeps it inside processor_config.json, where version 4 does not look.
    """
    processor, extractor = folder / "processor_config.json", folder / "preprocessor_config.json"
    if processor.exists() and not extractor.exists():
        if "feature_extractor" in json.loads(processor.read_text(encoding="utf-8")):
            AutoFeatureExtractor.from_pretrained(folder).save_pretrained(folder)
    carry_code(folder)


def check(folder: Path, kind: Kind, model: Any, inputs: Inputs) -> str:
    """PublishError unless a stranger's pipeline gives what hfaudio gives, and the numbers of the model in memory.

    Returns what the program of the card's usage section printed there.
    """
    task = kind.task
    items = [np.array(given) if task in READING else load_audio(given, stranger.CLIP_RATE) for given in inputs]
    heard, printed = ask_stranger(folder, kind, items)
    opened = stranger.open_folder(task, str(folder), trust_remote_code=False)
    compared = opened.model if model is None else model
    limit = HALF_TOLERANCE if has_half_weights(folder) else TOLERANCE
    for number, (item, (text, found)) in enumerate(zip(items, heard, strict=True), 1):
        with evaluating(compared):
            expected = stranger.numbers(opened, compared, item)
        if found.shape != expected.shape:
            raise PublishError(
                f"input {number}: a stranger's numbers have the shape {found.shape}, those of the model in memory "
                f"{expected.shape}; {folder} holds another model, so it was not pushed"
            )
        difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))
        if not difference <= limit:
            raise PublishError(
                f"input {number}: a stranger's numbers differ by {difference:.2g} of the largest from those of the "
                f"model in memory, more than {limit:g}; {folder} holds another model, so it was not pushed"
            )
        own_text = stranger.text(opened, item)
        if text != own_text:
            raise PublishError(
                f"input {number}: hfaudio reads {own_text!r}, a stranger {text!r}; {folder} was not pushed"
            )
        logger.info("input %d: the same result without hfaudio%s", number, f": {text!r}" if text else "")
    return printed


def has_half_weights(folder: Path) -> bool:
    """Whether weights are stored in 16 bits."""
    with safe_open(next(folder.glob("*.safetensors")), framework="pt") as file:
        return any(file.get_slice(name).get_dtype() in ("F16", "BF16") for name in file.keys())


def default_inputs(task: str) -> Inputs:
    """Three prompts, or three clips of the bundled test speech; of a language that a recogniser need not know."""
    if task in READING:
        return PROMPTS
    rows = load_split(DataArguments(), "test")
    return [rows[number]["audio"] for number in range(EXAMPLES)]


def ask_stranger(folder: Path, kind: Kind, items: Sequence[np.ndarray]) -> tuple[list[tuple[str, np.ndarray]], str]:
    """Text and numbers of each input, and what the usage program prints, from a fresh process without hfaudio."""
    with tempfile.TemporaryDirectory() as place:
        np.savez(Path(place, "inputs.npz"), *items)
        if kind.task == "automatic-speech-recognition":
            save_audio(Path(place, RECORDING), items[0], stranger.CLIP_RATE)
        Path(place, "usage.py").write_text(usage(kind, str(folder.resolve())), encoding="utf-8")
        files = ["inputs.npz", "outputs.npz", "usage.py"]
        command = [sys.executable, stranger.__file__, kind.task, str(folder.resolve()), *files]
        environment = os.environ | {"HF_MODULES_CACHE": str(Path(place, "modules"))}
        run = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        if run.returncode:
            last = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit code {run.returncode}"
            remedy = "; push the merged model, in the folder above it, instead" if kind.is_adapter else ""
            raise PublishError(
                f"{folder} does not open in pipeline({kind.task!r}) without hfaudio, so it was not pushed: {last}"
                f"{remedy}"
            )
        with np.load(Path(place, "outputs.npz")) as file:
            heard = [(str(text), file[f"numbers_{number}"]) for number, text in enumerate(file["texts"])]
            return heard, str(file["printed"])


def public_base(folder: Path, base_model: str | None) -> str:
    """The Hub id of an adapter's base; PublishError for a base that only this machine has."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = base_model or config["base_model_name_or_path"]
    if Path(base).exists():
        raise PublishError(
            f"the adapter in {folder} is of the model in {base}, which others do not have; push that first and give "
            "its id by base_model (--base_model user/name)"
        )
    return base


def name_base(folder: Path, base: str) -> None:
    """Write the Hub id of an adapter's base into its config."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"base_model_name_or_path": base}, indent=2) + "\n", encoding="utf-8")


def pushed_files(folder: Path) -> list[Path]:
    """Files of a model folder, relative to it, without what a run leaves for itself, and samples of earlier steps."""
    shown = sample_files(folder)
    files = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    files = (file for file in files if file.parts[0] != "samples" or file in shown)
    return [file for file in files if not any(fnmatch(file.as_posix(), pattern) for pattern in NOT_PUSHED)]


def push(
    folder: Path,
    repo_id: str,
    files: Sequence[Path],
    *,
    revision: str | None,
    private: bool | None,
    create_pr: bool,
    token: str | None,
) -> CommitInfo:
    """One commit with these files; what a broken try has sent already is not sent again."""
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[file.as_posix() for file in files],
            commit_message="Model, results and card by hfaudio",
            revision=revision,
            create_pr=create_pr,
        )
    except (HfHubHTTPError, OSError, RuntimeError) as error:  # RuntimeError: hf_xet's
        raise PublishError(
            f"pushing {folder} to {repo_id} failed: {error}. The folder is whole; push it again by "
            f"`hfaudio publish {folder} {repo_id}`, which sends only what is missing"
        ) from error
