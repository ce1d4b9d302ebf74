"""Damaged requests to the HTTP door: ``python -m tests.serving.fuzz_http --count 100000``.

Each is a valid request with something changed: its JSON, its bytes, its lengths, headers, path,
compression, or how it arrives. All must end in a status that the protocol has, and none in a 5xx
but 501 and 504. One in twenty goes over a socket to a real server.
The number of a request decides what it is: ``--only 4711`` repeats one.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import gc
import gzip
import json
import random
import socket
import zlib
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gated import PATIENCE, until
from tests.serving.http import Server, request, rows, scope_of
from tests.serving.models import offered, values_of
from tidegate.serving import Limits
from tidegate.serving.asgi import create_app
from tidegate.serving.datatypes import DATATYPES

LIMITS = Limits(max_message_bytes=2**16, max_rows=16, receive_timeout=1.0)
# 431 comes from in front of the app, and 504 where what was changed is a timeout.
STATUSES = {200, 400, 404, 405, 408, 413, 415, 431, 499, 501, 504}
# A request in so many goes over a socket.
SOCKETS = 20
_CROWD = 50  # requests in flight at once

ODD: Sequence[Any] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        2**31,
        2**63 - 1,
        2**63,
        2**64,
        10**40,
        -(10**40),
        0.5,
        1e308,
    ),
    *(float("nan"), float("inf"), "", "x", "\ud800", "\0", "input", "FP32", "BYTES", "a" * 300),
    *([], {}, [[]], [[[1], [2]], [3]], [1, "a", None], {"a": {"b": []}}, [0] * 40, [-1, 3]),
    *({"binary_data_size": 12}, {"binary_data": True}, {"timeout": 1}, {"priority": 3}),
)
LENGTH = "Inference-Header-Content-Length"
HEADERS: Mapping[str, Sequence[str]] = {
    LENGTH: ("0", "1", "-1", "007", "99999999", "1e3", "x", "", "٣"),
    "Content-Length": ("0", "1", "99999999999999999999", "x", "-5"),
    "Content-Type": ("text/html", "", "application/json; charset=utf-16", "multipart/form-data"),
    "Content-Encoding": ("gzip", "deflate", "br", "identity", "gzip, gzip", "", "\x7f"),
    "Accept-Encoding": ("gzip", "deflate", "gzip;q=0", "gzip;q=x", "*", ";;,,", "identity"),
    "Authorization": ("Bearer x", ""),
    "X-Odd": ("\xff" * 20, ""),
}
PATHS = ("", "/", "/v2", "/v2/models", "/metrics", "/openapi.json", "/v2/health/ready", "/%00", "*")


@dataclass
class Case:
    """One request, as far as it is still one."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    parts: list[bytes] = field(default_factory=list)
    hangs_up: bool = False


def valid(random_: random.Random) -> Case:
    """A request that would be answered with 200."""
    datatype = random_.choice(list(DATATYPES))
    count = random_.randint(1, 3)
    model, inputs = random_.choice(
        [
            (f"echo-{datatype}", {"input": values_of(datatype, count)}),
            ("pair", {"a": rows(count), "b": rows(count)}),
            ("ragged", {"input": rows(1, random_.randint(0, 5))}),
            ("versioned/versions/2", {"input": rows(count)}),
        ]
    )
    all_binary = datatype == "BF16" or random_.random() < 0.5
    parameters: dict[str, Any] = {"binary_data_output": all_binary}
    if random_.random() < 0.1:
        parameters |= {"timeout": 20_000_000, "priority": 1}
    more: dict[str, Any] = {"id": "7"} if random_.random() < 0.5 else {}
    if random_.random() < 0.2 and model == "pair":
        more["outputs"] = [{"name": "sum", "parameters": {"binary_data": True}}]
    binary = list(inputs) if all_binary else []
    body, headers = request(inputs, binary=binary, parameters=parameters, **more)
    return Case("POST", f"/v2/models/{model}/infer", body, headers)


# Ways to damage one


def damage_bytes(case: Case, random_: random.Random) -> None:
    """Some bytes are others."""
    body = bytearray(case.body)
    for _ in range(random_.randint(1, 8)):
        if body:
            body[random_.randrange(len(body))] = random_.randrange(256)
    case.body = bytes(body)


