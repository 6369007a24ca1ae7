"""ledgerclock: only time that is proven to have passed counts, whoever sets a clock and whatever is started again."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ssis_exporter.ledgerclock import WAITS_IN_GRACE, LedgerClock
from ssis_exporter.ledgerrows import SCHEMA
from tests.stopping import Time


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if not path.stat().st_size:
            for script in SCHEMA:
                connection.executescript(script)
        yield connection
        connection.commit()


def start(path: Path, time: Time) -> float:
    """What a start finds to have passed, which it writes down."""
    clock = LedgerClock(now=time.now, monotonic=time.monotonic)
    with opened(path) as connection:
        clock.mark(connection)
        return clock.passed_in(connection)


def test_while_it_runs_only_the_monotonic_clock_counts(tmp_path: Path) -> None:
    """
    The clock on the wall may be set as it likes.
    """
    time = Time()
    clock = LedgerClock(now=time.now, monotonic=time.monotonic)
    with opened(tmp_path / "file") as connection:
        moments = []
        for step in (0.0, 86_400.0, -86_400.0):
            time.set_by = step
            time.seconds += 60
            clock.mark(connection)
            moments.append(clock.passed_in(connection))

    assert [60.0, 120.0, 180.0] == [moment + 60 - moments[0] for moment in moments]
    ages = clock.ages([moments[0], moments[2] + 7, WAITS_IN_GRACE])
    assert [timedelta(seconds=120), timedelta(), timedelta()] == ages


@pytest.mark.parametrize(
    ("wall", "monotonic", "counts"),
    [
        (300, 300, 300),  # nothing happened
        (86_400, 300, 300),  # the wall was set forward
        (-86_400, 300, 0),  # and back
        (300, 100, 100),  # the machine slept
        (300, 90_000, 300),  # another machine, which has been up for longer
        (300, -1000, 300),  # it was started anew in between (its clock reads 4 000 here)
        (300, -4800, 200),  # it was started anew 200 s ago: that much is proven
        (86_400, -4800, 200),  # and its wall is wrong
    ],
)
def test_what_passed_between_two_starts_is_the_lesser_of_both(
    tmp_path: Path, wall: float, monotonic: float, counts: float
) -> None:
    """
    Nobody watched, so the clock that says less is believed.
    """
    time = Time()
    time.seconds = 5000
    before = start(tmp_path / "file", time)
    time.seconds += monotonic
    time.set_by = wall - monotonic
    after = start(tmp_path / "file", time)

    assert (0, counts) == (before, after)


def test_another_file_has_its_own_time(tmp_path: Path) -> None:
    """
    After a ledger was set aside, the new one begins at nothing.
    """
    time = Time()
    clock = LedgerClock(now=time.now, monotonic=time.monotonic)
    passed = []
    for name in ("one", "two"):
        with opened(tmp_path / name) as connection:
            clock.passed_in(connection)
            time.seconds += 60
            passed.append(clock.passed_in(connection))

    assert [60, 60] == passed
