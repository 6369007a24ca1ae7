"""
From the API's local start time to UTC.

`ExecutionStartTime` comes from a COM date, which has no zone: it is taken as local time of the machine (its Kind is not
documented). In the hour that comes twice in autumn two instants fit; what the exporter itself saw decides, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_YEAR_ONE = datetime(1, 1, 1)  # noqa: DTZ001 - .NET's ticks count from a zoneless year 1

SLACK = timedelta(seconds=5)
"""How far the API's clock readings may lie from ours: dates are rounded, and a listing takes its time."""


@dataclass(frozen=True, slots=True)
class Start:
    """When a run began."""

    at: datetime
    """Aware, in UTC."""

    certain: bool
    """False where two instants fit and nothing decides; `at` is then the later one, so that the run is shown younger
    rather than older than it is: nothing is stopped for an age that it may not have."""


def utc_start(ticks: int, *, seen_at: datetime, not_there_at: datetime | None) -> Start:
    """
    The start from `Ticks` (100 ns since year 1, local time).

    `seen_at` is when the run was first seen, `not_there_at` the last look before that which would have shown it; both
    aware. The zone is that of this process.
    """
    local = _YEAR_ONE + timedelta(microseconds=ticks // 10)
    first = datetime.fromtimestamp(local.replace(fold=0).timestamp(), UTC)
    second = datetime.fromtimestamp(local.replace(fold=1).timestamp(), UTC)
    # Outside the double hour both are equal; in the missing hour of spring `fold` turns the other way round, and
    # the reading by the offset before the change is the one that a rounded date can really have.
    if second <= first or second > seen_at + SLACK:
        return Start(first, certain=True)
    if not_there_at is not None and first < not_there_at - SLACK:
        return Start(second, certain=True)
    return Start(second, certain=False)
