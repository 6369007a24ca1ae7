"""
The driver, `python-tds`, behind a narrow door: one connection, one request at a time, each under a deadline.

The driver's own `connect` retries with sleeps and forgets the reason, has a limit per packet only and checks host names
by text of the certificate; so its parts are put together here: our socket, our TLS context, its protocol.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssis_exporter.errors import SourceBroken, SourceUnreachable
from ssis_exporter.sources.catalog.address import connect
from ssis_exporter.sources.catalog.deadline import Deadline, DeadlineSocket
from ssis_exporter.sources.catalog.identity import make_identity
from ssis_exporter.sources.catalog.settings import CatalogSettings, ServerAddress
from ssis_exporter.sources.catalog.troubles import ServerError

APPLICATION = "ssis_exporter"
"""What a DBA sees in `program_name`."""

BLOCK_SIZE = 8000

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Called:
    """What a procedure answered without raising."""

    status: int | None
    errors: tuple[int, ...]
    """Numbers of errors that came along all the same."""
    text: str


class Connection:
    """A session of SQL Server. Not for two threads at a time; `close` may come from anywhere."""

    def __init__(self, settings: CatalogSettings, tls: Any, deadline: Deadline) -> None:
        """
        Connects and logs in.

        Raises `SourceError`, `ServerError`, `OSError`, and whatever else the driver makes of a bad answer.
        """
        self._sock: DeadlineSocket | None = None
        self._tds: Any = None
        address = settings.address
        for _ in range(3):
            route = self._log_in(settings, address, tls, deadline)
            if route is None:
                return
            self.close()
            address = ServerAddress(route["server"], int(route["port"]))
        raise SourceBroken("it sends from address to address")

    def _log_in(self, settings: CatalogSettings, address: ServerAddress, tls: Any, deadline: Deadline) -> Any:
        from pytds.row_strategies import tuple_row_strategy  # noqa: PLC0415 - the driver is loaded when it is needed
        from pytds.tds_socket import _TdsSocket  # noqa: PLC0415

        raw, port = connect(address, deadline)
        self._sock = DeadlineSocket(raw, deadline)
        try:
            login = _login(settings, address, tls, port, deadline)
            self._tds = _TdsSocket(sock=self._sock, login=login, row_strategy=tuple_row_strategy, autocommit=True)
            return self._tds.login()
        except BaseException as exc:
            translated = self._translated(exc)
            self.close()
            if translated is exc:
                raise
            raise translated from exc

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._sock is not None

    def batch(self, sql: str, deadline: Deadline) -> list[Rows]:
        """Sends a batch without parameters; what it SETs holds for the session."""
        session = self._begin(deadline)
        try:
            session.submit_plain_query(sql)
            session.begin_response()
            session.find_result_or_done()
            return _read_all(session)
        except BaseException as exc:
            raise self._ended_by(exc) from exc

    def query(self, sql: str, parameters: Sequence[tuple[str, str, Any]], deadline: Deadline) -> list[Rows]:
        """
        The results of a batch with parameters: (name, `bigint` | `int` | `varbinary`, value) each.

        What it SETs ends with it, since it runs inside sp_executesql.
        """
        from pytds.tds_base import SP_EXECUTESQL  # noqa: PLC0415

        session = self._begin(deadline)
        declared = ", ".join(f"@{name} {_TYPES[kind]}" for name, kind, _ in parameters)
        values = [_parameter(kind, value) for _, kind, value in parameters]
        try:
            session.callproc(SP_EXECUTESQL, [sql, declared, *values])
            return _read_all(session)
        except BaseException as exc:
            raise self._ended_by(exc) from exc

    def call(self, procedure: str, parameters: Sequence[tuple[str, str, Any]], deadline: Deadline) -> Called:
        """Calls a procedure by name; raises `ServerError` for an error that ends it."""
        session = self._begin(deadline)
        try:
            session.callproc(procedure, {f"@{name}": _parameter(kind, value) for name, kind, value in parameters})
            _read_all(session)
        except BaseException as exc:
            raise self._ended_by(exc) from exc
        errors = [message for message in session.messages if message["severity"] > 10]
        return Called(
            status=session.ret_status if session.has_status else None,
            errors=tuple(message["msgno"] for message in errors),
            text=" ".join(message["message"] for message in errors),
        )

    def close(self) -> None:
        """Lets go of the socket; may be called twice."""
        tds, sock = self._tds, self._sock
        self._tds = self._sock = None
        if tds is not None:
            # Saying goodbye over a broken TLS session raises; the socket is closed below in any case.
            with contextlib.suppress(Exception):
                tds.close()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _begin(self, deadline: Deadline) -> Any:
        if self._sock is None or self._tds is None:
            raise SourceUnreachable("the connection is closed")
        self._sock.deadline = deadline
        return self._tds.main_session

    def _ended_by(self, exc: BaseException) -> BaseException:
        translated = self._translated(exc)
        # An ordinary error leaves the session usable; after anything else nobody knows what is still on its way.
        if not (isinstance(translated, ServerError) and translated.severity < 20):
            self.close()
        return translated

    def _translated(self, exc: BaseException) -> BaseException:
        from pytds import tds_base  # noqa: PLC0415

        if isinstance(exc, tds_base.ClosedConnectionError):
            messages = self._messages()
            return messages if messages is not None else ConnectionError("the server closed it")
        if isinstance(exc, tds_base.DatabaseError):
            return self._messages() or ServerError((int(exc.msg_no or 0),), str(exc))
        if isinstance(exc, tds_base.Error):
            return _protocol_trouble(str(exc))
        if isinstance(exc, OSError | SourceBroken) or not isinstance(exc, Exception):
            return exc
        if type(exc).__module__.startswith("OpenSSL"):
            from ssis_exporter.sources.catalog.encryption import take_refusal  # noqa: PLC0415 - loads OpenSSL

            if _NO_COMMON_VERSION.search(str(exc)):
                return SourceBroken("the server speaks no TLS 1.2; update it, or say encrypt: false")
            return SourceBroken(take_refusal() or f"TLS failed: {exc or type(exc).__name__}")
        return exc

    def _messages(self) -> ServerError | None:
        """All that the server complained of in this request; the driver's exception knows the last only."""
        session = getattr(self._tds, "main_session", None)
        errors = [message for message in getattr(session, "messages", ()) if message["severity"] > 10]
        if not errors:
            return None
        text = " ".join(message["message"] for message in errors)
        return ServerError([m["msgno"] for m in errors], text, severity=max(m["severity"] for m in errors))


