"""What a lane must do on a GPU as on its stand-in: each way to collate, each kind of answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.gpu.worlds import Driven, World, on_host
from tidegate import TensorSpec
from tidegate import gpu as ops
from tidegate.ragged import PerToken
from tidegate.transforms import Affine, TokenIds

Batches = list[list[npt.NDArray[Any]]]


def dense(seed: int, shape: tuple[int, ...] = (5,), dtype: Any = np.float32) -> Batches:
    """Seven batches of 1 to 8 rows."""
    random = np.random.default_rng(seed)
    sizes = [8, 1, 3, 8, 2, 5, 8]
    return [[random.integers(0, 200, shape).astype(dtype) for _ in range(n)] for n in sizes]


def ragged(seed: int, token: tuple[int, ...] = (3,), dtype: Any = np.float32) -> Batches:
    """Seven batches, some of whose rows are empty, and once all of them."""
    random = np.random.default_rng(seed)
    lengths = [[2, 0, 5], [1], [0, 0], [4, 4, 4, 4], [0, 7], [3, 1, 0, 2, 6], [8] * 8]
    return [[random.integers(1, 99, (n, *token)).astype(dtype) for n in batch] for batch in lengths]


def check_stacked(world: World) -> None:
    """Rows that fill up are zeros, and what comes back are the others."""
    driven = world.lane(lambda x: x + x.sum(axis=0), TensorSpec((5,), "f4"))
    batches = dense(1)
    for size in (0, 8):
        for batch, found in zip(batches, driven.answers(batches, size), strict=True):
            rows = np.stack(batch)
            np.testing.assert_array_equal(on_host(found), rows + rows.sum(axis=0))


class Pair(NamedTuple):
    """A structure of requests and of answers."""

    left: Any
    right: Any


def check_structures(world: World) -> None:
    """Tuples, named tuples and mappings go in and come out as they are."""
    spec: Any = Pair(TensorSpec((2, 3), "i8"), TensorSpec((), "u1"))
    driven = world.lane(lambda x: Pair(x.right + 1, x.left * 2), spec)
    batches: Any = [[Pair(np.full((2, 3), i), i) for i in range(n)] for n in (3, 1, 8)]
    for batch, found in zip(batches, driven.answers(batches, 8), strict=True):
        assert isinstance(found, Pair)
        assert on_host(found.left).tolist() == [each.right + 1 for each in batch]
        np.testing.assert_array_equal(on_host(found.right), [2 * each.left for each in batch])
    named: Any = {"a": TensorSpec((4,), "f8"), "b": TensorSpec((), "?")}
    driven = world.lane(lambda x: {"sum": x["a"].sum(axis=1), "not": ~x["b"]}, named)
    found = driven.send([{"a": [1, 2, 3, 4], "b": True}, {"a": [0, 0, 0, 1], "b": False}]).wait()
    assert list(found) == ["sum", "not"]
    assert on_host(found["sum"]).tolist() == [10, 1]
    assert on_host(found["not"]).tolist() == [False, True]


def check_padded(world: World) -> None:
    """Rows are padded to the longest, whatever was in the buffers before."""
    driven = world.lane(padded_model, TensorSpec((None, 3), "f4"), collate="pad", padding_value=-1)
    check_padded_answers(driven, ragged(2), None)


def check_padded_to_lengths(world: World) -> None:
    """Rows are padded to the next of some lengths."""
    spec = TensorSpec((None, 3), "f4")
    driven = world.lane(padded_model, spec, collate="pad", padding_value=-1, pad_to=(4, 8))
    check_padded_answers(driven, ragged(3), (4, 8))


def padded_model(batch: Any) -> Any:
    """Shows everything that a model of padded rows sees."""
    total = batch.values.sum(axis=1)
    return total, batch.mask.sum(axis=1), batch.lengths + 0, PerToken(batch.values * 2)


def check_padded_answers(driven: Driven, batches: Batches, pad_to: tuple[int, ...] | None) -> None:
    """Compares the answers of padded_model()."""
    for size in (0, 8):
        for batch, found in zip(batches, driven.answers(batches, size), strict=True):
            longest = max(len(row) for row in batch)
            length = next(n for n in pad_to if n >= longest) if pad_to else longest
            whole = np.full((len(batch), length, 3), -1, np.float32)
            for row, tokens in zip(whole, batch, strict=True):
                row[: len(tokens)] = tokens
            lengths = [len(row) for row in batch]
            np.testing.assert_array_equal(on_host(found[0]), whole.sum(axis=1))
            assert on_host(found[1]).tolist() == lengths
            assert on_host(found[2]).tolist() == lengths
            assert on_host(found[2]).dtype == np.int32
            assert isinstance(found[3], PerToken)
            np.testing.assert_array_equal(on_host(found[3]), whole * 2)


def check_token_ids(world: World) -> None:
    """int32 ids go up and are int64 for the model, with a mask of int64, beside other arrays."""
    spec: Any = {
        "ids": TensorSpec((None,), "i4", transform=TokenIds()),
        "weights": TensorSpec((None,), "f4"),
        "scale": TensorSpec((), "f4"),
    }

    def model(batch: Any) -> Any:
        values = batch.values
        assert (values["ids"].dtype, batch.mask.dtype) == (np.int64, np.int64)
        weighted = (values["weights"] * batch.mask).sum(axis=1) * values["scale"]
        return PerToken(values["ids"] * 1), weighted, batch.mask.sum(axis=1)

    driven = world.lane(model, spec, collate="pad", padding_value=7)
    requests = [
        {"ids": [1, 2], "weights": [0.5, 1.5], "scale": 2.0},
        {"ids": [], "weights": [], "scale": 1.0},
        {"ids": [3, 4, 5], "weights": [1.0, 2.0, 4.0], "scale": 0.5},
    ]
    for size in (3, 5):
        ids, weighted, counted = driven.send(requests, size).wait()
        assert on_host(ids).tolist() == [[1, 2, 7], [7, 7, 7], [3, 4, 5]]
        assert on_host(weighted).tolist() == [4.0, 0.0, 3.5]
        assert on_host(counted).tolist() == [2, 0, 3]


def check_packed(world: World) -> None:
    """Tokens lie end to end; rows that fill up are empty sequences."""
    longest: list[int] = []

    def model(batch: Any) -> Any:
        longest.append(batch.max_seqlen)
        lengths = batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]
        return PerToken(batch.values * 2), lengths, lengths + lengths.sum()

    driven = world.lane(model, TensorSpec((None, 3), "f4"), collate="pack")
    batches = ragged(4)
    for size in (0, 8):
        longest.clear()
        for batch, found in zip(batches, driven.answers(batches, size), strict=True):
            lengths = np.array([len(row) for row in batch])
            np.testing.assert_array_equal(on_host(found[0]), np.concatenate(batch) * 2)
            assert on_host(found[1]).tolist() == lengths.tolist()
            assert on_host(found[2]).tolist() == (lengths + lengths.sum()).tolist()
        assert longest == [max(len(row) for row in batch) for batch in batches]


def check_affine(world: World) -> None:
    """Bytes go up and are floats for the model, with the channels first."""
    numbers: Any = {"scale": (0.5, 0.25, 2.0), "bias": (1, 2, 3), "layout": "channels_first"}
    spec = TensorSpec((4, 5, 3), "u1", transform=Affine(**numbers))
    driven = world.lane(lambda x: x + x.sum(axis=0), spec)
    batches = dense(5, (4, 5, 3), np.uint8)
    for batch, found in zip(batches, driven.answers(batches, 8), strict=True):
        wanted = ops.u8_affine(np.stack(batch), **numbers)
        np.testing.assert_array_equal(on_host(found), wanted + wanted.sum(axis=0))


def check_device_outputs(world: World) -> None:
    """Answers stay on the device and never change, not even if the model answers its argument."""
    spec = TensorSpec((5,), "f4")
    driven = world.lane(lambda x: (x, x * 3, x[:, ::-1]), spec, outputs="device")
    batches = dense(6)
    answers = driven.answers(batches, 8)
    for batch, found in zip(batches, answers, strict=True):
        assert all(isinstance(each, world.xp.ndarray) for each in found)
        np.testing.assert_array_equal(on_host(found[0]), np.stack(batch))
        np.testing.assert_array_equal(on_host(found[1]), np.stack(batch) * 3)
        np.testing.assert_array_equal(on_host(found[2]), np.stack(batch)[:, ::-1])


def check_views_and_kept_buffers(world: World) -> None:
    """A model may answer with views of its argument, and with a buffer that it keeps."""
    kept: dict[str, Any] = {}

    def model(x: Any) -> Any:
        if not kept:
            kept["out"] = world.xp.empty((8, 5), np.float32)
        np_or_cupy_add(x, kept["out"])
        return kept["out"], x[:, ::2], x.transpose(0, 2, 1) if x.ndim == 3 else x[:, ::-1]

    driven = world.lane(model, TensorSpec((5,), "f4"))
    batches = dense(7)
    for batch, found in zip(batches, driven.answers(batches, 8), strict=True):
        rows = np.stack(batch)
        np.testing.assert_array_equal(on_host(found[0]), rows + rows)
        np.testing.assert_array_equal(on_host(found[1]), rows[:, ::2])
        np.testing.assert_array_equal(on_host(found[2]), rows[:, ::-1])


def np_or_cupy_add(x: Any, out: Any) -> None:
    """Doubles `x` in place of `out`; both libraries take NumPy's function."""
    np.add(x, x, out=out)


