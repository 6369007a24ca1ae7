"""One source's answer to metric families, and families of several sources to those of a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import timedelta
from itertools import chain
from typing import cast

from ssis_exporter import sourcemetrics as metrics
from ssis_exporter.families import Definition, Family, last_label_texts, series_text
from ssis_exporter.labels import clean_label
from ssis_exporter.model import Execution, ExecutionStatus, Reading, Scope, Snapshot
from ssis_exporter.runlabels import RunLabels

STUCK_AFTER = timedelta(minutes=5)
"""How long a run may be stopping before it counts as stuck."""

HOST_PROGRAMS = ("ISServerExec", "DTExecUI", "DtsDebugHost")
"""Programs that may host packages without saying so; each is counted from 0."""

ACTIVE = (ExecutionStatus.RUNNING, ExecutionStatus.STOPPING)

_PLAIN = {int, float}
_SCOPES = tuple(Scope)
_STATUSES = tuple(ExecutionStatus)

Shown = Sequence[tuple[RunLabels, Execution]]
"""The runs that have series of their own."""


class Page(dict[Definition, Family]):
    """Families by their definition, each made when it is first needed."""

    def __missing__(self, definition: Definition) -> Family:
        family = self[definition] = Family(definition)
        return family

    def add_one(self, definition: Definition, text: str, value: float) -> None:
        """Adds one series by its ready label text."""
        family = self[definition]
        family.texts.append(text)
        family.values.append(value)

    def add_column(self, definition: Definition, texts: Sequence[str], values: Sequence[float | None]) -> None:
        """Adds one series per text, but none where the value is unknown."""
        if None in values:
            known = [(text, value) for text, value in zip(texts, values, strict=True) if value is not None]
            texts, values = [text for text, _ in known], [value for _, value in known]
        if texts:
            self[definition].extend(texts, cast("Sequence[float]", values))

    def take(self, other: Page) -> None:
        """Adds another page's series to this one; the other page is used up."""
        for definition, family in other.items():
            mine = self.setdefault(definition, family)
            if mine is not family:
                mine.extend(family.texts, family.values)

    def check(self) -> None:
        """
        Raises for what is no number, and for infinite ones: one such series would make the whole page unreadable.

        So would a number with a spelling of its own, and a truth value: what is written is a plain one.
        """
        columns = [family.values for family in self.values()]
        # fsum refuses what is no number.
        if not math.isfinite(math.fsum(chain.from_iterable(columns))):
            names = [each.definition.name for each in self.values() if not math.isfinite(math.fsum(each.values))]
            raise ValueError(f"{', '.join(names)} is not finite")
        if not set(map(type, chain.from_iterable(columns))) <= _PLAIN:
            for family in self.values():
                family.values = [int(it) if isinstance(it, int) else float(it) for it in family.values]


def add_how_it_went(page: Page, source: str, reading: Reading, *, up: bool) -> None:
    """What there is of every source, whether it answered or not."""
    own = series_text(metrics.SOURCE_LABELS, (source,))
    page.add_one(metrics.UP, own, int(up))
    page[metrics.SOURCE_INFO].add((source, reading.info.kind, reading.info.server, reading.info.version), 1)
    page.add_one(metrics.SCRAPE_DURATION, own, reading.took.total_seconds())
    page.add_one(metrics.SCRAPE_TIMED_OUT, own, int(reading.timed_out))


def page_of(source: str, seen: Snapshot, runs: Collection[Execution], active: int, shown: Shown) -> Page:
    """
    The families of one source that answered. Raises where its answer makes no sense.

    `runs` are all that it saw, each once; `active` of them run, and `shown` of those have series of their own.
    """
    page = Page()
    own = series_text(metrics.SOURCE_LABELS, (source,))
    page.add_one(metrics.INCOMPLETE, own, int(seen.incomplete))
    scope = seen.visibility.scope
    texts = last_label_texts(metrics.VISIBILITY.labels, source, _SCOPES)
    page[metrics.VISIBILITY].extend(texts, [int(each is scope) for each in _SCOPES])
    page.add_one(metrics.RUNNING, own, active)
    page.add_one(metrics.TRUNCATED, own, active - len(shown))
    _add_counts(page, source, seen, runs)
    _add_runs(page, shown)
    page.check()
    return page


