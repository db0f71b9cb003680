"""Model cards from what a run leaves: README.md with its results for readers and for the Hub.

What nobody has recorded is left out. Text between `<!-- hfaudio:keep -->` and `<!-- /hfaudio:keep -->` is a person's:
a card that is written anew has it at the end of the same section. Title, licence, languages and tags stay as well.
"""

import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
    hf_hub_download,
    hf_hub_url,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from hfaudio.data.bundled import place_of
from hfaudio.hub.figures import (
    MEASURES,
    METRICS_OF_THE_HUB,
    RESCORED,
    Figure,
    Results,
    escape,
    evaluation_results,
    figures,
    forgetting_table,
    number,
    result_table,
    speaker_table,
)
from hfaudio.hub.kind import CODEC, CTC, LANGUAGE, MUSIC, SEQ2SEQ, Kind, kind_of, usage

WIDTH = 120
KEEP = re.compile(r"<!-- hfaudio:keep -->\n.*?<!-- /hfaudio:keep -->\n", re.DOTALL)
BUNDLED_BASES = {CTC: "asr", MUSIC: "musicgen", CODEC: "codec"}  # what "bundled" is as a base
BUNDLED = {
    "bundled": "the spoken music prompts that come with hfaudio",
    "bundled_music": "the synthetic music that comes with hfaudio",
}
USES = {
    CTC: "Transcribing recordings like those that it was trained on.",
    SEQ2SEQ: "Writing down recordings like those that it was trained on.",
    MUSIC: "Music for prompts like the captions that it was trained on.",
    CODEC: "Codes of audio like that which it was trained on, for models that generate such codes.",
    LANGUAGE: "Scoring what a recogniser may have heard, as one of several voices; it is not a model to chat with.",
}
LEGENDS = {
    "nats": "The loss is the mean over all codes; the gains are how much larger it is without the caption and with "
    "another clip's caption, so above 0 the model follows it.",
    "si_sdr": "Mel and STFT are distances as DAC measures them, lower is better.",
    "instrument": "Instrument, tempo, key and mode: shares of the clips in which a judge, a classifier of real clips, "
    "hears what was asked for or played.",
    "loops": "*Repeats itself*, *runs on*, *writes nothing*: shares of the texts.",
    "chrf": "chrF and BLEU go from 0 to 100.",
}


@dataclass(frozen=True)
class Facts:
    """What is known of a model folder; None and empty where it is not."""

    folder: Path
    kind: Kind
    results: Results  # of metrics.json, or {"metrics": {}}
    figures: tuple[Figure, ...]
    name: str
    repo_id: str | None
    base_model: str | None  # a Hub id, or a folder
    license: str | None
    base_license: str | None
    languages: tuple[str, ...]  # codes
    datasets: tuple[str, ...]  # ids of the Hub
    tags: tuple[str, ...]  # of the present card

    @property
    def dataset(self) -> str | None:
        """As the recipe was given it: an id, a folder, "bundled"."""
        return self.results.get("dataset")

    @property
    def dataset_id(self) -> str | None:
        """Its id on the Hub, which the run knew; "output/music" alone may be either."""
        return self.results.get("dataset_id")

    @property
    def is_evaluation(self) -> bool:
        """Whether metrics.json is of a later measurement, and so does not tell of the training."""
        names = [Path(word).name for word in shlex.split(self.results.get("command", ""))]
        return any(name in ("evaluate", "evaluate_music.py") for name in names)


