"""An exporter for tests of the HTTP surface: real workers, collector and registry, over sources that a test sets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta

from prometheus_client import Metric

from ssis_exporter.collector import Collector
from ssis_exporter.config import Config, LabelsConfig
from ssis_exporter.model import Reading
from ssis_exporter.scrape import Scraper
from ssis_exporter.selfmetrics import make_registry
from ssis_exporter.sources.interface import Source
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.web import Past


class FakeExporter:
    """Keeps what `web.Served` promises."""

    def __init__(self, sources: Sequence[Source], *, keep_user_names: bool = True) -> None:
        self.config = Config(sources=(), labels=LabelsConfig(user_name="keep" if keep_user_names else "drop"))
        self.registry = make_registry(own_process=False)
        self.collector = Collector(executions_per_source=1000, keep_user_names=keep_user_names, registry=self.registry)
        self.ready = True
        self.past: Past | None = None
        self.reload_fails_with: Exception | None = None
        self.reloads = 0
        self._scraper = Scraper([SourceWorker(source) for source in sources])

    @property
    def source_names(self) -> tuple[str, ...]:
        """Of the sources it was given."""
        return tuple(worker.name for worker in self._scraper.workers)

    async def read(self, budget: timedelta, names: Collection[str] | None = None) -> list[Reading]:
        """As `Exporter.read`."""
        return await self._scraper.read(budget, names)

    def families(self, readings: Sequence[Reading]) -> Iterable[Metric]:
        """As `Exporter.families`."""
        return self.collector.families(readings)

    def families_of_one(self, readings: Sequence[Reading]) -> Iterable[Metric]:
        """As `Exporter.families_of_one`."""
        yield from self.collector.families(readings)
        for reading in readings:
            yield self.collector.errors_of(reading.source)

    async def reload(self) -> None:
        """Counts, or fails as told."""
        self.reloads += 1
        if self.reload_fails_with is not None:
            raise self.reload_fails_with

    def close(self) -> None:
        """Ends the workers; their gates must be open."""
        for worker in self._scraper.workers:
            assert worker.close()
