"""Adds up what a run's processes use, so that counters never fall when one of them ends."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TypeAlias

from ssis_exporter.model import Figures
from ssis_exporter.sources.dtexec.processes import Usage

Member: TypeAlias = tuple[int, int]
"""Pid and start of a process."""


class Meter:
    """
    The sums over one run: its process and all below it.

    When a child ends, its processor time moves to the parent that waited for it (`reaped_cpu`), so the sum stays. Where
    nobody waited, it is lost to the system, and is remembered here: what vanished, less what parents took over in the
    two looks around it. Two, because parent and child are not read in the same instant.
    """

    __slots__ = ("_cpu", "_last", "_lost", "_read", "_taken_over", "_vanished", "_vanished_before", "_written")

    def __init__(self) -> None:
        self._last: Mapping[Member, Usage] = {}
        self._vanished = 0.0
        self._vanished_before = False
        self._taken_over = 0.0
        self._lost = 0.0
        self._cpu = 0.0
        self._read = 0
        self._written = 0

    def add(self, root: Member, now: Mapping[Member, Usage]) -> Figures:
        """The figures at this look. `now` has the usage of the run's own process, `root`, and of all below it."""
        own = now[root]
        if len(now) == 1 and len(self._last) <= 1 and not self._vanished_before:
            # Most runs are one process and stay so.
            both = own
        else:
            self._follow(now)
            both = _sum_of(own, now)
        self._last = now
        self._cpu = max(self._cpu, self._lost + both.cpu + both.reaped_cpu)
        self._read = max(self._read, both.read_bytes or 0)
        self._written = max(self._written, both.written_bytes or 0)
        return Figures(
            cpu_time=timedelta(seconds=self._cpu),
            resident_bytes=both.resident_bytes,
            read_bytes=None if both.read_bytes is None else self._read,
            written_bytes=None if both.written_bytes is None else self._written,
            threads=both.threads,
        )

    def _follow(self, now: Mapping[Member, Usage]) -> None:
        """Finds what vanished and what parents took over."""
        last = self._last
        vanished = sum(usage.cpu + usage.reaped_cpu for member, usage in last.items() if member not in now)
        if vanished or self._vanished_before:
            for member, usage in now.items():
                before = last.get(member)
                if before is not None:
                    self._taken_over += max(usage.reaped_cpu - before.reaped_cpu, 0.0)
            self._lost = max(self._lost, self._vanished - self._taken_over)
            self._vanished += vanished
            self._vanished_before = vanished > 0


def _sum_of(own: Usage, now: Mapping[Member, Usage]) -> Usage:
    """All processes as one. Bytes are unknown where they are for the run's own process."""
    usages = now.values()
    return Usage(
        start=own.start,
        cpu=sum(usage.cpu for usage in usages),
        reaped_cpu=sum(usage.reaped_cpu for usage in usages),
        resident_bytes=sum(usage.resident_bytes for usage in usages),
        threads=sum(usage.threads for usage in usages),
        read_bytes=None if own.read_bytes is None else sum(usage.read_bytes or 0 for usage in usages),
        written_bytes=None if own.written_bytes is None else sum(usage.written_bytes or 0 for usage in usages),
    )
