"""TLS: certificate and key, read once for both doors and found wrong before either opens."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from tidegate.errors import ConfigError

__all__ = ["Identity"]


@dataclass(frozen=True)
class Identity:
    """What a server proves itself with, and whom it believes.

    Attributes:
        certificate: Chain, PEM.
        key: Private key, PEM.
        client_ca: Certificates that sign those of clients, PEM; None if clients need none.
        context: The same, for HTTP.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext

    @classmethod
    def read(cls, certificate: Path, key: Path, client_ca: Path | None) -> Identity:
        """Reads the files.

        Raises:
            ConfigError: One cannot be read or holds something else, or key and certificate do not
                belong together.
        """
        contents = [_read(path) for path in (certificate, key)]
        authorities = None if client_ca is None else _read(client_ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # A passphrase would be asked for at the terminal; there may be none.
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{certificate} and {key} are no certificate and its key: {error}"
            ) from error
        if client_ca is not None:
            try:
                context.load_verify_locations(client_ca)
            except ssl.SSLError as error:
                raise ConfigError(f"{client_ca} holds no certificates: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return cls(contents[0], contents[1], authorities, context)


def _no_passphrase() -> str:
    raise ValueError("the key needs a passphrase")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
