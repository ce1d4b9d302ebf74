"""The native gRPC door of a server: NativeServer, opened and closed as the other doors are."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tidegate.errors import ConfigError
from tidegate.serving import addresses
from tidegate.serving.configuration import Configuration
from tidegate.serving.native import NativeServer

if TYPE_CHECKING:
    from tidegate.serving.authentication import Tokens
    from tidegate.serving.models import Models

__all__ = ["NativeDoor"]

_FOREVER = None


class NativeDoor:
    """A NativeServer.

    Args:
        models: What is on offer.
        configuration: Address, limits and all else.
        tokens: Those accepted; None for no question.
    """

    def __init__(self, models: Models, configuration: Configuration, tokens: Tokens | None) -> None:
        # The server would do without, but for the calls that Python answers. Now, not then.
        for package in ("google.protobuf", "grpc", "grpc_health"):
            if find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        address = configuration.grpc_address
        assert address is not None
        self._address = address
        self._server = NativeServer(
            models,
            address.ip,
            address.port,
            limits=configuration.limits,
            tokens=tokens,
            certificate=_text(configuration.tls_certificate),
            key=_text(configuration.tls_key),
            client_authorities=_text(configuration.tls_client_ca),
            max_connections=configuration.max_connections,
            reuse_port=configuration.reuse_port,
            threads=configuration.grpc_threads,
        )
        self._tls = configuration.tls_key is not None

    @property
    def url(self) -> str:
        """What clients connect to."""
        bound = addresses.Address(self._address.host, self._address.ip, self._server.address[1])
        return f"{'grpcs' if self._tls else 'grpc'}://{bound}"

    async def open(self) -> None:
        """Begins to take calls.

        Raises:
            ConfigError: The address is not to be had.
        """
        try:
            self._server.start()
        except OSError as error:
            raise ConfigError(f"cannot listen at {self._address} for gRPC: {error}") from error

    def announce_end(self) -> None:
        """Nothing: health checks ask the models, and calls are taken until close()."""

    async def close(self) -> None:
        """Takes no more calls; returns when all that came are answered."""
        await asyncio.to_thread(self._server.stop, _FOREVER)

    async def abort(self) -> None:
        """Ends all calls, answered or not."""
        self._server.abort()

    def discard(self) -> None:
        """Nothing is held before the door is open."""


def _text(path: object) -> str | None:
    return None if path is None else str(path)
