"""
Every error that is raised on purpose.

::

    SsisExporterError
    ├── ConfigError                 a configuration that cannot be used; one sentence
    ├── MissingExtra                an optional dependency is not installed
    ├── ListenError                 an address that cannot be listened on
    ├── StorageError                a file of the exporter's own that cannot be used; `reason` is a label value
    │   ├── StorageInUse            in_use          another exporter works with this folder
    │   ├── StorageDamaged          damaged         it does not hold what was written to it
    │   ├── StorageTooNew           too_new         a later version of the exporter wrote it
    │   ├── StorageFull             full
    │   ├── StorageReadOnly         read_only
    │   └── StorageLocked           locked          another program holds it
    ├── TooManyPending              as many nominations are being worked on as may be; nothing was taken
    ├── AlertmanagerError           Alertmanager could not be asked, or does not know what it was asked for
    ├── ServiceError                a running service that does not do what a command asks of it
    ├── SourceError                 a source could not answer; `reason` is a label value
    │   ├── SourceUnreachable       unreachable
    │   ├── SourceTimeout           timeout
    │   ├── SourceAccessDenied      access_denied
    │   ├── SourceLoginFailed       login_failed
    │   ├── SourceMissing           missing         database, assembly or service is not there
    │   └── SourceBroken            broken          answered what it must not, or failed in a way nobody foresaw
    └── StopError                   a request to stop that was not carried out
        ├── NoSuchExecution         it has ended meanwhile: ordinary
        ├── IdentityUnknown         it cannot be proved that this is the run that was meant
        ├── NotAsked                the source could not be reached before it was asked
        ├── StopDenied              the source refuses this account
        ├── StopUnsupported         the source has no such way to stop
        └── StopFailed              asked, and the source said that it failed
"""

from __future__ import annotations

from typing import ClassVar


class SsisExporterError(Exception):
    """Base of all errors raised on purpose; its text is one sentence for an operator."""


class ConfigError(SsisExporterError):
    """A configuration that cannot be used. The sentence names file, line, key and what would be right."""


class MissingExtra(ConfigError):
    """What was asked for needs an optional dependency that is not installed."""

    def __init__(self, *, what: str, extra: str, module: str) -> None:
        super().__init__(f"{what} needs {module}, which is not installed; run: pip install 'ssis-exporter[{extra}]'")
        self.extra = extra


class ListenError(SsisExporterError):
    """An address that cannot be listened on."""


class StorageError(SsisExporterError):
    """A file of the exporter's own that cannot be read or written. Nothing of what was asked for was written."""

    reason: ClassVar[str] = "failed"
    """The value of the label `reason` in `ssis_storage_errors_total`."""


class StorageInUse(StorageError):
    """Another exporter works with this folder."""

    reason = "in_use"


class StorageDamaged(StorageError):
    """The file does not hold what was written to it; an operator has to acknowledge that before it is used again."""

    reason = "damaged"


class StorageTooNew(StorageError):
    """A later version of the exporter wrote the file, and this one cannot know what it means."""

    reason = "too_new"


class StorageFull(StorageError):
    """There is no room left."""

    reason = "full"


class StorageReadOnly(StorageError):
    """The account may not write there, or nobody may."""

    reason = "read_only"


class StorageLocked(StorageError):
    """Another program holds the file and did not let go in time."""

    reason = "locked"


class StorageSlow(StorageError):
    """The disk has not answered for long; what was begun before waits for it, and nothing else is begun."""

    reason = "timeout"


STORAGE_ERROR_REASONS: tuple[str, ...] = (
    StorageError.reason,
    StorageInUse.reason,
    StorageDamaged.reason,
    StorageTooNew.reason,
    StorageFull.reason,
    StorageReadOnly.reason,
    StorageLocked.reason,
    StorageSlow.reason,
)
"""Every value of the label `reason`, so that each counter starts at 0."""


class TooManyPending(SsisExporterError):
    """As many nominations are being worked on as may be. Nothing of the message was taken: it has to come again."""


class AlertmanagerError(SsisExporterError):
    """Alertmanager could not be asked, or does not know what it was asked for."""


class ServiceError(SsisExporterError):
    """A running service that does not do what a command asks of it."""


class SourceError(SsisExporterError):
    """A source could not answer. An empty answer is never used to say so."""

    reason: ClassVar[str] = "broken"
    """The value of the label `reason` in `ssis_scrape_errors_total`."""

    remedy: str = ""
    """What to install, grant or change, where the source knows; for `check`. May hold several lines."""


class SourceUnreachable(SourceError):
    """Nobody answered at the other end."""

    reason = "unreachable"


class SourceTimeout(SourceError):
    """The source did not answer in time."""

    reason = "timeout"


class SourceAccessDenied(SourceError):
    """The account may not look."""

    reason = "access_denied"


class SourceLoginFailed(SourceError):
    """The account may not log in."""

    reason = "login_failed"


class SourceMissing(SourceError):
    """What is to be read is not there: database, assembly, service, `/proc`."""

    reason = "missing"


class SourceBroken(SourceError):
    """The source answered what it must not, or failed in a way that nobody foresaw."""

    reason = "broken"


SOURCE_ERROR_REASONS: tuple[str, ...] = (
    SourceUnreachable.reason,
    SourceTimeout.reason,
    SourceAccessDenied.reason,
    SourceLoginFailed.reason,
    SourceMissing.reason,
    SourceBroken.reason,
)
"""Every value of the label `reason`, so that each counter starts at 0."""


class StopError(SsisExporterError):
    """A request to stop that was not carried out."""


class NoSuchExecution(StopError):
    """The run has ended meanwhile. Ordinary: handled, not logged as an error."""


class IdentityUnknown(StopError):
    """It cannot be proved that this is the run that was meant; nothing was done."""


class NotAsked(StopError):
    """The source could not be reached, or did not answer, before it was asked: nothing was done."""


class StopDenied(StopError):
    """The source refuses this account; nothing was done. The sentence says what to grant."""


class StopUnsupported(StopError):
    """The source has no such way to stop (on Windows a process can only be ended, not asked); nothing was done."""


class StopFailed(StopError):
    """The source was asked and said that it failed."""
