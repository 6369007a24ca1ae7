"""A disk that hangs: it is told, nothing waits for it that need not, and what it forgot is written when it is back."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import ssis_exporter.history as history_module
from ssis_exporter.cli import exits
from ssis_exporter.errors import StorageSlow
from ssis_exporter.history import History
from ssis_exporter.historyfile import NAME, SCHEMA
from ssis_exporter.historyfile import load as load_history
from ssis_exporter.model import (
    EndedExecution,
    ExecutionFacts,
    ExecutionKey,
    Result,
    Scope,
    Snapshot,
    Visibility,
)
from ssis_exporter.storage import Database, StorageMetrics
from ssis_exporter.storagefolder import Storage
from tests.hangingdisk import HangingDisk
from tests.stopping import Scene, kinds, play
from tests.test_history_serve import Estate, counted, value

STOP = """
stop:
  mode: armed
  listen_address: 127.0.0.1:0
  rules: [{match: {package_name: "*"}, action: stop}]
"""
NOTES = ("CREATE TABLE notes (text TEXT NOT NULL)",)
SHORT = 0.05
DEADLINE = 60.0


async def until(condition: Callable[[], bool]) -> None:
    """Waits for it."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


def test_who_comes_while_the_disk_hangs_is_sent_away(tmp_path: Path) -> None:
    """
    What was begun waits and is written in the end; what comes later is not written, and says so at once.
    """
    registry = CollectorRegistry()
    let_go = threading.Event()

    def up() -> float | None:
        return registry.get_sample_value("ssis_storage_up")

    def insert(connection: sqlite3.Connection, text: str) -> None:
        connection.execute("INSERT INTO notes VALUES (?)", [text])

    def insert_slowly(connection: sqlite3.Connection) -> None:
        let_go.wait(DEADLINE)
        insert(connection, "begun before")

    async def main() -> list[tuple[str]]:
        storage = Storage(tmp_path)
        database = Database(storage, "notes.sqlite", NOTES, metrics=StorageMetrics(registry), slow_seconds=SHORT)
        await database.open()
        begun = asyncio.create_task(database.write(insert_slowly))
        await until(lambda: database.trouble is not None)
        assert 0.0 == up()
        for late in (database.write(lambda connection: insert(connection, "later")), database.open()):
            with pytest.raises(StorageSlow, match=r"notes\.sqlite: the disk has not answered for 0\.05 seconds"):
                await late
        assert not begun.done()
        let_go.set()
        await begun
        assert 1.0 == up()
        found: list[tuple[str]] = await database.read(lambda c: c.execute("SELECT text FROM notes").fetchall())
        await database.close()
        storage.release()
        return found

    assert [("begun before",)] == asyncio.run(main())
    assert 3.0 == registry.get_sample_value("ssis_storage_errors_total", {"reason": "timeout"})


