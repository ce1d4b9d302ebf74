"""Models in C: run by a native thread without the GIL, given as whatever holds an address."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import shutil
import subprocess
import threading
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests import child
from tests.gated import PATIENCE, in_thread, until
from tidegate import (
    Batcher,
    ClosedError,
    ConfigError,
    DeadlineError,
    InputError,
    ModelError,
    NativeModel,
    TensorSpec,
)

POINTERS = ctypes.POINTER(ctypes.c_void_p)
PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, POINTERS, POINTERS)
ROW = TensorSpec((3,), np.float32)
Both = namedtuple("Both", ["doubled", "total"])

SOURCE = r"""
#include <stdint.h>
#include <unistd.h>

/* What the tests look at and set, by way of user_data. */
struct state { volatile int64_t calls, rows, hold, scale; };

int32_t twice(void* user_data, int64_t rows, const void* const* inputs, void* const* outputs) {
    struct state* state = user_data;
    const float* in = inputs[0];
    float* out = outputs[0];
    float scale = state ? (float)state->scale : 2.0f;
    if (state) {
        state->rows += rows;
        state->calls++;
        while (state->hold) usleep(100);
    }
    for (int64_t i = 0; i < rows; i++) {
        if (in[3 * i] < 0) return 42;
        for (int j = 0; j < 3; j++) out[3 * i + j] = scale * in[3 * i + j];
    }
    return 0;
}

/* Two inputs of different kinds, two outputs of different shapes. */
int32_t weigh(void* user_data, int64_t rows, const void* const* inputs, void* const* outputs) {
    const float* in = inputs[0];
    const int64_t* weight = inputs[1];
    float* doubled = outputs[0];
    double* total = outputs[1];
    for (int64_t i = 0; i < rows; i++) {
        total[i] = 0;
        for (int j = 0; j < 3; j++) {
            doubled[3 * i + j] = 2 * in[3 * i + j];
            total[i] += in[3 * i + j] * weight[i];
        }
    }
    return 0;
}
"""


class State(ctypes.Structure):
    """The same in Python."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("calls", "rows", "hold", "scale"))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The functions above, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("native")
    source, shared = folder / "model.c", folder / "model.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", shared, source], check=True)
    return ctypes.CDLL(str(shared))


@pytest.fixture
def state() -> Iterator[State]:
    made = State(scale=2)
    yield made
    made.hold = 0


@pytest.fixture
def batcher(library: Any, state: State) -> Iterator[Batcher]:
    """A Batcher in front of `twice`."""
    model = NativeModel(library.twice, outputs=ROW, user_data=ctypes.addressof(state))
    made = Batcher(model, inputs=ROW, max_batch_size=8)
    yield made
    state.hold = 0
    made.close(timeout=PATIENCE)


def row(number: float) -> Any:
    return np.full(3, number, np.float32)


def test_a_model_in_c_has_groups_and_budgets_too(library: Any, state: State) -> None:
    model = NativeModel(library.twice, outputs=ROW, user_data=ctypes.addressof(state))
    with Batcher(
        model,
        inputs=ROW,
        group_key=lambda x: int(x[0]),
        cost_fn=lambda x: 1,
        max_batch_cost=2,
    ) as batcher:
        futures = [batcher.submit(row(number % 100)) for number in range(900)]
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * row(number % 100))
    assert batcher.statistics().batches >= 450


def test_a_model_in_c_answers(batcher: Batcher, state: State) -> None:
    futures = [batcher.submit(row(number)) for number in range(50)]
    for number, future in enumerate(futures):
        answer = future.result(PATIENCE)
        assert answer.dtype == np.float32
        np.testing.assert_array_equal(answer, 2 * row(number))
    for number in range(50):
        np.testing.assert_array_equal(batcher(row(number)), 2 * row(number))
    assert state.rows == 100
    now = batcher.statistics()
    assert (now.completed, now.rows, now.batches) == (100, 100, state.calls)
    assert now.led == 0, "no Python thread may run it"


