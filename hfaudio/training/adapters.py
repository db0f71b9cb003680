"""Training few weights of a large model: LoRA, DoRA, QLoRA, MMS language adapters, BitFit; saved alone or merged.

kind     trained                                                   saved alone as
lora     low-rank updates of linear layers (Hu et al. 2021,        adapter_model.safetensors
         arXiv:2106.09685)
dora     the same and their magnitudes (arXiv:2402.09353)          adapter_model.safetensors
qlora    lora on a base in 4 bits (arXiv:2305.14314)               adapter_model.safetensors
mms      wav2vec2's own adapter layers and head, a set for each    adapter.<language>.safetensors and the model
         language (Pratap et al. 2023, arXiv:2305.13516)
bitfit   biases (Ben Zaken et al. 2021, arXiv:2106.10199)          bitfit.safetensors and the model
"""

import copy
import functools
import importlib.util
import json
import logging
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

logger = logging.getLogger(__name__)

KINDS = ("none", "lora", "dora", "qlora", "mms", "bitfit")
LOW_RANK = ("lora", "dora", "qlora")
BASE_FILE = "adapter_base.json"  # which base the adapter was trained on
FINGERPRINTS = 16  # vectors of the base that are compared
BACKWARDS_WITH_LAYERDROP = 10  # at wav2vec2's layerdrop of 0.1, one of 12 layers is dropped in all with 1e-9
PARITY = 1e-4  # largest difference of logits that merging may make in float32

# Attention and feed-forward layers: with rank 8 on all of them a speech encoder learns more than with a higher rank on
# queries and values alone (arXiv:2305.14314, figure 2, found the same of language models).
BART_LIKE = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
WAV2VEC2_LIKE = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")
LLAMA_LIKE = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
MUSICGEN = r"decoder\.model\.decoder\.layers\.\d+\..*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"  # not T5, not the codec
PRESETS: dict[str, Sequence[str] | str] = {
    "whisper": BART_LIKE,
    "whisper_ctc": BART_LIKE,
    "speech_to_text": BART_LIKE,
    "moonshine": LLAMA_LIKE,
    "speecht5": WAV2VEC2_LIKE,
    "speech-encoder-decoder": tuple(dict.fromkeys((*WAV2VEC2_LIKE, *BART_LIKE, "c_attn", "query", "key", "value"))),
    "wav2vec2": WAV2VEC2_LIKE,
    "hubert": WAV2VEC2_LIKE,
    "wavlm": WAV2VEC2_LIKE,
    "wav2vec2-bert": ("linear_q", "linear_k", "linear_v", "linear_out", "intermediate_dense", "output_dense"),
    "parakeet_ctc": ("q_proj", "k_proj", "v_proj", "o_proj", "linear1", "linear2"),
    "musicgen": MUSICGEN,
    "musicgen_melody": r"decoder\.model\.decoder\.layers\.\d+\..*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
}


@dataclass
class AdapterArguments:
    """Which few weights are trained instead of all."""

    adapter: str = field(default="none", metadata={"help": f"One of {', '.join(KINDS)}; none trains all weights."})
    adapter_rank: int = field(default=8, metadata={"help": "Rank of the updates (lora, dora, qlora)."})
    adapter_alpha: float | None = field(
        default=None, metadata={"help": "Updates are scaled by alpha / rank; default: 2 x rank."}
    )
    adapter_dropout: float = field(default=0.0, metadata={"help": "Dropout before the updates."})
    adapter_targets: list[str] | None = field(
        default=None, metadata={"help": "Names of linear layers, or one regular expression; default: by architecture."}
    )
    adapter_language: str | None = field(default=None, metadata={"help": "Language code of an mms adapter ('deu')."})
    save_merged: bool = field(
        default=True, metadata={"help": "Save base and adapter as one model, too; the adapter alone is in adapter/."}
    )

    def __post_init__(self) -> None:
        if self.adapter not in KINDS:
            raise ValueError(f"--adapter must be one of {', '.join(KINDS)}; got {self.adapter!r}")
        if self.adapter_rank < 1:
            raise ValueError(f"--adapter_rank must be at least 1; got {self.adapter_rank}")
        if not 0 <= self.adapter_dropout < 1:
            raise ValueError(f"--adapter_dropout must be at least 0 and below 1; got {self.adapter_dropout:g}")
        defaults = {f.name: f.default for f in fields(self)}
        low_rank = ("adapter_rank", "adapter_alpha", "adapter_dropout", "adapter_targets")
        for name in low_rank:
            if getattr(self, name) != defaults[name] and self.adapter not in LOW_RANK:
                raise ValueError(f"--{name} is an option of {', '.join(LOW_RANK)}; leave it out or set --adapter lora")
        if (self.adapter == "mms") != (self.adapter_language is not None):
            raise ValueError("--adapter mms needs the --adapter_language of its file, and nothing else takes one")


