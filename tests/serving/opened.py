"""Doors opened in the test's own process, and requests to them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.gated import PATIENCE
from tests.serving.callers import body_of
from tidegate.serving import Models
from tidegate.serving.configuration import Configuration
from tidegate.serving.doors import Doors, make_doors

INFER = "/v2/models/echo/infer"


@contextlib.asynccontextmanager
async def opened(models: Models, **settings: Any) -> AsyncIterator[Doors]:
    """Both doors, or those of the settings, in the running loop."""
    if not {"http", "grpc", "uds"} & settings.keys():
        settings |= {"http": "0", "grpc": "0"}
    doors = make_doors(models, Configuration(**settings))
    for door in doors:
        await door.open()
    try:
        yield doors
    finally:
        await asyncio.gather(*[door.close() for door in doors])
        doors.discard()


def while_open(models: Models, ask: Callable[..., Any], **settings: Any) -> Any:
    """What a thread gets that asks open doors; it is given their addresses."""

    async def run() -> Any:
        async with opened(models, **settings) as doors:
            addresses = [door.url.partition("://")[2] for door in doors]
            return await asyncio.wait_for(asyncio.to_thread(ask, *addresses), PATIENCE)

    try:
        return asyncio.run(run())
    finally:
        if sys.version_info < (3, 11):  # asyncio's own: a failed handshake leaves a transport open
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()


def http_status(address: str, *, path: str = INFER, context: Any = None, **headers: str) -> int:
    """The status of a request over HTTP, or over HTTPS with a context."""
    if context is None:
        connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    else:
        connection = http.client.HTTPSConnection(address, timeout=PATIENCE, context=context)
    try:
        connection.request("POST" if path == INFER else "GET", path, body_of(1), headers)
        with connection.getresponse() as response:
            return response.status
    finally:
        connection.close()
