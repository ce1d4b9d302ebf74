"""Models: everything that a process has on offer, for all of its doors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from tidegate.errors import ConfigError
from tidegate.serving.errors import UnknownModelError
from tidegate.serving.served import Served

__all__ = ["Models"]


class Models:
    """The models on offer, by name and version; may change while doors are open.

    Args:
        served: The first ones.

    Raises:
        ConfigError: Two of them have the same name and version.
    """

    def __init__(self, *served: Served) -> None:
        self._lock = threading.Lock()
        # Replaced, never changed: readers take no lock.
        self._versions: dict[str, dict[str, Served]] = {}
        self._draining = False
        self._watchers: list[Callable[[], object]] = []
        for each in served:
            self.add(each)

    def add(self, served: Served) -> None:
        """Puts one more on offer."""
        if not isinstance(served, Served):
            raise ConfigError(f"models on offer are Served, got {type(served).__name__}")
        with self._lock:
            versions = self._versions.get(served.name, {})
            if served.version in versions:
                raise ConfigError(
                    f"version {served.version!r} of model {served.name!r} is on offer already"
                )
            self._versions = {
                **self._versions,
                served.name: {**versions, served.version: served},
            }
        self._changed()

    def remove(self, name: str, version: str) -> Served:
        """Takes one off, by get(); requests under way are not touched, its batcher stays open."""
        with self._lock:
            served = self.get(name, version)
            versions = {
                key: each for key, each in self._versions[name].items() if each is not served
            }
            others = {key: each for key, each in self._versions.items() if key != name}
            self._versions = {**others, name: versions} if versions else others
        self._changed()
        return served

    def watch(self, callback: Callable[[], object]) -> None:
        """Has `callback` called after each change of what there is, in the thread that made it."""
        with self._lock:
            self._watchers = [*self._watchers, callback]

    def unwatch(self, callback: Callable[[], object]) -> None:
        """Takes watch() back."""
        with self._lock:
            self._watchers = [each for each in self._watchers if each != callback]

    def _changed(self) -> None:
        for callback in self._watchers:
            callback()

    def get(self, name: str, version: str = "") -> Served:
        """The model of that name; without a version, its newest.

        Raises:
            UnknownModelError: There is none.
        """
        versions = self._versions.get(name)
        if versions is None:
            raise UnknownModelError(f"there is no model {name!r}; there are {list(self._versions)}")
        if not version:
            return (
                versions[max(versions, key=_age)]
                if len(versions) > 1
                else next(iter(versions.values()))
            )
        try:
            return versions[version]
        except KeyError:
            raise UnknownModelError(
                f"model {name!r} has no version {version!r}; it has {list(versions)}"
            ) from None

    def versions(self, name: str) -> list[str]:
        """All versions of a model, the newest last.

        Raises:
            UnknownModelError: There is no such model.
        """
        self.get(name)
        return sorted(self._versions[name], key=_age)

    def __iter__(self) -> Iterator[Served]:
        """All of them, in the order in which they came."""
        return iter([each for versions in self._versions.values() for each in versions.values()])

    def __len__(self) -> int:
        """How many there are, versions counted."""
        return sum(map(len, self._versions.values()))

    @property
    def ready(self) -> bool:
        """True if every model is ready and no drain() has begun."""
        return not self._draining and all(served.ready for served in self)

    @property
    def draining(self) -> bool:
        """True once drain() was called."""
        return self._draining

    def drain(self) -> None:
        """Turns readiness false, so that balancers send no more; requests are still answered."""
        self._draining = True

    def close(self, timeout: float | None = None) -> None:
        """Closes every batcher once it has served what waits; see Batcher.close()."""
        self.drain()
        for served in self:
            served.batcher.close(timeout=timeout)


def _age(version: str) -> tuple[int, int, str]:
    """Sorts versions: numbers by their value, and after all other names."""
    return (1, int(version), "") if version.isdecimal() else (0, 0, version)
