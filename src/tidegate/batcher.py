"""Batcher: coalesces single requests into batches and runs the model once per batch."""

from __future__ import annotations

import itertools
import time
import weakref
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
)
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tidegate import _engine, _fast, _settings
from tidegate._collation import Collate, Collation
from tidegate._runtime import Runtime, runtimes
from tidegate._settings import PaddingPolicy
from tidegate.errors import ConfigError, DeadlineError, QueueFullError
from tidegate.native import NativeModel
from tidegate.pool import Instance, ModelPool, refuse_coroutines
from tidegate.recorder import BatchRecord
from tidegate.specs import Spec, TensorSpec, check_spec
from tidegate.statistics import Statistics, from_engine

if TYPE_CHECKING:
    from tidegate._device import Berth
    from tidegate.gpu.waiting import CudaDevice

__all__ = ["Batcher", "HasBatcher", "batcher_of"]

_fast.load_waist(
    _engine.Engine(
        _engine.Policy(max_batch_size=1, max_queue_delay=0.0, max_queue_size=0, caller_runs=False)
    ).capsule()
)

_numbers = itertools.count(1)
_NOTHING_TO_HOLD_BACK = (
    "executor='inline' has no idle executor to hold back, so max_queue_delay must be 0"
)


class Batcher(_fast.Gateway):
    """Coalesces requests from threads and event loops into batches for a model.

    ``batcher(x)`` waits in any thread, ``batcher.submit(x)`` returns a Future for threads and event
    loops alike. Each caller gets its own row of the model's answer.

    Args:
        model: A callable ``batch -> outputs``, a ModelPool, or a NativeModel. A batch looks like
            one request with a leading axis of n rows, C-contiguous; it is valid during the call.
            The answer is an array, or a tuple or mapping of arrays, whose first axis is n, or a
            list of n objects. An exception in the list fails only its own request.
        name: For messages and metrics.
        max_batch_size: Rows in a batch at most.
        max_queue_delay: Seconds that an idle executor is held back at most in the hope of a fuller
            batch, from the submission of the oldest row. With 0.0 it is not: batches form while
            executors are busy, and an idle one waits some tens of microseconds only if callers are
            about to return.
        max_queue_size: Rows that may wait; None for ``max(1024, 32 * max_batch_size)``.
        overflow: What a full queue does: ``"reject"`` raises QueueFullError; ``"block"`` makes
            ``batcher(x)``, ``predict_async``, ``map`` and ``amap`` wait for room (``submit`` never
            waits).
        inputs: What one request looks like: a TensorSpec, or a tuple or mapping of them; None takes
            it from the first request.
        collate: ``"stack"`` stacks arrays; ``"pad"`` makes ragged rows equally long and calls the
            model with a Padded; ``"pack"`` lays them end to end, in a Packed; ``"list"`` gives the
            model a list of arbitrary objects.
        padding_value: What is behind the tokens of padded rows.
        pad_to: Lengths, ascending: rows are padded to the next that is long enough, and longer ones
            than the last are refused. None pads to the longest of the batch.
        length_buckets: Lengths, ascending: ragged requests share a batch only with those of up to
            the same length. Longer ones than the last are refused. A full batch goes before one
            that still fills, past the oldest request at most four times.
        group_key: Called with each request when it is submitted: only those with equal keys share a
            batch. The key must be hashable.
        cost_fn: Called with each request when it is submitted: what it costs. None counts the
            tokens of ragged requests.
        max_batch_cost: What the requests of a batch may cost together; None for no limit.
        allowed_batch_sizes: The only batch sizes that the model is called with, ascending, the last
            of them ``max_batch_size``. None for any.
        padding_policy: What is done with a batch of another size: ``"pad_up"`` adds rows, copies of
            its first (with ``"pack"`` empty ones, with ``"list"`` the same object again, on a
            device zeros), whose answers are dropped;
            ``"batch_down"`` runs it in parts of allowed sizes; ``"none"`` runs it as it is.
        warmup: Whether each instance is called with zeros before it serves, once for each of
            ``allowed_batch_sizes`` and ``pad_to``, with at most ``max_batch_cost`` tokens. What
            requests cost by ``cost_fn`` is not known then. Needs ``inputs``.
        default_timeout: Seconds that a request may wait in the queue; None for no limit.
        split_oversize: Whether ``submit_many`` may split its rows over several batches.
        on_batch_error: What becomes of a batch for which the model raises: with ``"fail"`` all of
            it fails; with ``"bisect"`` halves of it are run again, down to single rows, so that
            only those fail that the model cannot take. The model must leave its argument as it is.
        executor: ``"thread"`` runs each instance in a thread of its own; ``"inline"`` runs the
            model on the event loop that submits, once per iteration, for models of a few
            microseconds.
        caller_runs: Whether a thread that waits in ``batcher(x)`` and is alone may run the model
            itself. Switch it off for models that are bound to a thread.
        outputs: Whether callers get ``"view"``s into the batch's outputs or ``"copy"``s; ``"auto"``
            gives views while the whole batch's outputs are at most 64 KiB, since a view that is
            kept keeps all of them. ``"device"`` leaves them on the device, as CuPy's arrays.
        device: Where the model works: None for the CPU; ``"cuda"``, ``"cuda:1"`` and so on, or a
            tidegate.gpu.CudaDevice. Rows are then copied into page-locked memory, uploaded
            once per batch, collated and transformed on the device, and the model is called with
            CuPy's arrays. Each instance of a pool with ``devices`` is on its own. Needs ``inputs``.

    Raises:
        ConfigError: A setting has a value that it cannot have.
    """

    def __init__(
        self,
        model: Callable[..., Any] | ModelPool | NativeModel,
        *,
        name: str | None = None,
        max_batch_size: int = 64,
        max_queue_delay: float = 0.0,
        max_queue_size: int | None = None,
        overflow: Literal["reject", "block"] = "reject",
        inputs: Spec | list[TensorSpec] | None = None,
        collate: Collate = "stack",
        padding_value: float = 0,
        pad_to: Iterable[int] | None = None,
        length_buckets: Iterable[int] | None = None,
        group_key: Callable[[Any], Any] | None = None,
        cost_fn: Callable[[Any], float] | None = None,
        max_batch_cost: float | None = None,
        allowed_batch_sizes: Iterable[int] | None = None,
        padding_policy: PaddingPolicy = "pad_up",
        warmup: bool = False,
        default_timeout: float | None = None,
        split_oversize: bool = True,
        on_batch_error: Literal["fail", "bisect"] = "fail",
        executor: Literal["thread", "inline"] = "thread",
        caller_runs: bool = True,
        outputs: Literal["auto", "view", "copy", "device"] = "auto",
        device: str | CudaDevice | None = None,
    ) -> None:
        _settings.refuse_green_threads()
        _settings.choose("overflow", overflow, ("reject", "block"))
        _settings.choose("executor", executor, ("thread", "inline"))
        _settings.choose("outputs", outputs, ("auto", "view", "copy", "device"))
        stay = outputs == "device"
        if stay and device is None:
            raise ConfigError("outputs='device' needs a device")
        if default_timeout is not None:
            default_timeout = _settings.number("default_timeout", default_timeout)
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"name must be a string or None, got {name!r}")
        policy = _settings.make_policy(
            max_batch_size=max_batch_size,
            max_queue_delay=max_queue_delay,
            max_queue_size=max_queue_size,
            caller_runs=bool(caller_runs),
            max_batch_cost=max_batch_cost,
        )
        inputs = None if inputs is None else check_spec(inputs)
        collation = Collation(
            inputs=inputs,
            collate=collate,
            max_batch_size=policy.max_batch_size,
            allowed_batch_sizes=allowed_batch_sizes,
            padding_policy=padding_policy,
            padding_value=padding_value,
            pad_to=pad_to,
            length_buckets=length_buckets,
            group_key=group_key,
            cost_fn=cost_fn,
            max_batch_cost=max_batch_cost,
            on_batch_error=on_batch_error,
        )
        self._collation = collation
        self._name = name if name is not None else f"batcher-{next(_numbers)}"
        self._runtime = Runtime(_engine.Engine(policy), self._name)
        native = model if isinstance(model, NativeModel) else None
        self._pool = model if isinstance(model, ModelPool) else None
        if native is not None and (collate == "list" or executor == "inline"):
            raise ConfigError("a NativeModel takes arrays and runs in its own thread")
        if native is not None and (collation.shaper() is not None or warmup):
            raise ConfigError(
                "a NativeModel takes batches as they are: no ragged inputs, no padding, no warmup, "
                "no on_batch_error='bisect'"
            )
        if native is None and not callable(model) and self._pool is None:
            raise ConfigError(
                "model must be a callable batch -> outputs, a ModelPool or a NativeModel, "
                f"got {type(model).__name__}"
            )
        refuse_coroutines(model)
        if executor == "inline" and self._pool is not None and len(self._pool) != 1:
            raise ConfigError("executor='inline' runs one instance; the pool has more")
        if executor == "inline" and policy.max_queue_delay > 0:
            raise ConfigError(_NOTHING_TO_HOLD_BACK)
        berths: list[Berth] = []
        new_memory = None
        if device is not None:
            from tidegate._device import memory_of, open_berths

            if native is not None or executor == "inline":
                raise ConfigError("a device takes a Python model, with executor='thread'")
            berths = open_berths(model, device, collation, stay)  # type: ignore[arg-type]
            new_memory = memory_of(berths)
        if warmup and inputs is None:
            raise ConfigError("warmup needs to know what a request looks like: pass inputs")
        shaper = None if berths else collation.shaper()
        grouping = collation.grouping()
        session = _fast.Session(
            self._runtime.engine.capsule(),
            self._name,
            inputs,
            collate == "list",
            "auto" if outputs == "device" else outputs,
            None if native is None else native.outputs,
            grouping,
            shaper,
            new_memory,
        )
        if shaper is not None:
            shaper.count_with(session.count_padding)
        self._grouping = grouping
        self._default_timeout = default_timeout
        self._open(session, default_timeout, overflow == "block", bool(split_oversize))
        self._model = model
        if berths:
            self._start_on_device(berths, session, stay, warmup)
        else:
            if warmup:
                self._warm_up(model)
            self._start(model, session, executor == "inline")
        runtimes.add(self._runtime)
        self._finalizer = weakref.finalize(self, self._runtime.let_go)
        self._finalizer.atexit = False  # close_all() does more

    def _warm_up(self, model: Any) -> None:
        """Calls each instance with zeros; none serves yet."""
        shaper = self._collation.shaper(always=True)
        assert shaper is not None
        limits = (self.max_batch_size, self._collation.max_batch_tokens)
        if not isinstance(model, ModelPool):
            shaper.warm_up(model, *limits)
            return
        for instance in model.instances:
            instance.acquire()
            try:
                shaper.warm_up(instance, *limits)
            finally:
                instance.release()

    def _start_on_device(
        self, berths: list[Berth], session: _fast.Session, stay: bool, warmup: bool
    ) -> None:
        collation = self._collation
        for number, berth in enumerate(berths):
            if warmup:
                berth.lane.warm_up(collation.sizes or (self.max_batch_size,), session.layout())
            sizes = None if collation.policy == "none" else collation.sizes
            padded = collation.collate == "pad"
            runner = _fast.DeviceRunner(
                session, berth.lane, berth.lease, sizes, padded, stay, berth.calls
            )
            self._runtime.start(runner, number)

    def _start(self, model: Any, session: _fast.Session, inline: bool) -> None:
        if isinstance(model, NativeModel):
            self._runtime.engine.start_native(model.address, model.user_data, model)
            self._runtime.native = True
            return
        places: list[tuple[Any, Instance | None]] = (
            [(instance, instance) for instance in model.instances]
            if isinstance(model, ModelPool)
            else [(model, None)]
        )
        for number, (function, lease) in enumerate(places):
            runner = _fast.Runner(session, function, lease, inline)
            if not inline:
                self._runtime.start(runner, number)
        self._runtime.inline = inline

    # -- requests; submit(), submit_many() and __call__() are inherited --

    def predict_async(self, x: Any, *, timeout: float | None = None) -> Awaitable[Any]:
        """Runs one request from an event loop: ``y = await batcher.predict_async(x)``.

        Like ``await batcher.submit(x)``, but with ``overflow="block"`` it waits for room.
        Arguments and errors are those of submit().
        """
        if not self._blocks:
            return self.submit(x, timeout=timeout)
        try:
            return self._offer(x, timeout)
        except QueueFullError:
            return self._predict_when_there_is_room(x, timeout)

    async def _predict_when_there_is_room(self, x: Any, timeout: float | None) -> Any:
        future = await self._submit_when_there_is_room(x, timeout)
        return await future

    def map(
        self, rows: Iterable[Any], *, timeout: float | None = None
    ) -> Generator[Any, None, None]:
        """Runs many requests and yields their answers in order.

        A bounded number is in flight, so `rows` may be endless. It waits for room in the queue
        whatever ``overflow`` says. The first error ends it; what is in flight is then cancelled.

        Args:
            rows: Requests.
            timeout: Seconds that each may wait in the queue.
        """
        flight: deque[_fast.Future] = deque()
        try:
            for x in rows:
                if len(flight) >= self._window():
                    yield flight.popleft().result()
                while True:
                    try:
                        flight.append(self._offer(x, timeout))
                        break
                    except QueueFullError:
                        if flight:
                            yield flight.popleft().result()
                        else:
                            self._await_room()
            while flight:
                yield flight.popleft().result()
        finally:
            for future in flight:
                future.cancel()

    async def amap(
        self, rows: Iterable[Any] | AsyncIterable[Any], *, timeout: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """map() for event loops; `rows` may be an async iterable."""
        flight: deque[_fast.Future] = deque()
        source = rows if isinstance(rows, AsyncIterable) else _as_async(rows)
        try:
            async for x in source:
                if len(flight) >= self._window():
                    yield await flight.popleft()
                flight.append(await self._submit_when_there_is_room(x, timeout))
            while flight:
                yield await flight.popleft()
        finally:
            for future in flight:
                future.cancel()

    async def _submit_when_there_is_room(self, x: Any, timeout: float | None) -> _fast.Future:
        import asyncio  # here, since importing it takes longer than all of tidegate

        if timeout is None:
            timeout = self._default_timeout
        begun = time.monotonic()
        end: float | None = None
        while True:
            left = timeout if end is None else max(0.0, end - time.monotonic())
            try:
                return self._offer(x, left)  # which refuses what is no timeout
            except QueueFullError:
                self._session.run_inline()
                room = self._session.wait_room()
            end = None if timeout is None else begun + timeout
            if room is None:
                await asyncio.sleep(0)
                continue
            try:
                await asyncio.wait_for(room, left)
            except asyncio.TimeoutError:  # the builtin one only since 3.11
                raise DeadlineError(
                    f"the request's timeout passed while it waited for room in the queue of "
                    f"{self._name!r}"
                ) from None

    def _await_room(self) -> None:
        self._session.run_inline()
        room = self._session.wait_room()
        if room is not None:
            room.result()

    def _window(self) -> int:
        """Requests that map() keeps in flight: enough for every executor and one more batch."""
        policy = self._runtime.engine.policy
        batches = 2 * max(1, len(self._runtime.threads)) + 1
        return min(batches * policy.max_batch_size, policy.max_queue_size)

    # -- settings, all of which may change while running --

    @property
    def name(self) -> str:
        """For messages and metrics."""
        return self._name

    @property
    def inputs(self) -> Spec | None:
        """What one request looks like; None until it is known, and with ``collate="list"``."""
        schema = self._session.schema
        return None if schema is None else schema.spec

    @property
    def default_timeout(self) -> float | None:
        """Seconds that a request may wait in the queue where it does not say itself."""
        return self._default_timeout

    @property
    def collate(self) -> Collate:
        """How rows are made a batch."""
        return self._collation.collate

    @property
    def allowed_batch_sizes(self) -> tuple[int, ...] | None:
        """The batch sizes that the model is called with; None for any."""
        return self._collation.sizes

    @property
    def max_batch_size(self) -> int:
        """Rows in a batch at most; a change holds for batches that are opened from then on."""
        return self._runtime.engine.policy.max_batch_size

    @max_batch_size.setter
    def max_batch_size(self, value: int) -> None:
        self._change(max_batch_size=value)

    @property
    def max_queue_delay(self) -> float:
        """Seconds that an idle executor is held back at most."""
        return self._runtime.engine.policy.max_queue_delay

    @max_queue_delay.setter
    def max_queue_delay(self, value: float) -> None:
        self._change(max_queue_delay=value)

    @property
    def max_queue_size(self) -> int:
        """Rows that may wait."""
        return self._runtime.engine.policy.max_queue_size

    @max_queue_size.setter
    def max_queue_size(self, value: int | None) -> None:
        self._change(max_queue_size=value)

    @property
    def max_batch_cost(self) -> float | None:
        """What the requests of a batch may cost together; None for no limit."""
        return self._runtime.engine.policy.max_batch_cost

    @max_batch_cost.setter
    def max_batch_cost(self, value: float) -> None:
        if self._grouping is None or self.max_batch_cost is None:
            raise ConfigError("max_batch_cost can be changed only if the batcher was made with one")
        checked = _settings.cost(value)  # None would be a batcher without one
        self._change(max_batch_cost=checked)
        self._grouping.max_batch_cost = checked

    @property
    def caller_runs(self) -> bool:
        """Whether a waiting caller that is alone may run the model itself."""
        return self._runtime.engine.policy.caller_runs

    @caller_runs.setter
    def caller_runs(self, value: bool) -> None:
        self._change(caller_runs=bool(value))

    def _change(self, **changed: Any) -> None:
        policy = self._runtime.engine.policy
        current = {
            "max_batch_size": policy.max_batch_size,
            "max_queue_delay": policy.max_queue_delay,
            "max_queue_size": policy.max_queue_size,
            "caller_runs": policy.caller_runs,
            "max_batch_cost": policy.max_batch_cost,
        }
        policy = _settings.make_policy(**{**current, **changed})
        if self._runtime.inline and policy.max_queue_delay > 0:
            raise ConfigError(_NOTHING_TO_HOLD_BACK)
        self._collation.check_largest(policy.max_batch_size)
        self._runtime.engine.policy = policy

    # -- inspection and ends of life --

    def statistics(self) -> Statistics:
        """A snapshot of what the batcher has done so far."""
        return from_engine(self._runtime.engine.statistics())

    def recent_batches(self) -> list[BatchRecord]:
        """The last few thousand batches that have ended, oldest first."""
        return [BatchRecord(*fields) for fields in self._runtime.engine.recent_batches()]

    @property
    def closed(self) -> bool:
        """True once close() was called, or in the child of a fork."""
        return not self._runtime.engine.accepting

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Refuses new requests and ends the executors. Idempotent.

        Args:
            drain: Whether waiting requests are served; else they fail with ClosedError. The batch
                that the model has is always waited for.
            timeout: Seconds to wait; then everything that has not ended fails with ClosedError,
                also if a model never returns. None for as long as it takes. Called by the model
                itself, it does not wait at all.
        """
        if timeout is not None:
            timeout = _settings.time_left("timeout", timeout)
        self._finalizer.detach()
        self._runtime.close(drain, timeout, self._session)

    async def aclose(self, drain: bool = True, timeout: float | None = None) -> None:
        """close() for event loops: the loop goes on meanwhile."""
        if self._session.inline:
            self.close(drain, timeout)
            return
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.close, drain, timeout)

    def __enter__(self) -> Batcher:
        """The batcher itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the batcher, serving what waits."""
        self.close()

    async def __aenter__(self) -> Batcher:
        """The batcher itself."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Closes the batcher, serving what waits."""
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<tidegate.Batcher {self._name!r} {state}, {self._runtime.engine.policy!r}>"


async def _as_async(rows: Iterable[Any]) -> AsyncIterator[Any]:
    for row in rows:
        yield row


class HasBatcher(Protocol):
    """What stands for its batcher: a function or a bound method under ``@tidegate.batch``."""

    @property
    def batcher(self) -> Batcher:
        """The batcher."""


def batcher_of(target: object) -> Batcher | None:
    """The Batcher that is meant: itself or, of a function under ``@batch``, its ``batcher``.

    None for anything else.
    """
    found = target if isinstance(target, Batcher) else getattr(target, "batcher", None)
    return found if isinstance(found, Batcher) else None
