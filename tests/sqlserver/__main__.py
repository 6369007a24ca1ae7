"""
`python -m tests.sqlserver HOST:PORT SA_PASSWORD`: builds the tables on an empty server and lets the source read them.

It proves what the server of the tests cannot: that a real engine takes every statement, the driver its answers, and
that single rows cost the engine a few pages, however many runs there were.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytds

from ssis_exporter.errors import SourceAccessDenied, SourceError, StopDenied, StopError
from ssis_exporter.model import Execution, FindingLevel, Result, Scope, Snapshot
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog.rights import quoted
from ssis_exporter.sources.catalog.settings import CatalogSettings, Credentials

PASSWORD = "Exp0rter-secret"
STRANGER = "O'Brien] \N{GREEK SMALL LETTER OMEGA}"
SCHEMA = Path(__file__).with_name("schema.sql")
HISTORY = 200_000
FEW_PAGES = 100
ODD = "O'Brien's \N{GRINNING FACE} \u05e9\u05dc\u05d5\u05dd [x]\n"


class Server:
    """The administrator's hand on the server."""

    def __init__(self, host: str, port: int, password: str) -> None:
        self._connection = _patiently(host, port, password)

    def run(self, sql: str, *values: Any) -> Any:
        """One batch; its first value, if it gives one."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchone()[0] if cursor.description else None

    def add(self, package: str, status: int, *, started: str = "SYSDATETIMEOFFSET()") -> int:
        """A run."""
        number = self.run(
            "SET NOCOUNT ON; INSERT INTO SSISDB.internal.operations (operation_type, created_time, status, start_time,"
            " process_id, machine_name, caller_sid, caller_name)"
            f" VALUES (200, SYSDATETIMEOFFSET(), {int(status)}, {started}, 4711, 'SQL01', SUSER_SID(), 'sa');"
            " SELECT CAST(SCOPE_IDENTITY() AS bigint)"
        )
        self.run(
            "INSERT INTO SSISDB.internal.executions (execution_id, folder_name, project_name, package_name,"
            " executed_as_name) VALUES (%s, N'Finance', N'DW', %s, N'CORP\\etl')",
            number,
            package,
        )
        return int(number)

    def add_history(self, count: int) -> None:
        """Runs that ended."""
        self.run(
            "SET NOCOUNT ON; INSERT INTO SSISDB.internal.operations (operation_type, created_time, status, start_time,"
            " end_time, process_id, machine_name, caller_sid, caller_name)"
            f" SELECT TOP ({int(count)}) 200, SYSDATETIMEOFFSET(), 7, SYSDATETIMEOFFSET(), SYSDATETIMEOFFSET(), 4711,"
            " N'SQL01', SUSER_SID(), N'sa' FROM sys.all_columns AS a CROSS JOIN sys.all_columns AS b;"
            " INSERT INTO SSISDB.internal.executions (execution_id, folder_name, project_name, package_name,"
            " executed_as_name) SELECT o.operation_id, N'Finance', N'DW', N'Old.dtsx', N'CORP\\etl'"
            " FROM SSISDB.internal.operations AS o;"
            " INSERT INTO SSISDB.internal.operation_os_sys_info (operation_id, total_physical_memory_kb,"
            " available_page_file_kb, cpu_count) SELECT o.operation_id, 1, 1, 4 FROM SSISDB.internal.operations AS o"
        )

    def end_all(self) -> None:
        """Whatever runs, ends."""
        self.run("UPDATE SSISDB.internal.operations SET status = 7, end_time = SYSDATETIMEOFFSET() WHERE status = 2")

    def pages(self, words: str) -> int:
        """Pages that the exporter's statements with these words read when they were last run, the most of them."""
        return int(
            self.run(
                "SELECT COALESCE(MAX(s.last_logical_reads), -1) FROM sys.dm_exec_query_stats AS s"
                " CROSS APPLY sys.dm_exec_sql_text(s.sql_handle) AS t"
                " WHERE t.text LIKE N'(@seen bigint, @floor bigint%' AND SUBSTRING(t.text,"
                " s.statement_start_offset / 2 + 1, (CASE s.statement_end_offset WHEN -1 THEN DATALENGTH(t.text)"
                f" ELSE s.statement_end_offset END - s.statement_start_offset) / 2 + 1) LIKE N'%{words}%'"
            )
        )

    def end(self, number: int, status: int) -> None:
        """It ends."""
        self.run(
            f"UPDATE SSISDB.internal.operations SET status = {int(status)}, end_time = SYSDATETIMEOFFSET()"
            f" WHERE operation_id = {int(number)}"
        )


def _patiently(host: str, port: int, password: str) -> Any:
    """A container needs a while, and lets one in before all of its own databases are there."""
    why = ""
    for _ in range(90):
        try:
            connection = pytds.connect(host, "master", "sa", password, port=port, autocommit=True, login_timeout=5)
            with connection.cursor() as cursor:
                cursor.execute("SELECT COUNT(*) FROM sys.databases WHERE state <> 0")
                if cursor.fetchone()[0] == 0:
                    return connection
            why = "not all of its databases are online"
            connection.close()
        except Exception as exc:
            why = f"{type(exc).__name__}: {exc}"
        time.sleep(1)
    raise SystemExit(f"the server is not ready: {why}")


