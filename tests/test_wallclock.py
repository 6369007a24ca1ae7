"""wallclock: a clock that is set is noticed, and makes no run older and no hour right."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ssis_exporter.wallclock import DOUBT, MOST_STEPS, Step, WallClock
from tests.stopping import BEGIN, Time


def watched() -> tuple[Time, WallClock]:
    time = Time()
    return time, WallClock(now=time.now, monotonic=time.monotonic)


@pytest.mark.parametrize("by", [-86_400.0, -5.0, 5.0, 86_400.0])
def test_a_step_leaves_two_readings_for_an_hour(by: float) -> None:
    """
    What the clock shows, and what it would show had it not been set; afterwards it is believed.
    """
    time, clock = watched()
    time.seconds, time.set_by = 60.0, by
    first = clock.readings()
    time.seconds += DOUBT.total_seconds() - 1
    last = clock.readings()
    time.seconds += 1

    assert [time.now() - DOUBT, time.now() - DOUBT - timedelta(seconds=by)] == first
    assert 2 == len(last)
    assert [time.now()] == clock.readings()


def test_time_that_passes_is_no_step() -> None:
    """
    Neither is a correction by less than five seconds; many of them together are one.
    """
    time, clock = watched()
    for _ in range(49):
        time.seconds += 3600
        time.set_by += 0.1
        assert [time.now()] == clock.readings()
    assert timedelta() == clock.set_forward_since(BEGIN)
    time.set_by += 0.2

    assert timedelta(seconds=5.1) == clock.set_forward_since(BEGIN)


def test_only_steps_after_its_beginning_make_a_run_look_old() -> None:
    """
    A run that began later began by the clock as it is now; a step back makes none look older.
    """
    time, clock = watched()
    for at, by in ((100.0, 3600.0), (200.0, -600.0), (300.0, 60.0)):
        time.seconds, time.set_by = at, time.set_by + by
        clock.look()

    assert timedelta(seconds=3060) == clock.set_forward_since(BEGIN)
    assert timedelta(seconds=60) == clock.set_forward_since(BEGIN + timedelta(seconds=101))
    assert timedelta() == clock.set_forward_since(time.now())


def test_a_time_that_the_clock_showed_twice_is_the_one_that_makes_a_run_younger() -> None:
    """
    Set back and then forward by more, soon: a run of before the first step looks too old by the difference, one of
    between them by the whole second step.
    """
    time, clock = watched()
    for at, by in ((100.0, -700.0), (121.0, 86_400.0)):
        time.seconds, time.set_by = at, time.set_by + by
        clock.look()

    assert timedelta(seconds=85_700) == clock.set_forward_since(BEGIN + timedelta(seconds=50))
    assert timedelta(seconds=86_400) == clock.set_forward_since(BEGIN - timedelta(seconds=590))
    assert timedelta() == clock.set_forward_since(BEGIN + timedelta(seconds=101))


def test_however_often_it_is_set_little_is_kept_and_nothing_forgotten() -> None:
    """
    Many steps become one, whose sum is theirs.
    """
    time, clock = watched()
    for _ in range(3 * MOST_STEPS):
        time.seconds += 1
        time.set_by += 60
        clock.look()

    assert timedelta(minutes=3 * MOST_STEPS) == clock.set_forward_since(BEGIN)
    assert MOST_STEPS + 1 == len(clock.readings())


def test_what_was_noticed_since_the_start_is_not_counted_twice() -> None:
    """
    The ledger is read late, because it could not be opened: only what was before the start comes from it, and once.
    """
    time, clock = watched()
    time.seconds, time.set_by = 60.0, 3600.0
    clock.look()
    before = Step(at=-60.0, shown=BEGIN - timedelta(seconds=60), by=timedelta(seconds=600))
    for _ in range(2):
        clock.recall([before], ahead=BEGIN.timestamp() - 60.0)

    assert timedelta(seconds=4260) == clock.set_forward_since(BEGIN - timedelta(hours=1))
    assert timedelta(seconds=3600) == clock.set_forward_since(BEGIN + timedelta(seconds=1))
    back = [timedelta(seconds=seconds) for seconds in (0, 3600, 3660, 4260)]
    assert [time.now() - one for one in back] == clock.readings()


@pytest.mark.parametrize("ahead", [None, 0.0, 4.9, -4.9])
def test_a_start_that_finds_no_step_has_no_doubt(ahead: float | None) -> None:
    """
    Nobody knows, or both clocks went on alike but for what is no step.
    """
    time, clock = watched()
    clock.recall([], None if ahead is None else BEGIN.timestamp() + ahead)

    assert [time.now()] == clock.readings()
