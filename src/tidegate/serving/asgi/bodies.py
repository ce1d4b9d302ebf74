"""Bodies of HTTP requests, read within limits; and answers, compressed as asked for."""

from __future__ import annotations

import gzip
import zlib
from asyncio import sleep
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from tidegate.errors import InputError
from tidegate.serving.errors import EncodingError
from tidegate.serving.limits import Limits
from tidegate.serving.rest import Body

__all__ = ["CODINGS", "HungUpError", "Receive", "asked_coding", "compress", "read"]

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

CODINGS = ("gzip", "deflate")
# zlib's name for each format; "deflate" is zlib's own, as HTTP has it.
_FORMATS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
# A small body may expand to a large one, so that it is done in pieces, between which others run.
_SLICE, _PIECE = 2**16, 2**20


class HungUpError(Exception):
    """The client is gone; there is nobody to answer."""


async def read(receive: Receive, headers: Mapping[bytes, bytes], limits: Limits) -> Body:
    """The whole body, decompressed.

    Args:
        receive: Of ASGI.
        headers: By their names in lower case.
        limits: What it may have; nothing beyond it is kept in memory.

    Raises:
        TooLargeError: It has more, by what the headers say or by what has come so far.
        EncodingError: It is compressed in a way that is not known.
        InputError: It is not what its headers say.
        HungUpError: The client is gone.
    """
    stated = headers.get(b"content-length")
    if stated is not None and stated.isdigit():
        limits.check_message(int(stated[:30]))
    coding = headers.get(b"content-encoding")
    if coding is not None and (coding := coding.strip().lower()) not in (b"", b"identity"):
        return await _read_compressed(receive, coding, limits)
    body, more = await _next(receive)
    limits.check_message(len(body))
    if not more:
        return body
    whole = bytearray(body)
    while more:
        body, more = await _next(receive)
        limits.check_message(len(whole) + len(body))
        whole += body
    return whole


async def _next(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise HungUpError
    return message.get("body", b""), message.get("more_body", False)


async def _read_compressed(receive: Receive, coding: bytes, limits: Limits) -> Body:
    if coding not in _FORMATS:
        raise EncodingError(
            f"a body may be compressed with {' or '.join(CODINGS)}, got "
            f"{coding.decode('latin-1'):.100}",
            expected=", ".join(CODINGS),
            given=coding.decode("latin-1")[:100],
        )
    whole = bytearray()
    expander = zlib.decompressobj(_FORMATS[coding])
    more, received = True, 0
    while more:
        body, more = await _next(receive)
        received += len(body)
        limits.check_message(received)
        for start in range(0, len(body), _SLICE):
            ahead = body[start : start + _SLICE]
            while ahead:
                if expander.eof:
                    raise _damaged(coding, "data after its end")
                try:
                    whole += expander.decompress(ahead, _PIECE)
                except zlib.error as error:
                    raise _damaged(coding, str(error)) from error
                limits.check_message(len(whole))
                ahead = expander.unused_data or expander.unconsumed_tail
                if ahead:
                    await sleep(0)
    if not expander.eof:
        raise _damaged(coding, "its end is missing")
    return whole


def _damaged(coding: bytes, given: str) -> InputError:
    return InputError(
        f"the body is not compressed with {coding.decode()}: {given}",
        expected=coding.decode(),
        given=given,
    )


def asked_coding(accept: bytes | None) -> str | None:
    """The coding that an ``Accept-Encoding`` asks for; None for an answer as it is.

    A client that names one coding means it. The lists that HTTP libraries send by themselves are no
    wish to have tensors compressed, which costs more time than it saves on most networks.
    """
    if accept is None:
        return None
    weights: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        coding, _, weight = part.strip().partition(";")
        try:
            weights[coding.strip()] = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            return None
    named = [coding for coding, weight in weights.items() if weight > 0]
    if len(named) == 1 and named[0] in CODINGS:
        return named[0]
    return None


def compress(body: Body, coding: str) -> bytes:
    """`body` in a coding, at zlib's fastest level."""
    if coding == "gzip":
        return gzip.compress(body, compresslevel=1, mtime=0)
    return zlib.compress(body, 1)
