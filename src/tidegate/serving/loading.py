"""Loading: from ``module:models`` on a command line to the Models that it names."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tidegate import Batcher, ModelPool
from tidegate.decorators import BatchedFunction
from tidegate.errors import ConfigError
from tidegate.serving.models import Models
from tidegate.serving.served import Served

__all__ = ["as_models", "load"]

_UNNAMED = re.compile(r"batcher-\d+")  # what a Batcher calls itself that was given no name
_FORMS = (
    "a Models, a Served, a list or tuple of Served, a Batcher, a function made by "
    "@tidegate.batch, a mapping of names to any of these, or a function without arguments that "
    "returns one of them"
)


def load(target: str) -> Models:
    """Imports a module, which may lie in the current directory, and takes the models out of it.

    Args:
        target: ``module:attribute``; both may have dots. The attribute is one of what as_models()
            takes, or a function without arguments that returns it.

    Raises:
        ConfigError: The target has another form, there is no such module or attribute, importing
            or calling it failed (the exception is the cause), or it holds no models.
    """
    module_name, colon, path = target.partition(":")
    if "/" in target or module_name.endswith(".py"):
        stem = Path(module_name).stem
        raise ConfigError(
            f"models are named module:attribute, got {target!r}, which looks like a file; in its "
            f"directory, say {stem}:{path or 'models'}"
        )
    if not colon or not module_name or not path:
        raise ConfigError(f"models are named module:attribute, got {target!r}")
    value: Any = _import(module_name)
    where = module_name
    for name in path.split("."):
        value = _attribute(value, name, where)
        where = f"{where}.{name}"
    if _is_factory(value):
        value = _call(value, target)
    return as_models(value, name=path.rpartition(".")[2])


def as_models(value: Any, *, name: str) -> Models:
    """The models that a value stands for.

    Args:
        value: A Models, a Served, a list or tuple of Served, a Batcher, a function made by
            ``@tidegate.batch``, or a mapping of names to any of the last three.
        name: What a batcher is called that has no name of its own.

    Raises:
        ConfigError: It is something else, holds nothing, or a batcher's inputs are not known.
    """
    if isinstance(value, Models):
        models = value
    elif isinstance(value, list | tuple):
        models = Models(*[_served(each, name) for each in value])
    elif isinstance(value, Mapping):
        models = Models(*[_named(key, each) for key, each in value.items()])
    else:
        models = Models(_served(value, name))
    if not len(models):
        raise ConfigError(f"{name!r} holds no models")
    return models


def _named(key: object, value: Any) -> Served:
    """The model that a mapping has under a key."""
    if not isinstance(key, str):
        raise ConfigError(f"the keys of a mapping of models are their names, got {key!r}")
    if isinstance(value, Served):
        if value.name != key:
            raise ConfigError(f"model {value.name!r} has another name in its mapping: {key!r}")
        return value
    return Served(key, _batcher(value))


def _served(value: Any, name: str) -> Served:
    if isinstance(value, Served):
        return value
    batcher = _batcher(value)
    # A decorated function's batcher is called by the function's full name, which may hold dots.
    unnamed = isinstance(value, BatchedFunction) or _UNNAMED.fullmatch(batcher.name)
    return Served(name if unnamed else batcher.name, batcher)


def _batcher(value: Any) -> Batcher:
    if isinstance(value, Batcher):
        return value
    if isinstance(value, BatchedFunction):
        return value.batcher
    if isinstance(value, ModelPool):
        raise ConfigError("a ModelPool is served by a Batcher: Batcher(pool, inputs=...)")
    given = f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__
    raise ConfigError(f"models are {_FORMS}; got {given}")


def _import(name: str) -> ModuleType:
    directory = str(Path.cwd())
    if directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"there is no module {error.name!r}, neither in {directory} nor installed"
            ) from None
        raise ConfigError(f"importing {name!r} failed: {error}") from error
    except Exception as error:
        raise ConfigError(f"importing {name!r} failed with {type(error).__name__}") from error


def _attribute(value: Any, name: str, where: str) -> Any:
    try:
        return getattr(value, name)
    except AttributeError:
        public = [each for each in dir(value) if not each.startswith("_")]
        near = difflib.get_close_matches(name, public, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{where!r} has no attribute {name!r}{hint}") from None


def _is_factory(value: Any) -> bool:
    """True for what is to be called: Batcher and @batch can be called too, with a request."""
    return callable(value) and not isinstance(value, Batcher | BatchedFunction | Models | Served)


def _call(factory: Callable[[], Any], target: str) -> Any:
    if inspect.iscoroutinefunction(factory):
        raise ConfigError(f"{target} is a coroutine function; a plain function makes the models")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ConfigError(
            f"{target} cannot be called without arguments ({error}), and is none of what models "
            f"may be: {_FORMS}"
        ) from None
    except ValueError:  # some builtin functions do not say
        pass
    try:
        return factory()
    except Exception as error:
        raise ConfigError(f"calling {target} failed with {type(error).__name__}") from error
