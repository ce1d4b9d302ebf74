"""Server reflection for tidegate's services, whose descriptors lie in a pool of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection

from tidegate.serving._proto.pool import POOL

__all__ = ["add_reflection"]


class _Pools:
    """Looks into tidegate's pool, and then into the process's own, where other services are."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def find(*arguments: Any) -> Any:
            try:
                return getattr(POOL, name)(*arguments)
            except (KeyError, TypeError):  # TypeError: a descriptor of the other pool
                return getattr(descriptor_pool.Default(), name)(*arguments)

        return find


def add_reflection(services: Iterable[str], server: Any) -> None:
    """Lets clients such as grpcurl ask which services there are.

    Args:
        services: Names of all services of the server; reflection itself is added.
        server: A ``grpc.aio`` or a ``grpc.server()``, not started yet.
    """
    names = (*services, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=_Pools())  # type: ignore[arg-type]
