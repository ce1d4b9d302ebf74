"""A Batcher with a device: every row comes back to its caller, whatever the device does when."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.gated import until
from tests.gpu.fake_cuda import ILLEGAL_ADDRESS
from tests.gpu.machines import Machine
from tests.gpu.shim_driver import Shim
from tidegate import Batcher, ConfigError, DeviceError, ModelError, ModelPool, PerToken, TensorSpec
from tidegate.gpu import findings
from tidegate.gpu.driver import Device as GpuDevice
from tidegate.gpu.driver import Driver
from tidegate.gpu.findings import Findings
from tidegate.gpu.waiting import CudaDevice
from tidegate.tracing import instrument
from tidegate.transforms import Affine, TokenIds

WAITING = 10.0
ROW = TensorSpec((3,), "float32")
TOKENS = TensorSpec((None, 2), "float32")


Maker = Callable[..., Machine]


@pytest.fixture
def machine_of(monkeypatch: pytest.MonkeyPatch, shim: Shim) -> Iterator[Maker]:
    made: list[Machine] = []

    def make(order: str = "lazy", devices: int = 1) -> Machine:
        made.append(Machine(monkeypatch, shim, order, devices))
        return made[-1]

    yield make
    for machine in made:
        machine.xp.check()


def doubled(x: Any) -> Any:
    return x * np.float32(2)


@pytest.mark.parametrize("completion", ["thread", "native"])
@pytest.mark.parametrize("order", ["eager", "lazy", "random"])
def test_each_caller_gets_its_own_row(machine_of: Maker, order: str, completion: Any) -> None:
    machine = machine_of(order)
    device = CudaDevice(completion=completion)
    rows = np.random.default_rng(1).random((200, 3)).astype("float32")
    with Batcher(doubled, inputs=ROW, max_batch_size=16, device=device) as batcher:
        futures = [batcher.submit(row) for row in rows]
        futures[7].cancel()
        for index, (row, future) in enumerate(zip(rows, futures, strict=True)):
            if index != 7:
                assert np.array_equal(future.result(WAITING), row * 2)
        assert np.array_equal(batcher.submit_many(rows).result(WAITING), rows * 2)
        now = batcher.statistics()
    assert now.completed == 400 - now.cancelled
    assert (machine.waited > 0) == (completion == "native")
    assert not any(lane.broken for lane in machine.lanes)


@pytest.mark.parametrize("completion", ["thread", "native"])
def test_rows_of_any_length_come_back(machine_of: Maker, completion: Any) -> None:
    machine_of("lazy")
    random = np.random.default_rng(2)
    rows = [random.random((n, 2)).astype("float32") for n in random.integers(0, 9, 150)]

    def padded(batch: Any) -> Any:
        return {"tokens": PerToken(batch.values * np.float32(2)), "lengths": batch.lengths}

    def packed(batch: Any) -> Any:
        return PerToken(batch.values * np.float32(2))

    for collate, model in (("pad", padded), ("pack", packed)):
        with Batcher(
            model,
            inputs=TOKENS,
            collate=collate,  # type: ignore[arg-type]
            max_batch_size=16,
            allowed_batch_sizes=(4, 16),
            device=CudaDevice(completion=completion),
        ) as batcher:
            futures = [batcher.submit(row) for row in rows]
            for row, future in zip(rows, futures, strict=True):
                answer = future.result(WAITING)
                tokens = answer["tokens"] if collate == "pad" else answer
                assert np.array_equal(tokens, row * 2)
                assert collate == "pack" or answer["lengths"] == len(row)
            now = batcher.statistics()
            assert now.tokens == sum(map(len, rows))
            assert (now.padding_tokens > 0) == (collate == "pad")


def test_an_event_loop_is_told(machine_of: Maker) -> None:
    machine_of("lazy")
    rows = np.arange(120, dtype="float32").reshape(40, 3)

    async def ask() -> None:
        async with Batcher(doubled, inputs=ROW, max_batch_size=8, device="cuda") as batcher:
            answers = await asyncio.gather(*[batcher.submit(row) for row in rows])
        assert np.array_equal(answers, rows * 2)

    asyncio.run(ask())


def test_transforms_run_where_the_model_does(machine_of: Maker) -> None:
    inputs = {
        "image": TensorSpec((2, 2, 3), "uint8", transform=Affine(0.5, 1.0)),
        "weight": TensorSpec((), "float32"),
    }
    image = np.arange(12, dtype="uint8").reshape(2, 2, 3)

    def model(batch: Any) -> Any:
        assert batch["image"].dtype == np.float32
        return batch["image"] * np.float32(2)

    machine_of("lazy")
    for device in ("cuda", None):
        with Batcher(model, inputs=inputs, device=device) as batcher:
            answer = batcher({"image": image, "weight": 1.0})
            assert np.array_equal(answer, (image * np.float32(0.5) + 1) * 2)


def test_token_ids_grow_where_the_model_is(machine_of: Maker) -> None:
    machine_of("lazy")
    rows = [np.arange(n, dtype="int32") + 1 for n in (3, 0, 5)]

    def model(batch: Any) -> Any:
        assert batch.values.dtype == batch.mask.dtype == np.int64
        return PerToken(batch.values + batch.mask)

    for device in ("cuda", None):
        with Batcher(
            model,
            inputs=TensorSpec((None,), "int32", transform=TokenIds()),
            collate="pad",
            device=device,
        ) as batcher:
            for row in rows:
                assert np.array_equal(batcher(row), row + 1)


def test_answers_can_stay_on_the_device(machine_of: Maker) -> None:
    machine = machine_of("lazy")
    with Batcher(doubled, inputs=ROW, device="cuda", outputs="device") as batcher:
        answer = batcher(np.ones(3, "float32"))
        many = batcher.submit_many(np.ones((3, 3), "float32")).result(WAITING)
    assert isinstance(answer, machine.xp.ndarray)
    assert np.array_equal(answer.get(), np.full(3, 2))
    assert [each.get().tolist() for each in many] == [[2, 2, 2]] * 3


def test_several_batches_are_under_way_at_once(machine_of: Maker) -> None:
    """While the model's thread is held up in its third call, two batches wait for the device."""
    machine_of("lazy")
    seen: list[int] = []
    held, go_on = threading.Event(), threading.Event()

    def model(x: Any) -> Any:
        seen.append(len(x))
        if len(seen) == 3:
            held.set()
            assert go_on.wait(WAITING)
        return doubled(x)

    with Batcher(model, inputs=ROW, max_batch_size=4, device="cuda") as batcher:
        futures = [batcher.submit(np.full(3, i, "float32")) for i in range(12)]
        assert held.wait(WAITING)
        assert batcher.statistics().batches <= 2
        go_on.set()
        for i, future in enumerate(futures):
            assert future.result(WAITING)[0] == 2 * i


