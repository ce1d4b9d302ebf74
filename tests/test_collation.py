"""How batches are made: settings that cannot be, and models that are warmed up for theirs."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE
from tests.helpers import identity
from tidegate import (
    Batcher,
    ConfigError,
    ModelError,
    ModelPool,
    NativeModel,
    OutputError,
    PerToken,
    TensorSpec,
)

TOKENS = TensorSpec((None,), np.int64)


@pytest.mark.parametrize("warm", ["plain", "pool"])
@pytest.mark.parametrize("collate", ["stack", "pad", "pack"])
def test_each_instance_is_warmed_up_for_each_size_before_it_serves(warm: str, collate: Any) -> None:
    calls: list[list[Any]] = []

    def made() -> Any:
        seen: list[Any] = []
        calls.append(seen)

        def model(batch: Any) -> Any:
            rows = batch.cu_seqlens[1:] if collate == "pack" else batch
            rows = batch.lengths if collate == "pad" else rows
            seen.append((len(rows), batch.values.shape if collate != "stack" else batch.shape))
            return np.zeros(len(rows))

        return model

    settings: dict[str, Any] = {"max_batch_size": 4, "allowed_batch_sizes": [2, 4], "warmup": True}
    settings["inputs"] = TensorSpec((3,), "f4") if collate == "stack" else TOKENS
    if collate == "pad":
        settings["pad_to"] = [5, 9]
    model = made() if warm == "plain" else ModelPool(made, instances=2)
    with Batcher(model, collate=collate, **settings) as batcher:
        assert batcher.statistics().padding_rows == batcher.statistics().tokens == 0
    expected = {
        "stack": [(2, (2, 3)), (4, (4, 3))],
        "pad": [(2, (2, 5)), (2, (2, 9)), (4, (4, 5)), (4, (4, 9))],
        "pack": [(2, (2,)), (4, (4,))],
    }[collate]
    assert calls == [expected] * (1 if warm == "plain" else 2)


@pytest.mark.parametrize(
    ("collate", "cost", "expected"),
    [
        # What the batch looks like, and the tokens of its rows.
        ("pack", 3, [((2,), [1, 1]), ((3,), [1, 0, 1, 1])]),
        (
            "pad",
            9,
            [((2, 5), [5, 4]), ((2, 9), [9, 0]), ((4, 5), [5, 1, 1, 2]), ((4, 9), [9, 0, 0, 0])],
        ),
        ("pad", 5.5, [((2, 5), [5, 0]), ((4, 5), [5, 0, 0, 0])]),  # none has more tokens
        ("pad", 99, [((2, 5), [5, 5]), ((2, 9), [9, 9]), ((4, 5), [5] * 4), ((4, 9), [9] * 4)]),
    ],
)
def test_models_are_warmed_up_with_no_more_than_a_batch_may_cost(
    collate: Any, cost: float, expected: list[Any]
) -> None:
    seen: list[Any] = []

    def model(batch: Any) -> Any:
        lengths = batch.lengths if collate == "pad" else np.diff(batch.cu_seqlens)
        seen.append((batch.values.shape, lengths.tolist()))
        return np.zeros(len(lengths))

    settings: dict[str, Any] = {"pad_to": [5, 9]} if collate == "pad" else {}
    with Batcher(
        model,
        inputs=TOKENS,
        collate=collate,
        max_batch_size=4,
        allowed_batch_sizes=[2, 4],
        max_batch_cost=cost,
        warmup=True,
        **settings,
    ):
        assert seen == expected


def test_what_requests_cost_by_a_function_is_not_known_at_warm_up() -> None:
    seen: list[Any] = []

    def model(rows: Any) -> Any:
        seen.append(len(rows))
        return rows

    with Batcher(
        model,
        inputs=TensorSpec((3,), "f4"),
        max_batch_size=4,
        cost_fn=lambda row: float(row[0]),
        max_batch_cost=2,
        warmup=True,
    ):
        assert seen == [4]


def test_a_model_that_cannot_be_warmed_up_has_no_batcher() -> None:
    def model(rows: Any) -> Any:
        raise ValueError("no weights")

    pool = ModelPool([model])
    for broken in (model, pool):
        with pytest.raises(ValueError, match="no weights"):
            Batcher(broken, inputs=TensorSpec((3,), "f4"), warmup=True)
    with pool.acquire(timeout=PATIENCE):
        pass  # it was given back
    with pytest.raises(OutputError):
        Batcher(PerToken, inputs=TensorSpec((3,), "f4"), warmup=True)
    assert issubclass(OutputError, ModelError)


def test_the_largest_size_stays_max_batch_size() -> None:
    with Batcher(identity, max_batch_size=8, allowed_batch_sizes=(2, 8)) as batcher:
        assert batcher.allowed_batch_sizes == (2, 8)
        with pytest.raises(ConfigError, match="must be max_batch_size, got 8 and 16"):
            batcher.max_batch_size = 16
        assert batcher.max_batch_size == 8
        batcher.max_queue_delay = 0.001
    with pytest.raises(ConfigError, match="must be max_batch_size, got 4 and 64"):
        Batcher(identity, allowed_batch_sizes=[4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allowed_batch_sizes": []}, "allowed_batch_sizes must be ascending"),
        ({"allowed_batch_sizes": 64}, "allowed_batch_sizes must be ascending"),
        ({"allowed_batch_sizes": [64, 64]}, "allowed_batch_sizes must be ascending"),
        ({"allowed_batch_sizes": [0, 64]}, "must be at least 1, got 0"),
        ({"allowed_batch_sizes": [1.5, 64]}, "whole number"),
        ({"padding_policy": "up"}, "padding_policy must be one of"),
        ({"collate": "pad"}, "needs ragged inputs"),
        ({"collate": "pack", "inputs": TensorSpec((3,), "f4")}, "needs ragged inputs"),
        ({"inputs": TOKENS}, "cannot be stacked"),
        ({"inputs": TOKENS, "collate": "list"}, "inputs must be None"),
        ({"padding_value": 1}, "padding_value is for collate='pad'"),
        ({"inputs": TOKENS, "collate": "pad", "padding_value": "x"}, "must be a number"),
        ({"inputs": TOKENS, "collate": "pad", "padding_value": 0.5}, "0.5 is no int64"),
        ({"inputs": TOKENS, "collate": "pad", "padding_value": float("nan")}, "nan is no int64"),
        ({"inputs": TOKENS, "collate": "pad", "padding_value": 100.5}, "100.5 is no int64"),
        ({"inputs": TOKENS, "collate": "pad", "padding_value": 1e-9}, "1e-09 is no int64"),
        (
            {"inputs": TensorSpec((None,), "u1"), "collate": "pad", "padding_value": -1},
            "-1 is no uint8",
        ),
        ({"pad_to": [8]}, "pad_to is for collate='pad'"),
        ({"inputs": TOKENS, "collate": "pad", "pad_to": [8, 4]}, "pad_to must be ascending"),
        ({"length_buckets": [8]}, "length_buckets are for ragged inputs"),
        ({"warmup": True}, "warmup needs to know"),
        ({"warmup": True, "collate": "list"}, "warmup needs to know"),
        ({"group_key": 3}, "group_key must be callable"),
        ({"cost_fn": 3, "max_batch_cost": 1}, "cost_fn must be callable"),
        ({"cost_fn": len}, "cost_fn has no effect without max_batch_cost"),
        ({"max_batch_cost": 5}, "max_batch_cost needs cost_fn"),
        ({"cost_fn": len, "max_batch_cost": 0}, "max_batch_cost must be a number above 0"),
        ({"cost_fn": len, "max_batch_cost": float("inf")}, "max_batch_cost must be a number"),
        ({"cost_fn": len, "max_batch_cost": "9"}, "max_batch_cost must be a number"),
        ({"cost_fn": len, "max_batch_cost": 10**400}, "max_batch_cost must be a number"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_value(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Batcher(identity, **settings)


def test_a_native_model_takes_its_batches_as_they_are() -> None:
    function = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    native = NativeModel(address, outputs=TensorSpec((3,), "f4"))
    for settings in ({"allowed_batch_sizes": [64]}, {"warmup": True}):
        with pytest.raises(ConfigError, match="takes batches as they are"):
            Batcher(native, inputs=TensorSpec((3,), "f4"), **settings)
