"""Dynamic batching for machine-learning inference, inside the process that is asked."""

from tidegate._fast import Future
from tidegate.batcher import Batcher
from tidegate.decorators import batch
from tidegate.errors import (
    ClosedError,
    ConfigError,
    DeadlineError,
    DeviceError,
    ForkedProcessError,
    InputError,
    ModelError,
    OutputError,
    QueueFullError,
    TidegateError,
)
from tidegate.native import NativeModel, include_dir
from tidegate.pool import ModelPool
from tidegate.ragged import Packed, Padded, PerToken
from tidegate.specs import TensorSpec
from tidegate.statistics import Statistics

__version__ = "0.1.0"

__all__ = [
    "Batcher",
    "ClosedError",
    "ConfigError",
    "DeadlineError",
    "DeviceError",
    "ForkedProcessError",
    "Future",
    "InputError",
    "ModelError",
    "ModelPool",
    "NativeModel",
    "OutputError",
    "Packed",
    "Padded",
    "PerToken",
    "QueueFullError",
    "Statistics",
    "TensorSpec",
    "TidegateError",
    "batch",
    "include_dir",
]
