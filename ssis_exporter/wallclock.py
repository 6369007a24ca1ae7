"""The clock on the wall, watched: who sets it must not make a run look old, or the hour look right."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
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
    """When that was noticed, by the monotonic clock."""

    shown: datetime
    """What the wall showed right before."""

    by: timedelta
    """Negative where it was set back."""


class WallClock:
    """
    Notices when the clock is set while the exporter runs, and with `recall` what was set before. From any thread.
    """

    def __init__(self, *, now: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._began, self._began_at = now(), monotonic()
        self._ahead = self._ahead_at_first = self._began.timestamp() - self._began_at
        self._steps: list[Step] = []
        self._has_recalled = False

    def recall(self, steps: Sequence[Step], ahead: float | None) -> None:
        """
        What is known of the time before this start; only the first call counts.

        `ahead` is how far the wall was ahead of this monotonic clock when both were last read before; None where
        nobody knows, because the machine was started in between.
        """
        with self._lock:
            if self._has_recalled:
                return
            self._has_recalled = True
            before = list(steps)
            by = timedelta(seconds=self._ahead_at_first - ahead) if ahead is not None else timedelta()
            if abs(by) >= TOLERANCE:
                before.append(Step(at=self._began_at, shown=self._began - by, by=by))
                _tell(by)
            self._steps = bounded([*before, *self._steps])

    def look(self) -> datetime:
        """The time now; to be called often, so that a step is noticed soon after it was made."""
        with self._lock:
            return self._look()

    def readings(self) -> list[datetime]:
        """The time now and, while in doubt, what it would be had the clock not been set."""
        with self._lock:
            now = self._look()
            readings, total = [now], timedelta()
            for step in reversed(self._steps):
                if step.at <= self._monotonic() - DOUBT.total_seconds():
                    break
                total += step.by
                readings.append(now - total)
            return readings

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
            step = Step(at=monotonic, shown=now - by, by=by)
            self._steps = bounded([*self._steps, step])
            self._ahead = ahead
            _tell(by)
        return now


def bounded(steps: Sequence[Step]) -> list[Step]:
    """No more than are kept apart, and none of them forgotten."""
    kept = list(steps)
    while len(kept) > MOST_STEPS:
        first, second, *rest = kept
        # In doubt the run began before the step that makes it look older.
        by = second.by + max(first.by, timedelta())
        kept = [Step(at=second.at, shown=max(first.shown, second.shown), by=by), *rest]
    return kept


def _tell(by: timedelta) -> None:
    word = "forward" if by > timedelta() else "back"
    log.warning("the clock of this machine was set %s by %s, or the machine slept", word, abs(by))