def test_it_answers_threads_and_loops(run: Callable[[Any], Any], batcher: Batcher) -> None:
    async def main() -> None:
        async def ask(number: int) -> None:
            np.testing.assert_array_equal(await batcher.submit(row(number)), 2 * row(number))

        for _ in range(3):
            await asyncio.gather(*(ask(number) for number in range(50)))

    threads = [in_thread(lambda: [batcher(row(n)) for n in range(50)]) for _ in range(3)]
    run(main())
    for thread in threads:
        for number, answer in enumerate(thread.outcome()):
            np.testing.assert_array_equal(answer, 2 * row(number))


def test_it_runs_without_the_gil(batcher: Batcher, state: State) -> None:
    """Its state changes between two steps of a thread that never lets the GIL go."""
    until(lambda: batcher.statistics().executors[0].state == "idle")
    address = ctypes.addressof(state)
    calls = ctypes.c_int64.from_address(address)
    state.hold = 1
    future = batcher.submit(row(1))
    # PyDLL keeps the GIL during its calls: only a thread without it can count up meanwhile.
    usleep = ctypes.PyDLL(None).usleep
    for _ in range(20_000):
        usleep(100)
        if calls.value == 1:
            break
    assert calls.value == 1
    state.hold = 0
    np.testing.assert_array_equal(future.result(PATIENCE), 2 * row(1))


def test_what_comes_while_it_is_busy_goes_together(batcher: Batcher, state: State) -> None:
    state.hold = 1
    first = batcher.submit(row(0))
    until(lambda: state.calls == 1)
    futures = [batcher.submit(row(number)) for number in range(8)]
    assert first.running()
    state.hold = 0
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), 2 * row(number))
    assert (state.calls, state.rows) == (2, 9)


def test_several_inputs_and_outputs_keep_their_order(library: Any) -> None:
    inputs = {"pixels": ROW, "weight": TensorSpec((), np.int64)}
    total = TensorSpec((), np.float64)
    shapes: list[tuple[Any, Callable[[Any], Any]]] = [
        ((ROW, total), lambda y: (type(y), *y)),
        ({"doubled": ROW, "total": total}, lambda y: (type(y), y["doubled"], y["total"])),
        (Both(ROW, total), lambda y: (type(y), y.doubled, y.total)),
    ]
    for (outputs, look), kind in zip(shapes, (tuple, dict, Both), strict=True):
        with Batcher(NativeModel(library.weigh, outputs=outputs), inputs=inputs) as batcher:
            futures = [batcher.submit({"weight": n, "pixels": row(n)}) for n in range(20)]
            for number, future in enumerate(futures):
                got, doubled, weighed = look(future.result(PATIENCE))
                assert got is kind
                np.testing.assert_array_equal(doubled, 2 * row(number))
                assert weighed == 3 * number * number


@pytest.mark.parametrize("outputs", ["auto", "view", "copy"])
def test_its_answers_stay_right_over_many_batches(library: Any, outputs: Any) -> None:
    model = NativeModel(library.twice, outputs=ROW)
    with Batcher(model, inputs=ROW, max_batch_size=4, outputs=outputs) as batcher:
        unread = [batcher.submit(row(number)) for number in range(300)]
        answers = [batcher(row(number)) for number in range(300)]
    for number in range(300):
        np.testing.assert_array_equal(unread[number].result(PATIENCE), 2 * row(number))
        np.testing.assert_array_equal(answers[number], 2 * row(number))


def test_many_rows_at_once(batcher: Batcher) -> None:
    many = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.testing.assert_array_equal(batcher.submit_many(many).result(PATIENCE), 2 * many)
    answers = np.array(list(batcher.map(many)))
    np.testing.assert_array_equal(answers, 2 * many)


