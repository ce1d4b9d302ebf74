"""The calls of a native server that only Python can answer, by the code of the gRPC door."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tidegate import Future
from tidegate.serving.grpc.calls import failure
from tidegate.serving.grpc.health import HEALTH, Health
from tidegate.serving.grpc.methods import INFERENCE, Answer, Begin, Begun, Protocol
from tidegate.serving.grpc.predict import PREDICT, Predict
from tidegate.serving.limits import Limits
from tidegate.serving.models import Models

__all__ = ["Calls"]

_PUSHBACK = "grpc-retry-pushback-ms"


class Calls:
    """Answers calls, at once or when their batch is done.

    Args:
        models: What is on offer.
        limits: What a client may send.
        reply: Sends an answer, from any thread: number of the call, status, message or what the
            status means, milliseconds after which to try again or 0.
        learned: Called after an answer that may have taught the outputs of a model.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        reply: Callable[[int, int, bytes, int], None],
        learned: Callable[[], None],
    ) -> None:
        protocol = Protocol(models, limits)
        health = Health(models, (INFERENCE, PREDICT, HEALTH))
        self._answers: dict[str, Answer] = {
            f"/{INFERENCE}/{name}": answer for name, answer in protocol.answers().items()
        }
        self._answers[f"/{HEALTH}/Check"] = health.check
        self._begins: dict[str, Begin] = {
            f"/{INFERENCE}/ModelInfer": protocol.model_infer,
            f"/{PREDICT}/Predict": Predict(models, limits).predict,
        }
        self._reply = reply
        self._learned = learned
        self._under_way: dict[int, Future] = {}

    @property
    def paths(self) -> list[str]:
        """The methods that there are."""
        return [*self._answers, *self._begins]

    @property
    def open_paths(self) -> list[str]:
        """Those that need no token."""
        return [f"/{HEALTH}/Check"]

    def call(self, number: int, path: str, message: bytes, deadline: float | None) -> None:
        """Begins to answer a call.

        Args:
            number: Which call it is.
            path: One of `paths`.
            message: Its request.
            deadline: By time.monotonic(); None without one.
        """
        answer = self._answers.get(path)
        try:
            if answer is not None:
                self._reply(number, 0, answer(message), 0)
                return
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            begun = self._begins[path](message, remaining)
        except Exception as error:
            self._fail(number, error)
            return
        self._under_way[number] = begun.pending.future
        begun.pending.future.add_done_callback(lambda future: self._done(number, begun))

    def cancel(self, number: int) -> None:
        """Nobody waits for a call any more."""
        future = self._under_way.pop(number, None)
        if future is not None:
            future.cancel()

    def _done(self, number: int, begun: Begun) -> None:
        if self._under_way.pop(number, None) is None:
            return  # the client has gone
        try:
            text = begun.finish(begun.pending.result(0))
        except BaseException as error:  # a CancelledError among them
            self._fail(number, error)
            return
        self._reply(number, 0, text, 0)
        self._learned()

    def _fail(self, number: int, error: BaseException) -> None:
        code, details, trailers = failure(error)
        pushback = int(dict(trailers).get(_PUSHBACK, 0))
        status: Any = code.value[0]
        self._reply(number, status, details.encode(), pushback)