def _open(seen: Snapshot) -> dict[int, str]:
    return {int(run.key.instance_id): str(run.status) for run in seen.executions}


def _whole(source: CatalogSource) -> Snapshot:
    """The first fill takes several looks."""
    for _ in range(100):
        seen = source.snapshot()
        if not seen.incomplete:
            return seen
    raise AssertionError("the first fill does not end")


def _run(seen: Snapshot, number: int) -> Execution:
    return next(run for run in seen.executions if run.key.instance_id == str(number))


def _refusal(act: Callable[[], object]) -> Exception | None:
    try:
        act()
    except (SourceError, StopError) as exc:
        return exc
    return None


@contextlib.contextmanager
def _source(host: str, port: int, *, user: str = "exporter", **changes: Any) -> Iterator[CatalogSource]:
    with tempfile.TemporaryDirectory() as folder:
        password = Path(folder) / "password"
        password.write_text(PASSWORD)
        password.chmod(0o600)
        settings = CatalogSettings(
            server=f"{host}:{port}",
            auth=Credentials(user=user, password_file=password),
            # The container signs its certificate itself.
            verify_certificate=False,
            time_limit=timedelta(seconds=20),
            **changes,
        )
        source = CatalogSource("sql", settings)
        try:
            yield source
        finally:
            source.close()


def _grant(server: Server, source: CatalogSource) -> None:
    """Runs what `check` prints for its one problem; a second time changes nothing."""
    (problem,) = [finding for finding in source.check() if finding.level is FindingLevel.PROBLEM]
    for _ in range(2):
        server.run(problem.remedy)


def _let_strangers_in(server: Server, host: str, port: int) -> None:
    """Logins whose names have to be quoted: one without a user in the database, one whose user has lost its login."""
    for name, has_user in ((STRANGER, False), (f"{STRANGER} again", True)):
        create = f"USE master; CREATE LOGIN {quoted(name)} WITH PASSWORD = '{PASSWORD}', CHECK_POLICY = OFF"
        server.run(create)
        if has_user:
            server.run(f"USE SSISDB; CREATE USER {quoted(name)}; USE master; DROP LOGIN {quoted(name)}")
            server.run(create)
        with _source(host, port, user=name) as source:
            assert isinstance(_refusal(source.snapshot), SourceError)
            _grant(server, source)
            assert source.snapshot().executions


def main() -> None:
    """Builds, reads, checks; raises `AssertionError` at the first thing that is not as it should be."""
    host, _, port_text = sys.argv[1].partition(":")
    port = int(port_text)
    server = Server(host, port, sys.argv[2])
    for batch in SCHEMA.read_text(encoding="utf-8").split("\nGO\n"):
        if batch.strip():
            server.run(batch)
    server.add_history(HISTORY)
    running, waiting = server.add(f"{ODD}.dtsx", 2), server.add("Waits.dtsx", 5, started="NULL")
    server.add("Past.dtsx", 7)

    with _source(host, port, performance_counters=True) as source:
        seen = _whole(source)
        assert {running: "running", waiting: "pending"} == _open(seen), seen
        assert (Scope.ALL, False, ()) == (seen.visibility.scope, seen.incomplete, seen.ended), seen
        odd = _run(seen, running)
        assert ODD == odd.facts.package_name
        assert odd.data_flow is not None
        assert 5 == odd.data_flow.rows_read

        server.end(running, 4)
        many = [server.add(f"P{number}.dtsx", 2) for number in range(1200)]
        late = server.add("CameAndWent.dtsx", 7)
        seen = source.snapshot()
        assert {waiting, *many} == set(_open(seen))
        assert {running: Result.FAILED, late: Result.SUCCEEDED} == {
            int(end.facts.key.instance_id): end.result for end in seen.ended
        }
        assert () == source.snapshot().ended

        denied = _refusal(lambda: source.request_stop(_run(seen, many[0])))
        assert isinstance(denied, StopDenied)
        assert "27123" in str(denied)
        assert source.past("")[0]
        assert "" == source.first_error(str(running))
        assert all(finding.level is not FindingLevel.PROBLEM for finding in source.check())

        server.run("USE SSISDB; ALTER ROLE ssis_logreader DROP MEMBER exporter")
        assert isinstance(_refusal(source.snapshot), SourceAccessDenied)
        _grant(server, source)
        assert {waiting, *many} == set(_open(source.snapshot()))

        server.end_all()
        assert {waiting} == set(_open(source.snapshot()))
        assert {waiting} == set(_open(source.snapshot()))
        costs = {words: server.pages(words) for words in ("OUTER APPLY", "AS highest", "COUNT_BIG", "TOP (500)")}
        print("pages that a quiet look reads:", costs)
        assert all(0 <= costs[words] < FEW_PAGES for words in ("OUTER APPLY", "AS highest")), costs
    _let_strangers_in(server, host, port)
    print(f"the catalog source agrees with {source.info.version}")


if __name__ == "__main__":
    main()
