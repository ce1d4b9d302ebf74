"""What coroutines ask of a Batcher, in every way there is."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

from tests.soak.callers import BACK_OFF, Caller, Flight
from tests.soak.ledger import GIVEN_UP, UNKNOWN, BadItemError, Ledger
from tests.soak.stand import PATIENCE, Stand
from tidegate import ClosedError, DeadlineError, Future, QueueFullError, TidegateError


class LoopCaller(Caller):
    """A coroutine that asks in all ways, one after another; see Caller."""

    def __init__(self, ledger: Ledger, stand: Stand, rng: random.Random) -> None:
        super().__init__(ledger, stand, rng)
        self._ways: list[Callable[[range], Awaitable[None]]] = [
            *[self.one_by_one] * 2,
            *[self.gathered] * 4,
            self.in_tasks,
            self.impatiently,
            self.waited_for,
            self.predicted,
            self.many,
            self.mapped,
        ]

    async def run(self) -> None:
        """Goes on until there are no more requests."""
        while indices := self.ledger.take(self.rng.choice([4, 16, 64])):
            self.batcher = self.stand.batcher
            await self.rng.choice(self._ways)(indices)

    async def ask(self, index: int, timeout: float | None) -> Future:
        """Submits one, as soon as there is room."""
        while True:
            try:
                return self.submit(index, timeout)
            except QueueFullError:
                await asyncio.sleep(BACK_OFF)

    async def flight(self, indices: range) -> Flight:
        """Submits them all."""
        timeout = self.some_timeout()
        return [(index, await self.ask(index, timeout)) for index in indices]

    async def end(self, index: int, future: Future) -> None:
        """Awaits a request and notes how it ended."""
        if future.cancelled():
            self.ledger.note(index, GIVEN_UP)
            return
        try:
            answer = await future
        except (TidegateError, BadItemError) as error:
            self.ledger.failed(index, error)
        else:
            self.ledger.answered(index, answer)

    # -- ways ------------------------------------------------------------------------------------

    async def one_by_one(self, indices: range) -> None:
        """Awaits each before the next."""
        for index in indices:
            await self.end(index, await self.ask(index, None))

    async def gathered(self, indices: range) -> None:
        """Gathers all, of which some are cancelled."""
        flight = await self.flight(indices)
        gathering = asyncio.gather(*[future for _, future in flight], return_exceptions=True)
        for index, future in flight:
            if index % 17 == 0:
                future.cancel()
        await asyncio.wait_for(gathering, PATIENCE)
        for index, future in flight:
            assert future.done()
            await self.end(index, future)

    async def in_tasks(self, indices: range) -> None:
        """Has tasks await them, of which some are cancelled."""

        async def task_body(future: Future) -> None:
            with contextlib.suppress(TidegateError, BadItemError):
                await future

        flight = await self.flight(indices)
        tasks = [asyncio.create_task(task_body(future)) for _, future in flight]
        if indices.start % 2:
            await asyncio.sleep(0)  # else they are cancelled before their first step
        for task in tasks[:: self.rng.choice([2, 5])]:
            task.cancel()
        await asyncio.wait(tasks, timeout=PATIENCE)
        for index, future in flight:
            # That of a task that never began is nobody's.
            await self.end(index, future)

    async def impatiently(self, indices: range) -> None:
        """Waits for a short while, then gives up."""
        for index, future in await self.flight(indices):
            with contextlib.suppress(TidegateError, BadItemError, asyncio.TimeoutError):
                await asyncio.wait_for(future, self.rng.choice([0, 0.0002]))
            await self.end(index, future)

    async def waited_for(self, indices: range) -> None:
        """Has asyncio wait for them."""
        flight = await self.flight(indices)
        pending: set[Any] = {future for _, future in flight}
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
            )
            assert done, "the requests never ended"
        for index, future in flight:
            await self.end(index, future)

    async def predicted(self, indices: range) -> None:
        """Asks as for a call that may wait for room."""
        for index in indices:
            while True:
                try:
                    answer = await self.batcher.predict_async(self.ledger.rows[index])
                except QueueFullError:
                    await asyncio.sleep(BACK_OFF)
                    continue
                except (ClosedError, DeadlineError) as error:
                    self.ledger.ended_otherwise(range(index, index + 1), error)
                    self.batcher = self.stand.batcher
                except (TidegateError, BadItemError) as error:
                    self.ledger.failed(index, error)
                else:
                    self.ledger.answered(index, answer)
                break

    async def many(self, indices: range) -> None:
        """Submits several as one, and takes some of those back."""
        flight: list[tuple[range, Future]] = []
        for piece in self.pieces(indices):
            try:
                flight.append((piece, self.batcher.submit_many(self.rows_of(piece))))
            except (QueueFullError, ClosedError) as error:
                self.ledger.ended_otherwise(piece, error)
                self.batcher = self.stand.batcher
        for piece, future in flight:
            if piece.start % 11 == 0:
                future.cancel()
            try:
                answers = await asyncio.wait_for(future, PATIENCE)
            except (TidegateError, BadItemError, asyncio.CancelledError) as error:
                self.ledger.failed_many(piece, error)
            else:
                self.ledger.answered_many(piece, answers)

    async def mapped(self, indices: range) -> None:
        """Maps over them; sometimes it loses interest half-way."""
        wanted = len(indices) if self.rng.random() < 0.8 else len(indices) // 2
        rows = (self.ledger.rows[index] for index in indices)
        done = 0
        try:
            mapping: Any = self.batcher.amap(rows)
            async with contextlib.aclosing(mapping) as answers:
                async for answer in answers:
                    self.ledger.answered(indices[done], answer)
                    done += 1
                    if done == wanted:
                        break
        except (TidegateError, BadItemError) as error:
            self.ledger.ended_otherwise(indices[done:], error)
        else:
            self.ledger.noted_many(indices[done:], UNKNOWN)
