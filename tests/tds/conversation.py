"""One connection from prelogin to its end, with the faults that a test asks for."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.tds import wire
from tests.tds.engine import Result, Session, SqlError
from tests.tds.tables import PRODUCTS, Account

if TYPE_CHECKING:
    from tests.tds.server import TdsServer

SP_EXECUTESQL = 10


@dataclass(frozen=True)
class Exchange:
    """One request that was executed, as it came over the wire."""

    kind: str
    """`batch`, `sql` (sp_executesql) or the name of a procedure."""
    text: str
    parameters: tuple[wire.Parameter, ...]
    received: int
    """Bytes of the request."""
    rows: int
    """Rows returned, over all results."""
    error: int | None
    settings: dict[str, str]
    """The session's settings while it ran: `ISOLATION`, `LOCK_TIMEOUT`, `DEADLOCK_PRIORITY`."""
    scans: tuple[str, ...]
    login: str
    application: str


@dataclass
class Faults:
    """What is wrong with the server just now."""

    delay: float = 0.0
    """Seconds before each answer."""
    frozen: bool = False
    """Nothing is answered; sockets stay open."""
    deaf: bool = False
    """New connections are not answered at all; those that are logged in are."""
    refuse_login: int | None = None
    """18456, 18452, 18470, 18486: every login is refused so."""
    database_missing: bool = False
    """4060: the database cannot be opened."""
    errors: list[tuple[int, int | None]] = field(default_factory=list)
    """(number, how many more times; None is for ever): what batches are answered instead of being run."""
    cut: int = 0
    """So many of the next requests end in a cut connection instead of an answer."""
    cut_midway: int = 0
    """So many of the next answers are cut in their middle."""
    drip: float = 0.0
    """Seconds between the bytes of an answer."""
    kill: int = 0
    """So many of the next requests are answered by error 596 (session killed) and a closed connection."""
    garbage: int = 0
    """So many of the next answers are bytes that mean nothing."""