def quantization_config(args: AdapterArguments) -> BitsAndBytesConfig | None:
    """What `from_pretrained` needs for a base in 4 bits (NF4, double quantisation), None for other kinds."""
    if args.adapter != "qlora":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("--adapter qlora needs bitsandbytes: pip install bitsandbytes, or take --adapter lora")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def add_adapter(model: PreTrainedModel, args: AdapterArguments, new_modules: Sequence[str] = ()) -> Any:
    """The model with only the adapter and `new_modules` (a head that was made anew) left to train.

    Low-rank kinds return a PeftModel. No `task_type` is set: PEFT's wrappers of a task pass `input_ids`, which speech
    models do not take. Gradient checkpointing must be non-reentrant, transformers' default: with the other, nothing
    behind frozen inputs gets a gradient.

    Raises:
        ValueError: for an architecture without preset, targets that match nothing, a base without adapter layers.
    """
    if args.adapter == "none":
        return model
    if args.adapter == "mms":
        return _add_mms(model, args)
    if args.adapter == "bitfit":
        for name, weight in model.named_parameters():
            chosen = name.endswith("bias") or _is_in(name, new_modules)
            weight.requires_grad_(weight.requires_grad and chosen)  # what a flag froze stays frozen
        return model
    if args.adapter == "qlora":
        if "quantization_config" not in model.config.to_dict():
            raise ValueError(
                "--adapter qlora needs a base in 4 bits, opened with quantization_config(args); or take --adapter lora"
            )
        model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    config = LoraConfig(
        r=args.adapter_rank,
        lora_alpha=2 * args.adapter_rank if args.adapter_alpha is None else args.adapter_alpha,  # type: ignore[arg-type]
        lora_dropout=args.adapter_dropout,
        use_dora=args.adapter == "dora",
        target_modules=targets_of(model, args.adapter_targets),
        modules_to_save=list(new_modules) or None,
        revision=commit_of(model),
    )
    adapted: Any = get_peft_model(model, config)
    # Where a head has another size than the base's, PEFT 0.21 wants to save the input embeddings as well, which speech
    # encoders do not have: every checkpoint of a wav2vec2 with a new vocabulary would end in an error.
    adapted.save_pretrained = functools.partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def targets_of(model: PreTrainedModel, given: Sequence[str] | None) -> list[str] | str:
    """Names of linear layers, or a regular expression, that match something in the model."""
    if model.config.model_type == "lstm_ctc":
        raise ValueError("low-rank adapters are for large models, lstm_ctc is small; train all of it (--adapter none)")
    preset = PRESETS.get(model.config.model_type)
    if given is None and preset is None:
        raise ValueError(
            f"there is no preset of layers for {model.config.model_type}; name some by --adapter_targets "
            f"({_linear_names(model)}), or train all weights (--adapter none)"
        )
    targets: Any = preset if given is None else given
    if not isinstance(targets, str) and len(targets) == 1 and not re.fullmatch(r"[\w.]+", targets[0]):
        targets = targets[0]  # one regular expression
    names = [name for name, module in model.named_modules() if _is_linear(module)]
    if isinstance(targets, str):
        found = [name for name in names if re.fullmatch(targets, name)]
    else:
        found = [name for name in names if any(name == t or name.endswith(f".{t}") for t in targets)]
    if not found:
        raise ValueError(
            f"--adapter_targets {targets} match no linear layer of {type(model).__name__}; it has "
            f"{_linear_names(model)}"
        )
    return targets if isinstance(targets, str) else list(targets)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's


