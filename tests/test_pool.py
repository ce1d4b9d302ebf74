"""ModelPool: how instances are made, lent, and replaced while requests keep coming."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.gated import PATIENCE, ROW, Gated, in_thread, until
from tests.helpers import identity
from tidegate import (
    Batcher,
    ClosedError,
    ConfigError,
    InputError,
    ModelError,
    ModelPool,
    TidegateError,
)


class Exclusive:
    """A model that fails if two threads are in it at once, and says which of them it is."""

    def __init__(self, device: Any = None) -> None:
        self.device = device
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, rows: Any) -> Any:
        """Doubles."""
        if not self._lock.acquire(blocking=False):
            raise AssertionError("two threads are in one instance")
        try:
            self.calls += 1
            return np.asarray(rows) * 2
        finally:
            self._lock.release()


def factory_of(models: list[Any]) -> Callable[[Any], Any]:
    """A factory that remembers what it made."""

    def factory(device: Any) -> Exclusive:
        model = Exclusive(device)
        models.append(model)
        return model

    return factory


# Making them


def test_a_factory_is_called_once_for_each_instance_of_each_device() -> None:
    models: list[Exclusive] = []
    pool = ModelPool(factory_of(models), instances=2, devices=["cuda:0", "cuda:1"])
    assert len(pool) == 4
    assert [model.device for model in models] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert [instance.device for instance in pool.instances] == [model.device for model in models]
    assert [instance.model for instance in pool.instances] == models


def test_a_factory_need_not_take_a_device() -> None:
    assert len(ModelPool(lambda: Exclusive(), instances=3)) == 3
    assert len(ModelPool(Exclusive, devices=[0, 1])) == 2


def test_without_devices_a_factory_gets_none() -> None:
    models: list[Exclusive] = []
    ModelPool(factory_of(models))
    assert [model.device for model in models] == [None]


def test_without_devices_a_factory_keeps_the_defaults_that_it_has() -> None:
    made: list[Any] = []

    def load(path: str = "model.npz") -> Exclusive:
        made.append(path)
        return Exclusive()

    pool = ModelPool(load)
    pool.swap(load)
    assert made == ["model.npz", "model.npz"]
    ModelPool(load, devices=["cpu"])
    assert made[2:] == ["cpu"]


def test_ready_models_are_taken_as_they_are() -> None:
    models = [Exclusive(), Exclusive()]
    pool = ModelPool(models)
    assert [instance.model for instance in pool.instances] == models
    with Batcher(pool) as batcher:
        np.testing.assert_array_equal(batcher(ROW + 1), 2 * (ROW + 1))


def test_each_instance_is_warmed_up_before_it_serves() -> None:
    warmed: list[Any] = []
    models: list[Exclusive] = []
    ModelPool(factory_of(models), instances=2, warmup=warmed.append)
    assert warmed == models
    warmed.clear()
    ModelPool(models, warmup=warmed.append)
    assert warmed == models


@pytest.mark.parametrize(
    ("arguments", "settings", "complaint"),
    [
        ((Exclusive,), {"instances": 0}, "instances must be at least 1, got 0"),
        ((Exclusive,), {"instances": -1}, "instances must be at least 1, got -1"),
        ((Exclusive,), {"instances": 1.5}, "instances must be at least 1, got 1.5"),
        ((Exclusive,), {"instances": True}, "instances must be at least 1, got True"),
        ((Exclusive,), {"devices": []}, "at least one device"),
        ((Exclusive,), {"devices": "cuda"}, "'cuda'"),
        ((Exclusive,), {"devices": 2}, "got 2"),
        (([],), {}, "at least one model"),
        (([Exclusive()],), {"instances": 2}, "ready models"),
        (([Exclusive()],), {"devices": [0]}, "ready models"),
        (([Exclusive(), 3],), {}, "callable batch -> outputs, got int"),
        ((lambda: None,), {}, "callable batch -> outputs, got NoneType"),
        ((3,), {}, "got int"),
        ((Exclusive,), {"warmup": True}, "warmup must be callable with a new model, got True"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(arguments: Any, settings: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ModelPool(*arguments, **settings)


def test_what_a_factory_or_warm_up_raises_comes_through() -> None:
    def bad(*_: Any) -> Any:
        raise LookupError("no weights")

    with pytest.raises(LookupError, match="no weights"):
        ModelPool(bad)
    with pytest.raises(LookupError, match="no weights"):
        ModelPool(Exclusive, warmup=bad)


def test_a_pool_is_printable() -> None:
    pool = ModelPool(Exclusive, instances=2, name="embed")
    assert repr(pool) == "ModelPool('embed', instances=2)"
    pool.swap(Exclusive, version="v2")
    assert repr(pool) == "ModelPool('embed', instances=2, version='v2')"


# Serving


def test_no_instance_is_ever_called_by_two_threads_at_once() -> None:
    models: list[Exclusive] = []
    pool = ModelPool(factory_of(models), instances=3)
    with Batcher(pool, max_batch_size=2) as batcher:

        def ask(number: int) -> None:
            for step in range(60):
                row = ROW + 100 * number + step
                if step % 3 == 0:
                    with pool.acquire() as model:
                        answer = model(row)
                elif step % 3 == 1:
                    answer = batcher(row)
                else:
                    answer = batcher.submit(row).result(PATIENCE)
                np.testing.assert_array_equal(answer, 2 * row)

        threads = [in_thread(lambda n=n: ask(n)) for n in range(8)]
        for thread in threads:
            thread.outcome()
        assert batcher.statistics().failed == 0
    assert sum(model.calls for model in models) == 8 * 20 + batcher.statistics().batches


def test_an_inline_batcher_does_not_share_its_instance_either(
    run: Callable[[Any], Any],
) -> None:
    model = Exclusive()
    pool = ModelPool([model])
    stop = threading.Event()

    def borrow() -> int:
        count = 0
        while not stop.is_set():
            with pool.acquire() as lent:
                lent(ROW)
                count += 1
        return count

    async def main() -> None:
        async with Batcher(pool, executor="inline") as batcher:
            for _ in range(50):
                await asyncio.gather(*(batcher.submit(ROW) for _ in range(4)))

    borrowing = in_thread(borrow)
    run(main())
    stop.set()
    assert borrowing.outcome() > 0


def test_every_instance_has_an_executor() -> None:
    pool = ModelPool(Exclusive, instances=3)
    with Batcher(pool) as batcher:
        until(lambda: [e.state for e in batcher.statistics().executors] == ["idle"] * 3)


def test_instances_of_all_devices_serve_at_once() -> None:
    both = threading.Barrier(2)
    seen: set[Any] = set()

    def factory(device: str) -> Any:
        def model(rows: Any) -> Any:
            both.wait(PATIENCE)  # passes only if two are here at once
            seen.add(device)
            return rows

        return model

    with Batcher(ModelPool(factory, devices=["a", "b"]), max_batch_size=1) as batcher:
        for future in [batcher.submit(ROW) for _ in range(20)]:
            future.result(PATIENCE)
    assert seen == {"a", "b"}


def test_two_batchers_may_share_a_pool() -> None:
    pool = ModelPool(Exclusive, instances=2)
    with Batcher(pool) as first, Batcher(pool) as second:
        threads = [
            in_thread(lambda b=batcher: [b(ROW) for _ in range(50)])
            for batcher in (first, second) * 3
        ]
        for thread in threads:
            thread.outcome()
        assert (first.statistics().failed, second.statistics().failed) == (0, 0)


def test_an_instance_that_raises_serves_on() -> None:
    def model(rows: Any) -> Any:
        if rows[0, 0] < 0:
            raise LookupError("below zero")
        return rows

    with Batcher(ModelPool([model]), max_batch_size=1) as batcher:
        for _ in range(3):
            with pytest.raises(ModelError, match="below zero"):
                batcher(ROW - 1)
            np.testing.assert_array_equal(batcher.submit(ROW).result(PATIENCE), ROW)


# Lending


def test_acquire_lends_a_model_that_nobody_else_gets() -> None:
    pool = ModelPool(Exclusive, instances=2)
    with pool.acquire() as first, pool.acquire() as second:
        assert first is not second
        with pytest.raises(TimeoutError, match=r"within 0\.01 s") as caught, pool.acquire(0.01):
            pass
        assert not isinstance(caught.value, TidegateError)
    with pool.acquire(timeout=0) as again:
        np.testing.assert_array_equal(again(ROW + 1), 2 * (ROW + 1))


@pytest.mark.parametrize("timeout", ["soon", [1.0], float("nan"), 1j, np.zeros(2), 10**400])
def test_a_timeout_that_cannot_be_is_refused_with_its_value(timeout: Any) -> None:
    pool = ModelPool(Exclusive)
    with pytest.raises(InputError, match="number of seconds >= 0 or None") as caught:
        pool.acquire(timeout).__enter__()
    assert (caught.value.expected, caught.value.given) == ("seconds >= 0", repr(timeout))
    with pool.acquire(timeout=-1), pytest.raises(TimeoutError):
        pool.acquire(timeout=-1).__enter__()


@pytest.mark.parametrize("timeout", [PATIENCE, float("inf"), 1e300])
def test_acquire_waits_for_a_model_that_comes_back(timeout: float) -> None:
    pool = ModelPool(Exclusive)
    with pool.acquire():
        waiting = [in_thread(lambda: pool.acquire(timeout).__enter__()) for _ in range(1)]
        until(lambda: pool._waiting == 1)
    assert type(waiting[0].outcome()) is Exclusive


def test_a_lent_model_comes_back_when_its_borrower_fails() -> None:
    pool = ModelPool(Exclusive)
    with pytest.raises(LookupError), pool.acquire():
        raise LookupError
    with pool.acquire(timeout=0):
        pass


@pytest.mark.parametrize("door", ["submit", "call", "led"])
def test_batchers_use_the_others_while_one_is_lent(door: str) -> None:
    pool = ModelPool(Exclusive, instances=2)
    with Batcher(pool, caller_runs=door == "led", max_batch_size=1) as batcher:
        until(lambda: [e.state for e in batcher.statistics().executors] == ["idle"] * 2)
        with pool.acquire() as lent:
            for number in range(20):
                future = batcher.submit(ROW + number) if door == "submit" else None
                answer = batcher(ROW + number) if future is None else future.result(PATIENCE)
                np.testing.assert_array_equal(answer, 2 * (ROW + number))
            assert lent.calls == 0
        futures = [batcher.submit(ROW + number) for number in range(20)]
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * (ROW + number))


def test_requests_wait_while_all_are_lent() -> None:
    pool = ModelPool(Exclusive)
    with Batcher(pool, caller_runs=False) as batcher:
        with pool.acquire():
            futures = [batcher.submit(ROW + number) for number in range(5)]
            assert not any(future.done() for future in futures)
            assert futures[2].cancel()
        for number in (0, 1, 3, 4):
            np.testing.assert_array_equal(futures[number].result(PATIENCE), 2 * (ROW + number))


def test_a_closed_pool_lends_nothing_and_its_batchers_go_on() -> None:
    with ModelPool(Exclusive) as pool, pool.acquire():
        waiting = in_thread(lambda: pool.acquire().__enter__())
        until(lambda: pool._waiting == 1)
        pool.close()
        with pytest.raises(ClosedError, match=r"pool .* is closed"):
            waiting.outcome()
    with pytest.raises(ClosedError), pool.acquire():
        pass
    with pytest.raises(ClosedError):
        pool.swap(Exclusive)
    with Batcher(pool) as batcher:
        np.testing.assert_array_equal(batcher(ROW + 1), 2 * (ROW + 1))
        np.testing.assert_array_equal(batcher.submit(ROW).result(PATIENCE), 2 * ROW)


# Swapping


def test_a_swap_replaces_every_instance_on_its_device() -> None:
    old: list[Exclusive] = []
    new: list[Exclusive] = []
    warmed: list[Any] = []
    pool = ModelPool(factory_of(old), instances=2, devices=["a", "b"], warmup=warmed.append)
    assert pool.version is None
    pool.swap(factory_of(new), version="v2")
    assert [instance.model for instance in pool.instances] == new
    assert [model.device for model in new] == ["a", "a", "b", "b"]
    assert warmed == old + new
    assert pool.version == "v2"


@pytest.mark.parametrize("part", ["factory", "product", "warmup"])
def test_a_swap_that_fails_changes_nothing(part: str) -> None:
    models = [Exclusive(), Exclusive()]

    def warmup(model: Any) -> None:
        if part == "warmup" and model not in models:
            raise LookupError("cold")

    def factory() -> Any:
        if part == "factory":
            raise LookupError("no weights")
        return None if part == "product" else Exclusive()

    pool = ModelPool(models, warmup=warmup)
    with pytest.raises((LookupError, ConfigError)):
        pool.swap(factory, version="v2")
    assert [instance.model for instance in pool.instances] == models
    assert pool.version is None


@pytest.mark.parametrize("factory", [3, None, [Exclusive()]])
def test_a_swap_needs_a_factory(factory: Any) -> None:
    with pytest.raises(ConfigError, match="factory"):
        ModelPool(Exclusive).swap(factory)


def test_a_swap_waits_for_the_batch_that_the_old_model_has(model: Gated) -> None:
    pool = ModelPool([model])
    with Batcher(pool, caller_runs=False) as batcher:
        old = batcher.submit(ROW + 1)
        model.await_entry()
        swapping = in_thread(lambda: pool.swap(lambda: lambda rows: -rows))
        queued = batcher.submit(ROW + 2)
        assert swapping.is_alive()
        model.gate.set()
        np.testing.assert_array_equal(old.result(PATIENCE), 2 * (ROW + 1))
        swapping.outcome()
        assert abs(queued.result(PATIENCE)[0]) in (2, 4)
        np.testing.assert_array_equal(batcher(ROW + 3), -(ROW + 3))


def test_of_two_swaps_at_once_one_comes_after_the_other() -> None:
    made = threading.Event()

    def factory(device: Any) -> Exclusive:
        made.set()
        return Exclusive("new")

    def devices() -> list[Any]:
        models: list[Any] = [instance.model for instance in pool.instances]
        return [model.device for model in models]

    pool = ModelPool([Exclusive("old"), Exclusive("old")])
    second = pool.instances[1]
    second.acquire()
    begun = in_thread(lambda: pool.swap(lambda: Exclusive("newer"), version="newer"))
    until(lambda: devices()[0] == "newer" and begun.asleep)
    other = in_thread(lambda: pool.swap(factory, version="new"))
    assert made.wait(PATIENCE)
    until(lambda: other.asleep)
    assert devices()[0] == "newer"  # the first to be ready has not ended yet
    second.release()
    begun.outcome()
    other.outcome()
    assert devices() == ["new", "new"]
    assert pool.version == "new"


def test_swapping_under_load_drops_no_request() -> None:
    stop = threading.Event()

    def versioned(version: int) -> Callable[[], Any]:
        return lambda: lambda rows: np.full(len(rows), version)

    pool = ModelPool(versioned(0), instances=2)
    with Batcher(pool, max_batch_size=4) as batcher:

        def ask(number: int) -> list[int]:
            seen = []
            while not stop.is_set():
                answer = batcher(ROW) if number % 2 else batcher.submit(ROW).result(PATIENCE)
                seen.append(int(answer))
            return seen

        threads = [in_thread(lambda n=n: ask(n)) for n in range(6)]
        for version in range(1, 11):
            before = batcher.statistics().completed
            pool.swap(versioned(version), version=str(version))
            until(lambda before=before: batcher.statistics().completed > before + 20)
        stop.set()
        answers = [thread.outcome() for thread in threads]
        now = batcher.statistics()
        assert now.submitted == now.completed == sum(map(len, answers))
        assert batcher(ROW) == 10
    # Each caller waits for its answer before it asks again, so it never sees a version go back,
    # but for the moment in which one instance has been replaced and another has not.
    for seen in answers:
        assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(seen))


def test_ctrl_c_while_a_caller_gives_its_instance_back_reaches_it_after_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released, interrupted = ModelPool._released, iter([True])

    def interrupt(pool: ModelPool) -> None:
        if threading.current_thread() is threading.main_thread() and next(interrupted, False):
            raise KeyboardInterrupt
        released(pool)

    with ModelPool(lambda: identity) as pool, Batcher(pool) as batcher:
        until(lambda: batcher.statistics().executors[0].state == "idle")
        monkeypatch.setattr(ModelPool, "_released", interrupt)
        with pytest.raises(KeyboardInterrupt):
            batcher(ROW)
        now = batcher.statistics()
        assert (now.led, now.completed) == (1, 1)
        np.testing.assert_array_equal(batcher(ROW), ROW)
        with pool.acquire(timeout=PATIENCE):
            pass
