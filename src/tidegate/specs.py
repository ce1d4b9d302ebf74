"""What one request looks like: TensorSpec, alone or in tuples and mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tidegate.errors import ConfigError, InputError, said

__all__ = ["Spec", "TensorSpec", "Transform", "check_spec", "infer_spec", "leaves"]


class Transform(Protocol):
    """What may be done to the batch of an array: one of tidegate.transforms."""

    def check(self, spec: TensorSpec, collate: str | None = None) -> None:
        """Raises ConfigError unless arrays of `spec`, collated so, can be taken."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one array of a request, without the batch axis.

    Args:
        shape: Length of each axis; ``()`` for a number. The first may be None: a ragged array, of
            as many tokens as each request has, for ``collate="pad"`` and ``collate="pack"``.
        dtype: Anything that ``numpy.dtype`` takes, native byte order, no Python objects.
        name: A name for humans and for protocols.
        transform: What is done to a batch of these arrays before the model is called: one of
            tidegate.transforms, or None.

    Raises:
        ConfigError: A length that is negative or not an integer, a dtype that cannot be batched, or
            a transform that does not suit them.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    name: str | None = None
    transform: Transform | None = None

    def __init__(
        self,
        shape: Sequence[int | None],
        dtype: npt.DTypeLike,
        name: str | None = None,
        *,
        transform: Transform | None = None,
    ) -> None:
        try:
            given = tuple(shape)
            first = given[:1] if given[:1] == (None,) else ()
            fixed = tuple(int(length) for length in given[len(first) :])  # type: ignore[arg-type]
            lengths: tuple[int | None, ...] = (*first, *fixed)
            exact = lengths == given
        except (TypeError, ValueError):
            exact = False
        if not exact or any(length < 0 for length in fixed):
            raise ConfigError(
                "a TensorSpec's shape is a tuple of lengths >= 0, of which the first may be None, "
                f"got {shape!r}"
            )
        if len(lengths) > 31:
            raise ConfigError(f"a TensorSpec has at most 31 axes, got {len(lengths)}")
        try:
            resolved = np.dtype(dtype)
        except (TypeError, ValueError, SyntaxError) as error:
            raise ConfigError(f"a TensorSpec needs a NumPy dtype, got {dtype!r}") from error
        if resolved.subdtype is not None:
            raise ConfigError(
                f"dtype {resolved} has axes of its own; say them with the shape, as "
                f"TensorSpec({(*lengths, *resolved.shape)}, {str(resolved.base)!r})"
            )
        if resolved.itemsize == 0:
            raise ConfigError(
                f"dtype {resolved} has no width; give one, such as 'U16' for up to 16 characters"
            )
        if resolved.hasobject:
            raise ConfigError(
                f"dtype {resolved} holds Python objects, which have no staging buffer; "
                "use Batcher(..., collate='list')"
            )
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"name must be a string or None, got {name!r}")
        object.__setattr__(self, "shape", lengths)
        # newbyteorder() makes a new object, and the hot path compares dtypes by identity first.
        native = resolved if resolved.isnative else resolved.newbyteorder("=")
        object.__setattr__(self, "dtype", native)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "transform", transform)
        if transform is not None:
            if isinstance(transform, type) or not callable(getattr(transform, "check", None)):
                raise ConfigError(
                    f"transform must be made by one of tidegate.transforms, got {transform!r}"
                )
            transform.check(self)

    @property
    def ragged(self) -> bool:
        """True if each request has a length of its own along the first axis."""
        return self.shape[:1] == (None,)

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """The lengths that all requests share: the shape, or that of one token."""
        return tuple(length for length in self.shape if length is not None)

    def __str__(self) -> str:
        """Dtype and shape in words, as error messages show them."""
        return f"{self.dtype} array of shape {self.shape}"


Spec: TypeAlias = "TensorSpec | tuple[TensorSpec, ...] | Mapping[str, TensorSpec]"


def check_spec(spec: Any) -> Spec:
    """Returns `spec` if it is a TensorSpec, or a tuple or mapping of them; raises ConfigError."""
    if isinstance(spec, TensorSpec):
        return spec
    parts: list[Any] = []
    if isinstance(spec, Mapping):
        parts = list(spec.values())
    elif isinstance(spec, (tuple, list)):
        parts = list(spec)
    if parts and all(isinstance(leaf, TensorSpec) for leaf in parts):
        if isinstance(spec, Mapping):
            return dict(spec)
        return spec if isinstance(spec, tuple) else tuple(parts)  # a named tuple keeps its names
    raise ConfigError(
        f"inputs must be a TensorSpec, or a tuple or mapping of TensorSpecs, got {spec!r}"
    )


def leaves(spec: Spec) -> list[TensorSpec]:
    """The TensorSpecs of a spec, in order."""
    if isinstance(spec, TensorSpec):
        return [spec]
    if isinstance(spec, tuple):
        return list(spec)
    return list(spec.values())


def _infer_leaf(value: Any, where: str) -> TensorSpec:
    try:
        array = np.asarray(value)
    except Exception as error:  # a ragged list, or whatever the value's own conversion raises
        given = "a ragged list" if isinstance(value, list | tuple) else type(value).__name__
        raise InputError(
            f"the request{where} is no array: {said(error)}", expected="an array", given=given
        ) from error
    if array.dtype.hasobject or array.dtype.kind in "SU":
        kind = type(value).__name__
        raise InputError(
            f"expected an array of numbers{where}, got {kind} (dtype {array.dtype}); pass "
            "collate='list' to batch arbitrary objects, or inputs=TensorSpec(...) for fixed-width "
            "strings",
            expected="an array of numbers",
            given=f"{kind} (dtype {array.dtype})",
        )
    try:
        return TensorSpec(array.shape, array.dtype)
    except ConfigError as error:
        raise InputError(
            f"the request{where} cannot be batched: {error}",
            expected="an array of numbers",
            given=f"{array.dtype} array of {array.ndim} axes",
        ) from error


def infer_spec(request: Any) -> Spec:
    """The spec of a first request.

    Args:
        request: An array, a number, nested lists of numbers, or a tuple or mapping of those.

    Returns:
        A spec that the request fits.

    Raises:
        InputError: It holds something that is not an array of numbers.
    """
    if isinstance(request, Mapping):
        if not request:
            raise InputError(
                "the request is an empty mapping", expected="arrays", given="an empty mapping"
            )
        return {key: _infer_leaf(leaf, f"[{key!r}]") for key, leaf in request.items()}
    if isinstance(request, tuple):
        if not request:
            raise InputError(
                "the request is an empty tuple", expected="arrays", given="an empty tuple"
            )
        parts = tuple(_infer_leaf(leaf, f"[{index}]") for index, leaf in enumerate(request))
        # A named tuple keeps its names.
        named: Spec = request._make(parts) if hasattr(request, "_make") else parts
        return named
    return _infer_leaf(request, "")
