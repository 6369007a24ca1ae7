"""The folder of the exporter's own files: owned by one process, and nothing in it is lost by a crash."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import IO

from ssis_exporter.errors import StorageError, StorageFull, StorageInUse, StorageReadOnly

_LOCKED_BYTE = 4096
"""Far behind the process id that stands in the lock file: on Windows a locked byte cannot be read by others."""


class Storage:
    """The folder of `--storage.path`. One `serve` at a time owns it, for as long as its process lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock_file: IO[bytes] | None = None
        self._claiming = threading.Lock()

    def claim(self) -> None:
        """
        Makes the folder and takes it, unless it is taken already.

        The lock is the operating system's, so a process that was killed leaves none behind. Raises `StorageInUse`
        when another exporter works here, `StorageReadOnly` and `StorageError` when nothing can be written. Each file
        of the folder does this on its own thread, before each thing it writes: without its name the lock keeps nobody
        out.
        """
        with self._claiming:
            if self._lock_file is not None and not _is_at(self._lock_file, self.folder / "lock"):
                self.release()
            if self._lock_file is None:
                self._claim()

    def _claim(self) -> None:
        path = self.folder / "lock"
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock_file = path.open("a+b")  # it stays open for as long as the folder is owned
        except PermissionError as exc:
            raise StorageReadOnly(f"nothing can be written to {self.folder}: {exc.strerror}") from exc
        except OSError as exc:
            raise from_os_error(f"{self.folder} cannot be used", exc) from exc
        try:
            _lock(lock_file)
        except OSError as exc:
            lock_file.close()
            owner = _owner(path)
            raise StorageInUse(
                f"another ssis-exporter{owner} works with {self.folder}; end it, or give another --storage.path"
            ) from exc
        self._lock_file = lock_file
        # For the sentence above only, so a disk too full for it does not matter.
        with contextlib.suppress(OSError):
            lock_file.truncate(0)
            lock_file.write(str(os.getpid()).encode())
            lock_file.flush()

    def release(self) -> None:
        """Gives the folder back; may be called twice."""
        if self._lock_file is not None:
            with contextlib.suppress(OSError):
                self._lock_file.close()
            self._lock_file = None


if sys.platform == "win32":
    import msvcrt

    def _lock(lock_file: IO[bytes]) -> None:
        lock_file.seek(_LOCKED_BYTE)
        msvcrt.locking(lock_file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(lock_file: IO[bytes]) -> None:
        # flock, not lockf: a lock of the second kind is lost as soon as this process closes the file anywhere else.
        fcntl.flock(lock_file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the open file still is the one of this name. On Windows nobody can take it away."""
    try:
        return sys.platform == "win32" or os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _owner(path: Path) -> str:
    try:
        number = path.read_bytes()[:20].decode("ascii", errors="replace").strip()
    except OSError:
        return ""
    return f" (process {number})" if number.isdecimal() else ""


def set_aside(path: Path, now: datetime) -> Path | None:
    """
    Renames a file and its log out of the way, for good. Nobody may have it open.

    Returns the new name; None when there was nothing. Raises `StorageError`.
    """
    suffix = f".damaged-{now:%Y%m%dT%H%M%S%f}Z"
    moved = None
    try:
        # The log first: a crash in between leaves a file without its log, which is damaged still or says less.
        for one in (log_of(path), path.with_name(path.name + "-shm"), path):
            if one.exists():
                moved = one.rename(one.with_name(one.name + suffix))
        sync_folder(path.parent)
    except OSError as exc:
        raise from_os_error(f"{path} cannot be set aside", exc) from exc
    return moved


def replace_file(path: Path, content: bytes) -> None:
    """Puts a whole file in place, on disk when it returns. Raises `StorageError`."""
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(path.parent)
    except OSError as exc:
        raise from_os_error(f"{path} cannot be written", exc) from exc


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder last. Windows has no such call; it keeps names in its own journal."""
    if sys.platform == "win32":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def log_of(path: Path) -> Path:
    """SQLite's write-ahead log beside a file."""
    return path.with_name(path.name + "-wal")


def from_os_error(what: str, exc: OSError) -> StorageError:
    sentence = f"{what}: {exc.strerror}"
    if exc.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return StorageFull(sentence)
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageReadOnly(sentence)
    return StorageError(sentence)
