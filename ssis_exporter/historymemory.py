"""What is remembered of ended runs, and how looks change it. No input or output."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ssis_exporter.ends import Digest, End, SourceEnds, mark_of
from ssis_exporter.historyfile import KEPT_FAILURES, Change, Failure, Fill, Loaded, PackageKey, PackageRecord
from ssis_exporter.model import EndedExecution, ExecutionFacts, ExecutionKey, Result, Snapshot
from ssis_exporter.reconcile import Links

LEARNED_FROM = (Result.SUCCEEDED, Result.UNKNOWN)
"""Results whose durations tell what is usual. `unknown` is all that a source without a record ever says."""

FAILED = (Result.FAILED, Result.ENDED_UNEXPECTEDLY)

CROWDED = 1.25
"""How many times too many packages of a source there may be until the next tidying."""

KEPT_PACKAGES_FOR = timedelta(days=400)
"""How long a package is remembered that does not run any more: what runs once a year has a past."""


class HistoryMemory:
    """
    One thread at a time changes it, and notes in a `Change` what has to be written.

    Any thread may read meanwhile: what is read is replaced or changed in one step, so nobody has to wait.
    """

    def __init__(
        self,
        *,
        stopped_by_us: Callable[[ExecutionKey], bool] = lambda _: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.stopped_by_us = stopped_by_us
        self.most_packages = 4000
        """So many are remembered of each source."""

        self.packages: dict[PackageKey, PackageRecord] = {}
        self.packages_of: dict[str, dict[PackageKey, PackageRecord]] = {}
        """The same ones by source."""

        self.sources: dict[str, SourceEnds] = {}
        self.fills: dict[str, Fill] = {}
        self.failures: list[Failure] = []
        """The newest, oldest first."""

        self._now = now

    @property
    def is_crowded(self) -> bool:
        """Whether to tidy at once: somebody starts packages under ever new names."""
        return any(len(packages) > CROWDED * self.most_packages for packages in self.packages_of.values())

    def everything(self) -> Change:
        """All of it."""
        return Change(
            packages=dict(self.packages),
            began=[run for ends in self.sources.values() for run in ends.open.values()],
            counted=[(ends.source, mark) for ends in self.sources.values() for mark in ends.counted],
            sources={name: (ends, self.fill_point(name)) for name, ends in self.sources.items()},
            failures={(failure.source, failure.instance_id): failure for failure in self.failures},
        )

    def fill_point(self, source: str) -> Fill:
        """How far the source's own record was read in."""
        return self.fills.get(source, Fill())

    def digest(self, seen: Snapshot, change: Change) -> None:
        """Takes a look in."""
        ends = self._of(seen.source)
        before = (ends.bookmark, ends.first_look)
        digest = ends.digest(seen, stopped_by_us=self.stopped_by_us)
        for run in digest.began:
            self._began(run.facts, seen.taken_at, change)
        self._take(seen.source, digest, change)
        for end in digest.ended:
            self._ended(end, seen.taken_at, change)
        if before != (ends.bookmark, ends.first_look):
            change.sources[seen.source] = (ends, self.fill_point(seen.source))

    def link(self, links: Links, change: Change) -> None:
        """What the sources of this machine say of each other's runs."""
        for source, ends in self.sources.items():
            elsewhere, returned, kept_alive, abandoned = (
                [key.instance_id for key in keys if key.source == source]
                for keys in (links.elsewhere, links.returned, links.kept_alive, links.abandoned)
            )
            digest = ends.link(elsewhere=elsewhere, returned=returned, kept_alive=kept_alive, abandoned=abandoned)
            self._take(source, digest, change)

    def _take(self, source: str, digest: Digest, change: Change) -> None:
        change.began += digest.began
        change.closed += [(source, instance) for instance in digest.closed]
        change.counted += [(source, mark) for mark in digest.counted]
        change.forgotten += [(source, mark) for mark in digest.forgotten]

    def _began(self, facts: ExecutionFacts, now: datetime, change: Change) -> None:
        is_new = PackageKey.of(facts) not in self.packages
        record = self._record(facts, now)
        if is_new:
            change.packages[record.key] = record

    def _ended(self, end: End, now: datetime, change: Change) -> None:
        record = self._record(end.facts, end.ended_at)
        record.counts[end.result] = record.counts.get(end.result, 0) + 1
        if end.duration is not None and end.result in LEARNED_FROM:
            record.samples.add(end.ended_at, end.duration, now=self._now())
        _remember_last(record, end.result, end.ended_at, end.duration, now)
        change.packages[record.key] = record
        if end.result in FAILED:
            self._failed(end.facts, end.result, end.ended_at, end.duration, change)

    def _failed(
        self, facts: ExecutionFacts, result: Result, ended_at: datetime, duration: timedelta | None, change: Change
    ) -> None:
        failure = Failure(
            source=facts.key.source,
            instance_id=facts.key.instance_id,
            folder=facts.folder,
            project=facts.project,
            package_name=facts.package_name,
            result=result,
            ended_at=ended_at,
            duration=duration,
        )
        failures = list(self.failures)
        insort(failures, failure, key=lambda one: one.ended_at)
        self.failures = failures[-KEPT_FAILURES:]
        change.failures[failure.source, failure.instance_id] = failure

    def tell_message(self, source: str, instance_id: str, message: str, change: Change) -> None:
        """The first error message of a failure."""
        failures = list(self.failures)
        for at, failure in enumerate(failures):
            if failure.source == source and failure.instance_id == instance_id:
                failures[at] = change.failures[source, instance_id] = replace(failure, message=message)
        self.failures = failures

    def add_past(self, source: str, ended: Iterable[EndedExecution], fill: Fill, change: Change) -> None:
        """A piece of the source's own record: it teaches, and counts nothing."""
        now = self._now()
        ends = self._of(source)
        # From the first look on, ends are counted by the looks.
        until = ends.first_look or now
        for end in ended:
            if end.ended_at >= until:
                continue
            record = self._record(end.facts, end.ended_at)
            duration = end.duration if end.facts.started_at is not None else None
            before = (record.last_end, record.last_success)
            _remember_last(record, end.result, end.ended_at, duration, now)
            is_news = before != (record.last_end, record.last_success)
            if duration is not None and end.result in LEARNED_FROM:
                is_news |= record.samples.add(end.ended_at, duration, now=now)
            if is_news:
                change.packages[record.key] = record
            if end.result in FAILED and self._is_among_the_newest(end):
                self._failed(end.facts, end.result, end.ended_at, duration, change)
        self.fills[source] = fill
        change.sources[source] = (ends, fill)

    def _is_among_the_newest(self, end: EndedExecution) -> bool:
        failures, key = self.failures, end.facts.key
        if len(failures) >= KEPT_FAILURES and end.ended_at <= failures[0].ended_at:
            return False
        return not any(one.instance_id == key.instance_id and one.source == key.source for one in failures)

    def tidy(self, change: Change) -> None:
        """Lets go of packages that nobody has seen for long, or that are too many; and of samples that are too old."""
        now = self._now()
        by_source: dict[str, list[PackageRecord]] = {}
        for record in self.packages.values():
            record.samples.trim(now)
            by_source.setdefault(record.key.source, []).append(record)
        for records in by_source.values():
            records.sort(key=lambda record: record.seen_at, reverse=True)
            for place, record in enumerate(records):
                if place >= self.most_packages or record.seen_at < now - KEPT_PACKAGES_FOR:
                    del self.packages[record.key]
                    del self.packages_of[record.key.source][record.key]
                    change.packages.pop(record.key, None)
                    change.forgotten_packages.append(record.key)

    def merge(self, found: Loaded) -> None:
        """What the file held; and, where it could not be read until now, what was counted meanwhile."""
        now = self._now()
        for key, record in found.packages.items():
            ours = self.packages.get(key)
            if ours is not None:
                # Prometheus has seen the counter begin anew: added to, it would tell of ends that were long ago.
                record.counts = ours.counts
                record.samples.merge(ours.samples, now=now)
                record.seen_at = max(record.seen_at, ours.seen_at)
                record.last_end = ours.last_end or record.last_end
                record.last_success = ours.last_success or record.last_success
                record.last_duration = ours.last_duration or record.last_duration
            self._put(record)
        for name, theirs in found.sources.items():
            ends = self._of(name)
            known = ends.counted
            ends.open = {id_: run for id_, run in theirs.open.items() if mark_of(run.facts) not in known} | ends.open
            ends.counted = theirs.counted
            for mark in known:
                ends.counted.add(mark)
            ends.bookmark = ends.bookmark or theirs.bookmark
            ends.first_look = theirs.first_look or ends.first_look
        self.fills = found.fills | self.fills
        self.failures = sorted([*found.failures, *self.failures], key=lambda one: one.ended_at)[-KEPT_FAILURES:]

    def _of(self, source: str) -> SourceEnds:
        if source not in self.sources:
            self.sources[source] = SourceEnds(source)
        return self.sources[source]

    def _record(self, facts: ExecutionFacts, seen_at: datetime) -> PackageRecord:
        key = PackageKey.of(facts)
        record = self.packages.get(key)
        if record is None:
            # Both are there from the first sight on, so that a first failure is an increase.
            counts = {Result.SUCCEEDED: 0, Result.FAILED: 0}
            record = PackageRecord(key=key, seen_at=seen_at, counts=counts)
            self._put(record)
        record.seen_at = max(record.seen_at, seen_at)
        return record

    def _put(self, record: PackageRecord) -> None:
        self.packages[record.key] = record
        self.packages_of.setdefault(record.key.source, {})[record.key] = record


def _remember_last(
    record: PackageRecord, result: Result, ended_at: datetime, duration: timedelta | None, now: datetime
) -> None:
    # A time that lies ahead is of a clock that was set back since, and would stay the last for long.
    if record.last_end is None or ended_at >= record.last_end or record.last_end > now >= ended_at:
        record.last_end = ended_at
        record.last_duration = duration if duration is not None else record.last_duration
    if result is Result.SUCCEEDED and (
        record.last_success is None or ended_at >= record.last_success or record.last_success > now >= ended_at
    ):
        record.last_success = ended_at
