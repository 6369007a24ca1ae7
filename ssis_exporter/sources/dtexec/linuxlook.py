"""What one pass over a `/proc` saw, and what is asked of its processes afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property

from ssis_exporter.model import Visibility
from ssis_exporter.sources.dtexec.arguments import Arguments
from ssis_exporter.sources.dtexec.census import Kin
from ssis_exporter.sources.dtexec.linuxprocesses import LinuxProcesses
from ssis_exporter.sources.dtexec.processes import Details, Look, ProcessGone, ProcessHidden, Sighting, Usage
from ssis_exporter.sources.dtexec.statline import CSTIME, CUTIME, PARENT, RSS, START, STIME, THREADS, UTIME, Stat


class LinuxLook(Look):
    """The lines of our programs were read within the look; that of another process is when it is first asked for."""

    def __init__(
        self, processes: LinuxProcesses, found: Iterable[Stat], kin: Mapping[str, Kin], visibility: Visibility
    ) -> None:
        self._processes = processes
        self._kin = kin
        self._boot_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._stats: dict[int, Stat | None] = {stat.pid: stat for stat in found}
        self.count = len(kin)
        self.sightings = [stat.sighting() for stat in self._stats.values() if stat is not None and stat.is_running]
        self.visibility = visibility

    def details(self, seen: Sighting) -> Details:
        """Reads the arguments, the account and the folder, and then that it is still the same."""
        processes = self._processes
        arguments = processes.arguments(seen.pid)
        if not arguments:
            # Within an exec the kernel knows the new name before the arguments.
            raise ProcessGone(f"process {seen.pid} has no arguments yet, or none any more")
        details = Details(
            arguments=arguments,
            user_name=processes.user_name(seen.pid),
            folder=processes.link(seen.pid, "cwd"),
            shares_our_files=processes.shares_our_files(seen.pid),
        )
        if processes.read_stat(seen.pid).sighting() != seen:
            raise ProcessGone(f"process {seen.pid} became another one while it was read")
        return details

    def arguments(self, pid: int) -> Arguments | None:
        """What `/proc/PID/cmdline` says now."""
        try:
            return self._processes.arguments(pid)
        except (ProcessGone, ProcessHidden):
            return None

    def age(self, seen: Sighting) -> timedelta:
        """By the clock that counts from boot, as the start time does; nobody sets it."""
        return max(timedelta(seconds=self._boot_seconds - seen.start / self._processes.ticks_per_second), timedelta())

    def ancestors(self, pid: int) -> Iterable[int]:
        """By their lines."""
        climbed: set[int] = set()
        while (stat := self._stat(pid)) is not None:
            pid = int(stat.fields[PARENT])
            if pid == 0 or pid in climbed:
                return
            climbed.add(pid)
            yield pid

    def descendants(self, pid: int) -> Sequence[int]:
        """By what is known of parents, and then by their lines."""
        children = self._children
        if str(pid) not in children:
            return ()
        found = [pid]
        # Lines are read one after another, so a parent could be its child's child; nobody counts twice.
        known = {pid}
        for above in found:
            below = map(int, children.get(str(above), ()))
            new = [child for child in below if child not in known and self._is_child(child, above)]
            known.update(new)
            found.extend(new)
        return found[1:]

    def usage(self, pid: int) -> Usage | None:
        """From its line, and `/proc/PID/io` read now."""
        stat = self._stat(pid)
        if stat is None:
            return None
        fields, ticks = stat.fields, self._processes.ticks_per_second
        read_bytes, written_bytes = self._processes.io(pid)
        return Usage(
            int(fields[START]),
            (int(fields[UTIME]) + int(fields[STIME])) / ticks,
            (int(fields[CUTIME]) + int(fields[CSTIME])) / ticks,
            max(int(fields[RSS]), 0) * self._processes.page_bytes,
            int(fields[THREADS]),
            read_bytes,
            written_bytes,
        )

    def describe(self, pid: int) -> str:
        """Name and processor time."""
        stat = self._stat(pid)
        if stat is None:
            return f"{pid} gone"
        seconds = (int(stat.fields[UTIME]) + int(stat.fields[STIME])) / self._processes.ticks_per_second
        return f"{pid} {os.fsdecode(stat.name)} {seconds:.2f}s"

    def _stat(self, pid: int) -> Stat | None:
        """Its line, the same for the whole look; None for one that ended or may not be read."""
        if pid not in self._stats:
            try:
                self._stats[pid] = self._processes.read_stat(pid)
            except (ProcessGone, ProcessHidden):
                self._stats[pid] = None
        return self._stats[pid]

    def _is_child(self, pid: int, of: int) -> bool:
        stat = self._stat(pid)
        return stat is not None and int(stat.fields[PARENT]) == of

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        """The pids below each pid; only looks that found a run pay for it, and not for making numbers of all."""
        children: dict[str, list[str]] = {}
        for pid, kin in self._kin.items():
            if kin.parent in children:
                children[kin.parent].append(pid)
            else:
                children[kin.parent] = [pid]
        return children
