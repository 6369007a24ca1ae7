"""What one look says of one run: it is there, it is gone for certain, it is another one, or nobody can say."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from ssis_exporter.errors import SourceError
from ssis_exporter.model import (
    Execution,
    ExecutionFacts,
    ExecutionKey,
    RefusalReason,
    Scope,
    Snapshot,
    Visibility,
)

START_TOLERANCE = timedelta(seconds=1)
"""
How far the start of one run may seem to move between two looks.

The kernel tells the time of boot, from which the start of a process is reckoned, in whole seconds, and the clock may
be corrected between two starts of the exporter. No two runs with one instance id begin within a second.
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """The run is there, and it is the one that was seen before, if any was."""

    run: Execution
    visibility: Visibility


@dataclass(frozen=True, slots=True)
class Gone:
    """The run is not there any more, or never was; the look proves it."""

    text: str
    recorded: bool = False
    """The source itself told its end."""


@dataclass(frozen=True, slots=True)
class Another:
    """What bears this name is not, or not for certain, the run that was seen before."""

    reason: RefusalReason
    text: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """Nobody can say: neither that it is there nor that it is gone."""

    text: str


Sighting: TypeAlias = Seen | Gone | Another | Unclear


def sight(
    key: ExecutionKey,
    outcome: Snapshot | SourceError,
    *,
    before: ExecutionFacts | None,
    seen_under: Visibility | None,
    named_at: datetime | None = None,
) -> Sighting:
    """
    What a look says of the run `key`.

    `before` is what the run was like when it was first seen and `seen_under` what could be seen then; None for a run
    that was never seen, of which only full sight proves that it is gone. `named_at` is when it was nominated or asked.
    """
    if isinstance(outcome, SourceError):
        return Unclear(str(outcome))
    if outcome.source != key.source:
        return Unclear(f"the look for {key.source} was answered for {outcome.source}")
    found = [run for run in outcome.executions if run.key == key]
    match found:
        case []:
            return _not_there(key, outcome, before, seen_under, named_at)
        case [run]:
            changed = what_changed(before, run.facts) if before is not None else None
            if changed is None:
                return Seen(_by_this_clock(run, outcome), outcome.visibility)
            return Another(RefusalReason.IDENTITY_CHANGED, f"{key.instance_id} is another run than before: {changed}")
        case _:
            return Another(RefusalReason.AMBIGUOUS, f"{len(found)} runs bear the name {key.instance_id}")


def _by_this_clock(run: Execution, seen: Snapshot) -> Execution:
    """The run as it is judged: a source's clock that is behind, or was set, makes it no older."""
    known_since, began = _known_since(run, seen), run.facts.started_at
    too_old = sum((by for shown, by in seen.set_forward if began is not None and began <= shown), timedelta())
    if known_since is None and not too_old:
        return run
    return replace(run, known_since=known_since, duration=max(run.duration - too_old, timedelta()))


def _known_since(run: Execution, seen: Snapshot) -> datetime | None:
    """
    From when on its name can have meant this run, by this machine's clock.

    On a server whose clock is behind, each run seems to have begun long ago.
    """
    moments = [] if seen.same_since is None else [seen.same_since]
    if run.facts.started_at is not None and seen.clock_ahead is not None:
        # A record can tell of a start at the end of all time.
        with suppress(OverflowError):
            moments.append(run.facts.started_at + seen.clock_ahead)
    return max(moments, default=None)


def _not_there(
    key: ExecutionKey,
    seen: Snapshot,
    before: ExecutionFacts | None,
    seen_under: Visibility | None,
    named_at: datetime | None,
) -> Gone | Unclear:
    for ended in seen.ended:
        if ended.facts.key == key and (before is None or what_changed(before, ended.facts) is None):
            text = f"the source records that it ended at {ended.ended_at.isoformat()}: {ended.result}"
            return Gone(text, recorded=True)
    if before is not None and named_at is not None and seen.same_since is not None and named_at < seen.same_since:
        return Unclear(f"its source is another one since {seen.same_since.isoformat()}, which need not know of it")
    if seen.incomplete:
        return Unclear("the source has not read all its runs yet")
    # To who never saw the run, only full sight proves that it ended.
    now = seen.visibility
    if now.scope is Scope.ALL or (seen_under is not None and now.proves_end_of_what_was_seen_under(seen_under)):
        return Gone("it is not there, and the account would see it")
    return Unclear(f"it is not seen, and the account sees only: {seen.visibility.scope}")


def what_changed(before: ExecutionFacts, now: ExecutionFacts) -> str | None:
    """
    What shows that these are not the same run, None when nothing does.

    What was not known before (the process of a run that had not begun) may be known now; nothing known may differ.
    """
    for name in ("package_name", "folder", "project"):
        if getattr(before, name) != getattr(now, name):
            return f"{name} was {getattr(before, name)!r} and is {getattr(now, name)!r}"
    for name in ("package_id", "user_name", "machine", "process_id"):
        if getattr(before, name) not in ("", None, getattr(now, name)):
            return f"{name} was {getattr(before, name)!r} and is {getattr(now, name)!r}"
    if before.started_at is None:
        return None
    if now.started_at is None:
        return f"it began at {before.started_at.isoformat()}, and now its start is not known"
    if abs(now.started_at - before.started_at) > START_TOLERANCE:
        return f"it began at {before.started_at.isoformat()} and now at {now.started_at.isoformat()}"
    return None
