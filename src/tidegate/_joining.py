"""Makes one answer of a model's answers to the parts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate import _fast
from tidegate._chunks import Chunk
from tidegate.errors import OutputError

__all__ = ["blank", "checked", "joined", "kept"]

_Array = npt.NDArray[Any]


def checked(value: Any, rows: int) -> _Array:
    """An output as an array of so many rows; raises OutputError."""
    array = np.asarray(value)
    given = array.shape[0] if array.ndim else None
    if given != rows:
        raise OutputError(
            f"expected {rows} rows from the model, got "
            + ("a scalar" if given is None else f"{given} (an output of shape {array.shape})"),
            expected=rows,
            given=given,
        )
    return array


def kept(answer: Any) -> Any:
    """An answer that stays as it is: the model's own may be in memory that its next call uses."""
    if isinstance(answer, list):
        return [np.array(item) if isinstance(item, np.ndarray) else item for item in answer]
    if isinstance(answer, tuple):
        parts = [_kept_array(part) for part in answer]
        return answer._make(parts) if hasattr(answer, "_make") else tuple(parts)
    if isinstance(answer, dict):
        return {key: _kept_array(part) for key, part in answer.items()}
    return _kept_array(answer)


def _kept_array(value: Any) -> Any:
    if isinstance(value, _fast.TokenRows):
        return _fast.TokenRows(np.array(value.array), value.cu_seqlens, value.padded)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return np.array(np.asarray(value))  # some tensors ignore that a copy is asked for
    return value


def blank(like: Any, rows: int) -> Any:
    """An answer for rows that have none, to be joined with an answer that kept() returned."""
    if isinstance(like, list):
        return [None] * rows
    if isinstance(like, tuple):
        parts = [_blank_array(part, rows) for part in like]
        return like._make(parts) if hasattr(like, "_make") else tuple(parts)
    if isinstance(like, dict):
        return {key: _blank_array(part, rows) for key, part in like.items()}
    return _blank_array(like, rows)


def _blank_array(like: Any, rows: int) -> Any:
    if isinstance(like, _fast.TokenRows):
        return _fast.TokenRows(_end_to_end(like)[:0], np.zeros(rows + 1, np.int32), False)
    array = np.asarray(like)
    return np.zeros((rows, *array.shape[1:]), array.dtype)


def joined(answers: list[Any], chunks: Sequence[Chunk]) -> Any:
    """The answers to the parts of a batch as one."""
    first = answers[0]
    kinds = [_kind(answer) for answer in answers]
    if any(kind != kinds[0] for kind in kinds):
        raise OutputError(
            "expected answers of one kind to all parts of a batch from the model, got "
            + " and then ".join(dict.fromkeys(kinds))
        )
    if isinstance(first, list):
        return [item for answer in answers for item in answer]
    if isinstance(first, tuple):
        parts = [_joined_arrays(parts, chunks) for parts in zip(*answers, strict=True)]
        return first._make(parts) if hasattr(first, "_make") else tuple(parts)
    if isinstance(first, dict):
        return {key: _joined_arrays([answer[key] for answer in answers], chunks) for key in first}
    return _joined_arrays(answers, chunks)


def _kind(answer: Any) -> str:
    """What an answer is, in words; those of the same can be joined."""
    if isinstance(answer, tuple):
        return f"{type(answer).__name__} of {len(answer)}"
    if isinstance(answer, dict):
        return f"mapping of {sorted(map(str, answer))}"
    if isinstance(answer, list):
        return "list"
    return "PerToken" if isinstance(answer, _fast.TokenRows) else "array"


def _joined_arrays(parts: Sequence[Any], chunks: Sequence[Chunk]) -> Any:
    by_token = [isinstance(part, _fast.TokenRows) for part in parts]
    if any(by_token) != all(by_token):
        raise OutputError(
            "expected an output to be PerToken for all parts of a batch or for none, got some"
        )
    if by_token[0]:
        arrays = [_end_to_end(part) for part in parts]
    else:
        arrays = [checked(part, chunk.rows) for part, chunk in zip(parts, chunks, strict=True)]
    shapes = [array.shape[1:] for array in arrays]
    if any(shape != shapes[0] for shape in shapes):
        raise OutputError(
            "expected outputs of one shape for all parts of a batch from the model, got rows of "
            + " and then ".join(map(str, dict.fromkeys(shapes)))
        )
    joined = np.concatenate(arrays)
    if not by_token[0]:
        return joined
    ends, begin = [np.zeros(1, np.int32)], 0
    for part in parts:
        ends.append(part.cu_seqlens[1:] + np.int32(begin))
        begin += int(part.cu_seqlens[-1])
    return _fast.TokenRows(joined, np.concatenate(ends).astype(np.int32), False)


def _end_to_end(part: _fast.TokenRows) -> _Array:
    """What a part has for its tokens, without padding: each part is padded to its own length."""
    array: _Array = part.array
    if part.padded:
        array = array[np.arange(array.shape[1]) < np.diff(part.cu_seqlens)[:, np.newaxis]]
    return array
