"""Ended runs are counted once each, whatever happens to the exporter, the file and the server."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_exporter.history import RETRY_SECONDS, History
from ssis_exporter.historyfile import NAME, SCHEMA, PackageKey, PackageRecord
from ssis_exporter.historymetrics import HELD_SECONDS, HistoryMetrics
from ssis_exporter.model import (
    EndedExecution,
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Result,
    Scope,
    Snapshot,
    Visibility,
)
from ssis_exporter.storage import Database
from ssis_exporter.storagefolder import Storage

T0 = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
ALL = Visibility(Scope.ALL)
FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"
WAIT = timedelta(seconds=60)


@asynccontextmanager
async def history_in(
    folder: Path, *, now: datetime = T0, monotonic: Callable[[], float] = time.monotonic
) -> AsyncIterator[History]:
    """A history over the file in this folder, as one life of the exporter has it."""
    storage = Storage(folder)
    history = History(Database(storage, NAME, SCHEMA), now=lambda: now, monotonic=monotonic)
    await history.open()
    try:
        yield history
    finally:
        await history.close()
        storage.release()


def counts(history: History) -> Counter[tuple[str, str, Result]]:
    """Source, package and result to how often."""
    return Counter(
        {
            (record.key.source, record.key.name, result): count
            for record in history.records()
            for result, count in record.counts.items()
            if count
        }
    )


class Server:
    """Runs that begin and end, with a log of its own; what a source would show of them."""

    def __init__(self, name: str, rng: random.Random, *, records: bool) -> None:
        self.name = name
        self.records = records
        self.rng = rng
        self.now = T0
        self.running: dict[int, tuple[ExecutionFacts, datetime]] = {}
        self.log: list[EndedExecution] = []
        self.told_from = 0
        self.number = 0

    def step(self) -> None:
        """Some time passes: runs begin and end."""
        self.now += timedelta(seconds=self.rng.uniform(1, 30))
        for number, (facts, ends_at) in list(self.running.items()):
            if ends_at <= self.now:
                del self.running[number]
                result = self.rng.choice([Result.SUCCEEDED, Result.FAILED, Result.CANCELED])
                assert facts.started_at is not None
                self.log.append(
                    EndedExecution(
                        facts=facts,
                        result=result if self.records else Result.UNKNOWN,
                        ended_at=ends_at,
                        duration=ends_at - facts.started_at,
                    )
                )
        for _ in range(self.rng.randrange(4)):
            self.number += 1
            facts = ExecutionFacts(
                key=ExecutionKey(self.name, str(self.number)),
                package_name=f"Load {self.rng.randrange(20)}",
                started_at=self.now,
            )
            self.running[self.number] = (facts, self.now + timedelta(seconds=self.rng.expovariate(1 / 90)))

    def resume(self, bookmark: str) -> None:
        """A source's new life tells ends from the bookmark on."""
        self.told_from = int(bookmark or 0)

    def look(self, *, visibility: Visibility = ALL, clock_step: timedelta = timedelta()) -> Snapshot:
        """What a look shows now; a recording source tells its newest ends, some of them again."""
        taken_at = self.now + clock_step
        if visibility.scope is Scope.NONE:
            return Snapshot(
                source=self.name,
                taken_at=taken_at,
                visibility=visibility,
                records_ends=self.records,
                bookmark=str(self.told_from),
            )
        ended = tuple(self.log[max(self.told_from - 5, 0) :]) if self.records else ()
        self.told_from = len(self.log)
        runs = tuple(
            Execution(
                facts=facts,
                status=ExecutionStatus.RUNNING,
                duration=max(self.now - (facts.started_at or self.now), timedelta()),
            )
            for facts, _ in self.running.values()
        )
        return Snapshot(
            source=self.name,
            taken_at=taken_at,
            visibility=visibility,
            executions=runs,
            ended=ended,
            records_ends=self.records,
            bookmark=str(self.told_from) if self.records else "",
        )

    def ended(self) -> Counter[tuple[str, str, Result]]:
        """Its own log."""
        return Counter((self.name, end.facts.package_name, end.result) for end in self.log)


