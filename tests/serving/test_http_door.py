"""The HTTP door: slow clients and too much of anything, with either parser; and how it closes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import sys
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE
from tests.serving.callers import body_of
from tests.serving.opened import INFER, http_status, opened, while_open
from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served
from tidegate.serving.connections import MOST_HEADERS

HEADERS = f"POST {INFER} HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(autouse=True, params=["httptools", "h11"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of uvicorn's parsers there is."""
    if request.param == "h11":
        monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
    name: str = request.param
    return name


def exchange(address: str, sent: bytes, later: bytes = b"") -> bytes:
    """All that comes back on a connection that is left open, until the server closes it.

    Args:
        address: HOST:PORT.
        sent: What is sent at once.
        later: What is sent after the first answer.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        received = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(sent)
            if later:
                received += connection.recv(65536)
                connection.sendall(later)
            while part := connection.recv(65536):
                received += part
    return received


@pytest.mark.parametrize(
    ("sent", "later"),
    [
        ("", ""),
        (HEADERS, ""),
        (HEADERS + "content-length: 100\r\n\r\nhalf", ""),
        ("GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n", HEADERS),
    ],
    ids=["nothing", "half its headers", "half a body", "half a second request"],
)
def test_a_client_that_sends_too_slowly_is_not_waited_for(
    echo: Models, sent: str, later: str
) -> None:
    def ask(web: str) -> bytes:
        return exchange(web, sent.encode(), later.encode())

    received = while_open(echo, ask, http="0", receive_timeout=0.2)
    assert (b"200 OK" in received) == bool(later)


def test_an_idle_connection_is_closed_in_the_end(echo: Models) -> None:
    def ask(web: str) -> bytes:
        return exchange(web, b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")

    assert b"200 OK" in while_open(echo, ask, http="0", keep_alive=0.1)


def test_a_client_that_does_not_take_its_answer_is_not_waited_for() -> None:
    def large(rows: Any) -> Any:  # more than the kernel's buffers hold
        return np.zeros((len(rows), 2**22), np.float32)

    message = json.loads(body_of(1))
    message["parameters"] = {"binary_data_output": True}
    body = json.dumps(message).encode()

    def ask(web: str) -> None:
        host, _, port = web.rpartition(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(f"{HEADERS}content-length: {len(body)}\r\n\r\n".encode() + body)
            poll = select.poll()
            poll.register(connection, 0)  # errors only: it never reads
            assert poll.poll(PATIENCE * 1000), "the server still waits"

    with Batcher(large, inputs=TensorSpec((3,), "float32", name="x")) as batcher:
        while_open(Models(Served("echo", batcher)), ask, http="0", receive_timeout=0.3)


@pytest.mark.parametrize(
    "sent",
    [
        HEADERS + "a: " + "b" * 2 * MOST_HEADERS,
        HEADERS + "a: b\r\n" * MOST_HEADERS,
        f"POST /{'x' * 2 * MOST_HEADERS}",
        HEADERS + "transfer-encoding: chunked\r\n\r\n1;" + "e" * 20 * MOST_HEADERS,
        HEADERS + "transfer-encoding: chunked\r\n\r\n0\r\n" + "a: b\r\n" * 4 * MOST_HEADERS,
    ],
    ids=["one header", "many headers", "a path", "an extension of a chunk", "trailers"],
)
def test_what_comes_besides_a_body_is_bounded(echo: Models, sent: str) -> None:
    def ask(web: str) -> bytes:
        return exchange(web, sent.encode())

    received = while_open(echo, ask, http="0")
    assert received == b"" or received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


def test_a_body_in_many_chunks_is_no_long_header(echo: Models) -> None:
    body = body_of(7)
    padded = body + b" " * 2 * MOST_HEADERS
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in padded) + b"0\r\n\r\n"

    def ask(web: str) -> bytes:
        head = HEADERS + "connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        return exchange(web, head.encode() + chunks)

    assert while_open(echo, ask, http="0").startswith(b"HTTP/1.1 200")


def test_connections_beyond_the_limit_are_told_so(echo: Models) -> None:
    def ask(web: str) -> int:
        host, _, port = web.rpartition(":")
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
            return http_status(web)

    assert while_open(echo, ask, http="0", max_connections=3) == 503


# The end


def test_who_has_connected_before_the_end_is_answered(echo: Models) -> None:
    body = body_of(5)
    request = f"{HEADERS}content-length: {len(body)}\r\n\r\n".encode() + body

    async def close_upon_arrival() -> list[socket.socket]:
        async with opened(echo, http="0") as doors:
            door = next(iter(doors))
            host, _, port = door.url.partition("://")[2].rpartition(":")
            # The kernel has taken these; the door has not had a chance to.
            waiting = [
                socket.create_connection((host, int(port)), timeout=PATIENCE) for _ in range(20)
            ]
            for each in waiting:
                each.sendall(request)
            door.announce_end()
            await door.close()
            return waiting

    for each in asyncio.run(close_upon_arrival()):
        with each:
            received = b""
            while part := each.recv(65536):
                received += part
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nconnection: close\r\n" in received.lower()


def test_answers_ask_for_a_new_connection_once_the_end_is_announced(echo: Models) -> None:
    async def announce() -> list[bytes]:
        answers = []
        async with opened(echo, http="0") as doors:
            door = next(iter(doors))
            host, _, port = door.url.partition("://")[2].rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            for _ in range(2):
                writer.write(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                answers.append(await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE))
                door.announce_end()
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            writer.close()
            assert await asyncio.to_thread(http_status, f"{host}:{port}") == 200, "still taken"
        return answers

    before, after = asyncio.run(announce())
    assert b"connection: close" not in before
    assert b"connection: close" in after
