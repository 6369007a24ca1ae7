"""A network in which everything may vanish: a relay before a server."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class BlackHole:
    """
    Passes connections on to a port of the loopback.

    While it is `open`, what is sent vanishes, in both directions, and new connections reach nobody. A connection that
    lived in that time stays dead afterwards, as when the devices between have forgotten it.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._is_open = False
        self._dead: set[socket.socket] = set()
        self._all: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        """Everything vanishes from now on."""
        with self._lock:
            self._is_open = True
            self._dead |= self._all

    def shut(self) -> None:
        """New connections come through again."""
        with self._lock:
            self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.close()
        with self._lock:
            for one in self._all:
                one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                with self._lock:
                    self._all |= {client, server}
                    if self._is_open:
                        self._dead |= {client, server}
                for here, there in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(here, there), daemon=True).start()

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                with self._lock:
                    is_dead = here in self._dead
                if not is_dead:
                    there.sendall(data)
            with self._lock:
                is_dead = here in self._dead
            if not is_dead:
                there.shutdown(socket.SHUT_WR)
