"""An estate for tests of stopping: a clock that tests move, sources without threads, a stopper on a real ledger."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from ssis_exporter.errors import SourceError
from ssis_exporter.hold import Hold
from ssis_exporter.ledger import Ledger, read_events
from ssis_exporter.ledgerclock import LedgerClock
from ssis_exporter.model import ExecutionKey, Nomination, StopMode
from ssis_exporter.policy import Action, Match, Policy, Rule
from ssis_exporter.sources.interface import Source
from ssis_exporter.sources.worker import Look
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.stopper import Stopper, StopSettings
from ssis_exporter.storage import StorageMetrics
from ssis_exporter.storagefolder import Storage
from ssis_exporter.testing import FakeSource

BEGIN = datetime(2026, 11, 22, 21, 0, tzinfo=UTC)
"""When the tests' clock begins."""

EVERYTHING = Rule(match=Match(package_name="*"), action=Action.STOP)
GRACE = replace(EVERYTHING, grace=timedelta(minutes=2))
ESCALATES = replace(EVERYTHING, escalate_after=timedelta(minutes=15))


class Time:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.set_by = 0.0
        """By how much somebody set the clock on the wall."""

        self.booted_at = 0.0
        """When the machine was started for the last time."""

        self.shortest_wait = 0.0
        """Waits are no shorter, so that hours pass in few steps."""

        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """The clock on the wall."""
        return BEGIN + timedelta(seconds=self.seconds + self.set_by)

    def monotonic(self) -> float:
        """The same, as seconds since the machine was started."""
        return self.seconds - self.booted_at

    async def wait(self, seconds: float) -> None:
        """Instead of `asyncio.sleep`."""
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self.seconds + max(seconds, self.shortest_wait), next(self._numbers), future))
        await future

    async def settle(self) -> None:
        """Lets everything run that can run without the clock moving."""
        ready: Any = asyncio.get_running_loop()
        await asyncio.sleep(0)
        while ready._ready:  # noqa: ASYNC110 - nobody could set an event when nothing is left to run
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Moves the clock; everything that waits wakes in turn."""
        await self.settle()
        until = self.seconds + seconds
        while self._waiting and self._waiting[0][0] <= until:
            at, _, future = heapq.heappop(self._waiting)
            self.seconds = max(self.seconds, at)
            if not future.done():
                future.set_result(None)
                await self.settle()
        self.seconds = until

    async def run_until(self, condition: Callable[[], bool], limit: float = 86_400.0) -> None:
        """Moves the clock until the condition holds."""
        await self.settle()
        until = self.seconds + limit
        while not condition():
            assert self.seconds <= until, "it never came to that"
            await self.advance(max(0.25, self.shortest_wait))


class InlineExecutor(Executor):
    """Does the work at once, on the thread that asks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the real one, done already."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


