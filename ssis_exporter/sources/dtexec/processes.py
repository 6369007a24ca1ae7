"""What the source needs of an operating system's processes: the one interface behind which Linux and psutil stand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from ssis_exporter.errors import SsisExporterError
from ssis_exporter.model import Visibility
from ssis_exporter.sources.dtexec.arguments import Arguments


class ProcessGone(SsisExporterError):
    """The process ended, or became another one, while it was being read. Ordinary."""


class ProcessHidden(SsisExporterError):
    """The account may not read this process."""


class Sighting(NamedTuple):
    """A process that one look saw, of a program or a loader; equal as long as it is the same program's run."""

    pid: int
    start: int
    """When it began, in the system's own unit; with the pid it names the process until the next boot."""

    name: str
    """As the system has it: on Linux cut to 15 bytes."""

    image: int
    """Changes when the process becomes another program by `exec`; 0 where the system does not tell."""


class Usage(NamedTuple):
    """What one process uses. Times in seconds; None where it could not be read."""

    start: int
    """As in `Sighting`."""

    cpu: float
    """Its own user and system time."""

    reaped_cpu: float
    """That of its ended children which it has waited for."""

    resident_bytes: int
    threads: int
    read_bytes: int | None
    written_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What is read of a process once, when it is first seen."""

    arguments: Arguments = field(repr=False)
    user_name: str
    folder: str | None = None
    """Its working directory; None where it cannot be read."""

    shares_our_files: bool = True
    """Whether a path means the same file to it and to us; not so in a container or a changed root."""


class Look(ABC):
    """One pass over all processes."""

    visibility: Visibility
    sightings: Sequence[Sighting]
    """Every process, alive, whose name is a program's or a loader's."""

    count: int
    """How many processes there are."""

    @abstractmethod
    def details(self, seen: Sighting) -> Details:
        """
        The arguments and the rest, certain to be those of this sighting.

        Raises `ProcessGone` when it ended or changed meanwhile, `ProcessHidden` when it may not be read.
        """

    @abstractmethod
    def arguments(self, pid: int) -> Arguments | None:
        """The arguments a process has now; None where they cannot be read."""

    @abstractmethod
    def age(self, seen: Sighting) -> timedelta:
        """How long it had been running at this look; never negative, and not moved by the wall clock."""

    @abstractmethod
    def ancestors(self, pid: int) -> Iterable[int]:
        """Its parent, the parent's parent and so on."""

    @abstractmethod
    def descendants(self, pid: int) -> Sequence[int]:
        """All processes below it, ended ones that nobody waited for included."""

    @abstractmethod
    def usage(self, pid: int) -> Usage | None:
        """What it uses; None where it is gone or may not be read."""

    @abstractmethod
    def describe(self, pid: int) -> str:
        """Its name and processor time in a few words, for the evidence of a stop; never its arguments."""


class ProcessTable(ABC):
    """The processes of this machine, as far as the account sees them."""

    @abstractmethod
    def look(self) -> Look:
        """Reads all processes, now. Raises `SourceError` when they cannot be listed."""

    @property
    @abstractmethod
    def boot(self) -> str:
        """A short word for this boot of the machine, which no other boot has."""

    @abstractmethod
    def request_end(self, seen: Sighting) -> None:
        """
        Asks the process to end, after checking in that moment that it is still the one that was seen.

        Raises `NoSuchExecution`, `IdentityUnknown`, `StopDenied`, `StopUnsupported`, `StopFailed`.
        """

    @abstractmethod
    def end(self, seen: Sighting) -> None:
        """Ends it by force, after the same check; raises the same."""

    @abstractmethod
    def may_stop_others(self) -> bool:
        """Whether the account may stop processes of other accounts."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of what a look opened; may be called twice."""
