"""What a source of executions promises: it can be read; some can also be asked to stop a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Self

import msgspec

from ssis_exporter.errors import SourceError, StopUnsupported
from ssis_exporter.model import EndedExecution, Execution, Finding, FindingLevel, Snapshot, SourceInfo, StopReply


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The keys of one entry under `sources:` beside `name` and `kind`. A kind with keys of its own derives from this.

    Fields of type `timedelta` are written as durations (`30s`, `5m`, `1h30m`).
    """

    time_limit: timedelta = timedelta(seconds=10)
    """How long one call to the source may take, for sources that can enforce it."""


class Source(ABC):
    """
    Knows where packages run, and is the only code that touches a driver.

    All methods but the constructor, `info`, `check_files` and `give_up` are called on one thread, the source's worker,
    one call at a time. The constructor opens nothing and must return at once; what `snapshot` needs it opens itself and
    keeps.
    """

    kind: ClassVar[str]
    """The word for it in the configuration."""

    Settings: ClassVar[type[SourceSettings]] = SourceSettings

    asked_within: timedelta | None = None
    """
    How long the scrape waits that asks for this look; set before each `snapshot`, None where it is not for a scrape.

    A peer that says nothing for so long need not be waited for: the next scrape will ask again, on a new connection.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def from_settings(cls, name: str, settings: Any) -> Self:
        """
        Makes the source from its validated settings (an instance of `cls.Settings`).

        Raises `ConfigError` for what only the source can judge, `MissingExtra` where its driver is not installed.
        """
        del settings
        return cls(name)

    @property
    def info(self) -> SourceInfo:
        """What this source is; may be read from any thread, also while a call runs."""
        return SourceInfo(kind=self.kind)

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """
        Looks, now. All open runs and what the account could see, from one round trip.

        Raises `SourceError` whenever it could not look; it never returns an empty or shortened answer instead.
        """

    def resume(self, bookmark: str, open_ids: Collection[str]) -> None:  # noqa: B027 - most sources record nothing
        """
        Goes on where an earlier life of the exporter ended; called before the first `snapshot`.

        `bookmark` is that of the last snapshot that was kept, `open_ids` the runs that were open in it: the next
        snapshots report in `ended` what ended since then. A source that records no ends has nothing to do.
        """

    def check_files(self) -> None:  # noqa: B027 - most sources name none
        """
        Reads the files that its settings name and that are read anew while it works, such as a password.

        Opens nothing else. Raises `ConfigError` for one that cannot be used.
        """

    def check(self) -> Sequence[Finding]:
        """What `ssis-exporter check` says about this source; looks once by default. Never raises `SourceError`."""
        try:
            seen = self.snapshot()
        except SourceError as exc:
            return [Finding(level=FindingLevel.PROBLEM, text=str(exc))]
        text = f"{len(seen.executions)} open executions; the account sees: {seen.visibility.scope}"
        return [Finding(level=FindingLevel.OK, text=text)]

    def give_up(self) -> None:  # noqa: B027 - most sources cannot
        """
        Nobody waits any more for the call that runs, and none comes after it but `close`: lets it fail at once.

        Called from another thread, while a call runs. A request to stop is let be, for it may have been heard.
        """

    def close(self) -> None:  # noqa: B027 - most sources have nothing to let go of
        """Lets go of what was opened; may be called twice, and before anything was opened."""


class RecordingSource(Source):
    """A source that keeps records of runs that ended long ago."""

    @abstractmethod
    def past(self, cursor: str) -> tuple[Sequence[EndedExecution], str | None]:
        """
        A small piece of the record, newest first: what ended, and the cursor of the next piece (None: that was all).

        The first cursor is empty. One call takes a fraction of a second. Raises `SourceError`.
        """

    def first_error(self, instance_id: str) -> str:
        """The first error message of a run that failed; empty where there is none. Raises `SourceError`."""
        del instance_id
        return ""

    def has_record_of(self, instance_id: str) -> bool:
        """
        Whether there is or ever was a run of this name, as far as the record goes back. Raises `SourceError`.

        A source that cannot look for one run says no: what ended is then known only to who saw it.
        """
        del instance_id
        return False


class StoppableSource(Source):
    """A source that can be asked to stop one run."""

    objection: Callable[[], str | None] | None = None
    """
    What says against acting in this moment, if anything does (a hold, a rule). Set around each request to stop, and
    asked before it. A source that takes long before it acts asks once more, and then raises `NotAsked`.
    """

    can_force_stop: ClassVar[bool] = False
    """Whether `force_stop` does anything."""

    tells_stopping: ClassVar[bool] = False
    """
    Whether a run that was asked to stop shows as `stopping` at every later look until it is gone, whoever asked and
    whoever looks, and also after a restart of the exporter.

    Only then is a run that still shows as `running` asked once more when the exporter was ended in the moment of
    asking. A process does not show which signals it was sent, so it is never sent a second one.
    """

    @abstractmethod
    def request_stop(self, execution: Execution) -> StopReply:
        """
        Asks for this run, and no other, to stop. The identity is checked again in the moment before acting.

        Returns when the request was handed over; whether the run ended, a later `snapshot` tells. Raises
        `NoSuchExecution`, `IdentityUnknown`, `StopDenied`, `StopUnsupported`, `StopFailed`; `NotAsked` when it is
        certain that the request was not made; and `SourceError` when nobody can say whether it arrived.
        """

    def force_stop(self, execution: Execution) -> StopReply:
        """
        Ends the host process of this run on this machine, after checking its identity again. Only for escalation.

        Raises as `request_stop` does; `StopUnsupported` where there is no such way.
        """
        raise StopUnsupported(f"{self.name}: a source of kind {self.kind} cannot end {execution.key.instance_id}")

    def evidence(self, execution: Execution) -> Mapping[str, str]:
        """What the ledger should keep of this run before it is stopped (running task, last messages). Best effort."""
        del execution
        return {}
