"""How much of what runs a Linux account sees: mount options of `/proc`, containers, and a test by behaviour."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ssis_exporter.model import Scope, Visibility
from ssis_exporter.sources.dtexec.capabilities import TRACE_OTHERS, has_capability

# PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h: the first PID namespace, the machine's own.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
_OCTAL = re.compile(r"\\([0-7]{3})")


def what_is_seen(proc: Path, *, hidden: int, shows_our_namespace: bool) -> Visibility:
    """
    What the account sees in this `/proc` now.

    `hidden` is how many processes were listed and could not be read (`hidepid=1`). With `hidepid=2` others' processes
    are not even listed; that pid 1, which always exists, cannot be found tells it. `shows_our_namespace` says that this
    `/proc` is of the exporter's own PID namespace.
    """
    owner = _owner_of_first(proc)
    if owner is None or (owner == os.geteuid() and not _may_trace() and hide_option(proc)):
        return Visibility(Scope.OWN, f"only its own processes are shown to this account in {proc} (hidepid)")
    if hidden:
        return Visibility(Scope.PARTIAL, f"some processes in {proc} may not be read by this account")
    if not _shows_the_machine(proc, shows_our_namespace=shows_our_namespace):
        return Visibility(Scope.PARTIAL, f"{proc} shows only a container's processes (its own PID namespace)")
    return Visibility(Scope.ALL, f"{proc} shows all processes")


def hide_option(proc: Path) -> bool:
    """Whether this `/proc` is mounted with `hidepid`."""
    hides = False
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    for line in mounts.splitlines():
        # 22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw,hidepid=invisible; proc_pid_mountinfo(5)
        mounted, _, kind = line.partition(" - ")
        fields, kind_fields = mounted.split(" "), kind.split(" ")
        if len(fields) > 4 and len(kind_fields) > 2 and _unescaped(fields[4]) == str(proc):
            # What was mounted last lies on top.
            option = next((text for text in kind_fields[2].split(",") if text.startswith("hidepid=")), "hidepid=0")
            hides = option not in ("hidepid=0", "hidepid=off")
    return hides


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _owner_of_first(proc: Path) -> int | None:
    """The account of pid 1; None where it cannot be seen, as there always is one."""
    first = proc / "1"
    try:
        (first / "stat").read_bytes()
        return first.stat().st_uid
    except OSError:
        return None


def _may_trace() -> bool:
    """Whether the capability that no `hidepid` hides anything from is there."""
    return has_capability(TRACE_OTHERS) is True


def _shows_the_machine(proc: Path, *, shows_our_namespace: bool) -> bool:
    try:
        return str((proc / "1/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
    except OSError:
        # Not everybody may ask that of the first process.
        return not (shows_our_namespace or proc == Path("/proc")) or _in_first_namespace()


def _in_first_namespace() -> bool:
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
    except OSError:
        # Nothing says that this is a container.
        return True
