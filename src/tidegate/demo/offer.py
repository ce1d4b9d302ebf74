"""The demonstration's classifier behind a server: ``tidegate demo --serve``."""

from __future__ import annotations

import json

import numpy as np
from threadpoolctl import threadpool_limits

from tidegate import Batcher, TensorSpec
from tidegate.demo import digits
from tidegate.serving import Models, Served
from tidegate.serving.configuration import Configuration
from tidegate.serving.server import configure_logging, say, serve

__all__ = ["run", "served"]

NAME = "digits"
_SHADES = 16  # pixels come as whole numbers up to this


def served(data: digits.Digits, *, max_batch_size: int, max_queue_delay: float) -> Served:
    """The classifier as clients see it: 64 pixels in, a digit and ten probabilities out.

    Args:
        data: The trained model.
        max_batch_size: The Batcher's, in rows.
        max_queue_delay: The Batcher's, in seconds.
    """

    def model(images: digits.Floats) -> dict[str, digits.Floats]:
        probabilities = data.model(images / _SHADES)
        return {"digit": probabilities.argmax(axis=1), "probabilities": probabilities}

    batcher = Batcher(
        model,
        name=NAME,
        inputs=TensorSpec((64,), "uint8", name="image"),
        max_batch_size=max_batch_size,
        max_queue_delay=max_queue_delay,
    )
    return Served(NAME, batcher, example=np.zeros(64, np.uint8))


def run(*, http: int, grpc: int, max_batch_size: int, max_queue_delay: float, seed: int) -> int:
    """Trains, and serves until a signal.

    Args:
        http: Port of the HTTP door on 127.0.0.1.
        grpc: Port of the gRPC door on 127.0.0.1.
        max_batch_size: The Batcher's, in rows.
        max_queue_delay: The Batcher's, in seconds.
        seed: For the split of the data and for the training.

    Returns:
        The exit code.

    Raises:
        ConfigError: A port is taken, or a setting has a value that it cannot have.
    """
    configuration = Configuration(http=str(http), grpc=str(grpc))
    configure_logging(configuration.log_level)
    with threadpool_limits(limits=1):
        data = digits.train(seed)
        offered = served(data, max_batch_size=max_batch_size, max_queue_delay=max_queue_delay)
        announced: list[str] = []

        def announce(line: str) -> None:
            announced.append(line)
            say(f"tidegate: {line}\n")
            if line == "ready":
                urls = [each.removeprefix("listening on ") for each in announced[:-1]]
                say(_examples(urls, data))

        return serve(Models(offered), configuration, announce)


def _examples(urls: list[str], data: digits.Digits) -> str:
    """Commands to try, with an image that the classifier has not seen."""
    image = json.dumps((data.images[0] * _SHADES).astype(int).tolist(), separators=(",", ":"))
    request = {
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [1, 64], "data": json.loads(image)}
        ]
    }
    body = json.dumps(request, separators=(",", ":"))
    asking = [f"tidegate infer {url} {NAME} --input 'image={image}'" for url in urls]
    return "\n\n".join(
        [
            f"\nTry it; the image shows a {data.labels[0]}:",
            *asking,
            f"curl {urls[0]}/v2/models/{NAME}/infer -d '{body}'\n\n",
        ]
    )
