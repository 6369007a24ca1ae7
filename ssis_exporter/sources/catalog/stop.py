"""Asks the catalog to stop one run, and tells by error number, state and row what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ssis_exporter.errors import IdentityUnknown, NoSuchExecution, NotAsked, StopDenied, StopFailed
from ssis_exporter.model import Execution, Scope, StopReply
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.driver import Called
from ssis_exporter.sources.catalog.rights import grant_stopping
from ssis_exporter.sources.catalog.rows import OPEN, Row, same_run
from ssis_exporter.sources.catalog.session import CatalogSession
from ssis_exporter.sources.catalog.troubles import DEADLOCK_VICTIM, LOCK_TIMEOUT, ServerError

log = logging.getLogger(__name__)

SETTINGS = (
    # A stop is wanted: it waits for locks, and gives way to nobody more than others do.
    "SET NOCOUNT ON; SET LOCK_TIMEOUT 5000; SET DEADLOCK_PRIORITY NORMAL;"
    " SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
)

TRIES = 3
"""How often a refusal that passes by itself is met again before it is told."""

PAUSE = 0.5
"""Seconds between two tries."""

SQL_LOGIN = 27123
ALREADY_STOPPING = 27126
NOT_RUNNING = 27124
NO_PROCESS_YET = 27125

PASSING = {
    27112: "the row could not be updated",
    NO_PROCESS_YET: "the run has no process yet, or never got one",
    27195: "the server ran out of time",
    DEADLOCK_VICTIM: "the request gave way in a deadlock",
    LOCK_TIMEOUT: "the row is locked",
}
"""Refusals after which nothing was done and another try may succeed."""

NO_RIGHT = {
    27143: "the login may not access the operation",
    27153: "the login could not be given its rights on the stop's own row",
    27219: "the login may not run the procedure",
    229: "the login may not run the procedure",
    262: "the login lacks a right",
}

NOT_FOUND = {27103, 27105, 27124}
"""Unknown, not running, or not for this login to see: by itself never a proof that the run has ended."""

SERVERS_TROUBLE = {
    27100: "the procedure was given no id",
    27130: "the server could not impersonate the caller",
    27131: "the server could not start its process",
    27133: "the server could not wait for its process",
    27139: "the catalog is being configured",
    27218: "the server does not find the run's process; the row is an orphan",
    2812: "the database has no catalog.stop_operation",
}


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the procedure said when it did not accept."""

    number: int
    text: str


