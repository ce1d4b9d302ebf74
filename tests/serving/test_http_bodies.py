"""Bodies over HTTP: sizes, compression, clients that are slow; and compressed answers."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from typing import Any

import pytest

from tests.gated import PATIENCE
from tests.serving.http import (
    App,
    Server,
    ask,
    connected,
    raw_request,
    read_answer,
    request,
    rows,
    scope_of,
)
from tidegate.serving import Limits, Models
from tidegate.serving.asgi import create_app

ECHO = "/v2/models/wide/infer"
LIMIT = 100_000


@pytest.fixture(scope="module")
def app(models: Models) -> App:
    """The app under test, which takes bodies of LIMIT bytes."""
    return create_app(models, limits=Limits(max_message_bytes=LIMIT, max_rows=8))


def good(count: int = 1, **more: Any) -> tuple[bytes, dict[str, str]]:
    return request({"input": rows(count, 64)}, binary=["input"], **more)


# Sizes


def test_a_body_may_come_in_parts(app: App) -> None:
    body, headers = good()
    parts = [body[start : start + 7] for start in range(0, len(body), 7)]
    assert ask(app, "POST", ECHO, [*parts, b""], headers).status == 200


def test_a_body_of_the_largest_size_is_read_and_one_more_byte_is_not(app: App) -> None:
    body, headers = request({"input": rows(1, 64)})
    assert ask(app, "POST", ECHO, body.ljust(LIMIT), headers).status == 200
    answer = ask(app, "POST", ECHO, body.ljust(LIMIT + 1), headers)
    assert answer.status == 413
    assert answer.error == f"a message has at most {LIMIT} bytes, got {LIMIT + 1} or more"


def test_a_stated_length_that_is_too_large_is_refused_before_anything_is_read(app: App) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("it was read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = scope_of("POST", ECHO, {"Content-Length": str(10**17)})
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413


def test_an_endless_body_is_refused_once_it_is_too_large(app: App) -> None:
    received = 0
    sent: list[Any] = []

    async def receive() -> Any:
        nonlocal received
        received += 1000
        return {"type": "http.request", "body": bytes(1000), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope_of("POST", ECHO, {}), receive, send))
    assert sent[0]["status"] == 413
    assert received <= LIMIT + 1000


def test_too_many_rows_are_refused_before_an_array_is_made(app: App) -> None:
    body, headers = good(9)
    answer = ask(app, "POST", ECHO, body, headers)
    assert (answer.status, answer.error) == (413, "a request has at most 8 rows, got 9")


def test_a_client_that_sends_too_much_over_a_socket_is_told(app: App) -> None:
    with Server(app) as server, connected(server) as client:
        client.sendall(raw_request(ECHO, bytes(LIMIT + 1), {}))
        assert read_answer(client).status == 413


# Compression


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress),
        ("GZIP ", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_bodies_may_be_compressed(app: App, coding: str, packed: Any) -> None:
    body, headers = good()
    squeezed = packed(body)
    parts = [squeezed[:10], squeezed[10:11], b"", squeezed[11:]]
    for sent in (squeezed, parts):
        assert ask(app, "POST", ECHO, sent, headers | {"Content-Encoding": coding}).status == 200


def test_an_unknown_coding_is_415_and_says_which_are_known(app: App) -> None:
    body, headers = good()
    for coding in ("br", "gzip, deflate", "\xff"):
        answer = ask(app, "POST", ECHO, body, headers | {"Content-Encoding": coding})
        assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip, deflate")


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no gzip at all",
        gzip.compress(b"{}")[:-1],
        gzip.compress(b"{}") + b"!",
        gzip.compress(b"{}") * 2,
        gzip.compress(b"{}")[:-8] + bytes(8),
        zlib.compress(b"{}"),
    ],
)
def test_a_damaged_body_is_400(app: App, damaged: bytes) -> None:
    answer = ask(app, "POST", ECHO, damaged, {"Content-Encoding": "gzip"})
    assert answer.status == 400
    assert "is not compressed with gzip" in answer.error


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_bomb_is_refused_before_it_expands(app: App, pack: Any) -> None:
    bomb = pack(bytes(50 * 2**20))
    coding = "gzip" if pack is gzip.compress else "deflate"
    assert len(bomb) < LIMIT
    ask(app, "POST", ECHO, b"{}")  # what is imported only then is not to be counted
    tracemalloc.start()
    try:
        answer = ask(app, "POST", ECHO, bomb, {"Content-Encoding": coding})
        assert answer.status == 413
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


def test_the_loop_goes_on_while_a_large_body_expands(models: Models) -> None:
    app = create_app(models, limits=Limits(max_message_bytes=2**24))
    turns = 0

    async def main() -> None:
        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        body = gzip.compress(bytes(2**24))
        messages = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            return messages.pop()

        async def send(message: Any) -> None:
            pass

        await app(scope_of("POST", ECHO, {"Content-Encoding": "gzip"}), receive, send)
        counting.cancel()

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert turns >= 15


@pytest.mark.parametrize(
    ("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)]
)
@pytest.mark.parametrize("count", [1, 8])
def test_answers_are_compressed_in_the_one_way_that_is_asked_for(
    app: App, coding: str, unpack: Any, count: int
) -> None:
    body, headers = good(count, parameters={"binary_data_output": True})
    plain = ask(app, "POST", ECHO, body, headers)
    answer = ask(app, "POST", ECHO, body, headers | {"Accept-Encoding": coding})
    assert answer.headers["content-encoding"] == coding
    assert answer.headers["vary"] == "accept-encoding"
    assert unpack(answer.body) == plain.body
    length = "inference-header-content-length"
    assert answer.headers[length] == plain.headers[length]


def test_a_large_answer_is_compressed_like_a_small_one(models: Models) -> None:
    app = create_app(models)
    body, headers = good(400, parameters={"binary_data_output": True})
    answer = ask(app, "POST", ECHO, body, headers | {"Accept-Encoding": "gzip"})
    assert gzip.decompress(answer.body).endswith(rows(400, 64).tobytes())


@pytest.mark.parametrize(
    "accept",
    ["", "identity", "gzip, deflate", "br", "gzip;q=0", "*", "gzip;q=x", "deflate, gzip, br"],
)
def test_answers_are_plain_unless_one_coding_is_asked_for(app: App, accept: str) -> None:
    body, headers = good()
    answer = ask(app, "POST", ECHO, body, headers | {"Accept-Encoding": accept})
    assert answer.status == 200
    assert "content-encoding" not in answer.headers


# Content types


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/octet-stream", 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/html", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
def test_a_content_type_says_what_a_body_is(app: App, kind: str, status: int) -> None:
    body, headers = good()
    assert ask(app, "POST", ECHO, body, headers | {"Content-Type": kind}).status == status


# Slow clients


def test_a_body_that_trickles_is_408_and_the_connection_ends(models: Models) -> None:
    app = create_app(models, limits=Limits(receive_timeout=0.2))
    body, headers = good()
    with Server(app) as server, connected(server) as slow, connected(server) as quick:
        slow.sendall(raw_request(ECHO, body, headers)[:-10])
        quick.sendall(raw_request(ECHO, body, headers))
        assert read_answer(quick).status == 200
        answer = b""
        while part := slow.recv(10_000):  # until it is closed
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the request's body did not come within 0.2 s" in answer


def test_without_a_time_limit_a_client_may_take_its_time(models: Models) -> None:
    app = create_app(models, limits=Limits(receive_timeout=None))
    body, headers = good()
    whole = raw_request(ECHO, body, headers)
    with Server(app) as server, connected(server) as client:
        client.sendall(whole[:-10])
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(PATIENCE)
        client.sendall(whole[-10:])
        assert read_answer(client).status == 200


def test_a_slow_body_does_not_cancel_who_called_the_app(models: Models) -> None:
    app = create_app(models, limits=Limits(receive_timeout=0.01))
    sent: list[Any] = []

    async def receive() -> Any:
        return await asyncio.sleep(PATIENCE)

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> str:
        await app(scope_of("POST", ECHO, {}), receive, send)
        await asyncio.sleep(0)
        return "went on"

    assert asyncio.run(main()) == "went on"
    assert sent[0]["status"] == 408
