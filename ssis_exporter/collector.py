"""What the sources saw to metric families: every metric's name, HELP and labels, built anew on each scrape."""

from __future__ import annotations

import heapq
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from prometheus_client import CollectorRegistry, Metric
from prometheus_client import Counter as CounterInstrument

from ssis_exporter.errors import SOURCE_ERROR_REASONS, SourceBroken
from ssis_exporter.families import Definition, Family
from ssis_exporter.labels import clean_label, clean_line
from ssis_exporter.model import Execution, ExecutionStatus, Reading, Scope, Snapshot
from ssis_exporter.runlabels import IDENTITY_LABELS, INFO_LABELS, RUN_LABELS, RunLabelCache, RunLabels

log = logging.getLogger(__name__)

STUCK_AFTER = timedelta(minutes=5)
"""How long a run may be stopping before it counts as stuck."""

HOST_PROGRAMS = ("ISServerExec", "DTExecUI", "DtsDebugHost")
"""Programs that may host packages without saying so; each is counted from 0."""

_SOURCE = ("source",)

RUNNING = Definition(
    "ssis_running_packages",
    "Runs that the source shows as running or stopping, without those whose host process is gone for certain.",
    _SOURCE,
)
OPEN = Definition(
    "ssis_open_executions",
    "Runs that the source shows as created, pending, running or stopping, before any series budget.",
    (*_SOURCE, "status"),
)
DURATION = Definition(
    "ssis_package_execution_duration_seconds",
    "How long this run has been running: now minus its start, by the source's own clock.",
    IDENTITY_LABELS,
)
START = Definition(
    "ssis_package_execution_start_timestamp_seconds",
    "When this run began, as the source tells it.",
    IDENTITY_LABELS,
)
START_UNCERTAIN = Definition(
    "ssis_package_execution_start_uncertain",
    "Always 1: two instants fit what the source says of this run's start (the hour that comes twice in autumn); the "
    "later one is shown, so the run may be an hour older.",
    RUN_LABELS,
)
STATUS = Definition(
    "ssis_package_execution_status",
    "Always 1; the label status is what the source says of this run: running or stopping.",
    (*RUN_LABELS, "status"),
)
INFO = Definition(
    "ssis_package_execution_info",
    "Always 1; the labels are what else the source tells of this run and what does not change in it.",
    (*RUN_LABELS, *INFO_LABELS),
)
CPU = Definition(
    "ssis_package_execution_cpu_seconds_total",
    "User and system time of this run's host process and its children; it does not fall when a child ends.",
    RUN_LABELS,
    "counter",
)
RESIDENT = Definition(
    "ssis_package_execution_resident_memory_bytes",
    "Resident memory of this run's host process and its children.",
    RUN_LABELS,
)
READ = Definition(
    "ssis_package_execution_read_bytes_total",
    "Bytes that this run's host process and its children read; it does not fall when a child ends.",
    RUN_LABELS,
    "counter",
)
WRITTEN = Definition(
    "ssis_package_execution_written_bytes_total",
    "Bytes that this run's host process and its children wrote; it does not fall when a child ends.",
    RUN_LABELS,
    "counter",
)
THREADS = Definition(
    "ssis_package_execution_threads",
    "Threads of this run's host process and its children.",
    RUN_LABELS,
)
ROWS_READ = Definition(
    "ssis_package_execution_rows_read_total",
    "Rows that this run's data flows read from their sources (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
    "counter",
)
ROWS_WRITTEN = Definition(
    "ssis_package_execution_rows_written_total",
    "Rows that this run's data flows handed to their destinations (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
    "counter",
)
BUFFERS_IN_USE = Definition(
    "ssis_package_execution_buffers_in_use",
    "Data-flow buffers that this run uses (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
)
BUFFERS_SPOOLED = Definition(
    "ssis_package_execution_buffers_spooled",
    "Data-flow buffers that this run wrote to disk for want of memory (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
)
BUFFER_MEMORY = Definition(
    "ssis_package_execution_buffer_memory_bytes",
    "Memory of this run's data-flow buffers (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
)
ORPHANED = Definition(
    "ssis_orphaned_executions",
    "Runs without their other half: no_process, the record says running and the host process is gone for certain; "
    "no_row, a host process for which there is no open record.",
    (*_SOURCE, "problem"),
)
STUCK = Definition(
    "ssis_stuck_stopping_executions",
    "Runs that the source shows as stopping for more than 5 minutes.",
    _SOURCE,
)
OLDEST_PENDING = Definition(
    "ssis_oldest_pending_seconds",
    "How long the run that has been pending longest waits since it was created; 0 when none is pending.",
    _SOURCE,
)
HOSTS = Definition(
    "ssis_host_processes",
    "Processes on this machine that may host packages without saying so.",
    (*_SOURCE, "program"),
)
UNCLAIMED_HOSTS = Definition(
    "ssis_unclaimed_host_processes",
    "ISServerExec processes on this machine that no run of a configured source accounts for: a catalog runs packages "
    "here that nobody reads. Absent while a source that accounted for some before could not be read.",
    _SOURCE,
)
AMBIGUOUS = Definition(
    "ssis_ambiguous_executions",
    "Runs that two sources may both show, because it could not be told whether they are one.",
    _SOURCE,
)
INCOMPLETE = Definition(
    "ssis_source_incomplete",
    "1 until the source has filled in what ran before it was first read: counts are a lower bound.",
    _SOURCE,
)
VISIBILITY = Definition(
    "ssis_visibility",
    "1 for how much the exporter's account can see of what runs, 0 for the other scopes.",
    (*_SOURCE, "scope"),
)
TRUNCATED = Definition(
    "ssis_executions_truncated",
    "Running or stopping runs that have no series of their own, mostly because the series budget keeps the longest.",
    _SOURCE,
)
UP = Definition("ssis_up", "Whether the source answered this scrape.", _SOURCE)
SOURCE_INFO = Definition(
    "ssis_source_info",
    "Always 1; the labels are what the source is. What only a connection tells is empty until there was one.",
    (*_SOURCE, "kind", "server", "version"),
)
SCRAPE_DURATION = Definition(
    "ssis_scrape_duration_seconds",
    "How long the source took for the answer that this scrape shows, or how long this scrape waited in vain.",
    _SOURCE,
)
SCRAPE_TIMED_OUT = Definition(
    "ssis_scrape_timed_out",
    "Whether the source was still busy when this scrape's time was up.",
    _SOURCE,
)

