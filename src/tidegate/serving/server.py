"""The server: opens the doors, says so, and after a signal drains before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

from tidegate._output import write
from tidegate.errors import ConfigError
from tidegate.serving.configuration import Configuration
from tidegate.serving.doors import Doors, make_doors
from tidegate.serving.models import Models

__all__ = ["configure_logging", "say", "serve"]

_log = logging.getLogger("tidegate.serving")

# After the drain's time is up: for clients to be told that their requests have failed.
_LAST_WORDS = 1.0
# Wrappers such as timeout(1) pass a signal on to the process and to its group: that is one signal.
_ECHO = 0.3
# Files that a process has open besides connections, generously.
_OWN_FILES = 256
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def serve(
    models: Models, configuration: Configuration, announce: Callable[[str], None] | None = None
) -> int:
    """Serves models until SIGTERM or SIGINT, from the main thread; their batchers end with it.

    Args:
        models: What is on offer.
        configuration: The doors and all else.
        announce: Called with ``listening on URL`` for each door when all are open, and with
            ``ready``; None writes lines to standard output.

    Returns:
        The exit code: 0 if every request that was taken was answered, else 1.

    Raises:
        ConfigError: A door cannot be opened.
    """
    _allow_files(2 * configuration.max_connections + _OWN_FILES)
    signals = _Signals()
    with signals.handled():
        doors = make_doors(models, configuration)
        signals.at_once = doors.remove_names
        try:
            loop = _new_loop(configuration.uvloop)
            running = _run(models, configuration, doors, signals, announce or _write)
            return _run_in(loop, running)
        finally:
            doors.discard()


def configure_logging(level: str) -> None:
    """Logs to standard error, unless the module with the models has set logging up itself."""
    logging.basicConfig(format=_FORMAT)
    logging.getLogger("tidegate").setLevel(level.upper())


async def _run(
    models: Models,
    configuration: Configuration,
    doors: Doors,
    signals: _Signals,
    announce: Callable[[str], None],
) -> int:
    try:
        for door in doors:
            await door.open()
    except BaseException:
        for door in doors:
            await door.close()
        raise
    # What is loaded now stays until the end. Full collections that look at it take 50 ms and more,
    # and every request that waits makes objects that bring the next one closer.
    gc.collect()
    gc.freeze()
    for door in doors:
        announce(f"listening on {door.url}")
    announce("ready")
    _notify("READY=1")
    name = await signals.first()
    _notify("STOPPING=1")
    _log.info("%s: draining", name)
    in_time = await _drain(models, doors, configuration)
    if in_time:
        _log.info("drained")
        return 0
    _log.error("not drained within %g s; what was left has failed", configuration.drain_timeout)
    return 1


async def _drain(models: Models, doors: Doors, configuration: Configuration) -> bool:
    """Ends everything in order; True if every request that was taken was answered."""
    loop = asyncio.get_running_loop()
    models.drain()
    for door in doors:
        door.announce_end()
    await asyncio.sleep(configuration.drain_grace)
    deadline = loop.time() + configuration.drain_timeout
    closing = [loop.create_task(door.close()) for door in doors]
    _, late = await asyncio.wait(closing, timeout=configuration.drain_timeout)
    left = max(0.0, deadline - loop.time())
    batchers = {id(served.batcher): served.batcher for served in models}.values()
    await asyncio.gather(*[each.aclose(drain=not late, timeout=left) for each in batchers])
    if late:
        await asyncio.wait(late, timeout=_LAST_WORDS)
        for door in doors:
            await door.abort()
        await asyncio.wait(late, timeout=_LAST_WORDS)
    for task in closing:
        if task.done():
            task.result()
    return not late


class _Signals:
    """SIGTERM and SIGINT: the first begins the drain, the second ends the process at once."""

    def __init__(self) -> None:
        self.at_once: Callable[[], None] | None = None
        self._first: str | None = None
        self._since = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._came: asyncio.Event | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        both = (signal.SIGTERM, signal.SIGINT)
        # Not the loop's handlers: those would wait for a loop that is busy.
        before = {each: signal.signal(each, self._handle) for each in both}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._first is not None:
            if time.monotonic() - self._since < _ECHO:
                return
            if self.at_once is not None:
                self.at_once()
            os._exit(128 + number)
        self._first = signal.Signals(number).name
        self._since = time.monotonic()
        if self._loop is not None and self._came is not None:
            self._loop.call_soon_threadsafe(self._came.set)

    async def first(self) -> str:
        """Waits for the first, and returns its name."""
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        if self._first is None:
            await self._came.wait()
        assert self._first is not None
        return self._first


def _new_loop(choice: str) -> asyncio.AbstractEventLoop:
    if choice != "off":
        try:
            import uvloop

            return uvloop.new_event_loop()
        except ModuleNotFoundError:
            if choice == "on":
                raise ConfigError("uvloop is not installed: pip install uvloop") from None
    return asyncio.new_event_loop()


def _run_in(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, int]) -> int:
    """asyncio.run() in a loop of ours, which Python 3.10 does not offer."""
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()


def _allow_files(wanted: int) -> None:
    """Raises the limit of open files as far as is allowed: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))


def _write(line: str) -> None:
    say(f"tidegate: {line}\n")


def say(text: str) -> None:
    """Writes to standard output. That nobody reads it is no reason not to serve."""
    try:
        write(text)
    except OSError as error:
        _log.warning("standard output takes no more: %s", error.strerror)


def _notify(state: str) -> None:
    """Tells systemd, if it has started this as a service of ``Type=notify``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
        try:
            notifying.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("cannot notify systemd: %s", error)
