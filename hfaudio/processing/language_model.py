"""The folder `language_model/` beside a CTC model: an n-gram LM, and how to decode with it.

    language_model/lm.ngram        the LM, memory-mapped (`hfaudio.ngram`)
    language_model/decoder.json    LM weight, word bonus, beam width, ..., calibration, and the labels they are for

Folders of `Wav2Vec2ProcessorWithLM` (`alphabet.json`, `language_model/attrs.json`, `unigrams.txt`, an ARPA or KenLM
file) are read as well.
"""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import PreTrainedTokenizerBase, Wav2Vec2Processor

from hfaudio.decoding.beam import BeamSearchDecoder, BeamSettings, Hypothesis
from hfaudio.decoding.confidence import Calibration
from hfaudio.ngram.model import LM_ENDINGS, NGramLM
from hfaudio.processing.tokenizer import ctc_labels

logger = logging.getLogger(__name__)

FOLDER = "language_model"
LM_FILE, DECODER_FILE = "lm.ngram", "decoder.json"
FORMAT = 1

# What a repository without `language_model/` may hold beside its LM: other folders, and what the Trainer saves.
HUB_LM_FILES = [LM_FILE, "*.arpa", "*.arpa.gz", "*.bin", "*.binary", "*.klm"]
HUB_OTHER_FILES = ["*/*", "pytorch_model*", "training_args.bin", "optimizer.bin", "scheduler.bin"]


