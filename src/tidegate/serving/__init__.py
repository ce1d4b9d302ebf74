"""Models on offer to clients: what every door of a server has in common.

The doors themselves are imported from their own modules: ``tidegate.serving.asgi`` needs Starlette,
``tidegate.serving.grpc`` needs grpcio.
"""

from tidegate.serving.authentication import Tokens
from tidegate.serving.errors import (
    AuthenticationError,
    EncodingError,
    SlowClientError,
    TooLargeError,
    UnknownModelError,
    UnsupportedError,
)
from tidegate.serving.limits import Limits
from tidegate.serving.models import Models
from tidegate.serving.served import Pending, Served
from tidegate.serving.tensors import Tensor

__all__ = [
    "AuthenticationError",
    "EncodingError",
    "Limits",
    "Models",
    "Pending",
    "Served",
    "SlowClientError",
    "Tensor",
    "Tokens",
    "TooLargeError",
    "UnknownModelError",
    "UnsupportedError",
]
