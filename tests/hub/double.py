"""A double of the Hugging Face Hub for tests: the routes that huggingface_hub 2.4 and what builds on it ask for.

    with HubDouble(folder) as hub:
        subprocess.run([sys.executable, "push.py"], env=hub.environment())
        hub.files("ann/model")  # {"config.json": b"...", ...}

Repositories of models, datasets and Spaces live in memory, the contents of files below `folder`. Large files come by
LFS, or by Xet into a store that hf_xet 1.8 keeps in a folder of its own (`local://`, xet-core). There is one user,
"ann". Quotas, rate limits, merging and the Hub's own guesses about a model (it takes the card's word) are left out.

Beside the standard library it needs PyYAML, to read cards, and hf_xet, to read what came by Xet; huggingface_hub
brings both along. `python double.py FOLDER` serves one and prints its address.
"""

import base64
import hashlib
import json
import os
import re
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "ann"
TOKEN = "hf_" + "ann" * 11  # hf_ and letters and digits, as real ones
LARGE = 10 * 2**20  # bytes; larger files, and binary ones, are not kept by git itself
KINDS = ("models", "datasets", "spaces")
NOT_INHERITED = ("HF_", "HUGGING_FACE_", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


@dataclass(frozen=True)
class Blob:
    """A file's content, which lies in the store under `sha256`."""

    sha256: str
    git_oid: str
    size: int
    large: bool = False
    xet: str | None = None  # its hash in the Xet store, if it came from there

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_oid


@dataclass(frozen=True)
class Commit:
    """The files of a repository at one time, and how it came to them."""

    oid: str
    title: str
    files: dict[str, Blob]
    parent: "Commit | None" = None
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()))

    def history(self) -> "Iterator[Commit]":
        """This commit and those before it."""
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent


@dataclass
class Repository:
    """`refs` has full names: refs/heads/main, refs/tags/v1, refs/pr/1."""

    kind: str
    name: str
    private: bool
    refs: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Its path below the endpoint."""
        return self.name if self.kind == "models" else f"{self.kind}/{self.name}"

    def ref_of(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request."""
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((name for name in names if name in self.refs), None)

    def find(self, revision: str) -> Commit:
        """The commit of a ref or a hash, which may be shortened to 7 digits."""
        ref = self.ref_of(revision)
        if ref is not None:
            return self.refs[ref]
        for oid, commit in self.commits.items():
            if len(revision) >= 7 and oid.startswith(revision):
                return commit
        raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add(self, ref: str, title: str, files: dict[str, Blob], parent: Commit | None = None) -> Commit:
        """A new commit on a ref."""
        oid = hashlib.sha1(f"{self.place} {len(self.commits)} {title}".encode()).hexdigest()
        self.commits[oid] = self.refs[ref] = Commit(oid, title, files, parent)
        return self.commits[oid]


@dataclass(frozen=True)
class Request:
    """What a client asked for and what it got; `size` is the bytes it sent."""

    line: str  # "PUT /lfs/3f..."
    status: int
    size: int


@dataclass
class Fault:
    """Requests whose line a pattern finds: the first `after` pass, `times` fail."""

    pattern: str
    status: int
    after: int
    times: int


