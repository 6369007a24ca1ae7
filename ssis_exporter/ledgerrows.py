"""How the ledger's rows and events stand in SQLite: the schema, and values to columns and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from ssis_exporter.model import ExecutionFacts, ExecutionKey, Nomination, RefusalReason, StopOutcome, Visibility
from ssis_exporter.readiness import make_ready
from ssis_exporter.stopview import Stage

make_ready(ExecutionFacts, Nomination, Visibility)

T = TypeVar("T")

# Statements are parted by an empty line, because a trigger holds semicolons of its own.
SCHEMA = (
    """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    episode INTEGER NOT NULL DEFAULT 1,
    stage TEXT NOT NULL DEFAULT 'nominated',
    nominated_at TEXT NOT NULL,
    facts TEXT,
    seen_under TEXT,
    rule TEXT NOT NULL DEFAULT '',
    placed_at TEXT,
    requested_at TEXT,
    outcome TEXT,
    reason TEXT,
    text TEXT NOT NULL DEFAULT '',
    final INTEGER NOT NULL DEFAULT 0,
    UNIQUE (source, instance_id)
);

CREATE INDEX open_runs ON runs (stage) WHERE stage != 'closed';

CREATE INDEX places ON runs (placed_at) WHERE placed_at IS NOT NULL;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    source TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    episode INTEGER NOT NULL,
    kind TEXT NOT NULL,
    outcome TEXT,
    rule TEXT NOT NULL,
    reason TEXT,
    text TEXT NOT NULL,
    details TEXT NOT NULL
);

CREATE INDEX events_of_runs ON events (source, instance_id, episode);

CREATE INDEX outcomes ON events (id) WHERE outcome IS NOT NULL;

CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'an event of the ledger is never changed'); END;

CREATE TRIGGER events_are_not_removed BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'an event of the ledger is never removed'); END
""",
    # Moments by the ledger's own clock, which nobody can set. Places of before count as if taken now.
    """
ALTER TABLE runs ADD COLUMN nominated_after REAL NOT NULL DEFAULT 0;

ALTER TABLE runs ADD COLUMN placed_after REAL;

UPDATE runs SET placed_after = 0 WHERE placed_at IS NOT NULL;

DROP INDEX places;

CREATE INDEX places ON runs (placed_after) WHERE placed_after IS NOT NULL;

CREATE TABLE clock (
    id INTEGER PRIMARY KEY,
    passed REAL NOT NULL,
    wall REAL NOT NULL,
    monotonic REAL NOT NULL
)
""",
    # When both clocks were read together, in which boot, with no step of the wall since; and the steps before.
    """
ALTER TABLE clock ADD COLUMN since_wall REAL;

ALTER TABLE clock ADD COLUMN since_monotonic REAL;

ALTER TABLE clock ADD COLUMN boot TEXT NOT NULL DEFAULT '';

UPDATE clock SET since_wall = wall, since_monotonic = monotonic;

CREATE TABLE clock_steps (
    id INTEGER PRIMARY KEY,
    passed REAL NOT NULL,
    shown REAL NOT NULL,
    moved REAL NOT NULL
)
""",
)


class EventKind(StrEnum):
    """What happened to a nomination."""

    NOMINATED = "nominated"
    REPEATED = "repeated"
    """The same again, while it was open or after it was final."""

    SEEN = "seen"
    ALLOWED = "allowed"
    REQUESTED = "requested"
    ASKED = "asked"
    NOT_ASKED = "not_asked"
    ESCALATED = "escalated"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A nomination that was refused before it was looked at."""

    nomination: Nomination
    reason: RefusalReason
    text: str = ""
    unless_known: bool = False
    """A run that is being worked on, or has a final outcome, is answered with that instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the audit."""

    at: datetime
    key: ExecutionKey
    kind: EventKind
    episode: int = 0
    """Counts how often the run was nominated after an outcome that was not final."""

    outcome: StopOutcome | None = None
    rule: str = ""
    reason: RefusalReason | None = None
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What was known then: the nomination with its labels, the run's facts, the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where the nomination of one run stands."""

    id: int
    key: ExecutionKey
    episode: int
    stage: Stage
    nominated_at: datetime
    nominations: tuple[Nomination, ...]
    """All of this episode that believe different things of the run."""

    facts: ExecutionFacts | None
    """What the run was like at the first look that showed it, ever."""

    seen_under: Visibility | None
    """What could be seen at that look."""

    rule: str
    placed_at: datetime | None
    """When it took its place in the breaker for good."""

    requested_at: datetime | None
    outcome: StopOutcome | None
    reason: RefusalReason | None
    text: str
    final: bool
    """Whether a further nomination returns this outcome: the source was asked, or may have been."""

    nominated_after: float
    """When it was nominated, by the ledger's own clock."""

    placed_after: float | None
    """When it took its place in the breaker, by the ledger's own clock."""

    @property
    def is_open(self) -> bool:
        """Whether it has not come to an outcome."""
        return self.stage is not Stage.CLOSED

    def is_where(self, other: Row) -> bool:
        """Whether the row has not moved since."""
        return self.id == other.id and self.episode == other.episode and self.stage is other.stage

    def has_heard(self, nomination: Nomination) -> bool:
        """Whether one that believes the same is among its nominations."""
        return any(_beliefs(one) == _beliefs(nomination) for one in self.nominations)


