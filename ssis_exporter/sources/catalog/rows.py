"""What one row of `catalog.executions` says, and its codes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ssis_exporter.errors import SourceBroken
from ssis_exporter.model import EndedExecution, ExecutionFacts, ExecutionKey, ExecutionStatus, Result

OPEN: dict[int, ExecutionStatus] = {
    1: ExecutionStatus.CREATED,
    2: ExecutionStatus.RUNNING,
    5: ExecutionStatus.PENDING,
    8: ExecutionStatus.STOPPING,
}

ENDED: dict[int, Result] = {
    3: Result.CANCELED,
    4: Result.FAILED,
    6: Result.ENDED_UNEXPECTEDLY,
    7: Result.SUCCEEDED,
    9: Result.COMPLETED,
}

OPEN_CODES = ", ".join(str(code) for code in OPEN)

REQUIRED = ("execution_id", "status", "package_name", "start_time", "process_id")

OPTIONAL = (
    "folder_name",
    "project_name",
    "environment_folder_name",
    "environment_name",
    "executed_as_name",
    "caller_name",
    "created_time",
    "end_time",
    "machine_name",
    "worker_agent_id",
)
"""Read where the view has them: it differs by release, and a restored SSISDB may be of another one than its server."""

HAS_PROCESS = 16
HAS_START = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row; a column that the view lacks is NULL."""

    execution_id: int
    status: int
    package_name: str | None = None
    folder_name: str | None = None
    project_name: str | None = None
    environment_folder_name: str | None = None
    environment_name: str | None = None
    executed_as_name: str | None = None
    caller_name: str | None = None
    created_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    process_id: int | None = None
    machine_name: str | None = None
    worker_agent_id: Any = None

    @property
    def is_open(self) -> bool:
        """Whether it waits, runs or is being stopped."""
        return self.status in OPEN

    @property
    def state(self) -> int:
        """What may change while it is open, in one number, as `queries.STATE` computes it on the server."""
        known = (HAS_PROCESS if self.process_id is not None else 0) + (HAS_START if self.start_time is not None else 0)
        return self.status + known

    def facts(self, source: str) -> ExecutionFacts:
        """What does not change in the run from here on."""
        user = self.executed_as_name or ""
        caller = self.caller_name or ""
        name = self.package_name or ""
        return ExecutionFacts(
            key=ExecutionKey(source, str(self.execution_id)),
            package_name=name[:-5] if name[-5:].casefold() == ".dtsx" else name,
            folder=self.folder_name or "",
            project=self.project_name or "",
            user_name=user,
            created_at=utc(self.created_time),
            started_at=utc(self.start_time),
            machine=self.machine_name or "",
            process_id=self.process_id,
            environment="\\".join(part for part in (self.environment_folder_name, self.environment_name) if part),
            caller=caller if caller.casefold() != user.casefold() else "",
            host="ISServerExec",
        )

    def ended(self, facts: ExecutionFacts, now: datetime) -> EndedExecution:
        """The end of the run, as the row records it."""
        ended_at = utc(self.end_time) or now
        began = utc(self.start_time) or facts.started_at
        duration = max(ended_at - began, timedelta()) if began is not None else timedelta()
        return EndedExecution(
            facts=facts, result=ENDED.get(self.status, Result.UNKNOWN), ended_at=ended_at, duration=duration
        )


def utc(moment: datetime | None) -> datetime | None:
    """A `datetimeoffset` in UTC."""
    return None if moment is None else moment.astimezone(UTC)


def same_run(one: ExecutionFacts, other: ExecutionFacts) -> bool:
    """
    Whether two facts under one id are of one run: after a restore, ids are given out again.

    The creation of the row decides; a start may only become known, never change.
    """
    return (
        one.key == other.key
        and one.created_at == other.created_at
        and (one.package_name, one.folder, one.project) == (other.package_name, other.folder, other.project)
        and (one.started_at is None or other.started_at is None or one.started_at == other.started_at)
    )


class Columns:
    """The columns of `catalog.executions` that this server has and we read, in the order of every SELECT."""

    def __init__(self, existing: Collection[str]) -> None:
        there = {name.casefold() for name in existing}
        missing = [name for name in REQUIRED if name not in there]
        if not there:
            raise SourceBroken("there is no view catalog.executions that the login can see")
        if missing:
            raise SourceBroken(f"catalog.executions has no column {', '.join(missing)}")
        self.names = REQUIRED + tuple(name for name in OPTIONAL if name in there)

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return name in self.names

    def select(self, alias: str) -> str:
        """The list for a SELECT."""
        return ", ".join(f"{alias}.{name}" for name in self.names)

    def row(self, values: Sequence[Any]) -> Row:
        """Reads what `select` asked for."""
        return Row(**dict(zip(self.names, values, strict=True)))
