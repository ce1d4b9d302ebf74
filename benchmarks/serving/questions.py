"""What is asked of the servers, ready to be sent, and the check of every answer by its value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.models import FEATURES, WrongAnswerError, perceptron

ROWS = np.random.default_rng(1).standard_normal((256, FEATURES), dtype=np.float32)
TOLERANCE = 1e-3
"""Answers are some tens; the order of a sum, which a batch may change, shows in the sixth digit."""

Decode = Callable[[bytes], Any]


@dataclass
class Questions:
    """One request for each of ROWS, as bytes, and how an answer's bytes are read.

    Args:
        requests: As they are sent: for HTTP with their heads, for gRPC as messages.
        decode: The ten numbers of an answer's body or message.
        path: The gRPC method.
    """

    requests: list[bytes]
    decode: Decode
    path: str = ""
    _right: list[set[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._expected = perceptron()(ROWS)
        self._right = [set() for _ in self.requests]

    def check(self, number: int, answer: bytes) -> None:
        """Raise unless `answer` is what the model says of row `number`.

        Bytes that were read and found right once are compared as bytes from then on.
        """
        right = self._right[number]
        if answer in right:
            return
        expected = self._expected[number]
        try:
            found = np.asarray(self.decode(answer), np.float64)
        except Exception as error:
            raise WrongAnswerError(f"row {number} was answered with {answer[:200]!r}") from error
        if found.shape != expected.shape or not np.allclose(found, expected, atol=TOLERANCE):
            raise WrongAnswerError(f"row {number} was answered with {found}, not {expected}")
        right.add(answer)


def http_request(path: str, body: bytes, headers: str = "content-type: application/json") -> bytes:
    """A POST request on a connection that is kept."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def plain_json() -> Questions:
    """A JSON list of numbers, answered with another."""
    bodies = [json.dumps(row.tolist()).encode() for row in ROWS]
    return Questions([http_request("/predict", body) for body in bodies], json.loads)


def _infer(tensor: dict[str, Any], **more: Any) -> bytes:
    described = {"name": "input", "shape": [1, FEATURES], "datatype": "FP32", **tensor}
    return json.dumps({"inputs": [described], **more}).encode()


def protocol_json() -> Questions:
    """The Open Inference Protocol in JSON."""

    def decode(body: bytes) -> Any:
        return json.loads(body)["outputs"][0]["data"]

    bodies = [_infer({"data": row.tolist()}) for row in ROWS]
    return Questions([http_request("/v2/models/mlp/infer", body) for body in bodies], decode)


def protocol_binary() -> Questions:
    """The Open Inference Protocol with its binary tensor extension, there and back."""
    size = {"binary_data_size": 4 * FEATURES}
    head = _infer({"parameters": size}, parameters={"binary_data_output": True})
    headers = (
        f"content-type: application/octet-stream\r\ninference-header-content-length: {len(head)}"
    )
    requests = [http_request("/v2/models/mlp/infer", head + row.tobytes(), headers) for row in ROWS]
    return Questions(requests, lambda body: np.frombuffer(body[-40:], np.float32))


def plain_bytes() -> Questions:
    """64 float32 numbers as the whole gRPC message."""
    from benchmarks.serving.grpc_service import METHOD, SERVICE

    return Questions(
        [row.tobytes() for row in ROWS],
        lambda message: np.frombuffer(message, np.float32),
        f"/{SERVICE}/{METHOD}",
    )


def protocol_raw() -> Questions:
    """The Open Inference Protocol's ModelInfer with raw contents."""
    from tidegate.serving._proto import open_inference_pb2 as pb

    tensor = pb.ModelInferRequest.InferInputTensor(
        name="input", datatype="FP32", shape=[1, FEATURES]
    )
    requests = [
        pb.ModelInferRequest(
            model_name="mlp", inputs=[tensor], raw_input_contents=[row.tobytes()]
        ).SerializeToString()
        for row in ROWS
    ]

    def decode(message: bytes) -> Any:
        answer = pb.ModelInferResponse.FromString(message)
        return np.frombuffer(answer.raw_output_contents[0], np.float32)

    return Questions(requests, decode, "/inference.GRPCInferenceService/ModelInfer")


def features() -> Questions:
    """tidegate.v1's Predict: floats in, floats out."""
    from tidegate.serving._proto import tidegate_v1_pb2 as pb

    requests = [pb.PredictRequest(features=row.tolist()).SerializeToString() for row in ROWS]
    return Questions(
        requests,
        lambda message: pb.PredictResponse.FromString(message).predictions,
        "/tidegate.v1.Inference/Predict",
    )
