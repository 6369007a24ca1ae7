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
        self._read: int | None = None
        self._written: int | None = None

    def add(self, root: Member, now: Mapping[Member, Usage]) -> Figures:
        """The figures at this look. `now` has the usage of the run's own process, `root`, and of all below it."""
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
        self._last = now
        total = self._lost + sum(usage.cpu + usage.reaped_cpu for usage in now.values())
        self._cpu = max(self._cpu, total)
        own = now[root]
        self._read = _risen(self._read, own.read_bytes, [usage.read_bytes for usage in now.values()])
        self._written = _risen(self._written, own.written_bytes, [usage.written_bytes for usage in now.values()])
        return Figures(
            cpu_time=timedelta(seconds=self._cpu),
            resident_bytes=sum(usage.resident_bytes for usage in now.values()),
            read_bytes=self._read,
            written_bytes=self._written,
            threads=sum(usage.threads for usage in now.values()),
        )


def _risen(before: int | None, own: int | None, all_of_them: list[int | None]) -> int | None:
    """The larger of before and now; None where it is unknown for the run's own process."""
    if own is None:
        return None
    return max(before or 0, sum(count for count in all_of_them if count is not None))
