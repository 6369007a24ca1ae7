"""
The processes of a Linux machine, from `/proc/PID/stat` read directly, once per process and look.

Every process is read again at every look: `exec` keeps pid and start time, so whoever remembers that a process was a
shell misses the dtexec that it became.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ssis_exporter.errors import (
    IdentityUnknown,
    NoSuchExecution,
    SourceAccessDenied,
    SourceBroken,
    SourceError,
    SourceMissing,
    StopDenied,
    StopFailed,
    StopUnsupported,
)
from ssis_exporter.sources.dtexec.accounts import account_name
from ssis_exporter.sources.dtexec.arguments import Arguments, Wiped
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
from ssis_exporter.sources.dtexec.sight import what_is_seen
from ssis_exporter.sources.dtexec.statline import CSTIME, CUTIME, PARENT, RSS, STACK, START, STIME, THREADS, UTIME, Stat

T = TypeVar("T")

_GONE = (errno.ENOENT, errno.ESRCH)
_HIDDEN = (errno.EACCES, errno.EPERM)
# What is used of a line of /proc/PID/stat ends within 400 bytes even with the largest numbers that happen; a larger
# piece costs a slower kind of memory, once per process.
_STAT_BYTES = 470
_LONGEST_LINE = 4096
# Arguments, all together: of nearly every process, and as many as are read of any.
_USUAL_ARGUMENTS, _LONGEST_ARGUMENTS = 1 << 12, 1 << 20
_NAMES_REMEMBERED = 4096


class LinuxLook(Look):
    """One pass over `/proc`."""

    def __init__(self, table: LinuxTable, lines: list[bytes], found: list[Stat], hidden: int) -> None:
        self._table = table
        self._lines = lines
        self._boot_seconds = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._stats = {stat.pid: stat for stat in found}
        self.count = len(lines)
        self.sightings = [stat.sighting() for stat in found if stat.is_running]
        self.visibility = what_is_seen(table.path, hidden=hidden)

    def details(self, seen: Sighting) -> Details:
        """Reads the arguments, the account and the folder, and then that it is still the same."""
        table = self._table
        arguments = table.arguments(seen.pid)
        if not arguments:
            # Within an exec the kernel knows the new name before the arguments.
            raise ProcessGone(f"process {seen.pid} has no arguments yet, or none any more")
        details = Details(
            arguments=arguments,
            user_name=table.user_name(seen.pid),
            folder=table.link(seen.pid, "cwd"),
            shares_our_files=table.shares_our_files(seen.pid),
        )
        if table.read_stat(seen.pid).sighting() != seen:
            raise ProcessGone(f"process {seen.pid} became another one while it was read")
        return details

    def arguments(self, pid: int) -> Arguments | None:
        """What `/proc/PID/cmdline` says now."""
        try:
            return self._table.arguments(pid)
        except (ProcessGone, ProcessHidden):
            return None

    def age(self, seen: Sighting) -> timedelta:
        """By the clock that counts from boot, as the start time does; nobody sets it."""
        return max(timedelta(seconds=self._boot_seconds - seen.start / self._table.ticks_per_second), timedelta())

    def ancestors(self, pid: int) -> Iterable[int]:
        """By the parents that this look saw."""
        climbed: set[int] = set()
        while (stat := self._stat(pid)) is not None:
            pid = int(stat.fields[PARENT])
            if pid == 0 or pid in climbed:
                return
            climbed.add(pid)
            yield pid

    def descendants(self, pid: int) -> Sequence[int]:
        """By the parents that this look saw."""
        children = self._children
        if b"%d" % pid not in children:
            return ()
        found = [pid]
        # The reads of one look are spread over time, so a parent could be its child's child; nobody counts twice.
        known = {pid}
        for above in found:
            new = [below for below in map(int, children.get(b"%d" % above, ())) if below not in known]
            known.update(new)
            found.extend(new)
        return found[1:]

    def usage(self, pid: int) -> Usage | None:
        """From this look's line, and `/proc/PID/io` read now."""
        stat = self._stat(pid)
        if stat is None:
            return None
        fields, ticks = stat.fields, self._table.ticks_per_second
        read_bytes, written_bytes = self._table.io(pid)
        return Usage(
            int(fields[START]),
            (int(fields[UTIME]) + int(fields[STIME])) / ticks,
            (int(fields[CUTIME]) + int(fields[CSTIME])) / ticks,
            max(int(fields[RSS]), 0) * self._table.page_bytes,
            int(fields[THREADS]),
            read_bytes,
            written_bytes,
        )

    def describe(self, pid: int) -> str:
        """Name and processor time."""
        stat = self._stat(pid)
        if stat is None:
            return f"{pid} gone"
        seconds = (int(stat.fields[UTIME]) + int(stat.fields[STIME])) / self._table.ticks_per_second
        return f"{pid} {os.fsdecode(stat.name)} {seconds:.2f}s"

    def _stat(self, pid: int) -> Stat | None:
        stat = self._stats.get(pid)
        if stat is None:
            at = self._places.get(pid)
            if at is None:
                return None
            stat = self._stats[pid] = self._table.whole(self._lines[at])
        return stat

    @cached_property
    def _places(self) -> dict[int, int]:
        return {int(line[: line.index(b" ")]): at for at, line in enumerate(self._lines)}

    @cached_property
    def _children(self) -> dict[bytes, list[bytes]]:
        """The pids below each pid; only looks that found a run pay for it, and not for making numbers of all."""
        children: dict[bytes, list[bytes]] = {}
        for line in self._lines:
            begin = line.rindex(b") ") + 4
            parent = line[begin : line.index(b" ", begin)]
            pid = line[: line.index(b" ")]
            if parent in children:
                children[parent].append(pid)
            else:
                children[parent] = [pid]
        return children


