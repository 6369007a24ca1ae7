"""The source of kind `dtexec`: processes of this machine that run a package named on their command line."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

from ssis_exporter.errors import ConfigError, IdentityUnknown, NoSuchExecution, SourceError
from ssis_exporter.model import (
    Execution,
    Finding,
    FindingLevel,
    Scope,
    Snapshot,
    SourceInfo,
    StopReply,
    Visibility,
)
from ssis_exporter.sources.dtexec.naming import Naming
from ssis_exporter.sources.dtexec.packagefile import PackageFiles
from ssis_exporter.sources.dtexec.patience import Patience
from ssis_exporter.sources.dtexec.processes import Look, ProcessTable
from ssis_exporter.sources.dtexec.runs import Run, Runs
from ssis_exporter.sources.interface import SourceSettings, StoppableSource

log = logging.getLogger(__name__)

LONGEST_FOR_FILES = timedelta(seconds=2)
"""All package files that one look reads may take this long; a run whose file did not answer is named without it."""

_MOST_PROCESSES_IN_EVIDENCE = 50
_ON_LINUX: bool = sys.platform.startswith("linux")


class DtexecSettings(SourceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of a source of kind `dtexec`."""

    proc_path: str = "/proc"
    """Where the processes are (Linux only): a machine's `/proc` that is mounted into the exporter's container."""

    package_files: bool = True
    """Whether package, project and command files that a command line names are read."""