class Conversation:
    """One connection from prelogin to its end."""

    def __init__(self, server: TdsServer, connection: socket.socket) -> None:
        self.server = server
        self.connection = connection
        self.channel: wire.Channel = PlainChannel(server, connection)

    def hold(self) -> None:
        """Answers until the client goes."""
        server = self.server
        server.wait_while_frozen()
        if server.faults.deaf:
            with contextlib.suppress(OSError):
                self.connection.recv(65536)
                self.connection.recv(65536)
            return
        kind, payload = wire.read_message(self.channel)
        if kind != wire.PRELOGIN:
            return
        server.prelogins += 1
        asked = wire.prelogin_options(payload).get(1, b"\x02")[0]
        answer = {"off": 2, "on": 1 if asked in (1, 3) else 2, "required": 3 if asked == 2 else 1}[server.encryption]
        self._send(wire.prelogin_answer(answer, PRODUCTS[server.estate.release][0]))
        if answer == 3:
            return
        if answer == 1:
            self.channel = self._encrypt()
        session = self._log_in()
        while session is not None:
            kind, payload = wire.read_message(self.channel)
            server.wait_while_frozen()
            self._answer(session, kind, payload)

    def _encrypt(self) -> wire.Channel:
        assert self.server._tls is not None
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.server._tls.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                if data := outgoing.read():
                    self._send(data, wire.PRELOGIN)
                _, payload = wire.read_message(self.channel)
                incoming.write(payload)
            else:
                if data := outgoing.read():
                    self._send(data, wire.PRELOGIN)
                return TlsChannel(self.channel, self.connection, tls, incoming, outgoing)

    def _log_in(self) -> Session | None:
        server = self.server
        kind, payload = wire.read_message(self.channel)
        if kind != wire.LOGIN:
            return None
        server.wait_while_frozen()
        login = wire.read_login(payload)
        server.logins.append(login)
        account = self._negotiate(login) if login.integrated else server.estate.accounts.get(login.user.casefold())
        known = account is not None and (
            login.integrated or (account.password == login.password and not account.windows)
        )
        faults = server.faults
        if faults.refuse_login is not None or not known or account is None:
            number = faults.refuse_login or 18456
            self._refuse(wire.message(number, f"Login failed for user '{login.user}'.", severity=14))
            return None
        if faults.database_missing or login.database.upper() != "SSISDB" or not account.has_user:
            self._refuse(
                wire.message(4060, f'Cannot open database "{login.database}" requested by the login.', severity=11)
                + wire.message(18456, f"Login failed for user '{login.user}'.", severity=14)
            )
            return None
        session = Session(account, login.integrated, login.application)
        major, minor, build = PRODUCTS[server.estate.release][0]
        self._send(wire.login_answer(login.database, major << 24 | minor << 16 | build))
        return session

    def _negotiate(self, login: wire.Login) -> Account | None:
        import spnego

        context = spnego.server(protocol="negotiate", options=spnego.NegotiateOptions.use_negotiate)
        token = login.sspi
        while True:
            try:
                answer = context.step(token)
            except spnego.exceptions.SpnegoError:
                return None
            if context.complete:
                return self.server.estate.accounts.get(str(context.client_principal).casefold())
            if answer is None:
                return None
            self._send(struct.pack("<BH", 0xED, len(answer)) + answer)
            _, token = wire.read_message(self.channel)

    def _refuse(self, tokens: bytes) -> None:
        self._send(tokens + wire.done(wire.DONE, wire.DONE_ERROR))

    def _answer(self, session: Session, kind: int, payload: bytes) -> None:
        faults = self.server.faults
        if kind == wire.ATTENTION:
            self._send(wire.done(wire.DONE, wire.DONE_ATTENTION))
            return
        if faults.cut > 0:
            faults.cut -= 1
            raise ConnectionError("told to cut")
        if faults.kill > 0:
            faults.kill -= 1
            text = "Cannot continue the execution because the session is in the kill state."
            self._send(wire.message(596, text, severity=21) + wire.done(wire.DONE, wire.DONE_ERROR))
            raise ConnectionError("told to kill")
        if faults.garbage > 0:
            faults.garbage -= 1
            self._send(b"\x42" * 64)
            return
        if not _pause(self.connection, faults.delay):
            kind, _ = wire.read_message(self.channel)
            if kind == wire.ATTENTION:
                self._send(wire.done(wire.DONE, wire.DONE_ATTENTION))
            return
        if kind == wire.BATCH:
            reader = wire.Reader(payload)
            reader.skip_all_headers()
            text = reader.rest().decode("utf-16-le")
            self._execute(session, "batch", text, [], received=len(payload), last=wire.DONE)
        elif kind == wire.RPC:
            self._call(session, payload)
        else:
            raise ConnectionError(f"a message of type {kind} is not known")

    def _call(self, session: Session, payload: bytes) -> None:
        reader = wire.Reader(payload)
        reader.skip_all_headers()
        length = reader.unpack("<H")
        name = reader.unpack("<H") if length == 0xFFFF else reader.text(length)
        reader.unpack("<H")
        parameters = []
        while not reader.is_done:
            parameters.append(wire.read_parameter(reader))
        if len(parameters) > 2100:
            self._send(
                wire.message(8003, "too many parameters in an RPC; the maximum is 2100", severity=16)
                + wire.done(wire.DONEPROC, wire.DONE_ERROR)
            )
            return
        if name == SP_EXECUTESQL:
            text, declared, *values = parameters
            names = [piece.strip().split()[0] for piece in str(declared.value).split(",")] if declared.value else []
            kinds = [
                piece.strip().split(None, 1)[1].lower() for piece in str(declared.value).split(",") if piece.strip()
            ]
            named = [
                wire.Parameter(name, kind, value.value) for name, kind, value in zip(names, kinds, values, strict=True)
            ]
            # What SET changes inside sp_executesql ends with it.
            inner = Session(session.account, session.integrated, session.application, dict(session.settings))
            self._execute(inner, "sql", str(text.value), named, received=len(payload), last=wire.DONEPROC)
        else:
            self._run_procedure(session, str(name), parameters, len(payload))

    def _execute(
        self, session: Session, kind: str, text: str, parameters: list[wire.Parameter], *, received: int, last: int
    ) -> None:
        error: SqlError | None = None
        results: list[Result | SqlError] = []
        scans: list[str] = []
        try:
            self._raise_if_told()
            if self.server.before_each is not None:
                self.server.before_each(text)
            results, scans = self.server.engine.run(session, text, parameters)
        except SqlError as exc:
            error = exc
        self._record(
            session,
            kind=kind,
            text=text,
            parameters=tuple(parameters),
            received=received,
            rows=sum(len(result.rows) for result in results if isinstance(result, Result)),
            error=next((one.number for one in [error, *results] if isinstance(one, SqlError)), None),
            scans=tuple(scans),
        )
        out = bytearray()
        each = wire.DONEINPROC if last == wire.DONEPROC else wire.DONE
        status = 0
        for place, result in enumerate(results):
            more = wire.DONE_MORE if last == wire.DONEPROC or place < len(results) - 1 or error else 0
            if isinstance(result, SqlError):
                status = result.number
                out += _tokens(result) + wire.done(each, wire.DONE_ERROR | more)
                continue
            out += wire.column_metadata(result.columns)
            for values in result.rows:
                out += wire.row(result.columns, values)
            out += wire.done(each, wire.DONE_COUNT | more, len(result.rows))
        if error is not None:
            out += _tokens(error) + wire.done(last, wire.DONE_ERROR)
        elif last == wire.DONEPROC:
            out += wire.return_status(status) + wire.done(wire.DONEPROC, 0)
        elif not results:
            out += wire.done(wire.DONE, 0)
        self._send(bytes(out))

    def _run_procedure(self, session: Session, name: str, parameters: list[wire.Parameter], received: int) -> None:
        error: SqlError | None = None
        status = 0
        try:
            self._raise_if_told()
            procedure = self.server.procedures.get(name.lower().replace("[", "").replace("]", ""))
            if procedure is None:
                raise SqlError(2812, f"Could not find stored procedure '{name}'.")
            status = procedure(session, {parameter.name.lstrip("@"): parameter.value for parameter in parameters})
        except SqlError as exc:
            error = exc
        self._record(
            session,
            kind=name,
            text="",
            parameters=tuple(parameters),
            received=received,
            rows=0,
            error=None if error is None else error.number,
            scans=(),
        )
        if error is not None:
            self._send(_tokens(error) + wire.done(wire.DONEPROC, wire.DONE_ERROR))
        else:
            whispers = self.server.stop_operation.whispers
            aside = wire.message(whispers.pop(0), "said aside", severity=16) if whispers else b""
            self._send(aside + wire.return_status(status) + wire.done(wire.DONEPROC, 0))

    def _raise_if_told(self) -> None:
        errors = self.server.faults.errors
        if not errors:
            return
        number, times = errors[0]
        if times is not None:
            errors[0] = (number, times - 1)
            if times <= 1:
                errors.pop(0)
        texts = {
            1205: "Transaction was deadlocked and has been chosen as the deadlock victim.",
            1222: "Lock request time out period exceeded.",
        }
        raise SqlError(number, texts.get(number, f"error {number}"), severity=13 if number == 1205 else 16)

    def _record(self, session: Session, **what: Any) -> None:
        self.server.exchanges.append(
            Exchange(
                settings=dict(session.settings),
                login=session.account.name,
                application=session.application,
                **what,
            )
        )

    def _send(self, payload: bytes, kind: int = wire.REPLY) -> None:
        data = wire.packets(kind, payload)
        faults = self.server.faults
        if faults.cut_midway > 0 and len(data) > 16:
            faults.cut_midway -= 1
            self.channel.send(data[: len(data) // 2])
            raise ConnectionError("told to cut in the middle")
        self.channel.send(data)


def _tokens(error: SqlError) -> bytes:
    return wire.message(error.number, error.text, severity=error.severity, state=error.state)


class PlainChannel:
    """The socket itself."""

    def __init__(self, server: TdsServer, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection

    def recv_exactly(self, size: int) -> bytes:
        """So many bytes."""
        data = bytearray()
        while len(data) < size:
            piece = self._connection.recv(size - len(data))
            if not piece:
                raise ConnectionError("the client went")
            data += piece
        self._server.received += size
        return bytes(data)

    def send(self, data: bytes) -> None:
        """All of it; drop by drop when told so."""
        self._server.sent += len(data)
        if self._server.faults.drip:
            for place in range(len(data)):
                self._connection.sendall(data[place : place + 1])
                if self._server._closing.wait(self._server.faults.drip):
                    raise ConnectionError("server closes")
            return
        self._connection.sendall(data)


class TlsChannel:
    """TLS inside the socket, after the handshake that came in PRELOGIN packets."""

    def __init__(
        self,
        below: wire.Channel,
        connection: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self._below = below
        self._connection = connection
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing

    def recv_exactly(self, size: int) -> bytes:
        """So many bytes of what was encrypted."""
        data = bytearray()
        while len(data) < size:
            try:
                data += self._tls.read(size - len(data))
            except ssl.SSLWantReadError:
                piece = self._connection.recv(65536)
                if not piece:
                    raise ConnectionError("the client went") from None
                self._incoming.write(piece)
        return bytes(data)

    def send(self, data: bytes) -> None:
        """All of it, encrypted."""
        self._tls.write(data)
        self._below.send(self._outgoing.read())


def _pause(connection: socket.socket, seconds: float) -> bool:
    """Waits; False as soon as the client says or does something."""
    if seconds <= 0:
        return True
    ready, _, _ = select.select([connection], [], [], seconds)
    return not ready
