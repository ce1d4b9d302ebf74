"""What `python -m benchmarks.gpu` runs, at tiny sizes over the fakes, and PyTorch's on the CPU."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import (
    batches,
    calls,
    capture,
    cases,
    copies,
    encoder,
    endtoend,
    images,
    kernels,
    section,
    stack,
    tables,
    tabular,
    tasks,
    verdicts,
    waking,
)
from benchmarks.gpu.checker import distance
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.stack import Gpu
from benchmarks.gpu.variants import variants_of
from tests.gpu import nvrtc
from tests.gpu.fake_bench import BenchCuda, BenchCupy
from tests.gpu.fake_cupy import FakeCupy
from tests.gpu.machines import Machine
from tests.gpu.shim_driver import Shim
from tidegate import Batcher, TensorSpec
from tidegate.transforms import TokenIds

TINY = cases.Sizes(images=2, pixels=32, sequences=2, length=6, features=8, ranked=2, classes=70)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, shim: Shim) -> Iterator[Gpu]:
    machine = Machine(monkeypatch, shim, "eager", 1, cuda=BenchCuda, xp=BenchCupy)
    yield Gpu(machine.xp)
    machine.xp.check()


def journal(seconds: float = 60.0) -> Journal:
    return Journal(None, seconds, progress=lambda text: None)


def complete(found: Journal, *allowed: str) -> None:
    """Raises AssertionError unless everything was measured, but for what may be left out."""
    assert found.entries
    for entry in found.entries:
        assert not entry.error, entry.error
        assert entry.metrics or entry.note in allowed, entry
        assert all(np.isfinite(value) for value in entry.metrics.values()), entry


def test_a_gpu_is_described(gpu: Gpu) -> None:
    found = stack.describe(gpu)
    assert found["gpu"] == "Fake"
    assert found["torch"] is None


def test_copies_are_probed_from_every_kind_of_memory(gpu: Gpu) -> None:
    found = journal()
    copies.measure(gpu, found, sizes=(4096, 65536, 1 << 20))
    complete(found)
    names = [entry.name for entry in found.entries]
    for kind in ("hostAlloc", "hostRegister", "pageable"):
        assert f"to the device, {kind}, 64 KiB" in names
    assert not gpu.cuda.registered


def test_calls_are_timed(gpu: Gpu) -> None:
    found = journal()
    calls.measure(gpu, found, calls=5)
    complete(found)
    assert found.entries[-1].metrics["until_done_us"] > 0


def test_waiting_is_probed_in_every_way(gpu: Gpu) -> None:
    found = journal()
    waking.measure(gpu, found, rounds=5)
    complete(found)
    assert len(found.entries) == 7
    assert gpu.cupy.spun == 5 * (5 + 5)


def test_graphs_are_probed(gpu: Gpu) -> None:
    found = journal()
    capture.measure(gpu, found)
    complete(found, gpu.without_torch)


def test_the_kernel_that_spins_compiles() -> None:
    library = nvrtc.find(13) or nvrtc.find(12)
    if library is None:
        pytest.skip("needs NVRTC")
    assert nvrtc.Nvrtc(library).compile(waking.SPIN, "sm_90").output


def test_kernels_are_checked(fake_cupy: FakeCupy) -> None:
    found = journal()
    kernels.check(fake_cupy, found, seed=1)
    complete(found)
    assert fake_cupy.launched
    [(_, verdict), *_] = verdicts.verdicts_of(
        {"kernels": {"entries": [vars(entry) for entry in found.entries]}}
    )
    assert verdict.reached


def test_a_wrong_kernel_is_noticed(fake_cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: Any) -> None:
        raise AssertionError("not the same")

    monkeypatch.setattr(kernels, "CHECKS", {"pad": (fail,)})
    found = journal()
    kernels.check(fake_cupy, found)
    assert found.entries[0].reason == "AssertionError: not the same"


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_every_kernel_is_timed(case: cases.Case, gpu: Gpu) -> None:
    found = journal()
    kernels.time_cases(gpu, found, TINY, copied=65536, runs=2, cases=(case,))
    complete(found)
    kernel = "segment_mean_v4" if case.name == "segment_mean" else case.name
    assert set(gpu.cupy.launched) == {kernel}


def test_kernels_are_timed_in_graphs_at_the_size_of_a_batch(gpu: Gpu) -> None:
    found = journal()
    batches.measure(gpu, found, TINY, copied=65536, runs=2)
    complete(found)
    listed = {"kernels": {"entries": [vars(entry) for entry in found.entries]}}
    *_, (_, verdict) = verdicts.verdicts_of(listed)
    assert verdict.spread
    assert verdict.spread.median == max(
        entry.metrics["above_us"] for entry in found.entries if entry.name in verdicts.BARS
    )
    del listed["kernels"]["entries"][-1]
    *_, (_, verdict) = verdicts.verdicts_of(listed)
    assert verdict.spread is None


def test_every_bar_is_of_a_kernel_that_is_timed() -> None:
    assert set(verdicts.BARS) <= {case.name for case in cases.CASES}


def test_cases_shrink_to_the_memory_that_is_free() -> None:
    for case in cases.CASES:
        assert kernels.fitting(cases.LARGE, case, 139 << 30) == cases.LARGE
        small = kernels.fitting(cases.LARGE, case, 8 << 30)
        assert 3 * case.nbytes(small) <= 8 << 30
        assert 3 * case.nbytes(small) >= 0.2 * (8 << 30)


def test_the_tabular_model_is_served_in_every_way(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MOST": 0.08, "LEAST": 0.08, "_OPENING": 0.0}.items():
        monkeypatch.setattr(endtoend, name, value)
    task = tabular.task(gpu, requests=12, sizes=(6, 8, 8, 3))
    found = journal()
    endtoend.measure_task(gpu, task, found, clients=8)
    complete(found)
    closed = [entry.name for entry in found.entries if entry.group == "T, closed loop"]
    assert closed == [endtoend.ALONE, *(variant.name for variant in variants_of(gpu, task))]
    assert all(entry.metrics["checked"] for entry in found.entries[1:])
    at_half = [entry for entry in found.entries if entry.group == "T, open loop at 50%"]
    assert [entry.name for entry in at_half] == ["fair naive", "fair naive, 2 threads", "tidegate"]


def test_without_the_models_own_answers_nothing_is_measured(gpu: Gpu) -> None:
    def out_of_memory(row: Any) -> Any:
        raise MemoryError("no room for the model")

    task = dataclasses.replace(tabular.task(gpu, requests=3, sizes=(6, 8, 3)), alone=out_of_memory)
    found = journal()
    endtoend.measure_task(gpu, task, found)
    assert [entry.reason for entry in found.entries] == ["MemoryError: no room for the model"]


class Recorded:
    """Stands for torch.cuda's graphs: what is replayed is the model, called again."""

    def __init__(self) -> None:
        self.cuda = self
        self.captured: list[Any] = []

    def graph_pool_handle(self) -> int:
        return 1

    def current_stream(self) -> str:
        return "run"

    def CUDAGraph(self) -> Any:  # noqa: N802 - PyTorch's
        return SimpleNamespace(replay=lambda: None)

    @contextlib.contextmanager
    def graph(self, graph: Any, *, pool: int, stream: str, **settings: Any) -> Iterator[None]:
        assert (pool, stream) == (1, "run")
        self.captured.append(graph)
        yield


