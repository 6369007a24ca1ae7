"""SSISDB-shaped tables: which columns each release's views have, their types, and the estate a test puts into them."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.tds.wire import stamp

EXECUTIONS: dict[str, str] = {
    "execution_id": "bigint",
    "folder_name": "nvarchar(128)",
    "project_name": "nvarchar(128)",
    "package_name": "nvarchar(260)",
    "reference_id": "bigint",
    "reference_type": "char(1)",
    "environment_folder_name": "nvarchar(128)",
    "environment_name": "nvarchar(128)",
    "project_lsn": "bigint",
    "executed_as_sid": "varbinary(85)",
    "executed_as_name": "nvarchar(128)",
    "use32bitruntime": "bit",
    "operation_type": "smallint",
    "created_time": "datetimeoffset",
    "object_type": "smallint",
    "object_id": "bigint",
    "status": "int",
    "start_time": "datetimeoffset",
    "end_time": "datetimeoffset",
    "caller_sid": "varbinary(85)",
    "caller_name": "nvarchar(128)",
    "process_id": "int",
    "stopped_by_sid": "varbinary(85)",
    "stopped_by_name": "nvarchar(128)",
    "dump_id": "uniqueidentifier",
    "server_name": "nvarchar(128)",
    "machine_name": "nvarchar(128)",
    "worker_agent_id": "uniqueidentifier",
    "total_physical_memory_kb": "bigint",
    "available_physical_memory_kb": "bigint",
    "total_page_file_kb": "bigint",
    "available_page_file_kb": "bigint",
    "cpu_count": "int",
    "executed_count": "int",
}

FROM_2017 = {"worker_agent_id", "executed_count"}
"""Columns of `catalog.executions` that 2012, 2014 and 2016 lack."""

EVENT_MESSAGES: dict[str, str] = {
    "event_message_id": "bigint",
    "operation_id": "bigint",
    "message_time": "datetimeoffset",
    "message_type": "smallint",
    "message_source_type": "smallint",
    "message": "nvarchar(max)",
    "extended_info_id": "bigint",
    "package_name": "nvarchar(260)",
    "event_name": "nvarchar(1024)",
    "message_source_name": "nvarchar(4000)",
    "execution_path": "nvarchar(max)",
}

COUNTERS: dict[str, str] = {
    "execution_id": "bigint",
    "counter_name": "nvarchar(128)",
    "counter_value": "bigint",
}

PROPERTIES: dict[str, str] = {"property_name": "nvarchar(260)", "property_value": "nvarchar(260)"}

SYSTEM_TABLES: dict[str, dict[str, str]] = {
    "sys.columns": {"object_id": "int", "name": "sysname", "column_id": "int"},
    "sys.databases": {"database_id": "int", "name": "sysname", "create_date": "datetime"},
    "sys.database_recovery_status": {"database_id": "int", "recovery_fork_guid": "uniqueidentifier"},
}

TABLES: dict[str, dict[str, str]] = {
    "catalog.executions": EXECUTIONS,
    "catalog.event_messages": EVENT_MESSAGES,
    "catalog.catalog_properties": PROPERTIES,
    "catalog.dm_execution_performance_counters": COUNTERS,
    **SYSTEM_TABLES,
}

OBJECT_IDS = {name: 1000 + place for place, name in enumerate(TABLES)}

PRODUCTS = {
    2012: ((11, 0, 7001), "11.0.7001.0"),
    2014: ((12, 0, 6024), "12.0.6024.0"),
    2016: ((13, 0, 6300), "13.0.6300.2"),
    2017: ((14, 0, 3456), "14.0.3456.2"),
    2022: ((16, 0, 4085), "16.0.4085.2"),
}


@dataclass
class Account:
    """Somebody who may log in."""

    name: str
    password: str = ""
    windows: bool = False
    roles: set[str] = field(default_factory=set)
    """Database roles of SSISDB: `ssis_admin`, `ssis_logreader`."""
    server_roles: set[str] = field(default_factory=set)
    has_user: bool = True
    """Whether the login has a user in SSISDB."""
    user: str = ""
    """That user's name, where it is not the login's."""
    readable: set[int] = field(default_factory=set)
    """Operations that it was granted READ on, beside its own."""
    sees_recovery: bool = True
    """Whether `sys.database_recovery_status` shows it the row (a plain user sees none)."""

    def sees_all(self, release: int) -> bool:
        """Whether the views filter nothing for it."""
        if "sysadmin" in self.server_roles or "ssis_admin" in self.roles:
            return True
        return release >= 2016 and "ssis_logreader" in self.roles


class Estate:
    """The tables and who may see them. Every method may be called from any thread."""

    def __init__(self, *, release: int = 2022, now: Callable[[], datetime] | None = None) -> None:
        self.lock = threading.RLock()
        self.release = release
        self.now = now if now is not None else lambda: datetime.now(UTC)
        self.fork = str(uuid.uuid4())
        self.created = "2024-01-01T10:00:00"
        self.server_name = "SQL01"
        self.machine_name = "SQL01"
        self.engine_pid = 4242
        self.edition = "3"
        """The engine's: 5 is Azure SQL Database."""
        self.accounts: dict[str, Account] = {}
        self.locked: dict[int, dict[str, Any]] = {}
        """Rows under another session's lock: what they really (committed) hold."""
        self.unstarted: set[int] = set()
        self.next_id = 1
        self.db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        for name, columns in TABLES.items():
            key = next(iter(columns))
            parts = [
                f"{column} {'INTEGER PRIMARY KEY' if column == key and name == 'catalog.executions' else ''}"
                for column in columns
            ]
            self.db.execute(f"CREATE TABLE {table_name(name)} ({', '.join(parts)})")
        self._describe()

    def add_account(self, name: str, password: str = "", **facts: Any) -> Account:
        """Somebody who may log in from now on."""
        account = self.accounts[name.casefold()] = Account(name, password, **facts)
        return account

    def allocate(self) -> int:
        """The next id; its row may come later (ids commit out of order)."""
        with self.lock:
            self.next_id += 1
            return self.next_id - 1

    def add(self, execution_id: int | None = None, *, status: int = 2, **columns: Any) -> int:
        """A row of `catalog.executions`. What is not said is what a usual run has; None is NULL."""
        with self.lock:
            if execution_id is None:
                execution_id = self.allocate()
            self.next_id = max(self.next_id, execution_id + 1)
            self.db.execute(*self._insert({"execution_id": execution_id, "status": status, **columns}))
            return execution_id

    def set(self, execution_id: int, **columns: Any) -> None:
        """Changes a row."""
        assignments = ", ".join(f"{name} = ?" for name in columns)
        values = [_plain(value) for value in columns.values()]
        with self.lock:
            self.db.execute(
                f"UPDATE catalog_executions SET {assignments} WHERE execution_id = ?", [*values, execution_id]
            )

    def begin(self, execution_id: int, *, process_id: int | None = 5000) -> None:
        """A created or pending run begins."""
        self.set(execution_id, status=2, start_time=self.now(), process_id=process_id, machine_name=self.machine_name)

    def end(self, execution_id: int, status: int = 7) -> None:
        """A run ends."""
        self.set(execution_id, status=status, end_time=self.now())

    def add_message(
        self, number: int | None, execution_id: int, kind: int, text: str | None, at: datetime | None = None
    ) -> None:
        """A row of `catalog.event_messages`."""
        with self.lock:
            self.db.execute(
                "INSERT INTO catalog_event_messages"
                " (event_message_id, operation_id, message_time, message_type, message) VALUES (?, ?, ?, ?, ?)",
                [number, execution_id, stamp(at or self.now()), kind, text],
            )

    def delete(self, execution_id: int) -> None:
        """A row is gone (retention, or somebody's hand)."""
        with self.lock:
            self.db.execute("DELETE FROM catalog_executions WHERE execution_id = ?", [execution_id])

    def get(self, execution_id: int) -> dict[str, Any] | None:
        """A row, or None."""
        with self.lock:
            found = self.db.execute(
                "SELECT * FROM catalog_executions WHERE execution_id = ?", [execution_id]
            ).fetchone()
        return None if found is None else dict(zip(EXECUTIONS, found, strict=True))

    def fill(self, ids: Iterable[int], *, status: int) -> None:
        """Many rows at once, few columns filled."""
        moment = stamp(self.now())
        end = moment if status in (3, 4, 6, 7, 9) else None
        with self.lock:
            self.db.execute("BEGIN")
            self.db.executemany(
                "INSERT INTO catalog_executions (execution_id, folder_name, project_name, package_name, status,"
                " created_time, start_time, end_time, executed_as_name, caller_name, process_id, machine_name,"
                " server_name, operation_type) VALUES (?, 'Finance', 'DW', 'Load.dtsx', ?, ?, ?, ?, 'CORP\\etl',"
                " 'CORP\\etl', ?, ?, 'SQL01', 200)",
                (
                    (
                        number,
                        status,
                        moment,
                        None if status in (1, 5) else moment,
                        end,
                        None if status in (1, 5) else 5000,
                        self.machine_name,
                    )
                    for number in ids
                ),
            )
            self.db.execute("COMMIT")
            highest = self.db.execute("SELECT MAX(execution_id) FROM catalog_executions").fetchone()[0]
            self.next_id = max(self.next_id, (highest or 0) + 1)

    def hold_lock(self, execution_id: int, **dirty: Any) -> None:
        """Another session changes a row and has not committed: dirty reads see it, committed reads must wait."""
        with self.lock:
            before = self.get(execution_id)
            assert before is not None
            self.locked[execution_id] = before
            self.set(execution_id, **dirty)

    def roll_back(self, execution_id: int) -> None:
        """That session rolls back."""
        with self.lock:
            before = self.locked.pop(execution_id)
            self.set(execution_id, **{name: value for name, value in before.items() if name != "execution_id"})

    def commit(self, execution_id: int) -> None:
        """That session commits."""
        with self.lock:
            del self.locked[execution_id]

    def restore(self, to_id: int) -> None:
        """The database is restored from a backup that ended with `to_id`: ids go back, another recovery fork."""
        with self.lock:
            self.db.execute("DELETE FROM catalog_executions WHERE execution_id > ?", [to_id])
            self.next_id = to_id + 1
            self.fork = str(uuid.uuid4())
            self.locked.clear()
            self._describe()

    def set_release(self, release: int) -> None:
        """The server becomes one of another release."""
        with self.lock:
            self.release = release
            self._describe()

    def columns_of(self, table: str) -> dict[str, str]:
        """The columns that this release's table has."""
        columns = TABLES[table]
        if table == "catalog.executions" and self.release < 2017:
            return {name: kind for name, kind in columns.items() if name not in FROM_2017}
        return columns

    def _insert(self, given: dict[str, Any]) -> tuple[str, list[Any]]:
        waiting = given["status"] in (1, 5)
        ended = given["status"] in (3, 4, 6, 7, 9)
        row: dict[str, Any] = {
            "folder_name": "Finance",
            "project_name": "DW",
            "package_name": "Load.dtsx",
            "executed_as_sid": b"\x01\x05",
            "executed_as_name": "CORP\\etl",
            "use32bitruntime": 0,
            "operation_type": 200,
            "created_time": self.now(),
            "object_type": 20,
            "object_id": 7,
            "start_time": None if waiting else self.now(),
            "end_time": self.now() if ended else None,
            "caller_sid": b"\x01\x05",
            "caller_name": "CORP\\etl",
            "process_id": None if waiting else 5000,
            "dump_id": str(uuid.uuid4()),
            "server_name": self.server_name,
            "machine_name": None if waiting else self.machine_name,
            **given,
        }
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        return f"INSERT INTO catalog_executions ({names}) VALUES ({marks})", [_plain(value) for value in row.values()]

    def _describe(self) -> None:
        self.db.execute("DELETE FROM sys_columns")
        for table, object_id in OBJECT_IDS.items():
            rows = [(object_id, name, place + 1) for place, name in enumerate(self.columns_of(table))]
            self.db.executemany("INSERT INTO sys_columns VALUES (?, ?, ?)", rows)
        self.db.execute("DELETE FROM sys_databases")
        self.db.execute("INSERT INTO sys_databases VALUES (5, 'SSISDB', ?)", [self.created])
        self.db.execute("DELETE FROM sys_database_recovery_status")
        self.db.execute("INSERT INTO sys_database_recovery_status VALUES (5, ?)", [self.fork])
        self.db.execute("DELETE FROM catalog_catalog_properties")
        build = PRODUCTS[self.release][1]
        self.db.executemany(
            "INSERT INTO catalog_catalog_properties VALUES (?, ?)",
            [("SCHEMA_BUILD", build), ("SCHEMA_VERSION", "7"), ("RETENTION_WINDOW", "365")],
        )


def table_name(name: str) -> str:
    """The embedded database's name of a table."""
    return name.replace(".", "_")


def _plain(value: Any) -> Any:
    return stamp(value) if isinstance(value, datetime) else value
