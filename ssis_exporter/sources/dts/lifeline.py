"""Ties a helper's life to the exporter's, so that none survives it, whatever ended it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1

END_SECONDS = 10.0
"""How long a process that was ended may take to be gone; one that waits for a device takes longer."""


def end_with_parent(parent: int) -> None:
    """
    In the helper: asks the kernel to end this process when the **thread** that started it ends (Linux, prctl(2)).

    On Windows the exporter's job object does it. Elsewhere only the end of standard input tells the helper.
    """
    if sys.platform == "win32":
        # A crash is to end this process, not to open a box that waits for somebody to click.
        ctypes.windll.kernel32.SetErrorMode(_FAIL_CRITICAL_ERRORS | _NO_CRASH_BOX)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # The parent ended before the request was made.
            os._exit(0)


def start_options() -> dict[str, Any]:
    """What `subprocess.Popen` needs here: on Windows no console window, and Ctrl-C stays the exporter's."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    # Ctrl-C in a terminal goes to the whole group; the exporter decides when its helper ends. What the helper starts
    # is in this group, too, and ends with it.
    return {"process_group": 0}


class Lifeline:
    """
    In the exporter: what one started helper is tied to, with all that it starts itself.

    On Windows a job object. `python.exe` of a virtual environment only starts another Python: ending the process that
    was started would leave the one that counts.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Raises `OSError` where the process cannot be tied; it is then ended."""
        self._process = process
        if sys.platform == "win32":
            try:
                self._job: Any = _make_job(int(process._handle))  # type: ignore[attr-defined,unused-ignore]  # noqa: SLF001 - the only way to its handle
            except OSError:
                process.kill()
                process.wait()
                raise

    def has_ended(self) -> bool:
        """Whether the helper has ended by itself. Its process id stays its own until `end`."""
        if sys.platform == "win32" or not hasattr(os, "waitid"):
            return self._process.poll() is not None
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def end(self) -> int | None:
        """Ends the helper and what it started; its exit status, None where it does not end. Called once."""
        if sys.platform == "win32":
            kernel32 = _kernel32()
            kernel32.TerminateJobObject(self._job, 1)
            kernel32.CloseHandle(self._job)
        elif self._process.returncode is None:
            # Before anybody waited for it, so that no other process can have its number.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_SECONDS)
        return None


if sys.platform == "win32":
    from ctypes import wintypes

    _FAIL_CRITICAL_ERRORS = 0x1
    _NO_CRASH_BOX = 0x2
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
        kernel32.TerminateJobObject.argtypes = (wintypes.HANDLE, wintypes.UINT)
        kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
        return kernel32

    def _make_job(process: int) -> Any:
        """A job that ends its processes when its handle is closed, with this process in it. Raises `OSError`."""
        kernel32 = _kernel32()
        job = kernel32.CreateJobObjectW(None, None)
        limits = _ExtendedLimits()
        limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
        size = ctypes.sizeof(limits)
        if (
            not job
            or not kernel32.SetInformationJobObject(job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), size)
            or not kernel32.AssignProcessToJobObject(job, process)
        ):
            error = ctypes.WinError(ctypes.get_last_error())
            if job:
                kernel32.CloseHandle(job)
            raise error
        return job