@pytest.mark.parametrize("seed", range(4 if not FULL else 20))
def test_each_end_is_counted_once_over_many_lives(tmp_path: Path, seed: int) -> None:
    """
    Over restarts, crashes, outages, lost rights and clock steps the counts equal the server's own log.

    Where nothing records ends, a run counts if it was open at a look that was kept: one that began and ended between
    two such looks was never there.
    """
    rng = random.Random(seed)
    servers = [Server("recorded", rng, records=True), Server("vanishing", rng, records=False)]
    wanted = 100_000 // 20 if FULL else 400
    kept: set[str] = set()
    highest: Counter[tuple[str, str, Result]] = Counter()

    async def life() -> None:
        crashes = rng.random() < 0.5
        async with history_in(tmp_path) as history:
            for server in servers:
                bookmark, open_ids = history.resume_point(server.name)
                server.resume(bookmark)
                assert set(open_ids) <= {end.facts.key.instance_id for end in server.log} | {
                    str(number) for number in server.running
                }
            turns = rng.randrange(5, 40)
            for turn in range(turns):
                # What was looked at last before a crash is never written.
                is_kept = not crashes or turn < turns - 3
                for server in servers:
                    server.step()
                    if rng.random() < 0.1:
                        continue  # the server does not answer
                    lost = rng.random() < 0.1
                    step = timedelta(hours=rng.choice([-2, 0, 0, 0, 2])) if rng.random() < 0.1 else timedelta()
                    look = server.look(visibility=Visibility(Scope.NONE) if lost else ALL, clock_step=step)
                    if is_kept:
                        kept.update(run.key.instance_id for run in look.executions if server.name == "vanishing")
                        history.observe(look)
                if turn % 3 == 0:
                    await history.settle(WAIT)
                    now = counts(history)
                    assert all(now[key] >= value for key, value in highest.items())
                    highest.update({key: value - highest[key] for key, value in now.items()})
            await history.settle(WAIT)

    while sum(len(server.log) for server in servers) < wanted:
        asyncio.run(life())

    async def last_look() -> Counter[tuple[str, str, Result]]:
        async with history_in(tmp_path) as history:
            for server in servers:
                server.resume(history.resume_point(server.name)[0])
                history.observe(server.look())
            await history.settle(WAIT)
            return counts(history)

    expected = servers[0].ended() + Counter(
        ("vanishing", end.facts.package_name, end.result) for end in servers[1].log if end.facts.key.instance_id in kept
    )

    assert expected == asyncio.run(last_look())


def test_a_kill_between_any_two_writes_loses_nothing(tmp_path: Path) -> None:
    """
    SIGKILL at random moments of a real process: afterwards every recorded end is counted once.
    """
    script = textwrap.dedent(
        """
        import asyncio, sys
        from datetime import timedelta
        from pathlib import Path
        from tests.test_history import Server, history_in
        import random

        async def main():
            server = Server("recorded", random.Random(7), records=True)
            async with history_in(Path(sys.argv[1])) as history:
                server.resume(history.resume_point("recorded")[0])
                print("ready", flush=True)
                for _ in range(300):
                    server.step()
                    history.observe(server.look())
                    await history.settle(timedelta(seconds=60))
                print("done", flush=True)
        asyncio.run(main())
        """
    )
    rng = random.Random(3)
    for attempt in range(30 if FULL else 6):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        assert process.stdout is not None
        assert b"ready" == process.stdout.readline().rstrip(), attempt
        try:
            process.wait(timeout=rng.uniform(0, 0.4))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait(timeout=60)
        process.stdout.close()
    server = Server("recorded", random.Random(7), records=True)
    for _ in range(300):
        server.step()

    async def finish() -> Counter[tuple[str, str, Result]]:
        async with history_in(tmp_path) as history:
            server.resume(history.resume_point("recorded")[0])
            history.observe(server.look())
            await history.settle(WAIT)
            return counts(history)

    assert server.ended() == asyncio.run(finish())


