"""The measured doors of tidegate's own server, in front of the same perceptron."""

from __future__ import annotations

import importlib.util
from typing import Any

from benchmarks.serving.batchers import Model, tidegate_batcher

NAME = "mlp"


def has_http_door() -> bool:
    return importlib.util.find_spec("tidegate.serving.asgi") is not None


def has_grpc_door() -> bool:
    return importlib.util.find_spec("tidegate.serving.grpc") is not None


def models(model: Model) -> Any:
    """The perceptron on offer, with a batcher of the default kind."""
    from tidegate.serving import Models, Served, Tensor

    batcher = tidegate_batcher("tidegate", model)
    return Models(Served(NAME, batcher, outputs=Tensor("output", "FP32", (10,))))


def http_door(model: Model) -> Any:
    """The ASGI application of the Open Inference Protocol."""
    from tidegate.serving.asgi import create_app

    return create_app(models(model))


def add_grpc_door(server: Any, model: Model) -> None:
    """The servicers of the Open Inference Protocol and tidegate.v1, with health and reflection."""
    from tidegate.serving.grpc import add_to_server

    add_to_server(models(model), server)
