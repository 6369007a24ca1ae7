"""The clock on the wall, watched: who sets it must not make a run look old, or the hour look right."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

log = logging.getLogger(__name__)

TOLERANCE = timedelta(seconds=5)
"""A smaller step is none, because both clocks are not read in the same moment; many of them add up to one."""

DOUBT = timedelta(hours=1)
"""How long after a step nobody knows which reading was right: for so long the hours of a rule must hold for both."""

MOST_STEPS = 100
"""Kept apart; of more, the oldest become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The clock was set, or the machine slept: the monotonic clock knows of neither."""

    at: float
    """By the monotonic clock."""

    before: float
    """How far the wall was ahead of the monotonic clock before."""

    shown: datetime
    """What the wall showed right before."""

    by: timedelta
    """Negative where it was set back."""


class WallClock:
    """Notices when the clock is set while the exporter runs; a start begins without a doubt. From any thread."""

    def __init__(self, *, now: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._ahead = now().timestamp() - monotonic()
        self._steps: list[Step] = []

    def look(self) -> datetime:
        """The time now; to be called often, so that a step is noticed soon after it was made."""
        with self._lock:
            return self._look()

    def readings(self) -> list[datetime]:
        """The time now and, while in doubt, what it would be had the clock not been set."""
        with self._lock:
            now = self._look()
            since = self._monotonic() - DOUBT.total_seconds()
            return [
                now,
                *(now - timedelta(seconds=self._ahead - step.before) for step in self._steps if step.at > since),
            ]

    def set_forward_since(self, began: datetime) -> timedelta:
        """
        By how much a run looks too old, at most, that began when the wall showed this.

        Where the clock was set back it showed some times twice, and nobody knows in which of them the run began.
        """
        with self._lock:
            self._look()
            most = since = timedelta()
            for step in reversed(self._steps):
                since += step.by
                if step.shown >= began:
                    most = max(most, since)
            return most

    def _look(self) -> datetime:
        now, monotonic = self._now(), self._monotonic()
        ahead = now.timestamp() - monotonic
        by = timedelta(seconds=ahead - self._ahead)
        if abs(by) >= TOLERANCE:
            step = Step(at=monotonic, before=self._ahead, shown=now - by, by=by)
            self._steps = _bounded([*self._steps, step])
            self._ahead = ahead
            word = "forward" if by > timedelta() else "back"
            log.warning("the clock of this machine was set %s by %s, or the machine slept", word, abs(by))
        return now


def _bounded(steps: list[Step]) -> list[Step]:
    if len(steps) <= MOST_STEPS:
        return steps
    first, second, *rest = steps
    # In doubt the run began before the step that makes it look older.
    by = second.by + max(first.by, timedelta())
    return [Step(at=second.at, before=first.before, shown=max(first.shown, second.shown), by=by), *rest]
