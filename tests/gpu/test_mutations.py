"""The checks notice bugs: each of those planted here into the kernels' text is caught by them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.gpu import shim_driver
from tests.gpu.checks import CHECKS, Device
from tests.gpu.fake_cupy import FakeCupy
from tests.gpu.shim_driver import Shim, ShimError
from tidegate.gpu import kernels

# What is wrong then, the checks that must see it, and what is replaced by what.
MUTATIONS = {
    "the last value of a row is forgotten": (
        "u8_affine",
        "    const i64 chunks = length / kWidth;",
        "    const i64 chunks = (length - 1) / kWidth;",
    ),
    "rows behind the valid ones are computed": (
        "u8_affine",
        "i64>(row) * length;\n        if (row >= rows) {",
        "i64>(row) * length;\n        if (row > rows) {",
    ),
    "the channels of a thread start with the first": (
        "u8_affine",
        "const u32 channel = static_cast<u32>(chunk * kWidth) % kPeriod;",
        "const u32 channel = 0;",
    ),
    "product and sum are rounded apart": (
        "u8_affine",
        "__fmaf_rn(byte_at<kWidth>(bytes[u], i), scale, bias)",
        "byte_at<kWidth>(bytes[u], i) * scale + bias",
    ),
    "bfloat16 is cut off": (
        "u8_affine",
        "(bits + 0x7fffu + (bits >> 16 & 1u)) >> 16",
        "bits >> 16",
    ),
    "bfloat16 ties go up": (
        "u8_affine",
        "(bits + 0x7fffu + (bits >> 16 & 1u)) >> 16",
        "(bits + 0x8000u) >> 16",
    ),
    "planes are as long as rows": (
        "u8_affine",
        "to + static_cast<i64>(c) * pixels + chunk * kWidth",
        "to + static_cast<i64>(c) * pixels * kChannels + chunk * kWidth",
    ),
    "a row is as long as its mask": (
        "pad",
        "if (word < words) to[word] = held[u];\n                if (mask",
        "if (word < span) to[word] = held[u];\n                if (mask",
    ),
    "padding starts a word late": (
        "pad",
        "held[u] = word < used * width ? ",
        "held[u] = word <= used * width ? ",
    ),
    "padding of eight bytes has one half twice": (
        "pad",
        "return word & 1 ? odd : even;",
        "return even;",
    ),
    "a mask of nothing is forgotten": (
        "pad",
        "words > length ? words : length;",
        "words;",
    ),
    "nothing is behind the last sequence": (
        "unpad",
        "for (int row = blockIdx.y; row <= rows; row += gridDim.y) {\n"
        "        const i64 begin = offsets[row];\n"
        "        const i64 end = least(row < rows ? offsets[row + 1] : tokens, tokens);\n"
        "        const i64 words",
        "for (int row = blockIdx.y; row < rows; row += gridDim.y) {\n"
        "        const i64 begin = offsets[row];\n"
        "        const i64 end = least(row < rows ? offsets[row + 1] : tokens, tokens);\n"
        "        const i64 words",
    ),
    "a small grid does not go on": (
        "unpad",
        "first < words;\n             first += gridDim.x * tile) {",
        "first < words;\n             first += words) {",
    ),
    "ids are masked by the length": (
        "pad_ids",
        "mask[base + token] = token < used;",
        "mask[base + token] = token < length;",
    ),
    "positions count through": (
        "packed_meta",
        "static_cast<int>(token - begin)",
        "static_cast<int>(token)",
    ),
    "rows that are not valid are measured": (
        "row_lengths",
        "row < rows ? offsets[row + 1] - offsets[row] : 0;",
        "offsets[row + 1] - offsets[row];",
    ),
    "some threads leave early": (
        "softmax_topk",
        "if (i + 1 == k) break;",
        "if (i + 1 == k || threadIdx.x == 40) break;",
    ),
    "ties go to the last": (
        "softmax_topk",
        "return a.index < b.index;",
        "return a.index > b.index;",
    ),
    "NaN comes first": (
        "softmax_topk",
        "if (a_is_nan != b_is_nan) return b_is_nan;",
        "if (a_is_nan != b_is_nan) return a_is_nan;",
    ),
    "infinities are subtracted": (
        "softmax_topk",
        "return value == largest ? 1.0f : __expf(value - largest);",
        "return __expf(value - largest);",
    ),
    "a larger value does not weigh the others anew": (
        "softmax_topk",
        "sum.weights = sum.weights * weight(sum.largest, value) + 1.0f;",
        "sum.weights = sum.weights + 1.0f;",
    ),
    "the best is taken twice": (
        "softmax_topk",
        "if (before(taken, entry)) next",
        "if (!before(entry, taken)) next",
    ),
    # In what segment_mean has too, which is why they come last: see `texts`.
    "half a warp is combined": (
        "softmax_topk",
        "int distance = 16; distance > 0",
        "int distance = 8; distance > 0",
    ),
    "values are read before they are written": (
        "softmax_topk",
        "shared[threadIdx.x / 32] = mine;\n    __syncthreads();",
        "shared[threadIdx.x / 32] = mine;",
    ),
    "values are overwritten before they are read": (
        "softmax_topk",
        "    __syncthreads();\n    return all;",
        "    return all;",
    ),
    "one warp waits alone": (
        "softmax_topk",
        "    __syncthreads();\n    return all;",
        "    if (threadIdx.x < 32) __syncthreads();\n    return all;",
    ),
    "a sequence loses its last token": (
        "segment_mean",
        "if (first + u < end) {",
        "if (first + u + 1 < end) {",
    ),
    "nothing makes nothing of nothing": (
        "segment_mean",
        "end > begin ? totals[i].sum / static_cast<float>(end - begin) : 0.0f",
        "totals[i].sum / static_cast<float>(end - begin)",
    ),
    "what is lost stays lost": (
        "segment_mean",
        "lost = excess - excess == 0.0f ? excess : 0.0f;",
        "lost = 0.0f;",
    ),
}
SEEDS = range(8)


def texts() -> Iterator[tuple[list[str], str]]:
    """Texts with one bug for each kernel at most, so that few are compiled, and which these are.

    The n-th bugs of all kernels share a text; where they would disturb each other, they are listed
    so that it does not come to that.
    """
    left = dict(MUTATIONS)
    while left:
        text, seen = kernels.source(), dict[str, str]()
        for name, (kernel, old, new) in left.items():
            if kernel not in seen:
                assert kernels.source().count(old) == 1, f"kernels.cu must have {old!r} once"
                assert text.count(old) == 1
                text = text.replace(old, new)
                seen[kernel] = name
        yield list(seen.values()), text
        for name in seen.values():
            del left[name]


@pytest.fixture(scope="module")
def mutants(
    fibers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Shim]]]:
    """For each bug the shim of its text; two are compiled at a time."""
    folder = tmp_path_factory.mktemp("mutants")
    with ThreadPoolExecutor(2) as workers:
        yield {
            name: shim
            for index, (names, text) in enumerate(texts())
            for shim in [workers.submit(shim_driver.build, text, folder / str(index), fibers)]
            for name in names
        }


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_caught(
    name: str, mutants: dict[str, Future[Shim]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cupy = FakeCupy(mutants[name].result(shim_driver.PATIENCE))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for seed in SEEDS:
        for check in CHECKS[MUTATIONS[name][0]]:
            cupy.reseed(seed)
            try:
                check(Device(cupy, seed))
                cupy.check()
            except (AssertionError, ShimError):
                return
    pytest.fail(f"no check saw that {name}")
