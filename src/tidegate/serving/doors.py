"""Doors: from a configuration to the doors of a server, with their sockets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tidegate.serving import addresses
from tidegate.serving.authentication import Tokens
from tidegate.serving.configuration import Configuration
from tidegate.serving.models import Models
from tidegate.serving.tls import Identity

__all__ = ["Door", "Doors", "make_doors"]

_log = logging.getLogger("tidegate.serving")


class Door(Protocol):
    """A way in for requests."""

    @property
    def url(self) -> str:
        """What clients connect to; known once it is open."""

    async def open(self) -> None:
        """Begins to take requests."""

    def announce_end(self) -> None:
        """Tells clients to go elsewhere; requests are still taken."""

    async def close(self) -> None:
        """Takes no more; returns when all that were taken are answered."""

    async def abort(self) -> None:
        """Ends what is left, answered or not."""

    def discard(self) -> None:
        """Lets go of what it holds before it was opened."""


class Doors:
    """The doors of one server."""

    def __init__(self) -> None:
        self._doors: list[Door] = []
        self._removals: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[Door]:
        """Each of them."""
        return iter(self._doors)

    def add(self, door: Door, removal: Callable[[], None] | None = None) -> None:
        """Adds a door, and what removes its name from the file system."""
        self._doors.append(door)
        if removal is not None:
            self._removals.append(removal)

    def discard(self) -> None:
        """Gives up what doors hold that were not opened, and the names of Unix sockets."""
        for door in self._doors:
            door.discard()
        self.remove_names()

    def remove_names(self) -> None:
        """Removes the names of Unix sockets."""
        for removal in self._removals:
            removal()


def make_doors(models: Models, configuration: Configuration) -> Doors:
    """The doors that a configuration asks for; HTTP's listen already, though nobody answers yet.

    Raises:
        ConfigError: An address is not to be had, or a file of the configuration cannot be read.
    """
    tokens = configuration.read_tokens()
    identity = None
    if configuration.tls_certificate is not None and configuration.tls_key is not None:
        identity = Identity.read(
            configuration.tls_certificate, configuration.tls_key, configuration.tls_client_ca
        )
    _warn(configuration, tokens)
    doors = Doors()
    try:
        if configuration.http is not None or configuration.uds is not None:
            _add_http(doors, models, configuration, tokens, identity)
        if configuration.grpc is not None:
            doors.add(_grpc(models, configuration, tokens, identity))
    except BaseException:
        doors.discard()
        raise
    return doors


def _grpc(
    models: Models,
    configuration: Configuration,
    tokens: Tokens | None,
    identity: Identity | None,
) -> Door:
    """The native gRPC door, unless something is asked for that it has not."""
    wanted = configuration.grpc_backend
    suits = not configuration.access_log and configuration.grpc_path is None
    if wanted == "native" or (wanted == "auto" and suits and _native_is_built()):
        from tidegate.serving.native_door import NativeDoor

        return NativeDoor(models, configuration, tokens)
    from tidegate.serving.grpc_door import GrpcDoor

    return GrpcDoor(models, configuration, tokens, identity)


def _native_is_built() -> bool:
    try:
        from tidegate import _frontend  # noqa: F401
    except ImportError:
        return False
    return True


def _add_http(
    doors: Doors,
    models: Models,
    configuration: Configuration,
    tokens: Tokens | None,
    identity: Identity | None,
) -> None:
    """One application, on a TCP socket and on a Unix socket."""
    from tidegate.serving.asgi import create_app
    from tidegate.serving.http_door import HttpDoor

    app = create_app(
        models,
        limits=configuration.limits,
        tokens=tokens,
        access_log=configuration.access_log,
    )
    settings: dict[str, Any] = {
        "max_connections": configuration.max_connections,
        "keep_alive": configuration.keep_alive,
        "receive_timeout": configuration.receive_timeout,
    }
    address, path = configuration.http_address, configuration.uds
    if address is not None:
        listening = addresses.listen(address, reuse_port=configuration.reuse_port)
        bound = addresses.Address(address.host, address.ip, listening.getsockname()[1])
        context = None if identity is None else identity.context
        url = f"{'http' if context is None else 'https'}://{bound}"
        doors.add(HttpDoor(app, listening, url=url, tls=context, **settings))
    if path is not None:
        listening = addresses.listen_at_path(path)
        known = addresses.identity(path)
        door = HttpDoor(app, listening, url=f"http+unix://{path}", tls=None, **settings)
        doors.add(door, lambda: addresses.remove(path, known))


def _warn(configuration: Configuration, tokens: Tokens | None) -> None:
    """Says what is allowed and yet a risk."""
    for address in (configuration.http_address, configuration.grpc_address):
        if address is None or address.loopback or configuration.tls_key is not None:
            continue
        if tokens is None:
            _log.warning("%s is open to everybody who can reach it (--insecure)", address)
        else:
            _log.warning("%s has no TLS: tokens and tensors can be read on their way", address)
