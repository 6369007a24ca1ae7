"""The processes of a Linux machine, from `/proc` read directly."""

from __future__ import annotations

import signal
import time
from functools import cached_property
from pathlib import Path

from ssis_exporter.errors import SourceMissing, StopUnsupported
from ssis_exporter.sources.dtexec.census import CensusTaker
from ssis_exporter.sources.dtexec.linuxlook import LinuxLook
from ssis_exporter.sources.dtexec.linuxprocesses import LinuxProcesses
from ssis_exporter.sources.dtexec.processes import ProcessTable, Sighting
from ssis_exporter.sources.dtexec.sight import what_is_seen
from ssis_exporter.sources.dtexec.signalling import may_signal_others, send


class LinuxTable(LinuxProcesses, ProcessTable):
    """Reads a `/proc`: this machine's, or one that was mounted into a container."""

    def __init__(self, path: Path = Path("/proc")) -> None:
        super().__init__(path)
        self._census = CensusTaker(self._files)

    def look(self) -> LinuxLook:
        """Lists the processes and reads of each its name, and of ours the line."""
        census = self._census.take()
        if not census.kin:
            # What is open may have been unmounted, and mounted again.
            self._files.close()
            raise SourceMissing(f"{self.path} shows no process, not even this one: is it a mounted proc file system?")
        visibility = what_is_seen(self.path, hidden=census.hidden, shows_our_namespace=self.shows_our_namespace)
        return LinuxLook(self, map(self.whole, census.lines), census.kin, visibility)

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
        """By the capability."""
        return may_signal_others()

    def close(self) -> None:
        """Closes the folder."""
        self._files.close()

    def _signal(self, seen: Sighting, number: signal.Signals) -> None:
        if not self.shows_our_namespace:
            raise StopUnsupported(
                f"{self.path} shows processes of another PID namespace than the exporter's, so a pid there cannot be"
                " signalled from here; run the exporter in the machine's PID namespace"
            )
        send(seen, number, self.read_stat)
