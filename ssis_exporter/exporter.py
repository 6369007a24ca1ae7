"""The running exporter: one worker per source, and a configuration that can be replaced while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Metric

from ssis_exporter.collector import Collector
from ssis_exporter.config import Config, SourceConfig
from ssis_exporter.errors import SsisExporterError
from ssis_exporter.history import History
from ssis_exporter.historymetrics import HistoryMetrics
from ssis_exporter.model import Reading, Snapshot
from ssis_exporter.reconcile import Reconciler
from ssis_exporter.scrape import Scraper
from ssis_exporter.selfmetrics import ConfigReloads
from ssis_exporter.sources.interface import Source
from ssis_exporter.sources.worker import SourceWorker

if TYPE_CHECKING:
    from ssis_exporter.stopper import Stopper

log = logging.getLogger(__name__)

SETTLE = timedelta(seconds=0.5)
"""How long a scrape waits for what it saw to be counted and on disk."""

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

        self.history: History | None = None
        """What ended; None where nothing is kept. Set by `keep_history`."""

        self.on_reload: list[Callable[[Config], None]] = []
        """Told the new configuration after each reload that worked."""

        self._load = load
        self._kept = _make(config.sources, {}, self._observe)
        self._ended = HistoryMetrics(packages_per_source=config.limits.packages_per_source)
        self._scraper = Scraper(self._workers())
        self._reconciler = Reconciler()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reloading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._reloads = ConfigReloads(registry, now=now)

    @property
    def past(self) -> History | None:
        """What ended, for who shows it."""
        return self.history

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
        began = time.monotonic()
        self._loop = asyncio.get_running_loop()
        readings = self._reconciler.reconcile(await self._scraper.read(budget, self._with_owners(names)))
        if self.history is not None:
            self.history.link(self._reconciler.links())
            # So that what this scrape saw end is counted on its page. A slow disk does not make a scrape late.
            left = budget - timedelta(seconds=time.monotonic() - began)
            await self.history.settle(max(min(left, SETTLE), timedelta()))
        return readings if names is None else [reading for reading in readings if reading.source in names]

    def families(self, readings: Sequence[Reading]) -> Iterator[Metric]:
        """All families of one scrape: what runs now, and what ended. May run on another thread."""
        yield from self.collector.families(readings)
        if self.history is not None:
            sources = [reading.source for reading in readings]
            yield from self._ended.families(self.history.records(sources), sources)

    def families_of_one(self, readings: Sequence[Reading]) -> Iterator[Metric]:
        """As `families` for one source, with how often it failed: such a page shows nothing of the registry."""
        yield from self.families(readings)
        for reading in readings:
            yield self.collector.errors_of(reading.source)

    def keep_history(self, history: History) -> None:
        """From now on every look is counted; sources go on where the history's earlier life ended."""
        self.history = history
        self._ended.already_known(history.records())
        self._resume([kept.worker for kept in self._kept.values()])

    def _observe(self, seen: Snapshot) -> None:
        """On the source's thread."""
        if self.history is not None:
            self.history.observe(seen)
        loop = self._loop
        if loop is not None:
            # A source that hung until after the end has nobody to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._note, seen)

    def _note(self, seen: Snapshot) -> None:
        """Right after each look: by the next scrape, a run that two sources saw may be gone from both."""
        kept = self._kept.get(seen.source)
        if kept is not None:
            self._reconciler.note(kept.config.kind, seen)
            if self.history is not None:
                self.history.link(self._reconciler.links())

    def _resume(self, workers: Iterable[SourceWorker]) -> None:
        for worker in workers:
            if self.history is not None:
                bookmark, open_ids = self.history.resume_point(worker.name)
                worker.call(partial(_resume, bookmark=bookmark, open_ids=open_ids))

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
                kept = _make(config.sources, self._kept, self._observe)
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
            new = [entry.worker for name, entry in kept.items() if self._kept.get(name) != entry]
            self._kept = kept
            self._resume(new)
            self._scraper.use(self._workers())
            self._reconciler.keep(self.source_names)
            self._ended.packages_per_source = config.limits.packages_per_source
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

    def end_soon(self, within: timedelta) -> None:
        """From now on `/-/ready` says no, and every scrape is answered within this time, with what is there by then."""
        self.ready = False
        self._scraper.hurry(within)

    async def close(self) -> None:
        """Closes every source, waiting at most two seconds; may be called twice."""
        workers = [kept.worker for kept in self._kept.values()]
        self._kept = {}
        self._close_in_background(workers)
        await asyncio.gather(*self._closing)

    def _workers(self) -> list[SourceWorker]:
        return [self._kept[source.name].worker for source in self.config.sources]

    def _close_in_background(self, workers: Collection[SourceWorker]) -> None:
        if workers:
            task = asyncio.get_running_loop().create_task(_close(workers))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _resume(source: Source, *, bookmark: str, open_ids: Collection[str]) -> None:
    try:
        source.resume(bookmark, open_ids)
    except Exception:
        log.exception("source %s could not go on where it ended; ends since then are missing", source.name)


def _make(
    wanted: Iterable[SourceConfig], old: dict[str, _Kept], observe: Callable[[Snapshot], None]
) -> dict[str, _Kept]:
    """A worker for each source: the one there is where nothing changed, otherwise a new one that has opened nothing."""
    return {
        source.name: old[source.name]
        if source.name in old and old[source.name].config == source
        else _Kept(source, SourceWorker(source.build(), observe=observe))
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
