"""The past is read in the background: slowly, once, and in nobody's way."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import ssis_exporter.backfill as backfill_module
from ssis_exporter.backfill import READ_AT_ONCE, Backfill, FirstErrors
from ssis_exporter.errors import SourceUnreachable
from ssis_exporter.history import History
from ssis_exporter.hold import Hold
from ssis_exporter.ledger import Ledger
from ssis_exporter.model import (
    EndedExecution,
    ExecutionFacts,
    ExecutionKey,
    Nomination,
    Result,
    Snapshot,
)
from ssis_exporter.policy import Action, Match, Policy, Rule
from ssis_exporter.scrape import Scraper
from ssis_exporter.sources.interface import RecordingSource
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.stopper import Stopper, StopSettings
from ssis_exporter.storagefolder import Storage
from ssis_exporter.testing import FakeSource

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"
NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
WAIT = timedelta(seconds=60)


class Recording(FakeSource, RecordingSource):
    """A server with a long record: `ended_runs` runs of ten packages, one a minute, newest first."""

    def __init__(self, name: str, *, ended_runs: int, piece: int, now: Callable[[], datetime] = lambda: NOW) -> None:
        super().__init__(name, now=now)
        self.ended_runs = ended_runs
        self.piece = piece
        self.cursors: list[str] = []
        self.fail_past_with: list[Exception] = []
        self.messages: dict[str, str] = {}
        self.asked: list[str] = []
        self.fail_message_with: Exception | None = None
        self.age = timedelta(days=1)

    def past(self, cursor: str) -> tuple[Sequence[EndedExecution], str | None]:
        """A piece."""
        self.cursors.append(cursor)
        if self.fail_past_with:
            raise self.fail_past_with.pop()
        first = int(cursor or 0)
        following = min(first + self.piece, self.ended_runs)
        ended = [self._ended(number) for number in range(first, following)]
        return ended, str(following) if following < self.ended_runs else None

    def first_error(self, instance_id: str) -> str:
        """As set."""
        self.asked.append(instance_id)
        if self.fail_message_with is not None:
            raise self.fail_message_with
        return self.messages.get(instance_id, "")

    def _ended(self, number: int) -> EndedExecution:
        ended_at = NOW - self.age - timedelta(seconds=number)
        duration = timedelta(seconds=60 + number % 7)
        facts = ExecutionFacts(
            key=ExecutionKey(self.name, str(10_000_000 - number)),
            package_name=f"Load {number % 10}",
            started_at=ended_at - duration,
        )
        result = Result.FAILED if number == 3 else Result.SUCCEEDED
        return EndedExecution(facts=facts, result=result, ended_at=ended_at, duration=duration)


@asynccontextmanager
async def kept(folder: Path, source: RecordingSource) -> AsyncIterator[tuple[History, SourceWorker]]:
    """A history and the worker of one source that it observes."""
    storage = Storage(folder)
    history = History.of(storage)
    await history.open()
    worker = SourceWorker(source, observe=history.observe)
    try:
        yield history, worker
    finally:
        worker.close()
        await history.close()
        storage.release()


def backfill(
    history: History, worker: SourceWorker, *, share: float = 0.1, wait: Callable[[float], Awaitable[None]]
) -> Backfill:
    """One whose clock stands at NOW."""
    return Backfill(history, worker=lambda _: worker, share=lambda: share, now=lambda: NOW, wait=wait)


async def until_done(history: History, name: str = "sql01") -> None:
    """Waits until all was read."""
    async with asyncio.timeout(600):
        while not history.fill_point(name).done:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


def test_the_past_is_read_once_and_counts_nothing(tmp_path: Path) -> None:
    """
    Piece by piece to its end, also over a restart; then it is never read again.
    """
    source = Recording("sql01", ended_runs=1000, piece=100)
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    async def life(pieces: int) -> None:
        async with kept(tmp_path, source) as (history, worker):
            reading = backfill(history, worker, wait=wait)
            reading.begin(["sql01"])
            reading.begin(["sql01"])
            while len(source.cursors) < pieces:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)
            if pieces == 10:
                await until_done(history)
                facts = ExecutionFacts(key=ExecutionKey("sql01", "x"), package_name="Load 3")
                baseline = history.baseline(facts)
                assert baseline is not None
                assert 99 == baseline.samples
                assert all(count == 0 for record in history.records() for count in record.counts.values())
                assert ["9999997"] == [failure.instance_id for failure in history.failures()]
            await reading.close()

    asyncio.run(life(4))
    first = len(source.cursors)
    asyncio.run(life(10))
    asyncio.run(life(0))
    numbers = [int(cursor or 0) for cursor in source.cursors]

    # The piece that was being read when the first life ended may come again.
    assert [*range(0, 1000, 100)] == sorted(set(numbers))
    assert len(numbers) <= 11
    assert first >= 4
    assert all(seconds >= 0.1 for seconds in waits)


@pytest.mark.parametrize(("share", "took", "expected"), [(0.1, 0.3, 2.7), (0.5, 0.3, 0.3), (0.1, 0.0, 0.1)])
def test_pauses_keep_the_share(tmp_path: Path, share: float, took: float, expected: float) -> None:
    """
    A pause follows from how long a piece took, and there always is one.
    """
    clock = [0.0]
    waits: list[float] = []

    class Slow(Recording):
        def past(self, cursor: str) -> tuple[Sequence[EndedExecution], str | None]:
            clock[0] += took
            return super().past(cursor)

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    async def main() -> None:
        source = Slow("sql01", ended_runs=300, piece=100)
        async with kept(tmp_path, source) as (history, worker):
            reading = Backfill(
                history,
                worker=lambda _: worker,
                share=lambda: share,
                now=lambda: NOW,
                monotonic=lambda: clock[0],
                wait=wait,
            )
            reading.begin(["sql01"])
            await until_done(history)
            await reading.close()

    asyncio.run(main())

    assert [pytest.approx(expected)] * 2 == waits[1:3]


def test_a_source_that_does_not_answer_is_left_alone_for_longer_and_longer(tmp_path: Path) -> None:
    """
    Then it goes on where it was.
    """
    source = Recording("sql01", ended_runs=300, piece=100)
    source.fail_past_with = [SourceUnreachable("sql01: down")] * 3
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    async def main() -> None:
        async with kept(tmp_path, source) as (history, worker):
            reading = backfill(history, worker, wait=wait)
            reading.begin(["sql01"])
            await until_done(history)
            await reading.close()

    asyncio.run(main())

    assert [10, 20, 40] == waits[1:4]
    assert ["", "", "", "", "100", "200"] == source.cursors


def test_few_pieces_are_in_memory_at_once(tmp_path: Path) -> None:
    """
    Each of forty sources has its turn; none that hangs keeps the others from theirs.
    """
    at_once: list[int] = []
    reading_now: set[str] = set()
    let_go = threading.Event()

    class Counting(Recording):
        def past(self, cursor: str) -> tuple[Sequence[EndedExecution], str | None]:
            reading_now.add(self.name)
            at_once.append(len(reading_now))
            if self.name.startswith("hung"):
                let_go.wait(60)
            time.sleep(0.01)
            reading_now.discard(self.name)
            return super().past(cursor)

    names = [f"hung{number}" for number in range(READ_AT_ONCE)] + [f"sql{number:02}" for number in range(40)]

    async def main() -> None:
        storage = Storage(tmp_path)
        history = History.of(storage)
        await history.open()
        workers = {
            name: SourceWorker(Counting(name, ended_runs=200, piece=100), observe=history.observe) for name in names
        }
        fill = Backfill(
            history, worker=workers.get, share=lambda: 0.9, now=lambda: NOW, wait=lambda _: asyncio.sleep(0)
        )
        fill.begin(names)
        for name in names[READ_AT_ONCE:]:
            await until_done(history, name)
        assert not any(history.fill_point(name).done for name in names[:READ_AT_ONCE])
        let_go.set()
        for name in names[:READ_AT_ONCE]:
            await until_done(history, name)
        await fill.close()
        for worker in workers.values():
            worker.close()
        await history.close()
        storage.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill_module, "LONGEST_TURN", 0.2)
        asyncio.run(main())

    # Those that hang stay where they are when their turn is over.
    assert max(at_once) <= 2 * READ_AT_ONCE


def test_what_is_too_old_to_teach_is_not_read(tmp_path: Path) -> None:
    """
    Nobody learns from runs of more than 90 days ago: the reading ends there.
    """
    source = Recording("sql01", ended_runs=300, piece=100)
    source.age = timedelta(days=90) - timedelta(seconds=50)

    async def main() -> None:
        async with kept(tmp_path, source) as (history, worker):
            reading = backfill(history, worker, wait=asyncio.sleep)
            reading.begin(["sql01"])
            await until_done(history)
            await reading.close()

    asyncio.run(main())

    assert ["", "100"] == source.cursors


def test_a_large_past_is_in_nobodys_way(tmp_path: Path) -> None:
    """
    While a long record is read, every scrape is answered and every stop taken; afterwards no scrape reads history.
    """
    runs, piece = (1_000_000, 5000) if FULL else (40_000, 2000)
    source = Recording("sql01", ended_runs=runs, piece=piece, now=lambda: datetime.now(UTC))
    source.start("1")

    async def main() -> tuple[int, int]:
        async with kept(tmp_path, source) as (history, worker):
            storage = Storage(tmp_path / "ledger")
            stopper = Stopper(
                StopSettings(policy=Policy((Rule(match=Match(package_name="*"), action=Action.STOP),))),
                ledger=Ledger(storage),
                hold=Hold(storage.folder),
                worker=lambda name: worker if name == "sql01" else None,
                metrics=StopMetrics(CollectorRegistry()),
                typical=history.typical,
            )
            await stopper.start()
            scraper = Scraper([worker])
            reading = Backfill(history, worker=lambda _: worker, share=lambda: 0.5)
            reading.begin(["sql01"])
            scrapes = 0
            while not history.fill_point("sql01").done:
                [found] = await scraper.read(timedelta(seconds=10))
                assert isinstance(found.outcome, Snapshot), found
                scrapes += 1
                [decision] = await stopper.submit([Nomination(key=ExecutionKey("sql01", f"no {scrapes}"))])
                assert decision.outcome is None
                await asyncio.sleep(0.05)
            await reading.close()
            read = len(source.cursors)
            for _ in range(20):
                await scraper.read(timedelta(seconds=10))
            await stopper.close()
            storage.release()
            assert read == len(source.cursors)
            samples = sorted(len(record.samples) for record in history.records())
            assert [0, *[200] * 10] == samples
            return scrapes, read

    scrapes, read = asyncio.run(main())

    assert scrapes > 5
    assert runs // piece == read


def test_a_failure_is_told_with_its_first_error(tmp_path: Path) -> None:
    """
    Asked for once, newest first; one that is not known is asked for no more.
    """
    source = Recording("sql01", ended_runs=0, piece=1, now=lambda: NOW)
    source.messages = {"1": "Login failed for user 'etl'."}
    source.ended = [_failure("1", minutes=2), _failure("2", minutes=1)]

    async def main() -> list[tuple[str, str | None]]:
        async with kept(tmp_path, source) as (history, worker):
            await asyncio.wrap_future(worker.look())
            await history.settle(WAIT)
            asking = FirstErrors(history, worker=lambda name: worker if name == "sql01" else None)
            for _ in range(4):
                await asking.ask_one()
                await history.settle(WAIT)
            return [(failure.instance_id, failure.message) for failure in history.failures()]

    assert [("2", ""), ("1", "Login failed for user 'etl'.")] == asyncio.run(main())
    assert ["2", "1"] == source.asked


def test_a_source_that_cannot_tell_why_is_asked_again_later(tmp_path: Path) -> None:
    """
    It rests for five minutes.
    """
    source = Recording("sql01", ended_runs=0, piece=1, now=lambda: NOW)
    source.ended = [_failure("1", minutes=2)]
    source.fail_message_with = SourceUnreachable("sql01: down")
    clock = [0.0]

    async def main() -> None:
        async with kept(tmp_path, source) as (history, worker):
            await asyncio.wrap_future(worker.look())
            await history.settle(WAIT)
            asking = FirstErrors(history, worker=lambda _: worker, monotonic=lambda: clock[0])
            for moment in (0.0, 299.0, 301.0):
                clock[0] = moment
                await asking.ask_one()

    asyncio.run(main())

    assert ["1", "1"] == source.asked


def _failure(instance: str, *, minutes: int) -> EndedExecution:
    facts = ExecutionFacts(
        key=ExecutionKey("sql01", instance), package_name="Load", started_at=NOW - timedelta(minutes=30)
    )
    ended_at = NOW - timedelta(minutes=minutes)
    return EndedExecution(facts=facts, result=Result.FAILED, ended_at=ended_at, duration=timedelta(minutes=1))
