"""What each server is asked, and the pass with a real client that checks all answers."""

from __future__ import annotations

import http.client
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.serving import questions as asked

IN_FLIGHT = 96
"""Requests at a time while answers are checked: more than a batch, so that rows meet."""

HTTP_CLIENTS = 16
PATIENCE = 30.0
GRPC_PATH = "/tidegate.v1.Inference/Predict"


@dataclass(frozen=True)
class Question:
    """One request for the load, and its right answer."""

    body: bytes
    path: str
    headers: tuple[str, ...]
    http1: bool
    answer: bytes


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def grpc_question(answer: bytes) -> Question:
    """A call of tidegate.v1's Predict with the first row; `answer` is framed as well."""
    body = framed(asked.features().requests[0])
    headers = ("content-type: application/grpc", "te: trailers")  # codespell:ignore te
    return Question(body, GRPC_PATH, headers, False, answer)


def check_grpc(port: int) -> Question:
    """Call Predict with every row, many at a time, and compare all answers; returns the load's."""
    import grpc

    questions = asked.features()
    first = b""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        predict: Any = channel.unary_unary(GRPC_PATH, bytes, bytes)
        under_way: deque[tuple[int, Any]] = deque()

        def check_oldest() -> None:
            nonlocal first
            number, call = under_way.popleft()
            answer = call.result()
            questions.check(number, answer)
            if number == 0:
                first = framed(answer)

        for number, request in enumerate(questions.requests):
            under_way.append((number, predict.future(request, timeout=PATIENCE)))
            if len(under_way) == IN_FLIGHT:
                check_oldest()
        while under_way:
            check_oldest()
    return grpc_question(first)


def check_http(port: int) -> Question:
    """The same for FastAPI, over as many connections as there are clients."""
    questions = asked.plain_json()
    headers = {"content-type": "application/json"}
    bodies = [json.dumps(row.tolist()).encode() for row in asked.ROWS]

    def client(numbers: range) -> Iterator[tuple[int, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for number in numbers:
            connection.request("POST", "/predict", bodies[number], headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise RuntimeError(f"row {number} was answered with {response.status}: {answer!r}")
            yield number, answer
        connection.close()

    shares = [range(place, len(bodies), HTTP_CLIENTS) for place in range(HTTP_CLIENTS)]
    first = b""
    with ThreadPoolExecutor(HTTP_CLIENTS) as threads:
        for answers in threads.map(lambda share: list(client(share)), shares):
            for number, answer in answers:
                questions.check(number, answer)
                if number == 0:
                    first = answer
    return Question(bodies[0], "/predict", ("content-type: application/json",), True, first)
