"""Calls of the system's libraries that know no time limit: each in a thread, which is left behind when it hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_AT_ONCE = 2
"""Calls for one purpose that may hang before no further one is begun."""


class Aside(Generic[T]):
    """A call on its way, in a thread of its own."""

    def __init__(self, call: Callable[[], T], *, name: str) -> None:
        self._call = call
        self.answer: Future[T] = Future()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            found = self._call()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is for who waits
            self.answer.set_exception(exc)
        else:
            self.answer.set_result(found)
