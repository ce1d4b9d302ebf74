"""``@batch``: functions and methods over a batch, called with single requests."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tidegate
from tests.gated import PATIENCE, ROW, in_thread, until
from tidegate import Batcher, ClosedError, ConfigError, ModelError
from tidegate.decorators import BatchedFunction, BatchedMethod

if TYPE_CHECKING:
    from typing_extensions import assert_type


def test_a_function_over_a_batch_takes_single_requests() -> None:
    sizes = []

    @tidegate.batch
    def double(rows: Any) -> Any:
        sizes.append(rows.shape)
        return rows * 2

    np.testing.assert_array_equal(double(ROW + 1), 2 * (ROW + 1))
    assert sizes == [(1, 3)]
    double.close()


def test_settings_are_those_of_a_batcher() -> None:
    @tidegate.batch(max_batch_size=3, collate="list", name="upper")
    def shout(items: list[str]) -> list[str]:
        return [item.upper() for item in items]

    assert shout("abc", timeout=PATIENCE) == "ABC"
    assert shout.max_batch_size == 3
    assert shout.batcher.name == "upper"
    assert isinstance(shout.batcher, Batcher)
    shout.close()
    with pytest.raises(ClosedError):
        shout("abc")


def test_settings_may_be_changed_as_those_of_a_batcher() -> None:
    class Model:
        @tidegate.batch(max_batch_size=3)
        def double(self, rows: Any) -> Any:
            return rows * 2

    @tidegate.batch
    def triple(rows: Any) -> Any:
        return rows * 3

    model = Model()
    model.double.max_batch_size = 5
    triple.max_batch_size = 5
    for batcher in (model.double.batcher, triple.batcher):
        assert batcher.max_batch_size == 5
        batcher.max_batch_size = 7
    assert (model.double.max_batch_size, triple.max_batch_size) == (7, 7)
    with pytest.raises(ConfigError, match="max_batch_size must be at least 1"):
        triple.max_batch_size = 0
    with pytest.raises(AttributeError):
        triple.name = "read-only"
    triple.note = "the function's own"
    assert triple.note == "the function's own"
    assert not hasattr(triple.batcher, "note")
    model.double.close()
    triple.close()


def test_type_checkers_know_what_is_made() -> None:
    @tidegate.batch(max_batch_size=3)
    def double(rows: list[float]) -> list[float]:
        return [2 * row for row in rows]

    @tidegate.batch
    def triple(rows: list[float], *, factor: float = 3.0) -> list[float]:
        return [factor * row for row in rows]

    class Model:
        @tidegate.batch(collate="list")
        def double(self, rows: list[float]) -> list[float]:
            return [2 * row for row in rows]

    if TYPE_CHECKING:  # by mypy, as strict as a user may have it
        assert_type(double, BatchedFunction)
        assert_type(triple, BatchedFunction)
    assert isinstance(double, BatchedFunction)
    assert isinstance(triple, BatchedFunction)
    assert isinstance(vars(Model)["double"], BatchedMethod)


@tidegate.batch
def halve(rows: Any) -> Any:
    return rows / 2


@dataclasses.dataclass
class Scale:
    factor: float

    @tidegate.batch
    def scale(self, rows: Any) -> Any:
        return rows * self.factor


def test_functions_and_methods_are_copied_and_pickled_as_such() -> None:
    assert halve(4.0) == 2.0  # its batcher is there, and belongs to this process
    for again in (pickle.loads(pickle.dumps(halve)), copy.copy(halve), copy.deepcopy(halve)):
        assert again is halve
    method = pickle.loads(pickle.dumps(Scale(3.0).scale))
    assert method.__self__ == Scale(3.0)
    assert method(2.0) == 6.0
    assert copy.copy(method)(2.0) == 6.0
    halve.close()
    method.close()


def test_everything_that_a_batcher_has_is_there() -> None:
    @tidegate.batch
    def double(rows: Any) -> Any:
        return rows * 2

    async def main() -> None:
        assert await double.submit(1.0) == 2.0
        assert await double.predict_async(2.0) == 4.0
        assert [y async for y in double.amap([1.0, 2.0])] == [2.0, 4.0]
        await double.aclose()

    assert double.submit(1.0).result(PATIENCE) == 2.0
    assert list(double.map([1.0, 2.0])) == [2.0, 4.0]
    np.testing.assert_array_equal(double.submit_many([1.0, 2.0]).result(PATIENCE), [2.0, 4.0])
    assert double.statistics().completed == 5
    asyncio.run(main())
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = double.no_such_thing


def test_a_batched_function_looks_like_the_function() -> None:
    @tidegate.batch
    def double(rows: Any) -> Any:
        """Doubles."""
        return rows * 2

    assert double.__name__ == "double"
    assert double.__doc__ == "Doubles."
    assert double.__wrapped__(ROW + 1)[0] == 2
    assert "double" in double.batcher.name
    double.close()


def test_the_batcher_is_made_when_it_is_first_needed_and_only_once() -> None:
    @tidegate.batch
    def double(rows: Any) -> Any:
        return rows * 2

    assert double._batcher is None
    threads = [in_thread(lambda: double.batcher) for _ in range(8)]
    assert len({id(thread.outcome()) for thread in threads}) == 1
    double.close()


def test_a_setting_that_cannot_be_is_refused_when_it_is_first_needed() -> None:
    @tidegate.batch(max_batch_size=0)
    def double(rows: Any) -> Any:
        return rows * 2

    with pytest.raises(ConfigError, match="max_batch_size"):
        double(ROW)


async def coroutine(rows: Any) -> Any:
    return rows


def of_nothing() -> Any:
    return None


def of_two(rows: Any, more: Any) -> Any:
    return rows, more


def by_name_only(*, rows: Any) -> Any:
    return rows


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (coroutine, "coroutine function"),
        (of_nothing, "takes a batch alone"),
        (of_two, "takes a batch alone"),
        (by_name_only, "takes a batch alone"),
        (3, "got int"),
        (classmethod(of_two), "got classmethod"),
    ],
)
def test_what_cannot_be_a_model_is_refused(function: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        tidegate.batch(function)
    with pytest.raises(ConfigError, match=complaint):
        tidegate.batch(max_batch_size=8)(function)


def test_further_arguments_may_have_defaults() -> None:
    @tidegate.batch
    def scaled(rows: Any, factor: float = 3.0) -> Any:
        return rows * factor

    assert scaled(2.0) == 6.0
    scaled.close()


@pytest.mark.parametrize("function", [np.negative, functools.partial(np.multiply, -1)])
def test_any_callable_will_do(function: Any) -> None:
    negate = tidegate.batch(function)
    assert negate(2.0) == -2.0
    negate.close()


# Methods


class Model:
    """Has a method over a batch."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @tidegate.batch(max_batch_size=16)
    def scale(self, rows: Any) -> Any:
        """Scales."""
        return rows * self.factor

    @staticmethod
    @tidegate.batch
    def negate(rows: Any) -> Any:
        return -rows