_TYPES = {"bigint": "bigint", "int": "int", "varbinary": "varbinary(8000)"}


def _parameter(kind: str, value: Any) -> Any:
    """With its type told: the driver would guess by the value, and each guess is another plan in the server's cache."""
    from pytds import tds_types  # noqa: PLC0415
    from pytds.tds_base import Param  # noqa: PLC0415

    types = {
        "bigint": tds_types.BigIntType(),
        "int": tds_types.IntType(),
        "varbinary": tds_types.VarBinaryType(size=8000),
    }
    return Param(type=types[kind], value=value)


def _read_all(session: Any) -> list[Rows]:
    """Every result set of the answer, to its end."""
    results: list[Rows] = []
    while True:
        if session.res_info is not None and session.more_rows:
            rows: Rows = []
            while (row := session.fetchone()) is not None:
                rows.append(row)
            results.append(rows)
        if not session.next_set():
            return results


def _login(settings: CatalogSettings, address: ServerAddress, tls: Any, port: int, deadline: Deadline) -> Any:
    from pytds import lcid, tds_base  # noqa: PLC0415
    from pytds.tz import utc  # noqa: PLC0415

    identity = make_identity(settings, deadline, port=port)
    login = tds_base._TdsLogin()  # noqa: SLF001 - the driver has no other way to be given a TLS context
    login.client_host_name = socket.gethostname()[:128]
    login.library = "python-tds"
    login.app_name = APPLICATION
    login.server_name = address.host
    login.instance_name = address.instance
    login.user_name = identity.user
    login.password = identity.password
    login.auth = identity.exchange
    login.database = settings.database
    login.port = port
    login.pid = os.getpid()
    login.client_lcid = lcid.LANGID_ENGLISH_US
    login.client_tz = utc
    login.option_flag2 = tds_base.TDS_ODBC_ON
    login.blocksize = BLOCK_SIZE
    login.bytes_to_unicode = True
    login.readonly = False
    login.tls_ctx = tls
    # Our context has looked at the host's name; the driver's way knows neither addresses nor all wildcards.
    login.validate_host = False
    login.enc_flag = tds_base.PreLoginEnc.ENCRYPT_NOT_SUP if tls is None else tds_base.PreLoginEnc.ENCRYPT_ON
    return login


_NO_COMMON_VERSION = re.compile(r"unsupported protocol|alert protocol version")
"""As OpenSSL says it, whichever side noticed."""


def _protocol_trouble(text: str) -> Exception:
    if "encryption enabled but it is required" in text:
        return SourceBroken("the server wants encryption; say encrypt: true")
    if "encryption but it is not supported" in text or "unexpected ENCRYPT_ON" in text:
        return SourceBroken("the server does not encrypt; give it a certificate, or say encrypt: false")
    return SourceBroken(f"it answered what is not understood: {text}")
