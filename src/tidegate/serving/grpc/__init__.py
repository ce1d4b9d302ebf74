"""The gRPC door: models on offer over the Open Inference Protocol, for grpc.aio and for threads.

Needs grpcio and protobuf; health checks need grpcio-health-checking, and reflection
grpcio-reflection: ``pip install 'tidegate[serve]'`` brings all of them.
"""

from tidegate.serving.grpc.servers import add_to_server, create_server, server_options
from tidegate.serving.grpc.tokens import AioTokenInterceptor, TokenInterceptor

__all__ = [
    "AioTokenInterceptor",
    "TokenInterceptor",
    "add_to_server",
    "create_server",
    "server_options",
]
