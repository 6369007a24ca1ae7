"""One scrape: asks every source's worker at the same time and waits until the scrape's own deadline."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from datetime import timedelta

from ssis_exporter.errors import SourceError, SourceTimeout
from ssis_exporter.model import Reading
from ssis_exporter.sources.worker import Look, SourceWorker

DEFAULT_TIMEOUT = timedelta(seconds=10)
"""Prometheus's default `scrape_timeout`, used where the request names none."""

LONGEST_TIMEOUT_SECONDS = 3600.0


def scrape_budget(header: str | None, margin: timedelta) -> timedelta:
    """
    How long a scrape may wait, from the header `X-Prometheus-Scrape-Timeout-Seconds`.

    The margin leaves time to render and send; for very short timeouts half of the timeout is used. What is no
    sensible number (absent, NaN, infinite, not positive, over an hour) counts as Prometheus's default.
    """
    try:
        seconds = float(header) if header is not None else DEFAULT_TIMEOUT.total_seconds()
    except ValueError:
        seconds = DEFAULT_TIMEOUT.total_seconds()
    if not math.isfinite(seconds) or not 0 < seconds <= LONGEST_TIMEOUT_SECONDS:
        seconds = DEFAULT_TIMEOUT.total_seconds()
    return timedelta(seconds=max(seconds - margin.total_seconds(), seconds / 2))


class Scraper:
    """Asks the workers of the configuration in force; lives on one event loop."""

    def __init__(self, workers: Sequence[SourceWorker]) -> None:
        self.workers = tuple(workers)
        self._watched: dict[str, tuple[Future[Look], asyncio.Future[Look]]] = {}
        self._waiting: set[asyncio.Timeout] = set()
        self._latest = math.inf

    def use(self, workers: Sequence[SourceWorker]) -> None:
        """From now on these are asked; scrapes that wait go on waiting for those they asked."""
        self.workers = tuple(workers)
        self._watched.clear()

    def hurry(self, within: timedelta) -> None:
        """The exporter is ending: whoever waits, or comes yet, is answered within this time, with what is there."""
        self._latest = asyncio.get_running_loop().time() + within.total_seconds()
        for waiting in self._waiting:
            waiting.reschedule(min(waiting.when() or math.inf, self._latest))

    async def read(self, budget: timedelta, names: Collection[str] | None = None) -> list[Reading]:
        """
        One reading per worker (of those named, where names are given), in their order, after at most `budget`.

        A look that is still running then is reported as timed out and goes on; the next scrape joins it instead of
        starting a second one. Where a look that began before this scrape fails, the source is asked once more: its
        trouble may be over.
        """
        began = time.monotonic()
        asked = [worker for worker in self.workers if names is None or worker.name in names]
        busy = {worker.name for worker in asked if worker.busy_for()}
        looks = [self._watch(worker, budget) for worker in asked]
        again = {
            at: asyncio.ensure_future(self._once_more(worker, looks[at], began, budget))
            for at, worker in enumerate(asked)
            if worker.name in busy
        }
        if looks:
            waits = [again.get(at, look) for at, look in enumerate(looks)]
            await self._wait(waits, asyncio.get_running_loop().time() + budget.total_seconds())
        for at, look in again.items():
            if look.done():
                looks[at] = look
            look.cancel()
        waited = timedelta(seconds=time.monotonic() - began)
        return [_reading(worker, look, waited, budget) for worker, look in zip(asked, looks, strict=True)]

    async def _once_more(
        self, worker: SourceWorker, look: asyncio.Future[Look], began: float, budget: timedelta
    ) -> Look:
        """The answer of a look that may have begun before this scrape, or of another where that one failed."""
        seen = await asyncio.shield(look)
        is_older = seen.took.total_seconds() > time.monotonic() - began
        if is_older and isinstance(seen.outcome, SourceError):
            return await asyncio.shield(self._watch(worker, budget))
        return seen

    async def _wait(self, looks: Collection[asyncio.Future[Look]], until: float) -> None:
        try:
            async with asyncio.timeout_at(min(until, self._latest)) as waiting:
                self._waiting.add(waiting)
                try:
                    await asyncio.wait(looks)
                finally:
                    self._waiting.discard(waiting)
        except TimeoutError:
            # What is not there by now is reported as late.
            pass

    def _watch(self, worker: SourceWorker, budget: timedelta) -> asyncio.Future[Look]:
        look = worker.look(budget)
        watched = self._watched.get(worker.name)
        # One watcher a call: a source that hangs for days is asked at every scrape, and must not collect callbacks.
        if watched is None or watched[0] is not look:
            watched = self._watched[worker.name] = (look, asyncio.wrap_future(look))
        return watched[1]


def _reading(worker: SourceWorker, look: asyncio.Future[Look], waited: timedelta, budget: timedelta) -> Reading:
    if look.done():
        seen = look.result()
        return Reading(source=worker.name, info=worker.info, outcome=seen.outcome, took=seen.took)
    within = min(waited, budget).total_seconds()
    late = SourceTimeout(f"{worker.name}: no answer within {within:.3g} s; the call is still running")
    return Reading(source=worker.name, info=worker.info, outcome=late, took=waited, timed_out=True)
