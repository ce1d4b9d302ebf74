"""Requests of every kind from threads and event loops: each ends once, with its own answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.soak import checkpoints
from tests.soak.ledger import ANSWERED, EXPIRED, GIVEN_UP, WITHDRAWN, Ledger
from tests.soak.workload import soak
from tidegate import Batcher, Statistics


def run(requests: int, rounds: int, seed: int) -> None:
    shown = list(soak(requests, rounds, seed))
    outcomes = np.sum([each.outcomes for each in shown], axis=0)
    assert outcomes.sum() == requests
    # Most are answered, and each of the other ends comes up.
    assert outcomes[ANSWERED] > requests // 2
    assert (outcomes[1:] > 0).all(), outcomes
    assert checkpoints.growth([each.checkpoint for each in shown]) == []


def test_each_of_a_hundred_thousand_requests_ends_once_with_its_own_answer() -> None:
    run(requests=100_000, rounds=5, seed=20)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 1100, 100))
def test_so_does_each_of_ten_million(seed: int) -> None:
    run(requests=1_000_000, rounds=10, seed=seed)


# What it would be worth if it noticed nothing


def played_fairly() -> tuple[Ledger, list[Statistics]]:
    """A ledger of a few requests that all went well."""
    ledger = Ledger(40, salt=1000, rng=np.random.default_rng(3))
    ledger.rows[:, 2] = 0
    ledger.kinds = bytes(40)
    with Batcher(ledger.answer, max_batch_size=8) as batcher:
        for index, answer in enumerate(batcher.map(list(ledger.rows[:30]))):
            ledger.answered(index, answer)
        for index in range(30, 35):
            future = batcher.submit(ledger.rows[index], timeout=0.0)
            try:
                ledger.answered(index, future.result(10))
            except TimeoutError as error:
                ledger.failed(index, error)
        for index in range(35, 40):
            future = batcher.submit(ledger.rows[index])
            if future.cancel():
                ledger.note(index, WITHDRAWN)
            else:
                ledger.answered(index, future.result(10))
    return ledger, [batcher.statistics()]


def forget_one(ledger: Ledger) -> None:
    ledger.outcomes[3] = 0


def run_one_twice(ledger: Ledger) -> None:
    ledger.seen[3] += 1


def run_one_that_was_taken_back(ledger: Ledger) -> None:
    ledger.outcomes[3] = WITHDRAWN


def run_one_that_had_expired(ledger: Ledger) -> None:
    ledger.outcomes[3] = EXPIRED


def answer_one_that_never_ran(ledger: Ledger) -> None:
    ledger.seen[3] = 0


def lose_a_callback(ledger: Ledger) -> None:
    ledger.has_callback[3] = 1


def miscount(ledger: Ledger) -> None:
    ledger.outcomes[3:5] = bytes([GIVEN_UP, GIVEN_UP])
    ledger.seen[3:5] = 0


@pytest.mark.parametrize(
    "fault",
    [
        forget_one,
        run_one_twice,
        run_one_that_was_taken_back,
        run_one_that_had_expired,
        answer_one_that_never_ran,
        lose_a_callback,
        miscount,
    ],
)
def test_the_ledger_notices(fault: Callable[[Ledger], None]) -> None:
    ledger, statistics = played_fairly()
    ledger.check(statistics)
    fault(ledger)
    with pytest.raises(AssertionError):
        ledger.check(statistics)


def test_the_ledger_notices_anothers_answer() -> None:
    ledger, _ = played_fairly()
    ledger.outcomes[3] = 0
    with pytest.raises(AssertionError, match="got"):
        ledger.answered(3, 3 * (ledger.salt + 4) + 1)
    with pytest.raises(AssertionError, match="twice"):
        ledger.answered(4, 3 * (ledger.salt + 4) + 1)
