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
from ssis_exporter.wallclock import MOST_STEPS, WallClock
from tests.stopping import BEGIN, Time


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


def remembered(path: Path, time: Time, boot: str = "") -> tuple[list[timedelta], timedelta | None]:
    """The steps that a start is told of, and the one that it finds by itself; None where it cannot know."""
    clock = LedgerClock(now=time.now, monotonic=time.monotonic, boot=boot)
    with opened(path) as connection:
        steps, ahead = clock.remembered(connection)
        clock.mark(connection)
    wall = time.now().timestamp() - time.monotonic()
    return [step.by for step in steps], timedelta(seconds=wall - ahead) if ahead is not None else None


@pytest.mark.parametrize(
    ("monotonic", "boot", "finds"),
    [
        (60, "a", timedelta(hours=2)),
        (0, "a", timedelta(hours=2)),
        (-1, "a", None),  # another boot, whatever it is called
        (60, "b", None),
    ],
)
def test_a_start_finds_a_step_of_the_same_boot_only(
    tmp_path: Path, monotonic: float, boot: str, finds: timedelta | None
) -> None:
    """
    A clock that began anew says nothing of the time before.
    """
    path = tmp_path / "file"
    path.touch()
    time = Time()
    time.seconds = 5000.0
    assert ([], None) == remembered(path, time, "a")
    time.seconds += 60
    time.booted_at = 60.0 - monotonic
    time.set_by = 7200.0 + time.monotonic() - 5000.0 - 60
    assert ([], finds) == remembered(path, time, boot)


def test_a_step_is_kept_once(tmp_path: Path) -> None:
    """
    Each later start is told of it, at the moment by the ledger's clock at which it was noticed, and finds no other.
    """
    path = tmp_path / "file"
    path.touch()
    time = Time()
    remembered(path, time)
    time.seconds, time.set_by = 60.0, 7200.0
    assert ([], timedelta(hours=2)) == remembered(path, time)
    for _ in range(3):
        time.seconds += 60
        assert ([timedelta(hours=2)], timedelta()) == remembered(path, time)
    with opened(path) as connection:
        clock = LedgerClock(now=time.now, monotonic=time.monotonic, boot="")
        [step], _ = clock.remembered(connection)
        assert (60.0, BEGIN + timedelta(seconds=60)) == (step.at, step.shown)
        # After a reboot its moment lies before the beginning of the new clock.
        time.booted_at = time.seconds = 1000.0
        clock = LedgerClock(now=time.now, monotonic=time.monotonic, boot="another")
        [step], ahead = clock.remembered(connection)
        assert (-180.0, None) == (step.at, ahead)


def test_small_corrections_add_up(tmp_path: Path) -> None:
    """
    Each is less than a step, and none becomes what the next one is compared with.
    """
    path = tmp_path / "file"
    path.touch()
    time = Time()
    for _ in range(6):
        found = remembered(path, time)
        time.seconds += 60
        time.set_by += 1.1

    assert ([], timedelta(seconds=5.5)) == found
    assert ([timedelta(seconds=5.5)], timedelta(seconds=1.1)) == remembered(path, time)


def test_however_often_a_clock_is_set_the_file_does_not_grow(tmp_path: Path) -> None:
    """
    Many steps become one, and none is forgotten.
    """
    path = tmp_path / "file"
    path.touch()
    time = Time()
    for _ in range(3 * MOST_STEPS):
        remembered(path, time)
        time.seconds += 1
        time.set_by += 60
    with opened(path) as connection:
        steps, ahead = LedgerClock(now=time.now, monotonic=time.monotonic, boot="").remembered(connection)
    clock = WallClock(now=time.now, monotonic=time.monotonic)
    clock.recall(steps, ahead)

    assert MOST_STEPS == len(steps)
    assert timedelta(minutes=3 * MOST_STEPS) == clock.set_forward_since(BEGIN)
