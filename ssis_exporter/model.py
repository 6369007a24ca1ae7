"""The values that travel between the parts: what runs, what a source saw, what became of a stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from ssis_exporter.errors import SourceError


class ExecutionStatus(StrEnum):
    """Where an open execution stands; the catalog's own words for its codes 1, 5, 2 and 8."""

    CREATED = "created"
    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"

    @property
    def is_active(self) -> bool:
        """Whether package code may be running: running, or asked to stop and not yet gone."""
        return self in (ExecutionStatus.RUNNING, ExecutionStatus.STOPPING)


class Result(StrEnum):
    """How an execution ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    STOPPED_BY_EXPORTER = "stopped_by_exporter"
    ENDED_UNEXPECTEDLY = "ended_unexpectedly"
    COMPLETED = "completed"
    UNKNOWN = "unknown"


class Scope(StrEnum):
    """How much of what runs the exporter's account can see."""

    ALL = "all"
    PARTIAL = "partial"
    OWN = "own"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Visibility:
    """What the account can see, read in the same round trip as the runs."""

    scope: Scope
    detail: str = ""
    """What the scope rests on (roles, grants, mount options); equal details mean equal rights."""

    def proves_end_of_what_was_seen_under(self, then: Visibility) -> bool:
        """
        Whether a run that was seen under `then` and is not seen now has ended.

        A run that vanished together with the right to see it has not: only full sight, or exactly the sight
        that showed it, proves an end.
        """
        return self.scope is Scope.ALL or (self == then and self.scope in (Scope.PARTIAL, Scope.OWN))


@dataclass(frozen=True, slots=True)
class ExecutionKey:
    """Names one run, for ever: no other run of the same source ever has this key."""

    source: str
    """The source's configured name; unique in a configuration."""

    instance_id: str
    """The catalog's execution_id, the managed API's InstanceID, or PID-STARTTICKS-BOOTID of a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionFacts:
    """What does not change in one run. Sources read it once and hand out the same object at every look."""

    key: ExecutionKey
    package_name: str
    """Without `.dtsx`; as the source tells it, not yet cleaned for labels."""

    folder: str = ""
    project: str = ""
    package_id: str = ""
    """The package's own GUID in braces and upper case, equal in all its runs; empty when nothing tells it."""

    user_name: str = ""
    """The account that the package runs as."""

    created_at: datetime | None = None
    """When it was created in the catalog (before its start); aware, in UTC."""

    started_at: datetime | None = None
    """When it began; aware, in UTC. None for one that has not begun."""

    start_uncertain: bool = False
    """Two instants fit what the source says (the hour that comes twice in autumn); `started_at` is the later one."""

    machine: str = ""
    process_id: int | None = None
    """The process that hosts it, on `machine`."""

    description: str = ""
    environment: str = ""
    caller: str = ""
    """The account that started it, where that is not the one it runs as."""

    host: str = ""
    """The program that hosts it: `dtexec`, `dtshost`, `ISServerExec`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the host process of a run and its children use. None where it could not be read."""

    cpu_time: timedelta | None = None
    """User and system time together; never falls, also when a child ends."""

    resident_bytes: int | None = None
    read_bytes: int | None = None
    """Bytes that reached storage; never falls."""

    written_bytes: int | None = None
    """Bytes that reached storage; never falls."""

    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFlow:
    """A run's live data-flow counters (`catalog.dm_execution_performance_counters`)."""

    rows_read: int | None = None
    rows_written: int | None = None
    buffers_in_use: int | None = None
    buffers_spooled: int | None = None
    buffer_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One open run of one package, as a source saw it at one moment."""

    facts: ExecutionFacts
    status: ExecutionStatus
    duration: timedelta = timedelta()
    """Now minus start by the source's own clock; never negative."""

    stopping_since: datetime | None = None
    """When the source was first known to be stopping it; aware, in UTC."""

    known_since: datetime | None = None
    """
    By this machine's clock, before when nothing that was said under its name can have been about it: it had not begun,
    or its source was another one. Told where a stop is decided (`sight`); None where `started_at` says it all.
    """

    orphaned: bool = False
    """The source's record says it runs and its host process is gone for certain."""

    figures: Figures | None = None
    data_flow: DataFlow | None = None

    @property
    def key(self) -> ExecutionKey:
        """Names this run, for ever, within its source."""
        return self.facts.key


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedExecution:
    """A run that ended, as the source itself records it."""

    facts: ExecutionFacts
    result: Result
    ended_at: datetime
    """Aware, in UTC."""

    duration: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProcess:
    """A process that may host packages without saying so (`ISServerExec`, `DTExecUI`, `DtsDebugHost`)."""

    program: str
    process_id: int
    started_at: datetime
    user_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What a source is. Facts that become known by connecting are empty until then."""

    kind: str
    server: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    Everything one source saw at one moment.

    An empty `executions` means "nothing is running", never "I could not tell": a source that cannot tell raises.
    """

    source: str
    taken_at: datetime
    """By the source's own clock; aware, in UTC."""

    visibility: Visibility
    executions: tuple[Execution, ...] = ()
    """All open runs, each key once, in no particular order."""

    ended: tuple[EndedExecution, ...] = ()
    """Runs that the source itself records as ended since the look before; the same run may come again."""

    records_ends: bool = False
    """Whether the source itself records how runs end (`ended`); otherwise a run that vanished has ended somehow."""

    bookmark: str = ""
    """
    Where a later start goes on reading ends (`Source.resume`): all that ended before it has been reported.

    A source that records ends gives one with each snapshot, but while it knows of an end that it has still to report:
    until then its missing runs are taken for open.
    """

    clock_ahead: timedelta | None = None
    """How far this machine's clock is ahead of the source's; None where that is this machine's own."""

    set_forward: tuple[tuple[datetime, timedelta], ...] = ()
    """When the source's own clock was set forward: what it showed right before, and by how much at least."""

    same_since: datetime | None = None
    """
    By this machine's clock, since when the source leads to what it leads to now; before, it was another one (another
    server under that address, a restore), and what is not here says nothing of it. None where that is not known.
    """

    incomplete: bool = False
    """The first fill is not done: what is here is a lower bound."""

    host_processes: tuple[HostProcess, ...] | None = None
    """None where the source does not look at processes."""

    ambiguous: int | None = None
    """Runs that two sources may both have seen; None where the source cannot meet another."""

    shown_elsewhere: frozenset[str] = frozenset()
    """Instance ids of runs that live and are shown by another source: not among `executions`, and not ended."""

    hosts_without_row: int | None = None
    """Host processes for which the source's record has no open run; None where the source keeps no record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one scrape got from one source: its snapshot, or why there is none."""

    source: str
    info: SourceInfo
    outcome: Snapshot | SourceError
    took: timedelta
    """How long this scrape waited for the source."""

    timed_out: bool = False
    """The call was still running at the scrape's deadline."""