def test_each_device_has_an_instance(machine_of: Maker) -> None:
    machine = machine_of("lazy", devices=2)
    where: set[str] = set()

    def factory(device: str) -> Callable[[Any], Any]:
        def model(x: Any) -> Any:
            assert x.device.id == int(device[-1])
            where.add(device)
            return doubled(x)

        return model

    pool = ModelPool(factory, devices=["cuda:0", "cuda:1"])
    with Batcher(pool, inputs=ROW, max_batch_size=2, device=CudaDevice(depth=1)) as batcher:
        assert len(machine.lanes) == 2
        for _ in range(20):
            rows = np.random.default_rng(3).random((64, 3)).astype("float32")
            futures = [batcher.submit(row) for row in rows]
            for row, future in zip(rows, futures, strict=True):
                assert np.array_equal(future.result(WAITING), row * 2)
    assert where == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize("completion", ["thread", "native"])
def test_an_instance_that_is_lent_runs_nothing_else(machine_of: Maker, completion: Any) -> None:
    machine_of("lazy", devices=2)
    where: list[str] = []

    def factory(device: str) -> Callable[[Any], Any]:
        def model(x: Any) -> Any:
            where.append(device)
            return doubled(x)

        return model

    row = np.ones(3, "float32")
    pool = ModelPool(factory, devices=["cuda:0", "cuda:1"])
    device = CudaDevice(completion=completion)
    with Batcher(pool, inputs=ROW, max_batch_size=2, device=device) as batcher, pool.acquire():
        for future in [batcher.submit(row) for _ in range(40)]:
            assert future.result(WAITING)[0] == 2
        assert set(where) == {"cuda:1"}
        with pool.acquire():
            waiting = batcher.submit(row)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        assert waiting.result(WAITING)[0] == 2
        assert set(where) == {"cuda:1"}
    with Batcher(pool, inputs=ROW, device=device) as batcher, pool.acquire():
        assert batcher(row)[0] == 2
        batcher.close()