def damage_length(case: Case, random_: random.Random) -> None:
    """A piece is missing, or is there twice, or there is more."""
    start, end = sorted(random_.randint(0, len(case.body)) for _ in range(2))
    piece = case.body[start:end]
    case.body = random_.choice(
        [
            case.body[:start],
            case.body[:start] + case.body[end:],
            case.body + piece,
            case.body[:end] + piece + case.body[end:],
            case.body + bytes(random_.choice([1, 100, 70_000])),
        ]
    )


def damage_json(case: Case, random_: random.Random) -> None:
    """Somewhere in the JSON is another value, or none; the lengths agree."""
    stated = case.headers.get(LENGTH)
    split = int(stated) if stated and stated.isdecimal() else len(case.body)
    try:
        message = json.loads(case.body[:split])
    except ValueError:
        return
    for _ in range(random_.randint(1, 3)):
        message = _replace(message, random_)
    head = json.dumps(message).encode()
    case.body = head + case.body[split:]
    if stated is not None:
        case.headers[LENGTH] = str(len(head))


def _replace(node: Any, random_: random.Random) -> Any:
    if isinstance(node, dict) and node and random_.random() < 0.85:
        key = random_.choice(list(node))
        if random_.random() < 0.15:
            return {name: value for name, value in node.items() if name != key}
        return {**node, key: _replace(node[key], random_)}
    if isinstance(node, list) and node and random_.random() < 0.7:
        index = random_.randrange(len(node))
        if random_.random() < 0.15:
            return node[:index] + node[index:] * 2
        return [*node[:index], _replace(node[index], random_), *node[index + 1 :]]
    return random_.choice(ODD)


def damage_headers(case: Case, random_: random.Random) -> None:
    """A header says something else."""
    name = random_.choice(list(HEADERS))
    if name in case.headers and random_.random() < 0.3:
        del case.headers[name]
    elif name == LENGTH and case.headers.get(LENGTH, "").isdecimal():
        case.headers[name] = str(int(case.headers[name]) + random_.choice([-2, -1, 1, 2, 12]))
    else:
        case.headers[name] = random_.choice(HEADERS[name])


def damage_coding(case: Case, random_: random.Random) -> None:
    """Compressed, and perhaps damaged after that."""
    coding = random_.choice(["gzip", "deflate"])
    case.headers["Content-Encoding"] = coding
    case.body = gzip.compress(case.body) if coding == "gzip" else zlib.compress(case.body)
    if random_.random() < 0.6:
        random_.choice([damage_bytes, damage_length])(case, random_)


def damage_path(case: Case, random_: random.Random) -> None:
    """Another path, or another method."""
    if random_.random() < 0.3:
        case.method = random_.choice(["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "post", "BREW"])
    elif random_.random() < 0.5:
        case.path = random_.choice(PATHS)
    else:
        at = random_.randrange(len(case.path) + 1)
        case.path = case.path[:at] + chr(random_.randrange(1, 500)) + case.path[at + 1 :]


def damage_arrival(case: Case, random_: random.Random) -> None:
    """It comes in pieces, or ends early because the client is gone."""
    cuts = sorted(random_.randint(0, len(case.body)) for _ in range(random_.randint(1, 5)))
    case.parts = [
        case.body[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)
    ]
    case.hangs_up = random_.random() < 0.3


DAMAGES = (
    *(damage_bytes, damage_length, damage_json, damage_json, damage_json),
    *(damage_headers, damage_coding, damage_path, damage_arrival),
)


def damaged(seed: int, number: int) -> Case:
    """Request number `number`."""
    random_ = random.Random(f"{seed} {number}")
    case = valid(random_)
    for damage in random_.choices(DAMAGES, k=random_.choice([1, 1, 1, 2, 3])):
        damage(case, random_)
    return case


# Asking


def check(
    case: Case, number: int, status: int, headers: Mapping[bytes, bytes], body: bytes
) -> None:
    """Raises AssertionError unless the answer is one that the protocol has."""
    said = f"request {number}: {status} {body[:200]!r} to {case!r:.500}"
    assert status in STATUSES, said
    if case.method == "HEAD" or b"text/plain" in headers.get(b"content-type", b""):
        return
    if status != 200:
        assert isinstance(json.loads(body)["error"], str), said
    elif case.path.endswith("/infer") and b"content-encoding" not in headers:
        head = body[: int(headers.get(b"inference-header-content-length", len(body)))]
        assert json.loads(head)["outputs"], said


async def ask(app: Any, case: Case, number: int) -> int:
    """The status of the answer; 0 if there was nobody to answer."""
    parts = case.parts or [case.body]
    if case.hangs_up:
        parts = parts[:-1]
    messages: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": case.hangs_up or index + 1 < len(parts)}
        for index, part in enumerate(parts)
    ]
    gone = asyncio.Event()
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            await asyncio.sleep(0)
            return messages.pop(0)
        if not case.hangs_up:
            await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope_of(case.method, case.path, case.headers), receive, send)
    gone.set()
    if not sent:
        assert case.hangs_up, f"request {number} has no answer: {case!r:.500}"
        return 0
    start, *rest = sent
    assert [message["type"] for message in sent[:2]] == [
        "http.response.start",
        "http.response.body",
    ]
    body = b"".join(message.get("body", b"") for message in rest)
    check(case, number, start["status"], dict(start["headers"]), body)
    return int(start["status"])