def _beliefs(nomination: Nomination) -> tuple[object, ...]:
    return nomination.package_name, nomination.folder, nomination.project, nomination.asked_since


def to_text(moment: datetime) -> str:
    """A time as it stands in the file: fixed width, so that it sorts."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """The time again."""
    return datetime.fromisoformat(text)


def to_json(value: object) -> str:
    """Any of our values. Escaped to ASCII, because a name may hold what is no valid UTF-8."""
    return json.dumps(msgspec.to_builtins(value), sort_keys=True)


def from_json(text: str, kind: type[T]) -> T:
    """The value again."""
    return msgspec.convert(json.loads(text), kind)


def insert(connection: sqlite3.Connection, key: ExecutionKey, at: datetime, passed: float) -> None:
    """A run that was never nominated before."""
    connection.execute(
        "INSERT INTO runs (source, instance_id, nominated_at, nominated_after) VALUES (?, ?, ?, ?)",
        [column(key.source), column(key.instance_id), to_text(at), passed],
    )


def update(connection: sqlite3.Connection, row: Row, changes: Mapping[str, object]) -> bool:
    """Changes a row if it is where it is believed to be."""
    columns = ", ".join(f"{name} = ?" for name in changes)
    where = [row.id, row.episode, row.stage]
    done = connection.execute(
        f"UPDATE runs SET {columns} WHERE id = ? AND episode = ? AND stage = ?",  # noqa: S608 - names are our own
        [column(value) for value in (*changes.values(), *where)],
    )
    return done.rowcount == 1


def find(connection: sqlite3.Connection, key: ExecutionKey) -> Row | None:
    """The row of one run."""
    found = connection.execute(
        "SELECT * FROM runs WHERE source = ? AND instance_id = ?", [column(key.source), column(key.instance_id)]
    ).fetchone()
    return row_of(connection, found) if found is not None else None


def row_of(connection: sqlite3.Connection, found: tuple[Any, ...]) -> Row:
    """A row as a value, with its nominations."""
    (
        number,
        source,
        instance_id,
        episode,
        stage,
        nominated_at,
        facts,
        seen_under,
        rule,
        placed_at,
        requested_at,
        outcome,
        reason,
        text,
        final,
        nominated_after,
        placed_after,
    ) = found
    asked = connection.execute(
        "SELECT details FROM events WHERE source = ? AND instance_id = ? AND episode = ? AND kind = ? ORDER BY id",
        [source, instance_id, episode, EventKind.NOMINATED],
    ).fetchall()
    return Row(
        id=number,
        key=ExecutionKey(source, instance_id),
        episode=episode,
        stage=Stage(stage),
        nominated_at=from_text(nominated_at),
        nominations=tuple(msgspec.convert(json.loads(details)["nomination"], Nomination) for (details,) in asked),
        facts=from_json(facts, ExecutionFacts) if facts is not None else None,
        seen_under=from_json(seen_under, Visibility) if seen_under is not None else None,
        rule=rule,
        placed_at=from_text(placed_at) if placed_at is not None else None,
        requested_at=from_text(requested_at) if requested_at is not None else None,
        outcome=StopOutcome(outcome) if outcome is not None else None,
        reason=RefusalReason(reason) if reason is not None else None,
        text=text,
        final=bool(final),
        nominated_after=nominated_after,
        placed_after=placed_after,
    )


def add_event(connection: sqlite3.Connection, event: Event) -> None:
    """One more line of the audit."""
    connection.execute(
        "INSERT INTO events (at, source, instance_id, episode, kind, outcome, rule, reason, text, details)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            column(value)
            for value in (
                to_text(event.at),
                event.key.source,
                event.key.instance_id,
                event.episode,
                event.kind,
                event.outcome,
                event.rule,
                event.reason,
                event.text,
                to_json(dict(event.details)),
            )
        ],
    )


def column(value: object) -> object:
    """A value as it stands in the file."""
    # A name of a process may hold what is no valid UTF-8, and SQLite takes nothing else.
    return str(value).encode("utf-8", errors="backslashreplace").decode() if isinstance(value, str) else value


def event_of(found: tuple[Any, ...]) -> Event:
    """A line of the audit as a value."""
    _, at, source, instance_id, episode, kind, outcome, rule, reason, text, details = found
    return Event(
        at=from_text(at),
        key=ExecutionKey(source, instance_id),
        episode=episode,
        kind=EventKind(kind),
        outcome=StopOutcome(outcome) if outcome is not None else None,
        rule=rule,
        reason=RefusalReason(reason) if reason is not None else None,
        text=text,
        details=json.loads(details),
    )
