"""
Every query of a look, beside the code that reads its rows.

All of them seek by `execution_id`, the only thing that the catalog's tables are sorted by (`internal.operations` has
its clustered key there and no index on status or times, by the scripts that make SSISDB), and use nothing that SQL
Server 2012 lacks. The first and the last row are asked for by order, not by MIN and MAX: those need not become a seek
where a view joins tables. The ids that are asked for travel packed in one binary parameter, so one plan in the server's
cache serves every look, and the 2 100 parameters of a statement are no limit.
"""

# ruff: noqa: S608 - built from constants and names of columns; every value travels as a parameter

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeAlias

from ssis_exporter.errors import SourceBroken
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.driver import Connection, Rows
from ssis_exporter.sources.catalog.rights import Rights
from ssis_exporter.sources.catalog.rows import OPEN_CODES, Columns, Row

SETTINGS = (
    # Nothing here takes a lock that a run waits for, and where somebody has to give way it is us.
    "SET NOCOUNT ON; SET LOCK_TIMEOUT 1000; SET DEADLOCK_PRIORITY LOW; SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"
)

LAST_MESSAGES = 5
"""Messages of a run that are kept when it is stopped."""

Message: TypeAlias = tuple[datetime, str | None, str | None]
"""Time, component, text."""

COMMITTED = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCK_TIMEOUT 100; "
"""Before a query that must not believe what may still be rolled back; inside sp_executesql it ends with the query."""

ASKED_AT_ONCE = 800
"""Ids in one statement: what 8000 bytes hold. So few that the server seeks each, and never reads the table instead."""

FRESH_AT_ONCE = 500
"""Rows of new executions in one statement; also of old ones, for the history."""

ONE_CORE = " OPTION (MAXDOP 1)"
"""On what reads many rows, in the background: a server must not put all its cores to it."""

STATE = (
    "e.status + CASE WHEN e.process_id IS NULL THEN 0 ELSE 16 END + CASE WHEN e.start_time IS NULL THEN 0 ELSE 32 END"
)
"""`Row.state`, on the server."""

_PLACE = (
    "SELECT SYSDATETIMEOFFSET() AS server_now, ORIGINAL_LOGIN() AS login_name,"
    " IS_SRVROLEMEMBER(N'sysadmin') AS is_sysadmin, IS_MEMBER(N'ssis_admin') AS is_admin,"
    " IS_MEMBER(N'ssis_logreader') AS is_logreader,"
    " {highest} AS highest,"
    " {fork} AS fork,"
    " (SELECT d.create_date FROM sys.databases AS d WHERE d.name = DB_NAME()) AS create_date,"
    " @@SERVERNAME AS server_name"
)
_HIGHEST = (
    "(SELECT TOP (1) e.execution_id FROM catalog.executions AS e WHERE e.execution_id > 0 ORDER BY e.execution_id DESC)"
)
# What a login that sees only its own is asked instead: to find the highest of all, the server judges all above it.
_HIGHEST_KNOWN = (
    "(SELECT TOP (1) e.execution_id FROM catalog.executions AS e WHERE e.execution_id > @floor"
    " AND e.execution_id <= @seen ORDER BY e.execution_id DESC)"
)
_FORK = "(SELECT r.recovery_fork_guid FROM sys.database_recovery_status AS r WHERE r.database_id = DB_ID())"

# @ids holds 9 bytes an id: the id as eight bytes, highest first, and its state as we know it.
_ASKED = (
    "WITH digits AS (SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4"
    " UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9),"
    " places AS (SELECT a.n + 10 * b.n + 100 * c.n AS n"
    " FROM digits AS a CROSS JOIN digits AS b CROSS JOIN digits AS c),"
    " asked AS (SELECT CAST(SUBSTRING(@ids, 9 * n + 1, 8) AS bigint) AS id,"
    " CAST(SUBSTRING(@ids, 9 * n + 9, 1) AS int) AS known FROM places WHERE n < @count) "
)

_ZONE = (
    "SELECT COUNT_BIG(*) AS number, SUM(e.execution_id - @floor) AS total FROM catalog.executions AS e"
    " WHERE e.execution_id > @floor AND e.execution_id <= @seen"
)

_ROW = "APPLY (SELECT TOP (1) {columns} FROM catalog.executions AS x WHERE x.execution_id = asked.id) AS e"