class RefusalError(Exception):
    """An answer other than success; `code` is what huggingface_hub chooses its exception by."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class Answer:
    """A successful answer: JSON, or bytes as they are."""

    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


class HubDouble:
    """A Hub at `endpoint`, from `with` on; `folder` holds the contents of files."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self  # type: ignore[attr-defined]
        self.server.daemon_threads = True  # a client's idle connection must not keep us waiting
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "HubDouble":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    # What tests ask for

    def environment(self, *, token: bool = True, xet: bool = True) -> dict[str, str]:
        """Variables of a child process that talks to this Hub and to no other; its cache lies in `folder`.

        huggingface_hub reads them when it is imported. Without `token` nobody is logged in; without `xet` large files
        go by LFS.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        home = self.folder / ("home" if token else "home of a stranger")
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        own |= {"HF_TOKEN": TOKEN} if token else {}
        own |= {} if xet else {"HF_HUB_DISABLE_XET": "1"}
        return inherited | own

    def files(self, name: str, revision: str = "main", *, kind: str = "models") -> dict[str, bytes]:
        """The contents of a repository, by path."""
        blobs = self.repositories[kind, name].find(revision).files
        return {path: self.path_of(blob).read_bytes() for path, blob in blobs.items()}

    def fail_next(self, pattern: str, times: int = 1, *, after: int = 0, status: int = 507) -> None:
        """Let requests fail whose line ("PUT /lfs/...") has the regular expression, once `after` of them went well.

        huggingface_hub tries again after 429, 500, 502, 503 and 504, up to five times, and not after 507.
        """
        self.faults.append(Fault(pattern, status, after, times))

    def count(self, pattern: str) -> int:
        """Successful requests whose line has the regular expression."""
        with self.lock:
            return sum(
                re.search(pattern, request.line) is not None for request in self.requests if request.status < 400
            )

    # The store

    def path_of(self, blob: Blob) -> Path:
        """Where the content lies; what came by Xet is copied there when it is first asked for."""
        path = self.folder / "objects" / blob.sha256
        if not path.exists():
            assert blob.xet is not None
            read_xet(self.folder / "xet", blob.xet, blob.size, path)
        return path

    def store(self, content: bytes) -> Blob:
        """A small file."""
        git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        blob = Blob(hashlib.sha256(content).hexdigest(), git_oid, len(content))
        (self.folder / "objects" / blob.sha256).write_bytes(content)
        return blob

    def large_blob(self, sha256: str, size: int) -> Blob:
        """A large file that was sent before; what the Xet store has is offered by Xet."""
        xet = xet_hash(self.folder / "xet", sha256)
        if xet is None and not (self.folder / "objects" / sha256).exists():
            raise RefusalError(400, f"the large file {sha256} was not sent")
        return Blob(sha256, hashlib.sha1(sha256.encode()).hexdigest(), size, True, xet)

    def fault_of(self, line: str) -> int | None:
        """The status with which this request is to fail."""
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, line):
                if fault.after:
                    fault.after -= 1
                else:
                    fault.times -= 1
                    return fault.status
        return None


class Handler(BaseHTTPRequestHandler):
    """One connection. Each route is a method that gets the parts of the path, and `self.body`, `self.query`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else head and body of an answer are 40 ms apart

    def handle_request(self) -> None:
        self.hub: HubDouble = self.server.hub  # type: ignore[attr-defined]
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        split = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(split.query).items()}
        line = f"{self.command} {self.path}"
        with self.hub.lock:
            try:
                fault = self.hub.fault_of(line)
                if fault is not None:
                    raise RefusalError(fault, "this failure was ordered by a test")
                answer = self.route(split.path)
            except RefusalError as refusal:
                answer = Answer({"error": refusal.message} | refusal.body, {}, refusal.status)
                answer.headers["X-Error-Message"] = refusal.message
                if refusal.code is not None:
                    answer.headers["X-Error-Code"] = refusal.code
            except Exception as error:  # a fault of this double, for whom reads the test's output
                traceback.print_exc()
                answer = Answer({"error": repr(error)}, {}, 500)
            self.hub.requests.append(Request(line, answer.status, len(self.body)))
        self.send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815, http.server calls these

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed; `HubDouble.requests` has it."""

    def send(self, answer: Answer) -> None:
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        kind = "application/octet-stream" if isinstance(answer.body, bytes) else "application/json"
        self.send_response(answer.status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(content))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def route(self, path: str) -> Answer:
        method = "GET" if self.command == "HEAD" else self.command
        for line, handle in ROUTES:
            allowed, _, pattern = line.partition(" ")
            match = re.fullmatch(pattern, path)
            if match and method == allowed:
                return handle(self, **{name: unquote(part or "") for name, part in match.groupdict().items()})
        raise RefusalError(404, f"this double of the Hub has no route {self.command} {path}")

    # Who asks, and for what

    def logged_in(self) -> bool:
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return given is not None

    def need_login(self) -> None:
        if not self.logged_in():
            raise RefusalError(401, "Invalid username or password.")

    def repository(self, kind: str, name: str) -> Repository:
        """The repository, if the client may know of it; without a token a private one looks like none."""
        repository = self.hub.repositories.get((kind or "models", name))
        if repository is None or (repository.private and not self.logged_in()):
            raise RefusalError(404 if self.logged_in() else 401, "Repository not found", "RepoNotFound")
        return repository

    def writable(self, kind: str, name: str) -> Repository:
        repository = self.repository(kind, name)
        self.need_login()
        return repository

    # Users and repositories

    def whoami(self) -> Answer:
        self.need_login()
        token = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
        return Answer({"type": "user", "id": "1", "name": USER, "fullname": "Ann", "orgs": [], "auth": token})

    def validate_card(self) -> Answer:
        return Answer({"errors": [], "warnings": []})

    def create(self) -> Answer:
        self.need_login()
        kind, name, asked = self.named()
        found = self.hub.repositories.get((kind, name))
        if found is not None:
            raise RefusalError(409, "You already created this repo", url=f"{self.hub.endpoint}/{found.place}")
        repository = Repository(kind, name, private=asked.get("visibility") == "private")
        self.hub.repositories[kind, name] = repository
        attributes = self.hub.store(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        repository.add("refs/heads/main", "initial commit", {".gitattributes": attributes})
        return Answer({"url": f"{self.hub.endpoint}/{repository.place}", "name": name, "id": name})

    def delete(self) -> Answer:
        kind, name, _ = self.named()
        self.writable(kind, name)
        del self.hub.repositories[kind, name]
        return Answer({})

    def named(self) -> tuple[str, str, dict[str, Any]]:
        """Kind and full name of the repository that the body names, and the body."""
        asked = json.loads(self.body)
        return f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or USER}/{asked['name']}", asked

    def listing(self, kind: str) -> Answer:
        author = self.query.get("author")
        found = [
            r for r in self.hub.repositories.values() if r.kind == kind and author in (None, r.name.split("/")[0])
        ]
        return Answer([information(r, r.find("main"), self.hub) for r in found if not r.private or self.logged_in()])

    def information(self, kind: str, name: str, revision: str = "main") -> Answer:
        repository = self.repository(kind, name)
        return Answer(information(repository, repository.find(revision), self.hub))

    # Branches, tags, history

    def refs(self, kind: str, name: str) -> Answer:
        found: dict[str, list] = {"branches": [], "tags": [], "pullRequests": [], "converts": []}
        groups = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
        for ref, commit in self.repository(kind, name).refs.items():
            _, group, short = ref.split("/", 2)
            found[groups[group]].append({"name": short, "ref": ref, "targetCommit": commit.oid})
        return Answer(found)

    def add_branch(self, kind: str, name: str, branch: str) -> Answer:
        repository = self.writable(kind, name)
        if repository.ref_of(branch) is not None:
            raise RefusalError(409, f"Reference {branch} already exists")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        repository.refs[f"refs/heads/{branch}"] = repository.find(start)
        return Answer({})

    def add_tag(self, kind: str, name: str, revision: str) -> Answer:
        repository, tag = self.writable(kind, name), json.loads(self.body)["tag"]
        if repository.ref_of(tag) is not None:
            raise RefusalError(409, f"Reference {tag} already exists")
        repository.refs[f"refs/tags/{tag}"] = repository.find(revision)
        return Answer({})

    def remove_branch(self, kind: str, name: str, branch: str) -> Answer:
        return self.remove(self.writable(kind, name), f"refs/heads/{branch}")

    def remove_tag(self, kind: str, name: str, tag: str) -> Answer:
        return self.remove(self.writable(kind, name), f"refs/tags/{tag}")

    def remove(self, repository: Repository, ref: str) -> Answer:
        if repository.refs.pop(ref, None) is None:
            raise RefusalError(404, f"Reference {ref} does not exist", "RevisionNotFound")
        return Answer({})

    def history(self, kind: str, name: str, revision: str) -> Answer:
        commits = self.repository(kind, name).find(revision).history()
        who = [{"user": USER}]
        return Answer(
            [{"id": c.oid, "title": c.title, "message": "", "authors": who, "date": c.date} for c in commits]
        )

    # What is in a repository

    def tree(self, kind: str, name: str, revision: str, folder: str = "") -> Answer:
        """Files and folders directly in a folder, or with `recursive` anywhere below it."""
        commit = self.repository(kind, name).find(revision)
        start, recursive = f"{folder}/" if folder else "", self.query.get("recursive", "").lower() in ("true", "1")
        below = {path: path.removeprefix(start) for path in commit.files if path.startswith(start)}
        if folder and not below:
            raise RefusalError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        folders = {start + str(parent) for rest in below.values() for parent in Path(rest).parents[:-1]}
        shown = [path for path in sorted({*below, *folders}) if recursive or "/" not in path.removeprefix(start)]
        return Answer([entry(commit, path, expand=is_true(self.query.get("expand"))) for path in shown])

    def paths(self, kind: str, name: str, revision: str) -> Answer:
        commit = self.repository(kind, name).find(revision)
        form = parse_qs(self.body.decode())
        folders = {str(parent) for path in commit.files for parent in Path(path).parents}
        asked = [path.strip("/") for path in form.get("paths", [])]
        expand = is_true(form.get("expand", [""])[0])
        return Answer(
            [entry(commit, path, expand=expand) for path in asked if path in commit.files or path in folders]
        )

    def download(self, kind: str, name: str, revision: str, path: str) -> Answer:
        """A file, or the part of it that the header Range asks for."""
        repository = self.repository(kind, name)
        commit = repository.find(revision)
        blob = commit.files.get(path)
        if blob is None:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.large:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)}
        if blob.xet is not None:
            refresh = f"{self.hub.endpoint}/api/{repository.kind}/{name}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": blob.xet, "X-Xet-Refresh-Route": refresh, "Link": f'<{refresh}>; rel="xet-auth"'}
        first, end = byte_range(self.headers.get("Range", ""), blob.size)
        with self.hub.path_of(blob).open("rb") as file:
            file.seek(first)
            content = file.read(end - first)
        if "Range" not in self.headers:
            return Answer(content, headers)
        return Answer(content, headers | {"Content-Range": f"bytes {first}-{end - 1}/{blob.size}"}, 206)

    # Writing: how each file is to be sent, the large ones, the commit

    def preupload(self, kind: str, name: str, revision: str) -> Answer:
        present = self.writable(kind, name).find(revision).files
        answers = []
        for file in json.loads(self.body)["files"]:
            is_large = file["size"] > LARGE or b"\0" in base64.b64decode(file["sample"])
            answer = {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            if file["path"] in present:  # by this clients know that a file is as it was
                answer["oid"] = present[file["path"]].etag
            answers.append(answer)
        return Answer({"files": answers})

    def lfs_batch(self, kind: str, name: str) -> Answer:
        """Which of the large files are still to be sent, and where to."""
        self.writable(kind, name)
        objects = []
        for item in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"}}
            actions["verify"] = {"href": f"{self.hub.endpoint}/lfs-verify"}
            missing = not (self.hub.folder / "objects" / item["oid"]).exists()
            objects.append(item | ({"actions": actions} if missing else {}))
        return Answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusalError(400, "the content does not have the announced sha256")
        (self.hub.folder / "objects" / oid).write_bytes(self.body)
        return Answer({})

    def lfs_verify(self) -> Answer:
        if not (self.hub.folder / "objects" / json.loads(self.body)["oid"]).exists():
            raise RefusalError(404, "the large file was not sent")
        return Answer({})

    def xet_token(self, kind: str, name: str, right: str, revision: str) -> Answer:
        """Where the Xet store is. hf_xet reads and writes it itself: chunks, deduplication and all."""
        (self.writable if right == "write" else self.repository)(kind, name)
        place, end = f"local://{self.hub.folder / 'xet'}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": place, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(end)}
        return Answer({"casUrl": place, "accessToken": "xet", "exp": end}, headers)

    def commit(self, kind: str, name: str, revision: str) -> Answer:
        """Lines of JSON: a header, then files to add or delete."""
        repository = self.writable(kind, name)
        parent, ref = repository.find(revision), repository.ref_of(revision)
        pull_request = None
        if "create_pr" in self.query:
            pull_request = 1 + sum(known.startswith("refs/pr/") for known in repository.refs)
            ref = f"refs/pr/{pull_request}"
        if ref is None or ref.startswith("refs/tags/"):
            raise RefusalError(400, f"{revision} is no branch")
        files, title = dict(parent.files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, parent.oid):
                    raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large_blob(value["oid"], value["size"])
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise RefusalError(404, f"there is no file {value['path']}", "EntryNotFound")
            elif key == "deletedFolder":
                files = {path: blob for path, blob in files.items() if not path.startswith(value["path"] + "/")}
            else:
                raise RefusalError(400, f"unknown operation {key}")
        made = repository.add(ref, title, files, parent)
        place = f"{self.hub.endpoint}/{repository.place}"
        request_url = None if pull_request is None else f"{place}/discussions/{pull_request}"
        return Answer(
            {"commitUrl": f"{place}/commit/{made.oid}", "commitOid": made.oid, "pullRequestUrl": request_url}
        )


REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
GIT = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"
REVISION = r"/(?P<revision>[^/]+)"
ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/validate-yaml", Handler.validate_card),
    (r"POST /api/repos/create", Handler.create),
    (r"DELETE /api/repos/delete", Handler.delete),
    (r"GET /api/(?P<kind>models|datasets|spaces)", Handler.listing),
    (rf"GET {REPOSITORY}", Handler.information),
    (rf"GET {REPOSITORY}/revision{REVISION}", Handler.information),
    (rf"GET {REPOSITORY}/refs", Handler.refs),
    (rf"POST {REPOSITORY}/branch/(?P<branch>[^/]+)", Handler.add_branch),
    (rf"DELETE {REPOSITORY}/branch/(?P<branch>[^/]+)", Handler.remove_branch),
    (rf"POST {REPOSITORY}/tag{REVISION}", Handler.add_tag),
    (rf"DELETE {REPOSITORY}/tag/(?P<tag>[^/]+)", Handler.remove_tag),
    (rf"GET {REPOSITORY}/commits{REVISION}", Handler.history),
    (rf"GET {REPOSITORY}/tree{REVISION}(?:/(?P<folder>.+))?", Handler.tree),
    (rf"POST {REPOSITORY}/paths-info{REVISION}", Handler.paths),
    (rf"GET {GIT}/resolve{REVISION}/(?P<path>.+)", Handler.download),
    (rf"POST {REPOSITORY}/preupload{REVISION}", Handler.preupload),
    (rf"POST {GIT}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    (r"POST /lfs-verify", Handler.lfs_verify),
    (rf"GET {REPOSITORY}/xet-(?P<right>read|write)-token{REVISION}", Handler.xet_token),
    (rf"POST {REPOSITORY}/commit{REVISION}", Handler.commit),
]


def information(repository: Repository, commit: Commit, hub: HubDouble) -> dict[str, Any]:
    """What the Hub tells about a repository at a commit, most of it from its card."""
    known = {
        "id": repository.name,
        "author": repository.name.split("/")[0],
        "sha": commit.oid,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": commit.date,
        "siblings": [{"rfilename": path} for path in sorted(commit.files)],
    }
    card = commit.files.get("README.md")
    header = card and re.match(r"---\n(.*?\n)---", hub.path_of(card).read_text(encoding="utf-8"), re.DOTALL)
    if header:
        data = yaml.safe_load(header[1]) or {}
        taken = {key: data[key] for key in ("tags", "pipeline_tag", "library_name", "model-index") if key in data}
        known |= {"cardData": data} | taken
    return known


def entry(commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
    """A file or folder as `tree` and `paths-info` list it."""
    if path not in commit.files:
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    blob = commit.files[path]
    known: dict[str, Any] = {"type": "file", "oid": blob.git_oid, "size": blob.size, "path": path}
    if blob.large:
        known["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
    if blob.xet is not None:
        known["xetHash"] = blob.xet
    if expand:
        known["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return known


def is_true(value: str | None) -> bool:
    return value is not None and value.lower() in ("true", "1")


def byte_range(header: str, size: int) -> tuple[int, int]:
    """First byte, and the one after the last, of a header such as "bytes=0-99", "bytes=100-" or "bytes=-8"."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if match is None:
        return 0, size
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    if start >= size:
        raise RefusalError(416, f"the file has {size} bytes")
    return start, min(size, int(last) + 1) if first and last else size


