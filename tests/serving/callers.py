"""Clients that ask for as long as they may, and keep account of what they were answered."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from typing import Any

import grpc
import numpy as np

from tests.gated import PATIENCE
from tidegate.serving._proto import open_inference_pb2 as pb

_numbers = itertools.count(1)


def body_of(number: int) -> bytes:
    """A request whose row is one number three times."""
    row = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [number] * 3}
    return json.dumps({"inputs": [row]}).encode()


def message_of(model: str, number: int) -> bytes:
    """The same for gRPC."""
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(np.full(3, number, np.float32).tobytes())
    return request.SerializeToString()


class Caller(threading.Thread):
    """Asks the model `noted` again and again until it is told to stop, or fails.

    Attributes:
        answered: Numbers whose double came back.
        failed: What ended it, if it was not told to: the number that was on its way, the
            error's type and its text. The error itself would keep its connection open.
    """

    def __init__(self, address: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.stop = stop
        self.answered: list[int] = []
        self.failed: tuple[int, type[Exception], str] | None = None
        self.start()

    def run(self) -> None:
        """Asks."""
        while not self.stop.is_set():
            number = next(_numbers)
            try:
                answer = self.ask("noted", number)
            except Exception as error:
                self.failed = (number, type(error), str(error))
                break
            assert answer == 2 * number
            self.answered.append(number)
        self.close()

    def ask(self, model: str, number: int) -> float:
        """One request; the first number of its answer."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the connection."""


class HttpCaller(Caller):
    """One connection at a time, kept alive for as long as the server lets it."""

    def __init__(self, address: str, stop: threading.Event) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=PATIENCE)
        super().__init__(address, stop)

    def ask(self, model: str, number: int) -> float:
        """One request."""
        self._connection.request("POST", f"/v2/models/{model}/infer", body_of(number))
        response = self._connection.getresponse()
        content = json.loads(response.read())
        if response.status != 200:
            raise AssertionError(f"{response.status}: {content}")
        first: float = content["outputs"][0]["data"][0]
        return first

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


class GrpcCaller(Caller):
    """A channel with a connection of its own."""

    def __init__(self, address: str, stop: threading.Event) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channel: Any = grpc.insecure_channel(address, options=options)
        super().__init__(address, stop)

    def ask(self, model: str, number: int) -> float:
        """One call."""
        method = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = pb.ModelInferResponse.FromString(
            method(message_of(model, number), timeout=PATIENCE)
        )
        return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])

    def close(self) -> None:
        """Ends the channel."""
        self._channel.close()


class HttpAsk(HttpCaller):
    """Asks nothing by itself."""

    def run(self) -> None:
        """Nothing."""


class GrpcAsk(GrpcCaller):
    """Asks nothing by itself."""

    def run(self) -> None:
        """Nothing."""

    def ready(self) -> bool:
        """What ServerReady says."""
        method = self._channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        answer = pb.ServerReadyResponse.FromString(method(b"", timeout=PATIENCE))
        ready: bool = answer.ready
        return ready
