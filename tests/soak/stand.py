"""The Batcher that callers use just now: of random kind, resized and replaced under their hands."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from typing import Any

import numpy as np

from tests.soak.ledger import Ledger
from tidegate import Batcher, ConfigError, ModelPool, Statistics, TensorSpec

PATIENCE = 120.0
DELAYS = [0.0, 0.0, 0.0, 0.0001, 0.001]


def random_batcher(ledger: Ledger, rng: random.Random) -> Batcher:
    """A Batcher of some kind; its model answers as the ledger says, at once or after a while."""
    pause = rng.choice([0.0, 0.0, 0.0, 0.0001, 0.001])
    collate: Any = rng.choice(["stack", "stack", "stack", "list"])
    executor: Any = rng.choice(["thread", "thread", "thread", "inline"])
    instances = 1 if executor == "inline" else rng.choice([1, 1, 2, 3])

    def model(rows: Any) -> Any:
        if pause:
            time.sleep(pause)
        return ledger.answer(np.stack(rows) if collate == "list" else rows)

    settings: dict[str, Any] = {
        "max_batch_size": rng.choice([1, 3, 16, 64, 64, 200]),
        "max_queue_delay": 0.0 if executor == "inline" else rng.choice(DELAYS),
        "max_queue_size": rng.choice([None, None, 7, 100, 1000]),
        "overflow": rng.choice(["reject", "block"]),
        "outputs": rng.choice(["auto", "view", "copy"]),
        "caller_runs": rng.random() < 0.7,
        "default_timeout": rng.choice([None, None, None, 0.01, PATIENCE]),
        "executor": executor,
        "collate": collate,
    }
    if collate == "stack" and rng.random() < 0.5:
        settings["inputs"] = TensorSpec((3,), np.int64)
    return Batcher(ModelPool([model] * instances) if instances > 1 else model, **settings)


class Stand:
    """Lends the current Batcher and replaces it now and then.

    Args:
        ledger: The round's requests.
        rng: Chooses what is done, and when.
        loops: Event loops, which do some of the closing.
    """

    def __init__(
        self, ledger: Ledger, rng: random.Random, loops: list[asyncio.AbstractEventLoop]
    ) -> None:
        self._ledger = ledger
        self._rng = rng
        self._loops = loops
        self._over = threading.Event()
        self._closed: list[Batcher] = []
        self.batcher = random_batcher(ledger, rng)

    def other_than(self, closed: Batcher) -> Batcher:
        """The Batcher that came in the place of a closed one."""
        while self.batcher is closed:  # for as long as close() has begun and this has not ended
            time.sleep(0)
        return self.batcher

    def tend(self, pace: float) -> None:
        """Resizes and replaces, every `pace` seconds on average, until stop_tending() is called."""
        while not self._over.wait(self._rng.expovariate(1.0 / pace)):
            if self._rng.random() < 0.25:
                self.replace()
            else:
                self.resize()

    def resize(self) -> None:
        """Changes one setting of the current Batcher."""
        batcher, rng = self.batcher, self._rng
        setting = rng.randrange(4)
        if setting == 0:
            batcher.max_batch_size = rng.choice([1, 2, 5, 32, 64, 128, 300])
        elif setting == 1:
            with contextlib.suppress(ConfigError):  # an inline one takes none
                batcher.max_queue_delay = rng.choice(DELAYS)
        elif setting == 2:
            batcher.max_queue_size = rng.choice([None, 5, 50, 500])
        else:
            batcher.caller_runs = not batcher.caller_runs
        now = batcher.statistics()
        ended = now.completed + now.failed + now.cancelled + now.expired + now.closed
        assert ended <= now.submitted, now

    def replace(self) -> None:
        """Puts a new Batcher in the place of the current one, which it closes in some way."""
        old = self.batcher
        self.batcher = random_batcher(self._ledger, self._rng)
        drain = self._rng.random() < 0.5
        timeout = self._rng.choice([None, None, 0.0, 0.001])
        if self._rng.random() < 0.3:
            closing = asyncio.run_coroutine_threadsafe(
                old.aclose(drain, timeout), self._rng.choice(self._loops)
            )
            closing.result(PATIENCE)
        else:
            old.close(drain, timeout)
        self._closed.append(old)

    def stop_tending(self) -> None:
        """Has tend() come to its end."""
        self._over.set()

    def end(self) -> list[Statistics]:
        """Closes the last one; returns the final statistics of all."""
        self.batcher.close(timeout=PATIENCE)
        self._closed.append(self.batcher)
        return [final_statistics(batcher) for batcher in self._closed]


def final_statistics(batcher: Batcher) -> Statistics:
    """Those of a closed Batcher, once every model that it was abandoned with has come back."""
    deadline = time.monotonic() + PATIENCE
    while True:
        now = batcher.statistics()
        if {executor.state for executor in now.executors} <= {"idle", "gone"}:
            return batcher.statistics()
        assert time.monotonic() < deadline, f"a model never came back: {now}"
        time.sleep(0.001)
