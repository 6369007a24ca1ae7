"""
From the API's local start time to UTC.

`ExecutionStartTime` comes from a COM date, which has no zone: it is taken as local time of the machine (its Kind is not
documented). In the hour that comes twice in autumn two instants fit; what the exporter itself saw decides, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_YEAR_ONE = datetime(1, 1, 1)  # noqa: DTZ001 - .NET's ticks count from a zoneless year 1

EARLIEST = datetime(1990, 1, 1)  # noqa: DTZ001 - as above
"""What lies before it is an empty date (COM's lies in 1899), not a start."""

SLACK = timedelta(seconds=5)
"""How far the API's clock readings may lie from ours: dates are rounded, and a listing takes its time."""

ROUNDED = timedelta(seconds=1)
"""By how much a date may be rounded: a COM date is a fraction of a day, and conversions keep whole seconds."""

CANNOT_BE = timedelta(minutes=20)
"""
A run that the last look did not show cannot have begun so long before it; an hour taken for another zone's can.

No zone is nearer to another than half an hour, and no listing is late by so much.
"""


@dataclass(frozen=True, slots=True)
class Start:
    """When a run began."""

    at: datetime
    """Aware, in UTC. Never after the moment when the run was first seen."""

    certain: bool
    """
    False where nothing decides between two instants, or what the API says cannot be.

    `at` is then the latest that it can be, so that the run is shown younger rather than older than it is: nothing is
    stopped for an age that it may not have.
    """

    rests_on_sight: bool = False
    """What the exporter saw decided; who did not see it would say something else."""


def utc_start(ticks: int, *, seen_at: datetime, not_there_at: datetime | None, is_utc: bool = False) -> Start | None:
    """
    The start from `Ticks` (100 ns since year 1; local time, unless told to be UTC), None where that is no start.

    `seen_at` is when the run was first seen, `not_there_at` the last look before that which would have shown it; both
    aware. The zone is that of this process.
    """
    try:
        told = _YEAR_ONE + timedelta(microseconds=ticks // 10)
        if told < EARLIEST:
            return None
        if is_utc:
            first = second = told.replace(tzinfo=UTC)
        else:
            # A date that was rounded may lie just outside the double hour that its run began in, or just inside the
            # missing one.
            first = min(_utc(told + by, fold=0) - by for by in (-ROUNDED, timedelta(), ROUNDED))
            second = max(_utc(told + by, fold=1) - by for by in (timedelta(), ROUNDED))
    except (OverflowError, ValueError, OSError):
        return None
    if first > seen_at:
        # By a little: rounded. By more: this is not the zone of whoever wrote it.
        return Start(seen_at, certain=first <= seen_at + SLACK, rests_on_sight=True)
    if not_there_at is not None and max(first, second) < not_there_at - CANNOT_BE:
        return Start(seen_at, certain=False, rests_on_sight=True)
    # Outside the double hour both are equal; in the missing hour of spring `fold` turns the other way round.
    if second <= first:
        return Start(first, certain=True)
    if second > seen_at + SLACK:
        return Start(first, certain=True, rests_on_sight=True)
    second = min(second, seen_at)
    watched = not_there_at is not None and first < not_there_at - SLACK
    return Start(second, certain=watched, rests_on_sight=True)


def _utc(told: datetime, *, fold: int) -> datetime:
    return datetime.fromtimestamp(told.replace(fold=fold).timestamp(), UTC)
