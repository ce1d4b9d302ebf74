"""A batch under way on a device, and how its end becomes known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidegate.errors import DeviceError

__all__ = ["Flight"]


class Flight:
    """A batch that was started.

    One of wait() and done() is called once; a second call, or both, changes nothing.

    Attributes:
        event: A CUDA event, recorded behind everything that the batch does. It belongs to the slot:
            once the batch is done, a later one uses it.
        outputs: What the model answered: an array, or a tuple or mapping of arrays, some of them in
            PerToken. Their shapes are final, and they belong to nobody else; what is in them is
            valid once the event is.
        error: Why they never will be, once that is known.
    """

    __slots__ = ("_settle", "error", "event", "outputs")

    def __init__(
        self, event: Any, outputs: Any, settle: Callable[[Flight, int | None], None]
    ) -> None:
        self.event = event
        self.outputs = outputs
        self.error: DeviceError | None = None
        self._settle = settle

    def wait(self) -> Any:
        """Waits until the batch is done; other Python threads run meanwhile.

        Returns:
            The outputs.

        Raises:
            DeviceError: The device failed.
        """
        self._settle(self, None)
        if self.error is not None:
            raise self.error
        return self.outputs

    def done(self, status: int) -> None:
        """Says that the event has been waited for by other means.

        Args:
            status: What cuEventSynchronize answered: 0, or an error. It is in `error` afterwards.
        """
        self._settle(self, status)