def test_counting_goes_on_while_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    In memory; once the disk answers, the file holds all of it.
    """
    monkeypatch.setattr(history_module, "WRITE_WAITS", SHORT)
    now = datetime.now(UTC)
    let_go = threading.Event()

    def ended(number: int) -> Snapshot:
        key = ExecutionKey("sql01", str(number))
        facts = ExecutionFacts(key=key, package_name="Load Sales", started_at=now - timedelta(minutes=number))
        end = EndedExecution(facts=facts, result=Result.FAILED, ended_at=now, duration=timedelta(minutes=number))
        return Snapshot(
            source="sql01",
            taken_at=now,
            visibility=Visibility(Scope.ALL),
            executions=(),
            ended=(end,),
            records_ends=True,
            bookmark=str(number),
        )

    class Hanging(Database):
        hangs = False

        def _committed(self) -> None:
            if self.hangs:
                let_go.wait(DEADLINE)

    async def main() -> None:
        storage = Storage(tmp_path)
        database = Hanging(storage, NAME, SCHEMA, slow_seconds=SHORT)
        history = History(database, now=lambda: now)
        await history.open()

        def failures() -> int:
            return sum(record.counts[Result.FAILED] for record in history.records())

        history.observe(ended(1))
        await until(lambda: failures() == 1)
        database.hangs = True
        for number in range(2, 12):
            history.observe(ended(number))
            await until(lambda number=number: failures() == number)  # type: ignore[misc]
        assert isinstance(database.trouble, StorageSlow)
        let_go.set()
        await until(lambda: database.trouble is None)
        history.observe(ended(12))
        await until(lambda: failures() == 12)
        await history.close()
        assert not history.is_left_behind
        storage.release()

    asyncio.run(main())

    with sqlite3.connect(tmp_path / NAME) as connection:
        [record] = load_history(connection).packages.values()
    connection.close()
    assert 12 == record.counts[Result.FAILED]


def test_a_look_that_is_old_by_the_time_the_ledger_is_written_stops_nothing(tmp_path: Path) -> None:
    """
    It is looked again, and all that was said meanwhile counts.
    """

    async def work(scene: Scene) -> None:
        request = scene.ledger.request
        looks = scene.source.calls

        async def hanging(*arguments: object) -> object:
            scene.ledger.request = request  # type: ignore[method-assign]
            requested = await request(*arguments)  # type: ignore[arg-type]
            scene.time.seconds += 240
            return requested

        scene.ledger.request = hanging  # type: ignore[method-assign, assignment]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "stopped" == await scene.outcome("1")
        assert 1 == len(scene.source.stop_requests)
        assert scene.source.calls >= looks + 2

    play(tmp_path, work)

    assert ["requested", "not_asked", "allowed", "requested", "asked"] == [
        kind for kind in kinds(tmp_path) if kind in ("requested", "not_asked", "asked", "allowed")
    ][1:]


def test_a_request_that_outlasts_its_time_on_a_hanging_disk_stops_nothing(tmp_path: Path) -> None:
    """
    After hours nobody knows whether anybody still wants it.
    """

    async def work(scene: Scene) -> None:
        request = scene.ledger.request

        async def hanging(*arguments: object) -> object:
            requested = await request(*arguments)  # type: ignore[arg-type]
            scene.time.seconds += 3 * 3600
            return requested

        scene.ledger.request = hanging  # type: ignore[method-assign, assignment]
        scene.source.start("1")
        await scene.stopper.submit([scene.nominate("1")])
        assert "expired" == await scene.outcome("1")
        assert [] == scene.source.stop_requests

    play(tmp_path, work)


@pytest.mark.real
@pytest.mark.parametrize("stop", ["", STOP], ids=["without stopping", "armed"])
def test_serve_counts_tells_and_ends_while_its_disk_hangs(tmp_path: Path, stop: str) -> None:
    """
    The metrics go on, the storage is down with its reason, SIGTERM ends it; the next start finds what was not written.
    """
    estate = Estate(tmp_path)
    with estate.path.open("a") as config:
        config.write(stop)
    disk = HangingDisk(tmp_path)
    estate.env = {**estate.env, **disk.env}
    with estate.serving() as serving:
        serving.wait_for("the past of sql01 was read")
        estate.ends("1,Load Sales,failed")
        serving.get("/metrics")
        serving.stop()
    with estate.serving() as serving:
        disk.hang()
        estate.ends("2,Load Sales,failed")
        serving.get("/metrics")
        serving.wait_for("the disk has not answered for 5 seconds")
        estate.ends("3,Load Sales,failed", "4,Load Sales,failed")
        deadline = time.monotonic() + DEADLINE
        while counted(page := serving.get("/metrics").text) != {"failed": 4} and time.monotonic() < deadline:
            time.sleep(0.05)
        assert {"failed": 4} == counted(page)
        assert 0 == value(page, "ssis_storage_up")
        assert exits.OK == serving.stop()
        assert any("is found out again by the next start" in line for line in serving.lines)
    disk.answer()
    with estate.serving() as serving:
        page = serving.get("/metrics").text
        assert 1 == value(page, "ssis_storage_up")
        assert {"failed": 4} == counted(page)
        serving.stop()