@pytest.mark.parametrize("completion", ["thread", "native"])
@pytest.mark.parametrize("where", ["copy", "model"])
def test_after_an_error_of_cuda_everything_fails_and_nothing_hangs(
    machine_of: Maker, where: str, completion: Any
) -> None:
    machine = machine_of("lazy")
    calls = 0

    def model(x: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3 and where == "model":
            machine.xp.later(lambda: setattr(machine.cuda, "status", ILLEGAL_ADDRESS))
        return doubled(x)

    device = CudaDevice(completion=completion)
    batcher = Batcher(model, inputs=ROW, max_batch_size=4, device=device)
    assert batcher(np.ones(3, "float32"))[0] == 2
    if where == "copy":
        machine.cuda.fail_next = "memcpyAsync"
    futures: list[Any] = []
    refused: list[BaseException] = []
    for _ in range(40):
        try:
            futures.append(batcher.submit(np.ones(3, "float32")))
        except DeviceError as error:  # there is no memory to be had for one more batch
            refused.append(error)
    errors = [future.exception(WAITING) for future in futures] + refused
    # What had ended before the error has its answer.
    first = next(i for i, error in enumerate(errors) if error is not None)
    assert all(isinstance(error, DeviceError) for error in errors[first:])
    assert first < 40
    assert "restart the process" in str(errors[first])
    with pytest.raises(DeviceError):
        batcher(np.ones(3, "float32"))
    assert machine.lanes[0].broken is not None
    batcher.close()
    now = batcher.statistics()
    assert now.submitted == now.completed + now.failed


@pytest.mark.parametrize("completion", ["thread", "native"])
def test_an_idle_device_lets_go_of_its_last_batch(machine_of: Maker, completion: Any) -> None:
    machine = machine_of("lazy")
    device = CudaDevice(completion=completion)
    with Batcher(doubled, inputs=ROW, max_batch_size=4, device=device) as batcher:
        assert batcher(np.ones(3, "float32"))[0] == 2
        slots = machine.lanes[0]._ring.slots
        until(lambda: all(slot.flight is None and slot.held == () for slot in slots))


@pytest.mark.parametrize("completion", ["thread", "native"])
def test_an_idle_device_knows_that_its_last_batch_failed(
    machine_of: Maker, completion: Any
) -> None:
    machine = machine_of("lazy")

    go_on = threading.Event()

    def fail() -> None:
        assert go_on.wait(WAITING)
        machine.cuda.status = ILLEGAL_ADDRESS

    def model(x: Any) -> Any:
        machine.xp.later(fail)
        return doubled(x)

    device = CudaDevice(completion=completion)
    with Batcher(model, inputs=ROW, max_batch_size=4, device=device) as batcher:
        future = batcher.submit(np.ones(3, "float32"))
        time.sleep(0.05)  # the executor sleeps when the batch ends
        go_on.set()
        assert isinstance(future.exception(WAITING), DeviceError)
        until(lambda: machine.lanes[0].broken is not None)


def test_a_device_that_failed_gets_no_more_while_another_works(machine_of: Maker) -> None:
    machine = machine_of("lazy", devices=2)

    def factory(device: str) -> Callable[[Any], Any]:
        return doubled

    pool = ModelPool(factory, devices=["cuda:0", "cuda:1"])
    with Batcher(pool, inputs=ROW, max_batch_size=2, device="cuda") as batcher:
        machine.lanes[0]._ring.health.broke(RuntimeError("unplugged"))
        ended = [batcher.submit(np.ones(3, "float32")).exception(WAITING) for _ in range(100)]
        failed = [error for error in ended if error is not None]
        assert len(failed) <= 2, "one batch at the most finds out"
        states = [executor.state for executor in batcher.statistics().executors]
        assert states.count("gone") == 1


def test_a_model_that_raises_fails_its_batch_alone(machine_of: Maker) -> None:
    machine_of("eager")  # so that the model can look at what it is given

    def model(x: Any) -> Any:
        if x.get()[0, 0] == 13:
            raise RuntimeError("unlucky")
        return doubled(x)

    with Batcher(model, inputs=ROW, max_batch_size=1, device="cuda") as batcher:
        good, bad = (batcher.submit(np.full(3, value, "float32")) for value in (1, 13))
        assert good.result(WAITING)[0] == 2
        error = bad.exception(WAITING)
        assert isinstance(error, ModelError)
        assert isinstance(error.__cause__, RuntimeError)
        assert batcher(np.full(3, 4, "float32"))[0] == 8


def tracing() -> tuple[InMemorySpanExporter, TracerProvider]:
    """Where spans end up, and who makes them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, provider


@pytest.mark.parametrize("completion", ["thread", "native"])
def test_every_batch_on_a_device_has_a_span(machine_of: Maker, completion: Any) -> None:
    machine_of("lazy")
    exporter, provider = tracing()
    device = CudaDevice(completion=completion)
    with Batcher(doubled, inputs=ROW, max_batch_size=4, device=device) as batcher:
        instrument(batcher, provider)
        for future in [batcher.submit(np.ones(3, "float32")) for _ in range(50)]:
            assert future.result(WAITING)[0] == 2
    spans = exporter.get_finished_spans()
    assert len(spans) == batcher.statistics().batches
    rows = [dict(span.attributes or {})["tidegate.batch.rows"] for span in spans]
    assert sum(int(str(each)) for each in rows) == 50


@pytest.mark.parametrize("completion", ["thread", "native"])
def test_a_span_ends_with_its_batch_though_no_other_follows(
    machine_of: Maker, completion: Any
) -> None:
    machine_of("lazy")
    exporter, provider = tracing()
    device = CudaDevice(completion=completion)
    with Batcher(doubled, inputs=ROW, max_batch_size=4, device=device) as batcher:
        instrument(batcher, provider)
        assert batcher(np.ones(3, "float32"))[0] == 2
        answered = time.time_ns()
        time.sleep(0.1)
    (span,) = exporter.get_finished_spans()
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time < answered + 50_000_000


def test_graphs_are_used_until_their_model_is_swapped(machine_of: Maker) -> None:
    machine_of("lazy")
    replayed: list[int] = []

    class Graphs:
        def __init__(self, factor: float) -> None:
            self.factor = np.float32(factor)

        def __call__(self, x: Any) -> Any:
            return x * self.factor

        def capture(self, size: int, argument: Any) -> Callable[[], Any]:
            def replay() -> Any:
                replayed.append(size)
                return argument * self.factor

            return replay

    pool = ModelPool(lambda: Graphs(2))
    with Batcher(
        pool,
        inputs=ROW,
        max_batch_size=4,
        allowed_batch_sizes=(1, 4),
        warmup=True,
        device="cuda",
    ) as batcher:
        assert batcher(np.ones(3, "float32")).tolist() == [2, 2, 2]
        assert replayed == [1]
        pool.swap(lambda: Graphs(3))
        assert batcher(np.ones(3, "float32")).tolist() == [3, 3, 3]
        assert replayed == [1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"inputs": None}, "pass inputs"),
        ({"inputs": None, "collate": "list"}, "no collate='list'"),
        ({"executor": "inline"}, "executor='thread'"),
        ({"device": "gpu"}, 'must be "cuda"'),
        ({"device": "cuda:7"}, "there is no device"),
        (
            {"allowed_batch_sizes": (1, 64), "padding_policy": "batch_down"},
            "choose 'pad_up' or 'none'",
        ),
        ({"on_batch_error": "bisect"}, "leave it at 'fail'"),
        ({"outputs": "device", "device": None}, "needs a device"),
    ],
)
def test_what_cannot_be_is_said(machine_of: Maker, settings: dict[str, Any], said: str) -> None:
    machine_of()
    arguments: dict[str, Any] = {"inputs": ROW, "device": "cuda", **settings}
    with pytest.raises(ConfigError, match=said):
        Batcher(doubled, **arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"depth": 0}, "depth"), ({"completion": "poll"}, "completion")],
)
def test_a_device_is_used_in_one_of_few_ways(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CudaDevice(**arguments)


DRIVER = Driver((13, 0), (GpuDevice(0, "NVIDIA H200", (9, 0)),))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Findings(driver=None, distributions={}), "there is no NVIDIA driver"),
        (Findings(driver=DRIVER, distributions={}), "CuPy is not installed.*cuda13"),
        (
            Findings(
                driver=DRIVER,
                cupy="14.2.0",
                distributions={"cupy-cuda13x": "14.2.0"},
                nvrtc_trouble="libnvrtc.so.13 was not found",
            ),
            "NVRTC.*cuda13",
        ),
    ],
)
def test_a_batcher_says_which_of_three_things_is_missing(
    monkeypatch: pytest.MonkeyPatch, found: Findings, said: str
) -> None:
    monkeypatch.setattr(findings, "look", lambda: found)
    for inputs in (ROW, None):  # which are not the first thing that is wrong
        with pytest.raises(ConfigError, match=said) as caught:
            Batcher(doubled, inputs=inputs, device="cuda")
        assert "no work on a GPU is possible" in str(caught.value)


def test_a_device_that_cannot_be_entered_fails_its_batches(
    machine_of: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machine_of("lazy")

    def refused(_: int) -> None:
        machine.cuda.status = ILLEGAL_ADDRESS
        raise RuntimeError("no such luck")

    monkeypatch.setattr(machine.cuda.runtime, "setDevice", refused)
    with Batcher(doubled, inputs=ROW, device="cuda") as batcher:
        try:
            error = batcher.submit(np.ones(3, "float32")).exception(WAITING)
        except DeviceError as refusal:  # no memory could be had there
            error = refusal
        assert isinstance(error, DeviceError)


def test_without_a_gpu_a_batcher_says_what_is_missing() -> None:
    """Whatever this machine lacks: a driver, CuPy, or NVRTC."""
    found = findings.look()
    if not found.problems:
        pytest.skip("nothing is missing here")
    with pytest.raises(ConfigError, match="no work on a GPU is possible") as caught:
        Batcher(doubled, inputs=ROW, device="cuda")
    assert found.problems[0].remedy in str(caught.value)
