"""Asks a server over HTTP with the standard library alone; tensors travel as binary data."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from tidegate.errors import InputError
from tidegate.serving.datatypes import Array, check_datatype, check_shape, from_raw, to_raw
from tidegate.serving.inquiry.connection import Access, InquiryError
from tidegate.serving.inquiry.values import datatype
from tidegate.serving.tensors import Tensor

__all__ = ["HttpConnection"]

_LENGTH = "Inference-Header-Content-Length"


class HttpConnection:
    """A connection to a server's HTTP door.

    Args:
        scheme: ``http``, ``https`` or ``http+unix``.
        rest: Of the URL: host, port and path, or the path of the Unix socket.
        access: Token, certificates and patience.

    Raises:
        InquiryError: The URL is none, or a certificate cannot be read.
    """

    def __init__(self, scheme: str, rest: str, access: Access) -> None:
        self._access = access
        self._where = f"{scheme}://{rest}"
        self._prefix = ""
        if scheme == "http+unix":
            self._connection: http.client.HTTPConnection = _UnixConnection(rest, access.timeout)
            return
        try:
            parts = urlsplit(f"//{rest}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InquiryError(f"{self._where} is no URL: {error}") from error
        if not host:
            raise InquiryError(f"{self._where} has no host")
        self._prefix = parts.path.rstrip("/")
        if scheme == "https":
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=access.timeout, context=_context(access)
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=access.timeout)

    def inputs(self, model: str, version: str) -> tuple[Tensor, ...]:
        """What the model takes, from its metadata."""
        _, body = self._ask("GET", self._path(model, version))
        metadata = _json(body)
        try:
            return tuple(
                Tensor(each["name"], each["datatype"], tuple(each["shape"][1:]))
                for each in metadata["inputs"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InquiryError(f"{self._where} answers with no metadata: {error!r}") from error

    def infer(
        self, model: str, version: str, tensors: Mapping[str, Array], outputs: Sequence[str]
    ) -> dict[str, Array]:
        """What the model answers."""
        parts = {name: to_raw(array) for name, array in tensors.items()}
        request: dict[str, Any] = {
            "inputs": [
                {
                    "name": name,
                    "datatype": datatype(array),
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": len(parts[name])},
                }
                for name, array in tensors.items()
            ],
            "parameters": {"binary_data_output": True},
        }
        if outputs:
            request["outputs"] = [{"name": name} for name in outputs]
        head = json.dumps(request).encode()
        length, body = self._ask(
            "POST",
            f"{self._path(model, version)}/infer",
            b"".join([head, *parts.values()]),
            {_LENGTH: str(len(head)), "content-type": "application/octet-stream"},
        )
        return self._arrays(length, body)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _arrays(self, length: int, body: bytes) -> dict[str, Array]:
        """The outputs in an answer of JSON and, behind it, binary data."""
        found: dict[str, Array] = {}
        start = length
        try:
            for each in _json(body[:length])["outputs"]:
                end = start + each["parameters"]["binary_data_size"]
                name = str(each["name"])
                shape = check_shape(name, each["shape"])
                kind = check_datatype(name, each["datatype"])
                found[name] = from_raw(name, kind, shape, body[start:end])
                start = end
        except (KeyError, TypeError, InputError) as error:
            raise InquiryError(f"{self._where} answers with no tensors: {error!r}") from error
        return found

    def _path(self, model: str, version: str) -> str:
        path = f"{self._prefix}/v2/models/{quote(model, safe='')}"
        return f"{path}/versions/{quote(version, safe='')}" if version else path

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, bytes]:
        """The bytes of JSON in the answer, and all of it; raises InquiryError if it is an error."""
        try:
            self._connection.request(method, path, body, {**self._access.headers, **headers})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise InquiryError(
                f"cannot ask {self._where}: {str(error) or type(error).__name__}"
            ) from error
        if response.status != 200:
            try:
                message = _json(content)["error"]
            except (InquiryError, KeyError, TypeError):
                message = response.reason
            raise InquiryError(f"the server answers {response.status}: {message}")
        try:
            return int(response.headers.get(_LENGTH, len(content))), content
        except ValueError as error:
            raise InquiryError(f"{self._where} answers with a wrong {_LENGTH}") from error


class _UnixConnection(http.client.HTTPConnection):
    """A connection through a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connects to the path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca)
        if access.certificate is not None:
            context.load_cert_chain(access.certificate, access.key)
    except (OSError, ssl.SSLError) as error:
        raise InquiryError(f"cannot read the certificates: {error}") from error
    return context


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise InquiryError(f"the server's answer is no JSON: {error}") from error
