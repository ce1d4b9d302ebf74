"""grpc-go, a client that shares no code with Python's, against both gRPC doors."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.origin.tools import GOCODE
from tests.gated import PATIENCE, Gated
from tests.serving.grpc_door import raw_request
from tidegate import Batcher, TensorSpec
from tidegate.serving import Models, Served
from tidegate.serving._proto import open_inference_pb2 as protocol
from tidegate.serving._proto import tidegate_v1_pb2 as v1
from tidegate.serving.native import NativeServer

pytest.importorskip("tidegate._frontend", reason="the native front end was not built")

SOURCE = Path(__file__).with_name("go_client") / "main.go"
PREDICT = "/tidegate.v1.Inference/Predict"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
SERVER_READY = "/inference.GRPCInferenceService/ServerReady"
ROW = np.array([1, 2, 3], np.float32)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("go") or not (GOCODE / "src/google.golang.org/grpc").is_dir():
        pytest.skip("needs Debian's golang-go and golang-google-grpc-dev")
    built = tmp_path_factory.mktemp("go") / "client"
    subprocess.run(
        ["go", "build", "-o", str(built), str(SOURCE)],
        env={**os.environ, "GO111MODULE": "off", "GOPATH": str(GOCODE), "GOFLAGS": ""},
        check=True,
        timeout=300,
    )
    return built


class Client:
    """The Go program, connected to one server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def calls(self, method: str, message: bytes, **settings: Any) -> list[dict[str, Any]]:
        """Answers of `count` calls made at once."""
        asked = {"method": method, "message": base64.b64encode(message).decode(), **settings}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answers: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        for answer in answers:
            answer["message"] = base64.b64decode(answer["message"] or "")
        return answers

    def call(self, method: str, message: bytes, **settings: Any) -> dict[str, Any]:
        [answer] = self.calls(method, message, **settings)
        return answer


@pytest.fixture
def model() -> Gated:
    return Gated()


@pytest.fixture
def client(program: Path, model: Gated) -> Iterator[Client]:
    model.gate.set()
    with (
        Batcher(model, inputs=TensorSpec((3,), "float32"), caller_runs=False) as batcher,
        NativeServer(Models(Served("m", batcher, outputs=TensorSpec((3,), "float32")))) as server,
        subprocess.Popen(
            [str(program), "-target", f"127.0.0.1:{server.address[1]}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            yield Client(process)
        finally:
            model.gate.set()
            assert process.stdin is not None
            process.stdin.close()
            process.wait(PATIENCE)


@pytest.mark.timeout(360)  # the first test waits for the compiler
@pytest.mark.parametrize("gzip", [False, True])
def test_predictions_are_the_models(client: Client, gzip: bool) -> None:
    request = v1.PredictRequest(features=ROW).SerializeToString()
    answers = client.calls(PREDICT, request, count=500, gzip=gzip)
    assert {answer["code"] for answer in answers} == {"OK"}
    for answer in answers:
        predictions = v1.PredictResponse.FromString(answer["message"]).predictions
        assert np.array_equal(predictions, 2 * ROW)


def test_the_protocols_methods_answer(client: Client) -> None:
    ready = client.call(SERVER_READY, b"")
    assert protocol.ServerReadyResponse.FromString(ready["message"]).ready
    request = raw_request("m", input=ROW[None]).SerializeToString()
    response = protocol.ModelInferResponse.FromString(client.call(MODEL_INFER, request)["message"])
    assert np.array_equal(np.frombuffer(response.raw_output_contents[0], np.float32), 2 * ROW)


def test_errors_have_their_codes_and_say_why(client: Client) -> None:
    wrong = client.call(PREDICT, v1.PredictRequest(features=[1, 2]).SerializeToString())
    assert wrong["code"] == "InvalidArgument"
    assert "3" in wrong["details"]
    unknown = client.call(MODEL_INFER, raw_request("other", input=ROW[None]).SerializeToString())
    assert unknown["code"] == "NotFound"
    assert "other" in unknown["details"]
    assert client.call("/tidegate.v1.Inference/Guess", b"")["code"] == "Unimplemented"


def test_a_deadline_passes_while_the_model_is_at_work(client: Client, model: Gated) -> None:
    request = v1.PredictRequest(features=ROW).SerializeToString()
    model.gate.clear()
    answers = client.calls(PREDICT, request, count=20, milliseconds=200)
    assert {answer["code"] for answer in answers} == {"DeadlineExceeded"}
    model.gate.set()
    assert client.call(PREDICT, request)["code"] == "OK"
