"""Settings: what is refused at once, with its value, and what may change while running."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests import child
from tests.gated import ROW, Gated
from tidegate import Batcher, ConfigError, ModelPool, NativeModel, TensorSpec, TidegateError


def identity(rows: Any) -> Any:
    return rows


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        *(("max_batch_size", value, "at least 1") for value in (0, -1, 2.5, "8", None, True)),
        ("max_batch_size", 2**20 + 1, "1048576"),
        ("max_batch_size", 2**40, "1048576"),
        *(
            ("max_queue_delay", value, "seconds >= 0")
            for value in (-0.001, math.nan, -math.inf, "0.5", "soon", None, 1j)
        ),
        *(("max_queue_size", value, "at least 1") for value in (0, -5, 1.5, "9", True)),
        ("max_queue_size", 2**70, "at most"),
        *(
            ("default_timeout", value, "seconds >= 0")
            for value in (-1, math.nan, "0.5", "soon", [1.0], 10**400)
        ),
        ("overflow", "wait", "'reject', 'block'"),
        ("overflow", np.array(["reject", "block"]), "'reject', 'block'"),
        ("collate", "sum", "'stack', 'pad', 'pack', 'list'"),
        ("executor", "process", "'thread', 'inline'"),
        ("outputs", "views", "'auto', 'view', 'copy'"),
        ("outputs", None, "'auto', 'view', 'copy'"),
        ("outputs", np.zeros(2), "'auto', 'view', 'copy'"),
        ("allowed_batch_sizes", np.array(64), "ascending whole numbers"),
        ("max_batch_size", np.array([8.0]), "at least 1"),
        ("inputs", "float32", "TensorSpec"),
        ("inputs", (), "TensorSpec"),
        ("name", 5, "name must be a string"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_value(
    setting: str, value: Any, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Batcher(identity, **{setting: value})
    message = str(caught.value)
    assert setting in message
    assert expected in message
    assert repr(value) in message
    assert "\n" not in message
    assert isinstance(caught.value, (TidegateError, ValueError))


@pytest.mark.parametrize("model", [None, 3, "model", np.zeros(3)])
def test_a_model_that_cannot_be_called_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match=f"callable .* got {type(model).__name__}"):
        Batcher(model)


def test_a_model_that_is_a_coroutine_function_is_refused() -> None:
    async def model(rows: Any) -> Any:
        return rows

    async def generator(rows: Any) -> Any:
        yield rows

    for coroutine in (model, generator):
        with pytest.raises(ConfigError, match="is a coroutine function; a model is a plain"):
            Batcher(coroutine)
        with pytest.raises(ConfigError, match="is a coroutine function; a model is a plain"):
            ModelPool([coroutine])


def test_settings_that_do_not_go_together_are_refused() -> None:
    spec = TensorSpec((), "f8")
    with pytest.raises(ConfigError, match="collate='list' takes any object"):
        Batcher(identity, collate="list", inputs=spec)
    with pytest.raises(ConfigError, match="one instance"):
        Batcher(ModelPool([identity, identity]), executor="inline")
    native = NativeModel(1, outputs=spec)
    with pytest.raises(ConfigError, match="NativeModel"):
        Batcher(native, collate="list")
    with pytest.raises(ConfigError, match="NativeModel"):
        Batcher(native, executor="inline")


def test_settings_of_later_versions_are_refused_and_not_ignored() -> None:
    with pytest.raises(TypeError, match="priority_levels"):
        Batcher(identity, priority_levels=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="priority"), Batcher(identity) as batcher:
        batcher.submit(ROW, priority=1)  # type: ignore[call-arg]


def test_the_defaults_are_those_of_the_documentation() -> None:
    with Batcher(identity) as batcher:
        assert batcher.max_batch_size == 64
        assert batcher.max_queue_delay == 0.0
        assert batcher.max_queue_size == 2048
        assert batcher.caller_runs is True
        assert batcher.closed is False


def test_the_queue_is_bounded_in_proportion_to_the_batch() -> None:
    with Batcher(identity, max_batch_size=1) as small, Batcher(identity, max_batch_size=100) as big:
        assert small.max_queue_size == 1024
        assert big.max_queue_size == 3200
        big.max_queue_size = 7
        assert big.max_queue_size == 7
        big.max_queue_size = None
        assert big.max_queue_size == 3200


def test_numbers_of_other_libraries_will_do() -> None:
    with Batcher(
        identity,
        max_batch_size=np.int32(8),  # type: ignore[arg-type]
        max_queue_size=np.uint8(9),  # type: ignore[arg-type]
        max_queue_delay=np.float32(0.5),  # type: ignore[arg-type]
    ) as batcher:
        assert (batcher.max_batch_size, batcher.max_queue_size) == (8, 9)
        assert batcher.max_queue_delay == 0.5


def test_an_endless_delay_is_a_delay() -> None:
    with Batcher(identity, max_queue_delay=math.inf, max_batch_size=2) as batcher:
        futures = [batcher.submit(ROW), batcher.submit(ROW)]
        assert all(np.array_equal(future.result(), ROW) for future in futures)


def test_batchers_are_printable_and_have_names() -> None:
    with Batcher(identity, name="embed", max_batch_size=7) as batcher, Batcher(identity) as other:
        assert batcher.name == "embed"
        assert other.name not in ("", "embed")
        assert "'embed'" in repr(batcher)
        assert "open" in repr(batcher)
        assert "max_batch_size=7" in repr(batcher)
    assert "closed" in repr(batcher)


# Changing them


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_batch_size", 0),
        ("max_batch_size", "many"),
        ("max_queue_size", -1),
        ("max_queue_delay", -0.5),
        ("max_queue_delay", math.nan),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(setting: str, value: Any) -> None:
    with Batcher(identity) as batcher:
        before = getattr(batcher, setting)
        with pytest.raises(ConfigError, match=setting):
            setattr(batcher, setting, value)
        assert getattr(batcher, setting) == before
        assert np.array_equal(batcher(ROW), ROW)


def test_a_change_of_one_setting_leaves_the_others_alone() -> None:
    with Batcher(identity, max_batch_size=5, max_queue_size=50, max_queue_delay=0.25) as batcher:
        batcher.caller_runs = False
        assert (batcher.max_batch_size, batcher.max_queue_size) == (5, 50)
        assert (batcher.max_queue_delay, batcher.caller_runs) == (0.25, False)


def test_batches_become_larger_and_smaller_while_running(model: Gated, batcher: Batcher) -> None:
    futures = [batcher.submit(ROW)]
    model.await_entry()
    for size, rows in ((5, 5), (2, 4), (100, 100), (1, 3)):
        batcher.max_batch_size = size
        futures += [batcher.submit(ROW + len(futures) + n) for n in range(rows)]
    model.gate.set()
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(), 2 * (ROW + number))
    sizes = [len(batch) for batch in model.batches[1:]]
    # A batch that is open when the size changes may keep its room; none exceeds the largest.
    assert sum(sizes) == 112
    assert max(sizes) <= 100
    assert sizes[-1] == 1


def test_a_shorter_delay_holds_for_what_waits_already() -> None:
    with Batcher(identity, max_queue_delay=3600.0) as batcher:
        future = batcher.submit(ROW)
        assert not future.done()
        batcher.max_queue_delay = 0.0
        np.testing.assert_array_equal(future.result(), ROW)


def test_a_smaller_batch_that_is_full_already_goes_at_once() -> None:
    with Batcher(identity, max_queue_delay=3600.0) as batcher:
        futures = [batcher.submit(ROW + n) for n in range(3)]
        batcher.max_batch_size = 3
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(), ROW + number)


def test_a_larger_queue_takes_more_at_once(model: Gated, batcher: Batcher) -> None:
    batcher.max_queue_size = 2
    batcher.submit(ROW)
    model.await_entry()
    for size in (2, 3, 10):
        batcher.max_queue_size = size
        while batcher.statistics().queue_depth < size:
            batcher.submit(ROW)
        with pytest.raises(TidegateError, match="full"):
            batcher.submit(ROW)
    batcher.max_queue_size = 1
    with pytest.raises(TidegateError, match="full"):
        batcher.submit(ROW)
    assert batcher.statistics().queue_depth == 10


def test_callers_stop_running_the_model_when_told_to() -> None:
    with Batcher(identity) as batcher:
        batcher.caller_runs = False
        for _ in range(100):
            batcher(ROW)
        assert batcher.statistics().led == 0


def test_monkey_patched_threads_are_refused_instead_of_hanging() -> None:
    printed = child.run(
        """
        from gevent import monkey
        monkey.patch_all()
        from tidegate import Batcher, ConfigError
        try:
            Batcher(lambda rows: rows)
        except ConfigError as error:
            print(error)
        """
    )
    assert "monkey-patched" in printed


def test_a_patched_standard_library_with_real_threads_is_served() -> None:
    printed = child.run(
        """
        from gevent import monkey
        monkey.patch_all(thread=False, signal=False)
        from tidegate import Batcher
        with Batcher(lambda rows: rows) as batcher:
            print(batcher.submit(1).result(10))
        """
    )
    assert printed == "1\n"