def ask_over_socket(server: Server, case: Case, number: int) -> int:
    """The same over a socket; 0 if the server ended the connection without an answer."""
    headers = {"Content-Length": str(len(case.body)), **case.headers}
    lines = [f"{case.method} {case.path} HTTP/1.1", "Host: test", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    whole = "\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + case.body
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        answer = b""
        # A server that refuses may end the connection while it is still being spoken to.
        with contextlib.suppress(ConnectionError):
            client.sendall(whole[: len(whole) // 2] if case.hangs_up else whole)
            client.settimeout(0.01 if case.hangs_up else 0.1)
            while True:
                try:
                    part = client.recv(65536)
                except TimeoutError:  # the server waits for more, which will not come
                    client.settimeout(PATIENCE)
                    client.shutdown(socket.SHUT_WR)
                    continue
                if not part:
                    break
                answer += part
    if not answer:
        return 0
    version, status, *_ = answer.split(b" ", 2)
    assert version == b"HTTP/1.1", f"request {number}: {answer[:100]!r}"
    said = f"request {number}: {answer[:500]!r} to {case!r:.500}"
    assert int(status) in STATUSES, said
    return int(status)


def memory() -> int:
    """Resident KiB now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


async def fuzz_app(app: Any, seed: int, numbers: Sequence[int]) -> tuple[dict[int, int], int]:
    """Counts of statuses, and how many KiB the process grew by after the first fifth."""
    statuses: collections.Counter[int] = collections.Counter()
    settled = 0
    for start in range(0, len(numbers), _CROWD):
        crowd = numbers[start : start + _CROWD]
        asked = [ask(app, damaged(seed, number), number) for number in crowd]
        statuses.update(await asyncio.wait_for(asyncio.gather(*asked), PATIENCE))
        if not settled and start >= len(numbers) // 5:
            gc.collect()
            settled = memory()
    gc.collect()
    return dict(statuses), memory() - settled


def fuzz(count: int, seed: int = 0, only: int | None = None) -> dict[str, Any]:
    """Runs it; raises AssertionError at the first request that is not answered as it should be."""
    with offered() as models:
        models.remove("failing", "1")
        app = create_app(models, limits=LIMITS)
        numbers = range(count) if only is None else [only]
        in_app = [number for number in numbers if number % SOCKETS]
        statuses, growth = asyncio.run(fuzz_app(app, seed, in_app))
        over_sockets: collections.Counter[int] = collections.Counter()
        with Server(app, log_level="critical") as server:
            for number in numbers:
                if number % SOCKETS == 0:
                    case = damaged(seed, number)
                    over_sockets[ask_over_socket(server, case, number)] += 1
            until(lambda: server.tasks == server.connections == 0)
        submitted = sum(served.batcher.statistics().submitted for served in models)
        waiting = sum(served.batcher.statistics().queue_depth for served in models)
    assert waiting == 0, "requests still wait"
    return {
        "app": dict(sorted(statuses.items())),
        "sockets": dict(sorted(over_sockets.items())),
        "growth_kib": growth,
        "submitted": submitted,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one request")
    options = parser.parse_args()
    for name, value in fuzz(options.count, options.seed, options.only).items():
        print(f"{name:10} {value}")


if __name__ == "__main__":
    main()