def test_graphs_of_ragged_rows_are_replayed(gpu: Gpu) -> None:
    """As task E has them: in groups of lengths, each padded to its largest."""
    torch = Recorded()
    recorded = Gpu(gpu.cupy, torch)

    def model(tensors: Any) -> Any:
        ids, mask = tensors
        return (ids * mask)[:, :1]

    def parts(argument: Any) -> Any:
        return argument.values, argument.mask

    graphed = tasks.Graphed(recorded, parts, model, lambda argument: argument.values.size)
    buckets = (2, 4)
    with Batcher(
        graphed,
        inputs=TensorSpec((None,), "int32", transform=TokenIds()),
        collate="pad",
        max_batch_size=4,
        allowed_batch_sizes=(1, 4),
        length_buckets=buckets,
        pad_to=buckets,
        warmup=True,
        device="cuda",
    ) as batcher:
        assert len(torch.captured) == 2 * 2 * 3
        before = graphed.tally.batches
        for length in (1, 4, 2, 3, 1):
            batcher.submit_many([np.ones(length, np.int32)] * 4).result(10)
            batcher(np.ones(length, np.int32))
        called = graphed.tally.batches - before
        facts = graphed.facts()
    assert facts["graphs"] == 12
    assert facts["replayed"] == pytest.approx(called / graphed.tally.batches)


