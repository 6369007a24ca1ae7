"""Reads what ended before the first start, in the background: small pieces, long pauses, so that nobody notices."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ssis_exporter.baseline import OLDEST_SAMPLE
from ssis_exporter.errors import SourceError
from ssis_exporter.history import History
from ssis_exporter.model import EndedExecution
from ssis_exporter.sources.interface import RecordingSource, Source
from ssis_exporter.sources.worker import SourceWorker

log = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.1
FIRST_REST, LONGEST_REST = 10.0, 600.0
"""Seconds after a piece that could not be read; doubled from the first to the longest."""

OFF_PAUSE = 60.0
"""How often it is asked whether the share is still 0."""

READ_AT_ONCE = 4
"""How many pieces may be in memory: an exporter that begins with two hundred servers is not to need room for each."""

LONGEST_TURN = 10.0
"""Seconds until a source that does not answer lets the next one read."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one reading of a record gave."""

    ended: Sequence[EndedExecution]
    following: str | None
    """The cursor of the next one; None: that was all."""

    took: float
    """Seconds."""


class Backfill:
    """
    Reads the record of each source that keeps one, newest first, until it was read or is too old to teach anything.

    A piece waits in line like any other call, so a look waits for one piece at most. Few sources read at a time, and
    none longer than its turn, so that many need no more memory than few and one that hangs stops nobody.

    `worker` gives a source's worker as configured now; `share` is the part of a worker's time that reading may take, 0
    for none.
    """

    def __init__(
        self,
        history: History,
        *,
        worker: Callable[[str], SourceWorker | None],
        share: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._history = history
        self._worker = worker
        self._share = share
        self._now = now
        self._monotonic = monotonic
        self._wait = wait
        self._turns = asyncio.Semaphore(READ_AT_ONCE)
        self._tasks: dict[SourceWorker, asyncio.Task[None]] = {}

    def begin(self, names: Iterable[str]) -> None:
        """Goes on with every source of these that was not read to its end; after each reload again."""
        for name in names:
            worker = self._worker(name)
            if worker is not None and worker not in self._tasks and isinstance(worker.source, RecordingSource):
                self._tasks[worker] = asyncio.get_running_loop().create_task(self._fill(worker))

    async def close(self) -> None:
        """Leaves the rest to the next start."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _fill(self, worker: SourceWorker) -> None:
        has_looked = False
        rest = FIRST_REST
        while self._worker(worker.name) is worker and not self._history.fill_point(worker.name).done:
            share = self._share()
            if share <= 0:
                await self._wait(OFF_PAUSE)
                continue
            try:
                if has_looked:
                    took = await self._read_a_piece(worker)
                else:
                    has_looked, took = await self._look(worker)
            except SourceError as exc:
                log.debug("the past of %s: %s", worker.name, exc)
                await self._wait(rest)
                rest = min(2 * rest, LONGEST_REST)
                continue
            except Exception:
                log.exception("the past of %s could not be read; it is tried again with the next start", worker.name)
                return
            rest = FIRST_REST
            await self._wait(max(took / share - took, SHORTEST_PAUSE))

    async def _look(self, worker: SourceWorker) -> tuple[bool, float]:
        """The first look parts what is counted from the past; and what runs now comes before what is long over."""
        look = await asyncio.wrap_future(worker.look())
        if isinstance(look.outcome, SourceError):
            raise look.outcome
        return not look.outcome.incomplete, look.took.total_seconds()

    async def _read_a_piece(self, worker: SourceWorker) -> float:
        cursor = self._history.fill_point(worker.name).cursor

        def read(source: Source) -> Piece:
            assert isinstance(source, RecordingSource)
            began = self._monotonic()
            ended, following = source.past(cursor)
            return Piece(ended, following, self._monotonic() - began)

        async with self._turns:
            reading = asyncio.wrap_future(worker.call(read))
            try:
                await asyncio.wait([reading], timeout=LONGEST_TURN)
                if reading.done():
                    return await self._take_in(worker, reading.result())
            except asyncio.CancelledError:
                reading.cancel()
                raise
        return await self._take_in(worker, await reading)

    async def _take_in(self, worker: SourceWorker, piece: Piece) -> float:
        following = piece.following
        oldest = self._now() - OLDEST_SAMPLE
        if piece.ended and all(end.ended_at < oldest for end in piece.ended):
            following = None
        await self._history.add_past(worker.name, piece.ended, following)
        if following is None:
            log.info("the past of %s was read: what is usual for its packages is known", worker.name)
        return piece.took


ASK_SECONDS = 10.0
"""Between two questions for a first error."""

REST_SECONDS = 300.0
"""How long a source that could not be asked is left alone."""

LONGEST_MESSAGE = 2000


class FirstErrors:
    """Asks for the first error message of each failure, one at a time: people read it, nothing waits for it."""

    def __init__(
        self,
        history: History,
        *,
        worker: Callable[[str], SourceWorker | None],
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._history = history
        self._worker = worker
        self._monotonic = monotonic
        self._wait = wait
        self._rests: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Asks from now on."""
        self._task = asyncio.get_running_loop().create_task(self._ask())

    async def close(self) -> None:
        """Asks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            await self._wait(ASK_SECONDS)
            await self.ask_one()

    async def ask_one(self) -> None:
        """Asks for the newest failure of which nobody knows why."""
        now = self._monotonic()
        for failure in self._history.failures():
            worker = self._worker(failure.source)
            if failure.message is not None or worker is None or now < self._rests.get(failure.source, now):
                continue
            if not isinstance(worker.source, RecordingSource):
                continue
            instance_id = failure.instance_id

            def ask(source: Source, instance_id: str = instance_id) -> str:
                assert isinstance(source, RecordingSource)
                return source.first_error(instance_id)

            try:
                message = await asyncio.wrap_future(worker.call(ask))
            except SourceError as exc:
                log.debug("the first error of %s of %s: %s", instance_id, failure.source, exc)
                self._rests[failure.source] = now + REST_SECONDS
                continue
            except Exception:
                log.exception("the first error of %s of %s could not be read", instance_id, failure.source)
                message = ""
            self._history.tell_message(failure.source, instance_id, message[:LONGEST_MESSAGE])
            return
