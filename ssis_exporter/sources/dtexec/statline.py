"""One line of `/proc/PID/stat`."""

from __future__ import annotations

import os

from ssis_exporter.sources.dtexec.processes import Sighting

# Places in what follows the name in /proc/PID/stat; see proc_pid_stat(5), whose numbers are larger by 3.
STATE, PARENT, UTIME, STIME, CUTIME, CSTIME, THREADS, START, RSS, STACK = 0, 1, 11, 12, 13, 14, 17, 19, 21, 25


class Stat:
    """One line of `/proc/PID/stat`, taken apart. The name may hold blanks, parentheses and line feeds."""

    __slots__ = ("fields", "name", "pid")

    def __init__(self, line: bytes) -> None:
        begin, end = line.index(b"("), line.rindex(b") ")
        self.pid = int(line[:begin])
        self.name = line[begin + 1 : end]
        self.fields = line[end + 2 :].split(b" ", STACK + 1)

    @property
    def is_running(self) -> bool:
        """A zombie's threads may still run after its first thread has ended."""
        return self.fields[STATE] not in (b"Z", b"X", b"x") or int(self.fields[THREADS]) > 1

    def sighting(self) -> Sighting:
        fields = self.fields
        # The place of the stack moves at every exec. The kernel shows 0 to those who may not trace the process.
        return Sighting(self.pid, int(fields[START]), os.fsdecode(self.name), int(fields[STACK]))
