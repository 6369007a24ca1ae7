"""Local start times to UTC: four zones, the hour that comes twice and the one that never comes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssis_exporter.sources.dts.localtime import Start, utc_start
from tests.dts.estate import ticks

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]

pytestmark = pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process can only be set on POSIX")


@pytest.fixture
def zone(request: pytest.FixtureRequest) -> Iterator[ZoneInfo]:
    """This process lives in the zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield ZoneInfo(request.param)
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def local_ticks(instant: datetime, zone: ZoneInfo) -> int:
    """What the API would tell of an instant: the wall clock, without its zone."""
    return ticks(instant.astimezone(zone).replace(tzinfo=None))


@pytest.mark.parametrize("zone", ZONES, indirect=True)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    instant=st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
    watched=st.timedeltas(timedelta(seconds=1), timedelta(minutes=5)),
)
def test_a_watched_start_is_exact(zone: ZoneInfo, instant: datetime, watched: timedelta) -> None:
    """
    A run whose beginning fell between two looks is dated right in every hour of the year.
    """
    start = utc_start(local_ticks(instant, zone), seen_at=instant + watched, not_there_at=instant - watched)

    assert start is not None
    assert (instant, True) == (start.at, start.certain)


@pytest.mark.parametrize("zone", ZONES, indirect=True)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    instant=st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
    age=st.timedeltas(timedelta(0), timedelta(hours=30)),
)
def test_an_unwatched_start_is_exact_or_marked(zone: ZoneInfo, instant: datetime, age: timedelta) -> None:
    """
    A run that was there at the first look is dated right, or marked; never in the future, never older than it is.
    """
    start = utc_start(local_ticks(instant, zone), seen_at=instant + age, not_there_at=None)

    assert start is not None
    assert start.at <= instant + age
    assert start.at >= instant
    assert start.at == instant or not start.certain


@pytest.mark.parametrize("zone", ["Europe/Berlin"], indirect=True)
@pytest.mark.parametrize("change", ["2026-10-25 00:00", "2026-10-25 01:00", "2026-10-25 02:00", "2026-03-29 01:00"])
@pytest.mark.parametrize("beside", [-0.4, 0, 0.4])
@pytest.mark.parametrize("rounded", [-0.5, 0, 0.5])
@pytest.mark.parametrize("age", [0, 60, 5000, 90_000])
@pytest.mark.parametrize("watched", [True, False])
def test_a_rounded_date_beside_the_double_hour(
    zone: ZoneInfo, change: str, beside: float, rounded: float, age: int, *, watched: bool
) -> None:
    """
    Rounding that moves a date into the double hour or out of it makes no certain start wrong, and no run too old.
    """
    instant = datetime.fromisoformat(change).replace(tzinfo=UTC) + timedelta(seconds=beside)
    said = local_ticks(instant, zone) + int(rounded * 10_000_000)
    not_there = instant - timedelta(seconds=30) if watched else None
    start = utc_start(said, seen_at=instant + timedelta(seconds=age), not_there_at=not_there)

    assert start is not None
    off = (start.at - instant).total_seconds()
    assert off >= -1
    assert off <= 1 or not start.certain
    assert start.certain or not watched or age > 60


@pytest.mark.parametrize("zone", ["Europe/Berlin"], indirect=True)
def test_the_double_hour(zone: ZoneInfo) -> None:
    """
    In autumn's double hour: the first pass while the second has not come, what was watched, and the younger one else.
    """
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    second = first + timedelta(hours=1)
    said = local_ticks(first, zone)

    assert said == local_ticks(second, zone)
    assert Start(first, certain=True, rests_on_sight=True) == utc_start(
        said, seen_at=first + timedelta(minutes=20), not_there_at=None
    )
    assert Start(second, certain=True, rests_on_sight=True) == utc_start(
        said, seen_at=second + timedelta(seconds=15), not_there_at=second - timedelta(seconds=15)
    )
    assert Start(second, certain=False, rests_on_sight=True) == utc_start(
        said, seen_at=second + timedelta(hours=2), not_there_at=None
    )


@pytest.mark.parametrize("zone", ["Europe/Berlin"], indirect=True)
def test_the_missing_hour(zone: ZoneInfo) -> None:
    """
    A rounded date that falls into spring's missing hour is the moment of the change, or later; never before.
    """
    change = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    said = ticks(datetime(2026, 3, 29, 2, 0))

    assert Start(change, certain=True) == utc_start(said, seen_at=change + timedelta(hours=5), not_there_at=None)


@pytest.mark.parametrize("zone", ["Europe/Berlin"], indirect=True)
def test_a_start_by_another_clock_is_taken_as_just_begun(zone: ZoneInfo) -> None:
    """
    A start that lies ahead, or long before a look that did not show the run, is of another zone: never an age.
    """
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    ahead = utc_start(local_ticks(now + timedelta(hours=5), zone), seen_at=now, not_there_at=None)
    before = utc_start(
        local_ticks(now - timedelta(hours=1), zone), seen_at=now, not_there_at=now - timedelta(seconds=15)
    )
    rounded = utc_start(local_ticks(now + timedelta(seconds=1), zone), seen_at=now, not_there_at=None)

    assert Start(now, certain=False, rests_on_sight=True) == ahead == before
    assert Start(now, certain=True, rests_on_sight=True) == rounded


@pytest.mark.parametrize("zone", ZONES, indirect=True)
def test_a_start_in_utc_needs_no_zone(zone: ZoneInfo) -> None:
    """
    What says that it is in UTC is taken by its word, also in the double hour.
    """
    instant = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    start = utc_start(ticks(datetime(2026, 10, 25, 0, 30)), seen_at=instant, not_there_at=None, is_utc=True)

    assert Start(instant, certain=True) == start


@pytest.mark.parametrize("told", [0, -1, 10**19, ticks(datetime(1899, 12, 30)), ticks(datetime(9999, 12, 31, 23, 59))])
def test_an_empty_date_is_no_start(told: int) -> None:
    """
    Empty and impossible dates are no start; one that lies ahead for ever is none that counts.
    """
    now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    start = utc_start(told, seen_at=now, not_there_at=None)

    assert start is None or Start(now, certain=False, rests_on_sight=True) == start
