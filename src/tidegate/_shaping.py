"""Makes the rows of a batch what the model takes, and its answer what each row gets.

Sizes: a model that was compiled or captured for some batch sizes gets no other. Ragged rows: padded
to one length, or packed end to end. All of it once per batch; the rows themselves are moved by the
extension module.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tidegate import _fast
from tidegate._chunks import Chunk, halves, split
from tidegate._isolation import isolate
from tidegate._joining import blank, checked, joined, kept
from tidegate._settings import PaddingPolicy
from tidegate.errors import ConfigError, OutputError
from tidegate.ragged import Packed, Padded, PerToken
from tidegate.specs import Spec, TensorSpec, leaves
from tidegate.transforms import Affine, TokenIds

__all__ = ["Shaper", "fill_of"]

_Array = npt.NDArray[Any]


class _Rows(NamedTuple):
    """What the tokens of a chunk's rows are like."""

    cu_seqlens: npt.NDArray[np.int32]  # of its rows alone, from 0
    length: int  # of a padded row
    padded: bool


class Shaper:
    """How a batcher's batches are shaped.

    Args:
        spec: What one request looks like; None for ``collate="list"``.
        collate: As of Batcher.
        sizes: The allowed batch sizes, ascending; None for any.
        policy: See split().
        padding_value: Behind the tokens of padded rows.
        pad_to: Lengths that rows are padded to, ascending; None for the longest of the batch.
        isolates: Whether a batch for which the model raises is run again in halves.
    """

    def __init__(
        self,
        spec: Spec | None,
        collate: Literal["stack", "pad", "pack", "list"],
        sizes: Sequence[int] | None,
        policy: PaddingPolicy,
        padding_value: float,
        pad_to: Sequence[int] | None,
        isolates: bool = False,
    ) -> None:
        self.spec = spec
        self.sizes = sizes
        self._collate = collate
        self._policy = policy
        self._pad_to = pad_to
        self._isolates = isolates
        self._specs: list[TensorSpec] = []
        self._fills: list[_Array] = []
        self._padding_value = padding_value
        self._count: Callable[[int, int, int], None] = _uncounted
        if spec is not None:
            self._set_spec(spec)

    def for_spec(self, spec: Spec) -> Shaper:
        """The same for requests of which it was not known from the start what they look like."""
        known = copy.copy(self)
        known._set_spec(spec)
        return known

    def _set_spec(self, spec: Spec) -> None:
        self.spec = spec
        self._specs = leaves(spec)
        self._fills = [
            fill_of(each.dtype, self._padding_value) if each.ragged else np.empty(0)
            for each in self._specs
        ]

    def count_with(self, count: Callable[[int, int, int], None]) -> None:
        """Has each batch's padding counted: rows added, tokens, tokens added."""
        self._count = count

    def around(self, model: Callable[[Any], Any], rows: int) -> Callable[[Any], Any]:
        """A model over a batch in its staging memory; one call for one batch of `rows` rows.

        It takes the memory's arrays, with room for all rows, and the int32 offsets of the ragged
        ones or None; or a list of `rows` objects.
        """
        return functools.partial(self._run, model, rows)

    def _run(self, model: Callable[[Any], Any], rows: int, memory: Any) -> Any:
        chunks = split(rows, self.sizes, self._policy)
        try:
            return self._answer(model, chunks, memory)
        except OutputError:
            raise
        except Exception as error:
            if not self._isolates or rows == 1:
                raise
            failure = error
        try:  # Outside the handler: what is raised now is not for want of handling that.
            return self._isolated(model, chunks, memory, failure)
        finally:
            del failure  # which refers to this frame

    def _answer(self, model: Callable[[Any], Any], chunks: Sequence[Chunk], memory: Any) -> Any:
        if len(chunks) == 1:
            return self._call(model, chunks[0], memory)
        answers = [kept(self._call(model, chunk, memory)) for chunk in chunks]
        return joined(answers, chunks)

    def _isolated(
        self,
        model: Callable[[Any], Any],
        chunks: Sequence[Chunk],
        memory: Any,
        failure: Exception,
    ) -> _fast.Isolated:
        """The answer to a batch for which the model raised, without the rows that are to blame."""

        def cut(chunk: Chunk) -> list[Chunk]:
            return halves(chunk, self.sizes, self._policy)

        parts = isolate(
            lambda chunk: kept(self._call(model, chunk, memory)),
            chunks if len(chunks) > 1 else cut(chunks[0]),
            cut,
            failure,
        )
        like: Any = next((part.answer for part in parts if part.error is None), [])
        answers = [
            blank(like, part.chunk.rows) if part.error is not None else part.answer
            for part in parts
        ]
        try:
            return _fast.Isolated(
                joined(answers, [part.chunk for part in parts]),
                {part.chunk.first: part.error for part in parts if part.error is not None},
            )
        finally:
            parts.clear()  # An error's frames know where this list was made: a cycle else.

    def _call(self, model: Callable[[Any], Any], chunk: Chunk, memory: Any) -> Any:
        added = chunk.size - chunk.rows
        if self._collate == "list":
            objects = memory[chunk.first : chunk.first + chunk.rows]
            objects += objects[:1] * added
            self._count(added, 0, 0)
            return _cut(model(objects), chunk, None)
        arrays, offsets = memory
        if offsets is None:
            self._count(added, 0, 0)
            parts = [
                _transformed(_taken(array, chunk), spec)
                for array, spec in zip(arrays, self._specs, strict=True)
            ]
            return _cut(model(self._structured(parts)), chunk, None)
        argument, rows = self._ragged(arrays, offsets, chunk)
        tokens = int(rows.cu_seqlens[-1])
        self._count(added, tokens, chunk.size * rows.length - tokens if rows.padded else 0)
        return _cut(model(argument), chunk, rows)

    def _ragged(
        self, arrays: Sequence[_Array], offsets: npt.NDArray[np.int32], chunk: Chunk
    ) -> tuple[Padded | Packed, _Rows]:
        begin = offsets[chunk.first]
        cu_seqlens = offsets[chunk.first : chunk.first + chunk.rows + 1] - begin
        lengths = np.diff(cu_seqlens)
        longest = int(lengths.max())
        added = chunk.size - chunk.rows
        if self._collate == "pack":
            end = begin + cu_seqlens[-1]
            parts = [
                array[begin:end] if spec.ragged else _transformed(_taken(array, chunk), spec)
                for array, spec in zip(arrays, self._specs, strict=True)
            ]
            given = np.concatenate((cu_seqlens, np.full(added, cu_seqlens[-1], np.int32)))
            packed = Packed(self._structured(parts), given, longest)
            return packed, _Rows(cu_seqlens, longest, padded=False)
        if self._pad_to is not None:
            longest = self._pad_to[bisect_left(self._pad_to, longest)]
        parts = [
            _widened(
                _fast.pad_rows(array, offsets, chunk.first, chunk.rows, chunk.size, longest, fill),
                spec,
            )
            if spec.ragged
            else _transformed(_taken(array, chunk), spec)
            for array, spec, fill in zip(arrays, self._specs, self._fills, strict=True)
        ]
        seen = np.concatenate((lengths, np.full(added, lengths[0], np.int32)))
        mask = np.arange(longest, dtype=np.int32) < seen[:, np.newaxis]
        if any(isinstance(spec.transform, TokenIds) for spec in self._specs):
            mask = mask.astype(np.int64)
        return Padded(self._structured(parts), mask, seen), _Rows(cu_seqlens, longest, padded=True)

    def _structured(self, parts: Sequence[Any]) -> Any:
        """Arrays in the structure of a request."""
        spec = self.spec
        if isinstance(spec, TensorSpec):
            return parts[0]
        if isinstance(spec, Mapping):
            return dict(zip(spec, parts, strict=True))
        named: Any = spec
        return named._make(parts) if hasattr(spec, "_make") else tuple(parts)

    def warm_up(
        self, model: Callable[[Any], Any], most: int, most_tokens: int | None = None
    ) -> None:
        """Calls the model with zeros, once for each allowed size and each length to pad to.

        Args:
            model: The model.
            most: The largest batch size, for which it is called if any size is allowed.
            most_tokens: Tokens that a batch may have; None for no limit. No row is padded to a
                length that would take more.
        """
        ragged = any(spec.ragged for spec in self._specs)
        lengths: Sequence[int] = (self._pad_to or (1,)) if ragged else (0,)
        if most_tokens is not None:
            longest = bisect_left(lengths, most_tokens)
            lengths = lengths[: longest + 1]
        for size in self.sizes or (most,):
            for length in lengths:
                offsets = _offsets(size, length, most_tokens)
                arrays = [
                    np.zeros((offsets[-1] if spec.ragged else size, *spec.fixed_shape), spec.dtype)
                    for spec in self._specs
                ]
                count, self._count = self._count, _uncounted
                try:
                    self._call(model, Chunk(0, size, size), (arrays, offsets if ragged else None))
                finally:
                    self._count = count


