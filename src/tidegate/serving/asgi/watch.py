"""Watches over HTTP requests in flight: slow bodies end, and who hangs up takes its request back.

What each request pays is an entry in a set. A timer looks through the set some times a second, and
only requests that it meets twice get a task of their own that waits for the client to hang up.
"""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakKeyDictionary

from tidegate import Future
from tidegate.serving.asgi.bodies import Receive

__all__ = ["Watch", "Watches"]

_log = logging.getLogger("tidegate.serving")

_TICK = 0.05  # seconds between looks


class Watch:
    """One request in flight.

    Attributes:
        future: The batcher's; None while the body is read.
        hung_up: True once the client is gone.
        late: True once the body took too long, and the task was cancelled for it.
    """

    __slots__ = ("deadline", "future", "hung_up", "late", "listener", "met", "receive", "task")

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.task = asyncio.current_task()
        self.future: Future | None = None
        self.hung_up = False
        self.late = False
        self.met = False
        self.deadline: float | None = None
        self.listener: asyncio.Task[None] | None = None

    def forgive(self) -> bool:
        """Takes back the cancellation of the task; False if somebody else cancelled it as well."""
        uncancel = getattr(self.task, "uncancel", None)  # since Python 3.11
        return uncancel is None or uncancel() == 0

    async def listen(self) -> None:
        """Waits until the client hangs up, then cancels the request."""
        assert self.future is not None
        try:
            while (await self.receive())["type"] != "http.disconnect":  # noqa: ASYNC110
                await asyncio.sleep(_TICK)  # there is nothing left that it could say
        except Exception:
            _log.debug("a server's receive() failed", exc_info=True)
            return
        self.hung_up = True
        self.future.cancel()


class Watches:
    """All requests of one app that are in flight, for each event loop.

    Args:
        receive_timeout: Seconds that a body may take; None for any.
    """

    def __init__(self, receive_timeout: float | None) -> None:
        self._receive_timeout = receive_timeout
        self._rounds: WeakKeyDictionary[asyncio.AbstractEventLoop, _Round] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Requests in flight."""
        return sum(len(each.watches) for each in list(self._rounds.values()))

    def enter(self, receive: Receive) -> Watch:
        """A request begins, in the task that calls this."""
        loop = asyncio.get_running_loop()
        each = self._rounds.get(loop)
        if each is None:
            each = self._rounds[loop] = _Round(self._receive_timeout)
        watch = Watch(receive)
        each.watches.add(watch)
        if not each.armed:
            each.arm(loop)
        return watch

    def leave(self, watch: Watch) -> None:
        """The request has ended, in the loop in which it began."""
        self._rounds[asyncio.get_running_loop()].watches.discard(watch)
        if watch.listener is not None:
            watch.listener.cancel()


class _Round:
    """The requests of one loop, and the timer that looks at them while there are any."""

    def __init__(self, receive_timeout: float | None) -> None:
        self.watches: set[Watch] = set()
        self.armed = False
        self._receive_timeout = receive_timeout

    def arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self.armed = True
        loop.call_later(_TICK, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.armed = False
        now = loop.time()
        for watch in list(self.watches):
            if watch.future is not None:
                if watch.met and watch.listener is None:
                    watch.listener = loop.create_task(watch.listen())
                watch.met = True
            elif self._receive_timeout is not None:
                if watch.deadline is None:
                    watch.deadline = now + self._receive_timeout
                elif now >= watch.deadline and not watch.late and watch.task is not None:
                    watch.late = True
                    watch.task.cancel()
        if self.watches:
            self.arm(loop)
