"""The double of the Hub against its real clients, each in a process that knows the Hub by its environment alone."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from hfaudio.audio.io import load_audio
from hfaudio.data import bundled
from hfaudio.data.datasets import DataArguments, load_split
from hfaudio.inference.transcribe import Transcriber
from hfaudio.processing.remote_code import carry_code
from hfaudio.training.adapters import AdapterArguments, add_adapter, save_adapter

CLIENT = """
import json, sys
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

def error_of(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except HfHubHTTPError as error:
        return type(error).__name__

api, found = HfApi(), {"user": HfApi().whoami()["name"]}
api.create_repo("ann/model")
api.create_repo("ann/model", exist_ok=True)
found["again"] = error_of(api.create_repo, "ann/model")
card = "---\\npipeline_tag: text-to-audio\\ntags: [music]\\n---\\n# A model\\n"
first = api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="ann/model")
api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="ann/model")  # no commit: the same
api.create_tag("ann/model", tag="v1")
api.create_branch("ann/model", branch="with/slash")
api.upload_file(
    path_or_fileobj=b"notes", path_in_repo="deep/down/notes.txt", repo_id="ann/model", revision="with/slash"
)
proposed = api.upload_file(
    path_or_fileobj=b"better", path_in_repo="better.txt", repo_id="ann/model", create_pr=True, commit_message="Better"
)
found["pull request"] = [proposed.pr_revision, proposed.pr_num]
refs = api.list_repo_refs("ann/model", include_pull_requests=True)
found["refs"] = [[ref.ref for ref in group] for group in (refs.branches, refs.tags, refs.pull_requests)]
found["history"] = [commit.title for commit in api.list_repo_commits("ann/model", revision="refs/pr/1")]
for revision in ("main", "v1", "with/slash", "refs/pr/1", first.oid):
    found[revision] = sorted(api.list_repo_files("ann/model", revision=revision))
info = api.model_info("ann/model")
found["info"] = [info.pipeline_tag, info.tags, info.card_data.pipeline_tag, info.private]
[folder, file] = api.get_paths_info("ann/model", ["deep", "deep/down/notes.txt", "none"], revision="with/slash")
found["paths"] = [type(folder).__name__, type(file).__name__, file.size]
below = api.list_repo_tree("ann/model", "deep", revision="with/slash", recursive=True)
found["below"] = [entry.path for entry in below]
found["errors"] = [
    error_of(hf_hub_download, "ann/model", "none.txt"),
    error_of(api.model_info, "ann/model", revision="none"),
    error_of(api.model_info, "ann/none"),
    error_of(api.delete_file, "README.md", "ann/model", parent_commit="0" * 40),
]
files = HfFileSystem()
found["range"] = files.cat_file("ann/model/deep/down/notes.txt", revision="with/slash", start=1, end=3).decode()
found["snapshot"] = open(snapshot_download("ann/model", revision="refs/pr/1") + "/better.txt").read()
api.delete_file("README.md", "ann/model")
api.delete_branch("ann/model", branch="with/slash")
found["left"] = [api.list_repo_files("ann/model"), [ref.name for ref in api.list_repo_refs("ann/model").branches]]
found["listed"] = [model.id for model in api.list_models(author="ann")] + list(api.list_models(author="bob"))
api.delete_repo("ann/model")
found["deleted"] = error_of(api.model_info, "ann/model")
json.dump(found, open(sys.argv[1], "w"))
"""


def test_repositories_branches_tags_and_pull_requests(hub: Any, run_child: Callable[..., Any]) -> None:
    found = run_child(CLIENT, hub.environment())
    start = [".gitattributes", "README.md"]
    assert found == {
        "user": "ann",
        "again": "HfHubHTTPError",
        "pull request": ["refs/pr/1", 1],
        "refs": [["refs/heads/main", "refs/heads/with/slash"], ["refs/tags/v1"], ["refs/pr/1"]],
        "history": ["Better", "Upload README.md with huggingface_hub", "initial commit"],
        "info": ["text-to-audio", ["music"], "text-to-audio", False],
        "main": start,
        "v1": start,
        "with/slash": [*start, "deep/down/notes.txt"],
        "refs/pr/1": [*start, "better.txt"],
        next(name for name in found if len(name) == 40): start,
        "paths": ["RepoFolder", "RepoFile", 5],
        "below": ["deep/down", "deep/down/notes.txt"],
        "errors": ["RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError", "HfHubHTTPError"],
        "range": "ot",
        "snapshot": "better",
        "left": [[".gitattributes"], ["main"]],
        "listed": ["ann/model"],
        "deleted": "RepositoryNotFoundError",
    }


PUSH = """
import json, sys
from huggingface_hub import HfApi
api, (_, written, folder, name) = HfApi(), sys.argv
api.create_repo(name, exist_ok=True, private=name.startswith("ann/private"))
try:
    error, _ = None, api.upload_folder(repo_id=name, folder_path=folder)