def _add_counts(page: Page, source: str, seen: Snapshot, runs: Collection[Execution]) -> None:
    own = series_text(metrics.SOURCE_LABELS, (source,))
    statuses = [run.status for run in runs]
    counts = [statuses.count(status) for status in _STATUSES]
    if sum(counts) != len(statuses):
        raise ValueError(f"unknown status {', '.join(set(map(str, statuses)).difference(_STATUSES))}")
    page[metrics.OPEN].extend(last_label_texts(metrics.OPEN.labels, source, _STATUSES), counts)
    page[metrics.ORPHANED].add((source, "no_process"), [run.orphaned for run in runs].count(True))
    if seen.hosts_without_row is not None:
        page[metrics.ORPHANED].add((source, "no_row"), seen.hosts_without_row)
    stopping = [run.stopping_since for run in runs if run.status is ExecutionStatus.STOPPING]
    stuck = [since for since in stopping if since is not None and seen.taken_at - since > STUCK_AFTER]
    page.add_one(metrics.STUCK, own, len(stuck))
    waits = [
        seen.taken_at - run.facts.created_at
        for run in runs
        if run.status is ExecutionStatus.PENDING and run.facts.created_at is not None
    ]
    page.add_one(metrics.OLDEST_PENDING, own, max(waits, default=timedelta()).total_seconds())
    if seen.ambiguous is not None:
        page[metrics.AMBIGUOUS].add((source,), seen.ambiguous)
    if seen.host_processes is not None:
        programs = Counter(dict.fromkeys(HOST_PROGRAMS, 0))
        programs.update(clean_label(host.program) for host in seen.host_processes)
        for program, count in programs.items():
            page[metrics.HOSTS].add((source, program), count)


def _add_runs(page: Page, shown: Shown) -> None:
    identities = [labels.identity for labels, _ in shown]
    page[metrics.DURATION].extend(identities, [run.duration.total_seconds() for _, run in shown])
    page.add_column(metrics.START, identities, [labels.started for labels, _ in shown])
    doubtful = [labels.run for labels, run in shown if run.facts.start_uncertain]
    page.add_column(metrics.START_UNCERTAIN, doubtful, [1] * len(doubtful))
    page[metrics.STATUS].extend([f'{labels.run},status="{run.status}"' for labels, run in shown], [1] * len(shown))
    page[metrics.INFO].extend([labels.info for labels, _ in shown], [1] * len(shown))

    _add_figures(page, shown)
    _add_data_flows(page, shown)


def _add_figures(page: Page, shown: Shown) -> None:
    measured = [(labels.run, run.figures) for labels, run in shown if run.figures is not None]
    texts = [text for text, _ in measured]
    figures = [figures for _, figures in measured]
    page.add_column(
        metrics.CPU, texts, [None if it.cpu_time is None else it.cpu_time.total_seconds() for it in figures]
    )
    page.add_column(metrics.RESIDENT, texts, [it.resident_bytes for it in figures])
    page.add_column(metrics.READ, texts, [it.read_bytes for it in figures])
    page.add_column(metrics.WRITTEN, texts, [it.written_bytes for it in figures])
    page.add_column(metrics.THREADS, texts, [it.threads for it in figures])


def _add_data_flows(page: Page, shown: Shown) -> None:
    flowing = [(labels.run, run.data_flow) for labels, run in shown if run.data_flow is not None]
    if not flowing:
        return
    texts = [text for text, _ in flowing]
    flows = [flow for _, flow in flowing]
    page.add_column(metrics.ROWS_READ, texts, [it.rows_read for it in flows])
    page.add_column(metrics.ROWS_WRITTEN, texts, [it.rows_written for it in flows])
    page.add_column(metrics.BUFFERS_IN_USE, texts, [it.buffers_in_use for it in flows])
    page.add_column(metrics.BUFFERS_SPOOLED, texts, [it.buffers_spooled for it in flows])
    page.add_column(metrics.BUFFER_MEMORY, texts, [it.buffer_memory_bytes for it in flows])
