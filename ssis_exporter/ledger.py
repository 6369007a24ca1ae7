"""The ledger of stops: one row per nominated run, and every step as an event that is never changed again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from ssis_exporter.errors import StorageDamaged, StorageError, TooManyPending
from ssis_exporter.ledgerclock import WAITS_IN_GRACE, LedgerClock
from ssis_exporter.ledgerrows import (
    SCHEMA,
    Door,
    Event,
    EventKind,
    Row,
    event_of,
    find,
    row_of,
    to_json,
    to_text,
)
from ssis_exporter.ledgersteps import nominate_run, settle_row, step_row
from ssis_exporter.model import ExecutionFacts, ExecutionKey, Nomination, RefusalReason, StopOutcome, Visibility
from ssis_exporter.ourstops import OurStops
from ssis_exporter.policy import Breaker
from ssis_exporter.stopview import PastStop, Stage
from ssis_exporter.storage import CLOSE_SECONDS, Database, StorageMetrics, open_read_only
from ssis_exporter.storagefolder import Storage, set_aside
from ssis_exporter.wallclock import Step

NAME = "ledger.sqlite"

T = TypeVar("T")

MOST_PENDING = 200
"""Nominations that may be worked on at once. Each is looked for again and again while its source cannot be read."""

_SOUND = "{} is not damaged, so it was not set aside"


class Ledger:
    """
    The file `ledger.sqlite`. Each method is one transaction, on disk when it returns; all may raise `StorageError`.

    A step of a row names where the row is believed to be, and raises `RowMoved` when it is elsewhere: of two that
    come at once, one wins.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        metrics: StorageMetrics | None = None,
        executor: Executor | None = None,
        clock: LedgerClock | None = None,
    ) -> None:
        self.database = Database(storage, NAME, SCHEMA, metrics=metrics, executor=executor)
        self._clock = clock or LedgerClock()
        self.ours = OurStops()
        """The runs that were asked to stop."""

    @property
    def is_open(self) -> bool:
        """Whether it can be read without making or opening it."""
        return self.database.is_open

    @property
    def is_damaged(self) -> bool:
        """Whether it stays closed until an operator acknowledges."""
        return self.database.is_damaged

    @property
    def trouble(self) -> StorageError | None:
        """Why it could not be used when last tried; None when it could."""
        return self.database.trouble

    async def open(self) -> None:
        """Makes or checks the file; harmless when it is open."""
        await self.database.open()
        if not self.ours.is_loaded:
            await self.database.read(self.ours.load)

    async def probe(self) -> None:
        """Writes without changing anything, to know whether it can be written to."""
        await self._write(lambda connection: connection.execute(f"PRAGMA user_version = {len(SCHEMA)}"))

    async def acknowledge_damage(self) -> Path | None:
        """
        Sets a damaged file aside and begins a new one; returns where the old one is kept.

        One that is sound keeps what it knows: whom it forgot could be asked again, and a breaker would be empty.
        """
        try:
            await self.probe()
        except StorageDamaged:
            return await self.database.set_aside()
        raise StorageError(_SOUND.format(self.database.path))

    async def remembered_clock(self) -> tuple[list[Step], float | None]:
        """What `WallClock.recall` is to know of the time before this start."""
        return await self.database.read(self._clock.remembered)

    async def mark(self) -> None:
        """Writes down how much time has passed, so that no later start takes it for less."""
        await self._write(self._clock.mark)

    @property
    def is_left_behind(self) -> bool:
        """Whether the file's thread still waited for the disk when this was closed."""
        return self.database.is_left_behind

    async def close(self) -> None:
        """Closes the file; may be called twice."""
        if self.is_open:
            with contextlib.suppress(StorageError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.mark()
        await self.database.close()

    def ages(self, moments: Sequence[float]) -> list[timedelta]:
        """How long ago each of these moments of the ledger's own clock was, at least."""
        return self._clock.ages(moments)

    async def nominate(self, asked: Sequence[Nomination | Door], at: datetime) -> list[tuple[Row | None, bool]]:
        """
        Takes the nominations of one message and notes those that were refused at the door.

        Returns per nomination its row and whether it is one that was there before and is open or final; no row for
        the refused ones. Raises `TooManyPending`, and nothing of the message was taken.
        """

        def work(connection: sqlite3.Connection) -> list[tuple[Row | None, bool]]:
            before = _open_count(connection)
            taken = [nominate_run(connection, one, at, self._clock.passed_in(connection)) for one in asked]
            if _open_count(connection) > max(before, MOST_PENDING):
                raise TooManyPending(f"{before} runs are being worked on, and no more than {MOST_PENDING} may be")
            return taken

        return await self._write(work)

    async def find(self, key: ExecutionKey) -> Row | None:
        """The row of one run."""
        return await self.database.read(lambda connection: find(connection, key))

    async def open_rows(self) -> list[Row]:
        """Every row that has not come to an outcome, oldest first."""
        query = "SELECT * FROM runs WHERE stage != 'closed' ORDER BY nominated_at, id"
        return await self.database.read(
            lambda connection: [row_of(connection, found) for found in connection.execute(query).fetchall()]
        )

    async def places(self, window: timedelta) -> list[float]:
        """When each run took its place in the breaker, as far as it counts within `window`; see `ages`."""
        return await self.database.read(lambda connection: self._places(connection, window, apart_from=None))

    async def saw(self, row: Row, facts: ExecutionFacts, seen_under: Visibility, at: datetime) -> Row:
        """The first look: what the run is like, for comparing at every later one."""
        changes = {"facts": to_json(facts), "seen_under": to_json(seen_under)}
        return await self._step(row, at, EventKind.SEEN, changes, details={"facts": facts, "visibility": seen_under})

    async def reserve(self, row: Row, rule: str, breaker: Breaker, *, dry_run: bool, at: datetime) -> Row | None:
        """
        A rule allows it: takes a place in the breaker. None when there is no room.

        A run whose place was taken by a dry run needs no other one for the next dry run.
        """

        def work(connection: sqlite3.Connection) -> Row | None:
            if row.stage is not Stage.ALLOWED and not (dry_run and row.placed_at is not None):
                others = self._places(connection, breaker.window, apart_from=row)
                if not breaker.has_room(self.ages(others)):
                    return None
            changes = {"stage": Stage.ALLOWED, "rule": rule}
            return step_row(connection, row, at, EventKind.ALLOWED, changes, rule=rule)

        return await self._write(work)

    async def request(
        self, row: Row, rule: str, evidence: Mapping[str, str], breaker: Breaker, at: datetime
    ) -> Row | None:
        """The moment before the source is asked. None when the breaker has no room, whatever was reserved."""

        def work(connection: sqlite3.Connection) -> Row | None:
            if not breaker.has_room(self.ages(self._places(connection, breaker.window, apart_from=row))):
                return None
            moment = to_text(at)
            changes = {"stage": Stage.REQUESTED, "rule": rule, "placed_at": moment, "requested_at": moment, "final": 1}
            changes |= {"placed_after": self._clock.passed_in(connection)}
            return step_row(
                connection, row, at, EventKind.REQUESTED, changes, rule=rule, details={"evidence": dict(evidence)}
            )

        requested = await self._write(work)
        if requested is not None:
            self.ours.moved(requested, came_from=row.stage)
        return requested

    async def asked(self, row: Row, text: str, at: datetime, *, surely: bool = True) -> Row:
        """The source answered, or (not `surely`) may have heard: it is never asked again."""
        stage = Stage.ASKED if surely else Stage.MAYBE_ASKED
        return await self._step(row, at, EventKind.ASKED, {"stage": stage}, text=text)

    async def not_asked(self, row: Row, text: str, at: datetime) -> Row:
        """It is certain that the source was never asked: the row goes back to its look."""
        return await self._step(row, at, EventKind.NOT_ASKED, {"stage": Stage.NOMINATED, "final": 0}, text=text)

    async def escalate(self, row: Row, at: datetime) -> Row:
        """The moment before the host process is ended."""
        return await self._step(row, at, EventKind.ESCALATED, {"stage": Stage.ESCALATED}, rule=row.rule)

    async def settle(
        self,
        row: Row,
        outcome: StopOutcome,
        *,
        at: datetime,
        reason: RefusalReason | None = None,
        rule: str = "",
        text: str = "",
        final: bool = False,
    ) -> Row:
        """
        The outcome. Where the row comes back open, another nomination came meanwhile that has to be judged too.

        A dry run's `would_stop` takes the row's place in the breaker, once.
        """

        def work(connection: sqlite3.Connection) -> Row:
            if not final:
                current = find(connection, row.key)
                if current is not None and current.is_where(row) and len(current.nominations) > len(row.nominations):
                    return current
            passed = self._clock.passed_in(connection)
            return settle_row(
                connection, row, outcome, at=at, passed=passed, reason=reason, rule=rule, text=text, final=final
            )

        settled = await self._write(work)
        self.ours.moved(settled, came_from=row.stage)
        return settled

    async def veto(self, key: ExecutionKey, text: str, *, ended_at: datetime | None, at: datetime) -> Row | None:
        """Closes the row of this run as vetoed, unless it has been requested; None when there was nothing to veto."""

        def work(connection: sqlite3.Connection) -> Row | None:
            row = find(connection, key)
            if row is None or row.stage not in (Stage.NOMINATED, Stage.ALLOWED):
                return None
            began = [one.asked_since for one in row.nominations]
            if ended_at is not None and all(since is not None and _is_after(since, ended_at) for since in began):
                return None
            passed = self._clock.passed_in(connection)
            return settle_row(connection, row, StopOutcome.VETOED, at=at, passed=passed, text=text)

        return await self._write(work)

    async def last_outcomes(self, count: int) -> list[PastStop]:
        """What became of the last nominations, newest first."""
        query = "SELECT * FROM events WHERE outcome IS NOT NULL ORDER BY id DESC LIMIT ?"
        return await self.database.read(
            lambda connection: [past_stop(event_of(found)) for found in connection.execute(query, [count]).fetchall()]
        )

    async def _step(
        self,
        row: Row,
        at: datetime,
        kind: EventKind,
        changes: Mapping[str, object],
        *,
        rule: str = "",
        text: str = "",
        details: Mapping[str, object] | None = None,
    ) -> Row:
        moved = await self._write(
            lambda connection: step_row(connection, row, at, kind, changes, rule=rule, text=text, details=details)
        )
        self.ours.moved(moved, came_from=row.stage)
        return moved

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction; where it changes anything, it also keeps how much time has passed."""

        def whole(connection: sqlite3.Connection) -> T:
            before = connection.total_changes
            result = work(connection)
            if connection.total_changes != before:
                self._clock.mark(connection)
            return result

        return await self.database.write(whole)

    def _places(self, connection: sqlite3.Connection, window: timedelta, *, apart_from: Row | None) -> list[float]:
        since = self._clock.passed_in(connection) - window.total_seconds()
        query = "SELECT placed_after, stage FROM runs WHERE (placed_after > ? OR stage = ?) AND id != ?"
        parameters = [since, Stage.ALLOWED, apart_from.id if apart_from is not None else -1]
        # One that waits in grace counts however long it has been waiting.
        return [
            WAITS_IN_GRACE if stage == Stage.ALLOWED else placed_after
            for placed_after, stage in connection.execute(query, parameters)
        ]


def read_events(folder: Path, since: datetime | None = None) -> Iterator[Event]:
    """
    The ledger of a folder for `audit`, oldest first; also while a `serve` works with it. Blocks.

    Raises `StorageError` when there is none, or it cannot be read.
    """
    connection = open_read_only(folder / NAME, SCHEMA)
    try:
        earliest = to_text(since) if since is not None else ""
        for found in connection.execute("SELECT * FROM events WHERE at >= ? ORDER BY id", [earliest]):
            yield event_of(found)
    finally:
        connection.close()


def acknowledge_damage(folder: Path, now: datetime) -> Path | None:
    """
    Sets the damaged ledger of a folder aside while no `serve` runs; the next one begins a new one. Blocks.

    Returns where it is kept, None when there was none. Raises `StorageInUse` while a `serve` runs, `StorageError`, also
    for one that is sound.
    """
    storage = Storage(folder)
    storage.claim()
    path = folder / NAME
    try:
        if path.exists():
            with contextlib.suppress(StorageDamaged):
                open_read_only(path, SCHEMA).close()
                raise StorageError(_SOUND.format(path))
        return set_aside(path, now)
    finally:
        storage.release()


def past_stop(event: Event) -> PastStop:
    """An event with an outcome, for a page."""
    assert event.outcome is not None
    return PastStop(
        at=event.at,
        key=event.key,
        outcome=event.outcome,
        package_name=str(event.details.get("package_name", "")),
        reason=event.reason,
        rule=event.rule,
        text=event.text,
        origin=str(event.details.get("origin", "")),
    )


def _open_count(connection: sqlite3.Connection) -> int:
    [count] = connection.execute("SELECT count(*) FROM runs WHERE stage != 'closed'").fetchone()
    return int(count)


def _is_after(one: datetime, other: datetime) -> bool:
    # A time without a zone cannot be compared; then the veto counts.
    return one.tzinfo is not None and other.tzinfo is not None and one > other
