"""What `history.sqlite` holds, and the statements that read and write it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from ssis_exporter.baseline import Samples
from ssis_exporter.ends import REMEMBERED_ENDS, OpenRun, SourceEnds
from ssis_exporter.model import ExecutionFacts, Result, Scope, Visibility

NAME = "history.sqlite"

SCHEMA = (
    """
    CREATE TABLE package (
        id INTEGER PRIMARY KEY,
        source TEXT NOT NULL, folder TEXT NOT NULL, project TEXT NOT NULL, name TEXT NOT NULL,
        seen_at REAL NOT NULL,
        last_end REAL, last_success REAL, last_duration REAL,
        samples BLOB NOT NULL,
        UNIQUE (source, folder, project, name)
    ) STRICT;

    CREATE TABLE ended (
        package INTEGER NOT NULL REFERENCES package (id) ON DELETE CASCADE,
        result TEXT NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (package, result)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE open (
        source TEXT NOT NULL, instance TEXT NOT NULL,
        facts BLOB NOT NULL, scope TEXT NOT NULL, detail TEXT NOT NULL,
        PRIMARY KEY (source, instance)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE counted (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        source TEXT NOT NULL, instance TEXT NOT NULL,
        UNIQUE (source, instance)
    ) STRICT;

    CREATE TABLE source (
        name TEXT PRIMARY KEY,
        bookmark TEXT NOT NULL, first_look REAL, cursor TEXT, filled INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE failure (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        source TEXT NOT NULL, instance TEXT NOT NULL,
        folder TEXT NOT NULL, project TEXT NOT NULL, name TEXT NOT NULL,
        result TEXT NOT NULL, ended_at REAL NOT NULL, duration REAL, message TEXT NOT NULL
    ) STRICT
    """,
)

KEPT_FAILURES = 200
"""Failures that are kept for `list --failed`, the page and the JSON."""


@dataclass(frozen=True, slots=True)
class PackageKey:
    """One package of one source."""

    source: str
    folder: str
    project: str
    name: str

    @classmethod
    def of(cls, facts: ExecutionFacts) -> PackageKey:
        """The package that a run is of."""
        return cls(facts.key.source, facts.folder, facts.project, facts.package_name)


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
    message: str = ""
    """The first error message, where the source keeps messages."""


@dataclass(slots=True, kw_only=True)
class Change:
    """What is to be written in one transaction."""

    packages: dict[PackageKey, PackageRecord] = field(default_factory=dict)
    began: list[OpenRun] = field(default_factory=list)
    closed: list[tuple[str, str]] = field(default_factory=list)
    counted: list[tuple[str, str]] = field(default_factory=list)
    sources: dict[str, SourceEnds] = field(default_factory=dict)
    fills: dict[str, Fill] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(
            self.packages or self.began or self.closed or self.counted or self.sources or self.fills or self.failures
        )


@dataclass(frozen=True, slots=True)
class Fill:
    """How far the record of the past was read in."""

    cursor: str
    done: bool


@dataclass(slots=True)
class Loaded:
    """All that the file holds."""

    packages: dict[PackageKey, PackageRecord] = field(default_factory=dict)
    sources: dict[str, SourceEnds] = field(default_factory=dict)
    fills: dict[str, Fill] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def write(connection: sqlite3.Connection, change: Change) -> None:
    """Writes a change; the caller's transaction makes it one."""
    for record in change.packages.values():
        _write_package(connection, record)
    connection.executemany(
        "INSERT OR REPLACE INTO open VALUES (?, ?, ?, ?, ?)",
        [
            (
                run.facts.key.source,
                run.facts.key.instance_id,
                msgspec.json.encode(run.facts),
                run.seen_under.scope.value,
                run.seen_under.detail,
            )
            for run in change.began
        ],
    )
    connection.executemany("DELETE FROM open WHERE source = ? AND instance = ?", change.closed)
    connection.executemany("INSERT OR IGNORE INTO counted (source, instance) VALUES (?, ?)", change.counted)
    for source in {source for source, _ in change.counted}:
        connection.execute(
            "DELETE FROM counted WHERE source = ? AND number <= (SELECT number FROM counted WHERE source = ? "
            "ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (source, source, REMEMBERED_ENDS),
        )
    for ends in change.sources.values():
        connection.execute(
            "INSERT INTO source (name, bookmark, first_look) VALUES (?1, ?2, ?3) "
            "ON CONFLICT (name) DO UPDATE SET bookmark = ?2, first_look = ?3",
            (ends.source, ends.bookmark, _number(ends.first_look)),
        )
    for name, fill in change.fills.items():
        connection.execute(
            "INSERT INTO source (name, bookmark, cursor, filled) VALUES (?1, '', ?2, ?3) "
            "ON CONFLICT (name) DO UPDATE SET cursor = ?2, filled = ?3",
            (name, fill.cursor, int(fill.done)),
        )
    _write_failures(connection, change.failures)


def rewrite(connection: sqlite3.Connection, all_of_it: Change) -> None:
    """Replaces everything, after writes that failed."""
    for table in ("failure", "source", "counted", "open", "ended", "package"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
    write(connection, all_of_it)


def load(connection: sqlite3.Connection) -> Loaded:
    """Reads everything. Raises `ValueError` or `msgspec.MsgspecError` for what cannot have been written by us."""
    found = Loaded()
    by_id: dict[int, PackageRecord] = {}
    for number, source, folder, project, name, seen, end, success, duration, samples in connection.execute(
        "SELECT id, source, folder, project, name, seen_at, last_end, last_success, last_duration, samples FROM package"
    ):
        record = PackageRecord(
            key=PackageKey(source, folder, project, name),
            seen_at=_time(seen) or datetime.fromtimestamp(0, UTC),
            last_end=_time(end),
            last_success=_time(success),
            last_duration=None if duration is None else timedelta(seconds=duration),
            samples=Samples.from_bytes(samples),
        )
        by_id[number] = found.packages[record.key] = record
    for package, result, count in connection.execute("SELECT package, result, count FROM ended"):
        by_id[package].counts[Result(result)] = count
    for name, bookmark, first_look, cursor, filled in connection.execute(
        "SELECT name, bookmark, first_look, cursor, filled FROM source"
    ):
        ends = _ends(found, name)
        ends.bookmark, ends.first_look = bookmark, _time(first_look)
        if cursor is not None:
            found.fills[name] = Fill(cursor, bool(filled))
    for source, instance, facts, scope, detail in connection.execute(
        "SELECT source, instance, facts, scope, detail FROM open"
    ):
        known = msgspec.json.decode(facts, type=ExecutionFacts)
        _ends(found, source).open[instance] = OpenRun(known, Visibility(Scope(scope), detail), None, timedelta())
    for source, instance in connection.execute("SELECT source, instance FROM counted ORDER BY number"):
        _ends(found, source).counted[instance] = None
    found.failures = read_failures(connection)
    return found


def read_failures(connection: sqlite3.Connection) -> list[Failure]:
    """The failures that are kept, oldest first."""
    return [
        Failure(
            source=source,
            instance_id=instance,
            folder=folder,
            project=project,
            package_name=name,
            result=Result(result),
            ended_at=datetime.fromtimestamp(ended, UTC),
            duration=None if duration is None else timedelta(seconds=duration),
            message=message,
        )
        for source, instance, folder, project, name, result, ended, duration, message in connection.execute(
            "SELECT source, instance, folder, project, name, result, ended_at, duration, message "
            "FROM failure ORDER BY number"
        )
    ]


def forget_packages(connection: sqlite3.Connection, keys: Collection[PackageKey]) -> None:
    """Lets go of packages that have not run for long."""
    connection.executemany(
        "DELETE FROM ended WHERE package IN "
        "(SELECT id FROM package WHERE source = ? AND folder = ? AND project = ? AND name = ?)",
        [(key.source, key.folder, key.project, key.name) for key in keys],
    )
    connection.executemany(
        "DELETE FROM package WHERE source = ? AND folder = ? AND project = ? AND name = ?",
        [(key.source, key.folder, key.project, key.name) for key in keys],
    )


def _write_package(connection: sqlite3.Connection, record: PackageRecord) -> None:
    key = record.key
    duration = None if record.last_duration is None else record.last_duration.total_seconds()
    [number] = connection.execute(
        "INSERT INTO package (source, folder, project, name, seen_at, last_end, last_success, last_duration, samples) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (source, folder, project, name) DO UPDATE SET "
        "seen_at = ?5, last_end = ?6, last_success = ?7, last_duration = ?8, samples = ?9 RETURNING id",
        (
            key.source,
            key.folder,
            key.project,
            key.name,
            record.seen_at.timestamp(),
            _number(record.last_end),
            _number(record.last_success),
            duration,
            record.samples.to_bytes(),
        ),
    ).fetchone()
    connection.executemany(
        "INSERT OR REPLACE INTO ended VALUES (?, ?, ?)",
        [(number, result.value, count) for result, count in record.counts.items()],
    )


def _write_failures(connection: sqlite3.Connection, failures: Iterable[Failure]) -> None:
    rows = [
        (
            failure.source,
            failure.instance_id,
            failure.folder,
            failure.project,
            failure.package_name,
            failure.result.value,
            failure.ended_at.timestamp(),
            None if failure.duration is None else failure.duration.total_seconds(),
            failure.message,
        )
        for failure in failures
    ]
    if not rows:
        return
    # A failure whose message came later is written again.
    connection.executemany("DELETE FROM failure WHERE source = ? AND instance = ?", [row[:2] for row in rows])
    connection.executemany(
        "INSERT INTO failure (source, instance, folder, project, name, result, ended_at, duration, message) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    connection.execute(
        "DELETE FROM failure WHERE number <= (SELECT number FROM failure ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (KEPT_FAILURES,),
    )


def _ends(found: Loaded, source: str) -> SourceEnds:
    if source not in found.sources:
        found.sources[source] = SourceEnds(source)
    return found.sources[source]


def _number(when: datetime | None) -> float | None:
    return None if when is None else when.timestamp()


def _time(number: float | None) -> datetime | None:
    return None if number is None else datetime.fromtimestamp(number, UTC)
