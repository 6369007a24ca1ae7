"""
Which processes are runs, which belong to another's run, and what is remembered of each from look to look.

What was read of a process is kept as long as it is the same run of the same program (`Sighting`), and not longer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from ssis_exporter.model import Execution, ExecutionFacts, ExecutionKey, ExecutionStatus, Figures, HostProcess
from ssis_exporter.sources.dtexec.commandline import PackageCall, Place
from ssis_exporter.sources.dtexec.meter import Member, Meter
from ssis_exporter.sources.dtexec.naming import Naming
from ssis_exporter.sources.dtexec.processes import Details, Look, ProcessGone, ProcessHidden, Sighting, Usage
from ssis_exporter.sources.dtexec.programs import Identified, NameSays, Program, Via, by_kernel_name, identify

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Process:
    """A process that was examined."""

    seen: Sighting
    identified: Identified | None
    """None for a loader or shell that runs something else."""

    is_certain: bool
    """Whether it stays what it is while its sighting stays the same. Otherwise it is examined at every look."""

    def is_still(self, seen: Sighting) -> bool:
        """Whether what was found out holds for this sighting, too. A process that is ending has no image any more."""
        return self.is_certain and self.seen.name == seen.name and seen.image in (self.seen.image, 0)


@dataclass(slots=True, kw_only=True)
class _Other(_Process):
    """Not ours, a client, or a part of another process's run."""


@dataclass(slots=True, kw_only=True)
class _Host(_Process):
    """A program that may host packages without saying so."""

    host: HostProcess


@dataclass(slots=True, kw_only=True)
class _Candidate(_Process):
    """Its arguments name a package; whether it is a run of its own, its ancestors tell. Lives only within one look."""

    call: PackageCall
    details: Details
    is_wrapper: bool = False


@dataclass(slots=True, kw_only=True)
class Run(_Process):
    """A run of a package."""

    call: PackageCall
    facts: ExecutionFacts
    meter: Meter
    is_wrapper: bool
    """A script of the program's name below which the program itself was seen: that one is the run."""

    stopping_since: datetime | None = None


