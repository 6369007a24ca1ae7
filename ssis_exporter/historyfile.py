"""What `history.sqlite` holds, and the statements that read and write it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from ssis_exporter.baseline import Samples, moment
from ssis_exporter.ends import OpenRun, SourceEnds
from ssis_exporter.labels import clean_label
from ssis_exporter.model import ExecutionFacts, Result, Scope, Visibility
from ssis_exporter.readiness import make_ready

make_ready(ExecutionFacts)

NAME = "history.sqlite"

# Statements are parted by an empty line.
SCHEMA = (
    """
    CREATE TABLE package (
        source TEXT NOT NULL, folder TEXT NOT NULL, project TEXT NOT NULL, name TEXT NOT NULL,
        seen_at REAL NOT NULL,
        last_end REAL, last_success REAL, last_duration REAL,
        counts TEXT NOT NULL,
        samples BLOB NOT NULL,
        UNIQUE (source, folder, project, name)
    ) STRICT;

    CREATE TABLE open (
        source TEXT NOT NULL, instance TEXT NOT NULL,
        facts TEXT NOT NULL, scope TEXT NOT NULL, detail TEXT NOT NULL, elsewhere INTEGER NOT NULL,
        PRIMARY KEY (source, instance)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE counted (
        number INTEGER PRIMARY KEY,
        source TEXT NOT NULL, mark TEXT NOT NULL,
        UNIQUE (source, mark)
    ) STRICT;

    CREATE TABLE source (
        name TEXT PRIMARY KEY,
        bookmark TEXT NOT NULL, first_look REAL, cursor TEXT NOT NULL, filled INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE failure (
        source TEXT NOT NULL, instance TEXT NOT NULL,
        folder TEXT NOT NULL, project TEXT NOT NULL, name TEXT NOT NULL,
        result TEXT NOT NULL, ended_at REAL NOT NULL, duration REAL, message TEXT,
        PRIMARY KEY (source, instance)
    ) STRICT, WITHOUT ROWID
    """,
)

TABLES = ("package", "open", "counted", "source", "failure")

KEPT_FAILURES = 200
"""Failures that are kept for `list --failed`, the page and the JSON."""


@dataclass(frozen=True, slots=True)
class PackageKey:
    """One package of one source, by the names that its labels show."""

    source: str
    folder: str
    project: str
    name: str

    @classmethod
    def of(cls, facts: ExecutionFacts) -> PackageKey:
        """The package that a run is of."""
        folder, project, name = map(clean_label, (facts.folder, facts.project, facts.package_name))
        return cls(facts.key.source, folder, project, name)


@dataclass(slots=True, eq=False)
class PackageRecord:
    """What is known of one package's ended runs."""

    key: PackageKey
    seen_at: datetime
    """When one of its runs was last seen, or ended."""

    counts: dict[Result, int] = field(default_factory=dict)
    last_end: datetime | None = None
    last_success: datetime | None = None
    last_duration: timedelta | None = None
    samples: Samples = field(default_factory=Samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that did not succeed, for people to read."""

    source: str
    instance_id: str
    folder: str
    project: str
    package_name: str
    result: Result
    ended_at: datetime
    duration: timedelta | None
    message: str | None = None
    """The first error message; empty where the source keeps none, None while nobody has asked."""


@dataclass(frozen=True, slots=True)
class Fill:
    """How far a source's own record of the past was read in."""

    cursor: str = ""
    done: bool = False


@dataclass(slots=True, kw_only=True)
class Change:
    """What is to be written in one transaction."""

    packages: dict[PackageKey, PackageRecord] = field(default_factory=dict)
    began: list[OpenRun] = field(default_factory=list)
    closed: list[tuple[str, str]] = field(default_factory=list)
    """Source and instance id."""

    counted: list[tuple[str, str]] = field(default_factory=list)
    """Source and mark."""

    forgotten: list[tuple[str, str]] = field(default_factory=list)
    """Source and mark of ends that are remembered no longer."""

    forgotten_packages: list[PackageKey] = field(default_factory=list)
    sources: dict[str, tuple[SourceEnds, Fill]] = field(default_factory=dict)
    failures: dict[tuple[str, str], Failure] = field(default_factory=dict)


@dataclass(slots=True)
class Loaded:
    """All that the file holds."""

    packages: dict[PackageKey, PackageRecord] = field(default_factory=dict)
    sources: dict[str, SourceEnds] = field(default_factory=dict)
    fills: dict[str, Fill] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    """Oldest first."""


PUT_PACKAGE = """
INSERT INTO package VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source, folder, project, name) DO UPDATE SET
seen_at = excluded.seen_at, last_end = excluded.last_end, last_success = excluded.last_success,
last_duration = excluded.last_duration, counts = excluded.counts, samples = excluded.samples
"""

FORGET_OLD_FAILURES = """
DELETE FROM failure WHERE (source, instance) NOT IN
(SELECT source, instance FROM failure ORDER BY ended_at DESC LIMIT ?)
"""

Statement = tuple[str, list[tuple[Any, ...]]]
"""One SQL statement, to be run with each of these rows."""


def statements(change: Change) -> list[Statement]:
    """A change as it stands now; what is changed afterwards is not in it."""
    # One that began and ended within this change is not to come back by its beginning.
    closed = set(change.closed)
    began = [run for run in change.began if (run.facts.key.source, run.facts.key.instance_id) not in closed]
    found: list[Statement] = [
        (PUT_PACKAGE, [_package(record) for record in change.packages.values()]),
        (
            "DELETE FROM package WHERE source = ? AND folder = ? AND project = ? AND name = ?",
            [(key.source, key.folder, key.project, key.name) for key in change.forgotten_packages],
        ),
        ("INSERT OR REPLACE INTO open VALUES (?, ?, ?, ?, ?, ?)", [_open(run) for run in began]),
        ("DELETE FROM open WHERE source = ? AND instance = ?", _texts(change.closed)),
        ("INSERT OR IGNORE INTO counted (source, mark) VALUES (?, ?)", _texts(change.counted)),
        ("DELETE FROM counted WHERE source = ? AND mark = ?", _texts(change.forgotten)),
        (
            "INSERT OR REPLACE INTO source VALUES (?, ?, ?, ?, ?)",
            [
                (name, ends.bookmark, _number(ends.first_look), fill.cursor, int(fill.done))
                for name, (ends, fill) in change.sources.items()
            ],
        ),
        (
            "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_failure(failure) for failure in change.failures.values()],
        ),
        (FORGET_OLD_FAILURES, [(KEPT_FAILURES,)] if change.failures else []),
    ]
    return [(statement, rows) for statement, rows in found if rows]


def write(connection: sqlite3.Connection, work: Sequence[Statement]) -> None:
    """Runs the statements; the caller's transaction makes them one."""
    for statement, rows in work:
        connection.executemany(statement, rows)


def rewrite(connection: sqlite3.Connection, work: Sequence[Statement]) -> None:
    """Puts these in the place of everything, after writes that failed."""
    for table in TABLES:
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
    write(connection, work)


def load(connection: sqlite3.Connection) -> Loaded:
    """Reads everything. Raises `ValueError` for what cannot have been written by us."""
    try:
        return _load(connection)
    except sqlite3.OperationalError as exc:
        if "no such" in str(exc):
            raise ValueError(str(exc)) from exc
        raise
    except (KeyError, TypeError, OverflowError, OSError, msgspec.MsgspecError) as exc:
        raise ValueError(f"{type(exc).__name__}: {exc}") from exc


def _load(connection: sqlite3.Connection) -> Loaded:
    # Each answer whole: one that is left half-read keeps the file open, and Windows renames no open file.
    found = Loaded()
    for source, folder, project, name, seen, end, success, duration, counts, samples in connection.execute(
        "SELECT source, folder, project, name, seen_at, last_end, last_success, last_duration, counts, samples "
        "FROM package"
    ).fetchall():
        key = PackageKey(source, folder, project, name)
        found.packages[key] = PackageRecord(
            key=key,
            seen_at=moment(seen),
            counts={Result(result): int(count) for result, count in json.loads(counts).items()},
            last_end=_time(end),
            last_success=_time(success),
            last_duration=_span(duration),
            samples=Samples.from_bytes(samples),
        )
    for name, bookmark, first_look, cursor, filled in connection.execute(
        "SELECT name, bookmark, first_look, cursor, filled FROM source"
    ).fetchall():
        ends = _ends(found, name)
        ends.bookmark, ends.first_look = bookmark, _time(first_look)
        found.fills[name] = Fill(cursor, bool(filled))
    for source, instance, facts, scope, detail, elsewhere in connection.execute(
        "SELECT source, instance, facts, scope, detail, elsewhere FROM open"
    ).fetchall():
        known = msgspec.convert(json.loads(facts), ExecutionFacts)
        sight = Visibility(Scope(scope), detail)
        _ends(found, source).open[instance] = OpenRun(known, sight, None, timedelta(), bool(elsewhere))
    for source, mark in connection.execute("SELECT source, mark FROM counted ORDER BY number").fetchall():
        _ends(found, source).counted.add(mark)
    for source, instance, folder, project, name, result, ended, duration, message in connection.execute(
        "SELECT source, instance, folder, project, name, result, ended_at, duration, message FROM failure "
        "ORDER BY ended_at"
    ).fetchall():
        found.failures.append(
            Failure(
                source=source,
                instance_id=instance,
                folder=folder,
                project=project,
                package_name=name,
                result=Result(result),
                ended_at=moment(ended),
                duration=_span(duration),
                message=message,
            )
        )
    return found


def _package(record: PackageRecord) -> tuple[Any, ...]:
    key = record.key
    return (
        key.source,
        key.folder,
        key.project,
        key.name,
        record.seen_at.timestamp(),
        _number(record.last_end),
        _number(record.last_success),
        None if record.last_duration is None else record.last_duration.total_seconds(),
        json.dumps({result.value: count for result, count in record.counts.items()}),
        record.samples.to_bytes(),
    )


def _open(run: OpenRun) -> tuple[Any, ...]:
    key = run.facts.key
    # Nobody's name is kept; a look tells them again. Escaped to ASCII, because a name may hold what is no valid UTF-8.
    nameless = replace(run.facts, user_name="", caller="", description="", environment="")
    facts = json.dumps(msgspec.to_builtins(nameless))
    sight = run.seen_under
    return (
        _text(key.source),
        _text(key.instance_id),
        facts,
        sight.scope.value,
        _text(sight.detail),
        int(run.elsewhere),
    )


def _failure(failure: Failure) -> tuple[Any, ...]:
    return (
        failure.source,
        _text(failure.instance_id),
        _text(failure.folder),
        _text(failure.project),
        _text(failure.package_name),
        failure.result.value,
        failure.ended_at.timestamp(),
        None if failure.duration is None else failure.duration.total_seconds(),
        None if failure.message is None else _text(failure.message),
    )


def _texts(rows: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
    return [(_text(one), _text(other)) for one, other in rows]


def _text(value: str) -> str:
    # SQLite takes no lone surrogates, which a name of a process may hold.
    return value.encode("utf-8", errors="backslashreplace").decode()


def _ends(found: Loaded, source: str) -> SourceEnds:
    if source not in found.sources:
        found.sources[source] = SourceEnds(source)
    return found.sources[source]


def _number(when: datetime | None) -> float | None:
    return None if when is None else when.timestamp()


def _time(number: float | None) -> datetime | None:
    return None if number is None else moment(number)


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
