"""The inputs and outputs of a model, as the protocol describes them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tidegate.errors import ConfigError
from tidegate.serving.datatypes import DATATYPES, Array, datatype_of
from tidegate.specs import Spec, TensorSpec

__all__ = ["Described", "Tensor", "described_as", "fits"]


@dataclass(frozen=True)
class Tensor:
    """One named input or output, as one row of it looks.

    Args:
        name: Its name in the protocol.
        datatype: The protocol's, such as ``"FP32"`` or ``"BYTES"``.
        shape: Lengths without the axis of rows; -1 for a length that varies.

    Raises:
        ConfigError: The name is no string, the datatype does not exist, or the shape is no tuple of
            lengths of at least -1.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks the fields."""
        if not isinstance(self.name, str):
            raise ConfigError(f"a tensor's name is a string, got {self.name!r}")
        if not isinstance(self.datatype, str) or self.datatype not in DATATYPES:
            raise ConfigError(
                f"tensor {self.name!r}: there is no datatype {self.datatype!r}; there are "
                f"{', '.join(DATATYPES)}"
            )
        try:
            lengths = tuple(map(operator.index, self.shape))
        except TypeError:
            lengths = (-2,)
        if any(length < -1 for length in lengths):
            raise ConfigError(f"tensor {self.name!r}: lengths are >= 0 or -1, got {self.shape}")
        object.__setattr__(self, "shape", lengths)


Described: TypeAlias = "Spec | Tensor | Sequence[Tensor]"


def fits(tensor: Tensor, array: Array) -> bool:
    """True if the rows of `array` have the shape that they should have."""
    shape = array.shape
    if not shape:
        return False
    return (
        shape[1:] == tensor.shape
        or (  # nearly always at once
            len(shape) == len(tensor.shape) + 1
            and all(
                wanted in (-1, length)
                for wanted, length in zip(tensor.shape, shape[1:], strict=True)
            )
        )
    )


def described_as(kind: str, described: Described | None) -> tuple[Tensor, ...]:
    """A description in any of the forms that are taken, as Tensors."""
    if isinstance(described, Tensor):
        return (described,)
    if isinstance(described, TensorSpec):
        return (_tensor(described.name or kind, described),)
    if isinstance(described, Mapping):
        return tuple(_tensor(str(key), spec) for key, spec in described.items())
    parts: Any = described
    if isinstance(parts, Sequence) and parts and not isinstance(parts, str):
        fields = getattr(described, "_fields", None)  # of a named tuple
        return tuple(
            part
            if isinstance(part, Tensor)
            else _tensor(part.name or (fields[index] if fields else f"{kind}_{index}"), part)
            for index, part in enumerate(parts)
        )
    raise ConfigError(
        f"{kind}s must be a TensorSpec or a Tensor, or a tuple or mapping of them, "
        f"got {described!r}"
    )


def _tensor(name: str, spec: TensorSpec) -> Tensor:
    if not isinstance(spec, TensorSpec):
        raise ConfigError(f"tensor {name!r} must be a TensorSpec or a Tensor, got {spec!r}")
    return Tensor(name, datatype_of(spec.dtype), tuple(-1 if n is None else n for n in spec.shape))
