"""
The processes of Windows, macOS and the rest, through psutil.

On Windows the command line of another account's process can be read by administrators only, and a process can be
ended but not asked to end.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import psutil

from ssis_exporter.errors import (
    IdentityUnknown,
    NoSuchExecution,
    SourceAccessDenied,
    SourceBroken,
    StopDenied,
    StopFailed,
    StopUnsupported,
)
from ssis_exporter.model import Scope, Visibility
from ssis_exporter.sources.dtexec.arguments import Arguments
from ssis_exporter.sources.dtexec.processes import (
    Details,
    Look,
    ProcessGone,
    ProcessHidden,
    ProcessTable,
    Sighting,
    Usage,
)
from ssis_exporter.sources.dtexec.programs import NameSays, by_kernel_name

T = TypeVar("T")

ON_WINDOWS = sys.platform == "win32"


class PortableLook(Look):
    """One pass over psutil's processes."""

    def __init__(
        self, table: PortableTable, processes: dict[int, psutil.Process], found: list[Sighting], hidden: int
    ) -> None:
        self._table = table
        self._processes = processes
        self.count = len(processes)
        self.sightings = found
        self.visibility = (
            Visibility(Scope.PARTIAL, "the names of some processes are denied to this account")
            if hidden
            else Visibility(Scope.ALL, "the names of all processes are shown")
        )

    def details(self, seen: Sighting) -> Details:
        """Reads arguments, account and folder; the start time is compared again afterwards."""
        process = self._processes[seen.pid]
        arguments = _asked(process.cmdline)
        if not arguments:
            raise ProcessGone(f"process {seen.pid} has no arguments yet, or none any more")
        details = Details(
            # psutil's own texts stay in memory until something else is written there.
            arguments=Arguments.of(arguments),
            user_name=_or_none(process.username) or "",
            folder=_or_none(process.cwd),
        )
        if self._table.sighting(psutil_process(seen.pid)) != seen:
            raise ProcessGone(f"process {seen.pid} became another one while it was read")
        return details

    def arguments(self, pid: int) -> Arguments | None:
        """What psutil says now."""
        process = self._processes.get(pid)
        found = _or_none(process.cmdline) if process is not None else None
        return Arguments.of(found) if found is not None else None

    def age(self, seen: Sighting) -> timedelta:
        """By the wall clock at the first look, by a clock that nobody sets from then on."""
        return self._table.age(seen)

    def ancestors(self, pid: int) -> Iterable[int]:
        """By psutil's parents."""
        parents, _ = self._family
        climbed: set[int] = set()
        while (above := parents.get(pid)) is not None and above not in climbed and self._is_older(above, pid):
            climbed.add(above)
            yield above
            pid = above

    def descendants(self, pid: int) -> Sequence[int]:
        """By psutil's parents."""
        _, children = self._family
        found = [pid]
        known = {pid}
        for above in found:
            new = [child for child in children.get(above, ()) if child not in known and self._is_older(above, child)]
            known.update(new)
            found.extend(new)
        return found[1:]

    def _is_older(self, parent: int, child: int) -> bool:
        """Windows keeps the pid of a parent that has ended, and the pid may be another process's by now."""
        above, below = self._processes.get(parent), self._processes.get(child)
        if above is None or below is None:
            return False
        return (_or_none(above.create_time) or 0.0) <= (_or_none(below.create_time) or 0.0)

    @cached_property
    def _family(self) -> tuple[dict[int, int], dict[int, list[int]]]:
        """Parent of each, children of each; only looks that found a run pay for it."""
        parents = _parents(self._processes)
        children: dict[int, list[int]] = defaultdict(list)
        for pid, parent in parents.items():
            children[parent].append(pid)
        return parents, children

    def usage(self, pid: int) -> Usage | None:
        """What psutil tells; on Windows the time of ended children is not known."""
        process = self._processes.get(pid)
        if process is None:
            return None
        times = _or_none(process.cpu_times)
        if times is None:
            return None
        memory = _or_none(process.memory_info)
        # Not on every system: psutil has no io_counters on macOS.
        counters = _or_none(process.io_counters) if hasattr(process, "io_counters") else None
        return Usage(
            round((_or_none(process.create_time) or 0.0) * 1e6),
            times.user + times.system,
            getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0),
            memory.rss if memory is not None else 0,
            _or_none(process.num_threads) or 0,
            counters.read_bytes if counters is not None else None,
            counters.write_bytes if counters is not None else None,
        )

    def describe(self, pid: int) -> str:
        """Name and processor time."""
        process = self._processes.get(pid)
        times = _or_none(process.cpu_times) if process is not None else None
        if process is None or times is None:
            return f"{pid} gone"
        return f"{pid} {_or_none(process.name) or '?'} {times.user + times.system:.2f}s"


