"""The gRPC door: a grpc.aio server on an address, drained so that each call it took is answered."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from tidegate.errors import ConfigError
from tidegate.serving import addresses
from tidegate.serving.authentication import Tokens
from tidegate.serving.configuration import Configuration
from tidegate.serving.grpc import AioTokenInterceptor, create_server
from tidegate.serving.grpc_access import AccessLog
from tidegate.serving.models import Models
from tidegate.serving.tls import Identity

__all__ = ["GrpcDoor"]

# A connection that is nobody's any more costs memory; clients make new ones without being told.
_IDLE_MS = 5 * 60_000
_HANDSHAKE_MS = 10_000
_MOST_STREAMS = 1024  # calls at a time on one connection; more wait at the client
# How often clients may ask whether the server is still there: every 10 s, also without calls.
_PING_MS = 10_000
_OPTIONS = (
    ("grpc.max_connection_idle_ms", _IDLE_MS),
    ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    ("grpc.max_concurrent_streams", _MOST_STREAMS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_MS),
)
_FOREVER = 1e6  # seconds; None would mean at once


class GrpcDoor:
    """A grpc.aio server.

    Args:
        models: What is on offer.
        configuration: Address, limits and all else.
        tokens: Those accepted; None for no question.
        identity: For TLS; None for plain text.
    """

    def __init__(
        self,
        models: Models,
        configuration: Configuration,
        tokens: Tokens | None,
        identity: Identity | None,
    ) -> None:
        self._models = models
        self._configuration = configuration
        self._tokens = tokens
        self._identity = identity
        self._server: grpc.aio.Server | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """What clients connect to."""
        return self._url

    async def open(self) -> None:
        """Begins to take calls.

        Raises:
            ConfigError: The address is not to be had.
        """
        configuration = self._configuration
        # The log first, so that it has a line for calls without a token too.
        interceptors: list[Any] = []
        if configuration.access_log:
            interceptors.append(AccessLog())
        if self._tokens is not None:
            interceptors.append(AioTokenInterceptor(self._tokens))
        server = create_server(
            self._models,
            limits=configuration.limits,
            interceptors=interceptors,
            options=[*_OPTIONS, ("grpc.so_reuseport", int(configuration.reuse_port))],
            maximum_concurrent_rpcs=configuration.max_connections,
        )
        self._url = self._listen(server)
        await server.start()
        self._server = server

    def _listen(self, server: grpc.aio.Server) -> str:
        """Adds the port; the door's URL."""
        path, address = self._configuration.grpc_path, self._configuration.grpc_address
        try:
            if path is not None:
                server.add_insecure_port(f"unix:{path}")
                return f"grpc+unix://{path}"
            assert address is not None
            if self._identity is None:
                port = server.add_insecure_port(str(address))
            else:
                port = server.add_secure_port(str(address), _credentials(self._identity))
        except RuntimeError as error:
            if address is not None:  # find out why
                addresses.listen(address, reuse_port=self._configuration.reuse_port).close()
            raise ConfigError(f"cannot listen at {path or address} for gRPC: {error}") from error
        scheme = "grpc" if self._identity is None else "grpcs"
        return f"{scheme}://{addresses.Address(address.host, address.ip, port)}"

    def announce_end(self) -> None:
        """Nothing: health checks ask the models, and calls are taken until close()."""

    async def close(self) -> None:
        """Takes no more calls; returns when all that came are answered."""
        if self._server is not None:
            await self._server.stop(_FOREVER)

    async def abort(self) -> None:
        """Ends all calls, answered or not."""
        if self._server is not None:
            await self._server.stop(None)

    def discard(self) -> None:
        """Nothing is held before the door is open."""


def _credentials(identity: Identity) -> Any:
    return grpc.ssl_server_credentials(
        [(identity.key, identity.certificate)],
        root_certificates=identity.client_ca,
        require_client_auth=identity.client_ca is not None,
    )
