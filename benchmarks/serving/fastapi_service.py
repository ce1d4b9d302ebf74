"""The measured FastAPI services: one endpoint with the model called in it, and with a batcher."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from fastapi import FastAPI

from benchmarks.serving.batchers import Model, Submit, batching


def alone(model: Model) -> FastAPI:
    """Calls the model for each request, on the event loop: it takes some microseconds."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(row: list[float]) -> list[float]:
        outputs: list[float] = model(np.asarray(row, np.float32)[None])[0].tolist()
        return outputs

    return app


def alone_in_threads(model: Model) -> FastAPI:
    """The same as a plain function, which FastAPI calls in one of its 40 threads."""
    app = FastAPI()

    @app.post("/predict")
    def predict(row: list[float]) -> list[float]:
        outputs: list[float] = model(np.asarray(row, np.float32)[None])[0].tolist()
        return outputs

    return app


def batched(model: Model, kind: str) -> FastAPI:
    """Awaits `submit`, of the hand-written batcher or of tidegate's."""
    submit: Submit

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal submit
        async with batching(kind, model) as submit:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    async def predict(row: list[float]) -> list[float]:
        outputs: list[float] = (await submit(np.asarray(row, np.float32))).tolist()
        return outputs

    return app


def application(model: Model, kind: str) -> Any:
    """The ASGI application of one kind."""
    if kind == "alone":
        return alone(model)
    if kind == "alone-def":
        return alone_in_threads(model)
    return batched(model, kind)