class PortableTable(ProcessTable):
    """psutil's view."""

    def __init__(
        self, *, wall_clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._ages: dict[Sighting, tuple[float, float]] = {}

    def look(self) -> PortableLook:
        """
        Reads name and start time of every process.

        psutil's own cache of processes is not used: it does not notice that a pid was used again.
        """
        try:
            pids = psutil.pids()
        except (psutil.AccessDenied, PermissionError) as exc:
            raise SourceAccessDenied(f"the processes cannot be listed: {exc}") from exc
        except (psutil.Error, OSError) as exc:
            raise SourceBroken(f"the processes cannot be listed: {exc}") from exc
        processes: dict[int, psutil.Process] = {}
        found: list[Sighting] = []
        hidden = 0
        for pid in pids:
            try:
                process = psutil_process(pid)
                processes[pid] = process
                if by_kernel_name(_asked(process.name)) is not NameSays.NOTHING and not self._is_zombie(process):
                    found.append(self.sighting(process))
            except ProcessGone:
                continue
            except ProcessHidden:
                hidden += 1
        if os.getpid() not in processes:
            raise SourceBroken("the list of processes is not whole: not even this process is among them")
        self._ages = {seen: self._ages.get(seen) or self._first_age(seen) for seen in found}
        return PortableLook(self, processes, found, hidden)

    @cached_property
    def boot(self) -> str:
        """
        A fixed word on Windows and macOS, whose start times are absolute: they name the boot, too.

        The time of the boot would be no good name: it is computed from the wall clock and moves with it.
        """
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        except (OSError, ValueError):
            return "0"
        return boot.strip().split("-")[0]

    def sighting(self, process: psutil.Process) -> Sighting:
        """Start times in microseconds, as fine as a float of this size is."""
        return Sighting(process.pid, round(_asked(process.create_time) * 1e6), _asked(process.name), 0)

    def age(self, seen: Sighting) -> timedelta:
        """See `PortableLook.age`."""
        age_then, then = self._ages.get(seen) or self._first_age(seen)
        return timedelta(seconds=age_then + self._monotonic() - then)

    def request_end(self, seen: Sighting) -> None:
        """SIGTERM; there is nothing like it on Windows."""
        if ON_WINDOWS:
            raise StopUnsupported(
                "on Windows a process can be ended but not asked to end: only a rule with escalate_after stops it"
            )
        self._act(seen, psutil.Process.terminate)

    def end(self, seen: Sighting) -> None:
        """SIGKILL, or TerminateProcess."""
        self._act(seen, psutil.Process.kill)

    def may_stop_others(self) -> bool:
        """Administrators may."""
        if sys.platform == "win32":
            import ctypes  # noqa: PLC0415 - there is no windll elsewhere

            return bool(ctypes.windll.shell32.IsUserAnAdmin())
        return os.geteuid() == 0

    def close(self) -> None:
        """Nothing is kept open."""

    def _first_age(self, seen: Sighting) -> tuple[float, float]:
        return max(self._wall_clock() - seen.start / 1e6, 0.0), self._monotonic()

    def _is_zombie(self, process: psutil.Process) -> bool:
        return not ON_WINDOWS and _or_none(process.status) == psutil.STATUS_ZOMBIE

    def _act(self, seen: Sighting, action: Callable[[psutil.Process], None]) -> None:
        """psutil compares the start time once more within `terminate` and `kill`."""
        try:
            process = psutil_process(seen.pid)
            now = self.sighting(process)
        except ProcessGone as exc:
            raise NoSuchExecution(f"process {seen.pid} has ended") from exc
        except ProcessHidden as exc:
            raise IdentityUnknown(f"the start time of process {seen.pid} cannot be read, so nothing was done") from exc
        if now != seen:
            raise NoSuchExecution(f"process {seen.pid} has ended; the pid is another process's now")
        if self._is_zombie(process):
            raise NoSuchExecution(f"process {seen.pid} has ended")
        try:
            action(process)
        except psutil.NoSuchProcess as exc:
            raise NoSuchExecution(f"process {seen.pid} has ended") from exc
        except (psutil.AccessDenied, PermissionError) as exc:
            raise StopDenied(
                f"the exporter's account may not end process {seen.pid}: run the exporter as an administrator or as the"
                " account of the package"
            ) from exc
        except (psutil.Error, OSError) as exc:
            raise StopFailed(f"process {seen.pid} was not ended: {exc}") from exc


def _parents(processes: Mapping[int, psutil.Process]) -> dict[int, int]:
    """
    The parent of each process.

    On Windows `Process.ppid` reads a table of all processes, so asking each would read it once per process. psutil's
    own function that reads it once has no public name.
    """
    table: Callable[[], dict[int, int]] | None = getattr(psutil, "_ppid_map", None)
    if table is not None:
        return _or_none(table) or {}
    asked = ((pid, _or_none(process.ppid)) for pid, process in processes.items())
    return {pid: parent for pid, parent in asked if parent is not None}


def psutil_process(pid: int) -> psutil.Process:
    """psutil's handle. Raises `ProcessGone`, `ProcessHidden`."""
    return _asked(lambda: psutil.Process(pid))


def _asked(question: Callable[[], T]) -> T:
    """One answer of psutil, whose errors come in two families: its own, and the system's as they are."""
    try:
        return question()
    except psutil.NoSuchProcess as exc:
        raise ProcessGone(f"process {exc.pid} is gone") from exc
    except (psutil.Error, OSError) as exc:
        raise ProcessHidden(f"it cannot be read: {exc}") from exc


def _or_none(question: Callable[[], T]) -> T | None:
    try:
        return _asked(question)
    except (ProcessGone, ProcessHidden):
        return None