DEFINITIONS: tuple[Definition, ...] = (
    UP,
    SOURCE_INFO,
    SCRAPE_DURATION,
    SCRAPE_TIMED_OUT,
    INCOMPLETE,
    VISIBILITY,
    RUNNING,
    OPEN,
    TRUNCATED,
    ORPHANED,
    STUCK,
    OLDEST_PENDING,
    HOSTS,
    UNCLAIMED_HOSTS,
    AMBIGUOUS,
    DURATION,
    START,
    START_UNCERTAIN,
    STATUS,
    INFO,
    CPU,
    RESIDENT,
    READ,
    WRITTEN,
    THREADS,
    ROWS_READ,
    ROWS_WRITTEN,
    BUFFERS_IN_USE,
    BUFFERS_SPOOLED,
    BUFFER_MEMORY,
)
"""Every metric that is built from readings, in the order of the page."""

SCRAPE_ERRORS = "ssis_scrape_errors_total"
SCRAPE_ERRORS_HELP = "Scrapes that the source did not answer, by reason."

_ACTIVE = (ExecutionStatus.RUNNING, ExecutionStatus.STOPPING)


class _Page(dict[Definition, Family]):
    """Families by their definition, each made when it is first needed."""

    def __missing__(self, definition: Definition) -> Family:
        family = self[definition] = Family(definition)
        return family

    def add_column(self, definition: Definition, texts: Sequence[str], values: Sequence[float | None]) -> None:
        """Adds one series per text, but none where the value is unknown."""
        if None in values:
            known = [(text, value) for text, value in zip(texts, values, strict=True) if value is not None]
            texts, values = [text for text, _ in known], [value for _, value in known]
        if texts:
            self[definition].extend(texts, cast("Sequence[float]", values))

    def take(self, other: _Page) -> None:
        """Adds another page's series to this one; the other page is used up."""
        for definition, family in other.items():
            mine = self.setdefault(definition, family)
            if mine is not family:
                mine.extend(family.texts, family.values)


