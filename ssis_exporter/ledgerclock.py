"""The ledger's own clock: counts the time that is proven to have passed, whatever is done to the clock on the wall."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

WAITS_IN_GRACE = math.inf
"""The moment of a place that counts however long it has been waiting."""


class LedgerClock:
    """
    Seconds since the ledger began, of which each is proven; never more than have really passed.

    While the exporter runs, its monotonic clock counts. What passed while it did not run is the lesser of what the
    wall and the monotonic clock say: a wall clock that was set forward adds nothing, and neither does a folder that
    was moved to a machine that has been up for longer. So a stop may stay within the breaker's window for too long,
    and never leaves it too early.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
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
        connection.execute(
            "INSERT OR REPLACE INTO clock (id, passed, wall, monotonic) VALUES (1, ?, ?, ?)",
            [self.passed_in(connection), self._now().timestamp(), self._monotonic()],
        )

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
