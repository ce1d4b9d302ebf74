"""What is done to a whole batch before the model sees it: ``TensorSpec(..., transform=...)``.

Requests are shipped small, as bytes or int32, and widened in one pass: in NumPy on the CPU, in one
kernel on a GPU. The kernels are not yet measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tidegate.errors import ConfigError
from tidegate.specs import TensorSpec

__all__ = ["Affine", "TokenIds"]

# An array of NumPy's or CuPy's.
_Array = Any
_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
_CHANNELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Affine:
    """Bytes become floats: ``x * scale + bias``, per channel if there are several numbers.

    For uint8 arrays of a fixed shape whose last axis are the channels. Rows that only fill up a
    batch become zeros on a device; on the CPU they are copies of its first, as any others.

    Args:
        scale: One finite number, or one for each of up to 4 channels.
        bias: The same.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``. The last comes as its bits in uint16.
        layout: ``"same"``, or ``"channels_first"``: (n, ..., 3) becomes (n, 3, ...).

    Raises:
        ConfigError: One of them is not that.
    """

    scale: float | Sequence[float] = 1.0
    bias: float | Sequence[float] = 0.0
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    layout: Literal["same", "channels_first"] = "same"

    def __post_init__(self) -> None:
        from tidegate.gpu import u8_affine

        for name in ("scale", "bias"):
            given = getattr(self, name)
            try:
                if np.ndim(given):
                    # Equal transforms compare and hash alike, whatever they were made from.
                    given = tuple(float(number) for number in given)
            except (TypeError, ValueError, OverflowError) as error:
                raise ConfigError(
                    f"{name} must be one number or one for each channel, got {given!r}"
                ) from error
            object.__setattr__(self, name, given)
        if self.dtype not in _DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if self.layout == "channels_first" and self.channels not in (1, 3):
            raise ConfigError(
                "channels_first takes one number or one for each of 3 channels, "
                f"got {self.channels}"
            )
        # What is wrong with the others, the operation itself knows best.
        channels = 3 if self.layout == "channels_first" else min(self.channels, _CHANNELS[-1])
        nothing = np.empty((0, 1, channels), np.uint8)
        u8_affine(nothing, self.scale, self.bias, dtype=self.dtype, layout=self.layout)

    @property
    def channels(self) -> int:
        """Of how many channels there are numbers; 1 suits any."""
        return max(int(np.size(self.scale)), int(np.size(self.bias)))

    def check(self, spec: TensorSpec, collate: str | None = None) -> None:
        """Raises ConfigError unless arrays of `spec` can be taken, however they are collated."""
        expected = "a uint8 array that is not ragged"
        good = spec.dtype == np.uint8 and not spec.ragged
        if self.layout == "channels_first":
            expected += ", of shape (..., 3)"
            good = good and len(spec.shape) >= 2 and spec.shape[-1] == 3
        elif self.channels > 1:
            expected += f", with {self.channels} channels on its last axis"
            good = good and spec.shape[-1:] == (self.channels,)
        if not good:
            raise ConfigError(f"Affine needs {expected}, got {spec}")

    def result(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of what apply() makes of a uint8 batch of `shape`."""
        first = self.layout == "channels_first"
        moved = (shape[0], shape[-1], *shape[1:-1]) if first else shape
        return moved, np.dtype(_DTYPES[self.dtype])

    def apply(
        self, x: _Array, *, rows: int | _Array | None = None, out: _Array | None = None
    ) -> _Array:
        """Transforms a batch; see tidegate.gpu.u8_affine().

        Args:
            x: uint8 array of shape (n, ...), of NumPy's or CuPy's.
            rows: How many rows are valid: None for all, a number, or an int32 array beside `x` that
                starts with it. Those behind become zeros.
            out: Where the result goes; None makes an array.

        Returns:
            An array as result() says.
        """
        from tidegate.gpu import u8_affine

        dtype, layout = self.dtype, self.layout
        return u8_affine(x, self.scale, self.bias, dtype=dtype, layout=layout, rows=rows, out=out)


@dataclass(frozen=True)
class TokenIds:
    """Token ids of ragged rows become int64 ids and an int64 attention mask, as models take them.

    For int32 arrays of shape (None,) with ``collate="pad"``. Padded.mask is then int64: 1 where
    there is a token and 0 elsewhere.
    """

    def check(self, spec: TensorSpec, collate: str | None = None) -> None:
        """Raises ConfigError unless arrays of `spec`, collated so, can be taken.

        Args:
            spec: Of one request's array.
            collate: How requests are put together; None if that is not known yet.
        """
        if spec.dtype != np.int32 or spec.shape != (None,):
            raise ConfigError(f"TokenIds needs an int32 array of shape (None,), got {spec}")
        if collate not in (None, "pad"):
            raise ConfigError(f'TokenIds needs collate="pad", got {collate!r}')

    def apply(
        self,
        ids: _Array,
        cu_seqlens: _Array,
        *,
        length: int,
        fill: int = 0,
        rows: int | _Array | None = None,
        out: tuple[_Array, _Array] | None = None,
    ) -> tuple[_Array, _Array]:
        """Transforms a batch; see tidegate.gpu.pad_ids().

        Args:
            ids: int32 array of shape (tokens,), of NumPy's or CuPy's.
            cu_seqlens: int32 array of n + 1 offsets.
            length: Tokens of a row.
            fill: The id behind a sequence.
            rows: How many rows are valid, as for Affine.apply(). Those behind have no tokens.
            out: Where ids and mask go; None makes them.

        Returns:
            Ids and mask, two int64 arrays of shape (n, length).
        """
        from tidegate.gpu import pad_ids

        return pad_ids(ids, cu_seqlens, length=length, fill=fill, rows=rows, out=out)
