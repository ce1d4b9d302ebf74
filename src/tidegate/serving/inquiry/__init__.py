"""Inquiry: one request to a running server, for ``tidegate infer``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.serving.datatypes import Array
from tidegate.serving.inquiry import values
from tidegate.serving.inquiry.connection import Access, Connection, InquiryError

__all__ = ["Inquiry", "InquiryError", "run"]

_GRPC = ("grpc", "grpcs", "grpc+unix")


@dataclass(frozen=True, kw_only=True)
class Inquiry:
    """What to ask.

    Attributes:
        url: Of the server, as it announces itself.
        model: Name of the model.
        version: Its version; the newest if empty.
        inputs: ``name=JSON``, or JSON alone for a model with one input.
        file: JSON with all inputs; ``-`` is standard input.
        outputs: Names of the outputs to ask for; all if empty.
        grpc: Whether to speak gRPC where the URL does not say.
        json_output: Whether to print JSON instead of text.
        access: Token, certificates and patience.
    """

    url: str
    model: str
    version: str = ""
    inputs: tuple[str, ...] = ()
    file: Path | None = None
    outputs: tuple[str, ...] = ()
    grpc: bool = False
    json_output: bool = False
    access: Access


def run(inquiry: Inquiry) -> str:
    """Asks, and returns what to print.

    Raises:
        InputError: The inputs are not what the model takes.
        InquiryError: The server cannot be reached, or answers with an error.
    """
    given = _given(inquiry)
    connection = _connect(inquiry)
    try:
        inputs = connection.inputs(inquiry.model, inquiry.version)
        tensors = values.arrays(inputs, given)
        answer = connection.infer(inquiry.model, inquiry.version, tensors, inquiry.outputs)
    finally:
        connection.close()
    return _json(answer) if inquiry.json_output else values.text(answer)


def _given(inquiry: Inquiry) -> values.Given:
    """The inputs, out of arguments, a file or standard input."""
    if inquiry.inputs:
        return values.from_arguments(inquiry.inputs)
    if inquiry.file is not None and str(inquiry.file) != "-":
        try:
            content = inquiry.file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InquiryError(f"cannot read {inquiry.file}: {error}") from error
        return values.from_json(content, str(inquiry.file))
    if sys.stdin.isatty() and inquiry.file is None:
        raise InquiryError("no inputs: give --input NAME=JSON, or --json FILE, or JSON on stdin")
    return values.from_json(sys.stdin.read(), "standard input")


def _connect(inquiry: Inquiry) -> Connection:
    url = inquiry.url
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = ("grpc" if inquiry.grpc else "http"), url
    elif inquiry.grpc and scheme not in _GRPC:
        scheme = {"http": "grpc", "https": "grpcs"}.get(scheme, scheme)
    if scheme in _GRPC:
        from tidegate.serving.inquiry.over_grpc import GrpcConnection

        return GrpcConnection(scheme, rest.rstrip("/"), inquiry.access)
    if scheme in ("http", "https", "http+unix"):
        from tidegate.serving.inquiry.over_http import HttpConnection

        return HttpConnection(scheme, rest, inquiry.access)
    raise InquiryError(
        f"a server's URL begins with http://, https://, http+unix://, grpc://, grpcs:// or "
        f"grpc+unix://, got {url!r}"
    )


def _json(answer: dict[str, Array]) -> str:
    outputs: list[dict[str, Any]] = [values.described(*each) for each in answer.items()]
    return json.dumps({"outputs": outputs})
