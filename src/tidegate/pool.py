"""ModelPool: several instances of a model, each used by one thread at a time."""

from __future__ import annotations

import contextlib
import inspect
import math
import numbers
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tidegate.errors import ClosedError, ConfigError, InputError

__all__ = ["Instance", "ModelPool", "refuse_coroutines"]


class Instance:
    """One copy of a model, and the lock that keeps it to one thread at a time.

    Attributes:
        model: The callable. Replaced by ModelPool.swap().
        device: What the factory was given.
    """

    def __init__(self, pool: ModelPool, model: Callable[..., Any], device: Any) -> None:
        self.model = model
        self.device = device
        self._pool = pool
        self._lock = threading.Lock()

    def __call__(self, batch: Any) -> Any:
        """Runs the model. For whoever holds the instance."""
        return self.model(batch)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the instance; with ``blocking=False`` only if it is free, else within `timeout`."""
        return self._lock.acquire(blocking, timeout)

    def acquire_any(self) -> Instance:
        """Takes this instance or, while it is lent, whichever of the pool is free first."""
        return self if self.acquire(blocking=False) else self._pool._take(None, even_closed=True)

    def release(self) -> None:
        """Gives the instance back."""
        self._lock.release()
        self._pool._released()


class ModelPool:
    """Owns the instances of a model; a Batcher runs one executor for each.

    Args:
        factory: ``factory(device)`` or ``factory()`` makes one instance, a callable ``batch ->
            outputs``; or a list of ready models.
        instances: Instances per device.
        devices: What the factory is called with, one after another; None calls it without a device,
            or with None if it cannot do without.
        warmup: Called with each new instance's model before it serves.
        name: For messages and metrics.

    Raises:
        ConfigError: No instance would result, or a factory's product is not callable.
    """

    def __init__(
        self,
        factory: Callable[..., Any] | Iterable[Callable[..., Any]],
        *,
        instances: int = 1,
        devices: Sequence[Any] | None = None,
        warmup: Callable[[Any], object] | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(instances, bool) or not isinstance(instances, int) or instances < 1:
            raise ConfigError(f"instances must be at least 1, got {instances!r}")
        if devices is not None and (isinstance(devices, str) or not isinstance(devices, Sequence)):
            raise ConfigError(f"devices must be a sequence of devices or None, got {devices!r}")
        if devices is not None and len(devices) == 0:
            raise ConfigError("devices must name at least one device, or be None")
        if not callable(factory) and not isinstance(factory, Iterable):
            raise ConfigError(
                f"a ModelPool needs a factory or ready models, got {type(factory).__name__}"
            )
        if warmup is not None and not callable(warmup):
            raise ConfigError(f"warmup must be callable with a new model, got {warmup!r}")
        self.name = name or "pool"
        self.version: str | None = None
        self._warmup = warmup
        self._switching = threading.Lock()  # one swap() at a time puts its models in place
        self._free = threading.Condition()
        self._waiting = 0  # callers of acquire() that sleep; under _free
        self._closed = False
        if callable(factory):
            places = [device for device in devices or [None] for _ in range(instances)]
            pairs = [(self._make(factory, device), device) for device in places]
        else:
            if devices is not None or instances != 1:
                raise ConfigError("a list of ready models takes neither instances nor devices")
            pairs = [(self._prepared(model), None) for model in factory]
            if not pairs:
                raise ConfigError("a ModelPool needs at least one model, got an empty list")
        self._instances = tuple(Instance(self, model, device) for model, device in pairs)

    def _make(self, factory: Callable[..., Any], device: Any) -> Callable[..., Any]:
        return self._prepared(factory(device) if _takes_a_device(factory, device) else factory())

    def _prepared(self, model: Any) -> Callable[..., Any]:
        if not callable(model):
            raise ConfigError(f"a model is a callable batch -> outputs, got {type(model).__name__}")
        refuse_coroutines(model)
        if self._warmup is not None:
            self._warmup(model)
        checked: Callable[..., Any] = model
        return checked

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All instances, in the order they were made."""
        return self._instances

    def __len__(self) -> int:
        """Number of instances."""
        return len(self._instances)

    def __repr__(self) -> str:
        version = "" if self.version is None else f", version={self.version!r}"
        return f"ModelPool({self.name!r}, instances={len(self)}{version})"

    @contextlib.contextmanager
    def acquire(self, timeout: float | None = None) -> Iterator[Any]:
        """Lends one instance's model for direct use; batchers use the others meanwhile.

        Args:
            timeout: Seconds to wait for a free one; None for as long as it takes.

        Raises:
            TimeoutError: None became free in time.
            InputError: `timeout` is no number of seconds.
            ClosedError: The pool is closed.
        """
        instance = self._take(timeout)
        try:
            yield instance.model
        finally:
            instance.release()

    def _take(self, timeout: float | None, *, even_closed: bool = False) -> Instance:
        deadline = None if timeout is None else time.monotonic() + _seconds(timeout)
        with self._free:
            while True:
                if self._closed and not even_closed:
                    raise ClosedError(f"model pool {self.name!r} is closed")
                # Counted first: whoever releases one from now on will notify.
                self._waiting += 1
                try:
                    for instance in self._instances:
                        if instance.acquire(blocking=False):
                            return instance
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(
                            f"no instance of {self.name!r} became free within {timeout} s"
                        )
                    self._free.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
                finally:
                    self._waiting -= 1

    def _released(self) -> None:
        if self._waiting:
            with self._free:
                self._free.notify()

    def swap(self, factory: Callable[..., Any], *, version: str | None = None) -> None:
        """Replaces every instance by a new one, without dropping a request.

        All new instances are made and warmed up first, so a factory that raises changes nothing.
        Then each takes its place as soon as the old one has finished its batch. Of several swaps at
        once the one that is ready last is what remains.

        Args:
            factory: As for the constructor.
            version: A name for the new models.

        Raises:
            ClosedError: The pool is closed.
            ConfigError: `factory` is no factory.
        """
        if not callable(factory):
            raise ConfigError(f"swap() needs a factory, got {type(factory).__name__}")
        if self._closed:
            raise ClosedError(f"model pool {self.name!r} is closed")
        models = [self._make(factory, instance.device) for instance in self._instances]
        with self._switching:
            for instance, model in zip(self._instances, models, strict=True):
                instance.acquire()
                try:
                    instance.model = model
                finally:
                    instance.release()
            self.version = version

    def close(self) -> None:
        """Refuses further acquire(); batchers that use the pool are closed by themselves."""
        with self._free:
            self._closed = True
            self._free.notify_all()

    def __enter__(self) -> ModelPool:
        """The pool itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the pool."""
        self.close()


def refuse_coroutines(model: Any) -> None:
    """Raises ConfigError for a coroutine function, which would answer with a coroutine."""
    if inspect.iscoroutinefunction(model) or inspect.isasyncgenfunction(model):
        name = getattr(model, "__qualname__", repr(model))
        raise ConfigError(
            f"{name} is a coroutine function; a model is a plain function over a batch"
        )


def _seconds(timeout: Any) -> float:
    """How long somebody will wait, also if no time is left; raises InputError."""
    seconds = math.nan
    if isinstance(timeout, numbers.Real):
        with contextlib.suppress(OverflowError):
            seconds = float(timeout)
    if math.isnan(seconds):
        raise InputError(
            f"a timeout is a number of seconds >= 0 or None, got {timeout!r}",
            expected="seconds >= 0",
            given=repr(timeout),
        )
    return seconds


def _takes_a_device(factory: Callable[..., Any], device: Any) -> bool:
    """True if the factory has a place for the device, which need not be None's."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cannot tell whether {factory!r} takes a device: {error}") from error
    if device is None and _binds(signature):
        return False  # what it takes may be something else, with a default of its own
    return _binds(signature, device)


def _binds(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
