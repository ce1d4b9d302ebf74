"""Configuration: every setting of ``tidegate serve``, from a TOML file and from arguments."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tidegate.errors import ConfigError
from tidegate.serving.addresses import Address, parse, require_protection
from tidegate.serving.authentication import Tokens
from tidegate.serving.limits import Limits
from tidegate.serving.settings import check, setting

__all__ = ["TOKEN_VARIABLE", "Configuration", "gather"]

TOKEN_VARIABLE = "TIDEGATE_TOKEN"
_HTTP, _GRPC = "127.0.0.1:8000", "127.0.0.1:8001"
_UNIX = "unix:"
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """All settings of a server; the help of each is what ``tidegate serve --help`` says.

    Raises:
        ConfigError: A setting has a value that it cannot have, settings contradict each other, or
            a door would be open to other machines without protection.
    """

    target: str | None = setting("text", None, "the models: module:attribute")
    http: str | None = setting("address", None, "listen for HTTP here")
    grpc: str | None = setting("address", None, "listen for gRPC here, or at unix:PATH")
    grpc_backend: str = setting(
        "choice",
        "auto",
        "the gRPC server: native where it was built, else and for a log or a Unix socket python",
        choices=("auto", "native", "python"),
    )
    grpc_threads: int = setting("count", 1, "of the native gRPC server")
    uds: Path | None = setting("path", None, "listen for HTTP at this Unix socket")
    tls_certificate: Path | None = setting("path", None, "certificate chain, PEM, of both doors")
    tls_key: Path | None = setting("path", None, "its private key, PEM, without a passphrase")
    tls_client_ca: Path | None = setting(
        "path", None, "take only clients with a certificate that these, PEM, have signed"
    )
    token: tuple[str, ...] = setting(
        "tokens", (), "take only requests that carry this token; may be repeated", secret=True
    )
    token_file: Path | None = setting("path", None, "a file of such tokens, one in each line")
    insecure: bool = setting(
        "flag", False, "listen also where other machines can connect, without TLS and tokens"
    )
    max_message_bytes: int = setting("count", Limits.max_message_bytes, "of a request, unpacked")
    max_rows: int = setting("count", Limits.max_rows, "of a request")
    max_connections: int = setting(
        "count", 8192, "HTTP connections, and gRPC requests at a time; more are refused"
    )
    keep_alive: float = setting("seconds", 75.0, "that an HTTP connection may be idle")
    receive_timeout: float = setting(
        "seconds",
        Limits.receive_timeout,
        "that an HTTP client may take to send a request or to take an answer",
    )
    drain_grace: float = setting(
        "seconds", 0.0, "to go on taking requests after a signal, while readiness says no"
    )
    drain_timeout: float = setting(
        "seconds", 25.0, "to answer what was taken, after that; then it fails"
    )
    access_log: bool = setting("flag", False, "log a line for each request")
    log_level: str = setting("choice", "info", "the least that is logged", choices=_LEVELS)
    uvloop: str = setting(
        "choice", "auto", "the event loop: uvloop where installed", choices=("auto", "on", "off")
    )
    reuse_port: bool = setting(
        "flag", False, "let several processes listen at the same ports (SO_REUSEPORT)"
    )

    def __post_init__(self) -> None:
        """Checks the settings."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None or each.default is not None:
                checked = check(each.name, value, each.metadata)
                object.__setattr__(self, each.name, checked)
        _ = self.limits  # checks them
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("tls_certificate and tls_key belong together; only one is given")
        if self.tls_client_ca is not None and self.tls_key is None:
            raise ConfigError("tls_client_ca needs tls_certificate and tls_key")
        if self.grpc_backend == "native" and (self.access_log or self.grpc_path is not None):
            raise ConfigError(
                "the native gRPC server has neither an access log nor Unix sockets; take "
                "grpc_backend = 'python' for these"
            )
        for address in (self.http_address, self.grpc_address):
            if address is not None:
                require_protection(
                    address,
                    tls=self.tls_key is not None,
                    token=bool(self.token) or self.token_file is not None,
                    insecure=self.insecure,
                )

    @property
    def http_address(self) -> Address | None:
        """Where to listen for HTTP, or None."""
        return None if self.http is None else parse(self.http)

    @property
    def grpc_address(self) -> Address | None:
        """Where to listen for gRPC, or None; see also grpc_path."""
        return None if self.grpc is None or self.grpc_path is not None else parse(self.grpc)

    @property
    def grpc_path(self) -> Path | None:
        """The Unix socket to listen at for gRPC, or None."""
        text = str(self.grpc)
        return Path(text[len(_UNIX) :]) if text.startswith(_UNIX) else None

    @property
    def limits(self) -> Limits:
        """What a client may send."""
        return Limits(
            max_message_bytes=self.max_message_bytes,
            max_rows=self.max_rows,
            receive_timeout=self.receive_timeout,
        )

    def read_tokens(self) -> Tokens | None:
        """The tokens, those of the file included; None if there are none.

        Raises:
            ConfigError: The file cannot be read or holds none, or a token cannot be one.
        """
        tokens = list(self.token)
        if self.token_file is not None:
            try:
                lines = self.token_file.read_text().split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"cannot read the token file: {error}") from error
            found = [line.strip() for line in lines if line.strip()]
            if not found:
                raise ConfigError(f"the token file {self.token_file} holds no token")
            tokens += found
        return Tokens(tokens) if tokens else None


def gather(
    arguments: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> Configuration:
    """The configuration from all of its sources; arguments win over the file.

    Args:
        arguments: Settings by name; only those that were given.
        environment: May hold TIDEGATE_TOKEN, which counts where neither of the others has a token.
        file: TOML, with settings by the same names. Its paths are relative to its directory.

    Raises:
        ConfigError: The file cannot be read, or what Configuration raises.
    """
    settings = {} if file is None else _read(file)
    if {"token", "token_file"} & arguments.keys():
        settings = {key: each for key, each in settings.items() if not key.startswith("token")}
    settings.update(arguments)
    if not {"token", "token_file"} & settings.keys() and TOKEN_VARIABLE in environment:
        token = environment[TOKEN_VARIABLE]
        try:
            Tokens(token)
        except ConfigError as error:  # who has given none should learn where this one is from
            raise ConfigError(f"the variable {TOKEN_VARIABLE} is no token: {error}") from None
        settings["token"] = (token,)
    if not {"http", "grpc", "uds"} & settings.keys():
        settings.update(http=_HTTP, grpc=_GRPC)
    return Configuration(**settings)


def _read(file: Path) -> dict[str, Any]:
    """The settings in a TOML file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # only who has a file needs it
        import tomli as tomllib

    try:
        with file.open("rb") as stream:
            settings: dict[str, Any] = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no TOML: {error}") from error
    known = {each.name: each.metadata for each in fields(Configuration)}
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{file} has an unknown setting {name!r}; {hint}")
        try:
            checked = check(name, value, known[name])
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        settings[name] = file.parent / checked if known[name]["kind"] == "path" else checked
    return settings