def check_host_arrays_pass(world: World) -> None:
    """What the model has on the host stays there, and is nobody else's."""
    shared = np.arange(8.0)
    driven = world.lane(lambda x: (x * 2, shared), TensorSpec((5,), "f4"))
    found = driven.send(dense(8)[2], 8).wait()
    shared[:] = -1
    assert found[1].tolist() == [0, 1, 2]


def check_replays(world: World) -> None:
    """A replay sees each batch, and its answers, which it writes to one place, do not change."""
    model = Recorded(world)
    spec = TensorSpec((None, 3), "f4")
    driven = world.lane(model, spec, collate="pad", pad_to=(4, 8), allowed_batch_sizes=(2, 4, 8))
    driven.lane.warm_up()
    assert model.captured == sorted(
        ((size, length) for size in (2, 4, 8) for length in (4, 8) for _ in range(3)), reverse=True
    )
    called = model.called
    batches = [batch for batch in ragged(9) if len(batch) != 5 and len(batch) != 3]
    answers = [driven.send(batch, {1: 2}.get(len(batch), len(batch))).wait() for batch in batches]
    for batch, found in zip(batches, answers, strict=True):
        wanted = [row.sum(axis=0) + len(row) for row in batch]
        np.testing.assert_array_equal(on_host(found), wanted)
    assert model.called == called, "a graph was there for each of them"
    driven.send(ragged(9)[5], 5).wait()
    assert model.called == called + 1


class Recorded:
    """A model that captures, and replays the same operations over the same arrays."""

    def __init__(self, world: World) -> None:
        self.xp = world.xp
        self.out = world.xp.empty((8, 3), np.float32)
        self.captured: list[tuple[int, int]] = []
        self.called = 0

    def __call__(self, batch: Any) -> Any:
        self.called += 1
        return batch.values.sum(axis=1) + batch.lengths[:, None]

    def capture(self, size: int, argument: Any) -> Any:
        self.captured.append((size, argument.values.shape[1]))

        def replay() -> Any:
            summed = argument.values.sum(axis=1)
            np.add(summed, argument.lengths[:, None], out=self.out[:size])
            return self.out[:size]

        return replay


CHECKS = (
    check_stacked,
    check_structures,
    check_padded,
    check_padded_to_lengths,
    check_token_ids,
    check_packed,
    check_affine,
    check_device_outputs,
    check_views_and_kept_buffers,
    check_host_arrays_pass,
    check_replays,
)
