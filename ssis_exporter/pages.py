"""Reads the sources for one answer and makes its bytes; what overlaps is done once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Protocol

from ssis_exporter.model import Reading


class Readable(Protocol):
    """What reads the sources."""

    async def read(self, budget: timedelta, names: Collection[str] | None = None) -> list[Reading]:
        """One reading per source, after at most `budget`."""


class TooManyRequests(Exception):
    """So many collections are in flight already."""


class _Shared:
    """One body that is being made or sent."""

    def __init__(self, readings: Sequence[Reading], body: asyncio.Future[bytes]) -> None:
        # Kept, because the key names them by identity.
        self.readings = readings
        self.body = body
        self.users = 0


class Pages:
    """
    Bodies for those who ask; lives on one event loop.

    A collection is in flight from its first look until its answer is sent: that is what takes memory. One that waits
    for the same sources as another, and one whose readings are those of another, share it and count once.
    """

    def __init__(self, source: Readable, *, max_requests: int) -> None:
        self._source = source
        self._max = max_requests
        self._reading: Counter[frozenset[str] | None] = Counter()
        self._shared: dict[Hashable, _Shared] = {}
        self._bodies = 0
        # One thread: two would only take turns, and what makes a page need not be written for two at once.
        self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pages")

    @property
    def in_flight(self) -> int:
        """How many collections are."""
        return len(self._reading) + self._bodies

    @asynccontextmanager
    async def page(
        self,
        kind: Hashable,
        budget: timedelta,
        names: Collection[str] | None,
        make: Callable[[Sequence[Reading]], bytes],
    ) -> AsyncIterator[bytes]:
        """
        The body that `make` makes of one reading per source (of those named), for as long as it is being sent.

        `make` runs on a thread. Bodies of one `kind` made from the same readings are the same. Raises
        `TooManyRequests`.
        """
        readings = await self._read(budget, names)
        shared = self._share(kind, readings, make)
        shared.users += 1
        try:
            # Shielded: one who leaves must not take the body from the others.
            yield await asyncio.shield(shared.body)
        finally:
            shared.users -= 1
            if not shared.users:
                self._forget(shared)

    def close(self) -> None:
        """Ends the thread."""
        self._maker.shutdown(wait=False, cancel_futures=True)

    async def _read(self, budget: timedelta, names: Collection[str] | None) -> list[Reading]:
        asked = frozenset(names) if names is not None else None
        if asked not in self._reading and self._is_full(self.in_flight):
            raise TooManyRequests
        self._reading[asked] += 1
        try:
            return await self._source.read(budget, names)
        finally:
            self._reading[asked] -= 1
            if not self._reading[asked]:
                del self._reading[asked]

    def _share(
        self, kind: Hashable, readings: Sequence[Reading], make: Callable[[Sequence[Reading]], bytes]
    ) -> _Shared:
        key = (kind, tuple(_sameness(reading) for reading in readings))
        shared = self._shared.get(key)
        if shared is not None and not (shared.body.done() and _is_hollow(readings)):
            return shared
        if self._is_full(self._bodies):
            raise TooManyRequests
        body = asyncio.get_running_loop().run_in_executor(self._maker, make, readings)
        self._bodies += 1
        shared = self._shared[key] = _Shared(readings, body)
        return shared

    def _forget(self, shared: _Shared) -> None:
        self._bodies -= 1
        for key, other in self._shared.items():
            if other is shared:
                del self._shared[key]
                return

    def _is_full(self, count: int) -> bool:
        return bool(self._max) and count >= self._max


def _sameness(reading: Reading) -> Hashable:
    """Equal for readings that make equal pages; those that timed out within the same tenth of a second do."""
    if reading.timed_out:
        return (reading.source, "timed out", round(reading.took.total_seconds(), 1))
    return (reading.source, id(reading.outcome), reading.took)


def _is_hollow(readings: Sequence[Reading]) -> bool:
    """Whether no reading is of this very moment, so that a later scrape's may look the same."""
    return all(reading.timed_out for reading in readings)