@pytest.mark.parametrize("name", ["probes", "kernels", "T", "I"])
def test_a_section_runs_as_a_whole(name: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "open_gpu", lambda with_torch: gpu)
    small: list[tuple[Any, dict[str, Any]]] = [
        (copies, {"sizes": (4096, 65536, 1 << 20)}),
        (calls, {"calls": 3}),
        (waking, {"rounds": 3}),
        (batches, {"sizes": TINY, "copied": 65536, "runs": 2}),
    ]
    for module, settings in small:
        monkeypatch.setattr(module, "measure", partial(module.measure, **settings))
    for name_, value in {"LARGE": TINY, "_COPIED": 65536, "RUNS": 2}.items():
        monkeypatch.setattr(kernels, name_, value)
    tiny = partial(tabular.task, requests=8, sizes=(6, 8, 8, 3))
    monkeypatch.setitem(endtoend.TASKS, "T", tiny)
    for name_ in ("MOST", "LEAST", "_OPENING"):
        monkeypatch.setattr(endtoend, name_, 0.05)
    found = journal()
    section.run(name, found, sanitize=False)
    complete(found, gpu.without_torch)
    assert found.facts["gpu"] == "Fake"
    assert tables.groups_of({name: {"entries": [vars(entry) for entry in found.entries]}})


def test_tasks_that_need_pytorch_say_so(gpu: Gpu) -> None:
    found = journal()
    endtoend.measure("E", gpu, found)
    assert found.entries[0].note == "PyTorch is not installed"


class HostArray(np.ndarray[Any, Any]):
    """Stands for cupy.ndarray where PyTorch works on the CPU."""

    def get(self) -> Any:
        return np.array(self, subok=False)


class HostCupy:
    """Stands for CuPy there."""

    @staticmethod
    def asarray(rows: Any) -> Any:
        whole = np.stack(rows) if isinstance(rows, list) else rows
        return np.ascontiguousarray(whole).view(HostArray)

    @staticmethod
    def from_dlpack(tensor: Any) -> Any:
        return np.from_dlpack(tensor).view(HostArray)


def small_task(name: str, gpu: Gpu) -> Any:
    if name == "E":
        return encoder.task(gpu, requests=9, layers=1)
    if name == "I":
        return images.task(gpu, requests=9, side=32)
    return tabular.task(gpu, requests=9, sizes=(6, 8, 8, 3))


@pytest.mark.parametrize("name", ["I", "E", "T"])
def test_models_of_pytorch_answer_alike_in_every_way(name: str) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch")
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    gpu = Gpu(HostCupy(), torch, None)
    task = small_task(name, gpu)
    wanted = [task.alone(row) for row in task.requests]

    async def answers(variant: Any) -> list[Any]:
        async with variant.open() as served:
            found = await asyncio.gather(*map(served.submit, served.requests))
            now = served.tally()
            assert now.rows >= len(task.requests)
            assert now.seen >= now.useful >= now.rows
            return list(found)

    for variant in variants_of(gpu, task):
        if variant.open is not None:
            for answer, reference in zip(asyncio.run(answers(variant)), wanted, strict=True):
                assert distance(answer, reference) <= task.tolerance, variant.name
