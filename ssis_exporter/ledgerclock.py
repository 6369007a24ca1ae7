"""The ledger's own clock: counts the time that is proven to have passed, whatever is done to the clock on the wall."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ssis_exporter.wallclock import TOLERANCE, Step, bounded

WAITS_IN_GRACE = math.inf
"""The moment of a place that counts however long it has been waiting."""


class LedgerClock:
    """
    Seconds since the ledger began, of which each is proven; never more than have really passed.

    While the exporter runs, its monotonic clock counts. What passed while it did not run is the lesser of what the
    wall and the monotonic clock say: a wall clock that was set forward adds nothing, and neither does a folder that
    was moved to a machine that has been up for longer. So a stop may stay within the breaker's window for too long,
    and never leaves it too early.

    Beside that it keeps each step of the wall, also one that was made while the exporter did not run: the monotonic
    clock went on, unless the machine was started anew.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> None:
        """`boot` names the start of the machine, empty where nothing does; None: as the system says."""
        self._boot = this_boot() if boot is None else boot
        self._now = now
        self._monotonic = monotonic
        self._known_for: sqlite3.Connection | None = None
        self._origin = monotonic()
        """The monotonic clock's reading at which this one would have shown 0."""

    def passed(self) -> float:
        """The seconds, as known since the file was last opened; from any thread."""
        return self._monotonic() - self._origin

    def passed_in(self, connection: sqlite3.Connection) -> float:
        """The seconds of this file, which is read for it once per opening."""
        if connection is not self._known_for:
            self._origin = self._monotonic() - self._proven(connection)
            self._known_for = connection
        return self.passed()

    def mark(self, connection: sqlite3.Connection) -> None:
        """Writes down how far it is, for the next start."""
        passed, wall, monotonic = self.passed_in(connection), self._now().timestamp(), self._monotonic()
        since = self._read_together(connection) or (wall, monotonic)
        moved = (wall - monotonic) - (since[0] - since[1])
        if abs(moved) >= TOLERANCE.total_seconds():
            shown = datetime.fromtimestamp(wall - moved, UTC)
            _add_step(connection, Step(at=passed, shown=shown, by=timedelta(seconds=moved)))
            since = wall, monotonic
        connection.execute(
            "INSERT OR REPLACE INTO clock (id, passed, wall, monotonic, since_wall, since_monotonic, boot)"
            " VALUES (1, ?, ?, ?, ?, ?, ?)",
            [passed, wall, monotonic, *since, self._boot],
        )

    def remembered(self, connection: sqlite3.Connection) -> tuple[list[Step], float | None]:
        """What `WallClock.recall` is to know of the time before this start."""
        now, passed = self._monotonic(), self.passed_in(connection)
        steps = [replace(step, at=now - max(passed - step.at, 0.0)) for step in _read_steps(connection)]
        since = self._read_together(connection)
        return steps, since[0] - since[1] if since is not None else None

    def ages(self, moments: Iterable[float]) -> list[timedelta]:
        """How long ago each of these moments was, at least; none is negative."""
        passed = self.passed()
        return [timedelta(seconds=max(passed - moment, 0.0) if moment < WAITS_IN_GRACE else 0.0) for moment in moments]

    def _proven(self, connection: sqlite3.Connection) -> float:
        found = connection.execute("SELECT passed, wall, monotonic FROM clock").fetchone()
        if found is None:
            return 0.0
        passed, wall, monotonic = found
        now = self._monotonic()
        # A reading before that of the mark means another boot, which is as long ago as it reads.
        by_monotonic = now - monotonic if now >= monotonic else now
        by_wall = self._now().timestamp() - wall
        return float(passed + max(min(by_monotonic, by_wall), 0.0))

    def _read_together(self, connection: sqlite3.Connection) -> tuple[float, float] | None:
        """What both clocks showed when the wall was last believed; None where another boot says nothing of this one."""
        found = connection.execute("SELECT since_wall, since_monotonic, monotonic, boot FROM clock").fetchone()
        if found is None:
            return None
        wall, monotonic, last, boot = found
        is_of_this_boot = boot in ("", self._boot) and self._monotonic() >= last
        return (float(wall), float(monotonic)) if is_of_this_boot else None


def this_boot() -> str:
    """Names this start of the machine; empty where the system has no name for it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _read_steps(connection: sqlite3.Connection) -> list[Step]:
    """With the ledger's own clock in `at`."""
    found = connection.execute("SELECT passed, shown, moved FROM clock_steps ORDER BY id").fetchall()
    return [
        Step(at=passed, shown=datetime.fromtimestamp(shown, UTC), by=timedelta(seconds=moved))
        for passed, shown, moved in found
    ]


def _add_step(connection: sqlite3.Connection, step: Step) -> None:
    steps = bounded([*_read_steps(connection), step])
    connection.execute("DELETE FROM clock_steps")
    connection.executemany(
        "INSERT INTO clock_steps (passed, shown, moved) VALUES (?, ?, ?)",
        [(one.at, one.shown.timestamp(), one.by.total_seconds()) for one in steps],
    )
