"""What went wrong between us and the server, as one of the exporter's own errors."""

from __future__ import annotations

from collections.abc import Sequence

from ssis_exporter.errors import (
    SourceAccessDenied,
    SourceBroken,
    SourceError,
    SourceLoginFailed,
    SourceMissing,
    SourceTimeout,
    SourceUnreachable,
)

DEADLOCK_VICTIM = 1205
LOCK_TIMEOUT = 1222
ROWS_MOVED = 601
"""A query without locks met rows that were deleted or moved meanwhile, as the catalog's cleanup does every night."""

_UNREACHABLE = {
    596: "the session was ended by an administrator",
    6005: "the server is shutting down",
    17142: "the server is paused",
    17187: "the server is not ready for connections yet",
    17188: "the server is shutting down",
    17197: "the server did not finish the login in time",
    17809: "the server has no connection left",
    18401: "the server is being upgraded",
    18451: "only administrators may connect now",
    18461: "the server runs in single user mode",
    10928: "the service has no room for a further request",
    10929: "the service is too busy for a further request",
    40197: "the service is being moved or upgraded",
    40501: "the service is busy",
    40613: "the database is not available now",
    40615: "the service's firewall does not let this address in",
    47073: "the service does not take connections from outside",
    49918: "the service cannot take the request now",
}

_LOGIN_FAILED = {
    18452: "the login is from an untrusted domain",
    18456: "the login failed",
    18470: "the login is disabled",
    18486: "the login is locked out",
    18487: "the password has expired",
    18488: "the password must be changed",
}

_MISSING = {
    208: "the database has no SSISDB catalog, or one that the login cannot see",
    911: "the database is not there",
    922: "the database is being recovered",
    927: "the database is being restored",
    942: "the database is offline",
    945: "the database cannot be opened",
    952: "the database is changing its state",
    976: "the database is a secondary replica that cannot be read",
    978: "the database is a secondary replica that takes only read-only connections",
    983: "the database's replica is not in a role that can be read",
    4060: "the database is not there, or the login has no user in it",
}

_ACCESS_DENIED = {
    229: "the login may not read the catalog's views",
    230: "the login may not read a column of the catalog's views",
    262: "the login lacks a right",
    297: "the login lacks a right",
    300: "the login lacks a right",
    916: "the login has no user in the database",
}

_BUSY = {
    DEADLOCK_VICTIM: "the query gave way in a deadlock",
    LOCK_TIMEOUT: "the query met a lock that was not let go in time",
    ROWS_MOVED: "the query met rows that were moved meanwhile",
    701: "the server has no memory for the query",
    8628: "the server had no room for the query",
    8645: "the server had no memory for the query in time",
}

_BY_NUMBER: tuple[tuple[dict[int, str], type[SourceError]], ...] = (
    # The order matters where a server says two things: 4060 comes together with 18456.
    (_MISSING, SourceMissing),
    (_ACCESS_DENIED, SourceAccessDenied),
    (_UNREACHABLE, SourceUnreachable),
    (_LOGIN_FAILED, SourceLoginFailed),
    (_BUSY, SourceTimeout),
)


class ServerError(Exception):
    """The server answered with errors: their numbers and the text of all."""

    def __init__(self, numbers: Sequence[int], text: str, *, severity: int = 16) -> None:
        super().__init__(text)
        self.numbers = tuple(numbers)
        self.text = text
        self.severity = severity

    @property
    def number(self) -> int:
        """The last one: it ends the request."""
        return self.numbers[-1] if self.numbers else 0


def as_source_error(exc: Exception, *, about: str) -> SourceError:
    """The error for the outside; `about` begins its sentence and names source and server."""
    if isinstance(exc, SourceError):
        return type(exc)(f"{about}: {exc}")
    if isinstance(exc, ServerError):
        for table, kind in _BY_NUMBER:
            for number in exc.numbers:
                if number in table:
                    return kind(f"{about}: {table[number]} (error {number}: {exc.text})")
        return SourceBroken(f"{about}: error {exc.number}: {exc.text}")
    if isinstance(exc, TimeoutError):
        return SourceTimeout(f"{about}: no answer in time")
    if isinstance(exc, OSError):
        return SourceUnreachable(f"{about}: the connection broke ({exc.strerror or exc or type(exc).__name__})")
    return SourceBroken(f"{about}: {type(exc).__name__}: {exc}")
