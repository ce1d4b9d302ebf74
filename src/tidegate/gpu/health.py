"""Whether a device still works: after CUDA's first error, nothing runs on it in this process."""

from __future__ import annotations

import threading

from tidegate.errors import DeviceError

__all__ = ["Health"]


class Health:
    """The state of one lane's device.

    Args:
        device: Its number.

    Attributes:
        broken: The first error, or None.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        # Two threads may see the first error at once.
        self._lock = threading.Lock()
        self.broken: DeviceError | None = None

    def broke(self, cause: BaseException) -> None:
        """Notes CUDA's error; only the first is kept, since all others follow from it."""
        error = DeviceError(
            f"the GPU cuda:{self._device} failed: {cause}. Nothing runs on it in this process any "
            "more: restart the process. To see which call it was, set CUDA_LAUNCH_BLOCKING=1 or "
            "run under compute-sanitizer"
        )
        error.__cause__ = cause
        with self._lock:
            if self.broken is None:
                self.broken = error

    def failure(self) -> DeviceError | None:
        """A new exception for one batch, if it is broken.

        A shared one would collect everybody's tracebacks.
        """
        if self.broken is None:
            return None
        error = DeviceError(str(self.broken))
        error.__cause__ = self.broken.__cause__
        return error

    def check(self) -> None:
        """Raises DeviceError if it is broken."""
        error = self.failure()
        if error is not None:
            raise error
