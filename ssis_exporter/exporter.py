"""The running exporter: one worker per source, and a configuration that can be replaced while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from ssis_exporter.collector import Collector
from ssis_exporter.config import Config, SourceConfig
from ssis_exporter.errors import SsisExporterError
from ssis_exporter.model import Reading
from ssis_exporter.reconcile import Reconciler
from ssis_exporter.scrape import Scraper
from ssis_exporter.selfmetrics import ConfigReloads
from ssis_exporter.sources.worker import SourceWorker

if TYPE_CHECKING:
    from ssis_exporter.stopper import Stopper

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
"""How long a source may take to end the call that runs and let go of what it opened; a hung one is left behind."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A worker and what it was made from."""

    config: SourceConfig
    worker: SourceWorker


class Exporter:
    """
    Owns the workers, the collector and the configuration in force.

    Made on any thread; its coroutines belong to one event loop. `load` reads the configuration again for `reload`.
    """

    def __init__(
        self,
        config: Config,
        *,
        registry: CollectorRegistry,
        load: Callable[[], Config],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises `ConfigError` or `MissingExtra` for a source that cannot be made; opens nothing."""
        self.config = config
        self.registry = registry
        self.collector = Collector(
            executions_per_source=config.limits.executions_per_source,
            keep_user_names=config.keep_user_names,
            registry=registry,
        )
        self.stopper: Stopper | None = None
        self.ready = False
        """Whether it serves: set by who starts and ends it, told by `/-/ready`."""

        self.on_reload: list[Callable[[Config], None]] = []
        """Told the new configuration after each reload that worked."""

        self._load = load
        self._kept = _make(config.sources, {})
        self._scraper = self._new_scraper()
        self._reconciler = Reconciler()
        self._reloading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._reloads = ConfigReloads(registry, now=now)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The configured names, in their order."""
        return tuple(source.name for source in self.config.sources)

    def worker(self, name: str) -> SourceWorker | None:
        """The worker of one source as configured now; None for a name that is not configured."""
        kept = self._kept.get(name)
        return kept.worker if kept is not None else None

    async def read(self, budget: timedelta, names: Collection[str] | None = None) -> list[Reading]:
        """
        One reading per source (of those named), after at most `budget`; a run that two sources see comes once.

        Where `dtexec` is asked, `dts` is asked too: it owns runs that both see, also when only one is to be shown.
        """
        readings = self._reconciler.reconcile(await self._scraper.read(budget, self._with_owners(names)))
        return readings if names is None else [reading for reading in readings if reading.source in names]

    def _with_owners(self, names: Collection[str] | None) -> Collection[str] | None:
        if names is None or not any(s.kind == "dtexec" and s.name in names for s in self.config.sources):
            return names
        return {*names, *(source.name for source in self.config.sources if source.kind == "dts")}

    async def reload(self) -> None:
        """
        Reads the configuration again and puts it in force.

        A source whose entry is unchanged keeps its worker; others are closed in the background. One reload runs at
        a time. Raises `ConfigError` when the new configuration is wrong; the old one then stays in force.
        """
        async with self._reloading:
            try:
                config = await asyncio.to_thread(self._load)
                kept = _make(config.sources, self._kept)
            except SsisExporterError as exc:
                self._reloads.failed()
                log.error("the configuration was not reloaded, the old one stays in force: %s", exc)  # noqa: TRY400 - ordinary
                raise
            except Exception:
                self._reloads.failed()
                log.exception("the configuration was not reloaded, the old one stays in force")
                raise
            gone = [old.worker for name, old in self._kept.items() if kept.get(name) != old]
            self.config = config
            self._kept = kept
            self._scraper = self._new_scraper()
            self.collector.configure(
                executions_per_source=config.limits.executions_per_source,
                keep_user_names=config.keep_user_names,
                sources=self.source_names,
            )
            self._close_in_background(gone)
            self._reloads.worked()
            log.info("the configuration was reloaded: %s", ", ".join(self.source_names))
            for tell in self.on_reload:
                tell(config)

    async def close(self) -> None:
        """Closes every source, waiting at most two seconds; may be called twice."""
        workers = [kept.worker for kept in self._kept.values()]
        self._kept = {}
        self._close_in_background(workers)
        await asyncio.gather(*self._closing)

    def _new_scraper(self) -> Scraper:
        return Scraper([self._kept[source.name].worker for source in self.config.sources])

    def _close_in_background(self, workers: Collection[SourceWorker]) -> None:
        if workers:
            task = asyncio.get_running_loop().create_task(_close(workers))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _make(wanted: Iterable[SourceConfig], old: dict[str, _Kept]) -> dict[str, _Kept]:
    """A worker for each source: the one there is where nothing changed, otherwise a new one that has opened nothing."""
    return {
        source.name: old[source.name]
        if source.name in old and old[source.name].config == source
        else _Kept(source, SourceWorker(source.build()))
        for source in wanted
    }


async def _close(workers: Collection[SourceWorker]) -> None:
    """Closes all at the same time on threads of their own: closing may wait for a call that hangs."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="close-source")
    try:
        closing = {worker.name: loop.run_in_executor(pool, worker.close, CLOSE_SECONDS) for worker in workers}
        for name, done in closing.items():
            try:
                if not await done:
                    log.warning("source %s did not end its call in time and is left behind", name)
            except Exception:
                log.exception("source %s could not be closed", name)
    finally:
        pool.shutdown(wait=False)
