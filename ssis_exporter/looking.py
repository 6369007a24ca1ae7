"""Waits for a source's worker without blocking: for a look, or for one call that must not come late."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeVar

from ssis_exporter.errors import SourceBroken, SourceError, SourceTimeout, StopUnsupported
from ssis_exporter.model import Snapshot
from ssis_exporter.sources.interface import Source, StoppableSource
from ssis_exporter.sources.worker import SourceWorker

T = TypeVar("T")

Wait = Callable[[float], Awaitable[None]]


class TooLate(Exception):
    """The call was given up, or forbidden, before it began: it is certain that nothing was done."""


class Call:
    """One call to a source that either begins while it is wanted, or never."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._given_up = False

    def begin(self, forbidden: Callable[[], str | None]) -> None:
        """On the source's thread, right before acting. Raises `TooLate` with what `forbidden` says against it."""
        if (reason := forbidden()) is not None:
            raise TooLate(reason)
        with self._lock:
            if self._given_up:
                raise TooLate("the source was busy for too long")
            self._begun = True

    def give_up(self) -> bool:
        """Nobody waits any longer. Whether it is certain that it never began and never will."""
        with self._lock:
            self._given_up = True
            return not self._begun


async def look_afresh(worker: SourceWorker, limit: timedelta, wait: Wait) -> Snapshot | SourceError:
    """What the source sees from now on; a `SourceError` also when it does not answer in time."""
    look = worker.look_afresh()
    if not await _done_within(look, limit, wait):
        return SourceTimeout(f"{worker.name}: did not answer within {limit.total_seconds():g} s")
    return look.result().outcome


async def ask(worker: SourceWorker, what: Callable[[Source], T], limit: timedelta, wait: Wait) -> T | SourceError:
    """What `what`, which changes nothing, says on the source's thread; a `SourceError` also when the time is up."""
    answer = worker.call(what)
    if not await _done_within(answer, limit, wait):
        return SourceTimeout(f"{worker.name}: did not answer within {limit.total_seconds():g} s")
    try:
        return answer.result()
    except SourceError as exc:
        return exc
    except Exception as exc:  # noqa: BLE001 - whatever a driver raises, it did not say
        return SourceBroken(f"{worker.name}: {type(exc).__name__}: {exc}")


async def act(
    worker: SourceWorker,
    what: Callable[[StoppableSource], T],
    *,
    forbidden: Callable[[], str | None],
    limit: timedelta,
    wait: Wait,
) -> T:
    """
    Runs `what` on the source's thread, unless `forbidden` says something against it in the moment before.

    Raises `TooLate` when it is certain that it did not and will not begin, `SourceTimeout` when it began and has not
    come back in time, and whatever it raises itself.
    """
    call = Call()

    def run(source: Source) -> T:
        if not isinstance(source, StoppableSource):
            raise StopUnsupported(f"{source.name}: a source of kind {source.kind} cannot stop anything")
        call.begin(forbidden)
        source.objection = forbidden
        try:
            return what(source)
        finally:
            source.objection = None

    answer = worker.call(run)
    try:
        if await _done_within(answer, limit, wait):
            return answer.result()
    except SourceError as exc:
        if call.give_up():
            raise TooLate(str(exc)) from exc
        raise
    finally:
        # Also when whoever waits is cancelled: what has not begun by now never does.
        never_began = call.give_up()
    what_kept_it = f"{worker.name}: did not answer within {limit.total_seconds():g} s"
    raise TooLate(what_kept_it) if never_began else SourceTimeout(what_kept_it)


async def _done_within(answer: Future[Any], limit: timedelta, wait: Wait) -> bool:
    if answer.done():
        return True
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell(_: Future[Any]) -> None:
        # The loop is gone where a hanging call comes back after the end.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(answered.set)

    answer.add_done_callback(tell)
    with contextlib.suppress(TimeoutError):
        await in_time(answered.wait(), limit, wait)
    return answer.done()


async def in_time(what: Awaitable[T], limit: timedelta, wait: Wait) -> T:
    """Waits for `what`, which is cancelled when it takes longer. Raises `TimeoutError`, and what it raises itself."""
    working = asyncio.ensure_future(what)
    timer = asyncio.ensure_future(wait(limit.total_seconds()))
    try:
        await asyncio.wait([working, timer], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise TimeoutError
    finally:
        working.cancel()
        timer.cancel()