def _offsets(rows: int, length: int, most: int | None) -> npt.NDArray[np.int32]:
    """Where rows of `length` tokens begin; if they would have more than `most` in all, so many.

    The first is as long as it may be, so that a batch of them is padded to the same length, and the
    others share what is left.
    """
    first, others = length, length * (rows - 1)
    if most is not None:
        first = min(first, most)
        others = min(others, most - first)
    ends = first + others * np.arange(rows) // max(rows - 1, 1)
    return np.concatenate(([0], ends)).astype(np.int32)


def fill_of(dtype: np.dtype[Any], value: Any) -> _Array:
    """One element of `dtype` that says `value`, nothing where that is 0; raises ConfigError."""
    fill = np.zeros(1, dtype)
    if value == 0:
        return fill
    fits = False
    with np.errstate(all="ignore"), contextlib.suppress(TypeError, ValueError, OverflowError):
        fill = np.array([value]).astype(dtype)
        if dtype.kind in "iu":
            fits = bool(fill[0] == value)
        else:
            # Rounded is well, as 0.1 in single precision; another number is not.
            close = np.isclose(fill.astype(complex), complex(value), rtol=0.01, equal_nan=True)
            fits = bool(close[0])
    if not fits:
        raise ConfigError(f"padding_value {value!r} is no {dtype}")
    return fill