def test_a_status_fails_the_batch_only_and_says_which(batcher: Batcher, state: State) -> None:
    state.hold = 1
    batcher.submit(row(0))
    until(lambda: state.calls == 1)
    failing = [batcher.submit(row(number)) for number in (1, -1, 2)]
    state.hold = 0
    for future in failing:
        error = future.exception(PATIENCE)
        assert type(error) is ModelError
        assert "returned 42" in str(error)
    np.testing.assert_array_equal(batcher(row(3)), 2 * row(3))
    now = batcher.statistics()
    assert (now.failed, now.completed) == (3, 2)


def test_cancelled_and_expired_requests_never_reach_it(batcher: Batcher, state: State) -> None:
    state.hold = 1
    batcher.submit(row(0))
    until(lambda: state.calls == 1)
    futures = [batcher.submit(row(number)) for number in range(6)]
    expiring = batcher.submit(row(9), timeout=0.01)
    assert futures[1].cancel()
    assert futures[5].cancel()
    assert type(expiring.exception(PATIENCE)) is DeadlineError
    state.hold = 0
    for number in (0, 2, 3, 4):
        np.testing.assert_array_equal(futures[number].result(PATIENCE), 2 * row(number))
    assert state.rows == 5


def test_a_request_that_does_not_fit_is_refused(batcher: Batcher) -> None:
    with pytest.raises(InputError, match=r"float32 array of shape \(3,\)"):
        batcher(np.zeros(4, np.float32))
    np.testing.assert_array_equal(batcher([1, 2, 3]), [2, 4, 6])


def test_a_closed_batcher_refuses(library: Any, state: State) -> None:
    model = NativeModel(library.twice, outputs=ROW, user_data=ctypes.addressof(state))
    batcher = Batcher(model, inputs=ROW, max_batch_size=1)
    state.hold = 1
    running = batcher.submit(row(1))
    until(lambda: state.calls == 1)
    queued = batcher.submit(row(2))
    closing = in_thread(lambda: batcher.close(drain=False))
    assert type(queued.exception(PATIENCE)) is ClosedError
    state.hold = 0
    closing.outcome()
    np.testing.assert_array_equal(running.result(PATIENCE), 2 * row(1))
    with pytest.raises(ClosedError):
        batcher.submit(row(1))


def test_batches_of_another_size_have_room_for_their_outputs(batcher: Batcher) -> None:
    for size in (1, 100, 3):
        batcher.max_batch_size = size
        futures = [batcher.submit(row(number)) for number in range(150)]
        for number, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(PATIENCE), 2 * row(number))


# What holds an address


def capsule(address: int, name: bytes) -> Any:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    return make(address, name, None)


def address_of(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


NAME = b"tidegate_native_model"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda function: function, id="a ctypes function"),
        pytest.param(lambda function: ctypes.cast(function, PROTOTYPE), id="a function pointer"),
        pytest.param(address_of, id="an address"),
        pytest.param(lambda function: SimpleNamespace(address=address_of(function)), id="cfunc"),
        pytest.param(lambda function: capsule(address_of(function), NAME), id="a capsule"),
    ],
)
def test_a_function_may_be_given_in_several_ways(library: Any, given: Any) -> None:
    model = NativeModel(given(library.twice), outputs=ROW)
    assert model.address == address_of(library.twice)
    assert hex(model.address) in repr(model)
    with Batcher(model, inputs=ROW) as batcher:
        np.testing.assert_array_equal(batcher(row(4)), 2 * row(4))


def test_a_function_in_python_is_kept_alive_by_its_model() -> None:
    threads = set()

    def model() -> NativeModel:
        def twice(_: Any, rows: int, inputs: Any, outputs: Any) -> int:
            threads.add(threading.get_ident())
            shape = (rows, 3)
            source = np.ctypeslib.as_array(ctypes.cast(inputs[0], FLOATS), shape)
            target = np.ctypeslib.as_array(ctypes.cast(outputs[0], FLOATS), shape)
            target[:] = 2 * source
            return 0

        return NativeModel(PROTOTYPE(twice), outputs=ROW)

    with Batcher(model(), inputs=ROW) as batcher:
        for number in range(20):
            np.testing.assert_array_equal(batcher(row(number)), 2 * row(number))
    assert threading.get_ident() not in threads


