"""Ended runs and what is usual, as metric families."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import Metric

from ssis_exporter.families import Definition, Family, label_text
from ssis_exporter.historyfile import PackageKey, PackageRecord
from ssis_exporter.model import Result

PACKAGE_LABELS = ("source", "folder", "project", "package_name")

HELD_SECONDS = 120.0
"""How long a series that just came into being is shown as 0: an increase from nothing is no increase to Prometheus."""

ENDED = Definition(
    "ssis_package_executions_total",
    "Runs of this package that ended, by result; kept across restarts, those that ended meanwhile included.",
    (*PACKAGE_LABELS, "result"),
    "counter",
)
LAST_END = Definition(
    "ssis_package_last_end_timestamp_seconds", "When a run of this package last ended.", PACKAGE_LABELS
)
LAST_SUCCESS = Definition(
    "ssis_package_last_success_timestamp_seconds", "When a run of this package last succeeded.", PACKAGE_LABELS
)
LAST_DURATION = Definition(
    "ssis_package_last_duration_seconds", "How long the run of this package that ended last took.", PACKAGE_LABELS
)
TYPICAL = Definition(
    "ssis_package_typical_duration_seconds",
    "Median duration of this package's newest runs (at most 200, of the last 90 days).",
    PACKAGE_LABELS,
)
P95 = Definition(
    "ssis_package_p95_duration_seconds",
    "0.95 quantile of the durations of this package's newest runs (at most 200, of the last 90 days).",
    PACKAGE_LABELS,
)
SAMPLES = Definition(
    "ssis_package_duration_samples", "From how many runs the usual duration of this package comes.", PACKAGE_LABELS
)
TRUNCATED = Definition(
    "ssis_packages_truncated",
    "Packages that have no series of their own, because the series budget keeps those that ran last.",
    ("source",),
)

DEFINITIONS = (ENDED, LAST_END, LAST_SUCCESS, LAST_DURATION, TYPICAL, P95, SAMPLES, TRUNCATED)
"""Every metric that is built from history, in the order of the page."""


@dataclass(slots=True)
class _Shown:
    """What is kept of a package from page to page, for as long as it is remembered."""

    text: str
    first_shown: dict[Result, float] = field(default_factory=dict)


class HistoryMetrics:
    """
    Builds the families of ended runs.

    A result that a package has for the first time is shown as 0 for two minutes after it was first shown, and as what
    it is from then on. Used by one thread at a time.
    """

    def __init__(
        self,
        *,
        packages_per_source: int,
        held_seconds: float = HELD_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.packages_per_source = packages_per_source
        self._held_seconds = held_seconds
        self._monotonic = monotonic
        self._shown: dict[str, dict[PackageKey, _Shown]] = defaultdict(dict)
        """By source."""

    def already_known(self, records: Sequence[PackageRecord]) -> None:
        """What an earlier life of the exporter has shown: it is not held back."""
        for record in records:
            for result, count in record.counts.items():
                if count:
                    self._of(record).first_shown[result] = float("-inf")

    def describe(self) -> Iterator[Metric]:
        """All families, empty."""
        return (Family(definition) for definition in DEFINITIONS)

    def families(self, records: Sequence[PackageRecord], sources: Collection[str]) -> Iterator[Metric]:
        """The families of what is known of the given sources' packages."""
        families = {definition: Family(definition) for definition in DEFINITIONS}
        by_source: dict[str, list[PackageRecord]] = defaultdict(list)
        for record in records:
            if record.key.source in sources:
                by_source[record.key.source].append(record)
        shown: dict[str, PackageRecord] = {}
        for source in sources:
            known = by_source[source]
            self._forget_others(source, known)
            kept = sorted(known, key=lambda record: record.seen_at, reverse=True)[: self.packages_per_source]
            before = len(shown)
            for record in kept:
                shown.setdefault(self._of(record).text, record)
            families[TRUNCATED].add((source,), len(known) - (len(shown) - before))
        for text, record in shown.items():
            self._add(families, text, record)
        return iter([family for family in families.values() if family.values])

    def _add(self, families: dict[Definition, Family], text: str, record: PackageRecord) -> None:
        now = self._monotonic()
        first_shown = self._of(record).first_shown
        # A copy: another thread may be counting.
        for result, count in dict(record.counts).items():
            is_held = now - first_shown.setdefault(result, now) < self._held_seconds
            families[ENDED].extend([f'{text},result="{result}"'], [0 if is_held else count])
        for definition, when in ((LAST_END, record.last_end), (LAST_SUCCESS, record.last_success)):
            if when is not None:
                families[definition].extend([text], [when.timestamp()])
        if record.last_duration is not None:
            families[LAST_DURATION].extend([text], [record.last_duration.total_seconds()])
        baseline = record.samples.baseline()
        families[SAMPLES].extend([text], [0 if baseline is None else baseline.samples])
        if baseline is not None:
            families[TYPICAL].extend([text], [baseline.typical.total_seconds()])
            families[P95].extend([text], [baseline.p95.total_seconds()])

    def _of(self, record: PackageRecord) -> _Shown:
        key = record.key
        shown = self._shown[key.source].get(key)
        if shown is None:
            text = label_text(PACKAGE_LABELS, (key.source, key.folder, key.project, key.name))
            shown = self._shown[key.source][key] = _Shown(text)
        return shown

    def _forget_others(self, source: str, known: Sequence[PackageRecord]) -> None:
        shown = self._shown[source]
        if len(shown) > len(known):
            for gone in shown.keys() - {record.key for record in known}:
                del shown[gone]
