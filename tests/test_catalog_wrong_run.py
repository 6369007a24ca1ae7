"""An id of the catalog names one run of one database only: alerts about another database's run stop nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog.look import ServerClock
from ssis_exporter.sources.catalog.patience import Patience
from tests.catalogs import Rig, ids, windows_auth, windows_rig
from tests.stopping import EVERYTHING, GRACE, InlineWorker, Scene, play


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    with windows_rig(tmp_path) as one:
        yield one


@pytest.fixture
def other(made: Rig, tmp_path: Path) -> Iterator[Rig]:
    """To which the same name in DNS may lead; it knows the same account as `made`."""
    (tmp_path / "other").mkdir()
    with windows_rig(tmp_path / "other") as one:
        one.estate.server_name = "SQL02"
        yield one


def source_of(made: Rig, scene: Scene, name: str = "sql01") -> CatalogSource:
    """One that looks at this server."""
    ticks = itertools.count()
    patience = Patience(monotonic=lambda: 10.0 * next(ticks), jitter=lambda: 0.0)
    return made.source(
        name,
        settings=made.settings(auth=windows_auth(made)),
        now=scene.time.now,
        monotonic=scene.time.monotonic,
        pause=lambda _: None,
        patience=patience,
    )


async def nominate(scene: Scene, asked_since: datetime) -> tuple[str, str | None]:
    """What becomes of a nomination by an alert that began then, and why."""
    await scene.stopper.submit([scene.nominate("70", "sql01", asked_since=asked_since)])
    return await scene.outcome("70", "sql01"), scene.reason()


@pytest.mark.parametrize("hours", [-3, 0, 3])
def test_an_alert_is_older_than_its_run_whatever_the_servers_clock_says(made: Rig, hours: int) -> None:
    """
    After a restore the id is given out again; on a server whose clock is behind, the new run looks older than it is.
    """

    async def work(scene: Scene) -> None:
        made.estate.now = lambda: scene.time.now() + timedelta(hours=hours)
        scene.workers["sql01"] = InlineWorker(source_of(made, scene))
        about_the_one_before = scene.time.now()
        await scene.time.advance(60)
        made.estate.add(70)
        await scene.time.advance(60)

        assert ("refused", "alert_before_run") == await nominate(scene, about_the_one_before)
        assert [] == made.server.stop_operation.calls
        if hours <= 0:
            assert ("stopped", None) == await nominate(scene, scene.time.now())

    play(made.folder / "state", work, sources=["sql01"])


@pytest.mark.parametrize("known_by", ["an earlier life", "the life before that", "an earlier look"])
def test_another_server_under_the_same_name_is_asked_for_nothing_of_before(
    made: Rig, other: Rig, tmp_path: Path, known_by: str
) -> None:
    """
    A reload, or the name in DNS, leads to another server, where the id is a run that began before the alert did.
    """

    async def work(scene: Scene) -> None:
        made.estate.now = other.estate.now = scene.time.now
        for one in (made, other):
            one.estate.add(70)
        await scene.time.advance(600)
        source = source_of(made, scene)
        seen = source.snapshot()
        about_the_first = scene.time.now()
        await scene.time.advance(60)
        if known_by == "an earlier look":
            source._settings = other.settings(auth=source._settings.auth)
            source.close()
        else:
            source = source_of(other, scene)
            source.resume(seen.bookmark, ["70"])
        if known_by == "the life before that":
            bookmarks = [source.snapshot().bookmark, source.snapshot().bookmark]
            await scene.time.advance(60)
            bookmarks.append(source.snapshot().bookmark)
            assert 1 == len(set(bookmarks))
            source = source_of(other, scene)
            source.resume(bookmarks[0], ["70"])
        scene.workers["sql01"] = InlineWorker(source)

        assert ("refused", "alert_before_run") == await nominate(scene, about_the_first)
        assert [] == made.server.stop_operation.calls + other.server.stop_operation.calls
        assert "known under its name since" in scene.stopper.last_outcomes()[0].text
        await scene.time.advance(60)
        assert ("stopped", None) == await nominate(scene, scene.time.now())
        assert ([], [70]) == (made.server.stop_operation.calls, other.server.stop_operation.calls)

    play(tmp_path / "state", work, sources=["sql01"])


def test_a_restart_on_the_same_catalog_takes_alerts_of_before(made: Rig) -> None:
    """
    Nothing became another one: the alert that is firing still is about this run.
    """

    async def work(scene: Scene) -> None:
        made.estate.now = scene.time.now
        made.estate.add(70)
        await scene.time.advance(600)
        seen = source_of(made, scene).snapshot()
        asked_since = scene.time.now()
        await scene.time.advance(60)
        source = source_of(made, scene)
        source.resume(seen.bookmark, ["70"])
        scene.workers["sql01"] = InlineWorker(source)

        assert ("stopped", None) == await nominate(scene, asked_since)

    play(made.folder / "state", work, sources=["sql01"])


def test_two_sources_that_lead_to_one_server_ask_it_once(made: Rig) -> None:
    """
    An alias and a listener: what the one asked for, the other finds to be stopping.
    """
    made.server.stop_operation.obeys = False

    async def work(scene: Scene) -> None:
        made.estate.now = scene.time.now
        made.estate.add(70)
        await scene.time.advance(600)
        for name in ("sql01", "alias"):
            scene.workers[name] = InlineWorker(source_of(made, scene, name))
        await scene.stopper.submit([scene.nominate("70", name) for name in scene.workers])
        await scene.time.advance(60)
        made.estate.end(70, 3)
        assert {"stopped"} == {await scene.outcome("70", name) for name in scene.workers}

    play(made.folder / "state", work, sources=["sql01", "alias"])
    assert [70] == made.server.stop_operation.calls


@pytest.mark.parametrize("asked", [False, True], ids=["in grace", "asked"])
def test_another_server_proves_no_end(made: Rig, other: Rig, tmp_path: Path, *, asked: bool) -> None:
    """
    The name in DNS leads elsewhere while a stop is under way: that the run is not there says nothing of it.
    """
    made.server.stop_operation.obeys = False

    async def work(scene: Scene) -> None:
        made.estate.now = other.estate.now = scene.time.now
        made.estate.add(70)
        await scene.time.advance(600)
        source = source_of(made, scene)
        scene.workers["sql01"] = InlineWorker(source)
        await scene.stopper.submit([scene.nominate("70", "sql01")])
        await scene.time.advance(30)
        source._settings = other.settings(auth=source._settings.auth)
        source.close()

        assert ("unconfirmed" if asked else "expired") == await scene.outcome("70", "sql01")
        assert "another one" in scene.stopper.last_outcomes()[0].text

    play(tmp_path / "state", work, sources=["sql01"], rules=[EVERYTHING if asked else GRACE])
    assert ([70] if asked else []) == made.server.stop_operation.calls


def test_a_run_that_was_asked_on_the_other_server_is_proved_there(made: Rig, other: Rig, tmp_path: Path) -> None:
    """
    Only what was asked before the change is in doubt.
    """

    async def work(scene: Scene) -> None:
        made.estate.now = other.estate.now = scene.time.now
        other.estate.add(70)
        await scene.time.advance(600)
        source = source_of(other, scene)
        source.resume(source_of(made, scene).snapshot().bookmark, [])
        scene.workers["sql01"] = InlineWorker(source)
        source.snapshot()
        await scene.time.advance(60)

        assert ("stopped", None) == await nominate(scene, scene.time.now())

    play(tmp_path / "state", work, sources=["sql01"])


@pytest.mark.parametrize("jump", [0, 3])
def test_a_servers_clock_that_is_set_forward_makes_no_run_old_enough(made: Rig, jump: int) -> None:
    """
    Ten minutes old, and three hours by the server from one look to the next: it has still to wait.
    """
    behind = timedelta(hours=jump)

    async def work(scene: Scene) -> None:
        shift = -behind
        made.estate.now = lambda: scene.time.now() + shift
        made.estate.add(70)
        source = source_of(made, scene)
        scene.workers["sql01"] = InlineWorker(source)
        for _ in range(10):
            source.snapshot()
            await scene.time.advance(60)
        shift = timedelta()

        assert ("refused", "too_young") == await nominate(scene, scene.time.now())
        [run] = source.snapshot().executions
        assert timedelta(minutes=10) + behind == run.duration
        await scene.time.advance(25 * 60)
        assert ("stopped", None) == await nominate(scene, scene.time.now())

    play(
        made.folder / "state", work, sources=["sql01"], rules=[replace(EVERYTHING, min_duration=timedelta(minutes=30))]
    )


def test_a_slow_look_is_no_clock_that_was_set() -> None:
    """
    Only what cannot be explained by when the server read its clock counts; a clock that is set back makes nobody older.
    """
    moment = datetime(2026, 3, 1, 8, tzinfo=UTC)
    clock = ServerClock("sql01")
    for seconds, asked_at, told_at in ((0, 0, 60), (60, 60, 61), (64, 61, 121), (-3600, 121, 122), (-3590, 132, 132)):
        clock.shown(moment + timedelta(seconds=seconds), asked_at=asked_at, told_at=told_at)
    assert () == clock.set_forward

    for _ in range(50):
        clock.shown(moment, asked_at=132, told_at=132)
        clock.shown(moment + timedelta(hours=1), asked_at=132, told_at=132)
    assert 20 == len(clock.set_forward)
    assert (moment, timedelta(hours=1)) == clock.set_forward[-1]


@pytest.mark.parametrize("hours", [-3, 3])
@pytest.mark.parametrize("start", [datetime.min, datetime.max])
def test_a_start_at_the_end_of_time_disturbs_nothing(made: Rig, hours: int, start: datetime) -> None:
    """
    Whatever a row says, it is judged, and the others are seen.
    """

    async def work(scene: Scene) -> None:
        made.estate.now = lambda: scene.time.now() + timedelta(hours=hours)
        made.estate.add(70, start_time=start.replace(tzinfo=UTC))
        made.estate.add(71)
        source = source_of(made, scene)
        scene.workers["sql01"] = InlineWorker(source)

        assert {70, 71} == ids(source.snapshot())
        expected = ("stopped", None) if start == datetime.min else ("refused", "alert_before_run")
        assert expected == await nominate(scene, scene.time.now())

    play(made.folder / "state", work, sources=["sql01"])
