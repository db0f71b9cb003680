"""Shards of short clips, and a web server that fails when it is told to."""

import io
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

RATE = 16_000


class Handler(BaseHTTPRequestHandler):
    """Files of a folder with HEAD, ranges and the faults of its server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are sent apart; each answer would else take 40 ms
    server: "FaultyServer"

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        fault = self.server.next_fault(self.command, name)
        file = self.server.folder / name
        if not file.is_file():
            fault = answer(404)
        body = file.read_bytes() if file.is_file() else b""
        size, first, last = len(body), 0, len(body) - 1
        if "Range" in self.headers:
            begin, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        self.status = 206 if "Range" in self.headers else 200
        self.fields = {"Content-Range": f"bytes {first}-{last}/{size}", "Accept-Ranges": "bytes"}
        self.length = last + 1 - first
        self.body = b"" if self.command == "HEAD" else body[first : last + 1]
        self.server.requests.append(Request(time.monotonic(), self.command, name, first, fault is not None))
        try:
            (fault or Handler.send)(self)
        except OSError:  # the client has had enough
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815

    def send_head(self, length: int) -> None:
        self.send_response(self.status)
        for name, value in self.fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self) -> None:
        self.send_head(self.length)
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


Fault = Callable[[Handler], None]


def answer(status: int, retry_after: str | None = None) -> Fault:
    """Another status and an empty body."""

    def fault(handler: Handler) -> None:
        handler.status, handler.length, handler.body = status, 0, b""
        handler.fields = {} if retry_after is None else {"Retry-After": retry_after}
        handler.send()

    return fault


def no_answer(handler: Handler) -> None:
    """Nothing at all, until the server is closed."""
    handler.server.closing.wait()
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """The connection is reset instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def cut(handler: Handler) -> None:
    """The connection ends after half of the body that was promised."""
    handler.send_head(handler.length)
    handler.wfile.write(handler.body[: len(handler.body) // 2])
    handler.close_connection = True


def cut_quietly(handler: Handler) -> None:
    """Half of the body with a Content-Length that says so: nothing on the way looks wrong."""
    handler.length //= 2
    handler.body = handler.body[: handler.length]
    handler.send()


def stall(handler: Handler) -> None:
    """Half of the body, then nothing on an open connection."""
    handler.send_head(handler.length)
    handler.wfile.write(handler.body[: len(handler.body) // 2])
    handler.server.closing.wait()
    handler.close_connection = True


def slow(handler: Handler) -> None:
    """The body in eight pieces, 5 ms apart."""
    handler.send_head(handler.length)
    size = math.ceil(handler.length / 8)
    for start in range(0, len(handler.body), size):
        handler.wfile.write(handler.body[start : start + size])
        time.sleep(0.005)


@dataclass(frozen=True)
class Request:
    time: float
    command: str
    name: str
    first: int  # byte of the range
    failed: bool


@dataclass
class _Planned:
    fault: Fault
    name: str
    command: str
    skip: int
    times: float


@dataclass
class FaultyServer(ThreadingHTTPServer):
    """Serves `folder` on a free port of this machine and keeps a list of all requests."""

    folder: Path
    requests: list[Request] = field(default_factory=list)
    planned: list[_Planned] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    daemon_threads = True

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def plan(self, fault: Fault, *, times: float = 1, name: str = "", command: str = "GET", skip: int = 0) -> None:
        """Fail the next requests for files whose name begins so, after `skip` of them."""
        self.planned.append(_Planned(fault, name, command, skip, times))

    def next_fault(self, command: str, name: str) -> Fault | None:
        with self.lock:
            for planned in self.planned:
                if planned.times and name.startswith(planned.name) and command in planned.command:
                    if planned.skip:
                        planned.skip -= 1
                    else:
                        planned.times -= 1
                        return planned.fault
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture(scope="session")
def faults() -> dict[str, Callable]:
    """What a server may do instead of answering; `answer(status, retry_after)` makes one."""
    return {
        "answer": answer,
        "busy": answer(429, "0"),
        "overloaded": answer(504, "0"),
        "broken": answer(500),
        "reset": reset,
        "cut": cut,
        "cut_quietly": cut_quietly,
        "slow": slow,
        "no_answer": no_answer,
        "stall": stall,
    }


@pytest.fixture
def server(clips: Path) -> Iterator[FaultyServer]:
    """A server of the folder `clips`."""
    server = FaultyServer(clips)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


def clip(number: int) -> bytes:
    """A second or less of noise; an even number gives flac, an odd one ogg."""
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    samples = rng.normal(0, 0.1, rng.integers(RATE // 20, RATE // 5))
    soundfile.write(file, samples, RATE, format="OGG" if number % 2 else "FLAC")
    return file.getvalue()


def clip_rows(numbers: range) -> list[dict]:
    return [{"audio": {"bytes": clip(n), "path": f"{n}.{'ogg' if n % 2 else 'flac'}"}, "id": n} for n in numbers]


# Rows of the parquet files, in row groups of eight.
PARQUET_ROWS = (range(20), range(20, 25), range(25, 60))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three uneven parquet files, 0.parquet to 2.parquet, with 60 rows whose `id` counts them."""
    folder = tmp_path_factory.mktemp("clips")
    features = datasets.Features({"audio": datasets.Audio(), "id": datasets.Value("int64")})
    for number, rows in enumerate(PARQUET_ROWS):
        table = pa.Table.from_pylist(clip_rows(rows), features.arrow_schema)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=8)
    return folder
