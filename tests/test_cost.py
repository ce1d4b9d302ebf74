"""cost_fn and max_batch_cost: what shares a batch has a budget, and what cannot be is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, Holding, in_thread
from tests.helpers import identity
from tidegate import Batcher, ConfigError, InputError, PerToken, TensorSpec

TOKENS = TensorSpec((None,), np.int64)


def cost_of(row: Any) -> float:
    """The first number of a row."""
    return float(row[0])


def row_of(cost: float, number: float = 0) -> Any:
    return np.array([cost, number, 0.0])


def batches_of(costs: list[float], **settings: Any) -> list[list[float]]:
    """The costs of the batches that requests of these costs make."""
    model = Holding(identity)
    with Batcher(model, cost_fn=cost_of, caller_runs=False, **settings) as batcher:
        futures = model.ask_together(batcher, [row_of(0), *map(row_of, costs)])
        for cost, future in zip([0, *costs], futures, strict=True):
            assert future.result(PATIENCE)[0] == cost
    return [batch[:, 0].tolist() for batch in model.batches[1:]]


# Budgets


@pytest.mark.parametrize(
    ("costs", "batches"),
    [
        ([4, 4, 4], [[4, 4], [4]]),
        ([10, 10], [[10], [10]]),
        ([5, 5, 0, 0], [[5, 5], [0, 0]]),  # full to the brim, and gone
        ([9.5, 0.5, 0.25], [[9.5, 0.5], [0.25]]),
        ([0] * 5, [[0] * 5]),
        ([1] * 12, [[1] * 10, [1, 1]]),
        ([6, 5, 4], [[6], [5, 4]]),
    ],
)
def test_a_batch_is_closed_when_the_next_request_would_go_beyond(
    costs: list[float], batches: list[list[float]]
) -> None:
    assert batches_of(costs, max_batch_cost=10) == batches


def test_rows_and_cost_both_limit_a_batch() -> None:
    assert batches_of([1, 1, 1, 5, 5, 1], max_batch_cost=10, max_batch_size=3) == [
        [1, 1, 1],
        [5, 5],
        [1],
    ]


def test_no_batch_is_ever_above_its_budget_under_load() -> None:
    seen: list[float] = []

    def model(rows: Any) -> Any:
        seen.append(rows[:, 0].sum())
        return rows

    with Batcher(model, cost_fn=cost_of, max_batch_cost=10, max_batch_size=16) as batcher:

        def work(seed: int) -> None:
            chance = np.random.default_rng(seed)
            for number in range(150):
                row = row_of(float(chance.integers(0, 11)), number)
                np.testing.assert_array_equal(batcher(row), row)

        for thread in [in_thread(lambda seed=seed: work(seed)) for seed in range(4)]:
            thread.outcome()
    assert max(seen) <= 10


@pytest.mark.parametrize("collate", ["pad", "pack"])
def test_without_a_function_the_tokens_are_what_a_ragged_request_costs(collate: Any) -> None:
    model = Holding(lambda batch: PerToken(batch.values))
    with Batcher(
        model, inputs=TOKENS, collate=collate, max_batch_cost=8, caller_runs=False
    ) as batcher:
        rows = [np.arange(length) for length in (1, 5, 4, 4, 8, 0, 3)]
        for row, future in zip(rows, model.ask_together(batcher, rows), strict=True):
            np.testing.assert_array_equal(future.result(PATIENCE), row)
        with pytest.raises(InputError, match="costs 9, which is above max_batch_cost=8"):
            batcher.submit(np.arange(9))
    lengths = [
        np.diff(batch.cu_seqlens).tolist() if collate == "pack" else batch.lengths.tolist()
        for batch in model.batches[1:]
    ]
    # 4 + 4 is all that may be, so nothing joins it; nor anything the 8.
    assert lengths == [[5], [4, 4], [8], [0, 3]]


def test_a_function_may_count_something_else_than_tokens() -> None:
    model = Holding(lambda batch: PerToken(batch.values))
    with Batcher(
        model,
        inputs=TOKENS,
        collate="pack",
        cost_fn=lambda row: len(row) ** 2,
        max_batch_cost=16,
        caller_runs=False,
    ) as batcher:
        futures = model.ask_together(batcher, map(np.arange, (1, 3, 2, 4, 1)))
        assert [len(future.result(PATIENCE)) for future in futures] == [1, 3, 2, 4, 1]
    assert [np.diff(batch.cu_seqlens).tolist() for batch in model.batches] == [
        [1],
        [3, 2],
        [4],
        [1],
    ]


def test_what_a_batch_went_for_is_counted() -> None:
    model = Holding(identity)
    with Batcher(model, cost_fn=cost_of, max_batch_cost=10, caller_runs=False) as batcher:
        for future in model.ask_together(batcher, map(row_of, (0, 8, 8, 10, 1))):
            future.result(PATIENCE)
        assert batcher.statistics().dispatched["cost"] == 3
        assert [batch.reason for batch in batcher.recent_batches()].count("cost") == 3


def test_each_group_has_its_own_budget() -> None:
    model = Holding(identity)
    with Batcher(
        model,
        cost_fn=cost_of,
        max_batch_cost=10,
        group_key=lambda row: int(row[1]),
        caller_runs=False,
    ) as batcher:
        asked = [row_of(6, number % 2) for number in range(6)]
        for future in model.ask_together(batcher, [row_of(0), *asked]):
            future.result(PATIENCE)
    assert [len(batch) for batch in model.batches] == [1] * 7


# Costs that cannot be


def raising(_: Any) -> float:
    """Fails."""
    raise ZeroDivisionError("no cost")


@pytest.mark.parametrize(
    ("bad_cost", "message"),
    [
        pytest.param(raising, "cost_fn failed .* ZeroDivisionError: no cost", id="raises"),
        pytest.param(lambda _: None, "cost_fn failed .* TypeError", id="nothing"),
        pytest.param(lambda _: "much", "cost_fn failed", id="text"),
        pytest.param(lambda _: -1, "must return a number >= 0, got -1", id="negative"),
        pytest.param(lambda _: -0.001, "must return a number >= 0, got -0.001", id="just negative"),
        pytest.param(lambda _: float("nan"), "must return a number >= 0, got nan", id="nan"),
        pytest.param(lambda _: float("inf"), "must return a number >= 0, got inf", id="infinite"),
        pytest.param(lambda _: 10.5, "costs 10.5, which is above max_batch_cost=10", id="too much"),
    ],
)
def test_a_cost_that_cannot_be_harms_its_own_request_only(bad_cost: Any, message: str) -> None:
    model = Holding(identity)

    def cost_fn(row: Any) -> Any:
        return bad_cost(row) if row[1] == 13 else 1

    with Batcher(model, cost_fn=cost_fn, max_batch_cost=10, caller_runs=False) as batcher:
        futures = [batcher.submit(row_of(1))]
        model.await_entry()
        futures.append(batcher.submit(row_of(1, 1)))
        for ask in (batcher.submit, batcher, batcher.predict_async):
            with pytest.raises(InputError, match=message):
                ask(row_of(1, 13))
        with pytest.raises(InputError, match=message):
            batcher.submit_many([row_of(1), row_of(1, 13)])
        futures.append(batcher.submit(row_of(1, 2)))
        model.gate.set()
        assert [future.result(PATIENCE)[1] for future in futures] == [0, 1, 2]
    assert [len(batch) for batch in model.batches] == [1, 2]
    assert batcher.statistics().submitted == 3


def test_an_interrupt_in_a_callback_is_the_callers() -> None:
    def cost_fn(row: Any) -> float:
        raise KeyboardInterrupt

    with Batcher(identity, cost_fn=cost_fn, max_batch_cost=10) as batcher:
        with pytest.raises(KeyboardInterrupt):
            batcher.submit(row_of(1))
        assert batcher.statistics().submitted == 0


# Changes while running


def test_the_budget_may_be_changed_while_running() -> None:
    model = Holding(identity)
    with Batcher(
        model, cost_fn=cost_of, max_batch_cost=10, max_batch_size=8, caller_runs=False
    ) as batcher:
        futures = [batcher.submit(row_of(0))]
        model.await_entry()
        futures += [batcher.submit(row_of(6)) for _ in range(2)]
        batcher.max_batch_cost = 20
        assert batcher.max_batch_cost == 20
        futures += [batcher.submit(row_of(cost)) for cost in (6, 6, 18)]
        batcher.max_batch_cost = 5
        with pytest.raises(InputError, match="above max_batch_cost=5"):
            batcher.submit(row_of(6))
        futures += [batcher.submit(row_of(cost)) for cost in (3, 3)]
        model.gate.set()
        for future in futures:
            future.result(PATIENCE)
    assert [batch[:, 0].tolist() for batch in model.batches[1:]] == [[6], [6, 6, 6], [18], [3], [3]]


def test_a_larger_budget_makes_larger_batches_of_tokens() -> None:
    model = Holding(lambda batch: PerToken(batch.values))
    with Batcher(
        model, inputs=TOKENS, collate="pack", max_batch_cost=8, caller_runs=False
    ) as batcher:
        for future in model.ask_together(batcher, [np.arange(4)] * 20):
            future.result(PATIENCE)
        batcher.max_batch_cost = 400
        model.gate.clear()
        while model.entered.acquire(blocking=False):
            pass
        before = len(model.batches)
        for future in model.ask_together(batcher, [np.arange(4)] * 41):
            np.testing.assert_array_equal(future.result(PATIENCE), np.arange(4))
    rows = [len(batch.cu_seqlens) - 1 for batch in model.batches[before:]]
    assert max(rows) == 40, "memory that was made for a small budget was kept"


def test_the_budget_changes_under_load_without_losing_a_row() -> None:
    with Batcher(
        lambda batch: PerToken(batch.values), inputs=TOKENS, collate="pack", max_batch_cost=50
    ) as batcher:
        done = False

        def change() -> None:
            budget = 50
            while not done:
                budget = 50 + (budget * 7) % 500
                batcher.max_batch_cost = budget
                batcher.max_batch_size = 1 + budget % 40

        changing = in_thread(change)

        def work(seed: int) -> None:
            chance = np.random.default_rng(seed)
            for _ in range(300):
                row = chance.integers(0, 100, chance.integers(0, 50))
                np.testing.assert_array_equal(batcher(row), row)

        try:
            for thread in [in_thread(lambda seed=seed: work(seed)) for seed in range(3)]:
                thread.outcome()
        finally:
            done = True
        changing.outcome()


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), None, "10"])
def test_a_budget_that_cannot_be_changes_nothing(wrong: Any) -> None:
    with Batcher(identity, cost_fn=cost_of, max_batch_cost=10) as batcher:
        with pytest.raises(ConfigError, match="max_batch_cost must be a number above 0"):
            batcher.max_batch_cost = wrong
        assert batcher.max_batch_cost == 10
        assert "max_batch_cost=10" in repr(batcher)
    with Batcher(identity) as plain:
        assert plain.max_batch_cost is None
        with pytest.raises(ConfigError, match="only if the batcher was made with one"):
            plain.max_batch_cost = 5