@dataclass(slots=True)
class _Part:
    """What one source that answered brings to the page."""

    page: _Page
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
        self._errors = CounterInstrument(
            SCRAPE_ERRORS, SCRAPE_ERRORS_HELP, labelnames=("source", "reason"), registry=registry
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
        page = _Page()
        parts: dict[str, _Part | None] = {}
        for reading in readings:
            source = clean_line(reading.source)
            if source in parts:
                self._say_once(source, "twice", "two sources are called %s; only the first is shown", source)
                continue
            self._count_from_zero(source)
            part = parts[source] = self._read(source, reading)
            self._add_how_it_went(page, source, reading, up=part is not None)
            if part is not None:
                page.take(part.page)
        self._add_unclaimed(page, parts)
        found = map(page.get, DEFINITIONS)
        return iter([family for family in found if family is not None and family.values])

    def errors_of(self, source: str) -> Metric:
        """How often this source did not answer: for a page that shows one source, without the registry."""
        name = clean_line(source)
        self._count_from_zero(name)
        family = Family(Definition(SCRAPE_ERRORS, SCRAPE_ERRORS_HELP, (*_SOURCE, "reason"), "counter"))
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

    def _add_how_it_went(self, page: _Page, source: str, reading: Reading, *, up: bool) -> None:
        page[UP].add((source,), up)
        page[SOURCE_INFO].add((source, reading.info.kind, reading.info.server, reading.info.version), 1)
        page[SCRAPE_DURATION].add((source,), reading.took.total_seconds())
        page[SCRAPE_TIMED_OUT].add((source,), reading.timed_out)

    def _part(self, source: str, seen: Snapshot) -> _Part:
        page = _Page()
        runs = self._each_once(source, seen.executions)
        active = [run for run in runs if run.status in _ACTIVE and not run.orphaned]
        kept = _longest(active, self.executions_per_source)
        shown = self._labels.of(source, kept, keep_user_names=self.keep_user_names)
        if len(shown) < len(kept):
            self._say_once(source, "unclean", "source %s has instance ids that are equal once cleaned", source)
        page[INCOMPLETE].add((source,), seen.incomplete)
        for scope in Scope:
            page[VISIBILITY].add((source, scope), seen.visibility.scope is scope)
        page[RUNNING].add((source,), len(active))
        page[TRUNCATED].add((source,), len(active) - len(shown))
        _add_counts(page, source, seen, runs)
        _add_runs(page, shown)
        for family in page.values():
            # fsum refuses what is no number; one series that is none would make the whole page unreadable.
            if not math.isfinite(math.fsum(family.values)):
                raise ValueError(f"{family.definition.name} is not finite")
        servers = _servers(seen)
        return _Part(page, _claimed(runs), servers)

    def _each_once(self, source: str, executions: Sequence[Execution]) -> Collection[Execution]:
        once = {run.facts.key.instance_id: run for run in executions}
        if len(once) < len(executions):
            twice = len(executions) - len(once)
            self._say_once(
                source, "duplicates", "source %s shows the same run more than once (%d times)", source, twice
            )
        return once.values()

    def _add_unclaimed(self, page: _Page, parts: dict[str, _Part | None]) -> None:
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
    return heapq.nlargest(budget, runs, key=lambda run: (run.duration, run.facts.key.instance_id))


def _add_counts(page: _Page, source: str, seen: Snapshot, runs: Collection[Execution]) -> None:
    statuses = Counter([run.status for run in runs])
    for status in ExecutionStatus:
        page[OPEN].add((source, status), statuses.pop(status, 0))
    if statuses:
        raise ValueError(f"unknown status {', '.join(map(str, statuses))}")
    page[ORPHANED].add((source, "no_process"), sum(1 for run in runs if run.orphaned))
    if seen.hosts_without_row is not None:
        page[ORPHANED].add((source, "no_row"), seen.hosts_without_row)
    stopping = [run.stopping_since for run in runs if run.status is ExecutionStatus.STOPPING]
    stuck = [since for since in stopping if since is not None and seen.taken_at - since > STUCK_AFTER]
    page[STUCK].add((source,), len(stuck))
    waits = [
        seen.taken_at - run.facts.created_at
        for run in runs
        if run.status is ExecutionStatus.PENDING and run.facts.created_at is not None
    ]
    page[OLDEST_PENDING].add((source,), max(waits, default=timedelta()).total_seconds())
    if seen.ambiguous is not None:
        page[AMBIGUOUS].add((source,), seen.ambiguous)
    if seen.host_processes is not None:
        programs = Counter(dict.fromkeys(HOST_PROGRAMS, 0))
        programs.update(clean_label(host.program) for host in seen.host_processes)
        for program, count in programs.items():
            page[HOSTS].add((source, program), count)


def _add_runs(page: _Page, shown: Sequence[tuple[RunLabels, Execution]]) -> None:
    identities = [labels.identity for labels, _ in shown]
    page[DURATION].extend(identities, [run.duration.total_seconds() for _, run in shown])
    page.add_column(START, identities, [labels.started for labels, _ in shown])
    doubtful = [labels.run for labels, run in shown if run.facts.start_uncertain]
    page.add_column(START_UNCERTAIN, doubtful, [1] * len(doubtful))
    page[STATUS].extend([f'{labels.run},status="{run.status}"' for labels, run in shown], [1] * len(shown))
    page[INFO].extend([labels.info for labels, _ in shown], [1] * len(shown))

    _add_figures(page, shown)
    _add_data_flows(page, shown)


def _add_figures(page: _Page, shown: Sequence[tuple[RunLabels, Execution]]) -> None:
    measured = [(labels.run, run.figures) for labels, run in shown if run.figures is not None]
    texts = [text for text, _ in measured]
    figures = [figures for _, figures in measured]
    page.add_column(CPU, texts, [None if it.cpu_time is None else it.cpu_time.total_seconds() for it in figures])
    page.add_column(RESIDENT, texts, [it.resident_bytes for it in figures])
    page.add_column(READ, texts, [it.read_bytes for it in figures])
    page.add_column(WRITTEN, texts, [it.written_bytes for it in figures])
    page.add_column(THREADS, texts, [it.threads for it in figures])


def _add_data_flows(page: _Page, shown: Sequence[tuple[RunLabels, Execution]]) -> None:
    flowing = [(labels.run, run.data_flow) for labels, run in shown if run.data_flow is not None]
    if not flowing:
        return
    texts = [text for text, _ in flowing]
    flows = [flow for _, flow in flowing]
    page.add_column(ROWS_READ, texts, [it.rows_read for it in flows])
    page.add_column(ROWS_WRITTEN, texts, [it.rows_written for it in flows])
    page.add_column(BUFFERS_IN_USE, texts, [it.buffers_in_use for it in flows])
    page.add_column(BUFFERS_SPOOLED, texts, [it.buffers_spooled for it in flows])
    page.add_column(BUFFER_MEMORY, texts, [it.buffer_memory_bytes for it in flows])


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
