"""Signals a process of Linux, after checking in that moment that it is still the one that was seen."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

from ssis_exporter.errors import IdentityUnknown, NoSuchExecution, SourceError, StopDenied, StopFailed
from ssis_exporter.sources.dtexec.capabilities import SIGNAL_OTHERS, has_capability
from ssis_exporter.sources.dtexec.processes import ProcessGone, ProcessHidden, Sighting
from ssis_exporter.sources.dtexec.statline import Stat

_GONE = (errno.ENOENT, errno.ESRCH)


def may_signal_others() -> bool:
    """By the capability; root without it (in a container) may not."""
    may = has_capability(SIGNAL_OTHERS)
    return os.geteuid() == 0 if may is None else may


def send(seen: Sighting, number: signal.Signals, read_stat: Callable[[int], Stat]) -> None:
    """
    Sends the signal to the process that was seen, and to no other. `read_stat` reads a process's line now.

    Raises `NoSuchExecution`, `IdentityUnknown`, `StopDenied`, `StopFailed`.
    """
    _check_identity(seen, read_stat)
    try:
        # The descriptor holds on to the process: from here on its pid cannot become another's.
        handle = os.pidfd_open(seen.pid)
    except OSError as exc:
        if exc.errno in _GONE:
            raise NoSuchExecution(f"process {seen.pid} has ended") from exc
        if exc.errno not in (errno.ENOSYS, errno.EPERM):
            raise StopFailed(f"process {seen.pid} was not signalled: {exc.strerror}") from exc
        _send(seen, number, None)
        return
    try:
        _check_identity(seen, read_stat)
        _send(seen, number, handle)
    finally:
        os.close(handle)


def _send(seen: Sighting, number: signal.Signals, handle: int | None) -> None:
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


def _check_identity(seen: Sighting, read_stat: Callable[[int], Stat]) -> None:
    """Raises unless the process is still the one that was seen."""
    try:
        stat = read_stat(seen.pid)
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
