"""Ties a helper's life to the exporter's, so that none survives it, whatever ended it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """
    In the helper: asks the kernel to end this process when the thread that started it ends (Linux, prctl(2)).

    On Windows the exporter's job object does it. Elsewhere only the end of standard input tells the helper.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # The parent ended before the request was made.
        os._exit(0)


class Lifeline:
    """In the exporter: what a started helper is tied to. On Windows a job object that ends what it holds."""

    def __init__(self) -> None:
        self._job: Any = None
        if sys.platform == "win32":
            self._job = _make_job()

    def tie(self, process: subprocess.Popen[bytes]) -> None:
        """Ties a process to this line; it ends with it."""
        if sys.platform == "win32":
            _assign(self._job, int(process._handle))  # type: ignore[attr-defined]  # noqa: SLF001 - the only way to its handle

    def close(self) -> None:
        """Lets go; what is tied ends (Windows). May be called twice."""
        if sys.platform == "win32" and self._job is not None:
            ctypes.windll.kernel32.CloseHandle(self._job)
            self._job = None


def start_options() -> dict[str, Any]:
    """What `subprocess.Popen` needs here: on Windows no console window, and Ctrl-C stays the exporter's."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    # Ctrl-C in a terminal goes to the whole group; the exporter decides when its helper ends.
    return {"process_group": 0}


if sys.platform == "win32":
    from ctypes import wintypes

    _KILL_ON_JOB_CLOSE = 0x2000
    _EXTENDED_LIMIT_INFORMATION = 9

    class _BasicLimits(ctypes.Structure):
        _fields_ = (
            ("PerProcessUserTimeLimit", ctypes.c_int64),
            ("PerJobUserTimeLimit", ctypes.c_int64),
            ("LimitFlags", wintypes.DWORD),
            ("MinimumWorkingSetSize", ctypes.c_size_t),
            ("MaximumWorkingSetSize", ctypes.c_size_t),
            ("ActiveProcessLimit", wintypes.DWORD),
            ("Affinity", ctypes.c_size_t),
            ("PriorityClass", wintypes.DWORD),
            ("SchedulingClass", wintypes.DWORD),
        )

    class _ExtendedLimits(ctypes.Structure):
        _fields_ = (
            ("BasicLimitInformation", _BasicLimits),
            ("IoInfo", ctypes.c_uint64 * 6),
            ("ProcessMemoryLimit", ctypes.c_size_t),
            ("JobMemoryLimit", ctypes.c_size_t),
            ("PeakProcessMemoryUsed", ctypes.c_size_t),
            ("PeakJobMemoryUsed", ctypes.c_size_t),
        )

    def _kernel32() -> Any:
        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel32.CreateJobObjectW.restype = wintypes.HANDLE
        kernel32.SetInformationJobObject.argtypes = (wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD)
        kernel32.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
        return kernel32

    def _make_job() -> Any:
        kernel32 = _kernel32()
        job = kernel32.CreateJobObjectW(None, None)
        limits = _ExtendedLimits()
        limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
        size = ctypes.sizeof(limits)
        if not job or not kernel32.SetInformationJobObject(
            job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), size
        ):
            raise ctypes.WinError(ctypes.get_last_error())
        return job

    def _assign(job: Any, handle: int) -> None:
        if not _kernel32().AssignProcessToJobObject(job, handle):
            raise ctypes.WinError(ctypes.get_last_error())
