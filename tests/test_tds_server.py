"""The TDS server of the tests: what a wrong query would meet, seen through the real driver."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.driver import Connection
from ssis_exporter.sources.catalog.troubles import ServerError
from tests.catalogs import Rig, make_estate, rig

LIMIT = timedelta(seconds=20)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as one:
        yield one


@pytest.fixture
def connection(made: Rig) -> Iterator[Connection]:
    one = Connection(made.settings(), None, Deadline(LIMIT))
    yield one
    one.close()


def query(connection: Connection, sql: str, *parameters: tuple[str, str, Any]) -> list[tuple[Any, ...]]:
    (rows,) = connection.query(sql, parameters, Deadline(LIMIT))
    return rows


def test_every_type_arrives_as_it_was_stored(made: Rig, connection: Connection) -> None:
    """
    Types, time zones, long and empty texts and binaries come through the wire unchanged.
    """
    began = datetime(2026, 3, 1, 8, 30, 15, 123456, tzinfo=timezone(timedelta(hours=-9, minutes=-30)))
    guid = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    made.estate.add(
        2**40, package_name="a'b\n\N{GRINNING FACE}", start_time=began, dump_id=guid, executed_as_sid=b"\0\xff"
    )

    (row,) = query(
        connection,
        "SELECT e.execution_id, e.package_name, e.start_time, e.dump_id, e.executed_as_sid, e.use32bitruntime,"
        " e.operation_type, e.status, e.end_time, e.reference_id, e.environment_name, e.stopped_by_sid"
        " FROM catalog.executions AS e WHERE e.execution_id = @id",
        ("id", "bigint", 2**40),
    )

    assert (2**40, "a'b\n\N{GRINNING FACE}", began, guid, b"\0\xff", False, 200, 2, None, None, None, None) == (
        *row[:3],
        str(row[3]),
        *row[4:],
    )
    assert timedelta(hours=-9, minutes=-30) == row[2].utcoffset()


def test_long_answers_cross_packets(made: Rig, connection: Connection) -> None:
    """
    Rows that lie over the end of a packet are whole.
    """
    for number in range(1, 301):
        made.estate.add(number, package_name=f"{number} " + "\N{GREEK SMALL LETTER OMEGA}" * 250)

    rows = query(connection, "SELECT e.execution_id, e.package_name FROM catalog.executions AS e")

    assert [(n, f"{n} " + "\N{GREEK SMALL LETTER OMEGA}" * 250) for n in range(1, 301)] == rows


def test_binary_parameters_are_read_highest_byte_first(connection: Connection) -> None:
    """
    `CAST(SUBSTRING(@ids, ...) AS bigint)` gives the number whose bytes stand there, as on a real server.
    """
    data = struct.pack(">qq", 7, 2**40)

    assert [(7, 2**40)] == query(
        connection,
        "SELECT CAST(SUBSTRING(@ids, 1, 8) AS bigint) AS a, CAST(SUBSTRING(@ids, 9, 8) AS bigint) AS b",
        ("ids", "varbinary", data),
    )


@pytest.mark.parametrize(
    ("number", "sql"),
    [
        (207, "SELECT e.no_such_column FROM catalog.executions AS e"),
        (208, "SELECT x.a FROM catalog.nothing AS x"),
        (195, "SELECT STRING_AGG(e.package_name, ',') AS x FROM catalog.executions AS e"),
        (102, "SELECT e.status FROM catalog.executions AS e LIMIT 3"),
        (137, "SELECT e.status FROM catalog.executions AS e WHERE e.execution_id = @unknown"),
        (262, "UPDATE catalog.executions SET status = 3"),
        (262, "DELETE FROM catalog.executions"),
    ],
)
def test_what_a_server_would_refuse_is_refused(connection: Connection, number: int, sql: str) -> None:
    """
    Wrong columns, views and functions, what 2012 lacks, and every write end in the server's error.
    """
    with pytest.raises(ServerError) as told:
        query(connection, sql)

    assert number == told.value.number


def test_columns_of_a_later_release_are_unknown_to_an_earlier_one(tmp_path: Path) -> None:
    """
    `worker_agent_id` came with 2017.
    """
    with rig(tmp_path, make_estate(release=2016)) as made:
        connection = Connection(made.settings(), None, Deadline(LIMIT))
        with pytest.raises(ServerError) as told:
            query(connection, "SELECT e.worker_agent_id FROM catalog.executions AS e")
        connection.close()

    assert 207 == told.value.number


def test_a_scan_is_noticed(made: Rig, connection: Connection) -> None:
    """
    A query that reads the whole table is recorded as such; one that seeks is not.
    """
    query(connection, "SELECT e.execution_id FROM catalog.executions AS e WHERE e.status = 2")
    query(connection, "SELECT e.execution_id FROM catalog.executions AS e WHERE e.execution_id > @x", ("x", "int", 5))
    query(connection, "SELECT MAX(e.execution_id) AS m FROM catalog.executions AS e")

    assert [True, False, False] == [bool(one.scans) for one in made.server.exchanges]


@pytest.mark.parametrize(
    ("how", "is_scan"),
    [
        ("LEFT JOIN catalog.executions AS e ON e.execution_id = asked.id", True),
        ("INNER JOIN catalog.executions AS e ON e.execution_id = asked.id", True),
        (
            "OUTER APPLY (SELECT TOP (1) x.status FROM catalog.executions AS x WHERE x.execution_id = asked.id) AS e",
            False,
        ),
        (
            "CROSS APPLY (SELECT TOP (1) x.status FROM catalog.executions AS x WHERE x.execution_id = asked.id) AS e",
            False,
        ),
    ],
)
def test_a_join_with_the_view_counts_as_a_scan(made: Rig, connection: Connection, how: str, is_scan: bool) -> None:
    """
    The view is a join itself, and a real server may make all of it before it looks for the ids; TOP (1) prevents that.
    """
    made.estate.add(7)

    rows = query(connection, f"WITH asked AS (SELECT @id AS id) SELECT e.status FROM asked {how}", ("id", "bigint", 7))
    absent = query(
        connection, f"WITH asked AS (SELECT @id AS id) SELECT e.status FROM asked {how}", ("id", "bigint", 8)
    )

    assert [(2,)] == rows
    assert ([(None,)] if how.startswith(("LEFT", "OUTER")) else []) == absent
    assert [is_scan, is_scan] == [bool(one.scans) for one in made.server.exchanges]


def test_what_is_set_inside_a_query_ends_with_it(made: Rig, connection: Connection) -> None:
    """
    SET in a batch holds for the session, in sp_executesql only to its end, as on a real server.
    """
    connection.batch("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED", Deadline(LIMIT))
    query(connection, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SELECT @@SPID AS spid")
    query(connection, "SELECT @@SPID AS spid")

    levels = [one.settings["ISOLATION"] for one in made.server.exchanges]
    assert ["READ UNCOMMITTED", "READ COMMITTED", "READ UNCOMMITTED"] == levels


def test_rows_are_filtered_by_who_asks(made: Rig, connection: Connection) -> None:
    """
    Without a role a login sees what it started and what it was granted.
    """
    account = made.estate.accounts["exporter"]
    for number, caller in ((1, "exporter"), (2, "CORP\\etl"), (3, "CORP\\etl")):
        made.estate.add(number, caller_name=caller)
    account.roles.clear()
    account.readable.add(3)

    assert [(1,), (3,)] == query(connection, "SELECT e.execution_id FROM catalog.executions AS e")


def test_a_locked_row_stops_committed_readers_only(made: Rig, connection: Connection) -> None:
    """
    Dirty reads see what is not committed; committed ones meet the lock.
    """
    number = made.estate.add()
    made.estate.hold_lock(number, status=7)
    sql = "SELECT e.execution_id, e.status FROM catalog.executions AS e"

    assert [(number, 7)] == query(connection, "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; " + sql)
    with pytest.raises(ServerError) as told:
        query(connection, sql)
    assert 1222 == told.value.number
    made.estate.roll_back(number)
    assert [(number, 2)] == query(connection, sql)


def test_a_request_that_is_given_up_is_cancelled(made: Rig) -> None:
    """
    A query beyond its deadline is told to the caller in time, and the server keeps no connection.
    """
    connection = Connection(made.settings(), None, Deadline(LIMIT))
    made.server.faults.delay = 60
    with pytest.raises(TimeoutError):
        query_with(connection, timedelta(seconds=0.2))

    assert not connection.is_open
    assert made.server.wait_until_empty()


def query_with(connection: Connection, limit: timedelta) -> None:
    connection.query("SELECT @@SPID AS spid", [], Deadline(limit))


def test_utc_is_what_the_server_says(made: Rig, connection: Connection) -> None:
    """
    The server's clock is read with its offset.
    """
    (row,) = query(connection, "SELECT SYSDATETIMEOFFSET() AS now")

    assert abs(datetime.now(UTC) - row[0]) < timedelta(minutes=1)


def test_a_statement_that_met_a_lock_does_not_end_the_batch(made: Rig, connection: Connection) -> None:
    """
    Error 1222 comes in the middle, and the next answer is not taken for what was left of this one.
    """
    made.estate.add(7)
    made.estate.add(8)
    made.estate.hold_lock(7, status=7)
    sql = "SELECT e.execution_id FROM catalog.executions AS e WHERE e.execution_id = @id; SELECT @id AS asked"

    for _ in range(3):
        with pytest.raises(ServerError) as told:
            connection.query(sql, [("id", "bigint", 7)], Deadline(LIMIT))
        assert 1222 == told.value.number
        assert [[(8,)], [(8,)]] == connection.query(sql, [("id", "bigint", 8)], Deadline(LIMIT))
    assert connection.is_open
