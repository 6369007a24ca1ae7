"""stopper: a clock that is set, in whichever direction and whenever, never allows more stops than one that is left."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import time, timedelta
from pathlib import Path

import pytest

from ssis_exporter.errors import SourceUnreachable
from ssis_exporter.ledger import read_events
from ssis_exporter.policy import Action, Breaker, Hours, Match, Policy, Rule
from tests.stopping import BEGIN, EVERYTHING, Scene, play

BREAKER = Breaker(stops=2, window=timedelta(minutes=10))
STEPS = [pytest.param(seconds, id=f"{seconds:+}s") for seconds in (-31_536_000, -3600, -700, 700, 3600, 31_536_000)]


async def stops(scene: Scene, *instance_ids: str) -> list[str]:
    """What becomes of runs that are nominated one after the other."""
    outcomes = []
    for instance_id in instance_ids:
        scene.source.start(instance_id)
        await scene.stopper.submit([scene.nominate(instance_id)])
        outcomes.append(await scene.outcome(instance_id))
    return outcomes


@pytest.mark.parametrize("step", STEPS)
def test_a_clock_that_is_set_empties_no_breaker(tmp_path: Path, step: float) -> None:
    """
    Two stops, the clock is set, the third is refused; once the window has passed by a clock that nobody can set, it
    is allowed.
    """

    async def work(scene: Scene) -> None:
        assert ["stopped", "stopped"] == await stops(scene, "1", "2")
        scene.time.set_by = step
        assert ["refused"] == await stops(scene, "3")
        assert "breaker_open" == scene.reason()
        assert 1 == scene.value("ssis_stop_breaker_open")
        await scene.time.advance(9 * 60)
        assert ["refused"] == await stops(scene, "4")
        await scene.time.advance(61)
        assert 0 == scene.value("ssis_stop_breaker_open")
        assert ["stopped"] == await stops(scene, "5")

    play(tmp_path, work, breaker=BREAKER)


@pytest.mark.parametrize("reboots", [False, True], ids=["restart", "reboot"])
@pytest.mark.parametrize("step", STEPS)
def test_a_clock_that_is_set_before_a_restart_empties_no_breaker(tmp_path: Path, step: float, *, reboots: bool) -> None:
    """
    Nobody watched the clock in between: what is not proven to have passed has not.
    """

    async def work(scene: Scene) -> None:
        assert ["stopped", "stopped"] == await stops(scene, "1", "2")
        scene.time.set_by = step
        await scene.restart(reboots=reboots)
        assert 1 == scene.value("ssis_stop_breaker_open")
        assert ["refused"] == await stops(scene, "3")
        await scene.time.advance(601)
        assert ["stopped"] == await stops(scene, "4")

    play(tmp_path, work, breaker=BREAKER)


@pytest.mark.parametrize("reboots", [False, True], ids=["restart", "reboot"])
def test_old_stops_count_no_longer_after_a_restart(tmp_path: Path, *, reboots: bool) -> None:
    """
    What left the window while the exporter ran does not come back, also when it was killed.
    """

    async def work(scene: Scene) -> None:
        assert ["stopped", "stopped"] == await stops(scene, "1", "2")
        await scene.time.advance(605)

        async def killed() -> None:
            await scene.ledger.database.close()

        scene.ledger.close = killed  # type: ignore[method-assign]
        await scene.restart(reboots=reboots)
        assert 0 == scene.value("ssis_stop_breaker_open")
        assert ["stopped", "stopped"] == await stops(scene, "3", "4")

    play(tmp_path, work, breaker=BREAKER)


def test_time_counts_while_the_exporter_does_not_run(tmp_path: Path) -> None:
    """
    Commands that stop without a service are processes of their own; the window passes between them, too.
    """

    async def work(scene: Scene) -> None:
        for number in range(6):
            scene.time.seconds += 301
            await scene.restart()
            assert ["stopped"] == await stops(scene, str(number))

    play(tmp_path, work, breaker=BREAKER)


@pytest.mark.parametrize("step", [-7200.0, 86_400.0])
def test_a_clock_that_is_set_before_a_restart_keeps_no_nomination_alive(tmp_path: Path, step: float) -> None:
    """
    What a nomination waited before a restart counts, whatever the clock says after it.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.source.fail_with = SourceUnreachable("nobody answers")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(14 * 60)
        scene.time.set_by = step
        await scene.restart()
        await scene.time.advance(61)
        assert "expired" == await scene.outcome("1")
        assert scene.time.seconds <= 15 * 60 + 10

    play(tmp_path, work)


