"""What a `/proc` says of one process, read anew at each question."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from ssis_exporter.sources.dtexec.accounts import account_name
from ssis_exporter.sources.dtexec.arguments import Arguments, Wiped
from ssis_exporter.sources.dtexec.processes import ProcessGone, ProcessHidden
from ssis_exporter.sources.dtexec.procfiles import ProcFiles
from ssis_exporter.sources.dtexec.statline import STACK, Stat

_LONGEST_LINE = 4096
# Arguments, all together: of nearly every process, and as many as are read of any.
_USUAL_ARGUMENTS, _LONGEST_ARGUMENTS = 1 << 12, 1 << 20


class LinuxProcesses:
    """The processes of a `/proc`, by their pids."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ticks_per_second = os.sysconf("SC_CLK_TCK")
        self.page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._files = ProcFiles(path)

    def read_stat(self, pid: int) -> Stat:
        """The line of one process, now. Raises `ProcessGone`, `ProcessHidden`."""
        return Stat(self._files.read(f"{pid}/stat", _LONGEST_LINE))

    def whole(self, line: bytes) -> Stat:
        """A line of a look, taken apart. One that was cut is read again; what is gone by then was a zombie's."""
        stat = Stat(line)
        if len(stat.fields) > STACK + 1:
            return stat
        try:
            return self.read_stat(stat.pid)
        except (ProcessGone, ProcessHidden):
            return Stat(line.rpartition(b") ")[0] + b") Z" + b" 0" * 50)

    def arguments(self, pid: int) -> Arguments:
        """Its arguments; none for one that ends or begins. Raises `ProcessGone`, `ProcessHidden`."""
        room = Wiped(_USUAL_ARGUMENTS)
        length = self._files.read_into(f"{pid}/cmdline", room)
        if length == len(room):
            room = Wiped(_LONGEST_ARGUMENTS)
            length = self._files.read_into(f"{pid}/cmdline", room)
        return Arguments.in_cmdline(Wiped(memoryview(room)[:length]))

    def user_name(self, pid: int) -> str:
        """The account whose rights it uses. In another machine's or container's `/proc`, only its number is known."""
        status = self._files.read(f"{pid}/status", 1 << 16)
        begin = status.index(b"\nUid:")
        effective = int(status[begin + 5 : status.index(b"\n", begin + 5)].split()[1])
        return account_name(effective) if self.shows_our_namespace else str(effective)

    def link(self, pid: int, name: str) -> str | None:
        """Where a link of its folder points."""
        return self._files.link(f"{pid}/{name}")

    def shares_our_files(self, pid: int) -> bool:
        """Whether root and mounts are ours; what cannot be read is taken to be ours."""
        if not self.shows_our_namespace and self.link(pid, "ns/mnt") is None:
            return False
        for name in ("root", "ns/mnt"):
            its = self.link(pid, name)
            try:
                ours = str(Path("/proc/self", name).readlink())
            except OSError:
                return False
            if its is not None and its != ours:
                return False
        return True

    def io(self, pid: int) -> tuple[int | None, int | None]:
        """Bytes that it read from and wrote to storage, with the ended children that it waited for."""
        try:
            text = self._files.read(f"{pid}/io", 512)
            read = text.index(b"read_bytes: ")
            written = text.index(b"write_bytes: ", read)
            return int(text[read + 12 : text.index(b"\n", read)]), int(text[written + 13 : text.index(b"\n", written)])
        except (ProcessGone, ProcessHidden, ValueError):
            return None, None

    @cached_property
    def shows_our_namespace(self) -> bool:
        """Whether a pid in this `/proc` names the same process to `kill`."""
        try:
            status = (self.path / "self/status").read_text(encoding="ascii", errors="replace")
            own = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
        except (OSError, StopIteration):
            return False
        # Seen from an outer namespace a process has several pids.
        return own == [str(os.getpid())]
