"""The ring of slots: which one is next, and how batches end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from tidegate.gpu.flights import Flight
from tidegate.gpu.health import Health
from tidegate.gpu.slots import Slot
from tidegate.gpu.streams import Streams

__all__ = ["Ring"]


class Ring:
    """Slots, used in turns.

    One thread calls all methods but settle(), which any thread may call.

    Args:
        cuda: cupy.cuda.
        device: The device's number.
        streams: Where its work is.
        slots: At least one.

    Attributes:
        health: Whether the device still works.
    """

    def __init__(self, cuda: Any, device: int, streams: Streams, slots: Sequence[Slot]) -> None:
        self.health = Health(device)
        self.slots = slots
        self._cuda = cuda
        self._device = device
        self._streams = streams
        # Held while a flight ends, which two threads may see at once.
        self._ends = threading.Lock()
        self._turn = 0

    @property
    def next(self) -> Slot:
        """The slot of the next batch, which may be under way with an older one."""
        return self.slots[self._turn]

    def wait_for_next(self) -> Slot:
        """The slot of the next batch, once it is free; raises DeviceError if the device failed."""
        slot = self.next
        # Another thread may end it meanwhile.
        oldest = slot.flight
        if oldest is not None:
            self.settle(slot, oldest, None)
        self.health.check()
        return slot

    def begin(self, slot: Slot, outputs: Any) -> Flight:
        """Notes that a batch is under way in the slot that was next."""
        flight = Flight(slot.done, outputs, partial(self.settle, slot))
        slot.flight = flight
        self._turn = (self._turn + 1) % len(self.slots)
        return flight

    def settle(self, slot: Slot, flight: Flight, status: int | None) -> None:
        """Brings a flight to its end, once: waits for it, unless its status is known.

        Args:
            slot: Where it was begun.
            flight: The batch.
            status: What cuEventSynchronize answered, or None.
        """
        if slot.flight is not flight:
            return
        cause: Exception | None = None
        try:
            if status is None:
                # Which may be the first of CUDA in this thread.
                with self._cuda.Device(self._device):
                    flight.event.synchronize()
            elif status != 0:
                cause = self._cuda.driver.CUDADriverError(status)
        except Exception as error:
            cause = error
        with self._ends:
            if slot.flight is not flight:  # another thread was faster
                return
            if cause is not None:
                self.health.broke(cause)
                flight.error = self.health.failure()
            slot.release()

    def come_to_rest(self, slot: Slot) -> None:
        """Gives up what was begun in a slot.

        Waits for all that is under way; whether that works tells if the device still does.
        """
        try:
            self._streams.come_to_rest()
        except Exception as cause:
            self.health.broke(cause)
        slot.release()

    def close(self) -> None:
        """Waits for what is under way, and frees the memory."""
        for slot in self.slots:
            flight = slot.flight
            if flight is not None:
                self.settle(slot, flight, None)
            slot.clear()