class StopReply(StrEnum):
    """What a source answered to a request to stop."""

    ACCEPTED = "accepted"
    """Asked; whether it ended is for a later look to tell."""

    ALREADY_STOPPING = "already_stopping"
    """Somebody asked before; nothing was asked again."""


class FindingLevel(StrEnum):
    """How much a finding of `check` matters."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence of `ssis-exporter check` about a source."""

    level: FindingLevel
    text: str
    remedy: str = ""
    """What to install, grant or change; may hold several lines (T-SQL to copy)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nomination:
    """A run that somebody asks to have stopped: an alert, or a person at the command line."""

    key: ExecutionKey
    package_name: str | None = None
    """What the asker believes; a difference refuses, never selects. None where nothing was said."""

    folder: str | None = None
    project: str | None = None
    asked_since: datetime | None = None
    """An alert's `startsAt`; one that began before the run did is about another run."""

    origin: str = ""
    """Who asks, for the ledger: `alertmanager RECEIVER FINGERPRINT`, `operator NAME`."""

    labels: dict[str, str] = field(default_factory=dict)
    """All labels of the alert, for the ledger only."""


class StopMode(StrEnum):
    """What becomes of a nomination that a rule allows."""

    OFF = "off"
    """Nothing; every nomination is refused."""

    DRY_RUN = "dry-run"
    """It is recorded that the run would have been stopped."""

    ARMED = "armed"
    """The run is stopped."""


class StopOutcome(StrEnum):
    """What became of a nomination; the label `outcome` of `ssis_stop_requests_total`."""

    STOPPED = "stopped"
    """It was asked to stop, and a later look proved that it is gone."""

    ALREADY_ENDED = "already_ended"
    """It was gone before it was asked, and the look proves it."""

    REFUSED = "refused"
    WOULD_STOP = "would_stop"
    """A dry run came as far as the request."""

    UNCONFIRMED = "unconfirmed"
    """It was asked, or may have been, and nothing proves that it is gone."""

    FAILED = "failed"
    """The source would not, could not, or ended the host process in vain."""

    EXPIRED = "expired"
    """Until its time was up nobody could look."""

    VETOED = "vetoed"
    """Before the request the alert was resolved or silenced, or all stopping was put on hold."""

    ROW_STUCK = "row_stuck"
    """Its host process is gone and the source's record still says that it runs."""


class RefusalReason(StrEnum):
    """Why a nomination was refused; the label `reason` of `ssis_stop_refusals_total`."""

    # At the door.
    OFF = "off"
    HELD = "held"
    INVALID_LABEL = "invalid_label"
    UNKNOWN_SOURCE = "unknown_source"
    CANNOT_STOP = "cannot_stop"
    TOO_MANY_RUNS = "too_many_runs"

    # The nomination does not fit the run.
    IDENTITY_CHANGED = "identity_changed"
    AMBIGUOUS = "ambiguous"
    PACKAGE_DIFFERS = "package_differs"
    FOLDER_DIFFERS = "folder_differs"
    PROJECT_DIFFERS = "project_differs"
    ALERT_BEFORE_RUN = "alert_before_run"
    START_UNKNOWN = "start_unknown"

    # There is nothing to stop.
    NO_SUCH_RUN = "no_such_run"
    NOT_RUNNING = "not_running"
    ALREADY_STOPPING = "already_stopping"
    ORPHANED = "orphaned"

    # The rules.
    NEVER = "never"
    NO_RULE = "no_rule"
    TOO_YOUNG = "too_young"
    NO_HISTORY = "no_history"
    NOT_OVERDUE = "not_overdue"
    OUTSIDE_HOURS = "outside_hours"
    BREAKER_OPEN = "breaker_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is known of a nomination now."""

    key: ExecutionKey
    outcome: StopOutcome | None = None
    """None while it is being worked on: it is on disk and comes to an outcome."""

    reason: RefusalReason | None = None
    """Given when it was refused."""

    rule: str = ""
    """The rule that decided; empty where none did."""

    text: str = ""
    """One sentence for a person."""

    repeated: bool = False
    """This run was nominated before, and that nomination is being worked on or is final."""
