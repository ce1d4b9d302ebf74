"""``@tidegate.batch``: a function or method over a batch, called with single requests."""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, overload

from tidegate.batcher import Batcher
from tidegate.errors import ConfigError
from tidegate.pool import refuse_coroutines

__all__ = ["BatchedFunction", "BatchedMethod", "batch"]


class BatchedFunction:
    """A function over a batch that is called with one request at a time.

    Call it from a thread, or ``await`` what ``predict_async`` or ``submit`` return. All of Batcher
    is there: ``f.statistics()``, ``f.close()``, ``f.max_batch_size = 16``, ``f.batcher``. The
    batcher is made when it is first needed.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._lock = threading.Lock()
        self._batcher: Batcher | None = None

    @property
    def batcher(self) -> Batcher:
        """The Batcher behind the function."""
        if self._batcher is None:
            with self._lock:
                if self._batcher is None:
                    self._batcher = Batcher(self._function, **self._options)
        return self._batcher

    def __call__(self, x: Any, *, timeout: float | None = None) -> Any:
        """Runs one request and returns its answer, see Batcher.__call__()."""
        return self.batcher(x, timeout=timeout)

    def __getattr__(self, attribute: str) -> Any:
        """Everything else is the Batcher's."""
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(self.batcher, attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        """Settings are the Batcher's, too; everything else is the function's own."""
        if _is_setting(attribute):
            setattr(self.batcher, attribute, value)
        else:
            object.__setattr__(self, attribute, value)

    def __reduce__(self) -> str:
        """Copied and pickled by its name, as a function is; its batcher stays where it is."""
        name: str = vars(self).get("__qualname__", type(self).__qualname__)
        return name


class BatchedMethod:
    """A method over a batch: each object gets a batcher of its own, which ends with the object."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._lock = threading.Lock()
        # By identity: objects may be equal, or not hashable. The references end the entries.
        self._bound: dict[int, tuple[weakref.ref[Any], BatchedFunction]] = {}

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """The object's own batched function."""
        if instance is None:
            return self
        key = id(instance)
        entry = self._bound.get(key)
        if entry is None:
            with self._lock:
                entry = self._bound.get(key)
                if entry is None:
                    gone = self._watched(instance, key)
                    function = _weakly_bound(self._function, instance)
                    entry = (gone, BatchedFunction(function, dict(self._options)))
                    self._bound[key] = entry
        return _Bound(instance, entry[1])

    def _watched(self, instance: Any, key: int) -> weakref.ref[Any]:
        """What forgets the object's entry when it ends; raises ConfigError."""
        try:
            return weakref.ref(instance, lambda _: self._bound.pop(key, None))
        except TypeError as error:
            raise ConfigError(
                f"{self._function.__qualname__} is a batched method of an object that cannot be "
                "weakly referenced; give its class the slot '__weakref__', or a dataclass "
                "weakref_slot=True"
            ) from error

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Explains itself: a batched method is called on an object."""
        raise TypeError(f"{self._function.__qualname__} is a batched method; call it on an object")


class _Bound:
    """A batched method of an object that it keeps alive, as any bound method does."""

    def __init__(self, instance: Any, function: BatchedFunction) -> None:
        functools.update_wrapper(self, function, updated=())
        self.__self__ = instance
        self._function = function

    def __call__(self, x: Any, *, timeout: float | None = None) -> Any:
        """Runs one request and returns its answer, see Batcher.__call__()."""
        return self._function(x, timeout=timeout)

    def __getattr__(self, attribute: str) -> Any:
        """Everything else is the Batcher's."""
        return getattr(self._function, attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        """Settings are the Batcher's, too."""
        if _is_setting(attribute):
            setattr(self._function, attribute, value)
        else:
            object.__setattr__(self, attribute, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with its object, as any bound method is."""
        return getattr, (self.__self__, self._function.__name__)


def _is_setting(attribute: str) -> bool:
    return isinstance(getattr(Batcher, attribute, None), property)


def _weakly_bound(function: Callable[..., Any], instance: Any) -> Callable[..., Any]:
    """`function` bound to `instance` without keeping it alive."""
    reference = weakref.ref(instance)

    @functools.wraps(function)
    def bound(rows: Any) -> Any:
        target = reference()
        if target is None:
            raise ReferenceError(f"the object of {function.__qualname__} is gone")
        return function(target, rows)

    return bound


class _Decorator(Protocol):
    """What ``batch(...)`` with settings returns."""

    @overload
    def __call__(self, function: Callable[[Any], Any], /) -> BatchedFunction: ...
    @overload
    def __call__(self, function: Callable[[Any, Any], Any], /) -> BatchedMethod: ...


@overload
def batch(function: Callable[[Any], Any], /, **options: Any) -> BatchedFunction: ...
@overload
def batch(function: Callable[[Any, Any], Any], /, **options: Any) -> BatchedMethod: ...
@overload
def batch(function: None = None, /, **options: Any) -> _Decorator: ...
def batch(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Makes a function or method over a batch callable with single requests.

    ::

        @tidegate.batch(max_batch_size=32)
        def embed(texts):            # an array of n rows
            return model(texts)      # n rows

        y = embed(x)                 # one row, from any thread
        y = await embed.submit(x)    # from an event loop

    Args:
        function: The function, when used without parentheses.
        **options: Those of Batcher.

    Raises:
        ConfigError: The function is a coroutine function, or does not take a batch alone.
    """
    if function is None:
        return functools.partial(batch, **options)
    if not callable(function):
        raise ConfigError(f"@batch decorates a function or method, got {type(function).__name__}")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    refuse_coroutines(function)
    is_method = _is_method(function, name)
    options.setdefault("name", name)
    return BatchedMethod(function, options) if is_method else BatchedFunction(function, options)


def _is_method(function: Callable[..., Any], name: str) -> bool:
    """True if it takes an object and a batch, False if a batch alone; raises ConfigError."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtin functions do not say
        return False
    parameters = list(signature.parameters)
    is_method = len(parameters) > 1 and parameters[0] == "self"
    try:
        signature.bind(*([None, None] if is_method else [None]))
    except TypeError as error:
        raise ConfigError(
            f"{name}{signature} cannot be a model, which takes a batch alone: {error}"
        ) from error
    return is_method