FLOATS = ctypes.POINTER(ctypes.c_float)


def test_its_code_outlives_a_dropped_batcher_that_has_work() -> None:
    gate = threading.Event()

    def dropped() -> tuple[list[Any], list[weakref.ref[Any]]]:
        def answer(_: Any, rows: int, inputs: Any, outputs: Any) -> int:
            gate.wait(PATIENCE)
            return 5

        batcher = Batcher(NativeModel(PROTOTYPE(answer), outputs=ROW), inputs=ROW, max_batch_size=1)
        gone: list[weakref.ref[Any]] = [weakref.ref(batcher._session), weakref.ref(answer)]
        return [batcher.submit(row(number)) for number in range(4)], gone

    futures, gone = dropped()
    gc.collect()
    # Had it gone, these would be where it was.
    others = [PROTOTYPE(lambda *arguments: 7) for _ in range(100)]
    gate.set()
    for future in futures:
        with pytest.raises(ModelError, match="returned 5"):
            future.result(PATIENCE)
    del futures, future, others
    until(lambda: gc.collect() >= 0 and not any(reference() is not None for reference in gone))


def test_several_threads_may_close_its_batcher(library: Any) -> None:
    for _ in range(50):
        batcher = Batcher(NativeModel(library.twice, outputs=ROW), inputs=ROW)
        np.testing.assert_array_equal(batcher(row(4)), 2 * row(4))
        closing = [in_thread(batcher.close) for _ in range(4)]
        for thread in closing:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.mark.parametrize("function", [None, 0, True, 1.5, "twice", lambda rows: rows, object()])
def test_what_holds_no_address_is_refused(function: Any) -> None:
    with pytest.raises(ConfigError, match=f"got {type(function).__name__}"):
        NativeModel(function, outputs=ROW)


def test_a_capsule_of_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be named 'tidegate_native_model'"):
        NativeModel(capsule(1, b"something_else"), outputs=ROW)


@pytest.mark.parametrize("outputs", [None, "float32", (), {}])
def test_outputs_that_are_no_specs_are_refused(outputs: Any) -> None:
    with pytest.raises(ConfigError, match="TensorSpec"):
        NativeModel(1, outputs=outputs)


def test_the_header_has_the_signature_that_is_used(library: Any, tmp_path: Path) -> None:
    header = Path(__file__).parents[1] / "csrc/include/tidegate/native_model.h"
    if not header.exists():
        pytest.skip("the headers are not here")
    compiler = shutil.which("cc") or "cc"
    source = tmp_path / "check.c"
    source.write_text(
        f'#include "{header}"\n{SOURCE}\ntidegate_native_model models[] = {{twice, weigh}};\n'
    )
    subprocess.run(
        [compiler, "-Werror", "-fsyntax-only", "-std=c99", "-D_DEFAULT_SOURCE", source], check=True
    )


def test_importing_tidegate_loads_no_module_that_few_need() -> None:
    printed = child.run(
        "import numpy, sys; before = set(sys.modules); import tidegate; "
        "print(*set(sys.modules) - before)"
    )
    # Each takes as much memory as a good part of tidegate itself.
    assert not set(printed.split()) & {"asyncio", "pathlib", "urllib.parse", "importlib.metadata"}


@pytest.mark.parametrize(
    "settings",
    [
        {"collate": "list", "inputs": None},
        {"executor": "inline"},
        {"allowed_batch_sizes": [64]},
        {"warmup": True},
        {"on_batch_error": "bisect"},
    ],
)
def test_what_a_native_model_cannot_have_is_refused(library: Any, settings: dict[str, Any]) -> None:
    model = NativeModel(library.twice, outputs=ROW)
    with pytest.raises(ConfigError, match="a NativeModel takes"):
        Batcher(model, **{"inputs": ROW, **settings})