def xet_hash(store: Path, sha256: str) -> str | None:
    """The hash under which the Xet store has a file, from its shards; None if it has not."""
    shards = (shard.read_bytes() for shard in store.rglob("*.mdb"))
    return next((xet for shard in shards for xet, found in shard_files(shard) if found == sha256), None)


def shard_files(shard: bytes) -> Iterator[tuple[str, str]]:
    """Xet hash and sha256 of the files in a shard (xet-core, mdb_shard: a header, then entries, of 48 bytes each).

    A file is an entry with its hash, flags and a number n, followed by n entries of segments, n of their verification
    (bit 31) and one with its sha256 (bit 30).
    """
    place = 48
    while shard[place : place + 32] != b"\xff" * 32:
        xet = hexadecimal(shard[place : place + 32])
        flags, segments = struct.unpack_from("<II", shard, place + 32)
        place += 48 * (1 + segments + (segments if flags & 1 << 31 else 0))
        if flags & 1 << 30:
            yield xet, hexadecimal(shard[place : place + 32])
            place += 48


def hexadecimal(number: bytes) -> str:
    """A hash of 32 bytes as xet-core writes it: four little-endian numbers."""
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", number))


def read_xet(store: Path, xet: str, size: int, path: Path) -> None:
    """Copy a file out of the Xet store, which one process at a time can have open."""
    import hf_xet

    options = {"endpoint": f"local://{store}", "token": "xet", "token_expiry_unix_secs": int(time.time()) + 3600}
    try:
        with hf_xet.XetSession().new_file_download_group(**options) as group:
            group.start_download_file(hf_xet.XetFileInfo(xet, size), str(path))
    except RuntimeError as error:
        raise RefusalError(423, f"the client that wrote the file by Xet keeps the store open: {error}") from error


if __name__ == "__main__":
    with HubDouble(sys.argv[1]) as served:
        print(served.endpoint, flush=True)
        served.thread.join()
