"""Triton's clients, unchanged, against a server that the command line has started."""

from __future__ import annotations

import asyncio
import importlib
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.gated import PATIENCE, until
from tests.serving.offered import DTYPES, MOST_WAITING, entered_file
from tests.serving.running import Running

KINDS = ["grpc", "http", "grpc.aio", "http.aio"]
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Client:
    """One of Triton's clients, asked in the same way whichever it is."""

    def __init__(self, kind: str, server: Running, **settings: Any) -> None:
        self.kind = kind
        self.http = kind.startswith("http")
        self.module = importlib.import_module(f"tritonclient.{kind}")
        self._loop = asyncio.new_event_loop() if kind.endswith("aio") else None
        url = server.host_of("http" if self.http else "grpc")
        self._client = self._wait(self._make(url, settings))

    def _make(self, url: str, settings: dict[str, Any]) -> Any:
        if self._loop is None:
            return self.module.InferenceServerClient(url, **settings)

        async def make() -> Any:  # these want a running loop
            return self.module.InferenceServerClient(url, **settings)

        return make()

    def _wait(self, answer: Any) -> Any:
        if self._loop is not None and asyncio.iscoroutine(answer):
            return self._loop.run_until_complete(asyncio.wait_for(answer, PATIENCE))
        return answer

    def __getattr__(self, method: str) -> Any:
        """The client's own method, waited for."""
        return lambda *args, **kwargs: self._wait(getattr(self._client, method)(*args, **kwargs))

    def close(self) -> None:
        """Closes the client and its loop."""
        self._wait(self._client.close())
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def input(self, name: str, datatype: str, array: Any, **how: Any) -> Any:
        """An input with its data."""
        tensor = self.module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **how)
        return tensor

    def ask(self, model: str, array: Any = ROWS, **settings: Any) -> Any:
        """Rows to one of the models with the input `x`."""
        return self.infer(model, [self.input("x", "FP32", array)], **settings)


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, served_models: Running) -> Iterator[Client]:
    made = Client(request.param, served_models)
    yield made
    made.close()


def fields_of(message: Any) -> dict[str, Any]:
    """Metadata as a mapping, whichever client it came from."""
    if isinstance(message, dict):
        return message
    return {
        "name": message.name,
        "versions": list(message.versions),
        "inputs": [tensor_of(each) for each in message.inputs],
        "outputs": [tensor_of(each) for each in message.outputs],
    }


def tensor_of(message: Any) -> dict[str, Any]:
    return {"name": message.name, "datatype": message.datatype, "shape": list(message.shape)}


# What the server says of itself


def test_the_server_is_live_and_ready(client: Client) -> None:
    assert client.is_server_live() is True
    assert client.is_server_ready() is True


def test_a_model_is_ready_and_what_does_not_exist_is_not(client: Client) -> None:
    assert client.is_model_ready("double") is True
    assert client.is_model_ready("scaled", "2") is True
    assert client.is_model_ready("nobody") is False
    assert client.is_model_ready("scaled", "3") is False


def test_the_server_tells_its_name_and_version(client: Client) -> None:
    metadata = client.get_server_metadata()
    name = metadata["name"] if client.http else metadata.name
    assert name == "tidegate"


def test_a_model_tells_inputs_outputs_and_versions(client: Client) -> None:
    metadata = fields_of(client.get_model_metadata("pair"))
    assert metadata["name"] == "pair"
    assert metadata["inputs"] == [
        {"name": "a", "datatype": "INT32", "shape": [-1, 2]},
        {"name": "b", "datatype": "FP64", "shape": [-1]},
    ]
    assert metadata["outputs"] == [
        {"name": "sum", "datatype": "FP64", "shape": [-1]},
        {"name": "shape", "datatype": "INT64", "shape": [-1, 2]},
    ]
    assert fields_of(client.get_model_metadata("scaled"))["versions"] == ["1", "2"]


# Inference


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_answers_equal_the_models(client: Client, rows: int) -> None:
    array = np.random.default_rng(rows).random((rows, 3), dtype=np.float32)
    answer = client.ask("double", array, request_id="mine")
    assert np.array_equal(answer.as_numpy("doubled"), array * 2)
    response = answer.get_response()
    if client.http:
        assert (response["id"], response["model_name"]) == ("mine", "double")
    else:
        assert (response.id, response.model_name) == ("mine", "double")


@pytest.mark.parametrize(("version", "factor"), [("", 10), ("1", 1), ("2", 10)])
def test_a_version_can_be_asked_for(client: Client, version: str, factor: int) -> None:
    answer = client.ask("scaled", model_version=version)
    assert np.array_equal(answer.as_numpy("doubled"), ROWS * factor)


