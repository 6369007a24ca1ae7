"""From looks to ends: which runs began and ended between two snapshots of one source. No input or output."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
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

REMEMBERED_ENDS = 4_000
"""Ends per source that are remembered, so that one told again counts once: after a restart a catalog tells those of its
newest thousand runs again, and all since the bookmark that was written last."""


@dataclass(slots=True)
class OpenRun:
    """A run that was open at a look."""

    facts: ExecutionFacts
    seen_under: Visibility
    seen_at: datetime | None
    """By the source's clock; None for one known from an earlier life of the exporter only."""

    duration: timedelta
    elsewhere: bool = False
    """Another source owns it: its end is that one's to count."""


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

    counted: list[str] = field(default_factory=list)
    """Marks of what ended now."""

    forgotten: list[str] = field(default_factory=list)
    """Marks of ends that are remembered no longer."""


class Marks:
    """The newest so many texts, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._order: deque[str] = deque()
        self._set: set[str] = set()

    def __contains__(self, mark: str) -> bool:
        return mark in self._set

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def add(self, mark: str) -> list[str]:
        """Remembers one; returns those that are forgotten for it."""
        if mark in self._set:
            return []
        self._set.add(mark)
        self._order.append(mark)
        forgotten = []
        while len(self._order) > self._most:
            forgotten.append(self._order.popleft())
            self._set.discard(forgotten[-1])
        return forgotten


def mark_of(facts: ExecutionFacts) -> str:
    """
    Names a run among the ends that were counted.

    Where its creation is known, that is part of it: after a restore a catalog gives the same ids out again.
    """
    if facts.created_at is None:
        return facts.key.instance_id
    return f"{facts.key.instance_id} {int(facts.created_at.timestamp())}"


class SourceEnds:
    """What is open at one source, and which ends were counted already."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.open: dict[str, OpenRun] = {}
        self.counted = Marks(REMEMBERED_ENDS)
        self.bookmark = ""
        self.first_look: datetime | None = None
        """By the source's clock: what ended before it is its past, and is not counted."""

        self._kept_alive: frozenset[str] = frozenset()
        self._sight: Visibility | None = None
        """Of the last look. Equal ones are made the same one, since they are compared for each run."""

    def knows(self, instance_id: str) -> bool:
        """
        Whether a run of this name is open, or its end was counted; from any thread.

        A run whose creation is known is not found among the ends: its source has a record to ask.
        """
        return instance_id in self.open or instance_id in self.counted

    def link(
        self,
        *,
        elsewhere: Iterable[str],
        returned: Iterable[str],
        kept_alive: Collection[str],
        abandoned: Iterable[str],
    ) -> Digest:
        """
        What the other sources of this machine say of this one's runs.

        `elsewhere` are runs that another source owns: their end is that one's to count, until they are `returned`.
        `kept_alive` are runs whose process another source sees alive. `abandoned` are runs that go on under another
        source: they are forgotten without an end.
        """
        change = Digest()
        for instances, is_elsewhere in ((elsewhere, True), (returned, False)):
            for instance in instances:
                run = self.open.get(instance)
                if run is not None and run.elsewhere != is_elsewhere:
                    run.elsewhere = is_elsewhere
                    change.began.append(run)
        self._kept_alive = frozenset(kept_alive)
        for instance in abandoned:
            self._forget(instance, change)
        return change

    def digest(self, seen: Snapshot, *, stopped_by_us: Callable[[ExecutionKey], bool]) -> Digest:
        """Takes one snapshot in."""
        change = Digest()
        present = {run.facts.key.instance_id for run in seen.executions}
        for told in seen.ended:
            if told.facts.key.instance_id not in present and mark_of(told.facts) not in self.counted:
                result = _result(told.result, told.facts.key, stopped_by_us)
                duration = max(told.duration, timedelta()) if told.facts.started_at is not None else None
                # By the same clock: what lies ahead of this look was written before the clock was set back.
                ended_at = min(told.ended_at, seen.taken_at)
                end = End(facts=told.facts, result=result, ended_at=ended_at, duration=duration)
                self._close(end, change)
        if self._sight is None or self._sight != seen.visibility:
            self._sight = seen.visibility
        for run in seen.executions:
            self._see(run, seen.taken_at, self._sight, change)
        self._miss(present, seen, change, stopped_by_us)
        self.bookmark = seen.bookmark or self.bookmark
        self.first_look = self.first_look or seen.taken_at
        return change

    def _see(self, run: Execution, now: datetime, sight: Visibility, change: Digest) -> None:
        known = self.open.get(run.facts.key.instance_id)
        if known is None:
            # One that was counted and is there again was lost from sight for a moment.
            if mark_of(run.facts) not in self.counted:
                known = OpenRun(run.facts, sight, now, run.duration)
                self.open[run.key.instance_id] = known
                change.began.append(known)
            return
        if known.facts is not run.facts and known.facts != run.facts:
            known.facts = run.facts
            change.began.append(known)
        if known.seen_under is not sight:
            if known.seen_under != sight:
                change.began.append(known)
            known.seen_under = sight
        known.seen_at, known.duration = now, run.duration

    def _miss(
        self, present: set[str], seen: Snapshot, change: Digest, stopped_by_us: Callable[[ExecutionKey], bool]
    ) -> None:
        for instance in [instance for instance in self.open if instance not in present]:
            run = self.open[instance]
            if not seen.visibility.proves_end_of_what_was_seen_under(run.seen_under):
                continue
            if seen.records_ends:
                # Without a bookmark some ends have still to be told, this one's perhaps.
                if seen.bookmark and not seen.incomplete:
                    self._forget(instance, change)
            elif run.elsewhere:
                self._forget(instance, change)
            elif instance not in self._kept_alive:
                result = _result(Result.UNKNOWN, run.facts.key, stopped_by_us)
                duration = _likely_duration(run, seen.taken_at)
                end = End(facts=run.facts, result=result, ended_at=seen.taken_at, duration=duration)
                self._close(end, change)

    def _close(self, end: End, change: Digest) -> None:
        self._forget(end.facts.key.instance_id, change)
        change.ended.append(end)
        mark = mark_of(end.facts)
        change.counted.append(mark)
        change.forgotten += self.counted.add(mark)

    def _forget(self, instance: str, change: Digest) -> None:
        if self.open.pop(instance, None) is not None:
            change.closed.append(instance)


OURS_IF_ASKED = (Result.CANCELED, Result.ENDED_UNEXPECTEDLY, Result.UNKNOWN)
"""How a run ends that was asked to stop, or whose host process was ended; one that failed, failed by itself."""


def _result(told: Result, key: ExecutionKey, stopped_by_us: Callable[[ExecutionKey], bool]) -> Result:
    return Result.STOPPED_BY_EXPORTER if told in OURS_IF_ASKED and stopped_by_us(key) else told


def _likely_duration(run: OpenRun, missed_at: datetime) -> timedelta | None:
    """It ended between two looks: half-way. None for one that ended while nobody looked."""
    if run.seen_at is None or run.facts.started_at is None or missed_at < run.seen_at:
        return None
    return run.duration + (missed_at - run.seen_at) / 2
