"""What each method of the services does with a message, whichever kind of server it came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from tidegate import __version__
from tidegate.errors import InputError
from tidegate.serving._proto import open_inference_pb2 as pb
from tidegate.serving.datatypes import Array
from tidegate.serving.errors import UnknownModelError
from tidegate.serving.grpc import messages
from tidegate.serving.grpc.structure import MODEL_INFER, check_structure
from tidegate.serving.limits import Limits
from tidegate.serving.models import Models
from tidegate.serving.served import Pending, Served

__all__ = ["INFERENCE", "Answer", "Begin", "Begun", "Protocol", "queue_seconds"]

INFERENCE = "inference.GRPCInferenceService"

_MICROSECOND = 1e-6


class Begun(NamedTuple):
    """A request on its way.

    Attributes:
        pending: To be waited for.
        finish: Makes a response of what came of it.
    """

    pending: Pending
    finish: Callable[[Mapping[str, Array]], bytes]


Answer: TypeAlias = Callable[[bytes], bytes]
Begin: TypeAlias = Callable[[bytes, "float | None"], Begun]


class Protocol:
    """The methods of the Open Inference Protocol.

    Args:
        models: What is on offer.
        limits: What a client may send.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models = models
        self._limits = limits

    def answers(self) -> dict[str, Answer]:
        """Methods that answer at once, by name."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
        }

    def server_live(self, message: bytes) -> bytes:
        """True, since it answers."""
        messages.parse(pb.ServerLiveRequest, message)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    def server_ready(self, message: bytes) -> bytes:
        """True if every model is ready and the server is not draining."""
        messages.parse(pb.ServerReadyRequest, message)
        return pb.ServerReadyResponse(ready=self._models.ready).SerializeToString()

    def model_ready(self, message: bytes) -> bytes:
        """True if there is such a model and it takes requests; no error if there is none."""
        request = messages.parse(pb.ModelReadyRequest, message)
        try:
            ready = self._models.get(request.name, request.version).ready
        except UnknownModelError:
            ready = False
        return pb.ModelReadyResponse(ready=ready and not self._models.draining).SerializeToString()

    def server_metadata(self, message: bytes) -> bytes:
        """Name and version."""
        messages.parse(pb.ServerMetadataRequest, message)
        return pb.ServerMetadataResponse(name="tidegate", version=__version__).SerializeToString()

    def model_metadata(self, message: bytes) -> bytes:
        """Inputs, outputs and versions."""
        request = messages.parse(pb.ModelMetadataRequest, message)
        served = self._models.get(request.name, request.version)
        response = pb.ModelMetadataResponse(
            name=served.name, versions=self._models.versions(served.name), platform="tidegate"
        )
        for described, tensors in (
            (response.inputs, served.inputs),
            (response.outputs, served.outputs),
        ):
            for tensor in tensors:
                described.add(name=tensor.name, datatype=tensor.datatype, shape=(-1, *tensor.shape))
        return response.SerializeToString()

    def model_infer(self, message: bytes, remaining: float | None) -> Begun:
        """Queues a request.

        Args:
            message: A ModelInferRequest.
            remaining: Seconds until the call's deadline, None without one.
        """
        limits = self._limits
        limits.check_message(len(message))
        check_structure(message, MODEL_INFER)
        request = messages.parse(pb.ModelInferRequest, message)
        served = self._models.get(request.model_name, request.model_version)
        timeout, priority = None, 0
        if request.parameters:
            timeout = messages.integer(request.parameters, "timeout")
            priority = messages.integer(request.parameters, "priority") or 0
        raw, request_id = len(request.raw_input_contents) > 0, request.id
        pending = served.submit(
            messages.tensors(request, limits),
            outputs=messages.wanted(request) if request.outputs else (),
            timeout=queue_seconds(served, timeout, remaining),
            priority=priority,
        )

        def finish(arrays: Mapping[str, Array]) -> bytes:
            return messages.answer(
                arrays, name=served.name, version=served.version, request_id=request_id, raw=raw
            )

        return Begun(pending, finish)


def queue_seconds(
    served: Served, microseconds: int | None, remaining: float | None
) -> float | None:
    """How long a request may wait in the queue; None for the batcher's own limit.

    Args:
        served: The model.
        microseconds: The client's wish; None or 0 if it has none.
        remaining: Seconds until the call's deadline, None without one.

    Raises:
        InputError: The wish is negative.
    """
    if microseconds is not None and microseconds < 0:
        raise InputError(
            f"the parameter 'timeout' should be >= 0 microseconds, got {microseconds}",
            expected=">= 0",
            given=str(microseconds),
        )
    wish = microseconds * _MICROSECOND if microseconds else served.batcher.default_timeout
    if wish is None or remaining is None:
        return wish if remaining is None else remaining
    return min(wish, remaining)
