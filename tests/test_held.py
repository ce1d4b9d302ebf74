"""An answer must not wait for a run that began after it was there."""

import threading
from typing import Any

import numpy as np

from tests.gated import PATIENCE, ROW, Gated
from tests.helpers import occupy
from tidegate import Batcher


def test_an_answer_that_is_there_does_not_wait_for_the_next_batch(model: Gated) -> None:
    first_was_read = threading.Event()

    def stepping(rows: Any) -> Any:
        if rows[0, 0] == 2:
            assert first_was_read.wait(5), "the first answer was held back"
        return model(rows)

    with Batcher(stepping, max_batch_size=1, caller_runs=False) as batcher:
        occupy(batcher, model)
        first, second = batcher.submit(ROW + 1), batcher.submit(ROW + 2)
        model.gate.set()
        np.testing.assert_array_equal(first.result(PATIENCE), 2 * (ROW + 1))
        first_was_read.set()
        second.result(PATIENCE)