def _uncounted(rows: int, tokens: int, padding_tokens: int) -> None:
    """Counts nothing."""


def _taken(array: _Array, chunk: Chunk) -> _Array:
    """The rows of a chunk; those that are added repeat its first."""
    first, rows, size, last = chunk
    if size == rows:
        return array[first : first + rows]
    if last and first + size <= len(array):
        array[first + rows : first + size] = array[first]
        return array[first : first + size]
    return np.concatenate((array[first : first + rows], array[[first] * (size - rows)]))


def _transformed(rows: _Array, spec: TensorSpec) -> Any:
    return spec.transform.apply(rows) if isinstance(spec.transform, Affine) else rows


def _widened(padded: _Array, spec: TensorSpec) -> _Array:
    return padded.astype(np.int64) if isinstance(spec.transform, TokenIds) else padded


def _cut(answer: Any, chunk: Chunk, rows: _Rows | None) -> Any:
    """A model's answer without what it has for added rows; per token where it says so."""
    if isinstance(answer, list):
        if len(answer) != chunk.size:
            raise OutputError(
                f"expected a list of {chunk.size} objects from the model, got {len(answer)}",
                expected=chunk.size,
                given=len(answer),
            )
        return answer[: chunk.rows]
    if isinstance(answer, tuple):
        parts = [_cut_array(part, chunk, rows) for part in answer]
        return answer._make(parts) if hasattr(answer, "_make") else tuple(parts)
    if not isinstance(answer, (np.ndarray, PerToken)) and hasattr(answer, "keys"):
        return {key: _cut_array(answer[key], chunk, rows) for key in list(answer.keys())}
    return _cut_array(answer, chunk, rows)


def _cut_array(value: Any, chunk: Chunk, rows: _Rows | None) -> Any:
    if isinstance(value, PerToken):
        return _by_token(value.array, chunk, rows)
    if chunk.size == chunk.rows or not (
        hasattr(value, "__array__") or hasattr(value, "__array_interface__")
    ):
        return value  # whatever it is, it is checked by whoever keeps it
    return checked(value, chunk.size)[: chunk.rows]


def _by_token(value: Any, chunk: Chunk, rows: _Rows | None) -> _fast.TokenRows:
    array = np.asarray(value)
    if rows is None:
        raise OutputError(
            "the model marked an output as PerToken, but its rows are not ragged: that needs "
            'inputs with a None in their shape, and collate="pad" or "pack"'
        )
    if rows.padded:
        expected: tuple[int, ...] = (chunk.size, rows.length)
    else:
        expected = (int(rows.cu_seqlens[-1]),)
    given = array.shape[: len(expected)]
    if given != expected:
        raise OutputError(
            f"expected an output of shape ({', '.join(map(str, expected))}, ...) for each token "
            f"from the model, got one of shape {array.shape}",
            expected=expected[-1],
            given=given[-1] if given else None,
        )
    return _fast.TokenRows(
        array[: chunk.rows] if rows.padded else array, rows.cu_seqlens, rows.padded
    )
