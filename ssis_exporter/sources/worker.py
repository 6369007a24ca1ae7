"""One thread per source: one call at a time, looks shared by all who wait for them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from ssis_exporter.errors import SourceBroken, SourceError, SourceUnreachable, SsisExporterError
from ssis_exporter.model import Snapshot, SourceInfo
from ssis_exporter.sources.answer import AnswerCheck, bearable, info_of, told
from ssis_exporter.sources.interface import Source

log = logging.getLogger(__name__)

T = TypeVar("T")

LAST_CALL_SECONDS = 1.0
"""How long a call may have been running when its source is closed; a longer one is asked to give up."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one call of `Source.snapshot` gave, and how long it took."""

    outcome: Snapshot | SourceError
    took: timedelta


@dataclass(slots=True)
class _Call:
    """One thing for the worker's thread to do."""

    run: Callable[[], Any]
    answer: Future[Any]
    is_look: bool


class SourceWorker:
    """
    Owns a source and its thread.

    A look that runs is joined by whoever asks meanwhile, so any number of overlapping scrapes cause one call. The
    futures handed out cannot be cancelled: one waiter's deadline must not take the answer from the others. A call
    that hangs blocks only this source; nothing else is started on it until it returns, and waiters leave when their
    own deadline comes.
    """

    def __init__(
        self,
        source: Source,
        *,
        observe: Callable[[Snapshot], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`observe` is told every snapshot, on the worker's thread, also those that nobody waits for any more."""
        self.source = source
        self._check = AnswerCheck(source.name)
        self._observe = observe
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: deque[_Call] = deque()
        self._running: _Call | None = None
        self._running_since = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._told_failure = ""

    @property
    def name(self) -> str:
        """The source's configured name."""
        return self.source.name

    @property
    def info(self) -> SourceInfo:
        """What the source is, as far as it says it."""
        return info_of(self.source)

    def busy_for(self) -> timedelta:
        """How long the call that runs has been running; zero when none runs."""
        with self._lock:
            if self._running is None:
                return timedelta()
            return timedelta(seconds=self._monotonic() - self._running_since)

    def look(self, within: timedelta | None = None) -> Future[Look]:
        """
        Joins the look that runs or waits; asks for one where there is none. The future never raises.

        `within` is how long a scrape will wait for it, where a scrape asks.
        """
        with self._lock:
            if self._running is not None and self._running.is_look:
                return self._running.answer
            return self._look_that_waits_or_new(within)

    def look_afresh(self) -> Future[Look]:
        """As `look`, but never a look that began before this moment: what a stop decides on."""
        with self._lock:
            return self._look_that_waits_or_new()

    def call(self, function: Callable[[Source], T]) -> Future[T]:
        """Runs `function(source)` on the source's thread, in turn; its exceptions come through the future."""
        with self._lock:
            return self._submit(lambda: function(self.source), is_look=False)

    def close(self, timeout: float = 5.0) -> bool:
        """
        Lets the call that runs end (one that takes long: give up), closes the source, ends the thread. May be called
        twice.

        Calls still waiting are answered with `SourceUnreachable`. Returns whether the thread ended in time; where a
        call hangs, the thread is left behind (it is a daemon and does not keep the process alive).
        """
        with self._lock:
            self._closed = True
            dropped = list(self._waiting)
            self._waiting.clear()
            self._wake.notify_all()
            thread = self._thread
        for call in dropped:
            self._answer_closed(call.answer, is_look=call.is_look)
        if thread is None:
            self.source.close()
            return True
        began = self._monotonic()
        thread.join(min(timeout, max(LAST_CALL_SECONDS - self.busy_for().total_seconds(), 0)))
        if thread.is_alive():
            self.source.give_up()
            thread.join(max(timeout - (self._monotonic() - began), 0))
        return not thread.is_alive()

    def _look_that_waits_or_new(self, within: timedelta | None = None) -> Future[Look]:
        for waiting in self._waiting:
            if waiting.is_look:
                return waiting.answer
        return self._submit(lambda: self._look_once(within), is_look=True)

    def _submit(self, run: Callable[[], Any], *, is_look: bool) -> Future[Any]:
        answer: Future[Any] = Future()
        # A future that is marked as running cannot be cancelled, so nobody takes the answer from the others.
        answer.set_running_or_notify_cancel()
        if self._closed:
            self._answer_closed(answer, is_look=is_look)
            return answer
        self._waiting.append(_Call(run, answer, is_look))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"source-{self.name}", daemon=True)
            self._thread.start()
        self._wake.notify()
        return answer

    def _answer_closed(self, answer: Future[Any], *, is_look: bool) -> None:
        error = SourceUnreachable(f"{self.name}: the exporter is closing this source")
        if is_look:
            answer.set_result(Look(error, timedelta()))
        else:
            answer.set_exception(error)

    def _look_once(self, within: timedelta | None) -> Look:
        began = self._monotonic()
        self.source.asked_within = within
        outcome: Snapshot | SourceError
        try:
            outcome = self._check.take(self.source.snapshot())
            self._observe(outcome)
            self._told_failure = ""
        except SourceError as exc:
            # One that cannot say what it is fails here, as anything that nobody foresaw.
            str(exc)
            outcome = exc
        return Look(outcome, timedelta(seconds=self._monotonic() - began))

    def _work(self) -> None:
        while (call := self._next()) is not None:
            self._do(call)
            # It can be large, and the next call may be long in coming.
            del call
        try:
            self.source.close()
        except Exception:
            log.exception("source %s could not be closed", self.name)

    def _do(self, call: _Call) -> None:
        try:
            result = call.run()
        except BaseException as exc:  # noqa: BLE001 - whatever a driver raises must reach who waits, not end the thread
            with self._lock:
                self._running = None
            self._answer_failed(call, exc)
        else:
            with self._lock:
                self._running = None
            call.answer.set_result(result)

    def _next(self) -> _Call | None:
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            self._running_since = self._monotonic()
            return self._running

    def _answer_failed(self, call: _Call, exc: BaseException) -> None:
        if not call.is_look:
            call.answer.set_exception(bearable(exc, self.name))
            return
        said = told(exc)
        if not isinstance(exc, SsisExporterError) and said != self._told_failure:
            # Once, not at every scrape: a source that is broken stays so for days.
            self._told_failure = said
            log.error("source %s failed in a way nobody foresaw: %s", self.name, said)
        log.debug("source %s: where it failed", self.name, exc_info=exc)
        error = SourceBroken(f"{self.name}: {said}")
        error.__cause__ = exc
        call.answer.set_result(Look(error, timedelta(seconds=self._monotonic() - self._running_since)))
