"""Reads files below a `/proc`; what cannot be read is gone, hidden, or ends the look."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ssis_exporter.errors import SourceAccessDenied, SourceBroken, SourceError, SourceMissing
from ssis_exporter.sources.dtexec.arguments import Wiped
from ssis_exporter.sources.dtexec.processes import ProcessGone, ProcessHidden

T = TypeVar("T")

_GONE = (errno.ENOENT, errno.ESRCH)
_HIDDEN = (errno.EACCES, errno.EPERM)


class ProcFiles:
    """Keeps the folder open, so that a name has few steps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder: int | None = None

    def folder(self) -> int:
        """The folder's descriptor. Raises `SourceError`."""
        if self._folder is None:
            try:
                self._folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as exc:
                raise self.cannot_list(exc) from exc
        return self._folder

    def entries(self) -> list[os.DirEntry[str]]:
        """What the folder holds, all of it. Raises `SourceError`."""
        folder = self.folder()
        try:
            with os.scandir(folder) as found:
                return list(found)
        except OSError as exc:
            self.close()
            raise self.cannot_list(exc) from exc

    def read(self, name: str, limit: int) -> bytes:
        """The first bytes of a file. Raises `ProcessGone`, `ProcessHidden`, and `SourceBroken` for anything else."""
        return self._with(name, lambda file: os.read(file, limit))

    def read_into(self, name: str, room: Wiped) -> int:
        """How much there was. Nothing of it is anywhere else. Raises as `read`."""

        def fill(file: int) -> int:
            length = part = os.readv(file, [room])
            # The kernel gives long arguments in pieces.
            while part > 4000 and length < len(room):
                part = os.readv(file, [memoryview(room)[length:]])
                length += part
            return length

        return self._with(name, fill)

    def link(self, name: str) -> str | None:
        """Where a link points; None where that cannot be told."""
        try:
            return os.readlink(name, dir_fd=self.folder())
        except OSError:
            return None

    def close(self) -> None:
        """Closes the folder; it is opened again when it is needed."""
        folder, self._folder = self._folder, None
        if folder is not None:
            os.close(folder)

    def is_hidden(self, exc: OSError) -> bool:
        """Whether a process may not be read; False for one that ended. Anything else ends the look."""
        if exc.errno in _GONE:
            return False
        if exc.errno in _HIDDEN:
            return True
        # Out of file descriptors, for example: a shortened answer would say that runs have ended.
        raise SourceBroken(f"a process in {self.path} cannot be read: {exc.strerror}") from exc

    def cannot_list(self, exc: OSError) -> SourceError:
        """Why there is nothing to look at."""
        text = f"{self.path} cannot be listed: {exc.strerror}"
        if exc.errno in _HIDDEN:
            return SourceAccessDenied(text)
        if exc.errno in (errno.ENOENT, errno.ENOTDIR):
            return SourceMissing(text)
        return SourceBroken(text)

    def _with(self, name: str, read: Callable[[int], T]) -> T:
        """What `read` makes of an open file."""
        try:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.folder())
            try:
                return read(file)
            finally:
                os.close(file)
        except OSError as exc:
            if self.is_hidden(exc):
                raise ProcessHidden(f"{self.path / name} may not be read") from exc
            raise ProcessGone(f"{self.path / name} is gone") from exc