class Runs:
    """The runs of one machine."""

    def __init__(self, source: str, machine: str, boot: str, naming: Naming) -> None:
        self._source = source
        self._machine = machine
        self._boot = boot
        self._naming = naming
        self._known: dict[Member, _Process] = {}
        self.hidden = False
        """Whether a process that may be a run could not be read at the last look."""

    def update(self, look: Look, now: datetime) -> None:
        """Takes over what a look saw."""
        self._naming.renew()
        self.hidden = False
        before = self._known
        known: dict[Member, _Process] = {}
        unsettled: list[Sighting] = []
        for seen in look.sightings:
            process = before.get((seen.pid, seen.start))
            if process is None or not process.is_still(seen):
                process = self._examine(look, seen, now)
            if process is None:
                unsettled.append(seen)
            else:
                known[seen.pid, seen.start] = process
        for seen in unsettled:
            # Between two steps of an exec, most of them; they are over by now.
            again = self._examine(look, seen, now) or self._as_it_was(seen)
            if again is not None:
                known[seen.pid, seen.start] = again
        self._known = self._settle(look, known, now)

    def all(self) -> Iterator[Run]:
        """The runs of the last look."""
        return (process for process in self._known.values() if isinstance(process, Run) and not process.is_wrapper)

    def find(self, instance_id: str) -> Run | None:
        """The run of that name, if the last look saw it."""
        return next((run for run in self.all() if run.facts.key.instance_id == instance_id), None)

    def hosts(self) -> tuple[HostProcess, ...]:
        """The host programs of the last look."""
        return tuple(process.host for process in self._known.values() if isinstance(process, _Host))

    def executions(self, look: Look) -> tuple[Execution, ...]:
        """The runs with their figures at the same look that `update` was given."""
        return tuple(
            Execution(
                facts=run.facts,
                status=ExecutionStatus.RUNNING if run.stopping_since is None else ExecutionStatus.STOPPING,
                duration=look.age(run.seen),
                stopping_since=run.stopping_since,
                figures=_figures(run, look),
            )
            for run in self.all()
        )

    def _examine(self, look: Look, seen: Sighting, now: datetime) -> _Process | None:
        """What a process is; None where it cannot be told now."""
        try:
            if by_kernel_name(seen.name) is NameSays.LOADER and self._runs_something_else(look, seen):
                return _Other(seen=seen, identified=None, is_certain=seen.image != 0)
            details = look.details(seen)
            identified = identify(seen.name, details.arguments)
            # Without an image nothing tells when a loader or a script has become another program.
            is_certain = seen.image != 0 or (identified is not None and identified.via is Via.NOTHING)
            if identified is None:
                return _Other(seen=seen, identified=None, is_certain=is_certain)
            if identified.program.is_host:
                host = HostProcess(
                    program=identified.program,
                    process_id=seen.pid,
                    started_at=now - look.age(seen),
                    user_name=details.user_name,
                )
                return _Host(seen=seen, identified=identified, is_certain=is_certain, host=host)
            call = self._naming.call(details.arguments.after(identified.first_argument), details)
        except ProcessGone:
            return None
        except ProcessHidden as exc:
            self.hidden = True
            log.debug("source %s: a process may not be read: %s", self._source, exc)
            return None
        if call is None and identified.program is Program.DTSHOST:
            # It is told its package by other means than its arguments.
            call = PackageCall(place=Place.UNKNOWN)
        if call is None:
            return _Other(seen=seen, identified=identified, is_certain=is_certain)
        return _Candidate(seen=seen, identified=identified, is_certain=is_certain, call=call, details=details)

    @staticmethod
    def _runs_something_else(look: Look, seen: Sighting) -> bool:
        """One read tells it of almost all shells, which may be many."""
        arguments = look.arguments(seen.pid)
        return arguments is not None and len(arguments) > 0 and identify(seen.name, arguments) is None

    def _as_it_was(self, seen: Sighting) -> _Process | None:
        """A known process in the middle of a change, or one that may no longer be read, is still the same process."""
        before = self._known.get((seen.pid, seen.start))
        return before if before is not None and before.seen.name == seen.name else None

    def _settle(self, look: Look, known: dict[Member, _Process], now: datetime) -> dict[Member, _Process]:
        """Makes runs of the candidates that do not belong to another's run."""
        by_pid = {process.seen.pid: process for process in known.values() if process.identified is not None}
        candidates = [process for process in known.values() if isinstance(process, _Candidate)]
        parts = {candidate.seen for candidate in candidates if _belongs_to_another(candidate, look, by_pid)}
        settled: dict[Member, _Process] = dict(known)
        for candidate in candidates:
            seen = candidate.seen
            if seen in parts:
                # A fork becomes another program soon, and a dtshost may outlive its dtexec.
                settled[seen.pid, seen.start] = _Other(seen=seen, identified=candidate.identified, is_certain=False)
            else:
                settled[seen.pid, seen.start] = self._run(candidate, look, now)
        return settled

    def _run(self, candidate: _Candidate, look: Look, now: datetime) -> Run:
        seen, identified = candidate.seen, candidate.identified
        assert identified is not None
        before = self._known.get((seen.pid, seen.start))
        if isinstance(before, Run) and before.call == candidate.call:
            # A script that became the program by exec, with the same package: the same run.
            before.seen, before.identified, before.is_certain = seen, identified, candidate.is_certain
            before.is_wrapper = identified.via is Via.SCRIPT and (before.is_wrapper or candidate.is_wrapper)
            return before
        names = self._naming.names(candidate.call, candidate.details)
        facts = ExecutionFacts(
            key=ExecutionKey(self._source, f"{seen.pid}-{seen.start}-{self._boot}"),
            package_name=names.package_name,
            folder=names.folder,
            project=names.project,
            package_id=names.package_id,
            user_name=candidate.details.user_name,
            started_at=now - look.age(seen),
            machine=self._machine,
            process_id=seen.pid,
            description=names.description,
            caller=candidate.call.caller,
            host=identified.program,
        )
        return Run(
            seen=seen,
            identified=identified,
            is_certain=candidate.is_certain,
            call=candidate.call,
            facts=facts,
            meter=Meter(),
            is_wrapper=candidate.is_wrapper,
        )


def _belongs_to_another(candidate: _Candidate, look: Look, by_pid: dict[int, _Process]) -> bool:
    """
    Whether a process is only a part of a run that an ancestor stands for.

    So is a `dtshost` under a dtexec, and a dtexec directly under one with the very same arguments: a fork that has
    not become another program yet. A dtexec with other arguments is a run of its own, started by a package. Below a
    script of the name, the program itself is the run and the script only its wrapper.
    """
    assert candidate.identified is not None
    for distance, pid in enumerate(look.ancestors(candidate.seen.pid)):
        above = by_pid.get(pid)
        if above is None or above.identified is None or above.identified.program is not Program.DTEXEC:
            continue
        if candidate.identified.program is Program.DTSHOST:
            return True
        if above.identified.via is Via.SCRIPT:
            if isinstance(above, _Candidate | Run):
                above.is_wrapper = True
            return False
        if distance > 0:
            return False
        its = look.arguments(pid)
        own = candidate.details.arguments.after(candidate.identified.first_argument)
        return its is not None and its.after(above.identified.first_argument) == own
    return False


def _figures(run: Run, look: Look) -> Figures | None:
    """Of the run's own process and of all below it."""
    own = look.usage(run.seen.pid)
    if own is None:
        return None
    root = (run.seen.pid, own.start)
    now = {root: own}
    below = look.descendants(run.seen.pid)
    if below:
        now |= _usages(look, below)
    return run.meter.add(root, now)


def _usages(look: Look, pids: Iterable[int]) -> dict[Member, Usage]:
    usages = ((pid, look.usage(pid)) for pid in pids)
    return {(pid, usage.start): usage for pid, usage in usages if usage is not None}
