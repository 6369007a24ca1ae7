"""Servers of the tests: a `Listener` on a thread with its own event loop, and peers that speak by hand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tornado.web import Application

from ssis_exporter.addresses import Address
from ssis_exporter.listening import Limits, Listener, Tls

T = TypeVar("T")

DEADLINE = 20.0
"""How long a test waits for what must happen; only a failure waits so long."""


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="test-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, make: Callable[[], Awaitable[T]]) -> T:
        """Awaits what `make` returns on the loop; `make` is called there, too."""

        async def awaited() -> T:
            return await make()

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result(DEADLINE)

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function on the loop."""

        async def called() -> T:
            return function()

        return self.run(called)

    def close(self) -> None:
        """Ends the loop and its thread."""
        self.run(self.loop.shutdown_default_executor)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


@contextlib.contextmanager
def loop_thread() -> Iterator[LoopThread]:
    """A loop for the time of a test."""
    thread = LoopThread()
    try:
        yield thread
    finally:
        thread.close()


@dataclass
class Served:
    """A listener that runs."""

    thread: LoopThread
    listener: Listener
    client_context: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        """Of its first address."""
        return self.listener.ports[0]

    def connect(self, *, receive_buffer: int | None = None, handshake: bool = True) -> socket.socket:
        """A connection; encrypted where the listener is, unless told not to shake hands."""
        raw = socket.socket()
        raw.settimeout(DEADLINE)
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.connect(("127.0.0.1", self.port))
        if self.client_context is None or not handshake:
            return raw
        return self.client_context.wrap_socket(raw, server_hostname="localhost")

    def ask(self, request: bytes) -> bytes:
        """Everything that comes back for this request on a connection of its own."""
        with self.connect() as peer:
            peer.sendall(request)
            return read_all(peer)

    def get(self, path: str = "/", *headers: str, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""])
        return Answer.parse(self.ask(head.encode("latin-1")))


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Answer:
        """From the bytes of one whole answer."""
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return cls(int(lines[0].split()[1]), headers, body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def read_all(peer: socket.socket) -> bytes:
    """What comes until the other side closes; a reset counts as a close."""
    parts = []
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while part := peer.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_answer(peer: socket.socket) -> Answer:
    """One answer with a Content-Length from a connection that stays open."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = peer.recv(65536)
        assert part, f"closed within the head: {data!r}"
        data += part
    answer = Answer.parse(data)
    while len(answer.body) < int(answer.headers["content-length"]):
        part = peer.recv(65536)
        assert part, "closed within the body"
        answer.body += part
    return answer


def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Waits for something of another thread or process that has no event to wait on."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE:g} s in vain: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(
    application: Application,
    *,
    limits: Limits | None = None,
    tls: Tls | None = None,
    client_context: ssl.SSLContext | None = None,
) -> Iterator[Served]:
    """The application on a free port of the loopback."""
    with loop_thread() as thread:
        listener = thread.call(lambda: Listener(application, [Address("127.0.0.1", 0)], tls=tls, limits=limits))
        thread.run(listener.start)
        try:
            yield Served(thread, listener, client_context)
        finally:
            thread.run(lambda: listener.drain(1.0))
