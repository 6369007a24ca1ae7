"""What the sources saw to the families of one page, built anew on each scrape; counts and logs what did not answer."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Metric

from ssis_exporter.errors import SOURCE_ERROR_REASONS, SourceBroken
from ssis_exporter.families import Family
from ssis_exporter.labels import clean_line
from ssis_exporter.model import Execution, Reading, Snapshot
from ssis_exporter.runlabels import RunLabelCache
from ssis_exporter.sourcemetrics import DEFINITIONS, SCRAPE_ERRORS, UNCLAIMED_HOSTS
from ssis_exporter.sourcepage import ACTIVE, Page, add_how_it_went, page_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Part:
    """What one source that answered brings to the page."""

    page: Page
    claimed: set[int]
    """ISServerExec processes on this machine that its runs account for."""

    servers: list[int] | None
    """ISServerExec processes that it sees; None where it does not look at processes."""


class Collector:
    """
    Builds the page's families from what one scrape read.

    Keeps nothing from scrape to scrape but the label texts of runs that are still there, the counter of errors (on
    the registry it is given) and what it has logged already.
    """

    def __init__(self, *, executions_per_source: int, keep_user_names: bool, registry: CollectorRegistry) -> None:
        self.executions_per_source = executions_per_source
        self.keep_user_names = keep_user_names
        self._errors = Counter(
            SCRAPE_ERRORS.name, SCRAPE_ERRORS.documentation, labelnames=SCRAPE_ERRORS.labels, registry=registry
        )
        self._known: set[str] = set()
        self._claimers: set[str] = set()
        self._labels = RunLabelCache()
        self._said: set[tuple[str, str]] = set()

    def configure(self, *, executions_per_source: int, keep_user_names: bool, sources: Collection[str]) -> None:
        """Takes over a reloaded configuration; what is kept about sources that are no longer in it is dropped."""
        self.executions_per_source = executions_per_source
        self.keep_user_names = keep_user_names
        configured = {clean_line(source) for source in sources}
        self._labels.keep_only(configured)
        self._said = set()
        self._claimers &= configured
        for gone in self._known - configured:
            self._known.discard(gone)
            for reason in SOURCE_ERROR_REASONS:
                self._errors.remove(gone, reason)

    def describe(self) -> Iterator[Metric]:
        """All families, empty: their names, without a look at any source."""
        return (Family(definition) for definition in DEFINITIONS)

    def families(self, readings: Sequence[Reading]) -> Iterator[Metric]:
        """
        The families of one scrape; counts the errors among its readings. Never raises for a source.

        A source whose answer makes no sense counts as one that did not answer. Families without series are left out.
        """
        page = Page()
        parts: dict[str, _Part | None] = {}
        for reading in readings:
            source = clean_line(reading.source)
            if source in parts:
                self._say_once(source, "twice", "two sources are called %s; only the first is shown", source)
                continue
            self._count_from_zero(source)
            part = parts[source] = self._read(source, reading)
            add_how_it_went(page, source, reading, up=part is not None)
            if part is not None:
                page.take(part.page)
        self._add_unclaimed(page, parts)
        found = map(page.get, DEFINITIONS)
        return iter([family for family in found if family is not None and family.values])

    def errors_of(self, source: str) -> Metric:
        """How often this source did not answer: for a page that shows one source, without the registry."""
        name = clean_line(source)
        self._count_from_zero(name)
        family = Family(SCRAPE_ERRORS)
        for reason in SOURCE_ERROR_REASONS:
            [metric] = self._errors.labels(name, reason).collect()
            family.add((name, reason), metric.samples[0].value)
        return family

    def _count_from_zero(self, source: str) -> None:
        if source not in self._known:
            self._known.add(source)
            for reason in SOURCE_ERROR_REASONS:
                self._errors.labels(source, reason)

    def _read(self, source: str, reading: Reading) -> _Part | None:
        outcome = reading.outcome
        if isinstance(outcome, Snapshot):
            try:
                part = self._part(source, outcome)
            except Exception as exc:
                log.debug("source %s: where its answer failed", source, exc_info=exc)
                outcome = SourceBroken(f"{source}: its answer makes no sense: {type(exc).__name__}: {exc}")
            else:
                self._said.discard((source, "down"))
                return part
        self._labels.drop(source)
        self._errors.labels(source, outcome.reason if outcome.reason in SOURCE_ERROR_REASONS else "broken").inc()
        self._say_once(source, "down", "source %s did not answer: %s", source, outcome)
        return None

    def _part(self, source: str, seen: Snapshot) -> _Part:
        runs = self._each_once(source, seen.executions)
        active = [run for run in runs if run.status in ACTIVE and not run.orphaned]
        kept = _longest(active, self.executions_per_source)
        shown = self._labels.of(source, kept, keep_user_names=self.keep_user_names)
        if len(shown) < len(kept):
            self._say_once(source, "unclean", "source %s has instance ids that are equal once cleaned", source)
        return _Part(page_of(source, seen, runs, len(active), shown), _claimed(runs), _servers(seen))

    def _each_once(self, source: str, executions: Sequence[Execution]) -> Collection[Execution]:
        once = {run.facts.key.instance_id: run for run in executions}
        if len(once) < len(executions):
            twice = len(executions) - len(once)
            self._say_once(
                source, "duplicates", "source %s shows the same run more than once (%d times)", source, twice
            )
        return once.values()

    def _add_unclaimed(self, page: Page, parts: dict[str, _Part | None]) -> None:
        answered = {source: part for source, part in parts.items() if part is not None}
        self._claimers |= {source for source, part in answered.items() if part.claimed}
        if not self._claimers <= answered.keys():
            return
        claimed = {process_id for part in answered.values() for process_id in part.claimed}
        for source, part in answered.items():
            if part.servers is not None:
                unclaimed = sum(1 for process_id in part.servers if process_id not in claimed)
                page[UNCLAIMED_HOSTS].add((source,), unclaimed)

    def _say_once(self, source: str, problem: str, message: str, *arguments: object) -> None:
        if (source, problem) not in self._said:
            self._said.add((source, problem))
            log.warning(message, *arguments)


def _longest(runs: list[Execution], budget: int) -> list[Execution]:
    if len(runs) <= budget:
        return runs
    # First those that are long enough, which needs no more than their durations: there may be ten times too many.
    shortest = heapq.nlargest(budget, [run.duration for run in runs])[-1]
    long = [run for run in runs if run.duration >= shortest]
    return heapq.nlargest(budget, long, key=lambda run: (run.duration, run.facts.key.instance_id))


def _servers(seen: Snapshot) -> list[int] | None:
    if seen.host_processes is None:
        return None
    return [host.process_id for host in seen.host_processes if host.program == "ISServerExec"]


def _claimed(runs: Collection[Execution]) -> set[int]:
    # Only a run whose host process is on this machine, checked by its source, has figures. The number of a process
    # on another machine claims nothing here.
    return {
        run.facts.process_id
        for run in runs
        if run.figures is not None and run.facts.process_id is not None and run.facts.host == "ISServerExec"
    }
