"""What a Batcher's settings say of how requests become batches, checked together."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tidegate import _fast, _settings
from tidegate._settings import PaddingPolicy
from tidegate.errors import ConfigError
from tidegate.specs import Spec, leaves

if TYPE_CHECKING:  # which few batchers need
    from tidegate._shaping import Shaper

__all__ = ["Collate", "Collation"]

Collate = Literal["stack", "pad", "pack", "list"]

# Tokens that one request may have.
_MOST_TOKENS = 2**30


class Collation:
    """How requests are told apart, weighed, collated and padded; see Batcher for the arguments.

    Raises:
        ConfigError: A setting has a value that it cannot have, alone or beside the others.
    """

    def __init__(
        self,
        *,
        inputs: Spec | None,
        collate: Collate,
        max_batch_size: int,
        allowed_batch_sizes: Any,
        padding_policy: PaddingPolicy,
        padding_value: Any,
        pad_to: Any,
        length_buckets: Any,
        group_key: Callable[[Any], Any] | None,
        cost_fn: Callable[[Any], float] | None,
        max_batch_cost: Any,
        on_batch_error: Any,
    ) -> None:
        _settings.choose("collate", collate, ("stack", "pad", "pack", "list"))
        _settings.choose("on_batch_error", on_batch_error, ("fail", "bisect"))
        _settings.choose("padding_policy", padding_policy, ("pad_up", "batch_down", "none"))
        self.inputs = inputs
        self.collate: Collate = collate
        self.policy: PaddingPolicy = padding_policy
        self.isolates = on_batch_error == "bisect"
        self.ragged = inputs is not None and any(spec.ragged for spec in leaves(inputs))
        self.transformed = False
        self._check_inputs()
        self.sizes = _settings.ascending(
            "allowed_batch_sizes", allowed_batch_sizes, _settings.MOST_ROWS
        )
        self.check_largest(max_batch_size)
        self.padding_value = self._padding_value(padding_value)
        self.pad_to = _settings.ascending("pad_to", pad_to, _MOST_TOKENS)
        if self.pad_to is not None and collate != "pad":
            raise ConfigError(f"pad_to is for collate='pad', got collate={collate!r}")
        self.buckets = _settings.ascending("length_buckets", length_buckets, _MOST_TOKENS)
        if self.buckets is not None and not self.ragged:
            raise ConfigError("length_buckets are for ragged inputs: TensorSpec((None, ...), ...)")
        for setting, function in (("group_key", group_key), ("cost_fn", cost_fn)):
            if function is not None and not callable(function):
                raise ConfigError(f"{setting} must be callable with a request, got {function!r}")
        self._group_key = group_key
        self._cost_fn = cost_fn
        self.max_batch_cost = None if max_batch_cost is None else _settings.cost(max_batch_cost)
        if max_batch_cost is None and cost_fn is not None:
            raise ConfigError("cost_fn has no effect without max_batch_cost; set both")
        if max_batch_cost is not None and cost_fn is None and not self.ragged:
            raise ConfigError(
                "max_batch_cost needs cost_fn, which says what a request costs; without one the "
                "tokens of ragged inputs are counted, and these inputs are not ragged"
            )

    def _check_inputs(self) -> None:
        if self.collate == "list" and self.inputs is not None:
            raise ConfigError("collate='list' takes any object, so inputs must be None")
        if self.collate in ("pad", "pack") and not self.ragged:
            raise ConfigError(
                f"collate={self.collate!r} needs ragged inputs: inputs=TensorSpec((None, ...), ...)"
            )
        for spec in leaves(self.inputs) if self.inputs is not None else ():
            if spec.transform is not None:
                spec.transform.check(spec, self.collate)
                self.transformed = True
        if self.collate == "stack" and self.ragged:
            raise ConfigError(
                "ragged inputs cannot be stacked: choose collate='pad' or collate='pack'"
            )

    def _padding_value(self, value: Any) -> Any:
        if not isinstance(value, (numbers.Number, np.bool_)):
            raise ConfigError(f"padding_value must be a number, got {value!r}")
        if value != 0 and self.collate != "pad":
            raise ConfigError(f"padding_value is for collate='pad', got collate={self.collate!r}")
        return value

    def check_largest(self, max_batch_size: int) -> None:
        """Raises ConfigError unless batches can be as large as `max_batch_size`."""
        if self.sizes is not None and self.sizes[-1] != max_batch_size:
            raise ConfigError(
                "the largest of allowed_batch_sizes must be max_batch_size, got "
                f"{self.sizes[-1]} and {max_batch_size}"
            )

    @property
    def grouped(self) -> bool:
        """True if requests are told apart or weighed."""
        return self.ragged or self._group_key is not None or self.max_batch_cost is not None

    @property
    def max_tokens(self) -> int | None:
        """Tokens that one request may have; None for no limit."""
        limits = [lengths[-1] for lengths in (self.pad_to, self.buckets) if lengths is not None]
        return min(limits) if limits else None

    @property
    def max_batch_tokens(self) -> int | None:
        """Tokens that a batch may have; None for no limit, or one of another cost."""
        if self.max_batch_cost is None or self._cost_fn is not None:
            return None
        return int(self.max_batch_cost)

    def grouping(self) -> _fast.Grouping | None:
        """What tells requests apart and weighs them, if that is needed."""
        if not self.grouped:
            return None
        return _fast.Grouping(
            self._group_key, self._cost_fn, self.max_batch_cost, self.buckets, self.max_tokens
        )

    def shaper(self, *, always: bool = False) -> Shaper | None:
        """What makes a batch what the model takes, if it is more than its rows."""
        exact = self.sizes is None or self.policy == "none"
        if exact and not (self.ragged or self.transformed or self.isolates or always):
            return None
        from tidegate._shaping import Shaper

        return Shaper(
            self.inputs,
            self.collate,
            self.sizes,
            self.policy,
            self.padding_value,
            self.pad_to,
            self.isolates,
        )
