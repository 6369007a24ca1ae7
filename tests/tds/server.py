"""The server: its socket and threads, what it records, and when it freezes, cuts or restarts."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from tests.tds import wire
from tests.tds.conversation import Conversation, Exchange, Faults
from tests.tds.engine import Engine, Session
from tests.tds.procedures import StopProcedure
from tests.tds.tables import Estate


class TdsServer:
    """
    A SQL Server for tests on a free port of the loopback.

    `encryption` is `off` (knows none), `on` (encrypts for who asks) or `required`; the last two need `certificate`, a
    PEM file with its key.
    """

    def __init__(
        self, estate: Estate, *, encryption: str = "off", certificate: Path | None = None, port: int = 0
    ) -> None:
        self.estate = estate
        self.engine = Engine(estate)
        self.stop_operation = StopProcedure(estate)
        self.procedures: dict[str, Callable[[Session, dict[str, Any]], int]] = {
            "catalog.stop_operation": self.stop_operation
        }
        self.faults = Faults()
        self.before_each: Callable[[str], None] | None = None
        """Called with the text of each query before it is run."""
        self.encryption = encryption
        self.exchanges: list[Exchange] = []
        self.logins: list[wire.Login] = []
        self.received = 0
        self.sent = 0
        self.prelogins = 0
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.maximum_version = ssl.TLSVersion.TLSv1_2
            self._tls.load_cert_chain(certificate)
        self._closing = threading.Event()
        self._calm = threading.Condition()
        self._held = 0
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._listener: socket.socket | None = None
        self.port = port
        self.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def wait_until_count(self, count: int, seconds: float = 10) -> bool:
        """Whether at most so many clients are left within so many seconds."""
        with self._calm:
            return self._calm.wait_for(lambda: len(self._connections) <= count, seconds)

    def wait_until_asked(self, seconds: float = 10) -> bool:
        """Whether a request came in while the server is frozen, within so many seconds."""
        with self._calm:
            return self._calm.wait_for(lambda: self._held > 0, seconds)

    def wait_until_empty(self, seconds: float = 10) -> bool:
        """Whether every client is gone within so many seconds."""
        with self._calm:
            return self._calm.wait_for(lambda: not self._connections, seconds)

    def forget(self) -> None:
        """Empties the record."""
        self.exchanges.clear()
        self.logins.clear()

    def listen(self) -> None:
        """Accepts connections (again, on the same port)."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64, reuse_port=False)
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def stop_listening(self) -> None:
        """New connections are refused; those that are open are cut. What a stopped service looks like."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut_all()

    def cut_all(self) -> None:
        """Cuts every connection."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def restore(self, to_id: int) -> None:
        """The database is restored, which ends every session in it."""
        self.estate.restore(to_id)
        self.cut_all()

    def freeze(self) -> None:
        """Answers nothing from now on."""
        self.faults.frozen = True

    def thaw(self) -> None:
        """Answers again."""
        self.faults.frozen = False
        with self._calm:
            self._calm.notify_all()

    def close(self) -> None:
        """Ends every thread and socket."""
        self._closing.set()
        self.thaw()
        self.stop_listening()
        with self._calm:
            threads = list(self._threads)
        for thread in threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        with self._calm:
            # Under the lock that `close` takes, so that it finds no thread which has not begun.
            thread = threading.Thread(target=self._run, args=(target, *arguments), name="tds-server", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _run(self, target: Callable[..., None], *arguments: Any) -> None:
        try:
            target(*arguments)
        finally:
            with self._calm:
                self._threads.discard(threading.current_thread())

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(ConnectionError, OSError, ssl.SSLError, struct.error):
                Conversation(self, connection).hold()
        finally:
            connection.close()
            with self._calm:
                self._connections.discard(connection)
                self._calm.notify_all()

    def wait_while_frozen(self) -> None:
        """Returns when the server is not frozen (any more); raises `ConnectionError` when it closes."""
        with self._calm:
            self._held += 1
            self._calm.notify_all()
            self._calm.wait_for(lambda: not self.faults.frozen or self._closing.is_set())
            self._held -= 1
        if self._closing.is_set():
            raise ConnectionError("server closes")


@contextlib.contextmanager
def ntlm_users(path: Path, *users: tuple[str, str, str]) -> Iterator[None]:
    """Lets the server know (domain, user, password) triples for Windows logins."""
    path.write_text("".join(f"{domain}:{user}:{password}\n" for domain, user, password in users))
    before = os.environ.get("NTLM_USER_FILE")
    os.environ["NTLM_USER_FILE"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["NTLM_USER_FILE"]
        else:
            os.environ["NTLM_USER_FILE"] = before