def build_card(
    folder: Path,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    base_license: str | None = None,
    executed: str | None = None,
) -> ModelCard:
    """The card of a model folder, from its config, its metrics.json and its README.md; the network is not asked.

    Args:
        folder: what a recipe left, or an adapter/ in it, whose results are those of the run.
        repo_id: where it will be, "user/name"; without it the usage section names the folder.
        license: of the model; else what the present README.md says, else that of the base model.
        language: code or codes, such as "en"; else what the run was told.
        datasets: ids of the Hub; else that of the run, if it is one.
        base_model: id of the Hub, in place of what the run recorded.
        base_license: licence of the base model; else what the run recorded, or the base's own folder says.
        executed: what the program of the usage section printed.

    Raises ValueError for a folder that is no model.
    """
    facts = _facts(
        folder,
        repo_id,
        license=license,
        language=language,
        datasets=datasets,
        base_model=base_model,
        base_license=base_license,
    )
    sections = {
        "": f"# {_title(facts)}\n\n{_sentence(facts)}",
        "Results": _results(facts),
        "Usage": _usage(facts, executed),
        "Samples": _samples(facts),
        "Training": _training(facts),
        "Intended use and limits": _limits(facts),
        "Licence": _licence(facts),
    }
    for heading, block in _kept(_text(folder / "README.md")):
        place = heading if heading in sections else next(reversed(sections))
        sections[place] = f"{sections[place]}\n\n{block}".strip()
    body = "\n\n".join(f"## {h}\n\n{text}" if h else text for h, text in sections.items() if text)
    return ModelCard(f"---\n{_data(facts).to_yaml()}\n---\n\n{body}\n")


def write_card(folder: Path, repo_id: str | None = None, **options: Any) -> ModelCard:
    """Write README.md, and `.eval_results/*.yaml` where the run's dataset is a benchmark of the Hub.

    Options are those of `build_card`. The Hub is asked for the licence of a base model, and whether the dataset has
    an eval.yaml; without a network both stay unknown. An adapter/ gets the results and pictures of its run.
    """
    run = _run_folder(folder)
    if run != folder:
        shutil.copy(run / "metrics.json", folder)
        for picture in _pictures(run) + sample_files(run):
            (folder / picture).parent.mkdir(exist_ok=True)
            shutil.copy(run / picture, folder / picture)
    facts = _facts(folder, repo_id, base_model=options.get("base_model"), base_license=options.get("base_license"))
    if facts.base_license is None and (base := hub_id(facts.base_model, folder)):
        options["base_license"] = _license_on_hub(base)
    card = build_card(folder, repo_id, **options)
    card.save(folder / "README.md")
    write_benchmark_results(folder, facts)
    return card


# ---------------------------------------------------------------------------------------------------------------
# What is known


def _facts(
    folder: Path,
    repo_id: str | None,
    *,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    base_license: str | None = None,
) -> Facts:
    kind = kind_of(folder)
    run = _run_folder(folder)
    results = _json(run / "metrics.json") or {"metrics": {}}
    present = _present(folder)
    base = base_model or (kind.config["base_model_name_or_path"] if kind.is_adapter else results.get("base_model"))
    if base_license is None and base is not None:
        base_license = (
            results.get("base_license") or _present(Path(place_of(base, BUNDLED_BASES.get(kind.name, "")))).license
        )
    languages = _several(language) or _several(present.language) or _several(results.get("language"))
    if not languages and results.get("dataset") == "bundled":
        languages = ("en",)
    given = tuple(datasets) or _several(present.datasets)
    recorded = results.get("dataset_id")
    return Facts(
        folder=folder,
        kind=kind,
        results=results,
        figures=tuple(figures(results)),
        name=(repo_id or run.resolve().name).rpartition("/")[2],
        repo_id=repo_id,
        base_model=base,
        license=license or present.license,
        base_license=base_license,
        languages=tuple(code for code in languages if re.fullmatch("[a-z]{2,3}", code)),
        datasets=given or ((recorded,) if recorded else ()),
        tags=_several(present.tags),
    )


def _present(folder: Path) -> ModelCardData:
    """The metadata of the card that is in the folder; nothing where there is none."""
    data = ModelCard(card).data if (card := _text(folder / "README.md")) else ModelCardData()
    assert isinstance(data, ModelCardData)
    return data


def _run_folder(folder: Path) -> Path:
    """Where metrics.json is: of an adapter that lies in its run, the run."""
    return folder.parent if folder.name == "adapter" and (folder.parent / "metrics.json").is_file() else folder


def hub_id(name: str | None, folder: Path) -> str | None:
    """The name of a model if it is an id of the Hub ("user/name"), None if it is "bundled" or a path on this machine.

    A relative path may look like an id, so there must be nothing of this name here, nor beside the run's folders.
    """
    if name is None or name.count("/") != 1:
        return None
    if any((place / name).exists() for place in (Path(), *folder.resolve().parents)):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _license_on_hub(model: str) -> str | None:
    try:
        return ModelCard.load(model).data.get("license")
    except (HfHubHTTPError, OSError):  # no such card, or no network
        return None


