"""What must hold for every kernel: the same checks run on the shim, on mutants and on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate import gpu as ops
from tidegate.gpu.lengths import row_lengths

HostArray = npt.NDArray[Any]


class Device:
    """CuPy, or what stands for it, and random numbers for one run of a check."""

    def __init__(self, cupy: Any, seed: int) -> None:
        self.cupy = cupy
        self.random = np.random.default_rng(seed)

    def put(self, array: HostArray, *, lead: int = 0) -> Any:
        """A copy on the device, which begins `lead` items behind an aligned address."""
        flat = np.concatenate([np.zeros(lead, array.dtype), array.ravel()])
        return self.cupy.asarray(flat)[lead:].reshape(array.shape)

    def put_apart(self, array: HostArray, pitch: int) -> Any:
        """A copy of a 2-D array whose rows begin `pitch` items apart, with other data between."""
        wide = self.random.integers(0, 100, (len(array), pitch)).astype(array.dtype)
        wide[:, : array.shape[1]] = array
        return self.cupy.asarray(wide)[:, : array.shape[1]]

    def offsets(self, lengths: Sequence[int], unused: int = 0) -> HostArray:
        """cu_seqlens of some sequences, and nonsense for rows that are not valid."""
        ends = np.cumsum([0, *lengths])
        behind = self.random.integers(-(2**30), 2**30, unused)
        return np.concatenate([ends, behind]).astype(np.int32)


def same(found: Any, wanted: HostArray) -> None:
    """Raises AssertionError unless both have the same bits."""
    host = found.get()
    assert host.dtype == wanted.dtype
    assert host.shape == wanted.shape
    np.testing.assert_array_equal(_bits(host), _bits(wanted))


def _bits(array: HostArray) -> HostArray:
    return np.frombuffer(array.tobytes(), dtype=np.uint8)


# u8_affine


def bytes_become_floats_in_every_layout_and_type(device: Device) -> None:
    random = device.random
    # Pixels of an image; 12 rows of 13 is a length that no vector divides.
    for dtype, suffix in (("float32", "f32"), ("float16", "f16"), ("bfloat16", "bf16")):
        for channels in (1, 2, 3, 4):
            for pixels in (16, 13, 400):
                capacity = int(random.integers(1, 5))
                rows = int(random.integers(0, capacity + 1))
                x = random.integers(0, 256, (capacity, pixels, channels), dtype=np.uint8)
                scale = _floats(random, channels)
                bias = _floats(random, channels)
                settings: dict[str, Any] = {
                    "dtype": dtype,
                    "fill": float(random.normal()),
                    "rows": rows,
                }
                wanted = ops.u8_affine(x, scale, bias, **settings)
                same(ops.u8_affine(device.put(x), scale, bias, **settings), wanted)
                odd = pixels * channels % (4 if dtype == "float32" else 8) != 0
                _launched(device, f"u8_affine_{suffix}" + "_scalar" * odd)


def _floats(random: np.random.Generator, count: int) -> list[float]:
    """Some as images are normalised with, some that leave the range of the shorter types."""
    usual = random.normal(size=count) / 60
    large = 10.0 ** random.uniform(-9, 9, count) * random.choice([-1, 1], count)
    return [float(value) for value in np.where(random.random(count) < 0.6, usual, large)]


def _launched(device: Device, name: str) -> None:
    """The kernel that was launched last, where the device says so."""
    launched = getattr(device.cupy, "launched", [name])
    assert launched[-1] == name


def ties_go_to_the_even_number(device: Device) -> None:
    # Halfway between two neighbours of bfloat16 (8 bits of precision) and of float16 (11 bits).
    x = np.arange(256, dtype=np.uint8).reshape(1, 256)
    for scale, bias in ((2.0, 257.0), (2.0, 2049.0), (-2.0, -2049.0), (0.0, 2.0**-25 * 3)):
        for dtype in ("float16", "bfloat16"):
            wanted = ops.u8_affine(x, scale, bias, dtype=dtype)
            same(ops.u8_affine(device.put(x), scale, bias, dtype=dtype), wanted)


def rows_of_bytes_may_lie_apart_and_anywhere(device: Device) -> None:
    x = device.random.integers(0, 256, (3, 48), dtype=np.uint8)
    for dtype, suffix in (("float32", "f32"), ("float16", "f16")):
        wanted = ops.u8_affine(x, 0.5, -3.0, dtype=dtype)
        for pitch, scalar in ((48, False), (64, False), (53, True)):
            found = ops.u8_affine(device.put_apart(x, pitch), 0.5, -3.0, dtype=dtype)
            same(found, wanted)
            _launched(device, f"u8_affine_{suffix}" + "_scalar" * scalar)
        same(ops.u8_affine(device.put(x, lead=3), 0.5, -3.0, dtype=dtype), wanted)
        backwards = device.put(x)[::-1]
        same(ops.u8_affine(backwards, 0.5, -3.0, dtype=dtype), wanted[::-1])
        columns = device.put(np.repeat(x, 2, axis=1))[:, ::2]
        same(ops.u8_affine(columns, 0.5, -3.0, dtype=dtype), wanted)


def channels_move_to_the_front(device: Device) -> None:
    random = device.random
    for dtype, suffix in (("float32", "f32"), ("float16", "f16"), ("bfloat16", "bf16")):
        for height, width in ((8, 8), (5, 3), (48, 50)):
            x = random.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
            scale, bias = _floats(random, 3), _floats(random, 3)
            header = np.array([2, 7, 7], dtype=np.int32)
            settings: dict[str, Any] = {"dtype": dtype, "layout": "channels_first", "fill": 1.5}
            wanted = ops.u8_affine(x, scale, bias, rows=header, **settings)
            found = ops.u8_affine(device.put(x), scale, bias, rows=device.put(header), **settings)
            same(found, wanted)
            _launched(device, f"u8_hwc3_chw_{suffix}" + "_scalar" * (height == 5))


def a_header_counts_up_to_the_capacity(device: Device) -> None:
    x = device.random.integers(0, 256, (3, 16), dtype=np.uint8)
    for count in (-1, 0, 2, 3, 1000):
        header = np.array([count], dtype=np.int32)
        wanted = ops.u8_affine(x, 2.0, 1.0, fill=9.0, rows=header)
        same(ops.u8_affine(device.put(x), 2.0, 1.0, fill=9.0, rows=device.put(header)), wanted)


# pad, unpad


TOKENS: tuple[tuple[Any, tuple[int, ...], str], ...] = (
    (np.float32, (4,), "v16"),
    (np.float16, (24,), "v16"),
    (np.complex128, (), "v16"),
    (np.float32, (3,), "v4"),
    (np.int64, (), "v4"),
    (np.int64, (3,), "v4"),
    (np.float16, (), "v2"),
    (np.uint8, (3,), "v1"),
    (np.bool_, (), "v1"),
)
LENGTHS = ((7,), (0,), (), (3, 0, 5, 9, 1), (0, 0, 2), (40, 1, 33, 0, 130))


def _tokens(device: Device, count: int, dtype: Any, features: tuple[int, ...]) -> HostArray:
    size = count * int(np.prod(features, dtype=int)) * np.dtype(dtype).itemsize
    raw = device.random.integers(0, 2 if dtype == np.bool_ else 256, size, dtype=np.uint8)
    tokens: HostArray = raw.view(dtype).reshape(count, *features)
    return tokens


def sequences_are_padded_and_masked(device: Device) -> None:
    for dtype, features, suffix in TOKENS:
        for lengths in LENGTHS:
            unused = int(device.random.integers(0, 3))
            offsets = device.offsets(lengths, unused)
            values = _tokens(device, sum(lengths), dtype, features)
            longest = max(lengths, default=0)
            for length in {longest, 4, 64}:
                settings: dict[str, Any] = {"length": length, "rows": len(lengths), "fill": 1}
                wanted = ops.pad(values, offsets, **settings)
                found = ops.pad(device.put(values), device.put(offsets), **settings)
                same(found[0], wanted[0])
                same(found[1], wanted[1])
                if wanted[1].size:
                    _launched(device, f"pad_{suffix}")


def padding_is_the_value_that_was_given(device: Device) -> None:
    offsets = device.offsets((1, 2))
    for dtype, features, fill in (
        (np.int64, (3,), -(2**40) - 5),
        (np.int64, (), 2**40 + 3),
        (np.float32, (5,), -np.inf),
        (np.float16, (), 0.1),
        (np.complex64, (3,), 1 + 2j),
        (np.complex128, (3,), 3 - 4j),
        (np.int8, (3,), -7),
    ):
        values = _tokens(device, 3, dtype, features)
        wanted = ops.pad(values, offsets, length=9, fill=fill)
        for lead in (0, 1):
            on_device = device.put(values, lead=lead)
            found = ops.pad(on_device, device.put(offsets), length=9, fill=fill)
            same(found[0], wanted[0])


def a_token_of_nothing_still_has_a_mask(device: Device) -> None:
    offsets = device.offsets((2, 0, 5))
    values = np.zeros((7, 0), dtype=np.float32)
    wanted = ops.pad(values, offsets, length=70)
    found = ops.pad(device.put(values), device.put(offsets), length=70)
    same(found[0], wanted[0])
    same(found[1], wanted[1])


def unpad_undoes_pad(device: Device) -> None:
    for dtype, features, suffix in TOKENS:
        for lengths in LENGTHS:
            offsets = device.put(device.offsets(lengths))
            values = _tokens(device, sum(lengths), dtype, features)
            padded, _ = ops.pad(device.put(values), offsets)
            same(ops.unpad(padded, offsets), values)
            if values.size:
                _launched(device, f"unpad_{suffix}")


def what_unpad_has_no_token_for_is_zero(device: Device) -> None:
    for dtype, features, _ in TOKENS:
        for lengths in LENGTHS:
            unused = int(device.random.integers(0, 3))
            offsets = device.offsets(lengths, unused)
            padded = _tokens(device, (len(lengths) + unused) * 6, dtype, features)
            padded = padded.reshape(-1, 6, *features)
            for extra in (0, 50):
                settings: dict[str, Any] = {"tokens": sum(lengths) + extra, "rows": len(lengths)}
                wanted = ops.unpad(padded, offsets, **settings)
                found = ops.unpad(device.put(padded), device.put(offsets), **settings)
                same(found, wanted)


# pad_ids, packed_meta


def ids_grow_and_get_a_mask(device: Device) -> None:
    for lengths in LENGTHS:
        unused = int(device.random.integers(0, 3))
        offsets = device.offsets(lengths, unused)
        ids = device.random.integers(-(2**31), 2**31, sum(lengths)).astype(np.int32)
        for length in {max(lengths, default=0), 4, 300}:
            settings: dict[str, Any] = {"length": length, "rows": len(lengths), "fill": -(2**40)}
            wanted = ops.pad_ids(ids, offsets, **settings)
            found = ops.pad_ids(device.put(ids), device.put(offsets), **settings)
            same(found[0], wanted[0])
            same(found[1], wanted[1])


def tokens_know_where_they_belong(device: Device) -> None:
    for lengths in LENGTHS:
        unused = int(device.random.integers(0, 3))
        offsets = device.offsets(lengths, unused)
        for extra in (0, 1, 300):
            settings: dict[str, Any] = {"tokens": sum(lengths) + extra, "rows": len(lengths)}
            wanted = ops.packed_meta(offsets, **settings)
            found = ops.packed_meta(device.put(offsets), **settings)
            same(found[0], wanted[0])
            same(found[1], wanted[1])


def a_header_of_too_many_rows_ends_at_the_last(device: Device) -> None:
    offsets, header = device.offsets((3, 4)), np.array([9], dtype=np.int32)
    wanted = ops.packed_meta(offsets, tokens=20, rows=header)
    found = ops.packed_meta(device.put(offsets), tokens=20, rows=device.put(header))
    same(found[0], wanted[0])
    same(found[1], wanted[1])


# softmax_topk


def _ranked(device: Device, logits: HostArray, k: int, rows: int, on_device: Any = None) -> None:
    wanted = ops.softmax_topk(logits, k, rows=rows)
    given = device.put(logits) if on_device is None else on_device
    found = ops.softmax_topk(given, k, rows=rows)
    same(found[0], wanted[0])
    np.testing.assert_allclose(found[1].get(), wanted[1], rtol=0, atol=5e-5)


def the_largest_are_found_with_their_probabilities(device: Device) -> None:
    random = device.random
    for n, k in ((1, 1), (5, 5), (33, 3), (70, 16), (300, 2), (1100, 4)):
        logits = (random.normal(size=(3, n)) * 10).astype(np.float32)
        _ranked(device, logits, k, rows=int(random.integers(1, 4)))


def equal_values_come_in_order(device: Device) -> None:
    for n in (40, 300):
        few = device.random.integers(0, 3, (3, n)).astype(np.float32)
        few[0] = 0.0
        few[1, ::3] = -0.0
        _ranked(device, few, 9, rows=3)


def large_values_in_one_thread_are_all_found(device: Device) -> None:
    # Whatever the block's size, a multiple of 32, one thread has all the large ones.
    logits = device.random.normal(size=(2, 2000)).astype(np.float32)
    logits[:, 7::256] += 100
    _ranked(device, logits, 7, rows=2)


def infinities_and_nans_have_their_places(device: Device) -> None:
    random = device.random
    special = np.array([np.inf, -np.inf, np.nan, 3.0], dtype=np.float32)
    logits = random.normal(size=(9, 50)).astype(np.float32)
    for row, kind in enumerate((np.inf, -np.inf, np.nan)):
        logits[row, random.choice(50, 3, replace=False)] = kind
    logits[3] = -np.inf
    logits[4] = np.nan
    logits[5] = np.inf
    logits[6] = random.choice(special, 50)
    logits[7, :48] = np.nan
    logits[8] = np.where(random.random(50) < 0.9, -np.inf, logits[8])
    _ranked(device, logits, 6, rows=9)


def rows_of_logits_may_lie_apart(device: Device) -> None:
    logits = device.random.normal(size=(4, 37)).astype(np.float32)
    _ranked(device, logits, 3, rows=3, on_device=device.put_apart(logits, 50))


# segment_mean


def _averaged(device: Device, lengths: Sequence[int], features: int, lead: int = 0) -> None:
    random = device.random
    unused = int(random.integers(0, 3))
    offsets = device.offsets(lengths, unused)
    x = (random.normal(size=(sum(lengths), features)) + random.normal()).astype(np.float32)
    for normalise in (False, True):
        settings: dict[str, Any] = {"rows": len(lengths), "normalise": normalise}
        wanted = ops.segment_mean(x, offsets, **settings)
        given = device.put(x, lead=lead)
        found = ops.segment_mean(given, device.put(offsets), **settings).get()
        assert found.shape == wanted.shape
        for row, expected in zip(found, wanted, strict=True):
            distance = np.linalg.norm((row - expected).astype(np.float64))
            assert distance <= 1e-6 * np.linalg.norm(expected.astype(np.float64))


def sequences_are_averaged(device: Device) -> None:
    for lengths in LENGTHS:
        for features, lead in ((4, 0), (7, 0), (132, 0), (8, 1), (1100, 0)):
            if features < 1000 or len(lengths) == 3:
                _averaged(device, lengths, features, lead)


def a_mean_of_what_is_not_finite_is_not_finite(device: Device) -> None:
    x = np.ones((6, 4), dtype=np.float32)
    x[1, 0], x[3, 1], x[4, 2] = np.inf, np.nan, -np.inf
    offsets = device.offsets((3, 0, 3))
    wanted = ops.segment_mean(x, offsets)
    found = ops.segment_mean(device.put(x), device.put(offsets))
    np.testing.assert_array_equal(found.get(), wanted)


def long_sequences_lose_nothing(device: Device) -> None:
    # 0.1 in float32 added up 20,000 times is off by 1e-5 without the compensation.
    x = np.full((20_000, 4), 0.1, dtype=np.float32)
    offsets = device.offsets((20_000,))
    found = ops.segment_mean(device.put(x), device.put(offsets))
    np.testing.assert_allclose(found.get(), x[:1], rtol=2e-7)


# row_lengths


def sequences_are_measured(device: Device) -> None:
    for capacity in (1, 7, 300):
        for rows in (0, capacity // 2, capacity):
            lengths = device.random.integers(0, 9, rows).tolist()
            offsets = device.offsets(lengths, capacity - rows)
            header = np.array([rows, 7], dtype=np.int32)
            wanted = np.array(lengths + [0] * (capacity - rows), dtype=np.int32)
            np.testing.assert_array_equal(row_lengths(offsets, rows=header), wanted)
            same(row_lengths(device.put(offsets), rows=device.put(header)), wanted)
            same(row_lengths(device.put(offsets), rows=rows), wanted)
            _launched(device, "row_lengths")


CHECKS: dict[str, tuple[Callable[[Device], None], ...]] = {
    "u8_affine": (
        bytes_become_floats_in_every_layout_and_type,
        ties_go_to_the_even_number,
        rows_of_bytes_may_lie_apart_and_anywhere,
        channels_move_to_the_front,
        a_header_counts_up_to_the_capacity,
    ),
    "pad": (
        sequences_are_padded_and_masked,
        padding_is_the_value_that_was_given,
        a_token_of_nothing_still_has_a_mask,
    ),
    "unpad": (unpad_undoes_pad, what_unpad_has_no_token_for_is_zero),
    "pad_ids": (ids_grow_and_get_a_mask,),
    "packed_meta": (tokens_know_where_they_belong, a_header_of_too_many_rows_ends_at_the_last),
    "row_lengths": (sequences_are_measured,),
    "softmax_topk": (
        the_largest_are_found_with_their_probabilities,
        equal_values_come_in_order,
        large_values_in_one_thread_are_all_found,
        infinities_and_nans_have_their_places,
        rows_of_logits_may_lie_apart,
    ),
    "segment_mean": (
        sequences_are_averaged,
        a_mean_of_what_is_not_finite_is_not_finite,
        long_sequences_lose_nothing,
    ),
}