class Stop:
    """One request to stop one run, on a connection of its own."""

    def __init__(
        self,
        session: CatalogSession,
        execution: Execution,
        *,
        source: str,
        database: str,
        deadline: Deadline,
        pause: Callable[[float], None],
        objection: Callable[[], str | None] | None,
    ) -> None:
        self._session = session
        self._execution = execution
        self._source = source
        self._database = database
        self._deadline = deadline
        self._pause = pause
        self._objection = objection
        self._id = int(execution.key.instance_id)
        self.was_made = False
        """Whether the server may have heard the request."""

    def look(self) -> Row:
        """
        The run's row as it is committed now.

        Raises `NoSuchExecution` when it ended, `IdentityUnknown` unless it is the very run that was meant.
        """
        self._session.connection.batch(SETTINGS, self._deadline)
        return self._look()

    def request(self) -> StopReply:
        """
        Looks, asks, and looks again where the answer alone does not tell.

        Raises `StopError` where it was not carried out, `SourceError` (or what becomes one) where nobody can say.
        """
        row = self.look()
        if row.status == 8:
            return StopReply.ALREADY_STOPPING
        if row.status != 2:
            raise StopFailed(f"{self._named} has not begun yet ({OPEN[row.status]}); there is nothing to stop")
        for attempt in range(1, TRIES + 1):
            self.check_objection()
            self.was_made = True
            refusal = self._call()
            if refusal is None:
                return StopReply.ACCEPTED
            if refusal.number not in PASSING or attempt == TRIES:
                return self._judge(refusal)
            log.debug("%s: try %d to stop met %d: %s", self._named, attempt, refusal.number, refusal.text)
            self._pause(min(PAUSE, self._deadline.left))
        raise AssertionError("the last try returns or raises")

    def check_objection(self) -> None:
        """Right before acting, for connecting and looking may have taken a while. Raises `NotAsked`."""
        reason = self._objection() if self._objection is not None else None
        if reason is not None:
            raise NotAsked(reason)

    @property
    def _named(self) -> str:
        return f"{self._source}: execution {self._id}"

    def _look(self) -> Row:
        rows = self._session.queries.by_id([self._id], self._deadline, committed=True)
        if not rows:
            rights = self._session.queries.place(self._deadline).rights
            if rights.visibility.scope is Scope.ALL:
                raise NoSuchExecution(f"{self._named} is not in the catalog")
            raise IdentityUnknown(f"{self._named} is not shown to this login ({rights.visibility.detail})")
        row = rows[0]
        meant, there = self._execution.facts, row.facts(self._source)
        if not same_run(meant, there):
            raise IdentityUnknown(f"{self._named} is another run than the one that was seen")
        if meant.process_id is not None and row.process_id is not None and meant.process_id != row.process_id:
            raise IdentityUnknown(f"{self._named} is in another process than the one that was seen")
        if not row.is_open:
            raise NoSuchExecution(f"{self._named} has ended")
        return row

    def _call(self) -> _Refusal | None:
        try:
            called: Called = self._session.connection.call(
                "catalog.stop_operation", [("operation_id", "bigint", self._id)], self._deadline
            )
        except ServerError as exc:
            if exc.severity >= 20:
                # The session is gone, and with it the answer.
                raise
            return _Refusal(exc.number, exc.text)
        if called.errors:
            return _Refusal(called.errors[-1], called.text)
        if called.status not in (0, None):
            return _Refusal(0, f"catalog.stop_operation returned {called.status}")
        return None

    def _judge(self, refusal: _Refusal) -> StopReply:
        number, told = refusal.number, f"error {refusal.number}: {refusal.text}"
        if number == ALREADY_STOPPING:
            return StopReply.ALREADY_STOPPING
        if number == SQL_LOGIN:
            raise StopDenied(
                f"{self._named}: logins of SQL Server cannot stop (27123, sa included);"
                " use auth: windows, kerberos, or a domain account"
            )
        if number in NO_RIGHT:
            raise StopDenied(f"{self._named}: {NO_RIGHT[number]} ({told}); run:\n{self._grant()}")
        # Everything else is told by the row: _look raises when it ended, or is not the run that was meant.
        row = self._look()
        if number in NOT_FOUND:
            if row.status == 8:
                return StopReply.ALREADY_STOPPING
            if row.status == 2:
                raise StopDenied(
                    f"{self._named} runs, and the server denies it to this login ({told}); run:\n{self._grant()}"
                )
            raise StopFailed(f"{self._named} is {OPEN[row.status]} now ({told})")
        if number == 0 and row.status == 8:
            return StopReply.ACCEPTED
        reason = PASSING.get(number) or SERVERS_TROUBLE.get(number) or "the server refused"
        left = "; the row is left at stopping" if row.status == 8 else ""
        raise StopFailed(f"{self._named}: {reason} ({told}){left}")

    def _grant(self) -> str:
        return grant_stopping(self._session.server.user, self._database)


def check_name(execution: Execution, source: str) -> None:
    """Raises `NoSuchExecution` for what cannot be a run of this catalog at all."""
    instance_id = execution.key.instance_id
    is_number = instance_id.isascii() and instance_id.isdecimal() and not instance_id.startswith("0")
    if execution.key.source != source or not is_number or len(instance_id) > 18:
        raise NoSuchExecution(f"{source}: no execution {instance_id!r}")
