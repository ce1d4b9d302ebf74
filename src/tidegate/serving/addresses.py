"""Addresses: where doors listen, which of them may be open to all, and the sockets themselves."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from tidegate.errors import ConfigError

__all__ = [
    "Address",
    "identity",
    "listen",
    "listen_at_path",
    "parse",
    "remove",
    "require_protection",
]

_BACKLOG = 2048
# After this silence the kernel asks whether the other side is still there, so that connections
# whose clients are gone without a word end.
_IDLE, _INTERVAL, _PROBES = 60, 15, 4


@dataclass(frozen=True)
class Address:
    """A place to listen at.

    Attributes:
        host: As it was given, without brackets.
        ip: What that stands for.
        port: 0 for any that is free.
    """

    host: str
    ip: str
    port: int

    @property
    def loopback(self) -> bool:
        """True if only this machine can connect to it."""
        return ipaddress.ip_address(self.ip.partition("%")[0]).is_loopback

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def parse(text: str | int) -> Address:
    """The address that ``HOST:PORT`` or ``PORT`` stands for; without a host, 127.0.0.1.

    Raises:
        ConfigError: It has another form, or the host is not known.
    """
    host, colon, digits = str(text).rpartition(":")
    if not colon:
        host = "127.0.0.1"
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"an IPv6 address needs brackets, [{host}]:{digits}, got {text!r}")
    if not host or not digits.isdecimal() or int(digits) > 65535:
        raise ConfigError(
            f"an address is HOST:PORT or PORT, with a port from 0 to 65535, got {text!r}"
        )
    try:
        found = socket.getaddrinfo(host, int(digits), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"there is no host {host!r}: {error}") from error
    # "localhost" has an IPv6 address as well; clients that are told 127.0.0.1 should find it.
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return Address(host, str(found[0][4][0]), int(digits))


def require_protection(address: Address, *, tls: bool, token: bool, insecure: bool) -> None:
    """Refuses an address that others can reach and that nothing protects.

    Raises:
        ConfigError: It is no loopback address, and there is neither TLS nor a token, and nobody
            said that this is meant.
    """
    if not (address.loopback or tls or token or insecure):
        raise ConfigError(
            f"{address} can be reached from other machines, and neither TLS nor a token is "
            "configured: give --tls-certificate and --tls-key, or --token-file, or --insecure if "
            "everybody who can reach it may use the models"
        )


def listen(address: Address, *, reuse_port: bool) -> socket.socket:
    """A socket that listens at an address.

    Args:
        address: Where.
        reuse_port: Whether other processes may listen there too; the kernel shares connections out.

    Raises:
        ConfigError: The system refuses.
    """
    family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        set_option = listening.setsockopt
        set_option(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            set_option(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.ip == "::":  # all addresses, as gRPC understands it
            set_option(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Accepted connections inherit these.
        set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # asyncio does so only for sockets that name their protocol. Without it the second packet of
        # an answer may wait for some 40 ms until the client acknowledges the first.
        set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        set_option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
        set_option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL)
        set_option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        listening.bind((address.ip, address.port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen at {address}: {error.strerror}") from error
    return listening


def listen_at_path(path: Path) -> socket.socket:
    """A Unix socket that listens; one that an ended process left behind is replaced.

    Who may connect is up to the umask and to the directory's permissions.

    Raises:
        ConfigError: Something else has that name, somebody listens there, or the system refuses.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        listening.bind(str(path))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:  # a path that is too long has no strerror
        listening.close()
        raise ConfigError(f"cannot listen at {path}: {error.strerror or error}") from error
    except ConfigError:
        listening.close()
        raise
    return listening


def _clear(path: Path) -> None:
    """Removes a Unix socket that nobody listens to any more."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"cannot listen at {path}: it exists, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                path.unlink()
                return
            raise
    raise ConfigError(f"cannot listen at {path}: another process does")


def identity(path: Path) -> tuple[int, int]:
    """What tells a file from another of the same name."""
    status = path.lstat()
    return status.st_dev, status.st_ino


def remove(path: Path, known: tuple[int, int]) -> None:
    """Removes a Unix socket's name, unless it is another's by now.

    Args:
        path: The name.
        known: Its identity() when it was made.
    """
    with contextlib.suppress(OSError):
        if identity(path) == known:
            path.unlink()
