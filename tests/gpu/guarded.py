"""CuPy with guards around what it allocates, to watch the kernels of a GPU as the shim's are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.gpu.fake_cupy import GUARD, GUARD_BYTE, POISON


class GuardedCupy:
    """Stands in CuPy's place and is CuPy, but for results, which are poisoned and guarded."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._guarded: list[tuple[Any, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cupy, name)

    def empty(self, shape: Any, dtype: npt.DTypeLike) -> Any:
        """An array of poison."""
        wanted = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * wanted.itemsize
        if size == 0:
            return self._cupy.empty(shape, wanted)
        raw = self._cupy.empty((size + 2 * GUARD,), np.uint8)
        raw[...] = GUARD_BYTE
        inside = raw[GUARD : GUARD + size]
        inside[...] = POISON
        self._guarded.append((raw, size))
        return inside.view(wanted).reshape(shape)

    def check(self) -> None:
        """Raises AssertionError if a kernel wrote outside its results; forgets them."""
        guarded, self._guarded = self._guarded, []
        for raw, size in guarded:
            host = raw.get()
            assert (host[:GUARD] == GUARD_BYTE).all(), "a kernel wrote in front of a result"
            assert (host[GUARD + size :] == GUARD_BYTE).all(), "a kernel wrote behind a result"
