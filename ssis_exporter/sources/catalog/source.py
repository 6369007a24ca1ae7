"""The `catalog` source: the runs of one server's SSISDB."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Self

from ssis_exporter.errors import (
    ConfigError,
    IdentityUnknown,
    NotAsked,
    SourceBroken,
    SourceError,
    SourceUnreachable,
    SsisExporterError,
    StopFailed,
)
from ssis_exporter.extras import need
from ssis_exporter.model import (
    DataFlow,
    EndedExecution,
    Execution,
    ExecutionStatus,
    Finding,
    FindingLevel,
    Scope,
    Snapshot,
    SourceInfo,
    StopReply,
)
from ssis_exporter.sources.catalog.checking import findings, trouble
from ssis_exporter.sources.catalog.counters import Counters
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.executions import executions_of
from ssis_exporter.sources.catalog.hosts import LocalHosts, make_local_hosts
from ssis_exporter.sources.catalog.identity import check_identity, check_password
from ssis_exporter.sources.catalog.look import Looker, Seen
from ssis_exporter.sources.catalog.memory import LOOKBACK, Bookmark, Memory, OpenRun
from ssis_exporter.sources.catalog.patience import Patience
from ssis_exporter.sources.catalog.session import CatalogSession
from ssis_exporter.sources.catalog.settings import CatalogSettings
from ssis_exporter.sources.catalog.stop import Stop, check_name
from ssis_exporter.sources.catalog.troubles import ROWS_MOVED, ServerError, as_source_error
from ssis_exporter.sources.interface import RecordingSource, StoppableSource

log = logging.getLogger(__name__)

LARGEST_ID = 2**63 - 1
STOPPING_CODE = 8
LONGEST_SILENCE = 0.75
"""
Of the time that a scrape waits: so long the server may say nothing. A scrape that comes right after a network was
mended may have to wait for a connection that is dead; the rest of its time is for a new one.
"""

SHORTEST_SILENCE = timedelta(seconds=0.3)
"""It may be silent for so long, however soon a scrape wants its answer."""

LONGEST_MESSAGE = 500
"""Characters of a message that go into the ledger."""


class CatalogSource(RecordingSource, StoppableSource):
    """Runs of the SSISDB catalog (SQL Server 2012 and later), read and stopped by T-SQL."""

    kind: ClassVar[str] = "catalog"
    tells_stopping: ClassVar[bool] = True
    can_force_stop: ClassVar[bool] = True
    Settings: ClassVar[type[CatalogSettings]] = CatalogSettings

    def __init__(
        self,
        name: str,
        settings: CatalogSettings,
        *,
        lookback: int = LOOKBACK,
        hosts: LocalHosts | None = None,
        patience: Patience | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(name)
        self._settings = settings
        self._now = now
        self._monotonic = monotonic
        self._pause = pause
        self._about = f"{name}: {settings.address}"
        self._session: CatalogSession | None = None
        self._is_down = False
        """Whether the newest call failed. What nobody waits for then leaves the server to the next look."""
        self._looker = Looker(name, Memory(name, lookback=lookback), monotonic=monotonic)
        self._patience = patience or Patience(monotonic=monotonic, jitter=random.random)
        self._hosts = hosts if hosts is not None else make_local_hosts()
        self._counters = Counters(name, self._connect, monotonic=monotonic)
        self._info = SourceInfo(kind=self.kind, server=str(settings.address))
        self._same_before: datetime | None = None
        """Since when the catalog has been this one, as far as an earlier life knew."""
        self._noted: tuple[float, datetime] | None = None
        """When it was found to be another one: by the clock that nobody can set, and what a later life is told."""

    @classmethod
    def from_settings(cls, name: str, settings: Any) -> Self:
        """Raises `ConfigError` for what cannot work here, `MissingExtra` without the driver."""
        assert isinstance(settings, CatalogSettings)
        need("pytds", extra="catalog", what=f"the source {name}")
        if settings.encrypt:
            need("OpenSSL", extra="catalog", what=f"the source {name} (encrypt: true)")
        check_identity(settings)
        source = cls(name, settings)
        # Now, so that a ca_file that cannot be read is a sentence at start.
        source._tls_context()
        return source

    @property
    def info(self) -> SourceInfo:
        """The server as configured; its version once it was reached."""
        return self._info

    def snapshot(self) -> Snapshot:
        """The open runs now, and the runs that ended since the look before."""
        deadline = self._deadline()
        with self._telling():
            session, seen = self._look(deadline)
            here = self._now()
            memory, bookmark = self._looker.memory, self._bookmark(here)
            hosts = self._hosts.look(memory.open, session.server, all_known=not memory.is_incomplete)
            flows = self._data_flows(deadline)
            return Snapshot(
                source=self.name,
                taken_at=seen.now,
                visibility=seen.visibility,
                executions=executions_of(memory.open, seen.now, hosts, flows),
                hosts_without_row=None if hosts is None else hosts.without_row,
                ended=seen.ended,
                records_ends=True,
                bookmark="" if bookmark is None else str(bookmark),
                clock_ahead=here - seen.now,
                set_forward=self._looker.set_forward,
                same_since=self._same_since(here),
                incomplete=memory.is_incomplete,
            )

    def resume(self, bookmark: str, open_ids: Collection[str]) -> None:
        """Goes on after the ends that an earlier life reported, where the catalog is the same one still."""
        point = Bookmark.parse(bookmark)
        if point is not None:
            # One that lies ahead was noted by a clock that was wrong then; no alert would ever be younger.
            self._same_before = None if point.same_since is None else min(point.same_since, self._now())
            self._looker.memory.resume(point, [int(number) for number in open_ids if number.isdecimal()])

    def past(self, cursor: str) -> tuple[Sequence[EndedExecution], str | None]:
        """The newest ended runs below the id in `cursor`."""
        deadline = self._deadline()
        with self._telling():
            queries = self._open_if_up(deadline).queries
            rows = queries.past(int(cursor) if cursor.isdecimal() else LARGEST_ID, deadline)
            now = datetime.now(UTC)
            ended = [
                row.ended(row.facts(self.name), now) for row in rows if not row.is_open and row.end_time is not None
            ]
            return ended, str(rows[-1].execution_id) if rows else None

    def first_error(self, instance_id: str) -> str:
        """The first error in `catalog.event_messages`."""
        deadline = self._deadline()
        with self._telling():
            return self._open_if_up(deadline).queries.first_error(int(instance_id), deadline)

    def has_record_of(self, instance_id: str) -> bool:
        """Asks for the one row. The catalog keeps it for its retention period, a year if nobody changed that."""
        is_number = instance_id.isascii() and instance_id.isdecimal() and len(instance_id) <= len(str(LARGEST_ID))
        if not is_number or int(instance_id) > LARGEST_ID:
            return False
        deadline = self._deadline()
        with self._telling():
            rows = self._open(deadline).queries.by_id([int(instance_id)], deadline, committed=True)
            if any(row.is_open for row in rows):
                raise SourceBroken(f"{self._about}: execution {instance_id} is open, and no look has shown it yet")
            return bool(rows)

    def request_stop(self, execution: Execution) -> StopReply:
        """Calls `catalog.stop_operation`, after looking at the committed row in the same session."""
        stop: Stop | None = None
        try:
            with self._stopping(execution) as (_, stop):
                return stop.request()
        except SourceError as exc:
            if stop is not None and stop.was_made:
                raise
            raise NotAsked(str(exc)) from exc

    def force_stop(self, execution: Execution) -> StopReply:
        """Ends the run's ISServerExec on this machine, if the catalog shows it as stopping."""
        with self._stopping(execution) as (session, stop):
            row = stop.look()
            if row.status != STOPPING_CODE:
                raise StopFailed(f"{self.name}: execution {row.execution_id} was not asked to stop yet")
            memory = self._looker.memory
            if memory.is_incomplete:
                raise IdentityUnknown(f"{self.name}: not all runs are known, and one of them may have its process")
            stop.check_objection()
            self._hosts.end(row.facts(self.name), session.server, open_runs=memory.open)
            return StopReply.ACCEPTED

    def evidence(self, execution: Execution) -> Mapping[str, str]:
        """The newest messages of the run, and who started it."""
        facts = execution.facts
        kept = {"caller": facts.caller or facts.user_name, "environment": facts.environment}
        deadline = self._deadline()
        with self._telling():
            messages = self._open(deadline).queries.last_messages(int(execution.key.instance_id), deadline)
        for place, (moment, component, text) in enumerate(messages, start=1):
            kept[f"message {place}"] = f"{moment.isoformat()} {component or ''}: {(text or '')[:LONGEST_MESSAGE]}"
        return {name: text for name, text in kept.items() if text}

    def check_files(self) -> None:
        """The password, which each login reads anew."""
        check_password(self._settings)

    def check(self) -> Sequence[Finding]:
        """Reachability, rights, whether it could stop, and what to grant."""
        try:
            self.check_files()
        except ConfigError as exc:
            return [Finding(level=FindingLevel.PROBLEM, text=str(exc))]
        try:
            deadline = self._deadline()
            with self._telling():
                session = self._open(deadline)
                # Not asked for the highest id: for a login that sees only its own runs that may take for ever.
                place = session.queries.place_alone(0, deadline)
                open_runs = ""
                if place.rights.visibility.scope is Scope.ALL:
                    self._looker.look(session.queries, deadline)
                    memory = self._looker.memory
                    open_runs = f"{'at least ' if memory.fill is not None else ''}{len(memory.open)}"
                return list(findings(self._settings, session, place, open_runs))
        except SourceError as exc:
            return [trouble(self._settings, exc)]

    def close(self) -> None:
        """Closes the connection."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._counters.close()

    def _deadline(self) -> Deadline:
        """For a look, and for whatever a scrape may have to wait for."""
        asked = self.asked_within
        silence = None if asked is None else max(asked * LONGEST_SILENCE, SHORTEST_SILENCE)
        return Deadline(self._settings.time_limit, silence=silence, monotonic=self._monotonic)

    def _same_since(self, here: datetime) -> datetime | None:
        """By this machine's clock, which shows `here` now."""
        at = self._looker.became_another_at
        return self._same_before if at is None else here - timedelta(seconds=self._monotonic() - at)

    def _bookmark(self, here: datetime) -> Bookmark | None:
        """With one moment for one change: another text at each look would be written to the disk at each look."""
        bookmark, at = self._looker.memory.bookmark, self._looker.became_another_at
        same_since = self._same_since(here)
        if at is not None and same_since is not None:
            if self._noted is None or self._noted[0] != at:
                self._noted = at, same_since
            same_since = self._noted[1]
        return None if bookmark is None else replace(bookmark, same_since=same_since)

    def _data_flows(self, deadline: Deadline) -> dict[int, DataFlow]:
        if not self._settings.performance_counters:
            return {}
        running = [
            (execution_id, run)
            for execution_id, run in self._looker.memory.open.items()
            if run.status is ExecutionStatus.RUNNING
        ]
        longest = sorted(running, key=lambda item: _start(item[1]))
        return self._counters.read([execution_id for execution_id, _ in longest], deadline)

    def _tls_context(self) -> Any:
        """As `ca_file` is now. Raises `ConfigError` where it cannot be used."""
        if not self._settings.encrypt:
            return None
        from ssis_exporter.sources.catalog.encryption import make_context  # noqa: PLC0415 - loads OpenSSL

        ca_file = self._settings.ca_file
        return make_context(
            ca_file=ca_file,
            ca_written=ca_file.stat().st_mtime_ns if ca_file is not None and ca_file.exists() else 0,
            verify_host=self._settings.verify_host,
            verify_certificate=self._settings.verify_certificate,
        )

    def _look(self, deadline: Deadline) -> tuple[CatalogSession, Seen]:
        kept = self._session
        session = self._open(deadline)
        try:
            return session, self._looker.look(session.queries, deadline)
        except Exception as exc:
            # A connection that was kept may have died since the last look: the server was restarted, failed over, was
            # restored. That is no trouble of this look; nor are rows that moved while they were read.
            is_dead = session is kept and isinstance(as_source_error(exc, about=""), SourceUnreachable)
            if not is_dead and not (isinstance(exc, ServerError) and exc.number == ROWS_MOVED):
                raise
            log.debug("source %s: looking once more on a new connection: %s", self.name, exc)
            self.close()
            session = self._open(deadline)
            return session, self._looker.look(session.queries, deadline)

    def _open(self, deadline: Deadline) -> CatalogSession:
        if self._session is not None and self._session.is_open:
            return self._session
        wait = self._patience.wait()
        if wait > 0:
            self._pause(min(wait, deadline.wait / 2))
        try:
            session = self._connect(deadline)
        except BaseException:
            self._patience.failed()
            raise
        self._patience.succeeded()
        self._session = session
        if not self._info.version:
            mute = "; it can stop nothing: logins of SQL Server are refused (error 27123)"
            who = session.server.login + (mute if session.server.cannot_stop else "")
            log.info("source %s: SQL Server %s, logged in as %s", self.name, session.version, who)
        self._info = SourceInfo(kind=self.kind, server=str(self._settings.address), version=session.version)
        return session

    def _open_if_up(self, deadline: Deadline) -> CatalogSession:
        """For what nobody waits for: it would only hold up the look that finds out whether the server is back."""
        if self._is_down:
            raise SourceUnreachable("it is left alone until it answers somebody who waits")
        return self._open(deadline)

    def _connect(self, deadline: Deadline) -> CatalogSession:
        try:
            tls = self._tls_context()
        except ConfigError as exc:
            raise SourceBroken(str(exc)) from exc
        return CatalogSession(self._settings, tls, deadline)

    @contextlib.contextmanager
    def _stopping(self, execution: Execution) -> Iterator[tuple[CatalogSession, Stop]]:
        """A session of its own: other settings, and rights as they are now."""
        check_name(execution, self.name)
        # Not cut short by the wish of a scrape: nobody could say whether the request arrived.
        deadline = Deadline(self._settings.time_limit, monotonic=self._monotonic)
        with self._telling():
            session = self._connect(deadline)
            try:
                yield (
                    session,
                    Stop(
                        session,
                        execution,
                        source=self.name,
                        database=self._settings.database,
                        deadline=deadline,
                        pause=self._pause,
                        objection=self.objection,
                    ),
                )
            finally:
                session.close()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Turns whatever goes wrong into a `SourceError`; a connection that failed is not used again."""
        try:
            yield
            self._is_down = False
        except Exception as exc:
            if isinstance(exc, SsisExporterError) and not isinstance(exc, SourceError):
                raise
            self._is_down = True
            self.close()
            raise as_source_error(exc, about=self._about) from exc


def _start(run: OpenRun) -> datetime:
    return run.facts.started_at or datetime.max.replace(tzinfo=UTC)