def _several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _kept(card: str) -> list[tuple[str, str]]:
    """The parts of a card that a person wrote, each with the heading of its section ("" of the first)."""
    found = []
    for match in KEEP.finditer(card):
        headings = re.findall(r"^## (.+)$", KEEP.sub("", card[: match.start()]), re.MULTILINE)
        found.append((headings[-1].strip() if headings else "", match[0].strip()))
    return found


# ---------------------------------------------------------------------------------------------------------------
# For the Hub


def _data(facts: Facts) -> ModelCardData:
    kind, base = facts.kind, hub_id(facts.base_model, facts.folder)
    measured = dict.fromkeys(figure.measure for figure in facts.figures)
    results = []
    if facts.dataset is not None:
        dataset = facts.dataset_id
        results = evaluation_results(
            facts.figures,
            task=kind.pipeline_tag,
            dataset=dataset or "local",
            dataset_name=dataset or _plain_dataset(facts.dataset),
        )
    return ModelCardData(
        language=list(facts.languages) or None,
        license=facts.license or facts.base_license,
        library_name=kind.library_name,
        pipeline_tag=kind.pipeline_tag,
        base_model=base,
        base_model_relation=("adapter" if kind.is_adapter else "finetune") if base else None,
        datasets=list(facts.datasets) or None,
        metrics=[name for name in METRICS_OF_THE_HUB if name in measured] or None,
        tags=["hfaudio", *(["lora"] if is_lora(kind) else []), *facts.tags],  # which are made unique
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def is_lora(kind: Kind) -> bool:
    """Whether the folder holds a LoRA adapter, which PEFT writes in capitals."""
    return kind.is_adapter and kind.config["peft_type"] == "LORA"


def _plain_dataset(dataset: str) -> str:
    return BUNDLED.get(dataset, Path(dataset).name)


def write_benchmark_results(folder: Path, facts: Facts) -> list[Path]:
    """Write the word error rates of the test split as huggingface_hub 2.4 reads them; the files.

    The Hub accepts `.eval_results/*.yaml` only of a dataset that is a benchmark: its eval.yaml names the tasks. One
    variant a file, as two of one file would be two results of the same model; all but the plain one have a note.
    """
    dataset = facts.dataset_id
    measured = [f for f in facts.figures if (f.split, f.measure, f.group) == ("test", "wer", None)]
    task = _benchmark_task(dataset) if dataset and measured else None
    if dataset is None or task is None:
        return []
    written = []
    for figure in measured:
        is_plain = figure.variant in ("", "greedy")
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task,
            value=figure.percent_or_value,
            notes=None if is_plain else figure.variant,
        )
        name = dataset.replace("/", "_") + ("" if is_plain else "_" + re.sub(r"\W+", "_", figure.variant))
        written.append(folder / ".eval_results" / f"{name}.yaml")
        written[-1].parent.mkdir(exist_ok=True)
        written[-1].write_text(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")
    return written


def _benchmark_task(dataset: str) -> str | None:
    """The one task of a benchmark that is of its test split; None of a dataset that is no benchmark, or has more."""
    try:
        path = hf_hub_download(dataset, "eval.yaml", repo_type="dataset")
    except (HfHubHTTPError, OSError):  # no such card, or no network
        return None
    tasks = yaml.safe_load(Path(path).read_text(encoding="utf-8")).get("tasks", [])
    found = [task["id"] for task in tasks if task.get("split") == "test"]
    return found[0] if len(found) == 1 else None


# ---------------------------------------------------------------------------------------------------------------
# The sections


def _title(facts: Facts) -> str:
    """That of the present card, which a person may have given, else the model's name."""
    present = re.search(r"^# (.+)$", ModelCard(card).text if (card := _text(facts.folder / "README.md")) else "", re.M)
    return present[1] if present else escape(facts.name)


def _sentence(facts: Facts) -> str:
    kind, results = facts.kind, facts.results
    size = f"{_count_weights(facts.folder):,} weights"
    spoken = [LANGUAGES[code].title() if code in LANGUAGES else code for code in facts.languages]
    words = [kind.name]
    if kind.is_adapter:
        method = "LoRA" if is_lora(kind) else kind.config["peft_type"]
        words = [f"{method} adapter ({size}) of {_base(facts)}, a {kind.name}"]
    else:
        words.append(f"({kind.architecture}, {size})")
    if spoken:
        words.append(f"for {' and '.join(spoken)}")
    text = f"{'An' if words[0][0] in 'aeiou' else 'A'} {' '.join(words)}"
    if facts.is_evaluation:
        return _wrapped(f"{text}. Made with hfaudio.")
    if facts.base_model and not kind.is_adapter:
        text += f", tuned from {_base(facts)}"
    elif "base_model" in results and not kind.is_adapter:
        text += ", trained from nothing"
    if facts.dataset:
        text += f"{',' if kind.is_adapter else ''} {'trained ' if ', t' not in text else ''}on {_dataset(facts)}"
    return _wrapped(f"{text}. Made with hfaudio.")


def _base(facts: Facts) -> str:
    """A link to the base model; of a folder its name."""
    base = str(facts.base_model)
    if base == "bundled":
        return "the model that comes with hfaudio"
    known = hub_id(base, facts.folder)
    return f"[{escape(known)}](https://huggingface.co/{known})" if known else escape(Path(base).name)


def _dataset(facts: Facts) -> str:
    dataset = str(facts.dataset)
    if known := facts.dataset_id:
        return f"[{escape(known)}](https://huggingface.co/datasets/{known})"
    return BUNDLED.get(dataset, f"the local dataset *{escape(Path(dataset).name)}*")


def _count_weights(folder: Path) -> int:
    """Numbers in the folder's own weight files."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            sizes = [file.get_slice(name).get_shape() for name in file.keys()]
        for shape in sizes:
            size = 1
            for length in shape:
                size *= length
            total += size
    return total


def _results(facts: Facts) -> str:
    if not facts.figures:
        return ""
    parts = [result_table(facts.figures, facts.results)]
    notes = "In brackets 95 % intervals."
    if any(figure.measure == "wer" for figure in facts.figures):
        notes += " n is the number of utterances."
        if speaker_table(facts.figures):
            notes += " Errors of one speaker go together, so the intervals are over speakers."
    measured = {figure.measure for figure in facts.figures}
    parts.append(_wrapped(" ".join([notes, *(text for name, text in LEGENDS.items() if name in measured)])))
    if speakers := speaker_table(facts.figures):
        split = [figure.split for figure in facts.figures if figure.group is not None][-1]
        summary = f"<summary>Word error rates by speaker, {escape(split)} split</summary>"
        parts.append(f"<details>\n{summary}\n\n{speakers}\n\n</details>")
    if forgetting := forgetting_table(facts.results):
        parts.append(f"What the model could do before and after this training:\n\n{forgetting}")
    distance = facts.results.get("frechet", {})
    if "distance" in distance:
        parts.append(
            _wrapped(
                f"Fréchet distance to real clips {number(distance['distance'])}, of real to other real clips "
                f"{number(distance['floor'])} (95 % of draws below {number(distance['floor_high'])}), between sets of "
                f"{distance['n']} clips."
            )
        )
    floors = [one["frechet_floor"] for one in distance.values() if isinstance(one, dict) and "frechet_floor" in one]
    if floors:
        parts.append(f"The Fréchet distance between two sets of real clips is {number(floors[0])}.")
    if "chances" in facts.results and facts.figures:
        chances = [f"{MEASURES.get(name, name)} {100 * p:.3g} %" for name, p in facts.results["chances"].items()]
        parts.append(_wrapped(f"By chance: {', '.join(chances)}."))
    if facts.is_evaluation:
        parts.append(f"Measured by\n\n{_fenced(_command(facts), 'bash')}")
    return "\n\n".join(parts)


def _usage(facts: Facts, executed: str | None) -> str:
    kind = facts.kind
    needed = ["transformers", "torch", *(["soundfile"] if kind.task != "codec" and kind.name != LANGUAGE else [])]
    needed += ["hfaudio"] if kind.needs_hfaudio else ["numba"] if kind.has_language_model else []
    needed += ["peft"] if kind.is_adapter else []
    parts = [_fenced(usage(kind, facts.repo_id or "FOLDER"), "python")]
    if executed is not None:
        parts.append(f"It printed\n\n{_fenced(executed.strip(), 'text')}")
    place = "" if facts.repo_id else " FOLDER is where this card is."
    parts.append(_wrapped(f"Needs {', '.join(needed[:-1])} and {needed[-1]}.{place}"))
    return "\n\n".join(parts)


def _samples(facts: Facts) -> str:
    files = sample_files(_run_folder(facts.folder))
    pictures = [file for file in files if file.suffix in (".png", ".jpg")]
    prompts = facts.results.get("prompts", [])
    lines = []
    for file in files:
        if file in pictures:
            continue
        line = f"- [{escape(file.name)}]({file.as_posix()})"
        place = int(re.search(r"(\d+)$", file.stem)[1]) if re.search(r"(\d+)$", file.stem) else 0  # type: ignore[index]
        if 0 < place <= len(prompts):
            line += f": {escape(prompts[place - 1])}"
        if facts.repo_id:
            line += f'<br><audio controls src="{hf_hub_url(facts.repo_id, file.as_posix())}"></audio>'
        lines.append(line)
    parts = ["\n".join(lines), *(f"![Spectrograms]({file.as_posix()})" for file in pictures)]
    return "\n\n".join(part for part in parts if part)


def sample_files(folder: Path) -> list[Path]:
    """Audio and pictures in samples/, relative to the folder: of several steps those of the last one."""
    files = [file for file in sorted((folder / "samples").glob("*")) if file.suffix in SAMPLE_SUFFIXES]
    steps = {file: int(step[1]) for file in files if (step := re.search(r"step-(\d+)", file.stem))}
    last = max(steps.values(), default=0)
    return [file.relative_to(folder) for file in files if steps.get(file, last) == last]


SAMPLE_SUFFIXES = (".wav", ".flac", ".ogg", ".png", ".jpg")


def _pictures(folder: Path) -> list[Path]:
    return [Path(name) for name in ("curves.png", "lm_tuning.png") if (folder / name).is_file()]


def _training(facts: Facts) -> str:
    results = facts.results
    parts = []
    if "command" in results and not facts.is_evaluation:
        parts = [_fenced(_command(facts), "bash"), _bullets(_training_lines(facts))]
    captions = {"curves.png": "Loss and rates over the steps", "lm_tuning.png": "Tuning of the language model"}
    parts += [f"![{captions[p.name]}]({p.as_posix()})" for p in _pictures(_run_folder(facts.folder))]
    return "\n\n".join(part for part in parts if part)


def _training_lines(facts: Facts) -> list[str]:
    results = facts.results
    lines = []
    skipped = [
        f"{count:,} {reason} ({split})"
        for split, counts in results.get("skipped", {}).items()
        for reason, count in counts.items()
    ]
    if skipped:
        lines.append(f"Rows left out: {', '.join(skipped)}.")
    if "weights" in results:
        weights, trained = results["weights"], results["trained_weights"]
        share = f"{trained:,} of {weights:,} ({100 * trained / weights:.3g} %)"
        lines.append(f"Trained weights: {share if trained < weights else f'all {weights:,}'}.")
    if "language_model" in results:
        lines.append(_language_model(results["language_model"]))
    if "test/ece" in (confidence := results.get("confidence", {})):
        lines.append(
            f"Word confidences are calibrated on validation: their expected error on test went from "
            f"{confidence['test/ece_not_calibrated']:.3f} to {confidence['test/ece']:.3f}."
        )
    amounts = [f"seed {results['seed']}"]
    if "steps" in results:
        amounts.append(f"{results['steps']:,} steps")
    if "seconds" in results:
        amounts.append(f"{_duration(results['seconds'])} in all")
    if results.get("processes", 1) > 1:
        amounts.append(f"{results['processes']} processes")
    if "peak_memory_mb" in results:
        amounts.append(f"{results['peak_memory_mb'] / 1000:.1f} GB of memory")
    if "peak_gpu_memory_mb" in results:
        amounts.append(f"{results['peak_gpu_memory_mb'] / 1000:.1f} GB on the GPU")
    lines.append(", ".join(amounts).capitalize() + ".")
    lines.append("Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".")
    return lines


def _language_model(facts: Mapping[str, Any]) -> str:
    settings, counts = facts["settings"], facts["ngrams"]
    unknown = f"{100 * facts['validation_oov']:.2g} % of the words are" if facts["validation_oov"] else "no word is"
    sizes = " + ".join(f"{count:,}" for count in counts)
    return (
        f"`language_model/` is a {facts['order']}-gram of {sizes} n-grams, with a perplexity of "
        f"{facts['validation_perplexity']:g} a word on validation, where {unknown} unknown to it. Its weight "
        f"{settings['alpha']:g} and bonus {settings['beta']:g} a word were chosen on validation; beam width "
        f"{settings['beam_width']}."
    )


def _command(facts: Facts) -> str:
    """The command, without the folders of the machine that it ran on; recipes as the README starts them."""
    words = []
    for word in shlex.split(facts.results["command"]):
        option, equals, value = word.partition("=")
        if equals and value.startswith("/"):
            word = f"{option}={Path(value).name}"
        words.append(Path(word).name if word.startswith("/") else word)
    start = ("python " if facts.is_evaluation else "accelerate launch ") if words[0].startswith("recipes/") else ""
    lines = textwrap.wrap(start + shlex.join(words), WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)


def _limits(facts: Facts) -> str:
    kind, results = facts.kind, facts.results
    lines = [USES[kind.name]] if kind.name in USES else []
    spoken = [LANGUAGES[code].title() for code in facts.languages if code in LANGUAGES]
    if facts.dataset == "bundled" and kind.name in (CTC, SEQ2SEQ):
        lines.append(
            "It has heard synthetic voices and 65 words only. Its error rates say nothing about people: do not offer "
            "it as a recogniser of real speech."
        )
    elif facts.dataset == "bundled_music" and not kind.is_adapter:
        lines.append("It has heard eight instruments of one General MIDI soundfont, one at a time.")
    if spoken and kind.task == "automatic-speech-recognition":
        lines.append(f"Trained and measured on {' and '.join(spoken)} alone.")
    splits = {figure.split for figure in facts.figures}
    if splits and "test" not in splits:
        lines.append(
            "There was no test split: the checkpoint was chosen on the data of these figures, which flatters it."
        )
    lines += _speaker_limits(facts)
    if kind.has_language_model:
        lines.append(
            "`pipeline()` decodes with the language model in `language_model/`"
            + (", by code in this folder that needs numba" if kind.own_code else "")
            + ". It draws what it hears towards the texts that the language model was made from; with "
            "`recognise.lm_decoder = None` decoding is greedy."
        )
    if kind.architecture == "WhisperForConditionalGeneration":
        lines.append("For recordings of more than 30 seconds give the pipeline `return_timestamps=True`.")
    if kind.name == MUSIC and "memorisation" not in results:
        lines.append("It was not checked whether it plays passages of its training music.")
    if kind.is_adapter:
        lines.append(f"It belongs to {_base(facts)} and does nothing without it.")
    return _bullets(lines)


def _speaker_limits(facts: Facts) -> list[str]:
    """How far the speakers of the last split are apart, in the last way of decoding that the folder has."""
    groups = [figure for figure in facts.figures if figure.group is not None and figure.measure == "wer"]
    groups = [f for f in groups if f.variant != RESCORED]
    groups = [f for f in groups if (f.split, f.variant) == (groups[-1].split, groups[-1].variant)]
    if len(groups) < 2:
        return []
    rates = [figure.percent_or_value for figure in groups]
    way = f" ({groups[0].variant})" if groups[0].variant else ""
    return [f"Speakers differ: their word error rates{way} go from {min(rates):.1f} to {max(rates):.1f} %."]


def _licence(facts: Facts) -> str:
    if facts.license is None and facts.base_license is None:
        return ""
    if facts.license is None:
        return f"That of the base model {_base(facts)}: {facts.base_license}."
    base = f" The base model {_base(facts)} is under {facts.base_license}." if facts.base_license else ""
    return f"{facts.license}.{base}"


# ---------------------------------------------------------------------------------------------------------------
# Writing


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _bullets(lines: Sequence[str]) -> str:
    wrap = {"initial_indent": "- ", "subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, WIDTH, **wrap) for line in lines)  # type: ignore[arg-type]


def _fenced(text: str, language: str) -> str:
    """A block of code, with a fence that is longer than any in it."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