def test_a_machine_that_slept_stops_nothing_old(tmp_path: Path) -> None:
    """
    While it slept only the clock on the wall went on, and that is enough for a nomination to expire.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.source.fail_with = SourceUnreachable("nobody answers")
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(1)
        scene.time.set_by = 16 * 60.0
        scene.source.fail_with = None
        assert "expired" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work)


def test_a_clock_that_is_set_and_set_right_makes_no_run_old(tmp_path: Path) -> None:
    """
    The clock is looked at also while nothing is nominated: a run that began while it was wrong is as old as it is.
    """

    async def work(scene: Scene) -> None:
        scene.time.set_by = -7200.0
        await scene.time.advance(60)
        scene.source.start("1")
        scene.time.set_by = 0.0
        await scene.time.advance(60)
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        assert "too_young" == scene.reason()

    play(tmp_path, work, rules=[replace(EVERYTHING, min_duration=timedelta(hours=1))])


def at_night(scene: Scene) -> None:
    """Two hours forward, into the hours of the rule."""
    scene.time.set_by = 7200.0


def by_day(scene: Scene) -> None:
    """Eleven hours back, into the hours of the rule of the day before."""
    scene.time.set_by = -39_600.0


@pytest.mark.parametrize(
    ("change", "hours"),
    [(at_night, Hours(time(22), time(6))), (by_day, Hours(time(9), time(17)))],
)
def test_a_clock_that_is_set_opens_no_hours(tmp_path: Path, change: Callable[[Scene], None], hours: Hours) -> None:
    """
    It is 21:00. For an hour the hours must hold by the clock as it was, too; then the new one is believed.
    """

    async def work(scene: Scene) -> None:
        await scene.time.advance(1)
        change(scene)
        assert ["refused"] == await stops(scene, "1")
        assert "outside_hours" == scene.reason()
        assert "stops only during" in scene.stopper.last_outcomes(1)[0].text
        await scene.time.advance(1800 if hours.start == time(22) else 3600)
        expected = "refused" if hours.start == time(22) else "stopped"
        assert [expected] == await stops(scene, "2")
        await scene.time.advance(1801)
        assert ["stopped"] == await stops(scene, "3")

    assert 21 == BEGIN.hour
    play(tmp_path, work, rules=[replace(EVERYTHING, hours=hours)])


def test_a_clock_that_is_set_forward_makes_no_run_old(tmp_path: Path) -> None:
    """
    A source on this machine tells ages by this machine's clock: a run of a minute stays one of a minute.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.time.advance(60)
        scene.time.set_by = 7200.0
        [run] = scene.source.snapshot().executions
        assert run.duration > timedelta(hours=2)
        for _ in range(2):
            await scene.stopper.submit([scene.nominate("1")])
            assert "refused" == await scene.outcome("1")
            assert "too_young" == scene.reason()
            await scene.time.advance(25 * 60)
        await scene.time.advance(10 * 60)
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, rules=[replace(EVERYTHING, min_duration=timedelta(hours=1))])


AN_HOUR = replace(EVERYTHING, min_duration=timedelta(hours=1))
IN_TWO_HOURS = replace(EVERYTHING, hours=Hours(time(23), time(6)))


@pytest.mark.parametrize("noticed", [True, False], ids=["while it ran", "while it did not run"])
@pytest.mark.parametrize("ends", ["in order", "killed"])
def test_a_restart_does_not_forget_that_a_clock_was_set(tmp_path: Path, ends: str, *, noticed: bool) -> None:
    """
    A run of a minute stays one of a minute, and for an hour the hours must hold for both readings; however the
    exporter ended, and whether it saw the clock being set.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await stops(scene, "other")
        await scene.time.advance(60)
        if noticed:
            scene.time.set_by = 7200.0
            await scene.time.advance(5)
        if ends == "killed":
            scene.ledger.close = scene.ledger.database.close  # type: ignore[method-assign]
        await scene.stopper.close()
        scene.storage.release()
        scene.time.set_by = 7200.0
        scene.time.seconds += 5
        scene.settings = replace(scene.settings, policy=Policy((IN_TWO_HOURS,)))
        await scene.restart()
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        assert "outside_hours" == scene.reason()
        await scene.restart()
        scene.stopper.reconfigure(replace(scene.settings, policy=Policy((AN_HOUR,))))
        await scene.time.advance(50 * 60)
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")
        assert "too_young" == scene.reason()
        await scene.time.advance(10 * 60)
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")

    play(tmp_path, work, rules=[Rule(match=Match(package_name="Other*"), action=Action.STOP)])


@pytest.mark.parametrize("step", [-7200.0, 7200.0])
def test_what_was_noticed_before_a_reboot_counts_after_it(tmp_path: Path, step: float) -> None:
    """
    Of the moment of the reboot nothing is known; of what was written down before it, everything.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        await scene.time.advance(60)
        scene.time.set_by = step
        await scene.time.advance(5)
        await scene.restart(reboots=True)
        shown = [reading - scene.time.now() for reading in scene.stopper._around.clock.readings()]
        assert [timedelta(), timedelta(seconds=-step)] == shown
        await scene.stopper.submit([scene.nominate("1")])
        assert "refused" == await scene.outcome("1")

    play(tmp_path, work, rules=[AN_HOUR])


