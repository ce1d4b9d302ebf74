"""Asking an ASGI app without a server, and serving one in a thread for clients with sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn

from tests.gated import PATIENCE, until
from tidegate.serving.datatypes import datatype_of, to_raw, to_values

App = Any


@dataclass
class Answer:
    """What an app answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, or the part of it that is JSON."""
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body[: int(length)] if length else self.body)

    @property
    def error(self) -> str:
        """The message of a failure."""
        message = self.json
        assert isinstance(message["error"], str)
        return str(message["error"])


async def ask_async(
    app: App,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Asks an app; a body of several parts comes part by part."""
    parts = [body] if isinstance(body, bytes) else list(body)
    messages = [
        {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)}
        for index, part in enumerate(parts)
    ]
    answered = asyncio.Event()
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop(0)
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    await asyncio.wait_for(app(scope_of(method, path, headers or {}), receive, send), PATIENCE)
    decoded = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    whole = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(sent[0]["status"], decoded, whole)


def scope_of(method: str, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """A request's scope, as ASGI has it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (name.lower().encode(), str(value).encode()) for name, value in headers.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


def ask(app: App, method: str, path: str, *body: Any, **headers: Any) -> Answer:
    """ask_async() in an event loop of its own."""
    return asyncio.run(ask_async(app, method, path, *body, **headers))


def tensor(name: str, array: Any, *, binary: bool = False) -> dict[str, Any]:
    """An array as an input of a request; binary, without its bytes."""
    data = {"parameters": {"binary_data_size": len(to_raw(array))}} if binary else {}
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": "BYTES" if array.dtype.kind == "O" else datatype_of(array.dtype),
        **(data or {"data": to_values(array)}),
    }


def request(
    inputs: Mapping[str, Any], *, binary: Iterable[str] = (), **more: Any
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request; the inputs named in `binary` go as binary data."""
    apart = set(binary)
    entries = [tensor(name, array, binary=name in apart) for name, array in inputs.items()]
    head = json.dumps({"inputs": entries, **more}).encode()
    tail = b"".join(to_raw(array) for name, array in inputs.items() if name in apart)
    headers = {"Content-Type": "application/json"}
    if apart:
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
    return head + tail, headers


def infer(app: App, model: str, inputs: Mapping[str, Any], **more: Any) -> Answer:
    """Asks a model, or one version of it: ``"name/versions/2"``."""
    body, headers = request(inputs, **more)
    return ask(app, "POST", f"/v2/models/{model}/infer", body, headers)


def rows(count: int = 1, width: int = 3) -> Any:
    """Rows of FP32, counting up."""
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


class Server:
    """An app behind uvicorn, in a thread and at a port of its own.

    Attributes:
        port: Where it listens, on loopback.
        config: Of uvicorn.
    """

    def __init__(self, app: App, **settings: Any) -> None:
        # The protocol is named, so that asyncio knows it for TCP and answers are not held back.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        self.port: int = listening.getsockname()[1]
        self.url = f"127.0.0.1:{self.port}"
        settings = {"log_level": "warning", "lifespan": "off", "ws": "none", **settings}
        self.config = uvicorn.Config(app, http="httptools", loop="asyncio", **settings)
        self.server = uvicorn.Server(self.config)
        self._listening = listening
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with self._listening:
            asyncio.run(self.server.serve(sockets=[self._listening]))

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self.server.server_state.connections)

    @property
    def tasks(self) -> int:
        """Requests in flight."""
        return len(self.server.server_state.tasks)

    def __enter__(self) -> Server:
        """Started."""
        self._thread.start()
        until(lambda: self.server.started)
        return self

    def __exit__(self, *error: object) -> None:
        """Ended; whoever is connected still is disconnected."""
        self.server.should_exit = True
        self.server.force_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not end"


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    """A client's socket."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        yield client


def raw_request(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A POST as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_answer(client: socket.socket) -> Answer:
    """The next answer that comes over a socket."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(65536)
        assert part, f"the connection ended after {data!r}"
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)
    }
    while len(body) < int(headers["content-length"]):
        part = client.recv(65536)
        assert part, "the connection ended within a body"
        body += part
    return Answer(int(line.split(" ")[1]), headers, body)
