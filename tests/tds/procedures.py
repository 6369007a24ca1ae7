"""`catalog.stop_operation` as its page and its script tell it: who may, its answers by state, what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.tds.engine import Session, SqlError
from tests.tds.tables import Estate

TEXTS = {
    27100: "The value of parameter is NULL.",
    27103: "Cannot find the execution or you do not have permissions.",
    27105: "Cannot find the operation because it does not exist or you do not have sufficient permissions.",
    27112: "Unable to update the row in the table.",
    27123: "The operation cannot be started by an account that uses SQL Server Authentication.",
    27124: "Operation ID does not exist, or the operation is not running.",
    27125: "Integration Services server stop operation call failed: the operation is not in a consistent state.",
    27126: "Integration Services server is already stopping the operation.",
    27130: "Integration Services server was unable to impersonate the caller.",
    27131: "Integration Services server was unable to start the process.",
    27133: "Integration Services server was unable to wait for the process.",
    27143: "Cannot access the operation. Verify that the user has appropriate permissions.",
    27153: "Default permissions for the operation cannot be granted to the user.",
    27195: "The operation failed because the execution timed out.",
    27218: "Cannot find the running process of the execution.",
    27219: "Caller cannot execute this stored procedure.",
}


@dataclass
class StopProcedure:
    """The procedure; a test may tell it what to do instead."""

    estate: Estate
    obeys: bool = True
    """Whether a run that is asked to stop ends at once (as canceled); otherwise it stays at stopping."""
    raises: list[int] = field(default_factory=list)
    """Error numbers for the next calls, one each."""
    raises_for: dict[int, int] = field(default_factory=dict)
    """Error numbers by execution id, for every call."""
    returns: list[int] = field(default_factory=list)
    """Values for the next calls to return without raising."""
    whispers: list[int] = field(default_factory=list)
    """Error numbers that the next calls send along without ending by them."""
    leaves_stopping: bool = False
    """Whether an error told in `raises` leaves the row at stopping, as a failed CLR call does."""
    ends_row_with: int | None = None
    """The status a row gets just before an error told in `raises`: it ended meanwhile."""
    calls: list[int | None] = field(default_factory=list)
    before: Callable[[int], None] | None = None
    """Called with the id as each call begins."""

    def __call__(self, session: Session, arguments: dict[str, Any]) -> int:
        """What it returns; raises `SqlError` as the real one does."""
        execution_id = arguments.get("operation_id")
        with self.estate.lock:
            self.calls.append(execution_id)
            if self.before is not None and execution_id is not None:
                self.before(execution_id)
            if self.raises:
                number = self.raises.pop(0)
                if self.leaves_stopping and execution_id is not None:
                    self.estate.set(execution_id, status=8)
                if self.ends_row_with is not None and execution_id is not None:
                    self.estate.end(execution_id, self.ends_row_with)
                raise _error(number)
            if execution_id in self.raises_for:
                raise _error(self.raises_for[execution_id])
            if self.returns:
                return self.returns.pop(0)
            return self._stop(session, execution_id)

    def _stop(self, session: Session, execution_id: int | None) -> int:
        if execution_id is None:
            raise _error(27100)
        if not session.integrated:
            raise _error(27123)
        row = self.estate.get(execution_id)
        account = session.account
        may = "sysadmin" in account.server_roles or "ssis_admin" in account.roles
        own = row is not None and str(row["caller_name"]).casefold() == account.name.casefold()
        if row is None or not (may or own):
            raise _error(27105)
        if row["status"] == 8:
            raise _error(27126)
        if row["status"] != 2:
            raise _error(27124)
        if row["process_id"] is None:
            raise _error(27125)
        self.estate.allocate()
        self.estate.set(execution_id, status=8, stopped_by_name=account.name)
        if self.obeys:
            self.estate.end(execution_id, 3)
        return 0


def _error(number: int) -> SqlError:
    return SqlError(number, TEXTS.get(number, f"error {number}"))
