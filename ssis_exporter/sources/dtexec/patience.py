"""Asks what may never answer (a file on a dead file server) without waiting for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ssis_exporter.errors import SsisExporterError

T = TypeVar("T")


class TookTooLong(SsisExporterError):
    """No answer in time, or nobody is left to ask."""


class _Question(Generic[T]):
    """One thing to find out, and the answer."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._answered = threading.Event()
        self._answer: T | None = None
        self._error: Exception | None = None

    def find_out(self) -> None:
        try:
            self._answer = self._ask()
        except Exception as exc:  # noqa: BLE001 - it is raised again where it was asked
            self._error = exc
        self._answered.set()

    def answer(self, timeout: float) -> T:
        if not self._answered.wait(timeout):
            raise TookTooLong
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                # It knows this frame: together they would keep all that its callers know until a garbage collection.
                del error
        answer, self._answer = self._answer, None
        return answer  # type: ignore[return-value]  # it is a T once it was found out


class Patience:
    """
    Runs questions on a thread of its own, which is left behind when it hangs.

    At most `most_hanging` threads hang at a time; while they do, nothing is asked any more. All of it together may
    take `seconds` between two calls of `renew`.
    """

    def __init__(
        self, seconds: float, *, most_hanging: int = 4, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._most_hanging = most_hanging
        self._monotonic = monotonic
        self._left = seconds
        self._questions: queue.SimpleQueue[_Question[object] | None] | None = None
        self._hanging: list[threading.Thread] = []
        self._thread: threading.Thread | None = None

    def renew(self) -> None:
        """Gives the full time again."""
        self._left = self._seconds

    def ask(self, ask: Callable[[], T]) -> T:
        """The answer, or what it raised. Raises `TookTooLong`."""
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        if self._left <= 0 or len(self._hanging) >= self._most_hanging:
            raise TookTooLong
        question = _Question(ask)
        began = self._monotonic()
        self._running().put(question)  # type: ignore[arg-type]  # the thread only lets it find out
        try:
            return question.answer(self._left)
        except TookTooLong:
            self._leave_behind()
            raise
        finally:
            self._left -= self._monotonic() - began

    def close(self) -> None:
        """Lets the thread end; may be called twice."""
        if self._questions is not None:
            self._questions.put(None)
        self._questions = self._thread = None

    def _running(self) -> queue.SimpleQueue[_Question[object] | None]:
        if self._questions is None:
            self._questions = queue.SimpleQueue()
            self._thread = threading.Thread(
                target=_find_out_one_after_another, args=(self._questions,), name="package-files", daemon=True
            )
            self._thread.start()
        return self._questions

    def _leave_behind(self) -> None:
        if self._thread is not None:
            self._hanging.append(self._thread)
        self.close()


def _find_out_one_after_another(questions: queue.SimpleQueue[_Question[object] | None]) -> None:
    while (question := questions.get()) is not None:
        question.find_out()
        # The answer may hold what nobody should keep.
        del question