def _linear_names(model: nn.Module) -> str:
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)}
    return ", ".join(sorted(names))


def _is_in(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") or f".{module}." in name for module in modules)


def _add_mms(model: Any, args: AdapterArguments) -> PreTrainedModel:
    if model.config.to_dict().get("adapter_attn_dim") is None:
        raise ValueError(
            f"--adapter mms needs a base with adapter layers (adapter_attn_dim in its config), such as "
            f"facebook/mms-1b-all; this {model.config.model_type} has none: take --adapter lora"
        )
    model.init_adapter_layers()
    model.requires_grad_(False)
    for weight in model._get_adapters().values():
        weight.requires_grad_(True)
    return model


# ---------------------------------------------------------------------------------------------------------------
# What is trained


def plain_model(model: Any) -> Any:
    """The model in which an adapter sits, which computes with it, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def trainable_table(model: nn.Module) -> str:
    """Weights of each part, those that are trained, and megabytes for weights, gradients and AdamW's two averages."""
    plain = plain_model(model)
    lines = [f"{'part':<24}{'weights':>14}{'trained':>14}{'share':>9}"]
    for name, part in _parts(plain):
        size, trained = _count(part), _count(part, trained=True)
        lines.append(f"{name:<24}{size:>14,}{trained:>14,}{trained / max(size, 1):>9.2%}")
    size, trained = _count(plain), _count(plain, trained=True)
    held = sum(weight.numel() * weight.element_size() for weight in plain.parameters()) / 1e6
    lines.append(f"{'all':<24}{size:>14,}{trained:>14,}{trained / max(size, 1):>9.2%}")
    lines.append(
        f"memory without activations: weights {held:,.0f} MB, gradients and AdamW {12 * trained / 1e6:,.0f} MB"
    )
    return "\n".join(lines)


def training_facts(model: nn.Module) -> dict[str, Any]:
    """For metrics.json: weights, trained weights, and the largest memory that this process has held in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    facts: dict[str, Any] = {"weights": _count(model), "trained_weights": _count(model, trained=True)}
    facts["peak_memory_mb"] = round(peak)
    if torch.cuda.is_available():
        facts["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    return facts


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules below, and in place of a single wrapper (`model`) those below it."""
    parts: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        below = list(child.named_children())
        inner = [(f"{name}.{n}", c) for n, c in below if n in ("encoder", "decoder")]
        parts += inner if inner else [(name, child)]
    return parts


def _count(module: nn.Module, *, trained: bool = False) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trained)


class GradientCheck(TrainerCallback):
    """Says at the start of a training which of its weights learn nothing.

    A weight without a gradient after the first backward pass is an error (`is_error`) or reported; where layers are
    dropped at random (wav2vec2's layerdrop), one that got none in all of the first ten. One whose gradient is all
    zero is reported when the learning rate has been above 0 for two updates: LoRA's A has none while B is still 0.
    Updates that are skipped as fp16 overflowed do not count.
    """

    def __init__(self, *, is_error: bool = True) -> None:
        self.is_error = is_error  # False where all weights are trained: some models have ones that nothing uses
        self.updates = 0
        self.patience: int | None = None
        self.without: set[str] = set()
        self.done = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.done:
            return
        model = kwargs["model"]
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        gradients = {name: weight.grad for name, weight in trained.items() if weight.grad is not None}
        if self.patience is None:
            self.patience, self.without = BACKWARDS_WITH_LAYERDROP if drops_layers(model) else 1, set(trained)
        self.without -= gradients.keys()
        self.patience -= 1
        if self.without and self.patience <= 0:
            missing = [name for name in trained if name in self.without]
            message = (
                f"{len(self.without)} of {len(trained)} weights that should be trained get no gradient: "
                f"{_some(missing)}; freeze them, or check that the loss depends on them (reentrant "
                "gradient checkpointing cuts it off)"
            )
            if self.is_error:
                raise ValueError(message)
            logger.warning(message)
            self.done = True
        if not all(gradient.isfinite().all() for gradient in gradients.values()):
            return
        if self.updates >= 2 and not self.without:
            self.done = True
            zero = [name for name, gradient in gradients.items() if not gradient.any()]
            if zero:
                logger.warning("the gradient of %d of %d weights is zero: %s", len(zero), len(trained), _some(zero))
        schedule = kwargs.get("lr_scheduler")
        self.updates += schedule is None or schedule.get_last_lr()[0] > 0


