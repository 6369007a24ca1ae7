"""Serves a Tornado application on several addresses, with deadlines and limits that no peer can talk its way around."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application

from ssis_exporter.addresses import Address
from ssis_exporter.connections import Connection, Phase, Watcher
from ssis_exporter.errors import ConfigError, ListenError
from ssis_exporter.sockets import close_all, listen_on, peer_name

log = logging.getLogger(__name__)

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 0.2
_QUIET_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may take. All times are totals: a byte that drips in does not renew them."""

    handshake_seconds: float = 10.0
    head_seconds: float = 65.0
    """For the next whole head. A scraper's connection stays open between scrapes, hence longer than a minute."""

    body_seconds: float = 10.0
    write_seconds: float = 30.0
    """For an answer to be read, from its first byte to its last."""

    max_connections: int = 512
    """Beyond it, the connection that has been idle longest makes room. Never more than half of the free descriptors."""

    max_head_bytes: int = 16 * 1024
    max_body_bytes: int = 1024 * 1024


class Tls(Protocol):
    """What a listener needs to encrypt."""

    async def context(self) -> ssl.SSLContext:
        """The context of the next handshake. Raises `ConfigError` when there is none; the peer is then refused."""

    def admits(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether a peer with this certificate (as `SSLSocket.getpeercert` tells it) may speak at all."""


class Listener:
    """
    An application on its addresses.

    `start` binds and serves, `drain` ends it. Lives on one event loop.
    """

    def __init__(
        self,
        application: Application,
        addresses: Sequence[Address],
        *,
        tls: Tls | None = None,
        limits: Limits | None = None,
        setting: str = "",
    ) -> None:
        """`setting` is the flag or key that names the addresses, for the sentence that says that one cannot be had."""
        self._wanted = tuple(addresses)
        self._setting = setting
        self._tls = tls
        self._limits = limits if limits is not None else Limits()
        self._max_connections = self._limits.max_connections
        self._max_buffer = self._limits.max_head_bytes + self._limits.max_body_bytes + 128 * 1024
        self._server = HTTPServer(
            Watcher(application),
            max_header_size=self._limits.max_head_bytes,
            idle_connection_timeout=self._limits.head_seconds,
            body_timeout=self._limits.body_seconds,
            max_body_size=self._limits.max_body_bytes,
        )
        self._sockets: list[socket.socket] = []
        self._addresses: tuple[Address, ...] = ()
        self._accepting: set[socket.socket] = set()
        self._connections: set[Connection] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._draining = False
        self._told_exhausted = -_QUIET_SECONDS

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it really listens; port 0 has become a number."""
        return self._addresses

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports of `addresses`."""
        return tuple(address.port for address in self.addresses)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(self) -> None:
        """Binds all addresses and serves. Raises `ListenError` and holds none when one of them cannot be had."""
        bound: list[socket.socket] = []
        try:
            for address in self._wanted:
                bound += await asyncio.to_thread(listen_on, address)
        except BaseException as exc:
            close_all(bound)
            if isinstance(exc, ListenError) and self._setting:
                raise ListenError(f"{exc}; {self._setting} names another one") from exc
            raise
        self._max_connections = _at_most_half_of_the_free_descriptors(self._limits.max_connections)
        self._sockets = bound
        self._addresses = tuple(Address(*one.getsockname()[:2]) for one in bound)
        for one in bound:
            self._accept_on(one)

    async def drain(self, seconds: float = 5.0) -> None:
        """Stops accepting, lets what runs be answered for at most `seconds`, closes all. May be called twice."""
        self._draining = True
        for one in list(self._accepting):
            self._rest(one)
        close_all(self._sockets)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                while self._close_idle() > 0:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("%d requests were not answered within %g s and are cut off", len(self._connections), seconds)
        for connection in list(self._connections):
            connection.drop("the exporter is stopping")
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        await self._server.close_all_connections()

    def _close_idle(self) -> int:
        """Closes what waits for a head; returns how many work on."""
        for connection in [one for one in self._connections if one.phase is Phase.WAITING]:
            connection.drop("the exporter is stopping")
        return len(self._connections)

    def _accept_on(self, listening: socket.socket) -> None:
        if not self._draining:
            self._accepting.add(listening)
            IOLoop.current().add_handler(listening, self._accept, IOLoop.READ)

    def _rest(self, listening: socket.socket) -> None:
        self._accepting.discard(listening)
        IOLoop.current().remove_handler(listening)

    def _accept(self, listening: socket.socket, _events: int) -> None:
        # A part of what there is room for: between two parts those who have something to say are heard, so that of a
        # crowd the silent ones are dropped.
        for _ in range(max(1, self._max_connections // 4)):
            try:
                raw, address = listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                self._cannot_accept(listening, exc)
                return
            self._welcome(raw, peer_name(address))

    def _cannot_accept(self, listening: socket.socket, exc: OSError) -> None:
        now = time.monotonic()
        if now - self._told_exhausted >= _QUIET_SECONDS:
            self._told_exhausted = now
            log.warning("cannot accept connections for the moment: %s", exc)
        if exc.errno in _EXHAUSTED and any(one.phase is Phase.WAITING for one in self._connections):
            # Each one accepted costs one that idles, so this comes to an end.
            self._make_room("file descriptors are exhausted")
            return
        # The peer stays in the queue and the socket stays readable: without a rest this would spin.
        self._rest(listening)
        asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._accept_on, listening)

    def _make_room(self, why: str) -> None:
        if self._connections:
            min(self._connections, key=lambda one: (one.phase, one.since)).drop(why)

    def _welcome(self, raw: socket.socket, peer: str) -> None:
        if len(self._connections) >= self._max_connections:
            self._make_room("the connection idle longest makes room for another")
        raw.setblocking(False)
        connection = Connection(raw, peer, write_seconds=self._limits.write_seconds, changed=self._on_change)
        self._connections.add(connection)
        if self._tls is None:
            self._server.handle_stream(connection.plain(self._max_buffer), (peer, 0))
            return
        task = asyncio.get_running_loop().create_task(self._shake_hands(connection, self._tls))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: Connection, tls: Tls) -> None:
        try:
            async with asyncio.timeout(self._limits.handshake_seconds):
                context = await tls.context()
                if not connection.is_open():
                    return
                stream = connection.encrypted(context, self._max_buffer)
                await stream.wait_for_handshake()
        except TimeoutError:
            connection.drop(f"no TLS handshake within {self._limits.handshake_seconds:g} s")
        except ConfigError as exc:
            connection.drop(str(exc))
        except (OSError, ValueError) as exc:
            connection.drop(f"the TLS handshake failed: {exc}")
        else:
            if not connection.is_open():
                return
            # Before anything it says is read.
            if tls.admits(stream.socket.getpeercert()):
                self._server.handle_stream(stream, (connection.peer, 0))
            else:
                connection.drop("its certificate has none of the allowed names")

    def _on_change(self, connection: Connection) -> None:
        if not connection.is_open():
            self._connections.discard(connection)
        elif self._draining and connection.phase is Phase.WAITING:
            # Its answer is written; another request would never end the waiting.
            asyncio.get_running_loop().call_soon(connection.drop, "the exporter is stopping")
        self._changed.set()


def _at_most_half_of_the_free_descriptors(wanted: int) -> int:
    """The rest is for looking at processes, for databases and for files."""
    if sys.platform == "win32":
        return wanted
    import resource  # noqa: PLC0415 - Windows has no such module

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    try:
        used = sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        used = 0
    return max(1, min(wanted, (limit - used) // 2))
