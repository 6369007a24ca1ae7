"""What ended, how long it took, what is usual: counted once each, kept across restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from ssis_exporter.baseline import Baseline
from ssis_exporter.errors import StorageDamaged, StorageError, StorageInUse, StorageSlow
from ssis_exporter.historyfile import (
    KEPT_FAILURES,
    NAME,
    SCHEMA,
    Change,
    Failure,
    Fill,
    Loaded,
    PackageKey,
    PackageRecord,
    Statement,
    load,
    rewrite,
    statements,
    write,
)
from ssis_exporter.historymemory import HistoryMemory
from ssis_exporter.model import EndedExecution, ExecutionFacts, ExecutionKey, Snapshot
from ssis_exporter.reconcile import Links
from ssis_exporter.storage import SLOW_SECONDS, Database, StorageMetrics, open_read_only
from ssis_exporter.storagefolder import Storage

log = logging.getLogger(__name__)

CLOSE_WAITS = timedelta(seconds=5)
"""How long closing waits for what was observed last to be written."""

RETRY_SECONDS = 10.0
"""How long after a write that failed the next one is tried."""

WRITE_WAITS = SLOW_SECONDS
"""How long a write may hold up what is counted next."""

TIDY_SECONDS = 3600.0

Work = Callable[[Change], None]


class History:
    """
    Takes every snapshot in, from any thread; keeps its counts in memory and in `history.sqlite`.

    Counts, open runs and bookmarks of one snapshot are written in one transaction: after a crash the runs of an
    unwritten snapshot are found to have ended again, and are counted then. While the file cannot be written, also where
    the disk hangs, the counts go on in memory, and all of them are written once it can.

    What changes anything runs in turn: on a thread it changes the memory, then the file's thread writes what changed.
    What only reads takes no lock, from whichever thread: it never waits for a disk.
    """

    def __init__(
        self,
        database: Database,
        *,
        stopped_by_us: Callable[[ExecutionKey], bool] = lambda _: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """For `stopped_by_us` see the property."""
        self._database = database
        self._memory = HistoryMemory(stopped_by_us=stopped_by_us, now=now)
        self._monotonic = monotonic
        self._last_links: Links | None = None
        self._tidy_at = 0.0
        self._is_loaded = False
        """Whether the memory holds what the file does; while not, the file is not replaced."""

        self._unwritten = False
        self._retry_at = 0.0
        self._writing: asyncio.Task[None] | None = None
        self._waiting: list[Work] = []
        self._working: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of(cls, storage: Storage, metrics: StorageMetrics | None = None) -> History:
        """The history of a storage folder."""
        return cls(Database(storage, NAME, SCHEMA, metrics=metrics))

    async def open(self) -> None:
        """
        Reads what was kept. A damaged file is set aside and said so; one that cannot be used is tried again later.

        Raises `StorageInUse`, and nothing else for the file's sake: the exporter serves without its history.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._load()
        except StorageInUse:
            raise
        except StorageError as exc:
            self._unwritten = True
            self._retry_at = self._monotonic() + RETRY_SECONDS
            if isinstance(exc, StorageSlow):
                log.error("what ended before is not known yet, and what ends is not kept: %s", exc)  # noqa: TRY400
                return
            try:
                # One that can be read and not written is not lost.
                self._memory.merge(await asyncio.to_thread(read_history, self._database.path.parent))
                self._is_loaded = True
                log.error("what ends is counted, and not kept: %s", exc)  # noqa: TRY400 - ordinary
            except StorageError:
                log.error("what ended before is not known, and what ends is not kept: %s", exc)  # noqa: TRY400

    @property
    def stopped_by_us(self) -> Callable[[ExecutionKey], bool]:
        """Tells whether we asked a run to stop, before it ended; asked on another thread."""
        return self._memory.stopped_by_us

    @stopped_by_us.setter
    def stopped_by_us(self, tell: Callable[[ExecutionKey], bool]) -> None:
        self._memory.stopped_by_us = tell

    @property
    def most_packages(self) -> int:
        """How many packages are remembered of each source."""
        return self._memory.most_packages

    @most_packages.setter
    def most_packages(self, most: int) -> None:
        self._memory.most_packages = most

    def observe(self, seen: Snapshot) -> None:
        """Takes a snapshot in, soon; from any thread. Each must be given, in the order in which they were taken."""
        loop = self._loop
        if loop is not None:
            # A source that hung until after the end has nobody to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._soon, partial(self._memory.digest, seen))

    def link(self, links: Links) -> None:
        """What the sources of this machine say of each other's runs, after each scrape."""
        if links != self._last_links:
            self._last_links = links
            self._soon(partial(self._memory.link, links))

    async def settle(self, at_most: timedelta) -> None:
        """Waits until what was observed is counted and written, but no longer than `at_most`."""
        # What another thread observed before this call stands in the loop's queue already: let it through.
        await asyncio.sleep(0)
        if self._working is not None:
            await asyncio.wait([self._working], timeout=at_most.total_seconds())

    def resume_point(self, source: str) -> tuple[str, Sequence[str]]:
        """Where an earlier life left off: the source's bookmark, and the ids that were open."""
        ends = self._memory.sources.get(source)
        return ("", ()) if ends is None else (ends.bookmark, tuple(ends.open))

    def knows(self, key: ExecutionKey) -> bool:
        """Whether a run of this name is open or was seen to end; no, where that is too long ago."""
        ends = self._memory.sources.get(key.source)
        return ends is not None and ends.knows(key.instance_id)

    def baseline(self, facts: ExecutionFacts) -> Baseline | None:
        """What is usual for a run's package; None where nothing is known."""
        record = self._memory.packages.get(PackageKey.of(facts))
        return None if record is None else record.samples.baseline()

    def typical(self, facts: ExecutionFacts) -> timedelta | None:
        """How long a run's package usually takes; None where nothing is known."""
        baseline = self.baseline(facts)
        return None if baseline is None else baseline.typical

    def records(self, sources: Iterable[str] | None = None) -> list[PackageRecord]:
        """All packages (of these sources), as they stand; not to be changed, and changing while they are read."""
        if sources is None:
            return list(self._memory.packages.values())
        return [record for name in sources for record in list(self._memory.packages_of.get(name, {}).values())]

    def failures(self, most: int = KEPT_FAILURES) -> list[Failure]:
        """The newest failures, newest first."""
        return self._memory.failures[: -most - 1 : -1]

    def tell_message(self, source: str, instance_id: str, message: str) -> None:
        """The first error message of a failure, found later; on the event loop, as `link`."""
        self._soon(partial(self._memory.tell_message, source, instance_id, message))

    # The past, read in piece by piece.

    def fill_point(self, source: str) -> Fill:
        """How far the source's own record was read in."""
        return self._memory.fill_point(source)

    async def add_past(self, source: str, ended: Iterable[EndedExecution], next_cursor: str | None) -> None:
        """
        A piece of a source's record of the past: it teaches what is usual and raises no counter.

        It and its cursor (None: that was all) are written together, so after a crash it is read again, or not needed.
        """
        fill = Fill(next_cursor or "", done=next_cursor is None)
        self._soon(partial(self._memory.add_past, source, ended, fill))
        if self._working is not None:
            await asyncio.wait([self._working])

    @property
    def is_left_behind(self) -> bool:
        """Whether the file's thread still waited for the disk when this was closed."""
        return self._database.is_left_behind

    async def close(self) -> None:
        """Writes what waits, closes the file; what is observed from then on is lost. May be called twice."""
        await self.settle(CLOSE_WAITS)
        self._loop = None
        if self._working is not None:
            self._working.cancel()
            if self._writing is not None:
                self._writing.cancel()
        elif self._unwritten and not self._database.is_damaged:
            self._retry_at = 0.0
            await self._write([])
        await self._database.close()

    # On the event loop.

    def _soon(self, work: Work) -> None:
        if self._loop is None:
            return
        self._waiting.append(work)
        if self._working is None:
            self._working = self._loop.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    changed = await asyncio.to_thread(self._apply, batch)
                except Exception:
                    log.exception("history could not take in what was seen")
                    self._unwritten, changed = True, []
                await self._write(changed)
        finally:
            self._working = None

    async def _write(self, changed: Sequence[Statement]) -> None:
        """Never raises: what could not be written is in memory, and is written with everything else later."""
        if self._writing is not None and not self._writing.done():
            return
        if self._unwritten and self._monotonic() < self._retry_at:
            return
        try:
            if self._unwritten:
                await self._write_everything()
            elif changed:
                await self._put(partial(write, work=changed))
        except StorageDamaged as exc:
            await self._begin_anew(exc)
        except StorageError as exc:
            log.debug("history: not written: %s", exc)
            self._unwritten = True
            self._retry_at = self._monotonic() + RETRY_SECONDS
        except Exception:
            log.exception("history could not be written")
            self._unwritten = True
            self._retry_at = self._monotonic() + RETRY_SECONDS

    async def _write_everything(self) -> None:
        if not self._is_loaded:
            # What the file holds and nobody could read until now must not be lost.
            await self._load()
        everything = await asyncio.to_thread(lambda: statements(self._memory.everything()))
        await self._put(partial(rewrite, work=everything))
        self._unwritten = False

    async def _put(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """One transaction. Raises `StorageSlow` when it takes long; it then goes on, and nobody knows how it ends."""
        self._writing = asyncio.get_running_loop().create_task(self._database.write(work))
        done, _ = await asyncio.wait([self._writing], timeout=WRITE_WAITS)
        if not done:
            self._writing.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise StorageSlow(f"{self._database.path} takes long to write")
        self._writing.result()

    async def _begin_anew(self, why: StorageDamaged) -> None:
        """A damaged file is kept under another name; what is known in memory is written to a new one."""
        self._unwritten = True
        try:
            kept = await self._database.set_aside()
            log.error("history begins anew: %s; it is kept as %s", why, kept)
            self._is_loaded = True
            await self._write_everything()
        except StorageError as exc:
            log.error("history is not kept: %s", exc)  # noqa: TRY400 - ordinary
            self._retry_at = self._monotonic() + RETRY_SECONDS

    async def _load(self) -> None:
        """Raises `StorageError`; a damaged file is set aside, and then nothing is known."""
        try:
            # Opened first: what then cannot be found in an intact file is not ours.
            await self._database.open()
            found = await self._database.read(lambda connection: _load_ours(connection, self._database.path))
        except StorageDamaged as exc:
            await self._begin_anew(exc)
        else:
            self._memory.merge(found)
            self._is_loaded = True

    # On other threads, in turn.

    def _apply(self, batch: Sequence[Work]) -> list[Statement]:
        change = Change()
        for work in batch:
            try:
                work(change)
            except Exception:
                # The memory may hold a half of it, the file must not hold less than the memory.
                log.exception("history: a look could not be taken in")
                self._unwritten = True
        if self._monotonic() >= self._tidy_at or self._memory.is_crowded:
            self._tidy_at = self._monotonic() + TIDY_SECONDS
            self._memory.tidy(change)
        return statements(change)


def read_history(folder: Path) -> Loaded:
    """
    The history of a folder, for who only reads it; also while a `serve` works with it. Blocks.

    Raises `StorageError` when there is none, or it cannot be read.
    """
    connection = open_read_only(folder / NAME, SCHEMA)
    try:
        return _load_ours(connection, folder / NAME)
    finally:
        connection.close()


def _load_ours(connection: sqlite3.Connection, path: Path) -> Loaded:
    try:
        return load(connection)
    except ValueError as exc:
        raise StorageDamaged(f"{path} is damaged: {exc}") from exc
