"""From looks to ends: which runs began and ended between two snapshots of one source. No input or output."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ssis_exporter.model import (
    Execution,
    ExecutionFacts,
    ExecutionKey,
    Result,
    Snapshot,
    Visibility,
)

REMEMBERED_ENDS = 10_000
"""Ends per source that are remembered by their id, so that one reported again counts once."""


@dataclass(slots=True)
class OpenRun:
    """A run that was open at a look."""

    facts: ExecutionFacts
    seen_under: Visibility
    seen_at: datetime | None
    """By the source's clock; None for one known from an earlier life of the exporter only."""

    duration: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A run that ended."""

    facts: ExecutionFacts
    result: Result
    ended_at: datetime
    duration: timedelta | None
    """None where it is not known well enough to learn from."""


@dataclass(slots=True)
class Digest:
    """What one snapshot changed."""

    began: list[OpenRun] = field(default_factory=list)
    ended: list[End] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    """Instance ids that are not open any more, counted or not."""


class SourceEnds:
    """What is open at one source, and which ends were counted already."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.open: dict[str, OpenRun] = {}
        self.counted: dict[str, None] = {}
        """Instance ids of the newest ends, oldest first."""

        self.bookmark = ""
        self.looked_at: datetime | None = None
        self.first_look: datetime | None = None
        self._elsewhere: set[str] = set()
        self._kept_alive: set[str] = set()

    def link(
        self,
        *,
        elsewhere: Collection[str],
        returned: Collection[str],
        kept_alive: Collection[str],
        abandoned: Collection[str],
    ) -> list[str]:
        """
        What the other sources of this machine say of this one's runs.

        `elsewhere` are runs that another source owns: their end is that one's to count, until they are `returned`.
        `kept_alive` are runs whose process another source sees alive. `abandoned` are runs that go on under another
        source: they are forgotten without an end. Returns the ids forgotten.
        """
        self._elsewhere |= set(elsewhere)
        self._elsewhere -= set(returned)
        self._kept_alive = set(kept_alive)
        gone = [instance for instance in abandoned if self.open.pop(instance, None) is not None]
        for instance in gone:
            self._count(instance)
        return gone

    def digest(self, seen: Snapshot, *, stopped_by_us: Callable[[ExecutionKey], bool]) -> Digest:
        """Takes one snapshot in."""
        change = Digest()
        present = {run.key.instance_id for run in seen.executions}
        for end in seen.ended:
            instance = end.facts.key.instance_id
            if instance in self.counted or instance in present:
                continue
            result = end.result
            if result is Result.CANCELED and stopped_by_us(end.facts.key):
                result = Result.STOPPED_BY_EXPORTER
            self._close(instance, change)
            change.ended.append(
                End(facts=end.facts, result=result, ended_at=end.ended_at, duration=max(end.duration, timedelta()))
            )
        for run in seen.executions:
            self._see(run, seen, change)
        self._miss(present, seen, change, stopped_by_us)
        self.bookmark = seen.bookmark or self.bookmark
        self.first_look = self.first_look or seen.taken_at
        self.looked_at = seen.taken_at
        return change

    def _see(self, run: Execution, seen: Snapshot, change: Digest) -> None:
        known = self.open.get(run.key.instance_id)
        if known is None:
            known = OpenRun(run.facts, seen.visibility, seen.taken_at, run.duration)
            self.open[run.key.instance_id] = known
            change.began.append(known)
            return
        if known.seen_under != seen.visibility or known.facts != run.facts:
            known.seen_under, known.facts = seen.visibility, run.facts
            change.began.append(known)
        known.seen_at, known.duration = seen.taken_at, run.duration

    def _miss(
        self, present: set[str], seen: Snapshot, change: Digest, stopped_by_us: Callable[[ExecutionKey], bool]
    ) -> None:
        if len(self.open) == len(present):
            return
        for instance, run in list(self.open.items()):
            if instance in present or not seen.visibility.proves_end_of_what_was_seen_under(run.seen_under):
                continue
            if seen.records_ends:
                if not seen.incomplete:
                    self._forget(instance, change)
                continue
            if instance in self._kept_alive:
                continue
            self._close(instance, change)
            if instance in self._elsewhere:
                self._elsewhere.discard(instance)
                continue
            ours = stopped_by_us(run.facts.key)
            change.ended.append(
                End(
                    facts=run.facts,
                    result=Result.STOPPED_BY_EXPORTER if ours else Result.UNKNOWN,
                    ended_at=seen.taken_at,
                    duration=_likely_duration(run, seen.taken_at),
                )
            )

    def _close(self, instance: str, change: Digest) -> None:
        self._forget(instance, change)
        self._count(instance)

    def _forget(self, instance: str, change: Digest) -> None:
        if self.open.pop(instance, None) is not None:
            change.closed.append(instance)

    def _count(self, instance: str) -> None:
        self.counted[instance] = None
        while len(self.counted) > REMEMBERED_ENDS:
            del self.counted[next(iter(self.counted))]


def _likely_duration(run: OpenRun, missed_at: datetime) -> timedelta | None:
    """It ended between two looks: half-way. None for one that ended while nobody looked."""
    if run.seen_at is None or run.facts.started_at is None or missed_at < run.seen_at:
        return None
    return run.duration + (missed_at - run.seen_at) / 2
