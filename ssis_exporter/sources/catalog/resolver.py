"""Asks the system for the addresses of a name, and waits no longer than it may."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

from ssis_exporter.errors import SourceTimeout, SourceUnreachable
from ssis_exporter.sources.catalog.aside import MOST_AT_ONCE, Aside

SocketAddress: TypeAlias = tuple[socket.AddressFamily, tuple[object, ...]]


class _Question(Aside[list[tuple[Any, ...]]]):
    """On its way."""

    is_outdated = False


class Resolver:
    """
    Names to addresses, for any thread.

    The system's function knows no time limit, so it runs in a thread, which is left behind when it hangs. Who asks next
    does not depend on that one; only where several hang for a name, the newest of them is waited for.
    """

    def __init__(self, ask: Callable[..., list[tuple[Any, ...]]] = socket.getaddrinfo) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._left: dict[tuple[str, int], list[_Question]] = defaultdict(list)
        """Questions that are on their way, or whose answer nobody has asked for yet; the oldest first."""

    def addresses(self, host: str, port: int, seconds: float) -> list[SocketAddress]:
        """Each once, in the system's order. Raises `SourceUnreachable` for none, `SourceTimeout` for none in time."""
        question = self._question(host, port)
        try:
            found = question.answer.result(seconds)
        except TimeoutError as exc:
            raise SourceTimeout(f"the name {host} was not resolved in time") from exc
        except (OSError, UnicodeError) as exc:
            raise SourceUnreachable(f"the name {host} leads nowhere: {getattr(exc, 'strerror', None) or exc}") from exc
        with self._lock:
            for one in self._left[host, port]:
                one.is_outdated = True
        unique: dict[tuple[object, ...], socket.AddressFamily] = {}
        for family, _, _, _, sockaddr in found:
            unique.setdefault(sockaddr, family)
        return [(family, sockaddr) for sockaddr, family in unique.items()]

    def _question(self, host: str, port: int) -> _Question:
        with self._lock:
            left = self._left[host, port]
            for question in [question for question in left if question.answer.done()]:
                left.remove(question)
                if not question.is_outdated and question.answer.exception() is None:
                    # It came too late for who asked; who asks next may never have more time.
                    return question
            if len(left) < MOST_AT_ONCE:
                left.append(_Question(lambda: self._ask(host, port, type=socket.SOCK_STREAM), name="resolver"))
            return left[-1]
