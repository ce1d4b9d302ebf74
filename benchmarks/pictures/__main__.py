"""Runs two batchers under load and draws what watches them: `tidegate top`, and a trace.

`python -m benchmarks.pictures` writes docs/images/runs/top.svg and trace.svg.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, start_http_server

from benchmarks.pictures.screen import draw_screen
from benchmarks.pictures.trace import draw_trace
from tidegate import Batcher, ModelPool, QueueFullError
from tidegate.metrics import Collector
from tidegate.tracing import write_chrome_trace

IMAGES = Path(__file__).parents[2] / "docs/images/runs"


def translator(batch: np.ndarray) -> np.ndarray:
    """Like a GPU: 4 ms a batch, and a little for each row."""
    time.sleep(0.004 + 25e-6 * len(batch))
    return batch


def classifier(batch: np.ndarray) -> np.ndarray:
    """A linear layer, and now and then a bad row."""
    answers = batch @ np.ones((batch.shape[1], 10), dtype=np.float32)
    return [ValueError("not a number") if np.isnan(row[0]) else row for row in answers]  # type: ignore[return-value]


class Load:
    """Threads that ask, each with pauses of its own, until stopped."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, count: int, pause: float, ask: Callable[[np.random.Generator], object]) -> None:
        """Starts `count` threads that pause for `pause` seconds on average."""

        def work(seed: int) -> None:
            chance = np.random.default_rng(seed)
            while not self._stop.wait(chance.exponential(pause)):
                with contextlib.suppress(QueueFullError):  # counted, and to be seen
                    ask(chance)

        for _ in range(count):
            thread = threading.Thread(target=work, args=(len(self._threads),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Ends the threads and waits for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def ask_classifier(batcher: Batcher) -> Callable[[np.random.Generator], object]:
    """One row; one in a thousand is bad."""
    row, bad = np.ones(64, dtype=np.float32), np.full(64, np.nan, dtype=np.float32)
    return lambda chance: batcher.submit(bad if chance.random() < 0.001 else row).exception(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="between the two scrapes")
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder of the pictures")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    load = Load()
    with (
        Batcher(ModelPool([translator, translator]), name="translate", max_batch_size=16) as slow,
        Batcher(classifier, name="classify") as quick,
        tempfile.TemporaryDirectory() as folder,
    ):
        registry = CollectorRegistry()
        registry.register(Collector([slow, quick]))
        server, thread = start_http_server(0, "127.0.0.1", registry)
        row = np.ones(64, dtype=np.float32)
        load.add(40, 0.006, lambda _: slow(row))
        load.add(12, 0.004, ask_classifier(quick))
        try:
            time.sleep(0.5)
            url = f"http://127.0.0.1:{server.server_port}/metrics"
            draw_screen(options.into / "top.svg", url, options.seconds)
            trace = Path(folder, "trace.json")
            write_chrome_trace(trace, slow)
            draw_trace(options.into / "trace.svg", trace)
        finally:
            load.stop()
            server.shutdown()
            server.server_close()
            thread.join()
    print(f"{options.into / 'top.svg'} and trace.svg are written.")


if __name__ == "__main__":
    main()