class InlineWorker:
    """A source's worker without a thread. While `hangs`, calls wait in line until `go_on`."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = source.name
        self.hangs = False
        self._line: list[tuple[Future[Any], Callable[[], Any]]] = []

    def look_afresh(self) -> Future[Look]:
        """A look, now."""

        def look() -> Look:
            try:
                return Look(self.source.snapshot(), timedelta())
            except SourceError as exc:
                return Look(exc, timedelta())

        return self._run(look)

    def call(self, function: Callable[[Source], Any]) -> Future[Any]:
        """A call, now."""
        return self._run(lambda: function(self.source))

    def go_on(self) -> None:
        """The source answers again: everything in line runs, in turn."""
        self.hangs = False
        line, self._line = self._line, []
        for future, work in line:
            self._answer(future, work)

    def _run(self, work: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        if self.hangs:
            self._line.append((future, work))
        else:
            self._answer(future, work)
        return future

    def _answer(self, future: Future[Any], work: Callable[[], Any]) -> None:
        try:
            future.set_result(work())
        except BaseException as exc:
            future.set_exception(exc)


class Scene:
    """A stopper with everything around it, in one process without threads; `restart` is a start on the same files."""

    def __init__(
        self,
        folder: Path,
        *,
        rules: Iterable[Rule] = (EVERYTHING,),
        mode: StopMode = StopMode.ARMED,
        sources: Iterable[str] = ("local",),
        silences: Callable[[Nomination], Awaitable[bool]] | None = None,
        typical: timedelta | None = None,
        remembers: bool = True,
        names_boots: bool = True,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.time = Time()
        self.silences = silences
        self.typical = typical
        self.remembers = remembers
        """Whether the exporter says of every run that it has seen it."""

        self._names_boots = names_boots

        self.settings = StopSettings(mode=mode, policy=Policy(tuple(rules)), **settings)
        self.workers = {name: InlineWorker(FakeSource(name, now=self.time.now)) for name in sources}
        self._make()

    def _make(self) -> None:
        self.registry = CollectorRegistry()
        self.storage = Storage(self.folder)
        self.ledger = Ledger(
            self.storage,
            metrics=StorageMetrics(self.registry),
            executor=InlineExecutor(),
            clock=LedgerClock(
                now=self.time.now,
                monotonic=self.time.monotonic,
                boot=f"boot {self.time.booted_at}" if self._names_boots else "",
            ),
        )
        self.stopper = Stopper(
            self.settings,
            ledger=self.ledger,
            hold=Hold(self.folder),
            worker=self.workers.get,
            metrics=StopMetrics(self.registry),
            source_names=lambda: self.workers,
            typical=lambda _facts: self.typical,
            was_seen=lambda _key: self.remembers,
            silences=self.silences,
            now=self.time.now,
            monotonic=self.time.monotonic,
            wait=self.time.wait,
            local=UTC,
            executor=InlineExecutor(),
        )

    async def __aenter__(self) -> Scene:
        await self.stopper.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stopper.close()
        self.storage.release()

    async def restart(self, *, reboots: bool = False) -> None:
        """The process ends in good order and another one begins; the machine too, where it reboots."""
        await self.stopper.close()
        self.storage.release()
        if reboots:
            self.time.booted_at = self.time.seconds
        self._make()
        await self.stopper.start()

    @property
    def source(self) -> FakeSource:
        """The first source."""
        source = next(iter(self.workers.values())).source
        assert isinstance(source, FakeSource)
        return source

    def nominate(self, instance_id: str, source: str = "local", **believed: Any) -> Nomination:
        """A nomination as of an alert that began now."""
        believed.setdefault("asked_since", self.time.now())
        return Nomination(key=ExecutionKey(source, instance_id), origin="alertmanager test", **believed)

    async def outcome(self, instance_id: str, source: str = "local") -> str:
        """What became of a nomination, once it has an outcome."""
        key = ExecutionKey(source, instance_id)
        await self.time.run_until(lambda: key not in {one.key for one in self.stopper.pending()})
        return next(str(one.outcome) for one in self.stopper.last_outcomes() if one.key == key)

    def reason(self) -> str | None:
        """Why the last one was refused."""
        reason = self.stopper.last_outcomes(1)[0].reason
        return None if reason is None else str(reason)

    def value(self, name: str, **labels: str) -> float | None:
        """A metric, read as Prometheus does."""
        return self.registry.get_sample_value(name, labels)


def play(folder: Path, work: Callable[[Scene], Awaitable[None]], **scene: Any) -> None:
    """Runs a test with a stopper that is started and closed."""

    async def main() -> None:
        async with Scene(folder, **scene) as made:
            await work(made)

    asyncio.run(main())


def kinds(folder: Path) -> list[str]:
    """All that stands in the ledger, by its kind."""
    return [str(event.kind) for event in read_events(folder)]


def started_again(scene: Scene) -> None:
    """It ended, and another one began under its name."""
    scene.source.end("1")
    scene.time.seconds += 60
    scene.source.start("1")


def start_moved(scene: Scene) -> None:
    """Its start is not what it was."""
    [run] = scene.source.snapshot().executions
    assert run.facts.started_at is not None
    scene.source.start("1", started_at=run.facts.started_at + timedelta(seconds=2))


def renamed(scene: Scene) -> None:
    """It is another package."""
    [run] = scene.source.snapshot().executions
    scene.source.start("1", "Payroll", started_at=run.facts.started_at)


def in_another_folder(scene: Scene) -> None:
    """It is in another folder."""
    [run] = scene.source.snapshot().executions
    scene.source.start("1", folder="HR", started_at=run.facts.started_at)


def other_process(scene: Scene) -> None:
    """Another process hosts it."""
    [run] = scene.source.snapshot().executions
    changed = replace(run, facts=replace(run.facts, process_id=4711, machine="b"))
    scene.source._runs["1"] = changed


def start_unknown(scene: Scene) -> None:
    """Its start is not known any more."""
    [run] = scene.source.snapshot().executions
    scene.source._runs["1"] = replace(run, facts=replace(run.facts, started_at=None))


def twice(scene: Scene) -> None:
    """Two runs bear its name."""
    [run] = scene.source.snapshot().executions
    scene.source._runs["copy"] = run


CHANGES = [started_again, start_moved, renamed, in_another_folder, other_process, start_unknown, twice]
"""What may happen to the run "1" of the first source so that it is not the same run any more."""