except Exception as failure:
    error = f"{failure} {failure.__cause__}"
json.dump(error, open(written, "w"))
"""


def test_an_interrupted_upload_goes_on_where_it_stopped(
    hub: Any, run_child: Callable[..., Any], tmp_path: Any
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    contents = {f"part-{number}.bin": bytes([0, number]) * 1000 for number in range(5)} | {"config.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    hub.fail_next("^PUT /lfs/", times=5, after=2)
    error = run_child(PUSH, hub.environment(xet=False), folder, "ann/model")
    assert "Error while uploading" in error and "507" in error
    assert hub.count("^PUT /lfs/") == 2
    assert list(hub.files("ann/model")) == [".gitattributes"]  # all or nothing
    hub.faults.clear()
    assert run_child(PUSH, hub.environment(xet=False), folder, "ann/model") is None
    assert hub.count("^PUT /lfs/") == 5  # of which three in the second try
    pushed = hub.files("ann/model")
    assert {name: pushed[name] for name in contents} == contents


OUTSIDE = """
import json, sys
from huggingface_hub import HfApi, hf_hub_download

def error_of(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return [type(error).__name__, error.response.status_code]

json.dump(
    [
        error_of(HfApi().model_info, "ann/private"),
        error_of(hf_hub_download, "ann/private", "config.json"),
        error_of(HfApi().upload_file, path_or_fileobj=b"", path_in_repo="empty", repo_id="ann/public"),
        error_of(HfApi().create_repo, "ann/new"),
        error_of(HfApi(token="hf_wrong").whoami),
        open(hf_hub_download("ann/public", "config.json")).read(),
        open(hf_hub_download("ann/private", "config.json", token=sys.argv[2])).read(),
    ],
    open(sys.argv[1], "w"),
)
"""


def test_who_has_no_token_sees_nothing_private_and_writes_nothing(
    hub: Any, hub_double: Any, run_child: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("ann/private", "ann/public"):
        assert run_child(PUSH, hub.environment(), tmp_path / "model", name) is None
    unknown = ["RepositoryNotFoundError", 401]  # as for a repository that does not exist
    assert run_child(OUTSIDE, hub.environment(token=False), hub_double.TOKEN) == [
        *(unknown, unknown, ["HfHubHTTPError", 401], ["HfHubHTTPError", 401], ["HfHubHTTPError", 401]),
        *("{}", "{}"),
    ]
    assert list(hub.files("ann/public")) == [".gitattributes", "config.json"]


OPEN_MODELS = """
import json, sys
import numpy as np
import torch
from huggingface_hub import HfApi
from transformers import pipeline

_, written, clip, prompt, steps = sys.argv
clip, found = np.load(clip), {}

sys.modules["hfaudio"] = None  # importing it fails
stranger = pipeline(model="ann/private-asr", trust_remote_code=True)
found["module"] = type(stranger.model).__module__.split(".")[0]
found["LM order"] = stranger.lm_decoder.lm.order
stranger.lm_decoder = None  # the beam search would be compiled for 10 s; test_pipelines_elsewhere.py does
found["greedy"] = stranger(clip)["text"]

for name in ("lfs", "xet"):
    pipe = pipeline("text-to-audio", model=f"ann/music-{name}")
    found[name] = np.ravel(pipe(prompt, generate_kwargs=json.loads(steps))["audio"]).tolist()
    [file] = HfApi().get_paths_info(f"ann/music-{name}", "model.safetensors")
    found[f"{name} hash"] = file.xet_hash

del sys.modules["hfaudio"]
from hfaudio.inference.transcribe import Transcriber
found["with LM"] = Transcriber("ann/private-asr", progress=False)({"array": clip, "sampling_rate": 16_000}).text

whisper = pipeline("automatic-speech-recognition", model="ann/whisper-adapter")
features = torch.zeros(1, whisper.model.config.num_mel_bins, 2 * whisper.model.config.max_source_positions)
with torch.no_grad():
    logits = whisper.model(input_features=features, decoder_input_ids=torch.tensor([[3, 4, 5]])).logits
found["adapted"] = logits.tolist()
found["adapted text"] = type(whisper(clip, generate_kwargs={"max_new_tokens": 2})["text"]).__name__
json.dump(found, open(written, "w"))
"""


def test_models_are_pushed_and_opened(
    hub: Any, run_child: Callable[..., Any], small_whisper: Path, tmp_path: Path
) -> None:
    asr = tmp_path / "asr"
    shutil.copytree(bundled.path("asr"), asr)
    (asr / "README.md").write_text("---\npipeline_tag: automatic-speech-recognition\n---\n# Heard\n")
    carry_code(asr)
    adapter = tmp_path / "adapter"
    adapted = whisper_adapter(small_whisper, adapter, base_model="ann/whisper")
    musicgen = bundled.path("musicgen")
    assert run_child(PUSH, hub.environment(xet=False), musicgen, "ann/music-lfs") is None
    assert hub.count("^PUT /lfs/") == hub.count("^POST /lfs-verify") > 0
    hub.requests.clear()
    pushes = {"private-asr": asr, "whisper": small_whisper, "whisper-adapter": adapter, "music-xet": musicgen}
    for name, folder in pushes.items():
        assert run_child(PUSH, hub.environment(), folder, f"ann/{name}") is None
    assert hub.count("^PUT /lfs/") == 0 and hub.count("xet-write-token") > 0
    weights = "model.safetensors"
    assert hub.files("ann/music-xet")[weights] == (musicgen / weights).read_bytes()

    rows = load_split(DataArguments(), "test")
    clip = load_audio(rows[2]["audio"], 16_000)
    np.save(tmp_path / "clip.npy", clip)
    steps = json.dumps({"do_sample": False, "max_new_tokens": 6})
    found = run_child(OPEN_MODELS, hub.environment(), tmp_path / "clip.npy", "a calm flute tune", steps)

    here = Transcriber(asr, progress=False)
    source = {"array": clip, "sampling_rate": 16_000}
    assert found["module"] == "transformers_modules" and found["LM order"] == 3
    assert found["with LM"] == here(source).text
    assert found["greedy"] == here.with_decoding(language_model=False)(source).text != found["with LM"]
    assert len(found["lfs"]) > 1000 and found["lfs"] == found["xet"]
    assert found["lfs hash"] is None and len(found["xet hash"]) == 64
    torch.testing.assert_close(torch.tensor(found["adapted"]), adapted)
    assert found["adapted text"] == "str"
    downloads = {name: f"^GET /ann/{name}/resolve/.*/model.safetensors" for name in ("music-lfs", "music-xet")}
    assert hub.count(downloads["music-lfs"]) == 1
    assert hub.count(downloads["music-xet"]) == 0 and hub.count("ann/music-xet/xet-read-token") > 0


def whisper_adapter(base: Path, folder: Path, *, base_model: str) -> torch.Tensor:
    """Save a LoRA adapter, and return the logits (1, 3, V) that it gives for silence."""
    model: Any = add_adapter(
        WhisperForConditionalGeneration.from_pretrained(base), AdapterArguments(adapter="lora", adapter_rank=2)
    )
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    save_adapter(model, folder, WhisperProcessor.from_pretrained(base))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base_model}))
    features = torch.zeros(1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    with torch.no_grad():
        return model.eval()(input_features=features, decoder_input_ids=torch.tensor([[3, 4, 5]])).logits


STREAM = """
import hashlib, json, sys
from datasets import Audio, load_dataset
from hfaudio.data.datasets import DataArguments, load_splits
from hfaudio.data.stream import AudioStream

_, written, folder = sys.argv
files = {name: f"{folder}/{name}*.parquet" for name in ("train", "validation", "test")}
songs = load_dataset("parquet", data_files=files).cast_column("audio", Audio(sampling_rate=16_000))
songs.push_to_hub("ann/songs", num_shards={"train": 3, "validation": 1, "test": 1})
splits = load_splits(DataArguments(dataset="ann/songs", streaming=True))
batches = [*AudioStream(splits["train"], max_seconds=10, shuffle_buffer=20)]
rows = [row for batch in batches for row in batch]
found = {"sizes": {name: len(split) for name, split in splits.items() if name != "train"}, "batches": len(batches)}
found["rows"] = {row["id"]: [row["text"], hashlib.sha256(row["audio"]["bytes"]).hexdigest()] for row in rows}
found["count"] = len(rows)
json.dump(found, open(written, "w"))
"""


def test_a_dataset_is_pushed_and_streamed_back(hub: Any, run_child: Callable[..., Any], songs: Path) -> None:
    found = run_child(STREAM, hub.environment(), songs)
    assert found["sizes"] == {"validation": 13, "test": 13}
    kept = [row for file in sorted(songs.glob("train*")) for row in pq.read_table(file).to_pylist()]
    digests = {row["id"]: [row["text"], hashlib.sha256(row["audio"]["bytes"]).hexdigest()] for row in kept}
    assert found["rows"] == digests and found["count"] == 96 and found["batches"] > 10
    assert any(request.status == 206 for request in hub.requests)  # read by parts, not copied first
