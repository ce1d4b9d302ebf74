"""What the model is called with: arrays at fixed addresses of the device, and how they are made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from tidegate._layout import Layout
from tidegate.errors import ConfigError, InputError
from tidegate.gpu.lengths import row_lengths
from tidegate.gpu.padding import pad
from tidegate.ragged import Packed, Padded
from tidegate.specs import Spec, TensorSpec, check_spec, leaves
from tidegate.transforms import Affine, TokenIds

__all__ = ["Argument", "Collation"]

Shaped: TypeAlias = "tuple[tuple[int, ...], np.dtype[Any]]"

COLLATES = ("stack", "pad", "pack")
# NumPy's kinds, and for each the bytes that CuPy has of it.
_ON_DEVICE = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}


@dataclass(frozen=True)
class Argument:
    """What the model is called with.

    Attributes:
        value: The arrays, in the structure of a request, or a Padded or Packed of it.
        steps: Launch the kernels that fill in what was not uploaded, on the current stream.
        addresses: Where its arrays lie, and which shapes they have.
    """

    value: Any
    steps: tuple[Callable[[], object], ...]
    addresses: tuple[object, ...]


class Collation:
    """How requests of one spec become an argument.

    Args:
        spec: Of one request.
        collate: ``"stack"``, ``"pad"`` or ``"pack"``.
        padding_value: What padded rows are filled with behind their tokens.
        pad_to: Lengths that rows are padded to, ascending; None pads to the longest.

    Raises:
        ConfigError: They do not go together, or CuPy has no such arrays.
    """

    def __init__(
        self, spec: Spec, collate: str, padding_value: complex, pad_to: Sequence[int] | None
    ) -> None:
        self.spec = check_spec(spec)
        self.specs = leaves(self.spec)
        if collate not in COLLATES:
            raise ConfigError(f'collate must be "stack", "pad" or "pack", got {collate!r}')
        self.collate = collate
        self.ragged = collate != "stack"
        ragged = [leaf for leaf in self.specs if leaf.ragged]
        if bool(ragged) != self.ragged:
            raise ConfigError(
                f"collate={collate!r} takes "
                + ("no ragged arrays" if ragged else "at least one ragged array")
                + f", got {', '.join(str(leaf) for leaf in self.specs)}"
            )
        for leaf in self.specs:
            _check_leaf(leaf, collate)
            if collate == "pad" and leaf.ragged:
                # The operation knows best what it takes, and what fits the dtype.
                nothing = np.empty((0, *leaf.fixed_shape), leaf.dtype)
                _padding(leaf)[0](nothing, np.zeros(1, np.int32), length=0, fill=padding_value)
        self.padding_value = padding_value
        self.pad_to = _check_lengths(pad_to, collate)

    def length_of(self, longest: int) -> int:
        """How long the rows of a batch are padded to; 0 unless they are padded.

        Raises:
            InputError: The longest is longer than the largest of `pad_to`.
        """
        if self.collate != "pad":
            return 0
        if self.pad_to is None:
            return longest
        for length in self.pad_to:
            if longest <= length:
                return length
        raise InputError(
            f"a row may have {self.pad_to[-1]} tokens, the largest of pad_to, got {longest}",
            expected=f"at most {self.pad_to[-1]} tokens",
            given=f"{longest} tokens",
        )

    def results(self, size: int, length: int) -> list[Shaped]:
        """Shapes and dtypes of the arrays that are not uploaded but made on the device."""
        wanted: list[Shaped] = []
        for spec in self.specs:
            if isinstance(spec.transform, Affine):
                wanted.append(spec.transform.result((size, *spec.fixed_shape)))
            elif spec.ragged and self.collate == "pad":
                ids = isinstance(spec.transform, TokenIds)
                dtype = np.dtype(np.int64) if ids else spec.dtype
                wanted.append(((size, length, *spec.fixed_shape), dtype))
        if self.collate == "pad":
            wanted += [((size, length), dtype) for dtype in self._masks()]
            wanted.append(((size,), np.dtype(np.int32)))
        return wanted

    def used(
        self, layout: Layout, memory: Any, rows: int, size: int, tokens: int
    ) -> list[tuple[int, int]]:
        """Spans, in bytes, of the host's memory that a batch uses.

        Rows that only fill it up become sequences without tokens, for which offsets are written.
        """
        spans = layout.used(rows, tokens)
        if layout.ragged and size > rows:
            offsets = layout.offsets_of(memory)
            offsets[rows + 1 : size + 1] = offsets[rows]
            begin, end = spans[0]
            spans[0] = (begin, max(end, layout.offsets + (size + 1) * 4))
        return spans

    def zeroed(self, layout: Layout, rows: int, size: int) -> list[tuple[int, int]]:
        """Spans, in bytes, of the uploaded memory that must be zero since no request fills them."""
        spans: list[tuple[int, int]] = []
        if size == rows:
            return spans
        for spec, part in zip(self.specs, layout.parts, strict=True):
            nbytes = part.item_bytes
            # A transform fills such rows itself.
            if nbytes and not part.ragged and not isinstance(spec.transform, Affine):
                spans.append((part.offset + rows * nbytes, part.offset + size * nbytes))
        return spans

    def bind(
        self,
        layout: Layout,
        memory: Any,
        results: Sequence[Any],
        *,
        size: int,
        length: int,
        tokens: int,
        longest: int,
    ) -> Argument:
        """The argument over memory of the device.

        Args:
            layout: Of `memory`.
            memory: uint8 array that batches are uploaded to.
            results: Arrays as results() says.
            size: Rows that the model sees.
            length: As length_of() says.
            tokens: Tokens of the batch; only packed arguments depend on it.
            longest: The longest row; likewise.
        """
        header = layout.header_of(memory)
        offsets = layout.offsets_of(memory)[: size + 1] if layout.ragged else None
        made = list(results)
        lengths = made.pop() if self.collate == "pad" else None
        masks = {dtype: made.pop() for dtype in reversed(self._masks())}
        values: list[Any] = []
        steps: list[Callable[[], object]] = []
        for spec, array in zip(self.specs, layout.arrays_of(memory), strict=True):
            rows = array if spec.ragged else array[:size]
            if isinstance(spec.transform, Affine):
                out = made.pop(0)
                steps.append(partial(spec.transform.apply, rows, rows=header, out=out))
            elif not spec.ragged:
                out = rows
            elif self.collate == "pack":
                out = array[:tokens]
            else:
                out = made.pop(0)
                run, kind = _padding(spec)
                pair, fill = (out, masks[kind]), self.padding_value
                steps.append(
                    partial(run, array, offsets, length=length, fill=fill, rows=header, out=pair)
                )
            values.append(out)
        value = self._structure(values)
        if self.collate == "pad":
            steps.append(partial(row_lengths, offsets, rows=header, out=lengths))
            # TokenIds' mask is the one that models of ids take.
            mask = masks.get(np.dtype(np.int64), masks.get(np.dtype(np.bool_)))
            value = Padded(value, mask, lengths)
            values += [mask, lengths]
        elif self.collate == "pack":
            value = Packed(value, offsets, longest)
            values.append(offsets)
        addresses = tuple((array.data.ptr, array.shape) for array in values)
        return Argument(value, tuple(steps), addresses)

    def _masks(self) -> list[np.dtype[Any]]:
        """The dtypes of the masks that padding writes: those of ids and of other arrays differ."""
        if self.collate != "pad":
            return []
        kinds = {_padding(spec)[1] for spec in self.specs if spec.ragged}
        return sorted(kinds, key=lambda dtype: dtype.itemsize)

    def _structure(self, values: list[Any]) -> Any:
        spec: Any = self.spec
        if isinstance(spec, TensorSpec):
            return values[0]
        if isinstance(spec, Mapping):
            return dict(zip(spec, values, strict=True))
        return spec._make(values) if hasattr(spec, "_make") else tuple(values)


def _padding(spec: TensorSpec) -> tuple[Callable[..., Any], np.dtype[Any]]:
    """The operation that pads a ragged array, and the dtype of its mask."""
    if isinstance(spec.transform, TokenIds):
        return spec.transform.apply, np.dtype(np.int64)
    return pad, np.dtype(np.bool_)


def _check_leaf(leaf: TensorSpec, collate: str) -> None:
    if leaf.dtype.itemsize not in _ON_DEVICE.get(leaf.dtype.kind, ()):
        raise ConfigError(
            f"a device takes bool, integers, and floats and complex numbers of up to 8 and 16 "
            f"bytes, got {leaf}"
        )
    if leaf.transform is not None:
        leaf.transform.check(leaf, collate)
        if not isinstance(leaf.transform, Affine | TokenIds):
            raise ConfigError(
                f"a device knows the transforms Affine and TokenIds, got {leaf.transform!r}"
            )


def _check_lengths(pad_to: Sequence[int] | None, collate: str) -> tuple[int, ...] | None:
    if pad_to is None:
        return None
    lengths = tuple(pad_to)
    ascending = all(low < high for low, high in itertools.pairwise(lengths))
    if not lengths or not ascending or any(type(n) is not int or n < 1 for n in lengths):
        raise ConfigError(f"pad_to must be ascending lengths of at least 1, got {pad_to!r}")
    if collate != "pad":
        raise ConfigError(f'pad_to is for collate="pad", got collate={collate!r}')
    return lengths
