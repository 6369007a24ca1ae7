"""The demo estate as a source: puts a clock, names and values of ours around the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Self

import msgspec

from ssis_exporter.errors import IdentityUnknown, NoSuchExecution, SourceBroken, SourceUnreachable, StopFailed
from ssis_exporter.model import (
    DataFlow,
    EndedExecution,
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Figures,
    HostProcess,
    Scope,
    Snapshot,
    SourceInfo,
    StopReply,
    Visibility,
)
from ssis_exporter.sources.demo.estate import Estate
from ssis_exporter.sources.demo.packages import DOMAIN, HOUR, MINUTE
from ssis_exporter.sources.demo.runs import Run
from ssis_exporter.sources.interface import RecordingSource, SourceSettings, StoppableSource

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)

# A look may be lost (its scrape gave up) or go to a stop instead of a scrape, so what ended is told again for a while.
_TOLD_AGAIN_FOR = timedelta(minutes=5)
_TOLD_AGAIN_AT_MOST = 2000

_PACKAGES_A_PIECE = 50

_TROUBLE_LASTS = 5 * MINUTE
_UNREACHABLE_AT = 50 * MINUTE
_SIGHT_LOST_AT = 110 * MINUTE


class DemoSettings(SourceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a `demo` source."""

    seed: int = 1
    """Equal seeds make equal estates."""

    speed: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 1.0
    """How many times faster than in real life everything happens."""

    packages: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 40
    """How many packages the estate has; a quarter or so of them run at any moment."""

    troubles: bool = False
    """Every two (simulated) hours the source is unreachable for five minutes, and loses its right to see for five."""


@dataclass(slots=True)
class _Known:
    """What was made of an open run once, to be handed out again at every look."""

    facts: ExecutionFacts
    host_process: HostProcess | None = None


