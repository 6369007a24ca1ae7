"""
One pass over a `/proc`: the lines of our programs' processes, and whose child every process is.

Every process is read again at every look: `exec` keeps pid and start time, so whoever remembers that a process was a
shell misses the dtexec that it became. But of a process that was no program of ours, and is the same process still,
only the name is read, which costs the kernel half of the line. Its parent is known.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ssis_exporter.errors import SourceBroken
from ssis_exporter.sources.dtexec.processes import ProcessGone, ProcessHidden
from ssis_exporter.sources.dtexec.procfiles import ProcFiles
from ssis_exporter.sources.dtexec.programs import NameSays, by_kernel_name

LINE_BYTES = 470
"""
What is used of a line of /proc/PID/stat ends within 400 bytes even with the largest numbers that happen; a larger piece
costs a slower kind of memory, once per process.
"""

# The kernel's names are cut to 15 bytes, those of its own threads to 63.
_NAME_BYTES = 80
_NAMES_REMEMBERED = 4096
_NOBODY = "0"


class Kin(NamedTuple):
    """What is remembered of one process from look to look."""

    inode: int
    """
    Of its folder. The kernel makes it with the process's entry and counts on, so whoever gets the pid next has another;
    where entries are made anew for want of memory, or have a number of their own at each listing, the line is read.
    """

    parent: str
    is_program: bool
    """Whether its name is one of ours, or a loader's."""


@dataclass(frozen=True, slots=True)
class Census:
    """What one pass saw."""

    lines: list[bytes]
    """Of the programs' processes, cut after `LINE_BYTES`."""

    kin: Mapping[str, Kin]
    """Every process that could be read."""

    hidden: int
    """How many may not be read."""


class CensusTaker:
    """Passes over the processes of one `/proc`, again and again."""

    def __init__(self, files: ProcFiles) -> None:
        self._files = files
        self._known: Mapping[str, Kin] = {}
        self._names: dict[bytes, bool] = {}

    def take(self) -> Census:
        """Reads every process, now. Raises `SourceError` where nobody can say what runs."""
        files = self._files
        folder = files.folder()
        known, now = self._known, dict[str, Kin]()
        lines: list[bytes] = []
        new: set[str] = set()
        hidden = 0
        # This loop runs once per process of the machine: it opens, reads and closes, and little else.
        flags, os_open, os_read, os_close, names = os.O_RDONLY | os.O_CLOEXEC, os.open, os.read, os.close, self._names
        for entry in files.entries():
            pid = entry.name
            # What is no process has a name of letters.
            if pid > ":":
                continue
            inode, kin = entry.inode(), known.get(pid)
            if kin is not None and (kin.is_program or kin.inode != inode):
                kin = None
            try:
                file = os_open(f"{pid}/stat" if kin is None else f"{pid}/comm", flags, dir_fd=folder)
            except OSError as exc:
                hidden += files.is_hidden(exc)
                continue
            try:
                text = os_read(file, LINE_BYTES if kin is None else _NAME_BYTES)
            except OSError as exc:
                hidden += files.is_hidden(exc)
                continue
            finally:
                os_close(file)
            if kin is not None:
                if not (names[text[:-1]] if text[:-1] in names else self._is_program(text[:-1])):
                    now[pid] = kin
                    continue
                # It has become one of ours.
                try:
                    text = files.read(f"{pid}/stat", LINE_BYTES)
                except (ProcessGone, ProcessHidden) as exc:
                    hidden += isinstance(exc, ProcessHidden)
                    continue
            name, parent = self._name_and_parent(pid, text)
            is_program = self._is_program(name)
            now[pid] = Kin(inode, parent, is_program)
            new.add(pid)
            if is_program:
                lines.append(text)
        changed = {pid for pid in new if pid in known and known[pid].inode != now[pid].inode}
        self._ask_for_parents(now, new, lost=(known.keys() - now.keys()) | changed)
        self._known = _without_strangers(now, new)
        return Census(lines, now, hidden)

    def _ask_for_parents(self, now: dict[str, Kin], new: set[str], *, lost: Collection[str]) -> None:
        """A process has another parent from the moment on when its own ends."""
        if not lost:
            return
        for pid in [pid for pid, kin in now.items() if kin.parent in lost]:
            try:
                _, parent = self._name_and_parent(pid, self._files.read(f"{pid}/stat", LINE_BYTES))
            except (ProcessGone, ProcessHidden):
                # It was there a moment ago.
                continue
            now[pid] = now[pid]._replace(parent=parent)
            new.add(pid)

    def _name_and_parent(self, pid: str, line: bytes) -> tuple[bytes, str]:
        begin, end = line.find(b"("), line.rfind(b") ")
        fields = line[end + 2 : end + 32].split(b" ", 2)
        if begin < 0 or end < 0 or len(fields) < 3:
            raise SourceBroken(f"{self._files.path}/{pid}/stat is no line of a process")
        return line[begin + 1 : end], fields[1].decode("ascii")

    def _is_program(self, name: bytes) -> bool:
        known = self._names.get(name)
        if known is None:
            if len(self._names) >= _NAMES_REMEMBERED:
                self._names.clear()
            known = self._names[name] = by_kernel_name(os.fsdecode(name)) is not NameSays.NOTHING
        return known


def _without_strangers(now: Mapping[str, Kin], new: Collection[str]) -> Mapping[str, Kin]:
    """Without those whose parent is not among them: nobody would notice its end."""
    strangers = {pid for pid in new if now[pid].parent != _NOBODY and now[pid].parent not in now}
    return {pid: kin for pid, kin in now.items() if pid not in strangers} if strangers else now
