"""Keeps one helper process: starts it, asks it, ends it when it does not answer as it must, waits before the next."""

from __future__ import annotations

import logging
import queue
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

import msgspec

from ssis_exporter.errors import SourceBroken, SourceError, SourceMissing, SourceTimeout, SourceUnreachable
from ssis_exporter.sources.dts.hresults import error_for
from ssis_exporter.sources.dts.process import HelperProcess
from ssis_exporter.sources.dts.protocol import PROTOCOL_VERSION, Answer, Failed, Hello, ListAnswer, Request

log = logging.getLogger(__name__)

A = TypeVar("A", Answer, ListAnswer)

NOT_UNDERSTOOD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""
What msgspec raises for a line that is none of ours: the second where a text is no UTF-8, the third where lists lie in
lists without end.
"""


class HelperStarting(SourceTimeout):
    """The helper is not ready yet, and goes on starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a helper may take, and how long to wait after one that failed."""

    start: timedelta = timedelta(seconds=60)
    """From its start to its hello. A cold CLR on a busy server takes its time; looks meanwhile are told so."""

    first_pause: timedelta = timedelta(seconds=1)
    longest_pause: timedelta = timedelta(seconds=60)
    life: timedelta = timedelta(days=1)
    """A helper this old is replaced before a listing, so that what the CLR holds on to is let go."""


class Supervisor:
    """
    The helper of one source; one thread at a time uses it.

    One request is in flight at a time. A helper that misses a limit, ends, or says what is no answer is ended and never
    asked again; the next one is started after a pause that doubles with each failure.
    """

    def __init__(
        self,
        source: str,
        command: Callable[[], Sequence[str]],
        *,
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`command` is asked at each start: a release may have been installed since the last one."""
        self._source = source
        self._command = command
        self._environment = environment
        self._patience = patience if patience is not None else Patience()
        self._monotonic = monotonic
        self._process: HelperProcess | None = None
        self._started = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._last_error: SourceError | None = None
        self._ids = 0
        self._asking = ""
        self._given_up = False
        self.hello: Hello | None = None
        """What the helper that runs said of itself; None while none is ready."""

    def ask(
        self,
        do: Literal["list", "stop", "probe"],
        decoder: msgspec.json.Decoder[A],
        *,
        limit: timedelta,
        server: str,
        instance: str | None = None,
    ) -> A:
        """
        What the helper answers.

        Raises `SourceError` after at most `limit`; `HelperStarting` while it is certain that nothing was asked yet. The
        caller says `trust` when the answer made sense.
        """
        self._asking = do
        deadline = self._monotonic() + limit.total_seconds()
        process = self._ready(deadline, may_replace=do == "list")
        if deadline - self._monotonic() < limit.total_seconds() / 2:
            # What is left may be too short for a fair answer, and a helper that misses its limit is ended.
            raise HelperStarting(f"{self._source}: the helper has only just started; the next look asks it")
        self._ids += 1
        request = Request(id=self._ids, do=do, server=server, instance=instance)
        process.send(msgspec.json.encode(request) + b"\n")
        try:
            line = self._next_line(process, deadline)
        except queue.Empty:
            text = f"{self._source}: no answer to {do!r} within {limit.total_seconds():g} s; the helper was ended"
            raise self._failed(SourceTimeout(text)) from None
        try:
            answer = decoder.decode(line)
        except NOT_UNDERSTOOD as exc:
            raise self.broke_the_protocol(str(exc)) from exc
        if answer.id != self._ids or (answer.ok is None) == (answer.error is None):
            raise self.broke_the_protocol(f"it is no answer to request {self._ids}")
        return answer

    def trust(self) -> None:
        """The helper does what it should: failures of earlier ones are forgotten."""
        self._failures = 0

    def broke_the_protocol(self, why: str) -> SourceError:
        """Ends the helper because its answer could not be understood; the error to raise."""
        return self._failed(SourceBroken(f"{self._source}: the helper's answer cannot be understood: {why}"))

    def give_up(self) -> None:
        """
        Lets the `ask` that runs fail and ends its helper; no other comes. A stop may have been heard and is let be.

        The one method that may be called from another thread.
        """
        self._given_up = True
        process = self._process
        if process is not None and self._asking != "stop":
            process.lines.put(None)

    def close(self) -> None:
        """Ends the helper. May be called twice; a later `ask` starts another."""
        self._end()

    def _ready(self, deadline: float, *, may_replace: bool) -> HelperProcess:
        age = self._monotonic() - self._started
        if self.hello is not None and may_replace and age > self._patience.life.total_seconds():
            log.info("source %s: replacing the helper after %s", self._source, self._patience.life)
            self._end()
        process = self._process if self._process is not None else self._start()
        if self.hello is None:
            self.hello = self._greet(process, deadline)
        return process

    def _start(self) -> HelperProcess:
        wait = self._not_before - self._monotonic()
        if wait > 0 and self._last_error is not None:
            error = type(self._last_error)(f"{self._last_error}; the helper is tried again in {wait:.0f} s")
            error.remedy = self._last_error.remedy
            raise error from self._last_error
        try:
            self._process = HelperProcess(self._command(), self._environment)
        except (OSError, ValueError) as exc:
            # No such program, or none that may be run; anything else is a machine that is short of something.
            is_there = isinstance(exc, OSError) and not isinstance(exc, FileNotFoundError | PermissionError)
            kind = SourceUnreachable if is_there else SourceMissing
            raise self._failed(kind(f"{self._source}: the helper cannot be started: {exc}")) from exc
        self._started = self._monotonic()
        return self._process

    def _greet(self, process: HelperProcess, deadline: float) -> Hello:
        limit = self._started + self._patience.start.total_seconds()
        try:
            line = self._next_line(process, min(deadline, limit))
        except queue.Empty:
            if deadline < limit:
                waited = self._monotonic() - self._started
                raise HelperStarting(f"{self._source}: the helper is still starting, for {waited:.0f} s") from None
            text = f"{self._source}: the helper did not start within {self._patience.start}; the helper was ended"
            raise self._failed(SourceTimeout(text)) from None
        try:
            said = msgspec.json.decode(line, type=dict)
            if "failed" in said:
                trouble = msgspec.convert(said, Failed).failed
                raise self._failed(error_for(self._source, trouble))
            hello = msgspec.convert(said, Hello)
        except NOT_UNDERSTOOD as exc:
            raise self._failed(SourceBroken(f"{self._source}: the helper did not say hello but {line[:80]!r}")) from exc
        if hello.hello != PROTOCOL_VERSION:
            text = f"{self._source}: the helper speaks protocol {hello.hello}, this exporter {PROTOCOL_VERSION}"
            raise self._failed(SourceBroken(text))
        log.info("source %s: helper %d holds %s", self._source, hello.pid, hello.assembly)
        return hello

    def _next_line(self, process: HelperProcess, deadline: float) -> bytes:
        """Raises `queue.Empty` when it is too late."""
        line = None if self._is_given_up() else process.lines.get(timeout=max(deadline - self._monotonic(), 0))
        if line is not None:
            return line
        if self._is_given_up():
            raise self._failed(SourceUnreachable(f"{self._source}: the exporter is closing this source"))
        is_its_own = process.ends_by_itself()
        status = self._end()
        how = f"ended with status {status}" if is_its_own else "closed its output and was ended"
        words = f": {process.last_words}" if process.last_words else ""
        raise self._failed(SourceUnreachable(f"{self._source}: the helper {how}{words}"))

    def _is_given_up(self) -> bool:
        return self._given_up and self._asking != "stop"

    def _failed(self, error: SourceError) -> SourceError:
        self._end()
        self._failures += 1
        pause = self._patience.first_pause.total_seconds() * 2 ** min(self._failures - 1, 30)
        pause = min(pause, self._patience.longest_pause.total_seconds())
        # Spread, so that the helpers of a machine that came back do not all start in one moment.
        self._not_before = self._monotonic() + pause * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
        self._last_error = error
        return error

    def _end(self) -> int | None:
        self.hello = None
        process, self._process = self._process, None
        return None if process is None else process.end()