def save_language_model(
    folder: str | os.PathLike[str], decoder: BeamSearchDecoder, *, quantize: int | None = None
) -> Path:
    """Write `language_model/` into a model folder; returns it. `quantize` is the bits of a probability (8)."""
    if decoder.lm is None:
        raise ValueError("the decoder has no language model to save; give it one")
    target = Path(folder, FOLDER)
    target.mkdir(parents=True, exist_ok=True)
    saved = decoder.lm.save(target / LM_FILE, quantize=quantize)
    for file in target.iterdir():  # of the LM that was there before
        if file != saved and file.name.endswith((LM_FILE, *LM_ENDINGS)):
            file.unlink()
    content = {
        "format": FORMAT,
        "settings": dataclasses.asdict(decoder.settings),
        "calibration": dataclasses.asdict(decoder.calibration),
        "labels": list(decoder.labels),
    }
    (target / DECODER_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def remove_language_model(folder: str | os.PathLike[str]) -> None:
    """Delete `language_model/` from a folder that gets a model without one; nothing if it is not there."""
    target = Path(folder, FOLDER)
    if target.is_dir():
        logger.warning("%s is deleted: it belongs to the model that was here before", target)
        shutil.rmtree(target)


def find_language_model(
    model: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> Path | None:
    """The model folder that has a `language_model/`, or None; of a Hub id only these files are fetched."""
    if not os.fspath(model):
        return None  # a model made in memory
    folder = Path(model)
    if not folder.is_dir():
        patterns = [f"{FOLDER}/*", "alphabet.json"]
        try:
            folder = Path(snapshot_download(os.fspath(model), revision=revision, token=token, allow_patterns=patterns))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            # a model object may carry the name of a folder that is gone, or of a repository that is out of reach
            logger.warning("could not look for a %s/ of %s, decoding goes on without one: %s", FOLDER, model, error)
            return None
    return folder if any((folder / FOLDER).glob("*")) else None


def open_lm(name: str) -> NGramLM:
    """The n-gram LM of a file, a folder, a model folder, or a Hub id, of which only the LM is fetched.

    Raises:
        ValueError: no LM there, or no such folder and no Hub repository that can be read.
    """
    if Path(name).exists():
        return NGramLM.load(lm_path(Path(name)))
    try:
        folder = lm_path(Path(snapshot_download(name, allow_patterns=f"{FOLDER}/*")))
        if folder.name != FOLDER:  # a repository of an LM alone
            snapshot_download(name, allow_patterns=HUB_LM_FILES, ignore_patterns=HUB_OTHER_FILES)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(
            f"there is no file or folder {name}, and it is no Hub repository that can be read ({error}); "
            "check the name, and for a private one the login"
        ) from error
    return NGramLM.load(folder)


def lm_path(path: Path) -> Path:
    """Where the LM is: in `language_model/` of a model folder, else the path itself."""
    return path / FOLDER if any((path / FOLDER).glob("*")) else path


def open_decoder(folder: Path, tokenizer: PreTrainedTokenizerBase) -> BeamSearchDecoder:
    """The decoder of a model folder's `language_model/`, for the labels of its tokenizer.

    Raises:
        ValueError: no LM there, one of a newer format, or one for other labels.
    """
    labels, blank_id = ctc_labels(tokenizer), tokenizer.pad_token_id
    path = folder / FOLDER / DECODER_FILE
    if not path.exists():
        return open_pyctcdecode_folder(folder, labels, blank_id)
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["format"] > FORMAT:
        raise ValueError(f"{path} has format {content['format']}, this hfaudio reads up to {FORMAT}; update hfaudio")
    lm = NGramLM.load(path.parent)
    check_labels(content["labels"], labels, path)
    settings, calibration = BeamSettings(**content["settings"]), Calibration(**content["calibration"])
    return BeamSearchDecoder.from_settings(labels, lm, settings, blank_id=blank_id, calibration=calibration)


def check_labels(saved: Sequence[str], labels: Sequence[str], path: Path) -> None:
    """Raise if the LM was made for labels of which this model lacks some, warn where they only stand otherwise."""
    missing = sorted(set(saved) - set(labels))
    if missing:
        shown = " ".join(map(repr, missing[:10]))
        raise ValueError(
            f"{path} was made for a tokenizer with {len(missing)} labels that this one lacks ({shown}); estimate a "
            "language model for this model (hfaudio lm train), or delete the folder to decode greedily"
        )
    if set(labels) - set(saved):
        logger.warning("%s was made for a tokenizer with fewer labels; its weights may not fit this model", path)


def open_pyctcdecode_folder(folder: Path, labels: Sequence[str], blank_id: int | None) -> BeamSearchDecoder:
    """The decoder of a folder that `Wav2Vec2ProcessorWithLM` saved (transformers 4 and 5)."""
    from hfaudio.decoding.compat import load_language_model_folder

    saved_labels, lm, unigrams, settings = load_language_model_folder(folder)
    check_labels(saved_labels, labels, folder / "alphabet.json")
    return BeamSearchDecoder(labels, lm, lexicon=unigrams, blank_id=blank_id, **settings)


class CTCProcessorWithLM(Wav2Vec2Processor):
    """Feature extractor, tokenizer and beam search with a language model.

        processor = CTCProcessorWithLM.from_pretrained("user/model")
        logits = model(**processor(audio, sampling_rate=16_000, return_tensors="pt")).logits
        processor.batch_decode(logits)[0].text

    It saves the files of a plain `Wav2Vec2Processor`, which other projects open, and `language_model/` beside them.
    """

    def __init__(self, feature_extractor, tokenizer, decoder: BeamSearchDecoder | None = None):  # type: ignore[no-untyped-def]
        super().__init__(feature_extractor, tokenizer)
        self.decoder = decoder

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **options) -> "CTCProcessorWithLM":  # type: ignore
        """The processor of a model folder or Hub id; ValueError if there is no `language_model/`."""
        stock = Wav2Vec2Processor.from_pretrained(model, **options)
        folder = find_language_model(model, revision=options.get("revision"), token=options.get("token"))
        if folder is None:
            raise ValueError(
                f"{os.fspath(model)} has no {FOLDER}/; open it as Wav2Vec2Processor, or add a language model"
            )
        return cls(stock.feature_extractor, stock.tokenizer, open_decoder(folder, stock.tokenizer))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options) -> None:  # type: ignore
        """Write the processor's files, and `language_model/`."""
        Wav2Vec2Processor(self.feature_extractor, self.tokenizer).save_pretrained(save_directory, **options)
        if self.decoder is not None:
            save_language_model(save_directory, self.decoder)

    def decode(  # type: ignore[override]
        self, logits: torch.Tensor | np.ndarray, length: int | None = None
    ) -> Hypothesis:
        """The hypothesis of one utterance's logits (T, V); ids are decoded by `processor.tokenizer`, not here."""
        [hypothesis] = self.batch_decode([logits], None if length is None else [length])
        return hypothesis

    def batch_decode(  # type: ignore[override]
        self,
        logits: Sequence[torch.Tensor | np.ndarray] | torch.Tensor | np.ndarray,
        lengths: Sequence[int] | None = None,
        *,
        num_threads: int | None = None,
    ) -> list[Hypothesis]:
        """Hypotheses of a model's logits (B, T, V) or a list of (T, V); `lengths` frames of each count, else all."""
        if self.decoder is None:
            raise ValueError("this processor has no decoder; use from_pretrained on a folder with a language model")
        return self.decoder.decode_batch(logits, lengths=lengths, logits=True, num_threads=num_threads)
