"""The applications of the how-to pages behind real servers on loopback, and clients for them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
import werkzeug.serving

import tidegate
from tests import test_docs
from tests.gated import PATIENCE, Gated, in_thread, until
from tidegate import Batcher

__all__ = ["SITES", "Answer", "Site", "page", "serve_asgi", "serve_wsgi", "site_of"]


@functools.cache
def page(name: str) -> dict[str, Any]:
    """The namespace of a page of docs/how-to, whose examples have run."""
    if name == "django.md":
        forget_django()
    return test_docs.run(test_docs.ROOT / "docs/how-to" / name)


def forget_django() -> None:
    """Lets a page configure Django, which can be done once per process, once more."""
    from django.conf import settings
    from django.urls import clear_url_caches
    from django.utils.functional import empty

    settings._wrapped = empty
    clear_url_caches()


class Held(Gated):
    """A page's model, each batch only once the gate is open."""

    def __init__(self, model: Callable[[Any], Any]) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self._model = model
        self.gate.set()

    def __call__(self, rows: Any) -> Any:
        """The model."""
        super().__call__(rows)
        if self.failure is not None:
            raise self.failure
        return self._model(rows)

    def shut(self) -> None:
        """Closes the gate and forgets what came before."""
        self.gate.clear()
        self.batches.clear()
        while self.entered.acquire(blocking=False):
            pass


@dataclass
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.text)


@dataclass
class Site:
    """A page's application under way.

    Attributes:
        port: On 127.0.0.1.
        path: Of its prediction.
        model: Behind its batcher.
        batcher: The one that serves.
        namespace: The page's.
        invalid: The status for a row that holds no numbers.
        stop: Ends the server; returns once it has.
    """

    port: int
    path: str
    model: Held
    batcher: Batcher
    namespace: dict[str, Any]
    invalid: int = 400
    stop: Callable[[], None] = field(default=lambda: None)

    def post(self, row: Any, path: str | None = None) -> Answer:
        """Asks for a prediction, over a connection of its own."""
        return self.ask("POST", path or self.path, json.dumps(row).encode())

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Any request, as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read().decode())

    def occupy(self) -> Any:
        """Gives the model, whose gate is shut, a request; returns the thread that waits for it."""
        waiting = in_thread(lambda: self.post([0, 0, 0]))
        self.model.await_entry()
        return waiting

    def connect_and_ask(self, path: str, row: Any) -> socket.socket:
        """Sends a request and leaves the answer to the caller, who may hang up."""
        body = json.dumps(row).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        connection.sendall(head.encode() + body)
        return connection


# Servers


@contextlib.contextmanager
def serve_asgi(app: Any) -> Iterator[tuple[int, Callable[[], None]]]:
    """Uvicorn in a thread; its port, and what ends it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True
    )

    def stop() -> None:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "uvicorn did not end"

    thread.start()
    try:
        until(lambda: server.started)
        yield listener.getsockname()[1], stop
    finally:
        stop()
        listener.close()


class _Silent(werkzeug.serving.WSGIRequestHandler):
    def log(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serve_wsgi(app: Any) -> Iterator[tuple[int, Callable[[], None]]]:
    """Werkzeug's server, a thread for each connection; its port, and what ends it."""
    server = werkzeug.serving.make_server(
        "127.0.0.1", 0, app, threaded=True, request_handler=_Silent
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not end"

    try:
        yield server.port, stop
    finally:
        stop()
        server.server_close()


# The pages' applications


@contextlib.contextmanager
def with_lifespan(name: str, application: str, path: str, invalid: int) -> Iterator[Site]:
    """A page whose batcher is made by the application's lifespan, of its model and time limit."""
    namespace = page(name)
    model, make = Held(namespace["model"]), namespace["Batcher"]
    made: list[Batcher] = []

    def hasty(model_: Any, **settings: Any) -> Batcher:
        made.append(make(model, **settings))
        return made[-1]

    namespace["Batcher"] = hasty
    try:
        with serve_asgi(namespace[application]) as (port, stop):
            yield Site(port, path, model, made[-1], namespace, invalid, stop)
            model.gate.set()
    finally:
        namespace["Batcher"] = make


@contextlib.contextmanager
def with_decorator(
    name: str, application: str, path: str, serve: Callable[[Any], Any]
) -> Iterator[Site]:
    """A page whose model is decorated with @tidegate.batch."""
    namespace = page(name)
    original = namespace["model"]
    model = Held(original.__wrapped__)
    namespace["model"] = tidegate.batch(model, inputs=original.batcher.inputs)
    batcher: Batcher = namespace["model"].batcher
    try:
        with serve(namespace[application]) as (port, stop):
            yield Site(port, path, model, batcher, namespace, 400, stop)
            model.gate.set()
    finally:
        model.gate.set()
        batcher.close(timeout=PATIENCE)
        namespace["model"] = original


SITES: dict[str, Callable[[], contextlib.AbstractContextManager[Site]]] = {
    "fastapi": lambda: with_lifespan("fastapi.md", "app", "/predict", 422),
    "starlette": lambda: with_lifespan("starlette-litestar.md", "app", "/predict", 400),
    "litestar": lambda: with_lifespan("starlette-litestar.md", "litestar_app", "/predict", 400),
    "flask": lambda: with_decorator("flask.md", "app", "/predict", serve_wsgi),
    "django-async": lambda: with_decorator("django.md", "application", "/predict", serve_asgi),
    "django-threads": lambda: with_decorator(
        "django.md", "wsgi_application", "/predict-in-a-thread", serve_wsgi
    ),
    "django-async-under-wsgi": lambda: with_decorator(
        "django.md", "wsgi_application", "/predict", serve_wsgi
    ),
    "django-threads-under-asgi": lambda: with_decorator(
        "django.md", "application", "/predict-in-a-thread", serve_asgi
    ),
}


def answer_of(answer: Answer) -> Any:
    """The row that a site answered with."""
    assert answer.status == 200, answer.text
    return answer.json["answer"] if isinstance(answer.json, dict) else answer.json


def site_of(name: str) -> contextlib.AbstractContextManager[Site]:
    """The site of that name, under way."""
    return SITES[name]()


def expected(row: Any) -> list[float]:
    """What the model of the pages answers."""
    weights = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    values: list[float] = (np.asarray(row, np.float32) @ weights).tolist()
    return values
