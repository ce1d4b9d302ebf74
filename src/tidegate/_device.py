"""The lanes of a Batcher with a device: one for each instance of its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate._collation import Collation
from tidegate.errors import ConfigError
from tidegate.pool import Instance, ModelPool

if TYPE_CHECKING:  # CuPy's side is imported when a device is asked for
    from tidegate.gpu.lane import Lane
    from tidegate.gpu.waiting import CudaDevice

__all__ = ["Berth", "memory_of", "open_berths"]


@dataclass(frozen=True)
class Berth:
    """One instance of a model on its device.

    Attributes:
        lane: Its pipeline.
        lease: The instance of a pool, or None for a model that is no pool's.
        calls: What a native thread waits with, or None for a Python thread.
    """

    lane: Lane
    lease: Instance | None
    calls: tuple[int, int, int] | None


class _Leased:
    """An instance of a pool, as a lane calls it: with the graphs of the model that it has now."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        if callable(getattr(instance.model, "capture", None)):
            self.capture = self._capture

    def __call__(self, argument: Any) -> Any:
        return self._instance(argument)

    def _capture(self, size: int, argument: Any) -> Callable[[], Any] | None:
        model = self._instance.model
        replay = model.capture(size, argument)  # type: ignore[attr-defined]
        if not callable(replay):
            return None

        def run() -> Any:
            # After a swap the graph is another model's.
            return replay() if self._instance.model is model else self._instance(argument)

        return run


def memory_of(berths: Sequence[Berth]) -> Callable[[int], Any]:
    """What makes page-locked memory for the batches of these berths, which any of them can read.

    It raises DeviceError once none of their devices works any more.
    """

    def new_memory(nbytes: int) -> Any:
        lanes = [berth.lane for berth in berths]
        return next((lane for lane in lanes if lane.broken is None), lanes[0]).new_memory(nbytes)

    return new_memory


def open_berths(
    model: Callable[..., Any] | ModelPool,
    device: str | CudaDevice,
    collation: Collation,
    stay: bool,
) -> list[Berth]:
    """A lane for each instance, on the instance's own device if its pool has devices.

    Args:
        model: The model.
        device: The device, or how to use it.
        collation: How requests become batches.
        stay: Whether answers stay on the device.

    Raises:
        ConfigError: There is no such device, it cannot be used, or the inputs are not known; says
            what to do.
    """
    from tidegate.gpu.opening import device_number, make_lane
    from tidegate.gpu.waiting import CudaDevice, native_calls

    settings = device if isinstance(device, CudaDevice) else CudaDevice(device)
    if collation.sizes is not None and collation.policy == "batch_down":
        raise ConfigError(
            "padding_policy='batch_down' is for the CPU; on a device choose 'pad_up' or 'none'"
        )
    if collation.isolates:
        raise ConfigError("on_batch_error='bisect' is for the CPU; on a device leave it at 'fail'")
    if isinstance(model, ModelPool):
        places = [(_Leased(each), each.device or settings.name, each) for each in model.instances]
    else:
        places = [(model, settings.name, None)]  # type: ignore[list-item]
    berths = []
    for function, name, lease in places:
        lane = make_lane(
            function,
            collation.inputs,
            name,
            collate=collation.collate,
            padding_value=collation.padding_value,
            pad_to=collation.pad_to,
            outputs="device" if stay else "host",
            allowed_batch_sizes=collation.sizes,
            depth=settings.depth,
        )
        calls = None
        if settings.completion == "native":
            calls = native_calls(lane.cuda, device_number(name))
        berths.append(Berth(lane, lease, calls))
    return berths
