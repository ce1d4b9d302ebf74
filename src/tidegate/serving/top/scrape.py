"""Asking one server for its metrics."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tidegate.errors import ConfigError, TidegateError
from tidegate.serving.top.snapshot import Snapshot, parse

__all__ = ["ScrapeError", "Target"]

_LARGEST = 64 * 2**20  # bytes of one answer


class ScrapeError(TidegateError):
    """A server gave no metrics."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection would take the token to somebody else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Target:
    """The metrics of one server.

    Args:
        url: Their address; ``/metrics`` is added if it has no path.
        token: Sent as a bearer token, or None.
        ca: File of certificates to trust, PEM; None for the system's.
        timeout: Seconds to wait for the server.

    Raises:
        ConfigError: It is no address, or the certificates cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        timeout: float = 5.0,
    ) -> None:
        try:
            parts = urlsplit(url)
            well = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port  # raises if it is none
        except ValueError:
            well = False
        if not well:
            raise ConfigError(
                f"an address of metrics is like http://127.0.0.1:8000/metrics, got {url!r}"
            )
        if parts.path in ("", "/"):
            parts = parts._replace(path="/metrics")
        self.url = parts.geturl()
        self.name = parts.netloc.rpartition("@")[2]
        self._timeout = timeout
        self._request = urllib.request.Request(self.url, headers={"Accept": "text/plain"})
        if token is not None:
            self._request.add_unredirected_header("Authorization", f"Bearer {token}")
        # No proxies: it is mostly this machine that is asked.
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.ProxyHandler({}),
            _NoRedirects(),
        ]
        if ca is not None:
            try:
                context = ssl.create_default_context(cafile=ca)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"no certificates in {str(ca)!r}: {error}") from error
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def scrape(self) -> Snapshot:
        """What the server says now.

        Raises:
            ScrapeError: Nothing answers, or not with metrics.
        """
        try:
            with self._opener.open(self._request, timeout=self._timeout) as answer:
                body = answer.read(_LARGEST + 1)
        except urllib.error.HTTPError as error:
            error.close()
            hint = "; give a token with --token" if error.code in (401, 403) else ""
            raise ScrapeError(f"{self.url} answers {error.code} {error.reason}{hint}") from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            raise ScrapeError(f"nothing answers at {self.url}: {reason}") from error
        if len(body) > _LARGEST:
            raise ScrapeError(f"{self.url} answers more than {_LARGEST} bytes")
        try:
            return parse(body.decode(), time.monotonic())
        except ValueError as error:  # of the decoder as well
            raise ScrapeError(f"{self.url} does not answer with metrics: {error}") from error