def test_each_object_has_a_batcher_of_its_own() -> None:
    double, triple = Model(2), Model(3)
    assert (double.scale(1.0), triple.scale(1.0)) == (2.0, 3.0)
    assert double.scale.batcher is double.scale.batcher
    assert double.scale.batcher is not triple.scale.batcher
    assert double.scale.max_batch_size == 16
    double.scale.close()
    assert triple.scale(2.0) == 6.0
    triple.scale.close()


def test_a_batched_method_looks_like_the_method() -> None:
    model = Model(2)
    assert Model.scale.__name__ == model.scale.__name__ == "scale"
    assert Model.scale.__doc__ == model.scale.__doc__ == "Scales."
    with pytest.raises(TypeError, match=r"Model\.scale is a batched method; call it on an object"):
        Model.scale(1.0)


def test_a_static_method_may_be_batched() -> None:
    assert Model.negate(1.0) == -1.0
    assert Model(2).negate(2.0) == -2.0
    Model.negate.close()


def test_methods_are_inherited_and_overridden() -> None:
    class Child(Model):
        """Inherits it."""

    class Other(Model):
        """Overrides it."""

        @tidegate.batch
        def scale(self, rows: Any) -> Any:
            return rows + self.factor

    child, other = Child(2), Other(2)
    assert (child.scale(5.0), other.scale(5.0)) == (10.0, 7.0)


def test_equal_and_unhashable_objects_do_not_share_a_batcher() -> None:
    @dataclasses.dataclass
    class Equal:
        """Equal to others of the same name, and thus not hashable."""

        name: str
        factor: float = dataclasses.field(compare=False, default=1.0)

        @tidegate.batch
        def scale(self, rows: Any) -> Any:
            return rows * self.factor

    double, triple = Equal("same", 2.0), Equal("same", 3.0)
    assert double == triple
    assert (double.scale(1.0), triple.scale(1.0)) == (2.0, 3.0)
    copied = copy.copy(double)
    copied.factor = 5.0
    assert (double.scale(1.0), copied.scale(1.0)) == (2.0, 5.0)


def test_an_object_that_cannot_be_weakly_referenced_is_refused_with_the_way_out() -> None:
    class Slotted:
        __slots__ = ("factor",)

        def __init__(self, factor: float) -> None:
            self.factor = factor

        @tidegate.batch
        def scale(self, rows: Any) -> Any:
            return rows * self.factor

    class Referenced(Slotted):
        __slots__ = ("__weakref__",)

    with pytest.raises(ConfigError, match=r"Slotted\.scale .* the slot '__weakref__'"):
        Slotted(2.0).scale(1.0)
    referenced = Referenced(2.0)
    assert referenced.scale(1.0) == 2.0


def test_an_object_lives_as_long_as_its_method_is_called() -> None:
    assert Model(4).scale(2.0) == 8.0
    method = Model(5).scale
    assert method(2.0) == 10.0


def test_a_batcher_ends_with_its_object() -> None:
    model = Model(2)
    model.scale(1.0)
    batcher, reference = model.scale.batcher, weakref.ref(model)
    threads = list(batcher._runtime.threads)
    batcher_reference = weakref.ref(batcher)
    del model, batcher
    gc.collect()
    assert reference() is None
    until(lambda: batcher_reference() is None)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_request_that_outlives_its_object_fails_and_says_why() -> None:
    model = Model(2)
    model.scale(1.0)
    model.scale.caller_runs = False
    model.scale.batcher.max_queue_delay = 3600.0
    batcher = model.scale.batcher
    future = batcher.submit(1.0)
    del model
    batcher.max_queue_delay = 0.0
    error = future.exception(PATIENCE)
    assert type(error) is ModelError
    assert type(error.__cause__) is ReferenceError
    batcher.close()


def test_a_method_serves_threads_and_loops_alike(run: Callable[[Any], Any]) -> None:
    model = Model(2)

    async def main() -> None:
        answers = await asyncio.gather(*(model.scale.submit(float(n)) for n in range(20)))
        assert answers == [2.0 * n for n in range(20)]

    threads = [in_thread(lambda n=n: model.scale(float(n))) for n in range(8)]
    run(main())
    assert [thread.outcome() for thread in threads] == [2.0 * n for n in range(8)]
    model.scale.close()
