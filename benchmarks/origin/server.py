"""One measured server in Python: `python -m benchmarks.origin.server KIND --weights FILE ...`.

It imports nothing that a user of that service would not, for its memory is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import FEATURES
from benchmarks.origin.weights import Calls, model
from benchmarks.serving.batchers import MAX_BATCH_SIZE, Model

KINDS = ("fastapi", "grpc", "native", "numpy")
BATCHED = ("alone", "thread", "thread-5ms", "tidegate")


def ready(port: int) -> None:
    """Tell whoever started this server where it is; what has been loaded by now stays."""
    gc.collect()
    gc.freeze()
    print(json.dumps({"port": port}), flush=True)


def only_numpy(served: Model) -> None:
    """NumPy and the model without any server: what all memory is compared with."""
    for rows in (1, MAX_BATCH_SIZE):
        served(np.zeros((rows, FEATURES), np.float32))
    ready(0)
    signal.pause()


def native(served: Model) -> None:
    """The native front end with its default policy."""
    from benchmarks.serving.doors import models
    from tidegate.serving.native import NativeServer

    with NativeServer(models(served)) as server:
        ready(server.address[1])
        signal.pause()


async def grpc_aio(served: Model, batched: str, listening: Callable[[int], None]) -> None:
    """A `grpc.aio` service of tidegate.v1, as one writes it."""
    import grpc

    from benchmarks.serving.batchers import batching
    from tidegate.serving._proto import tidegate_v1_pb2 as pb

    async with contextlib.AsyncExitStack() as stack:
        if batched == "alone":

            async def predict(request: Any, context: Any) -> Any:
                row = np.array(request.features, np.float32)
                return pb.PredictResponse(predictions=served(row[None])[0].tolist())

        else:
            submit = await stack.enter_async_context(batching(batched, served))

            async def predict(request: Any, context: Any) -> Any:
                answer = await submit(np.array(request.features, np.float32))
                return pb.PredictResponse(predictions=answer.tolist())

        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            predict,
            request_deserializer=pb.PredictRequest.FromString,
            response_serializer=pb.PredictResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tidegate.v1.Inference", {"Predict": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        listening(port)
        await server.wait_for_termination()


def serve(kind: str, batched: str, served: Model) -> None:
    """Serve until this process is ended."""
    if kind == "numpy":
        only_numpy(served)
    elif kind == "native":
        native(served)
    elif kind == "grpc":
        import asyncio

        asyncio.run(grpc_aio(served, batched, ready))
    else:
        from benchmarks.serving.server import serve_http

        serve_http(batched, served, "asyncio", ready)


def end_with_parent() -> None:
    """Be killed when whoever started this server ends, however it does."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of <sys/prctl.h>


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.origin.server", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--batched", choices=BATCHED, default="alone")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--calls", type=Path, required=True, help="file that counts model calls")
    parser.add_argument("--accelerator", action="store_true", help="2 ms for each call")
    options = parser.parse_args()
    end_with_parent()
    served = model(options.weights, Calls(options.calls), accelerator=options.accelerator)
    serve(options.kind, options.batched, served)


if __name__ == "__main__":
    main()
