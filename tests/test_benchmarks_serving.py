"""The comparison of web services runs, and its load notices wrong, missing and failed answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from benchmarks import harness
from benchmarks.harness import Metrics, Outcome, Spread
from benchmarks.models import WrongAnswerError, perceptron
from benchmarks.serving import __main__ as command
from benchmarks.serving import http1, http2, load, page, questions, tables, variants
from benchmarks.serving.grpc_service import METHOD, SERVICE
from benchmarks.serving.process import Server
from tests.gated import PATIENCE, until

ROOT = Path(__file__).parents[1]
MODEL = perceptron()
BRIEF = 0.02

Respond = Callable[[bytes], bytes]
Handle = Callable[[bytes, Any], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def http_server(respond: Respond) -> AsyncIterator[int]:
    """A server that answers each request's body with what `respond` says, head and all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.suppress(asyncio.IncompleteReadError, ConnectionError),
            contextlib.closing(writer),
        ):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.rpartition(b"content-length: ")[2])
                answer = respond(await reader.readexactly(length))
                if not answer:
                    return
                writer.write(answer[:20])
                await asyncio.sleep(0)  # an answer may come in pieces
                writer.write(answer[20:])

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def grpc_server(handle: Handle) -> AsyncIterator[int]:
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def response(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def predict(body: bytes) -> bytes:
    """The right answer, as HTTP."""
    outputs = MODEL(np.array([json.loads(body)], np.float32))[0]
    return response(json.dumps(outputs.tolist()).encode())


async def predict_bytes(request: bytes, context: Any) -> bytes:
    """The right answer, as gRPC."""
    outputs: bytes = MODEL(np.frombuffer(request, np.float32)[None])[0].tobytes()
    return outputs


def ask_http(respond: Respond, in_flight: int = 3) -> Metrics:
    return ask(http_server(respond), http1.connections, questions.plain_json(), in_flight)


def ask_grpc(handle: Handle, in_flight: int = 7) -> Metrics:
    return ask(grpc_server(handle), http2.connections, questions.plain_bytes(), in_flight)


def ask(
    serving: contextlib.AbstractAsyncContextManager[int],
    connect: load.Connect,
    asked: questions.Questions,
    in_flight: int,
) -> Metrics:
    """Put a load on a server in this process."""

    async def main() -> Metrics:
        async with serving as port:
            client = load.Client(Server(os.getpid(), port), connect, asked, in_flight)
            try:
                await client.open()
                for _ in range(2):
                    await client.turn(BRIEF, BRIEF)
                return client.metrics()
            finally:
                client.close()

    return asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_the_load_counts_answers_over_http() -> None:
    reached = ask_http(predict)
    assert reached["throughput"] > 0
    assert 0 < reached["p50"] <= reached["p99"]
    assert reached["memory"] > 1e6
    assert reached["cpu_us"] > 0


@pytest.mark.parametrize("in_flight", [1, 7, 300])
def test_the_load_counts_answers_over_grpc(in_flight: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_flight == 300:  # more bytes than a server takes at once
        monkeypatch.setattr(http2, "CONNECTIONS", 1)
    reached = ask_grpc(predict_bytes, in_flight)
    assert reached["throughput"] > 0
    assert 0 < reached["p50"] <= reached["p99"]


def test_the_load_notices_the_answer_to_another_row() -> None:
    first = questions.plain_json().requests[0].partition(b"\r\n\r\n")[2]
    with pytest.raises(WrongAnswerError, match=r"row [12] "):
        ask_http(lambda body: predict(first))

    async def answer_first(request: bytes, context: Any) -> bytes:
        return await predict_bytes(questions.ROWS[0].tobytes(), context)

    with pytest.raises(WrongAnswerError, match=r"row [1-6] "):
        ask_grpc(answer_first)


def test_an_answer_that_was_right_once_is_not_right_for_another_row() -> None:
    asked = questions.plain_bytes()
    answers = [answer.tobytes() for answer in MODEL(questions.ROWS[:2])]
    for _ in range(2):
        for number, answer in enumerate(answers):
            asked.check(number, answer)
    with pytest.raises(WrongAnswerError, match="row 0"):
        asked.check(0, answers[1])
    with pytest.raises(WrongAnswerError, match="row 1"):
        asked.check(1, answers[1][:-1])


def test_the_load_notices_an_error_status() -> None:
    with pytest.raises(RuntimeError, match="503"):
        ask_http(lambda body: response(b"[]", "503 Service Unavailable"))

    async def fail(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        raise AssertionError

    with pytest.raises(RuntimeError, match=r"UNAVAILABLE|not now"):
        ask_grpc(fail)


def test_the_load_notices_a_lost_connection() -> None:
    with pytest.raises(ConnectionError):
        ask_http(lambda body: b"")


def test_the_load_notices_a_request_that_is_never_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "PATIENCE", 0.1)
    left = iter(range(5))

    def stop_answering(body: bytes) -> bytes:
        answer = predict(body)
        return answer if next(left, None) is not None else answer[:30]

    with pytest.raises(RuntimeError, match="3 requests were never answered"):
        ask_http(stop_answering)


def verdict(*ratios: float, at_least: bool) -> harness.Verdict:
    return harness.Verdict("test", 1.0, at_least, "x", Spread.of(ratios), every_round=True)


def test_worse_is_what_every_round_says() -> None:
    assert tables.word(verdict(0.9, 0.99, 0.8, at_least=True), 7) == "WORSE"
    assert tables.word(verdict(1.1, 1.01, 1.2, at_least=False), 7) == "WORSE"
    assert tables.word(verdict(0.9, 0.95, 1.01, at_least=True), 7) == "level"
    assert tables.word(verdict(1.1, 1.05, 0.99, at_least=False), 7) == "level"
    assert tables.word(verdict(1.1, 1.05, 1.01, at_least=True), 7) == "better"
    assert tables.word(verdict(0.9, 0.95, 0.99, at_least=False), 7) == "better"
    assert tables.word(verdict(0.9, 0.99, 0.8, at_least=True), 4) == ""


def test_what_is_worse_is_listed_by_pair() -> None:
    slower = Spread(0.9, 0.8, 0.95)
    pair = variants.COMPARISONS["grpc"].pairs[1]
    outcome = Outcome(
        name="grpc",
        question="?",
        rounds=7,
        metrics={},
        verdicts=[
            harness.Verdict(each.label, 1.0, each.at_least, "x", slower, each.every_round)
            if each.label == variants.label(pair, "throughput_64")
            else harness.Verdict(each.label, 1.0, each.at_least, "x", Spread(1.0, 0.9, 1.1), True)
            for each in variants.targets(variants.COMPARISONS["grpc"].pairs)
        ],
        skipped=[],
        failed={},
        others=0.0,
    )
    assert tables.worse(outcome) == {"grpc.aio + tidegate / grpc.aio alone": ["requests/s at 64"]}
    assert "- grpc.aio + tidegate / grpc.aio alone: requests/s at 64" in tables.summary(outcome)


def runs(pid: int) -> bool:
    """False once a process has ended, whether or not anybody has asked how."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_ends_with_whoever_started_it() -> None:
    program = (
        "import os\nfrom benchmarks.serving.process import serving\n"
        "with serving('grpc', 'alone', core=None, uvloop=False) as server:\n"
        "    print(server.pid, flush=True)\n    os._exit(0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    until(lambda: not runs(int(ended.stdout)))


def test_the_page_shows_what_was_published() -> None:
    written = (ROOT / "docs/benchmarks/serving.md").read_text()
    assert written == page.render(page.published()), "run python -m benchmarks.serving.page"


def test_an_unknown_door_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(["--only", "htp"])
    assert "htp" in capsys.readouterr().err


def test_a_quick_comparison_runs_and_writes_its_results(tmp_path: Path) -> None:
    arguments = ["--quick", "--out", str(tmp_path)]
    arguments += ["--variants", "own thread by hand,+ tidegate,(binary),(ModelInfer)"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "too few to tell" in ended.stdout
    record = json.loads((tmp_path / "serving.json").read_text())
    assert record["machine"]["packages"]["grpcio"]
    for entry in record["scenarios"]:
        outcome = Outcome.from_json(entry)
        assert not outcome.failed
        assert not outcome.skipped
        compared = {each.label.partition(": ")[2] for each in outcome.verdicts if each.spread}
        service = {"http": "FastAPI", "grpc": "grpc.aio"}[outcome.name]
        assert f"{service} + tidegate / {service} + own thread by hand" in compared
        assert len(outcome.metrics) == {"http": 6, "grpc": 4}[outcome.name]
        assert (tmp_path / f"serving-{outcome.name}.svg").exists()
    shown = page.render(record)
    assert "FastAPI + tidegate / FastAPI + own thread by hand" in shown
    assert "grpc.aio + tidegate inline" in shown
