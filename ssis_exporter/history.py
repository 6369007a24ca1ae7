"""What ended, how long it took, what is usual: counted once each, kept across restarts."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec

from ssis_exporter.baseline import OLDEST_SAMPLE, Baseline
from ssis_exporter.ends import End, OpenRun, SourceEnds
from ssis_exporter.errors import StorageDamaged, StorageError
from ssis_exporter.historyfile import (
    KEPT_FAILURES,
    Change,
    Failure,
    Fill,
    Loaded,
    PackageKey,
    PackageRecord,
    forget_packages,
    load,
    rewrite,
    write,
)
from ssis_exporter.model import EndedExecution, ExecutionFacts, ExecutionKey, Result, Snapshot
from ssis_exporter.reconcile import Links
from ssis_exporter.storage import Database

log = logging.getLogger(__name__)

LEARNED_FROM = (Result.SUCCEEDED, Result.UNKNOWN)
"""Results whose durations tell what is usual. `unknown` is all that a source without a record ever says."""

CLOSE_WAITS = timedelta(seconds=5)
"""How long closing waits for what was observed last to be written."""

FAILED = (Result.FAILED, Result.ENDED_UNEXPECTEDLY)


class History:
    """
    Takes every snapshot in, from any thread; keeps its counts in memory and in `history.sqlite`.

    Counts, open ids and bookmarks of one snapshot are written in one transaction: after a crash the runs of an
    unwritten snapshot are found to have ended again, and are counted then. While the file cannot be written the counts
    go on in memory, and all of them are written once it can.
    """

    def __init__(
        self,
        database: Database,
        *,
        stopped_by_us: Callable[[ExecutionKey], bool] = lambda _: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stopped_by_us = stopped_by_us
        self._database = database
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._packages: dict[PackageKey, PackageRecord] = {}
        self._sources: dict[str, SourceEnds] = {}
        self._fills: dict[str, Fill] = {}
        self._failures: list[Failure] = []
        self._unwritten = False
        self._waiting: list[Snapshot] = []
        self._working: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """
        Reads what was kept. A damaged file is set aside and said so; one that cannot be used is tried again later.

        Raises nothing for the file's sake: the exporter serves without its history.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._take(await self._load())
        except StorageDamaged as exc:
            try:
                kept = await self._database.set_aside()
                log.error("history begins anew: %s; it is kept as %s", exc, kept)  # noqa: TRY400 - ordinary
            except StorageError as again:
                log.error("history is not kept: %s", again)  # noqa: TRY400 - ordinary
                self._unwritten = True
        except StorageError as exc:
            log.error("history is not kept: %s", exc)  # noqa: TRY400 - ordinary
            self._unwritten = True

    def observe(self, seen: Snapshot) -> None:
        """Takes a snapshot in, soon; from any thread. Each must be given, in the order in which they were taken."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._enqueue, seen)

    async def settle(self, at_most: timedelta) -> None:
        """Waits until what was observed is counted and written, but no longer than `at_most`."""
        # What another thread observed before this call stands in the loop's queue already: let it through.
        await asyncio.sleep(0)
        if self._working is not None:
            await asyncio.wait([self._working], timeout=at_most.total_seconds())

    def resume_point(self, source: str) -> tuple[str, Sequence[str]]:
        """Where an earlier life left off: the source's bookmark, and the ids that were open."""
        with self._lock:
            ends = self._sources.get(source)
            return ("", ()) if ends is None else (ends.bookmark, tuple(ends.open))

    def baseline(self, facts: ExecutionFacts) -> Baseline | None:
        """What is usual for a run's package; None where nothing is known."""
        with self._lock:
            record = self._packages.get(PackageKey.of(facts))
            return None if record is None else record.samples.baseline()

    def records(self) -> list[PackageRecord]:
        """All packages, as they stand; not to be changed, and changing while they are read."""
        with self._lock:
            return list(self._packages.values())

    def failures(self, most: int) -> list[Failure]:
        """The newest failures, newest first."""
        with self._lock:
            return self._failures[: -most - 1 : -1]

    def tell_message(self, source: str, instance_id: str, message: str) -> None:
        """The first error message of a failure, found later."""
        with self._lock:
            for at, failure in enumerate(self._failures):
                if failure.source == source and failure.instance_id == instance_id:
                    self._failures[at] = replace(failure, message=message)
                    told = Change(failures=[self._failures[at]])
                    break
            else:
                return
        self._write_soon(told)

    def link(self, links: Links) -> None:
        """What the sources of this machine say of each other's runs, after each scrape."""
        gone: list[tuple[str, str]] = []
        with self._lock:
            for source, ends in self._sources.items():
                elsewhere, returned, kept_alive, abandoned = (
                    [key.instance_id for key in keys if key.source == source]
                    for keys in (links.elsewhere, links.returned, links.kept_alive, links.abandoned)
                )
                forgotten = ends.link(
                    elsewhere=elsewhere, returned=returned, kept_alive=kept_alive, abandoned=abandoned
                )
                gone += [(source, instance) for instance in forgotten]
        if gone:
            self._write_soon(Change(closed=gone, counted=gone))

    # The past, read in piece by piece.

    def fill_point(self, source: str) -> Fill:
        """How far the source's own record was read in."""
        with self._lock:
            return self._fills.get(source, Fill("", done=False))

    async def add_past(self, source: str, ended: Iterable[EndedExecution], next_cursor: str | None) -> None:
        """
        A piece of a source's record of the past: it teaches what is usual and raises no counter.

        Raises `StorageError` when it could not be written; the piece is then to be given again.
        """
        change = Change()
        now = self._now()
        with self._lock:
            ends = self._of(source)
            for end in ended:
                if end.facts.key.instance_id in ends.counted or (ends.first_look and end.ended_at >= ends.first_look):
                    continue
                record = self._record(end.facts, end.ended_at)
                if end.result in LEARNED_FROM:
                    record.samples.add(end.ended_at, end.duration, now=now)
                _remember_last(record, end.result, end.ended_at, end.duration)
                change.packages[record.key] = record
            fill = Fill(next_cursor or "", done=next_cursor is None)
            self._fills[source] = change.fills[source] = fill
        await self._write(change)

    async def close(self) -> None:
        """Writes what waits, closes the file; what is observed from then on is lost. May be called twice."""
        await self.settle(CLOSE_WAITS)
        self._loop = None
        if self._working is not None:
            self._working.cancel()
        await self._database.close()

    # On the event loop.

    def _enqueue(self, seen: Snapshot) -> None:
        if self._loop is None:
            return
        self._waiting.append(seen)
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await self._write(await asyncio.to_thread(self._digest, batch))
                except StorageError as exc:
                    log.debug("history: not written: %s", exc)
        finally:
            self._working = None

    def _write_soon(self, change: Change) -> None:
        async def work() -> None:
            try:
                await self._write(change)
            except StorageError as exc:
                log.debug("history: not written: %s", exc)

        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(work(), self._loop)

    async def _write(self, change: Change) -> None:
        if not change and not self._unwritten:
            return
        try:
            if self._unwritten:
                await self._database.write(self._rewrite)
            else:
                await self._database.write(lambda connection: self._write_locked(connection, change))
        except StorageError:
            self._unwritten = True
            raise
        self._unwritten = False

    async def _load(self) -> Loaded:
        oldest = self._now() - OLDEST_SAMPLE
        try:
            # Opened first: what then cannot be found in an intact file is not ours.
            await self._database.open()
            found = await self._database.read(_load_ours)
        except (ValueError, KeyError, msgspec.MsgspecError) as exc:
            raise StorageDamaged(f"{self._database.path} is damaged: {exc}") from exc
        stale = [key for key, record in found.packages.items() if record.seen_at < oldest]
        if stale:
            for key in stale:
                del found.packages[key]
            await self._database.write(lambda connection: forget_packages(connection, stale))
        return found

    def _take(self, found: Loaded) -> None:
        with self._lock:
            self._packages, self._sources = found.packages, found.sources
            self._fills, self._failures = found.fills, found.failures

    # On other threads, under the lock.

    def _write_locked(self, connection: sqlite3.Connection, change: Change) -> None:
        # A record that changes while it is written would be neither the old one nor the new.
        with self._lock:
            write(connection, change)

    def _rewrite(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            everything = Change(
                packages=dict(self._packages),
                began=[run for ends in self._sources.values() for run in ends.open.values()],
                counted=[(ends.source, instance) for ends in self._sources.values() for instance in ends.counted],
                sources=dict(self._sources),
                fills=dict(self._fills),
                failures=list(self._failures),
            )
            rewrite(connection, everything)

    def _digest(self, batch: Sequence[Snapshot]) -> Change:
        change = Change()
        with self._lock:
            for seen in batch:
                self._digest_one(seen, change)
        return change

    def _digest_one(self, seen: Snapshot, change: Change) -> None:
        ends = self._of(seen.source)
        before = (ends.bookmark, ends.first_look)
        result = ends.digest(seen, stopped_by_us=self.stopped_by_us)
        for run in result.began:
            self._began(run, seen.taken_at, change)
        # One that began and ended within this batch is not to come back by its beginning.
        closed = {ExecutionKey(seen.source, instance) for instance in result.closed}
        if closed:
            change.began = [run for run in change.began if run.facts.key not in closed]
        change.closed += [(seen.source, instance) for instance in result.closed]
        for end in result.ended:
            self._ended(end, change)
        if before != (ends.bookmark, ends.first_look) or result.ended:
            change.sources[seen.source] = ends

    def _began(self, run: OpenRun, now: datetime, change: Change) -> None:
        key = PackageKey.of(run.facts)
        is_new = key not in self._packages
        record = self._record(run.facts, now)
        if is_new:
            change.packages[record.key] = record
        change.began.append(run)

    def _ended(self, end: End, change: Change) -> None:
        record = self._record(end.facts, end.ended_at)
        record.counts[end.result] = record.counts.get(end.result, 0) + 1
        if end.duration is not None and end.result in LEARNED_FROM:
            record.samples.add(end.ended_at, end.duration, now=self._now())
        _remember_last(record, end.result, end.ended_at, end.duration)
        change.packages[record.key] = record
        change.counted.append((end.facts.key.source, end.facts.key.instance_id))
        if end.result in FAILED:
            failure = Failure(
                source=end.facts.key.source,
                instance_id=end.facts.key.instance_id,
                folder=end.facts.folder,
                project=end.facts.project,
                package_name=end.facts.package_name,
                result=end.result,
                ended_at=end.ended_at,
                duration=end.duration,
            )
            self._failures.append(failure)
            del self._failures[:-KEPT_FAILURES]
            change.failures.append(failure)

    def _of(self, source: str) -> SourceEnds:
        if source not in self._sources:
            self._sources[source] = SourceEnds(source)
        return self._sources[source]

    def _record(self, facts: ExecutionFacts, seen_at: datetime) -> PackageRecord:
        key = PackageKey.of(facts)
        record = self._packages.get(key)
        if record is None:
            # Both are there from the first sight on, so that a first failure is an increase.
            counts = {Result.SUCCEEDED: 0, Result.FAILED: 0}
            record = self._packages[key] = PackageRecord(key=key, seen_at=seen_at, counts=counts)
        record.seen_at = max(record.seen_at, seen_at)
        return record


def _load_ours(connection: sqlite3.Connection) -> Loaded:
    try:
        return load(connection)
    except sqlite3.OperationalError as exc:
        if "no such" in str(exc):
            raise ValueError(str(exc)) from exc
        raise


def _remember_last(record: PackageRecord, result: Result, ended_at: datetime, duration: timedelta | None) -> None:
    if record.last_end is None or ended_at >= record.last_end:
        record.last_end = ended_at
        record.last_duration = duration if duration is not None else record.last_duration
    if result is Result.SUCCEEDED and (record.last_success is None or ended_at >= record.last_success):
        record.last_success = ended_at
