"""One connection each: what it waits for, since when, and how long its answer may take to be read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, cast

from tornado import httputil
from tornado.iostream import IOStream, SSLIOStream

if TYPE_CHECKING:
    from tornado.http1connection import HTTP1ServerConnection
    from tornado.web import Application

log = logging.getLogger(__name__)

_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""For SO_LINGER: closing throws away what was not read."""


class Phase(IntEnum):
    """What a connection is doing. The lower, the sooner it makes room for others."""

    WAITING = 0
    """For the handshake, or for the next head."""

    READING = 1
    """The head is here, the body is not."""

    WRITING = 2
    """The answer is being read by the peer."""

    WORKING = 3
    """The answer is being made."""


class Connection:
    """A peer, from the moment it was accepted."""

    def __init__(
        self,
        raw: socket.socket,
        peer: str,
        *,
        write_seconds: float,
        changed: Callable[[Connection], None],
    ) -> None:
        self.peer = peer
        self.phase = Phase.WAITING
        self._closed = False
        self._raw = raw
        self._stream: IOStream | None = None
        self._loop = asyncio.get_running_loop()
        self.since = self._loop.time()
        self._write_seconds = write_seconds
        self._deadline: asyncio.TimerHandle | None = None
        self._changed = changed

    def is_open(self) -> bool:
        """Whether it has not been closed yet, by us or by the peer."""
        return not self._closed

    def plain(self, max_buffer_size: int) -> IOStream:
        """The stream of this connection."""
        self._stream = _Stream(self._raw, connection=self, max_buffer_size=max_buffer_size)
        return self._stream

    def encrypted(self, context: ssl.SSLContext, max_buffer_size: int) -> SSLIOStream:
        """The stream of this connection, which begins with the handshake. Raises `OSError` for a peer that left."""
        self._raw = context.wrap_socket(self._raw, server_side=True, do_handshake_on_connect=False)
        stream = _EncryptedStream(self._raw, connection=self, max_buffer_size=max_buffer_size, ssl_options=context)
        self._stream = stream
        return stream

    def enter(self, phase: Phase) -> None:
        """A phase begins now."""
        if phase in (Phase.WAITING, Phase.WORKING):
            self._forget_deadline()
        self.phase = phase
        self.since = self._loop.time()
        self._changed(self)

    def wrote(self) -> None:
        """Something was written: from the first byte on, the whole answer has one deadline."""
        if self._deadline is None and not self._closed:
            self._deadline = self._loop.call_later(self._write_seconds, self._cut)
        if self.phase is Phase.WORKING:
            self.enter(Phase.WRITING)

    def drop(self, why: str) -> None:
        """Closes it now."""
        if self._closed:
            return
        log.debug("dropped the connection of %s: %s", self.peer, why)
        if self.phase is Phase.WRITING:
            # Else the system would keep megabytes for a peer that does not read them.
            with contextlib.suppress(OSError):
                self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self._stream is not None:
            self._stream.close()
        else:
            self._raw.close()
            self.gone()

    def gone(self) -> None:
        """It is closed."""
        if not self._closed:
            self._closed = True
            self._forget_deadline()
            self._changed(self)

    def _cut(self) -> None:
        self._deadline = None
        self.drop(f"its answer was not read within {self._write_seconds:g} s")

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Stream(IOStream):
    """Tells its connection of writes and of its end."""

    def __init__(self, *args: Any, connection: Connection, **kwargs: Any) -> None:
        self.connection = connection
        super().__init__(*args, **kwargs)

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        """As `IOStream`."""
        self.connection.wrote()
        return super().write(data)

    def close_fd(self) -> None:
        """As `IOStream`."""
        super().close_fd()
        self.connection.gone()


class _EncryptedStream(_Stream, SSLIOStream):
    """Does, too."""


class Watcher(httputil.HTTPServerConnectionDelegate):
    """Stands between the server and the application, to know which phase each connection is in."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """The answer before, if any, is written; the next head is waited for."""
        stream = cast("HTTP1ServerConnection", server_conn).stream
        assert isinstance(stream, _Stream)
        stream.connection.enter(Phase.WAITING)
        return _RequestWatcher(self._application.start_request(server_conn, request_conn), stream.connection)


class _RequestWatcher(httputil.HTTPMessageDelegate):
    def __init__(self, inner: httputil.HTTPMessageDelegate, connection: Connection) -> None:
        self._inner = inner
        self._connection = connection

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Awaitable[None] | None:
        self._connection.enter(Phase.READING)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._connection.enter(Phase.WORKING)
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()