class DtexecSource(StoppableSource):
    """
    Shows `dtexec`, and `dtshost` that is not under one; counts the programs that may host packages.

    A run is named by pid, raw start time and boot, which are checked again before it is stopped.
    """

    kind: ClassVar[str] = "dtexec"
    Settings: ClassVar[type[SourceSettings]] = DtexecSettings
    can_force_stop: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        *,
        settings: DtexecSettings | None = None,
        table: ProcessTable | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(name)
        settings = settings if settings is not None else DtexecSettings()
        self._table = table if table is not None else _table_of_this_system(settings)
        self._now = now
        self._machine = socket.gethostname()
        for_files = min(LONGEST_FOR_FILES, settings.time_limit / 2)
        self._naming = Naming(PackageFiles(), Patience(for_files.total_seconds()), reads_files=settings.package_files)
        self._runs: Runs | None = None

    @classmethod
    def from_settings(cls, name: str, settings: Any) -> Self:
        """Raises `ConfigError` where `proc_path` means nothing."""
        path = settings.proc_path
        if path != "/proc" and not _ON_LINUX:
            raise ConfigError(f"proc_path of source {name!r}: only Linux has /proc; remove the key")
        if not path.startswith("/"):
            raise ConfigError(f"proc_path of source {name!r}: {path!r} is no absolute path; write /host/proc, say")
        return cls(name, settings=settings)

    @property
    def info(self) -> SourceInfo:
        """The machine; there is no version to tell."""
        return SourceInfo(kind=self.kind, server=self._machine)

    def snapshot(self) -> Snapshot:
        """Reads every process, now."""
        now = self._now()
        look, runs = self._look(now)
        visibility = look.visibility
        if runs.hidden and visibility.scope is Scope.ALL:
            visibility = Visibility(Scope.PARTIAL, "the command lines of other accounts' processes are denied")
        return Snapshot(
            source=self.name,
            taken_at=now,
            visibility=visibility,
            executions=runs.executions(look),
            host_processes=runs.hosts(),
        )

    def request_stop(self, execution: Execution) -> StopReply:
        """Sends SIGTERM; on Windows there is no way to ask."""
        run = self._find(execution)
        if run.stopping_since is not None:
            return StopReply.ALREADY_STOPPING
        self._table.request_end(run.seen)
        run.stopping_since = self._now()
        return StopReply.ACCEPTED

    def force_stop(self, execution: Execution) -> StopReply:
        """Ends the process: SIGKILL, or TerminateProcess on Windows."""
        run = self._find(execution)
        self._table.end(run.seen)
        run.stopping_since = run.stopping_since or self._now()
        return StopReply.ACCEPTED

    def evidence(self, execution: Execution) -> Mapping[str, str]:
        """The run's processes and their processor time. Command lines are never kept: they hold secrets."""
        try:
            run = self._find(execution)
            look = self._table.look()
        except (SourceError, NoSuchExecution, IdentityUnknown) as exc:
            return {"processes": f"could not be read: {exc}"}
        below = look.descendants(run.seen.pid)
        told = [look.describe(pid) for pid in (run.seen.pid, *below[:_MOST_PROCESSES_IN_EVIDENCE])]
        left_out = len(below) - _MOST_PROCESSES_IN_EVIDENCE
        if left_out > 0:
            told.append(f"and {left_out} more")
        return {
            "processes": "; ".join(told),
            "process_start": str(run.seen.start),
            "user_name": run.facts.user_name,
            "machine": self._machine,
        }

    def check(self) -> Sequence[Finding]:
        """What this account sees and may do, and what would let it see and do more."""
        try:
            seen = self.snapshot()
        except SourceError as exc:
            return [Finding(level=FindingLevel.PROBLEM, text=str(exc), remedy=_REMEDY_NO_PROCESSES)]
        count = len(seen.executions)
        findings = [
            Finding(level=FindingLevel.OK, text=f"{self.name}: {count} packages run in processes of this machine")
        ]
        scope, detail = seen.visibility.scope, seen.visibility.detail
        if scope is Scope.ALL:
            findings.append(Finding(level=FindingLevel.OK, text=f"{self.name}: the account sees every process"))
        else:
            level = FindingLevel.PROBLEM if scope is Scope.NONE else FindingLevel.WARNING
            text = f"{self.name}: the account sees only a part ({scope}): {detail}"
            findings.append(Finding(level=level, text=text, remedy=_remedy_for_sight(scope)))
        if self._table.may_stop_others():
            findings.append(Finding(level=FindingLevel.OK, text=f"{self.name}: the account may stop others' processes"))
        else:
            text = f"{self.name}: the account may stop only its own processes"
            findings.append(Finding(level=FindingLevel.WARNING, text=text, remedy=_remedy_for_stopping()))
        return findings

    def close(self) -> None:
        """Closes what a look opened; may be called twice."""
        self._naming.close()
        self._table.close()

    def _look(self, now: datetime) -> tuple[Look, Runs]:
        try:
            look = self._table.look()
        except SourceError as exc:
            raise type(exc)(f"{self.name}: {exc}") from exc
        if self._runs is None:
            self._runs = Runs(self.name, self._machine, self._table.boot, self._naming)
        self._runs.update(look, now)
        return look, self._runs

    def _find(self, execution: Execution) -> Run:
        """The run that is meant, from a look of this moment where it is not known. Raises a `StopError`."""
        key = execution.key
        if key.source != self.name:
            raise IdentityUnknown(f"{self.name}: {key.instance_id} is a run of source {key.source}")
        run = self._runs.find(key.instance_id) if self._runs is not None else None
        if run is None:
            try:
                _, runs = self._look(self._now())
            except SourceError as exc:
                raise IdentityUnknown(f"{exc}; nothing was done") from exc
            run = runs.find(key.instance_id)
        if run is None:
            raise NoSuchExecution(f"{self.name}: no process is {key.instance_id} (any more)")
        if run.facts.package_name != execution.facts.package_name:
            raise IdentityUnknown(
                f"{self.name}: {key.instance_id} runs {run.facts.package_name!r}, not {execution.facts.package_name!r};"
                " nothing was done"
            )
        return run


def _table_of_this_system(settings: DtexecSettings) -> ProcessTable:
    """Only the module that is needed is loaded: psutil costs memory, and the other works on Linux only."""
    if _ON_LINUX:
        from ssis_exporter.sources.dtexec.linux import LinuxTable  # noqa: PLC0415

        return LinuxTable(Path(settings.proc_path))
    from ssis_exporter.sources.dtexec.portable import PortableTable  # noqa: PLC0415

    return PortableTable()


_REMEDY_NO_PROCESSES = "on Linux mount /proc; in a container share the machine's PID namespace (docker run --pid=host)"


def _remedy_for_sight(scope: Scope) -> str:
    if not _ON_LINUX:
        return "run the exporter as an administrator, or as the account that runs the packages"
    if scope is Scope.PARTIAL:
        return "in a container, share the machine's PID namespace (docker run --pid=host; hostPID: true)"
    return (
        "run the exporter as root or with CAP_SYS_PTRACE, or put its account into the group that the option gid= of"
        " /proc names, or mount /proc without hidepid"
    )


def _remedy_for_stopping() -> str:
    if not _ON_LINUX:
        return "to stop packages of other accounts, run the exporter as an administrator"
    return "to stop packages of other accounts, run the exporter as root or with CAP_KILL"
