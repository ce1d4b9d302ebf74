"""What the model answered: which arrays, and whether they have a row for each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidegate.errors import OutputError
from tidegate.ragged import PerToken

__all__ = ["Leaf", "Shape", "flatten", "rebuild"]

# DLPack's kinds of devices.
_CPU, _CUDA = 1, 2


@dataclass(frozen=True)
class Shape:
    """What an answer must have.

    Attributes:
        collate: How requests were put together.
        rows: How many are real; they come first.
        size: How many the model saw.
        tokens: How many there are in a packed batch.
        length: Tokens of a padded row.
    """

    collate: str
    rows: int
    size: int
    tokens: int
    length: int


@dataclass(frozen=True)
class Leaf:
    """One array of an answer, cut to what belongs to requests.

    Attributes:
        array: Of CuPy's, or of NumPy's.
        on_device: Which of them.
        per_token: Whether it was marked as PerToken.
    """

    array: Any
    on_device: bool
    per_token: bool


def flatten(xp: Any, device: int, answer: Any, shape: Shape) -> list[Leaf]:
    """The arrays of an answer.

    Args:
        xp: CuPy.
        device: The number of the lane's device, on which they must be.
        answer: An array of CuPy's or NumPy's, anything with DLPack or the CUDA array interface, or
            a tuple or mapping of those; each of them may be in a PerToken.
        shape: What they must have.

    Raises:
        OutputError: It is something else, or has not one row for each row of the batch.
    """
    parts: Sequence[Any] = [answer]
    if isinstance(answer, tuple):
        parts = answer
    elif isinstance(answer, Mapping):
        parts = list(answer.values())
    if not parts:
        kind = "tuple" if isinstance(answer, tuple) else "mapping"
        raise OutputError(
            f"expected {shape.size} rows from the model, got an empty {kind}", expected=shape.size
        )
    return [_leaf(xp, device, part, shape) for part in parts]


def rebuild(answer: Any, arrays: Sequence[Any]) -> Any:
    """The structure of `answer`, with other arrays in it."""
    if isinstance(answer, tuple):
        # A named tuple keeps its names.
        return answer._make(arrays) if hasattr(answer, "_make") else tuple(arrays)
    if isinstance(answer, Mapping):
        return dict(zip(answer, arrays, strict=True))
    return arrays[0]


def _leaf(xp: Any, device: int, part: Any, shape: Shape) -> Leaf:
    per_token = isinstance(part, PerToken)
    array, on_device = _array_of(xp, part.array if isinstance(part, PerToken) else part, shape.size)
    if on_device and array.device.id != device:
        raise OutputError(
            f"the model must answer on device {device}, where it was called, got an array on "
            f"device {array.device.id}"
        )
    if not per_token:
        _check_first(array, shape.size, "rows")
        return Leaf(array[: shape.rows], on_device, per_token)
    if shape.collate == "stack":
        raise OutputError(
            'PerToken is for models of ragged rows, called with collate="pad" or "pack"'
        )
    if shape.collate == "pack":
        _check_first(array, shape.tokens, "tokens")
        return Leaf(array, on_device, per_token)
    _check_first(array, shape.size, "rows")
    if array.ndim < 2 or array.shape[1] != shape.length:
        raise OutputError(
            f"expected an output of shape ({shape.size}, {shape.length}, ...) for PerToken, got "
            f"one of shape {tuple(array.shape)}"
        )
    return Leaf(array[: shape.rows], on_device, per_token)


def _array_of(xp: Any, value: Any, size: int) -> tuple[Any, bool]:
    """An array of CuPy's or of NumPy's, and whether it is on a device; nothing is copied."""
    if isinstance(value, xp.ndarray):
        return value, True
    if isinstance(value, np.ndarray):
        return value, False
    kind = type(value).__name__
    trouble: Exception | None = None
    for convert in (_by_dlpack, _by_interface):
        try:
            found = convert(xp, value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            # Also of asking for the interface: PyTorch refuses it for tensors with gradients.
            trouble = trouble or error
        else:
            if found is not None:
                return found
    if trouble is not None:
        raise OutputError(
            f"the model's {kind} cannot be taken as an array: {trouble}. A PyTorch model must "
            "answer without gradients (torch.inference_mode), in a dtype that NumPy has, such as "
            "float32"
        ) from trouble
    raise OutputError(
        f"the model must return arrays whose first axis is {size}, or a tuple or mapping of them; "
        f"got {kind}"
    )


def _by_dlpack(xp: Any, value: Any) -> tuple[Any, bool] | None:
    """Comes first, since it orders streams; the other interface may make the host wait."""
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return None
    where = int(value.__dlpack_device__()[0])
    if where == _CUDA:
        return xp.from_dlpack(value), True
    return (np.from_dlpack(value), False) if where == _CPU else None


def _by_interface(xp: Any, value: Any) -> tuple[Any, bool] | None:
    """Has some dtypes that DLPack did not have for long, such as bool."""
    return (xp.asarray(value), True) if hasattr(value, "__cuda_array_interface__") else None


def _check_first(array: Any, expected: int, what: str) -> None:
    if array.ndim == 0:
        raise OutputError(
            f"expected {expected} {what} from the model, got a scalar", expected=expected
        )
    if array.shape[0] != expected:
        raise OutputError(
            f"expected {expected} {what} from the model, got {array.shape[0]} "
            f"(an output of shape {tuple(array.shape)})",
            expected=expected,
            given=array.shape[0],
        )