class DemoSource(RecordingSource, StoppableSource):
    """
    An estate made up in memory.

    It begins at the first look, and with the seed everything in it is settled: which package runs when, for how long
    and how each run ends. Only a stop changes anything, and only the run that it names.

    All times are the clock's own. `speed` makes things happen faster: at speed 60 a package that usually takes an
    hour takes a minute, began when the clock says so, and reports a duration of a minute. So `time()` minus a start is
    the duration at every speed, nothing lies in the future, and rules meant for the estate divide their durations by
    the speed. Rows and bytes of a run stay those of its whole life; CPU time shrinks with it.

    Instance ids count up from the moment of the first look, in microseconds, so that a second demo with the same seed
    does not use those of the first again: a ledger that remembers them keeps being right.
    """

    kind: ClassVar[str] = "demo"
    Settings: ClassVar[type[SourceSettings]] = DemoSettings
    can_force_stop: ClassVar[bool] = True
    tells_stopping: ClassVar[bool] = True

    def __init__(
        self, name: str, settings: DemoSettings | None = None, *, now: Callable[[], datetime] | None = None
    ) -> None:
        super().__init__(name)
        self._settings = settings if settings is not None else DemoSettings()
        self._now = now if now is not None else lambda: datetime.now(UTC)
        self._estate: Estate | None = None
        self._origin = _EPOCH
        self._last_look = _EPOCH
        self._first_id = 0
        self._known: dict[int, _Known] = {}
        self._untold: list[EndedExecution] = []
        self._told: deque[EndedExecution] = deque()

    @classmethod
    def from_settings(cls, name: str, settings: Any) -> Self:
        """Makes it; the estate itself begins at the first look."""
        return cls(name, settings)

    @property
    def info(self) -> SourceInfo:
        """Says that it is made up."""
        return SourceInfo(kind=self.kind, server="demo.example.com", version="made up")

    def snapshot(self) -> Snapshot:
        """Everything open in the estate now. Raises `SourceUnreachable` while the estate has that trouble."""
        estate = self._let_time_pass()
        runs = list(estate.open.values())
        visibility = Visibility(Scope.ALL, "made up")
        if self._has_trouble(estate, _SIGHT_LOST_AT):
            sees = estate.packages[0].user_name
            visibility = Visibility(Scope.OWN, f"made up: sees the runs of {sees}")
            runs = [run for run in runs if run.package.user_name == sees]
            ended: tuple[EndedExecution, ...] = ()
        else:
            ended = self._tell_ended()
        executions = tuple([self._execution(run, estate.now) for run in runs])
        return Snapshot(
            source=self.name,
            taken_at=self._last_look,
            visibility=visibility,
            executions=executions,
            ended=ended,
            records_ends=True,
            bookmark=str(self._first_id),
            host_processes=self._host_processes(runs, estate.now),
            ambiguous=0,
            hosts_without_row=0,
        )

    def past(self, cursor: str) -> tuple[Sequence[EndedExecution], str | None]:
        """The last runs of some packages before the estate began; the cursor is the number of the next package."""
        estate = self._let_time_pass()
        first = int(cursor) if cursor.isdecimal() and len(cursor) < 10 else 0
        following = first + _PACKAGES_A_PIECE
        runs = [run for package in estate.packages[first:following] for run in estate.past(package.index)]
        ended = [self._ended_as(run, self._facts(run, has_begun=True)) for run in runs]
        ended.sort(key=lambda one: one.ended_at, reverse=True)
        return ended, str(following) if following < len(estate.packages) else None

    def first_error(self, instance_id: str) -> str:
        """What a package says when it fails."""
        return f"Data Flow Task: the destination refused a row of run {instance_id} (made up)"

    def has_record_of(self, instance_id: str) -> bool:
        """The made-up record forgets nothing."""
        estate = self._let_time_pass()
        number = self._number(instance_id)
        if number in estate.open:
            raise SourceBroken(f"{self.name}: run {instance_id} is open, and no look has shown it yet")
        return number is not None and estate.has_made(number)

    def request_stop(self, execution: Execution) -> StopReply:
        """Asks; most runs end a few (simulated) seconds later, one in ten stays `stopping` for long."""
        estate = self._let_time_pass()
        run = self._find(estate, execution)
        status = run.status(estate.now)
        if status is ExecutionStatus.STOPPING:
            return StopReply.ALREADY_STOPPING
        if status is not ExecutionStatus.RUNNING:
            raise StopFailed(f"{self.name}: {execution.key.instance_id} is {status} and has no process yet")
        if run.is_orphaned(estate.now):
            raise StopFailed(f"{self.name}: the process of {execution.key.instance_id} was not found")
        estate.ask_to_stop(run)
        return StopReply.ACCEPTED

    def force_stop(self, execution: Execution) -> StopReply:
        """Ends the host; for three runs in four the record goes with it, else it stays behind as an orphan's."""
        estate = self._let_time_pass()
        run = self._find(estate, execution)
        if not run.status(estate.now).is_active or run.is_orphaned(estate.now):
            raise StopFailed(f"{self.name}: {execution.key.instance_id} has no process")
        estate.end_host(run)
        return StopReply.ACCEPTED

    def evidence(self, execution: Execution) -> Mapping[str, str]:
        """What a catalog would tell: the task that runs and its last message."""
        name = execution.facts.package_name
        return {
            "task": f"\\{name}\\Data Flow Task",
            "last_message": f"{name}: the buffer manager has allocated memory for 12 buffers (made up)",
        }

    def _let_time_pass(self) -> Estate:
        # A clock that is set back must make nothing younger: the estate stands still until it has caught up.
        now = self._last_look = max(self._now(), self._last_look)
        if self._estate is None:
            self._origin = now
            self._first_id = (now - _EPOCH) // timedelta(microseconds=1)
            self._estate = Estate(seed=self._settings.seed, packages=self._settings.packages)
            self._estate.advance(0.0)  # what ended before the demo began is nobody's business
        simulated = (now - self._origin).total_seconds() * self._settings.speed
        self._untold += [self._ended(run) for run in self._estate.advance(simulated)]
        if self._has_trouble(self._estate, _UNREACHABLE_AT):
            raise SourceUnreachable(f"{self.name}: the made-up server does not answer")
        return self._estate

    def _has_trouble(self, estate: Estate, at: float) -> bool:
        return self._settings.troubles and at <= estate.now % (2 * HOUR) < at + _TROUBLE_LASTS

    def _find(self, estate: Estate, execution: Execution) -> Run:
        instance_id = execution.key.instance_id
        number = self._number(instance_id)
        run = estate.open.get(number) if number is not None else None
        if run is None:
            raise NoSuchExecution(f"{self.name}: no run {instance_id}")
        facts = self._remember(run, estate.now).facts
        # Who saw it before it began knows neither its start nor its process; all else must be the same.
        if execution.facts not in (facts, replace(facts, started_at=None, process_id=None)):
            raise IdentityUnknown(f"{self.name}: run {instance_id} is not the one that was meant")
        return run

    def _number(self, instance_id: str) -> int | None:
        # int() takes more than we write, and refuses very long ones in a way of its own.
        is_ours = instance_id.isdecimal() and len(instance_id) < 20
        return int(instance_id) - self._first_id if is_ours else None

    def _clock(self, simulated: float) -> datetime:
        return self._origin + timedelta(seconds=simulated / self._settings.speed)

    def _remember(self, run: Run, at: float) -> _Known:
        has_begun = at >= run.plan.started
        known = self._known.get(run.number)
        if known is None:
            known = self._known[run.number] = _Known(self._facts(run, has_begun=has_begun))
        elif has_begun and known.facts.started_at is None:
            known.facts = self._facts(run, has_begun=True)
        return known

    def _facts(self, run: Run, *, has_begun: bool) -> ExecutionFacts:
        package = run.package
        return ExecutionFacts(
            key=ExecutionKey(self.name, str(self._first_id + run.number)),
            package_name=package.name,
            folder=package.folder,
            project=package.project,
            package_id=package.package_id,
            user_name=package.user_name,
            created_at=self._clock(run.plan.created),
            started_at=self._clock(run.plan.started) if has_begun else None,
            machine=package.machine,
            process_id=4000 + run.number * 4 % 60_000 if has_begun else None,
            description=f"{package.project}: {package.name} ({package.habit.value})",
            environment=package.environment,
            caller=package.caller,
            host=package.host,
        )

    def _execution(self, run: Run, at: float) -> Execution:
        facts = self._remember(run, at).facts
        duration = timedelta()
        if facts.started_at is not None:
            duration = max(self._last_look - facts.started_at, duration)
        orphaned = run.is_orphaned(at)
        figures = data_flow = None
        if facts.started_at is not None and not orphaned:
            figures, data_flow = self._usage(run, at)
        status = run.status(at)
        return Execution(
            facts=facts,
            status=status,
            duration=duration,
            stopping_since=self._clock(run.asked_to_stop) if status is ExecutionStatus.STOPPING else None,
            orphaned=orphaned,
            figures=figures,
            data_flow=data_flow,
        )

    def _usage(self, run: Run, at: float) -> tuple[Figures, DataFlow]:
        usage = run.usage(at)
        figures = Figures(
            cpu_time=timedelta(seconds=usage.cpu_seconds / self._settings.speed),
            resident_bytes=usage.resident_bytes,
            read_bytes=usage.read_bytes,
            written_bytes=usage.written_bytes,
            threads=usage.threads,
        )
        data_flow = DataFlow(
            rows_read=usage.rows_read,
            rows_written=usage.rows_written,
            buffers_in_use=usage.buffers_in_use,
            buffers_spooled=usage.buffers_spooled,
            buffer_memory_bytes=usage.buffer_memory_bytes,
        )
        return figures, data_flow

    def _ended(self, run: Run) -> EndedExecution:
        facts = self._remember(run, run.ends).facts
        del self._known[run.number]
        return self._ended_as(run, facts)

    def _ended_as(self, run: Run, facts: ExecutionFacts) -> EndedExecution:
        ended_at = self._clock(run.ends)
        duration = ended_at - facts.started_at if facts.started_at is not None else timedelta()
        return EndedExecution(facts=facts, result=run.result, ended_at=ended_at, duration=max(duration, timedelta()))

    def _tell_ended(self) -> tuple[EndedExecution, ...]:
        oldest = self._last_look - _TOLD_AGAIN_FOR
        while self._told and (self._told[0].ended_at < oldest or len(self._told) > _TOLD_AGAIN_AT_MOST):
            self._told.popleft()
        told = (*self._told, *self._untold)
        self._told.extend(self._untold)
        self._untold.clear()
        return told

    def _host_processes(self, runs: Sequence[Run], at: float) -> tuple[HostProcess, ...]:
        found = []
        for run in runs:
            if run.package.host != "ISServerExec" or run.is_orphaned(at):
                continue
            known = self._remember(run, at)
            if known.host_process is None and known.facts.started_at is not None:
                known.host_process = _host_process_of(known.facts)
            if known.host_process is not None:
                found.append(known.host_process)
        hour, into = divmod(at, HOUR)
        if into < 15 * MINUTE:
            # Somebody works at a package by hand, in the first quarter of every hour.
            since = self._clock(hour * HOUR)
            found.append(
                HostProcess(program="DTExecUI", process_id=3996, started_at=since, user_name=f"{DOMAIN}\\j.okafor")
            )
        return tuple(found)


def _host_process_of(facts: ExecutionFacts) -> HostProcess:
    assert facts.process_id is not None
    assert facts.started_at is not None
    return HostProcess(
        program=facts.host, process_id=facts.process_id, started_at=facts.started_at, user_name=facts.user_name
    )
