"""From ``device="cuda:1"`` to a lane there, or to an error that says what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tidegate.errors import ConfigError
from tidegate.gpu import findings
from tidegate.gpu.lane import Lane
from tidegate.specs import Spec

__all__ = ["device_number", "make_lane"]

_DEVICE = re.compile(r"cuda(?::(\d{1,4}))?")


def device_number(device: object) -> int:
    """The number of a device that is called by name.

    Args:
        device: ``"cuda"``, which is the first, or ``"cuda:1"`` and so on.

    Raises:
        ConfigError: It is something else.
    """
    match = _DEVICE.fullmatch(device) if isinstance(device, str) else None
    if match is None:
        raise ConfigError(f'device must be "cuda", "cuda:0", "cuda:1" and so on, got {device!r}')
    return int(match[1] or 0)


def make_lane(
    model: Callable[[Any], Any],
    spec: Spec | None,
    device: str = "cuda",
    *,
    collate: str = "stack",
    padding_value: complex = 0,
    pad_to: Sequence[int] | None = None,
    outputs: str = "host",
    allowed_batch_sizes: Sequence[int] | None = None,
    depth: int = 3,
    require: Callable[[], object] = findings.require,
    import_cupy: Callable[[], Any] = findings.import_cupy,
) -> Lane:
    """A lane on a device, with CuPy.

    Args:
        model: See Lane.
        spec: What one request looks like; None, which cannot be, if nobody has said so.
        device: ``"cuda"`` for the first, or ``"cuda:1"`` and so on.
        collate: See Lane.
        padding_value: See Lane.
        pad_to: See Lane.
        outputs: See Lane.
        allowed_batch_sizes: See Lane.
        depth: See Lane.
        require: Raises ConfigError if work on a GPU is not possible.
        import_cupy: Imports CuPy.

    Raises:
        ConfigError: There is no such device, the driver, CuPy or NVRTC are missing or do not go
            together, or a setting cannot be.
    """
    number = device_number(device)
    require()
    cupy = import_cupy()
    count = int(cupy.cuda.runtime.getDeviceCount())
    if number >= count:
        there = '"cuda:0"' if count == 1 else f'"cuda:0" to "cuda:{count - 1}"'
        raise ConfigError(f"there is no device {device!r}, only {there}")
    # Last: whoever has no GPU should not begin with the inputs.
    if spec is None:
        raise ConfigError(
            "a device needs arrays of known shapes: pass inputs, and no collate='list'"
        )
    return Lane(
        model,
        spec,
        collate=collate,
        padding_value=padding_value,
        pad_to=pad_to,
        outputs=outputs,
        allowed_batch_sizes=allowed_batch_sizes,
        xp=cupy,
        cuda=cupy.cuda,
        device=number,
        depth=depth,
    )
