"""One scrape: asks every source's worker at the same time and waits until the scrape's own deadline."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from datetime import timedelta

from ssis_exporter.errors import SourceTimeout
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
    """Asks the workers of one configuration; lives on one event loop."""

    def __init__(self, workers: Sequence[SourceWorker]) -> None:
        self.workers = tuple(workers)
        self._watched: dict[str, tuple[Future[Look], asyncio.Future[Look]]] = {}

    async def read(self, budget: timedelta, names: Collection[str] | None = None) -> list[Reading]:
        """
        One reading per worker (of those named, where names are given), in their order, after at most `budget`.

        A look that is still running then is reported as timed out and goes on; the next scrape joins it instead of
        starting a second one.
        """
        began = time.monotonic()
        asked = [worker for worker in self.workers if names is None or worker.name in names]
        looks = [self._watch(worker) for worker in asked]
        if looks:
            await asyncio.wait(looks, timeout=budget.total_seconds())
        return [_reading(worker, look, began, budget) for worker, look in zip(asked, looks, strict=True)]

    def _watch(self, worker: SourceWorker) -> asyncio.Future[Look]:
        look = worker.look()
        watched = self._watched.get(worker.name)
        # One watcher a call: a source that hangs for days is asked at every scrape, and must not collect callbacks.
        if watched is None or watched[0] is not look:
            watched = self._watched[worker.name] = (look, asyncio.wrap_future(look))
        return watched[1]


def _reading(worker: SourceWorker, look: asyncio.Future[Look], began: float, budget: timedelta) -> Reading:
    if look.done():
        seen = look.result()
        return Reading(source=worker.name, info=worker.info, outcome=seen.outcome, took=seen.took)
    late = SourceTimeout(f"{worker.name}: no answer within {budget.total_seconds():.3g} s; the call is still running")
    waited = timedelta(seconds=time.monotonic() - began)
    return Reading(source=worker.name, info=worker.info, outcome=late, took=waited, timed_out=True)
