"""One measured server: `python -m benchmarks.serving.server DOOR KIND` prints its port and serves.

It imports nothing that a user of that service would not, for its memory is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import signal
import socket
from collections.abc import Callable

from benchmarks.models import perceptron
from benchmarks.serving.batchers import Model

BACKLOG = 2048
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>

Listening = Callable[[int], None]


def end_with_parent() -> None:
    """Be killed when whoever started this server ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ready(port: int, default_gc: bool) -> None:
    """Tell whoever started this server where it is.

    What has been loaded by now stays for good. Frozen, it is not walked through again by each full
    collection, which takes 40 ms beside FastAPI; requests that wait make such collections frequent.
    """
    if not default_gc:
        gc.collect()
        gc.freeze()
    print(json.dumps({"port": port}), flush=True)


def serve_http(kind: str, model: Model, loop: str, listening: Listening) -> None:
    """Uvicorn with httptools, one worker, no access log."""
    import uvicorn

    app: object
    if kind == "door":
        from benchmarks.serving.doors import http_door

        app = http_door(model)
    else:
        from benchmarks.serving.fastapi_service import application

        app = application(model, kind)
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="uvloop" if loop == "uvloop" else "asyncio",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=600,  # connections rest while other servers have their turns
    )
    # Named, since asyncio switches Nagle's algorithm off only where the protocol says TCP.
    with socket.socket(proto=socket.IPPROTO_TCP) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(BACKLOG)  # connections wait here until uvicorn takes them
        listening(bound.getsockname()[1])
        uvicorn.Server(config).run(sockets=[bound])


def serve_grpc(kind: str, model: Model, loop: str, listening: Listening) -> None:
    """grpc.aio, on the loop that was asked for."""
    from benchmarks.serving.grpc_service import serve

    run: Callable[..., None] = asyncio.run
    if loop == "uvloop":
        import uvloop

        run = uvloop.run
    run(serve(model, kind, listening))


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.serving.server", description=__doc__)
    parser.add_argument("door", choices=("http", "grpc"))
    parser.add_argument("kind")
    parser.add_argument("--core", type=int, help="run on this core only")
    parser.add_argument("--default-gc", action="store_true", help="leave the collector as it is")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args()
    end_with_parent()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    serve = serve_http if options.door == "http" else serve_grpc
    serve(options.kind, perceptron(), options.loop, lambda port: ready(port, options.default_gc))


if __name__ == "__main__":
    main()
