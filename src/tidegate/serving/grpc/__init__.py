"""The gRPC door: models on offer over the Open Inference Protocol, for grpc.aio and for threads.

Needs grpcio and protobuf; health checks need grpcio-health-checking, and reflection
grpcio-reflection: ``pip install 'tidegate[serve]'`` brings all of them.
"""

try:
    import google.protobuf as _protobuf  # noqa: F401  (only to say what is missing)
    import grpc as _grpc  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tidegate.serving.grpc needs grpcio and protobuf: pip install 'tidegate[serve]'",
        name=error.name,
    ) from error

from tidegate.serving.grpc.servers import add_to_server, create_server, server_options
from tidegate.serving.grpc.tokens import AioTokenInterceptor, TokenInterceptor

__all__ = [
    "AioTokenInterceptor",
    "TokenInterceptor",
    "add_to_server",
    "create_server",
    "server_options",
]
