"""The `ISServerExec` processes of this machine, where the catalog's engine runs on it: figures and orphans."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ssis_exporter.errors import IdentityUnknown, NoSuchExecution, SourceError, StopUnsupported
from ssis_exporter.model import ExecutionFacts, ExecutionStatus, Figures, HostProcess, Scope
from ssis_exporter.sources.catalog.memory import OpenRun
from ssis_exporter.sources.catalog.session import ServerFacts
from ssis_exporter.sources.dtexec.meter import Meter
from ssis_exporter.sources.dtexec.processes import Look, ProcessTable, Sighting

NEAR = timedelta(minutes=5)
"""How far the start of the process may be from the start of its run."""

SURE_AFTER = 30.0
"""Seconds that a process must be missing, or without a row, over at least two looks, before it is said."""

PROGRAM = "isserverexec"


@dataclass(slots=True)
class HostsSeen:
    """What one look at the processes says of the open runs, by execution id."""

    figures: dict[int, Figures] = field(default_factory=dict)
    orphans: set[int] = field(default_factory=set)
    without_row: int | None = None
    hosts: tuple[HostProcess, ...] = ()


class LocalHosts:
    """
    Belongs to one source's thread.

    `table` is None where no engine can run (ISServerExec exists on Windows only). Whatever cannot be told for certain
    is left out: no figure, no orphan.
    """

    def __init__(
        self,
        table: ProcessTable | None,
        *,
        names: Callable[[], Collection[str]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._names = names
        self._monotonic = monotonic
        self._meters: dict[tuple[int, Sighting], Meter] = {}
        self._missing_since: dict[int, float] = {}
        self._alone_since: dict[Sighting, float] = {}

    def look(self, runs: Mapping[int, OpenRun], server: ServerFacts, *, all_known: bool) -> HostsSeen | None:
        """None where the engine does not run on this machine, or its processes cannot be listed."""
        names = self._own_names(server)
        if self._table is None or not names:
            return None
        try:
            look = self._table.look()
        except SourceError:
            return None
        found = {seen.pid: seen for seen in look.sightings if _is_host(seen)}
        result = HostsSeen()
        meters: dict[tuple[int, Sighting], Meter] = {}
        for execution_id, run in runs.items():
            host = self._host_of(run, found, names | {server.machine.casefold()})
            if host is not None:
                meter = meters[execution_id, host] = self._meters.get((execution_id, host)) or Meter()
                usage = {(host.pid, host.start): look.usage(host.pid)}
                known = {member: used for member, used in usage.items() if used is not None}
                if known:
                    result.figures[execution_id] = meter.add((host.pid, host.start), known)
        self._meters = meters
        result.orphans = self._orphans(runs, found, names, look)
        result.without_row = self._without_row(runs, found, server, look) if all_known else None
        return result

    def end(self, facts: ExecutionFacts, server: ServerFacts, *, open_runs: Mapping[int, OpenRun]) -> None:
        """
        Ends the process of a run. `open_runs` are all of this catalog: a process that another one has too is let be.

        Raises `StopUnsupported` where it is not on this machine, `NoSuchExecution` when it is gone, `IdentityUnknown`
        when it cannot be proved to be the run's.
        """
        names = self._own_names(server)
        what = f"execution {facts.key.instance_id}"
        if self._table is None or not names:
            raise StopUnsupported(f"{what} runs on {facts.machine or 'another machine'}, not on this one")
        here = names | {server.machine.casefold()}
        if facts.machine.casefold() not in here:
            raise StopUnsupported(f"{what} runs on {facts.machine or 'an unknown machine'}, not on this one")
        if facts.process_id is None or facts.started_at is None:
            raise IdentityUnknown(f"the process of {what} is not known")
        look = self._table.look()
        host = next((seen for seen in look.sightings if seen.pid == facts.process_id and _is_host(seen)), None)
        if host is None:
            raise NoSuchExecution(f"process {facts.process_id} of {what} is gone, or is no ISServerExec")
        if abs(_began(host) - facts.started_at) > NEAR:
            raise IdentityUnknown(f"process {host.pid} did not begin with {what}")
        if server.engine_process is None or next(iter(look.ancestors(host.pid)), None) != server.engine_process:
            raise IdentityUnknown(f"process {host.pid} was not started by the engine of this catalog")
        for other, run in open_runs.items():
            may_be_here = run.facts.machine.casefold() in here | {""}
            if run.facts.process_id == host.pid and may_be_here and run.facts.key != facts.key:
                # The number of a process that ended early is given out again, and then two rows name it.
                raise IdentityUnknown(f"process {host.pid} of {what} is also that of execution {other}")
        self._table.end(host)

    def _own_names(self, server: ServerFacts) -> set[str]:
        """This machine's names, if the engine runs on it now; otherwise none."""
        names = {name.casefold() for name in self._names() if name}
        return names if server.computer.casefold() in names else set()

    def _host_of(self, run: OpenRun, found: Mapping[int, Sighting], names: Collection[str]) -> Sighting | None:
        facts = run.facts
        if run.on_worker or facts.machine.casefold() not in names or facts.process_id is None:
            return None
        host = found.get(facts.process_id)
        if host is None or facts.started_at is None or abs(_began(host) - facts.started_at) > NEAR:
            return None
        return host

    def _orphans(
        self, runs: Mapping[int, OpenRun], found: Mapping[int, Sighting], names: Collection[str], look: Look
    ) -> set[int]:
        """Rows that say running or stopping while their process is gone for certain, for a while."""
        now = self._monotonic()
        missing: dict[int, float] = {}
        orphans: set[int] = set()
        if look.visibility.scope is not Scope.ALL:
            self._missing_since = {}
            return orphans
        for execution_id, run in runs.items():
            facts = run.facts
            active = run.status in (ExecutionStatus.RUNNING, ExecutionStatus.STOPPING)
            ours = facts.machine.casefold() in names and not run.on_worker
            if not (active and ours) or facts.process_id is None or facts.started_at is None:
                continue
            host = found.get(facts.process_id)
            if host is not None and _began(host) - facts.started_at <= NEAR:
                continue
            first = self._missing_since.get(execution_id)
            missing[execution_id] = now if first is None else first
            if first is not None and now - first >= SURE_AFTER:
                orphans.add(execution_id)
        self._missing_since = missing
        return orphans

    def _without_row(
        self, runs: Mapping[int, OpenRun], found: Mapping[int, Sighting], server: ServerFacts, look: Look
    ) -> int | None:
        """Children of this engine that no open row names."""
        if server.engine_process is None:
            return None
        now = self._monotonic()
        named = {run.facts.process_id for run in runs.values()}
        alone: dict[Sighting, float] = {}
        count = 0
        for seen in found.values():
            if seen.pid in named or next(iter(look.ancestors(seen.pid)), None) != server.engine_process:
                continue
            first = self._alone_since.get(seen)
            alone[seen] = now if first is None else first
            count += first is not None and now - first >= SURE_AFTER
        self._alone_since = alone
        return count


def this_machine() -> set[str]:
    """The names that a row may call this machine by."""
    name = socket.gethostname()
    first = name.split(".")[0]
    # NetBIOS names are cut to 15 characters.
    return {name, first, first[:15]}


def make_local_hosts() -> LocalHosts:
    """For the real machine."""
    if sys.platform == "win32":
        from ssis_exporter.sources.dtexec.portable import PortableTable  # noqa: PLC0415 - loads psutil

        return LocalHosts(PortableTable(), names=this_machine)
    return LocalHosts(None, names=this_machine)


def _is_host(seen: Sighting) -> bool:
    return seen.name.casefold().removesuffix(".exe") == PROGRAM


def _began(seen: Sighting) -> datetime:
    return datetime.fromtimestamp(seen.start / 1e6, UTC)