class LinuxTable(ProcessTable):
    """Reads a `/proc`: this machine's, or one that was mounted into a container."""

    def __init__(self, path: Path = Path("/proc")) -> None:
        self.path = path
        self.ticks_per_second = os.sysconf("SC_CLK_TCK")
        self.page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._folder: int | None = None
        self._ours: dict[bytes, bool] = {}

    def look(self) -> LinuxLook:
        """Lists the processes and reads the line of each."""
        folder = self._open()
        lines: list[bytes] = []
        hidden = 0
        # This loop runs once per process of the machine: it opens, reads and closes, and nothing else.
        flags, os_open, os_read, os_close, keep = os.O_RDONLY | os.O_CLOEXEC, os.open, os.read, os.close, lines.append
        for entry in self._list(folder):
            # What is no process has a name of letters.
            if entry > ":":
                continue
            try:
                file = os_open(entry + "/stat", flags, dir_fd=folder)
            except OSError as exc:
                hidden += self._hidden_or_gone(exc)
                continue
            try:
                keep(os_read(file, _STAT_BYTES))
            except OSError as exc:
                hidden += self._hidden_or_gone(exc)
            finally:
                os_close(file)
        if not lines:
            raise SourceMissing(f"{self.path} shows no process, not even this one: is it a mounted proc file system?")
        ours, found = self._ours, []
        for line in lines:
            name = line[line.find(b"(") + 1 : line.rfind(b") ")]
            known = ours.get(name)
            if known if known is not None else self._is_ours(name):
                found.append(self.whole(line))
        return LinuxLook(self, lines, found, hidden)

    @cached_property
    def boot(self) -> str:
        """The first part of the kernel's random id of this boot."""
        try:
            return (self.path / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip().split("-")[0]
        except (OSError, ValueError):
            # Computed once: the wall clock is corrected now and then, and an identity must not move with it.
            return f"t{time.time() - time.clock_gettime(time.CLOCK_BOOTTIME):.0f}"

    def request_end(self, seen: Sighting) -> None:
        """SIGTERM."""
        self._signal(seen, signal.SIGTERM)

    def end(self, seen: Sighting) -> None:
        """SIGKILL."""
        self._signal(seen, signal.SIGKILL)

    def may_stop_others(self) -> bool:
        """By the capability; root without it (in a container) may not."""
        capability_kill = 5
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
            line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
        except (OSError, StopIteration):
            return os.geteuid() == 0
        return bool(int(line.split()[1], 16) >> capability_kill & 1)

    def close(self) -> None:
        """Closes the folder."""
        folder, self._folder = self._folder, None
        if folder is not None:
            os.close(folder)

    def read_stat(self, pid: int) -> Stat:
        """The line of one process, now. Raises `ProcessGone`, `ProcessHidden`."""
        return Stat(self._read(f"{pid}/stat", _LONGEST_LINE))

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
        length = self._read_into(f"{pid}/cmdline", room)
        if length == len(room):
            room = Wiped(_LONGEST_ARGUMENTS)
            length = self._read_into(f"{pid}/cmdline", room)
        return Arguments.in_cmdline(Wiped(memoryview(room)[:length]))

    def user_name(self, pid: int) -> str:
        """The account whose rights it uses. In another machine's or container's `/proc`, only its number is known."""
        status = self._read(f"{pid}/status", 1 << 16)
        begin = status.index(b"\nUid:")
        effective = int(status[begin + 5 : status.index(b"\n", begin + 5)].split()[1])
        return account_name(effective) if self.shows_our_namespace else str(effective)

    def link(self, pid: int, name: str) -> str | None:
        """Where a link of its folder points."""
        try:
            return os.readlink(f"{pid}/{name}", dir_fd=self._open())
        except OSError:
            return None

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
            text = self._read(f"{pid}/io", 512)
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

    def _open(self) -> int:
        if self._folder is None:
            try:
                self._folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as exc:
                raise self._cannot_list(exc) from exc
        return self._folder

    def _list(self, folder: int) -> list[str]:
        try:
            return os.listdir(folder)
        except OSError as exc:
            raise self._cannot_list(exc) from exc

    def _cannot_list(self, exc: OSError) -> SourceError:
        text = f"{self.path} cannot be listed: {exc.strerror}"
        if exc.errno in _HIDDEN:
            return SourceAccessDenied(text)
        if exc.errno in (errno.ENOENT, errno.ENOTDIR):
            return SourceMissing(text)
        return SourceBroken(text)

    def _hidden_or_gone(self, exc: OSError) -> bool:
        """Whether the process may not be read; False for one that ended. Anything else ends the look."""
        if exc.errno in _GONE:
            return False
        if exc.errno in _HIDDEN:
            return True
        # Out of file descriptors, for example: a shortened answer would say that runs have ended.
        raise SourceBroken(f"a process in {self.path} cannot be read: {exc.strerror}") from exc

    def _is_ours(self, name: bytes) -> bool:
        if len(self._ours) >= _NAMES_REMEMBERED:
            self._ours.clear()
        ours = self._ours[name] = by_kernel_name(os.fsdecode(name)) is not NameSays.NOTHING
        return ours

    def _read(self, name: str, limit: int) -> bytes:
        return self._with(name, lambda file: os.read(file, limit))

    def _read_into(self, name: str, room: Wiped) -> int:
        """How much there was. Nothing of it is anywhere else."""

        def fill(file: int) -> int:
            length = part = os.readv(file, [room])
            # The kernel gives long arguments in pieces.
            while part > 4000 and length < len(room):
                part = os.readv(file, [memoryview(room)[length:]])
                length += part
            return length

        return self._with(name, fill)

    def _with(self, name: str, read: Callable[[int], T]) -> T:
        """What `read` makes of an open file. Raises `ProcessGone`, `ProcessHidden`."""
        try:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._open())
            try:
                return read(file)
            finally:
                os.close(file)
        except OSError as exc:
            if self._hidden_or_gone(exc):
                raise ProcessHidden(f"{self.path / name} may not be read") from exc
            raise ProcessGone(f"{self.path / name} is gone") from exc

    def _signal(self, seen: Sighting, number: signal.Signals) -> None:
        if not self.shows_our_namespace:
            raise StopUnsupported(
                f"{self.path} shows processes of another PID namespace than the exporter's, so a pid there cannot be"
                " signalled from here; run the exporter in the machine's PID namespace"
            )
        self._check_identity(seen)
        try:
            # The descriptor holds on to the process: from here on its pid cannot become another's.
            handle = os.pidfd_open(seen.pid)
        except OSError as exc:
            if exc.errno in _GONE:
                raise NoSuchExecution(f"process {seen.pid} has ended") from exc
            if exc.errno not in (errno.ENOSYS, errno.EPERM):
                raise StopFailed(f"process {seen.pid} was not signalled: {exc.strerror}") from exc
            self._send(seen, number, None)
            return
        try:
            self._check_identity(seen)
            self._send(seen, number, handle)
        finally:
            os.close(handle)

    def _send(self, seen: Sighting, number: signal.Signals, handle: int | None) -> None:
        try:
            if handle is None:
                os.kill(seen.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError as exc:
            raise NoSuchExecution(f"process {seen.pid} has ended") from exc
        except PermissionError as exc:
            raise StopDenied(
                f"the exporter's account may not signal process {seen.pid}: run the exporter as the account of the"
                " package or as root, or grant it CAP_KILL"
            ) from exc
        except OSError as exc:
            raise StopFailed(f"process {seen.pid} was not signalled: {exc.strerror}") from exc

    def _check_identity(self, seen: Sighting) -> None:
        """Raises unless the process is still the one that was seen."""
        try:
            stat = self.read_stat(seen.pid)
            now = stat.sighting()
        except ProcessGone as exc:
            raise NoSuchExecution(f"process {seen.pid} has ended") from exc
        except (ProcessHidden, SourceError, ValueError, IndexError) as exc:
            raise IdentityUnknown(f"the start time of process {seen.pid} cannot be read, so nothing was done") from exc
        if now.start != seen.start:
            raise NoSuchExecution(f"process {seen.pid} has ended; the pid is another process's now")
        if not stat.is_running:
            raise NoSuchExecution(f"process {seen.pid} has ended")
        if now.name != seen.name or (now.image and seen.image and now.image != seen.image):
            raise NoSuchExecution(f"process {seen.pid} has become another program")
