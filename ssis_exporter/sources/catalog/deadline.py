"""One time limit over everything that a call does, whatever the driver thinks of time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import timedelta


class Deadline:
    """The moment by which a call must be done."""

    def __init__(self, limit: timedelta, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._end = monotonic() + limit.total_seconds()

    @property
    def left(self) -> float:
        """Seconds left; raises `TimeoutError` when there are none."""
        left = self._end - self._monotonic()
        if left <= 0:
            raise TimeoutError("the time limit of this call is over")
        return left

    @property
    def is_over(self) -> bool:
        """Whether there is no time left."""
        return self._end <= self._monotonic()


class DeadlineSocket:
    """
    A socket for the driver that ends each wait at the call's deadline.

    The driver's own limit is per packet, so a server that drips its answer would hold it for ever; its attempts to set
    a limit are therefore ignored.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self.deadline = deadline

    def settimeout(self, timeout: float | None) -> None:
        """Nothing: the deadline decides."""

    def gettimeout(self) -> float | None:
        """What is left."""
        return self.deadline.left

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """As a socket does."""
        self._sock.setsockopt(level, option, value)

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """All of it, by the deadline."""
        self._sock.settimeout(self.deadline.left)
        self._sock.sendall(data, flags)

    def recv(self, size: int) -> bytes:
        """What comes, by the deadline."""
        self._sock.settimeout(self.deadline.left)
        return self._sock.recv(size)

    def recv_into(self, buffer: bytearray | memoryview, size: int = 0, flags: int = 0) -> int:
        """What comes, by the deadline."""
        self._sock.settimeout(self.deadline.left)
        return self._sock.recv_into(buffer, size, flags)

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()