@pytest.mark.parametrize("away", [60.0, 86_400.0])
@pytest.mark.parametrize("reboots", [False, True], ids=["restart", "reboot"])
def test_a_clock_that_nobody_set_leaves_no_doubt_after_a_restart(tmp_path: Path, away: float, *, reboots: bool) -> None:
    """
    However long the exporter did not run.
    """

    async def work(scene: Scene) -> None:
        await stops(scene, "1")
        await scene.stopper.close()
        scene.storage.release()
        scene.time.seconds += away
        await scene.restart(reboots=reboots)
        assert [scene.time.now()] == scene.stopper._around.clock.readings()

    play(tmp_path, work)


def test_a_reboot_without_a_name_is_told_by_how_long_the_machine_was_up(tmp_path: Path) -> None:
    """
    Not every system names its boots. The exporter had nothing to do and was killed with its machine; the next start,
    a little later after its boot than the first one, does not take the time between for a clock that was set.
    """

    async def work(scene: Scene) -> None:
        await scene.time.advance(2 * 3600)
        scene.ledger.close = scene.ledger.database.close  # type: ignore[method-assign]
        await scene.stopper.close()
        scene.storage.release()
        scene.time.seconds += 3 * 86_400
        scene.time.booted_at = scene.time.seconds - 60
        await scene.restart()
        assert [scene.time.now()] == scene.stopper._around.clock.readings()

    play(tmp_path, work, names_boots=False)


async def end_with_older_ledger(scene: Scene, *statements: str) -> None:
    """The exporter ends, and its ledger becomes what an older version would have left."""
    await scene.stopper.close()
    scene.storage.release()
    with contextlib.closing(sqlite3.connect(scene.storage.folder / "ledger.sqlite")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_ledger_of_the_second_format_knows_when_it_was_last_open(tmp_path: Path) -> None:
    """
    A clock that was set before the first start of this version is noticed by that start.
    """

    async def work(scene: Scene) -> None:
        await stops(scene, "1")
        await end_with_older_ledger(
            scene,
            "ALTER TABLE clock DROP COLUMN since_wall",
            "ALTER TABLE clock DROP COLUMN since_monotonic",
            "ALTER TABLE clock DROP COLUMN boot",
            "DROP TABLE clock_steps",
            "PRAGMA user_version = 2",
        )
        scene.time.set_by = -3600.0
        await scene.restart()
        assert 2 == len(scene.stopper._around.clock.readings())
        await scene.restart()
        assert 2 == len(scene.stopper._around.clock.readings())

    play(tmp_path, work)


def test_how_long_a_stop_took_is_no_matter_of_the_wall(tmp_path: Path) -> None:
    """
    The clock is set between the request and the proof.
    """

    async def work(scene: Scene) -> None:
        scene.source.start("1")
        scene.source.obeys = False
        await scene.stopper.submit([scene.nominate("1")])
        await scene.time.advance(10)
        scene.time.set_by = 86_400.0
        scene.source.end("1")
        assert "stopped" == await scene.outcome("1")
        took = scene.value("ssis_stop_duration_seconds_sum")
        assert took is not None
        assert 10 <= took < 60

    play(tmp_path, work)


def test_a_ledger_of_before_has_its_stops_counted_once_more(tmp_path: Path) -> None:
    """
    A file of the first format knows only the wall: all its stops count as made in the moment of the first start.
    """

    async def work(scene: Scene) -> None:
        assert ["stopped", "stopped"] == await stops(scene, "1", "2")
        await end_with_older_ledger(
            scene,
            "DROP INDEX places",
            "ALTER TABLE runs DROP COLUMN placed_after",
            "ALTER TABLE runs DROP COLUMN nominated_after",
            "DROP TABLE clock",
            "DROP TABLE clock_steps",
            "CREATE INDEX places ON runs (placed_at) WHERE placed_at IS NOT NULL",
            "PRAGMA user_version = 1",
        )
        scene.time.seconds += 86_400
        await scene.restart()
        assert ["refused"] == await stops(scene, "3")
        await scene.time.advance(601)
        assert ["stopped"] == await stops(scene, "4")

    play(tmp_path, work, breaker=BREAKER)

    assert 4 == len([event for event in read_events(tmp_path) if event.outcome is not None])