@pytest.mark.parametrize("damage", ["zeros", "garbage", "other tables", "nonsense inside"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    A damaged history is kept under another name, said so, and begun anew; counting goes on.
    """
    server = Server("recorded", random.Random(1), records=True)

    async def life() -> int:
        async with history_in(tmp_path) as history:
            server.resume(history.resume_point("recorded")[0])
            for _ in range(20):
                server.step()
                history.observe(server.look())
            await history.settle(WAIT)
            return sum(counts(history).values())

    first = asyncio.run(life())
    path = tmp_path / NAME
    match damage:
        case "zeros":
            path.write_bytes(b"\0" * path.stat().st_size)
        case "garbage":
            path.write_bytes(os.urandom(path.stat().st_size))
        case "other tables":
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("DROP TABLE package")
        case _:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE package SET samples = x'0102'")

    server.told_from = 0
    second = asyncio.run(life())

    assert first > 0
    assert second > 0
    assert "history begins anew" in caplog.text
    assert [kept for kept in tmp_path.iterdir() if kept.name.startswith(NAME) and kept.name != NAME]


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    A file that a later version wrote is not touched; counting goes on in memory and it is said.
    """
    asyncio.run(_observe_one(tmp_path))
    with sqlite3.connect(tmp_path / NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = (tmp_path / NAME).read_bytes()

    assert 1 == asyncio.run(_observe_one(tmp_path))
    assert "what ends is not kept" in caplog.text
    assert before == (tmp_path / NAME).read_bytes()


def test_a_full_disk_loses_nothing_that_comes_back(tmp_path: Path) -> None:
    """
    While the file cannot be written counts go on in memory; once it can, all of them are on disk.
    """
    server = Server("recorded", random.Random(5), records=True)
    clock = [0.0]

    async def first() -> Counter[tuple[str, str, Result]]:
        async with history_in(tmp_path, monotonic=lambda: clock[0]) as history:

            def refuse(connection: sqlite3.Connection) -> None:
                connection.execute("PRAGMA max_page_count = 1")

            def allow(connection: sqlite3.Connection) -> None:
                connection.execute("PRAGMA max_page_count = 1000000")

            for turn in range(30):
                if turn == 10:
                    await history._database.read(refuse)
                if turn == 25:
                    await history._database.read(allow)
                clock[0] += RETRY_SECONDS
                server.step()
                history.observe(server.look())
                await history.settle(WAIT)
            return counts(history)

    async def second() -> Counter[tuple[str, str, Result]]:
        async with history_in(tmp_path) as history:
            return counts(history)

    known = asyncio.run(first())

    assert server.ended() == known
    assert known == asyncio.run(second())


def test_a_file_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    """
    What was counted before is known, what ends is counted on, and is written once the file can be written.
    """
    asyncio.run(_observe_one(tmp_path))

    async def life() -> tuple[int, int]:
        clock = [0.0]
        # Another program holds the file while the exporter starts.
        holder = sqlite3.connect(tmp_path / NAME, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        async with history_in(tmp_path, monotonic=lambda: clock[0]) as history:
            before = sum(counts(history).values())
            history.observe(_look(ended=(_end("2", Result.FAILED),)))
            await history.settle(WAIT)
            holder.execute("ROLLBACK")
            holder.close()
            return before, sum(counts(history).values())

    assert (1, 2) == asyncio.run(life())
    assert 3 == asyncio.run(_observe_one(tmp_path, "3"))


def test_a_file_that_is_read_late_is_not_lost(tmp_path: Path) -> None:
    """
    What could not be read at the start is taken in when it can; counters that began anew go on from where they are.
    """
    asyncio.run(_observe_one(tmp_path))
    asyncio.run(_observe_one(tmp_path, "2", package="Other"))
    content = (tmp_path / NAME).read_bytes()

    async def life() -> None:
        clock = [0.0]
        (tmp_path / NAME).unlink()
        (tmp_path / NAME).mkdir()
        async with history_in(tmp_path, monotonic=lambda: clock[0]) as history:
            history.observe(_look(ended=(_end("3", Result.FAILED),)))
            await history.settle(WAIT)
            (tmp_path / NAME).rmdir()
            (tmp_path / NAME).write_bytes(content)
            clock[0] += RETRY_SECONDS
            history.observe(_look(ended=(_end("4", Result.FAILED),)))
            await history.settle(WAIT)
            assert {"Load": 2, "Other": 1} == {name: count for (_, name, _), count in counts(history).items()}

    asyncio.run(life())

    assert 4 == asyncio.run(_observe_one(tmp_path, "5"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows takes no open file away")
def test_a_file_that_is_taken_away_is_made_again(tmp_path: Path) -> None:
    """
    What is in memory is not lost with the file.
    """

    async def life() -> None:
        async with history_in(tmp_path) as history:
            history.observe(_look(ended=(_end("1", Result.FAILED),)))
            await history.settle(WAIT)
            (tmp_path / NAME).write_bytes(b"\0" * 5000)
            (tmp_path / NAME).rename(tmp_path / "gone")
            history.observe(_look(ended=(_end("2", Result.FAILED),)))
            await history.settle(WAIT)

    asyncio.run(life())

    assert 3 == asyncio.run(_observe_one(tmp_path, "3"))


def test_names_that_no_file_can_hold_are_counted(tmp_path: Path) -> None:
    """
    A name with lone surrogates, an end in the year 9999, a duration below zero: counted, kept, read back.
    """

    async def life() -> None:
        async with history_in(tmp_path) as history:
            for number, moment in enumerate((datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC))):
                facts = ExecutionFacts(
                    key=ExecutionKey("recorded", f"\ud800{number}"), package_name="\ud800\x00Load", started_at=T0
                )
                for result in (Result.SUCCEEDED, Result.FAILED):
                    key = ExecutionKey("recorded", f"{number} {result}\udcff")
                    end = EndedExecution(
                        facts=replace(facts, key=key), result=result, ended_at=moment, duration=timedelta(-1)
                    )
                    history.observe(_look(ended=(end,), open_runs=(facts,)))
            await history.settle(WAIT)

    asyncio.run(life())

    async def again() -> int:
        async with history_in(tmp_path) as history:
            assert ["\ufffd\ufffdLoad"] == [record.key.name for record in history.records()]
            return sum(counts(history).values())

    assert 4 == asyncio.run(again())


def test_the_past_teaches_and_raises_no_counter(tmp_path: Path) -> None:
    """
    What ended before the exporter's first look makes the usual duration known and counts nothing, also after a restart.
    """
    past = [
        EndedExecution(
            facts=ExecutionFacts(key=ExecutionKey("recorded", str(number)), package_name="Load", started_at=T0),
            result=Result.SUCCEEDED,
            ended_at=T0 - timedelta(days=1, minutes=number),
            duration=timedelta(minutes=10),
        )
        for number in range(50)
    ]

    async def fill() -> None:
        async with history_in(tmp_path) as history:
            await history.add_past("recorded", past[:25], "25")

    async def go_on() -> None:
        async with history_in(tmp_path) as history:
            point = history.fill_point("recorded")
            assert ("25", False) == (point.cursor, point.done)
            await history.add_past("recorded", past[25:], None)

    async def look() -> None:
        async with history_in(tmp_path) as history:
            baseline = history.baseline(past[0].facts)
            assert history.fill_point("recorded").done
            assert baseline is not None
            assert (timedelta(minutes=10), 50) == (baseline.typical, baseline.samples)
            assert Counter() == counts(history)
            [record] = history.records()
            assert T0 - timedelta(days=1) == record.last_success

    for part in (fill, go_on, look):
        asyncio.run(part())


def test_failures_are_kept_with_their_message(tmp_path: Path) -> None:
    """
    The newest failures come back after a restart, newest first, with the message that was found later.
    """

    async def first() -> None:
        async with history_in(tmp_path) as history:
            history.observe(_look(ended=tuple(_end(str(n), Result.FAILED, minutes=n) for n in (2, 1, 3))))
            await history.settle(WAIT)
            history.tell_message("recorded", "1", "Login failed for user")
            await history.settle(WAIT)

    asyncio.run(first())

    async def second() -> list[tuple[str, str | None]]:
        async with history_in(tmp_path) as history:
            return [(failure.instance_id, failure.message) for failure in history.failures()]

    assert [("3", None), ("2", None), ("1", "Login failed for user")] == asyncio.run(second())


def test_a_first_failure_is_an_increase(tmp_path: Path) -> None:
    """
    A result that comes for the first time is shown as 0 first, and as what it is two minutes later.
    """
    clock = [0.0]
    metrics = HistoryMetrics(packages_per_source=10, monotonic=lambda: clock[0])

    async def values() -> list[float]:
        found: list[float] = []
        async with history_in(tmp_path) as history:
            history.observe(_look(ended=(_end("1", Result.ENDED_UNEXPECTEDLY), _end("2", Result.FAILED))))
            await history.settle(WAIT)
            for moment in (0.0, HELD_SECONDS - 1, HELD_SECONDS + 1):
                clock[0] = moment
                [ended] = [
                    family
                    for family in metrics.families(history.records(), ["recorded"])
                    if family.name == "ssis_package_executions"
                ]
                found.append(sum(sample.value for sample in ended.samples))
        return found

    assert [0, 0, 2] == asyncio.run(values())


def test_a_restart_shows_what_was_counted_at_once(tmp_path: Path) -> None:
    """
    What an earlier life has counted is shown from the first scrape on; nothing goes backwards across lives.
    """
    asyncio.run(_observe_one(tmp_path))
    metrics = HistoryMetrics(packages_per_source=10, monotonic=lambda: 0.0)

    async def value() -> float:
        async with history_in(tmp_path) as history:
            metrics.already_known(history.records())
            families = {family.name: family for family in metrics.families(history.records(), ["recorded"])}
            return sum(sample.value for sample in families["ssis_package_executions"].samples)

    assert 1 == asyncio.run(value())


def test_the_budget_keeps_the_packages_that_ran_last(tmp_path: Path) -> None:
    """
    Beyond the budget the packages that ran longest ago have no series, and are counted.
    """
    ended = tuple(_end(str(n), Result.SUCCEEDED, package=f"P{n}", minutes=n) for n in range(10))
    metrics = HistoryMetrics(packages_per_source=4)

    async def shown() -> tuple[set[str], float]:
        async with history_in(tmp_path, now=T0 + timedelta(hours=1)) as history:
            history.observe(_look(ended=ended))
            await history.settle(WAIT)
            families = {family.name: family for family in metrics.families(history.records(), ["recorded"])}
            names = {sample.labels["package_name"] for sample in families["ssis_package_duration_samples"].samples}
            return names, families["ssis_packages_truncated"].samples[0].value

    assert ({"P6", "P7", "P8", "P9"}, 6) == asyncio.run(shown())


def test_packages_that_are_forgotten_leave_nothing_behind() -> None:
    """
    A package's texts, and when it was first shown, are kept for as long as it is remembered: also beyond the budget.
    """
    clock = [0.0]
    metrics = HistoryMetrics(packages_per_source=1, monotonic=lambda: clock[0])

    def shown(*records: PackageRecord) -> dict[str, float]:
        families = {family.name: family for family in metrics.families(records, ["recorded"])}
        samples = families["ssis_package_executions"].samples
        return {sample.labels["package_name"]: sample.value for sample in samples}

    def record(name: str, minutes: int) -> PackageRecord:
        key = PackageKey("recorded", "", "", name)
        return PackageRecord(key, T0 + timedelta(minutes=minutes), {Result.SUCCEEDED: 7})

    assert {"P0": 0} == shown(record("P0", 0))
    clock[0] += 2 * HELD_SECONDS
    assert {"P1": 0} == shown(record("P0", 0), record("P1", 1))
    assert {"P0": 7} == shown(record("P0", 2), record("P1", 1))
    for number in range(2, 50):
        shown(record(f"P{number}", number), record(f"P{number + 1}", number + 1))

    assert {"P49", "P50"} >= {key.name for key in metrics._shown["recorded"]}


async def _observe_one(folder: Path, instance: str = "1", *, package: str = "Load") -> int:
    async with history_in(folder) as history:
        history.observe(_look(ended=(_end(instance, Result.FAILED, package=package),)))
        await history.settle(WAIT)
        return sum(counts(history).values())


def _end(instance: str, result: Result, *, package: str = "Load", minutes: int = 1) -> EndedExecution:
    facts = ExecutionFacts(key=ExecutionKey("recorded", instance), package_name=package, started_at=T0)
    ended_at = T0 + timedelta(minutes=minutes)
    return EndedExecution(facts=facts, result=result, ended_at=ended_at, duration=ended_at - T0)


def _look(*, ended: tuple[EndedExecution, ...], open_runs: tuple[ExecutionFacts, ...] = ()) -> Snapshot:
    return Snapshot(
        source="recorded",
        taken_at=T0 + timedelta(minutes=30),
        visibility=ALL,
        executions=tuple(Execution(facts=facts, status=ExecutionStatus.RUNNING) for facts in open_runs),
        ended=ended,
        records_ends=True,
        bookmark="x",
    )


def test_nobodys_name_is_in_the_file(tmp_path: Path) -> None:
    """
    Open runs are kept without the accounts they belong to, and go on as the same runs.
    """
    facts = ExecutionFacts(
        key=ExecutionKey("recorded", "1"),
        package_name="Load",
        user_name="CORP\\secret",
        caller="CORP\\secret",
        description="secret",
        environment="secret",
        started_at=T0,
    )

    async def life() -> list[str]:
        async with history_in(tmp_path) as history:
            history.observe(_look(ended=(), open_runs=(facts,)))
            await history.settle(WAIT)
            return list(history.resume_point("recorded")[1])

    assert ["1"] == asyncio.run(life())
    assert ["1"] == asyncio.run(life())
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())
