"""The HTTP door's way of one inference request, from its body to its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeAlias

from tidegate.errors import InputError
from tidegate.serving import rest
from tidegate.serving.asgi import answers, bodies
from tidegate.serving.asgi.answers import Headers, Send
from tidegate.serving.asgi.bodies import HungUpError, Receive
from tidegate.serving.asgi.watch import Watch, Watches
from tidegate.serving.errors import EncodingError, SlowClientError
from tidegate.serving.limits import Limits
from tidegate.serving.models import Models

__all__ = ["Infer"]

Scope: TypeAlias = MutableMapping[str, Any]

_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
# What clients call a request: the protocol's two ways, and what curl says unless it is told.
_TYPES = (b"application/json", b"application/octet-stream", b"application/x-www-form-urlencoded")
# Larger answers are compressed in a thread, while the event loop goes on.
_SMALL = 2**16


class Infer:
    """``POST /v2/models/{name}[/versions/{version}]/infer``, an ASGI application by itself."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models = models
        self.limits = limits
        self.watches = Watches(limits.receive_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        watch = self.watches.enter(receive)
        failure: BaseException
        try:
            headers, body = await self._infer(scope, receive, watch)
        except asyncio.CancelledError as error:
            if watch.late and watch.forgive():
                failure = SlowClientError(
                    f"the request's body did not come within {self.limits.receive_timeout} s"
                )
            elif watch.hung_up:
                failure = error
            else:
                raise
        except HungUpError:
            failure = asyncio.CancelledError()
        except Exception as error:
            failure = error
        else:
            with contextlib.suppress(OSError):  # the client is gone, says ASGI
                await answers.send(send, 200, headers, body)
            return
        finally:
            self.watches.leave(watch)
        with contextlib.suppress(OSError):
            await answers.send_failure(send, failure, during=f"POST {scope['path']}")

    async def _infer(self, scope: Scope, receive: Receive, watch: Watch) -> tuple[Headers, bytes]:
        """The answer's headers and body."""
        parameters = scope["path_params"]
        served = self.models.get(parameters["name"], parameters.get("version", ""))
        headers: dict[bytes, bytes] = dict(scope["headers"])
        _check_type(headers.get(b"content-type"))
        header_length = _header_length(headers)
        body = await bodies.read(receive, headers, self.limits)
        request = rest.decode(body, header_length, served.inputs, self.limits)
        pending = served.submit(
            request.tensors,
            outputs=request.outputs,
            timeout=request.timeout,
            priority=request.priority,
        )
        watch.future = pending.future
        answer, json_length = rest.encode(served, request, await pending)
        out: Headers = [_JSON]
        if json_length is not None:
            out = [_BINARY, (b"inference-header-content-length", b"%d" % json_length)]
        coding = bodies.asked_coding(headers.get(b"accept-encoding"))
        if coding is not None:
            if len(answer) <= _SMALL:
                answer = bodies.compress(answer, coding)
            else:
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(None, bodies.compress, answer, coding)
            out += [(b"content-encoding", coding.encode()), (b"vary", b"accept-encoding")]
        return out, answer


def _check_type(given: bytes | None) -> None:
    if given is None or given in _TYPES:
        return
    kind = given.partition(b";")[0].strip().lower()
    if kind not in _TYPES:
        raise EncodingError(
            f"a request is application/json or application/octet-stream, got "
            f"{kind.decode('latin-1'):.100}",
            expected="application/json or application/octet-stream",
            given=kind.decode("latin-1")[:100],
        )


def _header_length(headers: Mapping[bytes, bytes]) -> int | None:
    """How much of the body is JSON; None for all of it."""
    given = headers.get(b"inference-header-content-length")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        shown = given.decode("latin-1")[:100]
        raise InputError(
            f"Inference-Header-Content-Length should be a number of bytes, got {shown!r}",
            expected="a number of bytes",
            given=shown,
        )
    return int(given)
