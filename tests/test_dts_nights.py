"""Nights on which clocks change, in four zones, through the real helper, with restarts of the exporter in between."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ssis_exporter.model import Execution, Snapshot
from ssis_exporter.sources.dts import DtsSource
from tests.dts.estate import QUICK, Estate, Package, settings, ticks
from tests.dts.served import served, source_entry

pytest_plugins = ("tests.dts.fixtures",)
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process can only be set on POSIX"),
]

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"

NIGHTS = [
    ("Europe/Berlin", datetime(2026, 10, 25, 1, 0, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, 0, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 7, 0, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, 0, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Asia/Kolkata", datetime(2026, 10, 25, 1, 0, tzinfo=UTC)),
]
"""Zone, and the moment of the change (autumn, spring; the last has none)."""

STEP = timedelta(minutes=1 if FULL else 4)
ROUNDED = timedelta(seconds=1)


@contextmanager
def clocks_of(zone: str) -> Iterator[None]:
    """This process, and the helpers that it starts, live in the zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    """How far the zone's clocks are from UTC."""
    found = moment.astimezone(zone).utcoffset()
    assert found is not None
    return found


class Night:
    """Runs that begin around a change of clocks, and an exporter that looks every few minutes."""

    def __init__(self, estate: Estate, zone: ZoneInfo, change: datetime, seed: str) -> None:
        rng = random.Random(seed)
        self.estate = estate
        self.now = change - timedelta(hours=2)
        self.until = change + timedelta(hours=3)
        self.began: dict[str, datetime] = {}
        self._to_come: list[tuple[datetime, Package]] = []
        for _ in range(60):
            began = self.now + timedelta(seconds=rng.randrange(-1800, 5 * 3600))
            # COM dates are rounded; half a second either way.
            told = began + timedelta(milliseconds=rng.randrange(-500, 500))
            package = Package("Load", start_ticks=ticks(told.astimezone(zone).replace(tzinfo=None)))
            self.began[package.instance] = began
            self._to_come.append((began, package))
        self._to_come.sort(key=lambda pair: pair[0])
        self.source = self.start()
        self.last: Snapshot | None = None
        self.decided: dict[str, Execution] = {}

    def start(self) -> DtsSource:
        """The exporter starts."""
        return DtsSource(
            "local",
            settings(self.estate.gac, time_limit=timedelta(seconds=30)),
            patience=QUICK,
            environment={**self.estate.environment(), "TZ": os.environ["TZ"]},
            now=lambda: self.now,
        )

    def restart(self, *, with_history: bool) -> None:
        """The exporter ends and starts again; what it kept on disk is what a history keeps."""
        self.source.close()
        self.source = self.start()
        if with_history and self.last is not None:
            self.source.resume(self.last.bookmark, [run.key.instance_id for run in self.last.executions])
        elif not with_history:
            self.decided.clear()

    def look(self) -> list[Execution]:
        """Time passes, and the exporter looks."""
        self.now += STEP
        while self._to_come and self._to_come[0][0] <= self.now:
            self.estate.packages.append(self._to_come.pop(0)[1])
        self.estate.write()
        self.last = self.source.snapshot()
        return list(self.last.executions)


@pytest.mark.parametrize("with_history", [True, False], ids=["history", "no history"])
@pytest.mark.parametrize(("zone", "change"), NIGHTS, ids=lambda value: str(value)[:20].replace("/", "-"))
def test_a_night(estate: Estate, tmp_path: Path, zone: str, change: datetime, with_history: bool) -> None:
    """
    A duration is never negative and never longer than the truth; it is right, or marked where nothing could decide:
    for runs that no look saw beginning. What was decided once stands, also after a restart with a history.
    """
    with clocks_of(zone):
        its_zone = ZoneInfo(zone)
        night = Night(estate, its_zone, change, f"{zone} {change}")
        unwatched = {instance for instance, began in night.began.items() if began <= night.now + STEP}
        restarts = {timedelta(minutes=minutes) for minutes in ((100, 140, 172, 200) if FULL else (140,))}
        began_at = night.now
        marked = set()
        try:
            while night.now < night.until:
                if night.now - began_at in restarts:
                    night.restart(with_history=with_history)
                    if not with_history:
                        unwatched |= {package.instance for package in night.estate.packages}
                    unwatched |= {i for i, began in night.began.items() if night.now <= began <= night.now + STEP}
                for run in night.look():
                    instance = run.key.instance_id
                    true_age = night.now - night.began[instance]
                    assert timedelta() <= run.duration <= true_age + ROUNDED
                    if not run.facts.start_uncertain:
                        assert abs(run.duration - true_age) <= ROUNDED
                    else:
                        assert instance in unwatched
                        marked.add(instance)
                        assert true_age - run.duration <= timedelta(hours=1) + ROUNDED
                    assert night.decided.setdefault(instance, run).facts.started_at == run.facts.started_at
        finally:
            night.source.close()
    comes_twice = offset(its_zone, change - STEP) > offset(its_zone, change + STEP)

    assert with_history or bool(marked) == comes_twice


CHANGED = timedelta(minutes=40)
"""How long ago the clocks changed in the zones below."""

AGES = (150, 70, 50, 25)
"""In minutes; of the runs that are there before the exporter."""


def zone_that_changed(now: datetime, *, to_summer: bool) -> str:
    """A zone as POSIX writes it: an hour ahead of UTC in summer; the other change is half a year away."""

    def rule(moment: datetime) -> str:
        return f"{moment.timetuple().tm_yday - 1}/{moment:%H:%M:%S}"

    # A rule names the clock that was in force before the change.
    change = now - CHANGED if to_summer else now - CHANGED + timedelta(hours=1)
    other = now + timedelta(days=180)
    summer, winter = (change, other) if to_summer else (other, change)
    return f"WWW0SSS-1,{rule(summer)},{rule(winter)}"


@pytest.mark.parametrize("to_summer", [False, True], ids=["autumn", "spring"])
def test_a_night_on_the_page(estate: Estate, tmp_path: Path, to_summer: bool) -> None:
    """
    The installed command, in a zone whose clocks changed 40 minutes ago. In autumn a run that was there before the
    exporter, and that may have begun in either hour, is shown with the later start and marked; one that began under its
    eyes is not, also after a restart. All other starts, and all in spring, are what they are.
    """
    zone = zone_that_changed(datetime.now(UTC), to_summer=to_summer)
    with clocks_of(zone):

        def begins(ago: timedelta = timedelta()) -> str:
            local = datetime.fromtimestamp((datetime.now(UTC) - ago).timestamp())
            return estate.add(Package("Load", start_ticks=ticks(local))).instance

        runs = [begins(timedelta(minutes=age)) for age in AGES]
        for is_restarted in (False, True):
            with served(tmp_path, estate, source_entry(estate), env={"TZ": zone}) as exporter:
                exporter.wait_until_up()
                if not is_restarted:
                    runs.append(begins())
                page = exporter.scrape()
                assert 0 == exporter.serving.stop()
            seconds = page.values("ssis_package_execution_duration_seconds", "local")
            marked = page.values("ssis_package_execution_start_uncertain", "local").keys()

            # 50 minutes ago is told as in 10 minutes' time, where the later hour is meant: so it is not.
            told = AGES if to_summer else (150, 10, 50, 25)
            assert [*told, 0] == [round(seconds[run] / 60) for run in runs]
            assert (set() if to_summer else {runs[1], runs[3]}) == marked
            assert min(seconds.values()) >= 0
