"""One time limit over everything that a call does, whatever the driver thinks of time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import timedelta


class Deadline:
    """The moment by which a call must be done, and how long the other side may say nothing meanwhile."""

    def __init__(
        self,
        limit: timedelta,
        *,
        silence: timedelta | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._end = monotonic() + limit.total_seconds()
        self._silence = limit.total_seconds() if silence is None else silence.total_seconds()

    @property
    def left(self) -> float:
        """Seconds left; raises `TimeoutError` when there are none."""
        left = self._end - self._monotonic()
        if left <= 0:
            raise TimeoutError("the time limit of this call is over")
        return left

    @property
    def wait(self) -> float:
        """Seconds that one wait for the other side may take; raises `TimeoutError` when there are none."""
        return min(self.left, self._silence)

    def of_one_wait(self) -> Deadline:
        """For what counts as one wait, whatever steps it has."""
        return Deadline(timedelta(seconds=self.wait), monotonic=self._monotonic)


class DeadlineSocket:
    """
    A socket for the driver that ends each wait at the call's deadline, or when the other side was silent for too long.

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
        return self.deadline.wait

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """As a socket does."""
        self._sock.setsockopt(level, option, value)

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """All of it, by the deadline."""
        self._sock.settimeout(self.deadline.wait)
        self._sock.sendall(data, flags)

    def recv(self, size: int) -> bytes:
        """What comes, by the deadline."""
        self._sock.settimeout(self.deadline.wait)
        return self._sock.recv(size)

    def recv_into(self, buffer: bytearray | memoryview, size: int = 0, flags: int = 0) -> int:
        """What comes, by the deadline."""
        self._sock.settimeout(self.deadline.wait)
        return self._sock.recv_into(buffer, size, flags)

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()