def drops_layers(model: Any) -> bool:
    """Whether whole layers are left out of a step at random."""
    config = model.config.to_dict()
    return any(config.get(name, 0) > 0 for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# ---------------------------------------------------------------------------------------------------------------
# Saving and opening


def commit_of(model: PreTrainedModel) -> str | None:
    """The commit of the Hub that a model was opened from; None for a local folder."""
    return vars(model.config).get("_commit_hash")


def base_facts(model: Any) -> dict[str, Any]:
    """What tells a base from others: name, commit, architecture, and the beginnings of some of its vectors.

    Vectors (biases, norms) and convolutions, as matrices may be quantised; of a model never trained all vectors are
    alike. It makes no difference whether an adapter sits in the base.
    """
    weights = list(plain_weights(model).items())
    chosen = [(name, weight) for name, weight in weights if weight.ndim > 2][:FINGERPRINTS]
    vectors = [(name, weight) for name, weight in weights if weight.ndim == 1]
    chosen += vectors[:: max(1, len(vectors) // FINGERPRINTS)]
    config = model.config
    return {
        "base_model": config.name_or_path,
        "revision": commit_of(model),
        "model_type": config.model_type,
        "text_normalizer": config.to_dict().get("text_normalizer"),
        "vocab_size": config.to_dict().get("vocab_size"),
        "vectors": {name: beginning(weight) for name, weight in chosen},
    }


def beginning(weight: Tensor) -> list[float]:
    """Size and first four values."""
    return [weight.numel(), *weight.detach().flatten()[:4].float().tolist()]


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a base by their names without PEFT, whether or not an adapter sits in it."""
    weights: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if "lora_" not in name and "modules_to_save" not in name:
            weights[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = weight
    return weights


def save_adapter(model: PeftModel, folder: Path, processor: ProcessorMixin) -> None:
    """The adapter alone, with what `pipeline()` needs beside the base that it names.

    No config.json: transformers would then look for the whole model here.
    """
    model.save_pretrained(str(folder))
    processor.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template
    facts = json.dumps(base_facts(model.get_base_model()), indent=2)
    (folder / BASE_FILE).write_text(facts + "\n", encoding="utf-8")


def save_merged(
    model: PeftModel, folder: Path, processor: ProcessorMixin, example_inputs: Mapping[str, Tensor]
) -> float:
    """Base and adapter as one model that needs no PEFT; the largest difference of logits that this makes.

    ValueError, and nothing saved, if it is above 1e-4: such as with a base in 4 bits, which merging rounds anew.
    """
    model.eval()
    merged = copy.deepcopy(model).merge_and_unload()
    with torch.no_grad():
        inputs = {name: value.to(model.device) for name, value in example_inputs.items()}
        difference = float((merged(**inputs).logits.float() - model(**inputs).logits.float()).abs().max())
    if difference > PARITY:
        raise ValueError(
            f"merging changes the logits by {difference:.2g}, more than {PARITY:g}; use the adapter with its base, or "
            "train it on a base in float32 (--adapter lora)"
        )
    merged.save_pretrained(folder)
    processor.save_pretrained(folder)
    logger.info("merged into %s; largest difference of logits %.2g", folder, difference)
    return difference


def save_trained(trainer: Any, args: AdapterArguments, processor: Any, folder: Path, example_inputs: Any) -> None:
    """What was trained: a model that `pipeline()` opens in `folder`, and of low-rank kinds the adapter in adapter/.

    A base in 4 bits is not merged, as that would round it anew: there is the adapter only.
    """
    if args.adapter not in LOW_RANK:
        trainer.save_model(folder)
        processor.save_pretrained(folder)
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if args.adapter in LOW_RANK:
        save_adapter(model, folder / "adapter", processor)
        if args.save_merged and args.adapter != "qlora":
            save_merged(model, folder, processor, example_inputs)
    elif args.adapter == "bitfit":
        save_file(_trained_weights(model), folder / "bitfit.safetensors")
    elif args.adapter == "mms":
        save_file(model._get_adapters(), folder / f"adapter.{args.adapter_language}.safetensors")


def _trained_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().cpu() for name, weight in model.named_parameters() if weight.requires_grad}


def load_adapters(base: PreTrainedModel, folders: Mapping[str, str | Path]) -> PeftModel:
    """A base with several adapters, of which `model.set_adapter(name)` chooses one; the first is active.

    Raises ValueError for an adapter that was trained on another base.
    """
    if not folders:
        raise ValueError("give at least one adapter, as {name: folder}")
    for name in folders:
        if "." in name or hasattr(nn.ModuleDict, name):  # PEFT keeps adapters in a ModuleDict
            raise ValueError(f"an adapter cannot be called {name!r}, which torch uses; give it another name")
    weights = plain_weights(base)
    adapted: PeftModel | None = None
    for name, folder in folders.items():
        check_base(Path(folder), base, weights)
        if adapted is None:
            adapted = PeftModel.from_pretrained(base, str(folder), adapter_name=name)
        else:
            adapted.load_adapter(str(folder), adapter_name=name)
    assert adapted is not None
    adapted.set_adapter(next(iter(folders)))
    return adapted.eval()


def check_base(folder: Path, base: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """ValueError unless the adapter in this folder belongs to the base with these weights."""
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} is no adapter: it has no adapter_config.json")
    if not (folder / BASE_FILE).is_file():  # trained elsewhere: PEFT's own check of sizes must do
        return
    trained = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    found = {name: beginning(weights[name]) for name in trained["vectors"] if name in weights}
    differing = [name for name, vector in trained["vectors"].items() if not _alike(vector, found.get(name))]
    if differing:
        raise ValueError(
            f"the adapter {folder} was trained on {trained['base_model']} ({trained['model_type']}), this base is "
            f"{base.config.name_or_path} ({base.config.model_type}) and differs in {_some(differing)}; open that"
        )


def _alike(a: Sequence[float], b: Sequence[float] | None) -> bool:
    """Whether two vectors are one, as far as bfloat16 tells (8 bits)."""
    return b is not None and len(a) == len(b) and all(abs(x - y) <= 1e-5 + 5e-3 * abs(x) for x, y in zip(a, b))  # noqa: B905


def open_adapter(folder: str | Path, model_class: Any, **options: Any) -> PeftModel:
    """An adapter with the base that it names; ValueError if that, or its revision, cannot be opened.

    A head that was made anew may have another size than that of the base: it is made again, and then filled.
    """
    config = PeftConfig.from_pretrained(str(folder))
    name, revision = config.base_model_name_or_path, config.revision
    if config.modules_to_save:
        facts = json.loads(Path(folder, BASE_FILE).read_text(encoding="utf-8"))
        options |= {"vocab_size": facts["vocab_size"], "ignore_mismatched_sizes": True}
    try:
        base = model_class.from_pretrained(name, revision=revision, **options)
    except OSError as error:
        at = f" at revision {revision}" if revision else ""
        raise ValueError(
            f"the adapter {folder} needs the base {name!r}{at}, which cannot be opened: {error}; set "
            "base_model_name_or_path or revision in its adapter_config.json to where it is"
        ) from error
    return load_adapters(base, {"default": folder})