@pytest.mark.parametrize("kind", ["http", "http.aio"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_json_and_binary_data_may_be_mixed_in_http(
    served_models: Running, kind: str, binary_in: bool, binary_out: bool
) -> None:
    client = Client(kind, served_models)
    try:
        inputs = [
            client.input("a", "INT32", np.array([[1, 2], [3, 4]], np.int32), binary_data=binary_in),
            client.input("b", "FP64", np.array([0.5, 0.25]), binary_data=not binary_in),
        ]
        outputs = [
            client.module.InferRequestedOutput("sum", binary_data=binary_out),
            client.module.InferRequestedOutput("shape", binary_data=not binary_out),
        ]
        answer = client.infer("pair", inputs, outputs=outputs)
        assert answer.as_numpy("sum").tolist() == [3.5, 7.25]
        assert answer.as_numpy("shape").tolist() == [[3, 3], [7, 7]]
    finally:
        client.close()


def test_only_the_outputs_that_are_asked_for_come_back(client: Client) -> None:
    inputs = [
        client.input("a", "INT32", np.array([[1, 2]], np.int32)),
        client.input("b", "FP64", np.array([0.5])),
    ]
    answer = client.infer("pair", inputs, outputs=[client.module.InferRequestedOutput("sum")])
    assert answer.as_numpy("sum").tolist() == [3.5]
    assert answer.as_numpy("shape") is None


def test_every_datatype_goes_there_and_back(client: Client) -> None:
    arrays = {}
    for name, dtype in DTYPES.items():
        if name == "BOOL":
            arrays[name] = np.array([[True, False], [False, True]])
        elif name.startswith("FP"):
            arrays[name] = np.array([[0.1, -1e30], [np.inf, 0.0]], dtype)
        else:
            limits = np.iinfo(dtype)
            arrays[name] = np.array([[limits.min, limits.max], [0, 1]], dtype)
    inputs = [client.input(name, name, array) for name, array in arrays.items()]
    answer = client.infer("every", inputs)
    for name, array in arrays.items():
        back = answer.as_numpy(name)
        assert back.dtype == array.dtype, name
        assert np.array_equal(back, array), name


def test_half_precision_goes_there_and_back(client: Client) -> None:
    halves = np.array([[0.5, -2.0]], np.float16)
    answer = client.infer("half", [client.input("x", "FP16", halves)])
    back = answer.as_numpy("output")
    assert back.dtype == np.float16
    assert np.array_equal(back, halves * 2)


def test_bfloat16_goes_there_and_back(client: Client) -> None:
    exact = np.array([[0.5, -3.0]], np.float32)
    tensor = client.module.InferInput("x", [1, 2], "BF16")
    try:
        tensor.set_data_from_numpy(exact.astype(ml_dtypes.bfloat16))
    except InferenceServerException:  # older clients take float32
        tensor.set_data_from_numpy(exact)
    answer = client.infer("brain", [tensor])
    assert np.array_equal(answer.as_numpy("output").astype(np.float32), exact)


@pytest.mark.parametrize("texts", [[b"one"], ["zwölf", "", "a\nb"], [b"\x00\x01", b"x" * 5000]])
def test_bytes_go_there_and_back(client: Client, texts: list[Any]) -> None:
    array = np.array(texts, dtype=object)
    answer = client.infer("upper", [client.input("text", "BYTES", array)])
    sent = [text.encode() if isinstance(text, str) else text for text in texts]
    assert answer.as_numpy("upper").tolist() == [text.upper() for text in sent]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_answers_are_the_same(client: Client, algorithm: str) -> None:
    array = np.zeros((500, 3), np.float32)
    how = {"compression_algorithm": algorithm}
    if client.http:
        how = {
            "request_compression_algorithm": algorithm,
            "response_compression_algorithm": algorithm,
        }
    assert np.array_equal(client.ask("double", array, **how).as_numpy("doubled"), array)


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_requests_may_be_in_flight_together(served_models: Running, kind: str) -> None:
    client = Client(kind, served_models, **({"concurrency": 8} if kind == "http" else {}))
    try:
        arrays = [np.full((1, 3), number, np.float32) for number in range(32)]
        if kind == "http":
            calls = [
                client.async_infer("double", [client.input("x", "FP32", each)]) for each in arrays
            ]
            answers = [call.get_result() for call in calls]
        else:
            answers, came = [None] * len(arrays), threading.Semaphore(0)
            for index, each in enumerate(arrays):

                def done(result: Any, error: Any, index: int = index) -> None:
                    answers[index] = error or result
                    came.release()

                client.async_infer("double", [client.input("x", "FP32", each)], done)
            assert all(came.acquire(timeout=PATIENCE) for _ in arrays)
        for each, answer in zip(arrays, answers, strict=True):
            assert np.array_equal(answer.as_numpy("doubled"), each * 2)
    finally:
        client.close()


# Errors


def refused(client: Client, *arguments: Any, **settings: Any) -> tuple[str, str]:
    """Status and message of what is refused."""
    with pytest.raises(InferenceServerException) as error:
        client.infer(*arguments, **settings)
    return str(error.value.status()), str(error.value.message())


@pytest.mark.parametrize(
    ("model", "name", "shape", "http", "grpc", "complaint"),
    [
        ("nobody", "x", (1, 3), "404", "NOT_FOUND", "there is no model 'nobody'"),
        ("double", "y", (1, 3), "400", "INVALID_ARGUMENT", "has the inputs ['x']"),
        ("double", "x", (1, 4), "400", "INVALID_ARGUMENT", "shape [-1, 3]"),
        ("upper", "text", (1,), "400", "INVALID_ARGUMENT", "BYTES of shape [-1]"),
        ("double", "x", (0, 3), "400", "INVALID_ARGUMENT", "at least one row"),
        ("double", "x", (5000, 3), "413", "RESOURCE_EXHAUSTED", "at most 4096 rows"),
        ("broken", "x", (1, 3), "500", "INTERNAL", "the model failed with RuntimeError"),
    ],
)
def test_an_error_has_its_status_and_says_why(
    client: Client,
    model: str,
    name: str,
    shape: tuple[int, ...],
    http: str,
    grpc: str,
    complaint: str,
) -> None:
    tensor = client.input(name, "FP32", np.zeros(shape, np.float32))
    status, message = refused(client, model, [tensor])
    assert status == (http if client.http else f"StatusCode.{grpc}")
    assert complaint in message
    assert "/home/somebody" not in message, "the model's own text is not the client's business"


def test_an_output_that_does_not_exist_is_refused(client: Client) -> None:
    wanted = [client.module.InferRequestedOutput("tripled")]
    status, message = refused(client, "double", [client.input("x", "FP32", ROWS)], outputs=wanted)
    assert status in ("400", "StatusCode.INVALID_ARGUMENT")
    assert "no 'tripled'" in message


# Timeouts


def _taken(client: Client, tensor: Any) -> bool:
    """True if `held` had a place in its queue, and has answered."""
    try:
        client.infer("held", [tensor])
    except InferenceServerException as error:
        assert error.status() == "StatusCode.RESOURCE_EXHAUSTED"
        return False
    return True


@pytest.fixture
def occupied(served_models: Running, served_gate: Path) -> Iterator[None]:
    """The model `held` has a request, and answers it after the test."""
    entered = entered_file(served_gate)
    entered.unlink(missing_ok=True)
    client = Client("grpc", served_models)
    tensor = client.input("x", "FP32", ROWS[:1])
    ended = threading.Event()
    client.async_infer("held", [tensor], lambda result, error: ended.set())
    until(entered.exists)
    yield
    served_gate.touch()
    assert ended.wait(PATIENCE)
    # Comes last, once those that were cancelled have left the queue: it is empty after it.
    until(lambda: _taken(client, tensor))
    served_gate.unlink()
    client.close()


def test_the_timeout_of_a_request_ends_its_waiting(client: Client, occupied: None) -> None:
    tensor = client.input("x", "FP32", ROWS[:1])
    status, message = refused(client, "held", [tensor], timeout=1000)  # microseconds
    assert status in ("504", "StatusCode.DEADLINE_EXCEEDED")
    assert "timeout passed" in message


def given_up(server: Running) -> float:
    """How many requests to `held` were cancelled or ran out of time so far."""
    with urllib.request.urlopen(f"{server.urls['http']}/metrics", timeout=PATIENCE) as page:
        text = page.read().decode()
    pattern = r'^tidegate_requests_total\{batcher="held",outcome="(?:cancelled|expired)"\} (\S+)'
    found = re.findall(pattern, text, re.MULTILINE)
    assert len(found) == 2, text
    return sum(map(float, found))


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"])
def test_a_clients_own_deadline_cancels_its_request(
    served_models: Running, occupied: None, kind: str
) -> None:
    before = given_up(served_models)
    client = Client(kind, served_models)
    try:
        tensor = client.input("x", "FP32", ROWS[:1])
        status, _ = refused(client, "held", [tensor], client_timeout=0.2)
        assert status == "StatusCode.DEADLINE_EXCEEDED"
    finally:
        client.close()
    until(lambda: given_up(served_models) > before)


@pytest.mark.parametrize("kind", ["http", "http.aio"])
def test_a_client_that_hangs_up_cancels_its_request(
    served_models: Running, occupied: None, kind: str
) -> None:
    before = given_up(served_models)
    patience = {"conn_timeout": 0.1} if kind == "http.aio" else {"network_timeout": 0.1}
    client = Client(kind, served_models, **patience)
    try:
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            client.infer("held", [client.input("x", "FP32", ROWS[:1])])
    finally:
        client.close()
    until(lambda: given_up(served_models) > before)


def test_a_full_queue_is_said_to_be_full(served_models: Running, occupied: None) -> None:
    client = Client("grpc", served_models)
    try:
        tensor = client.input("x", "FP32", ROWS[:1])
        calls = [
            client.async_infer("held", [tensor], lambda result, error: None)
            for _ in range(MOST_WAITING)
        ]
        seen: list[str] = []

        def full() -> bool:
            status, message = refused(client, "held", [tensor], timeout=1000)
            seen.append(message)
            return status == "StatusCode.RESOURCE_EXHAUSTED"

        until(full)
        assert "queue" in seen[-1]
        for call in calls:
            call.cancel()
    finally:
        client.close()
