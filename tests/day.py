"""A day of the demo estate as a file of samples: our own exposition at simulated times, for `promtool tsdb`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import IO

from prometheus_client import CollectorRegistry

from ssis_exporter.collector import Collector
from ssis_exporter.errors import SourceError
from ssis_exporter.exposition import OPENMETRICS, render
from ssis_exporter.history import History
from ssis_exporter.historyfile import NAME, SCHEMA
from ssis_exporter.historymetrics import HistoryMetrics
from ssis_exporter.model import Execution, ExecutionStatus, Reading, RefusalReason, Snapshot, StopMode, StopOutcome
from ssis_exporter.selfmetrics import CertificateExpiry, ConfigReloads, make_registry
from ssis_exporter.sources.demo import DemoSettings, DemoSource
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.storage import Database, StorageMetrics
from ssis_exporter.storagefolder import Storage
from ssis_exporter.webhook import WebhookMetrics

TARGET = 'job="ssis",instance="etl01:10058"'


class Clock:
    """Simulated time."""

    def __init__(self, begin: datetime) -> None:
        self.begin = begin
        self.passed = timedelta()

    def now(self) -> datetime:
        """The clock on the wall."""
        return self.begin + self.passed

    def monotonic(self) -> float:
        """The same as seconds."""
        return self.passed.total_seconds()


class Stops:
    """The stop machinery's metrics: what runs for three times its usual time is stopped, in turn for real and not."""

    mode = StopMode.DRY_RUN
    held = None
    breaker_is_open = False

    def __init__(self, registry: CollectorRegistry, sources: list[str]) -> None:
        self._metrics = StopMetrics(registry)
        self._metrics.know(sources)
        self._metrics.watch(self)
        self._webhook = WebhookMetrics(registry)
        self._seen: set[tuple[str, str]] = set()

    def pending_by_source(self) -> dict[str, int]:
        """Nothing waits."""
        return {}

    def look(self, run: Execution, usual: timedelta) -> None:
        """Nominates a run once."""
        key = (run.key.source, run.key.instance_id)
        if run.status is not ExecutionStatus.RUNNING or run.duration < 3 * usual or key in self._seen:
            return
        self._seen.add(key)
        self._webhook.answered(202)
        self._webhook.alerts.labels("nominated").inc()
        match len(self._seen) % 3:
            case 0:
                self._metrics.count(run.key.source, StopOutcome.WOULD_STOP, None)
            case 1:
                self._metrics.count(run.key.source, StopOutcome.STOPPED, None)
                self._metrics.took(timedelta(seconds=len(self._seen) % 40))
            case _:
                self._metrics.count(run.key.source, StopOutcome.REFUSED, RefusalReason.NO_RULE)


class Day:
    """Two servers, one of them with troubles, and everything that an exporter says of them."""

    def __init__(self, begin: datetime, *, packages: int, folder: Path) -> None:
        self.clock = Clock(begin)
        self.sources = [
            DemoSource(name, DemoSettings(seed=seed, packages=packages // 2, troubles=troubles), now=self.clock.now)
            for name, seed, troubles in (("sql01", 1, False), ("sql02", 2, True))
        ]
        names = [source.name for source in self.sources]
        self.registry = make_registry()
        self.collector = Collector(executions_per_source=1000, keep_user_names=True, registry=self.registry)
        self.ended = HistoryMetrics(packages_per_source=2000, monotonic=self.clock.monotonic)
        self.storage = Storage(folder)
        self.history = History(Database(self.storage, NAME, SCHEMA), now=self.clock.now)
        self.stops = Stops(self.registry, names)
        StorageMetrics(self.registry).worked(NAME)
        ConfigReloads(self.registry, now=lambda: begin.timestamp())
        CertificateExpiry(self.registry).watch("metrics", lambda: begin + timedelta(days=90))

    async def fill(self) -> None:
        """What ran before the day."""
        await self.history.open()
        for source in self.sources:
            cursor: str | None = ""
            while cursor is not None:
                ended, cursor = source.past(cursor)
                await self.history.add_past(source.name, ended, cursor)

    async def page(self) -> bytes:
        """One scrape."""
        readings = []
        for source in self.sources:
            outcome: Snapshot | SourceError
            try:
                outcome = source.snapshot()
            except SourceError as exc:
                outcome = exc
            else:
                self.history.observe(outcome)
                self._nominate(outcome)
            took = timedelta(milliseconds=20)
            readings.append(Reading(source=source.name, info=source.info, outcome=outcome, took=took))
        await asyncio.sleep(0)
        await self.history.settle(timedelta(seconds=30))
        names = [source.name for source in self.sources]
        families = chain(self.collector.families(readings), self.ended.families(self.history.records(), names))
        return b"".join(render(families, self.registry, OPENMETRICS))

    def _nominate(self, seen: Snapshot) -> None:
        for run in seen.executions:
            baseline = self.history.baseline(run.facts)
            if baseline is not None:
                self.stops.look(run, baseline.typical)

    async def close(self) -> None:
        """Lets go of the history."""
        await self.history.close()
        self.storage.release()


def stored(page: bytes, at: float) -> Iterator[str]:
    """The page's samples as Prometheus stores them: with the target's labels and the time."""
    count = 0
    for line in page.decode().splitlines():
        if line.startswith("#"):
            continue
        count += 1
        series, _, value = line.rpartition(" ")
        name, brace, labels = series.partition("{")
        yield f"{name}{{{TARGET},{labels} {value} {at:.3f}\n" if brace else f"{name}{{{TARGET}}} {value} {at:.3f}\n"
    for name, value in (("up", 1), ("scrape_samples_scraped", count), ("scrape_duration_seconds", 0.04)):
        yield f"{name}{{{TARGET}}} {value} {at:.3f}\n"


async def _write(file: IO[str], *, begin: datetime, hours: float, packages: int, step: timedelta) -> int:
    with tempfile.TemporaryDirectory() as folder:
        day = Day(begin, packages=packages, folder=Path(folder))
        try:
            await day.fill()
            samples = 0
            while day.clock.passed <= timedelta(hours=hours):
                lines = list(stored(await day.page(), day.clock.now().timestamp()))
                file.writelines(lines)
                samples += len(lines)
                day.clock.passed += step
        finally:
            await day.close()
    file.write("# EOF\n")
    return samples


def write_day(
    path: Path, *, end: datetime, hours: float = 24, packages: int = 200, step: timedelta = timedelta(minutes=1)
) -> int:
    """Writes the samples of the hours before `end`, for `promtool tsdb create-blocks-from openmetrics`; how many."""
    begin = end.astimezone(UTC) - timedelta(hours=hours)
    with path.open("w", encoding="utf-8") as file:
        return asyncio.run(_write(file, begin=begin, hours=hours, packages=packages, step=step))