_CHANGED = (
    "{asked}SELECT asked.id, e.status, e.start_time, e.process_id{more} FROM asked OUTER {row}"
    f" WHERE e.execution_id IS NULL OR {STATE} <> asked.known"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which database this is. Another one, or one that was restored or failed over, may give old ids to new runs."""

    server_name: str
    fork: str
    """Its recovery fork; empty where the login may not see it."""
    created: str
    """When this copy of it was created."""

    @property
    def digest(self) -> str:
        """A short text that differs where any of it does."""
        told = f"{self.server_name}\n{self.fork}\n{self.created}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and when we look, and by what right."""

    now: datetime
    rights: Rights
    origin: Origin
    highest: int
    """The highest id that is shown, or the one that was given where it was not asked for; 0 when none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A known run whose row differs from what we know."""

    execution_id: int
    status: int | None
    """None: there is no such row (any more)."""
    start_time: datetime | None = None
    process_id: int | None = None
    machine_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """How many ids the newest ones are, and their sum above the zone's floor: equal means the same ids."""

    number: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One round trip of a look."""

    before: Place
    zone: Zone | None
    """None where nothing new was asked for."""
    fresh: list[Row]
    changed: list[Changed]
    after: Place


class Queries:
    """The queries for one connection, whose view has these columns."""

    def __init__(self, connection: Connection, columns: Columns, *, shows_fork: bool = True) -> None:
        self._connection = connection
        fork = _FORK if shows_fork else "CAST(NULL AS uniqueidentifier)"
        self._place = _PLACE.format(fork=fork, highest=_HIGHEST)
        self._place_alone = _PLACE.format(fork=fork, highest="@seen")
        place_known = _PLACE.format(fork=fork, highest=_HIGHEST_KNOWN)
        self.columns = columns
        own = columns.select("e")
        row = _ROW.format(columns=columns.select("x"))
        self._fresh = (
            f"SELECT TOP ({FRESH_AT_ONCE}) {own} FROM catalog.executions AS e WHERE e.execution_id > @seen"
            " ORDER BY e.execution_id"
        )
        more = ", e.machine_name" if columns.has("machine_name") else ""
        self._changed_of = _CHANGED.format(asked=_ASKED, row=row, more=more)
        self._look = f"{self._place}; {_ZONE}; {self._fresh}; {self._changed_of}; {self._place}"
        self._look_for_own = f"{place_known}; {_ZONE}; {self._fresh}; {self._changed_of}; {place_known}"
        self._look_at_known = f"{self._place_alone}; {self._changed_of}; {self._place_alone}"
        self._by_id = f"{_ASKED}SELECT {own} FROM asked CROSS {row}"
        self._open_between = (
            f"SELECT {own} FROM catalog.executions AS e WHERE e.execution_id >= @low AND e.execution_id < @high"
            f" AND e.status IN ({OPEN_CODES}){ONE_CORE}"
        )

    def look(
        self, seen: int, floor: int, asked: Sequence[tuple[int, int]], deadline: Deadline, *, sees_all: bool
    ) -> Answer:
        """
        Everything of a usual look, and by what right before and after it.

        Where the login does not see all, the highest id is that of the known ones, up to `seen`.
        """
        parameters = [("seen", "bigint", seen), ("floor", "bigint", floor), *_packed(asked)]
        results = self._connection.query(self._look if sees_all else self._look_for_own, parameters, deadline)
        before, zone, fresh, changed, after = _results(results, 5)
        return Answer(
            before=_place(before),
            zone=Zone(number=int(zone[0][0]), total=int(zone[0][1] or 0)),
            fresh=[self.columns.row(values) for values in fresh],
            changed=[_changed(values) for values in changed],
            after=_place(after),
        )

    def look_at_known(self, seen: int, asked: Sequence[tuple[int, int]], deadline: Deadline) -> Answer:
        """The same for known runs only, without a question for the rows above them."""
        parameters = [("seen", "bigint", seen), *_packed(asked)]
        results = self._connection.query(self._look_at_known, parameters, deadline)
        before, changed, after = _results(results, 3)
        return Answer(
            before=_place(before),
            zone=None,
            fresh=[],
            changed=[_changed(values) for values in changed],
            after=_place(after),
        )

    def changed(self, asked: Sequence[tuple[int, int]], deadline: Deadline) -> list[Changed]:
        """Which of these runs are not as we know them."""
        rows = _results(self._connection.query(self._changed_of, _packed(asked), deadline), 1)[0]
        return [_changed(values) for values in rows]

    def fresh(self, seen: int, deadline: Deadline) -> list[Row]:
        """The next runs above `seen`."""
        rows = _results(self._connection.query(self._fresh, [("seen", "bigint", seen)], deadline), 1)[0]
        return [self.columns.row(values) for values in rows]

    def place(self, deadline: Deadline) -> Place:
        """Where we are."""
        return _place(_results(self._connection.query(self._place, [], deadline), 1)[0])

    def place_alone(self, seen: int, deadline: Deadline) -> Place:
        """Where we are, without a question for the highest id."""
        rows = self._connection.query(self._place_alone, [("seen", "bigint", seen)], deadline)
        return _place(_results(rows, 1)[0])

    def ids_between(self, floor: int, seen: int, deadline: Deadline) -> list[int]:
        """The ids above `floor`, up to `seen`."""
        sql = (
            "SELECT e.execution_id FROM catalog.executions AS e"
            " WHERE e.execution_id > @floor AND e.execution_id <= @seen"
        )
        rows = self._connection.query(sql, [("floor", "bigint", floor), ("seen", "bigint", seen)], deadline)
        return [int(values[0]) for values in _results(rows, 1)[0]]

    def lowest(self, deadline: Deadline) -> int:
        """The lowest id; 0 when there is none."""
        sql = (
            "SELECT TOP (1) e.execution_id FROM catalog.executions AS e WHERE e.execution_id > 0"
            " ORDER BY e.execution_id"
        )
        rows = _results(self._connection.query(sql, [], deadline), 1)[0]
        return int(rows[0][0]) if rows else 0

    def open_between(self, low: int, high: int, deadline: Deadline) -> list[Row]:
        """The open runs from `low` to below `high`."""
        parameters = [("low", "bigint", low), ("high", "bigint", high)]
        rows = _results(self._connection.query(self._open_between, parameters, deadline), 1)[0]
        return [self.columns.row(values) for values in rows]

    def past(self, below: int, deadline: Deadline) -> list[Row]:
        """The newest runs below an id, newest first."""
        sql = (
            f"SELECT TOP ({FRESH_AT_ONCE}) {self.columns.select('e')} FROM catalog.executions AS e"
            f" WHERE e.execution_id < @below ORDER BY e.execution_id DESC{ONE_CORE}"
        )
        rows = _results(self._connection.query(sql, [("below", "bigint", below)], deadline), 1)[0]
        return [self.columns.row(values) for values in rows]

    def first_error(self, execution_id: int, deadline: Deadline) -> str:
        """The first error message of a run; empty where none was kept."""
        found = self._messages(execution_id, deadline, " AND m.message_type = 120", most=1, order="")
        return min(found, key=itemgetter(0))[2] or "" if found else ""

    def last_messages(self, execution_id: int, deadline: Deadline) -> list[Message]:
        """The newest messages of a run, newest first."""
        found = self._messages(execution_id, deadline, "", most=LAST_MESSAGES, order=" DESC")
        return sorted(found, key=itemgetter(0), reverse=True)[:LAST_MESSAGES]

    def _messages(self, execution_id: int, deadline: Deadline, where: str, *, most: int, order: str) -> list[Message]:
        """The first ones of those with an id, and of those without: what Scale Out workers said has only its time."""
        sql = "; ".join(
            f"SELECT TOP ({most}) m.message_time, m.message_source_name, m.message FROM catalog.event_messages AS m"
            f" WHERE m.operation_id = @id AND m.event_message_id IS {kind}{where} ORDER BY m.{by}{order}"
            for kind, by in (("NOT NULL", "event_message_id"), ("NULL", "message_time"))
        )
        numbered, timed = _results(self._connection.query(sql, [("id", "bigint", execution_id)], deadline), 2)
        return [*numbered, *timed]

    def by_id(self, ids: Iterable[int], deadline: Deadline, *, committed: bool) -> list[Row]:
        """These rows, those that are there."""
        found: list[Row] = []
        prefix = COMMITTED if committed else ""
        for asked in in_pieces([(execution_id, 0) for execution_id in ids]):
            rows = self._connection.query(prefix + self._by_id, _packed(asked), deadline)
            found += [self.columns.row(values) for values in _results(rows, 1)[0]]
        return found


def _changed(values: tuple[Any, ...]) -> Changed:
    execution_id, status, start_time, process_id, *more = values
    return Changed(
        execution_id=int(execution_id),
        status=status,
        start_time=start_time,
        process_id=process_id,
        machine_name=more[0] if more else None,
    )


def in_pieces(asked: Sequence[tuple[int, int]]) -> list[Sequence[tuple[int, int]]]:
    """Cut to what one statement takes."""
    return [asked[at : at + ASKED_AT_ONCE] for at in range(0, len(asked), ASKED_AT_ONCE)]


_PAIR = struct.Struct(">qB")


def _packed(asked: Sequence[tuple[int, int]]) -> list[tuple[str, str, Any]]:
    data = b"".join([_PAIR.pack(execution_id, known) for execution_id, known in asked])
    return [("ids", "varbinary", data), ("count", "int", len(asked))]


def _results(results: list[Rows], expected: int) -> list[Rows]:
    if len(results) != expected:
        raise SourceBroken(f"it answered {len(results)} results to {expected} questions")
    return results


def _place(rows: Rows) -> Place:
    now, login, sysadmin, admin, logreader, highest, fork, created, server_name = rows[0]
    return Place(
        now=now,
        rights=Rights(
            login=login or "",
            sysadmin=sysadmin == 1,
            ssis_admin=admin == 1,
            ssis_logreader=None if logreader is None else logreader == 1,
        ),
        origin=Origin(server_name=server_name or "", fork=str(fork or ""), created=str(created or "")),
        highest=int(highest or 0),
    )
