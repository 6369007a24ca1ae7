"""What a run is called: by the package's file where one can be read, else by the command line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ssis_exporter.sources.dtexec.arguments import Arguments
from ssis_exporter.sources.dtexec.commandline import PackageCall, Place, read_arguments
from ssis_exporter.sources.dtexec.packagefile import (
    FileUnreadable,
    PackageFile,
    PackageFiles,
    path_as_seen_by,
    read_command_file,
)
from ssis_exporter.sources.dtexec.patience import Patience, TookTooLong
from ssis_exporter.sources.dtexec.processes import Details
from ssis_exporter.sources.dtexec.programs import last_step

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageNames:
    """How the labels name a package."""

    package_name: str
    folder: str = ""
    project: str = ""
    package_id: str = ""
    description: str = ""


class Naming:
    """Reads files, unless told not to, and never for longer than its patience lasts."""

    def __init__(self, files: PackageFiles, patience: Patience, *, reads_files: bool = True) -> None:
        self._files = files
        self._patience = patience
        self._reads_files = reads_files

    def renew(self) -> None:
        """A new look begins, with new patience."""
        self._patience.renew()

    def close(self) -> None:
        """Lets go of the thread that reads; may be called twice."""
        self._patience.close()

    def call(self, arguments: Arguments, details: Details) -> PackageCall | None:
        """
        What the arguments run here.

        A command file is read although it may hold secrets: without it the run would be shown, and judged by the
        rules for stopping, under no name or a wrong one. As on the command line, everything in it but the package
        is dropped at once.
        """

        def expand(path: str) -> Arguments | None:
            own = self._path(path, details)
            return self._ask(own, lambda: read_command_file(own or "")) if own is not None else None

        return read_arguments(arguments, expand)

    def names(self, call: PackageCall, details: Details) -> PackageNames:
        """The names, at once or after a little patience."""
        match call.place:
            case Place.FILE:
                path = self._path(call.path, details)
                found = self._ask(path, lambda: self._files.package(path or ""))
                return _named(found, without_ending(last_step(call.path), ".dtsx"))
            case Place.PROJECT:
                path = self._path(call.path, details)
                found = self._ask(path, lambda: self._files.package_in_project(path or "", call.package))
                project = without_ending(last_step(call.path), ".ispac")
                return _named(found, without_ending(last_step(call.package), ".dtsx"), project=project)
            case Place.SQL | Place.DTS:
                folder, _, name = call.path.replace("/", "\\").rpartition("\\")
                return PackageNames(package_name=without_ending(name, ".dtsx"), folder=folder)
            case Place.UNKNOWN:
                return PackageNames(package_name="")

    def _path(self, path: str, details: Details) -> str | None:
        if not self._reads_files or not details.shares_our_files or not path:
            return None
        return path_as_seen_by(path, details.folder)

    def _ask(self, path: str | None, ask: Callable[[], T]) -> T | None:
        if path is None:
            return None
        try:
            return self._patience.ask(ask)
        except FileUnreadable as exc:
            log.debug("a package is named by its command line: %s", exc)
        except TookTooLong:
            log.debug("a package is named by its command line: %s was not read in time", path)
        except Exception as exc:  # noqa: BLE001 - a file that anybody may write must not blind a look at all runs
            # Only its kind: the text may hold what stands in the file.
            log.warning("a package is named by its command line: reading %s failed: %s", path, type(exc).__name__)
        return None


def without_ending(name: str, ending: str) -> str:
    """`Load.DTSX` is `Load`."""
    return name[: -len(ending)] if name.lower().endswith(ending) else name


def _named(found: PackageFile | None, name: str, *, project: str = "") -> PackageNames:
    if found is None:
        return PackageNames(package_name=name, project=project)
    return PackageNames(
        package_name=found.name or name,
        project=project,
        package_id=found.package_id,
        description=found.description,
    )
