"""Keeps one helper process: starts it, asks it, ends it when it does not answer as it must, waits before the next."""

from __future__ import annotations

import logging
import os
import queue
import random
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import msgspec

from ssis_exporter.errors import SourceBroken, SourceError, SourceMissing, SourceTimeout, SourceUnreachable
from ssis_exporter.sources.dts.hresults import error_for
from ssis_exporter.sources.dts.lifeline import Lifeline, start_options
from ssis_exporter.sources.dts.protocol import PROTOCOL_VERSION, Failed, Hello, Request

log = logging.getLogger(__name__)

LONGEST_LINE = 64 * 1024 * 1024
"""A listing of 100 000 packages is below half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a helper may take, and how long to wait after one that failed."""

    start: timedelta = timedelta(seconds=60)
    """From its start to its hello. A cold CLR on a busy server takes its time; looks meanwhile are told so."""

    first_pause: timedelta = timedelta(seconds=1)
    longest_pause: timedelta = timedelta(seconds=60)
    life: timedelta = timedelta(days=1)
    """A helper this old is replaced between two calls, so that what the CLR holds on to is let go."""


class _Process:
    """One started helper and its pipes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None, lifeline: Lifeline) -> None:
        self.popen = subprocess.Popen(  # noqa: S603 - our own interpreter, or the command of the configuration
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else {**os.environ, **environment},
            **start_options(),
        )
        lifeline.tie(self.popen)
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.last_words = ""
        self._readers = [
            threading.Thread(target=self._read_lines, name="dts-helper-out", daemon=True),
            threading.Thread(target=self._read_words, name="dts-helper-err", daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def send(self, line: bytes) -> None:
        """Writes one request; a helper that is gone is noticed at the answer."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(line)
            self.popen.stdin.flush()
        except OSError as exc:
            log.debug("the helper does not take requests: %s", exc)

    def end(self) -> int | None:
        """Ends it, lets go of all that belonged to it; its exit status."""
        self.popen.kill()
        status = self.popen.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            assert pipe is not None
            try:
                pipe.close()
            except OSError as exc:  # what was not taken yet cannot be flushed any more
                log.debug("the helper's pipe: %s", exc)
        return status

    def _read_lines(self) -> None:
        assert self.popen.stdout is not None
        while line := self.popen.stdout.readline(LONGEST_LINE):
            self.lines.put(line)
        self.lines.put(None)

    def _read_words(self) -> None:
        assert self.popen.stderr is not None
        while line := self.popen.stderr.readline(4096):
            text = line.decode("utf-8", "replace").strip()
            if text:
                self.last_words = text
                log.debug("helper %d: %s", self.popen.pid, text)


class Supervisor:
    """
    The helper of one source; used by the source's worker thread alone (`close` may come from it, too).

    One request is in flight at a time. A helper that misses a limit, ends, or says what is no answer is ended and never
    asked again; the next one is started after a pause that doubles with each failure.
    """

    def __init__(
        self,
        source: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._command = tuple(command)
        self._environment = environment
        self._patience = patience if patience is not None else Patience()
        self._monotonic = monotonic
        self._lifeline: Lifeline | None = None
        self._process: _Process | None = None
        self._started = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._last_error: SourceError | None = None
        self._ids = 0
        self.hello: Hello | None = None
        """What the helper that runs said of itself; None while none is ready."""

    def ask(
        self, do: Literal["list", "stop", "probe"], *, limit: timedelta, server: str, instance: str | None = None
    ) -> bytes:
        """
        The line with which the helper answers; its `id` is still to be compared by `check_id`.

        Raises `SourceError` after at most `limit`. A helper that is still starting then goes on starting.
        """
        deadline = self._monotonic() + limit.total_seconds()
        process = self._ready(deadline)
        self._ids += 1
        request = Request(id=self._ids, do=do, server=server, instance=instance)
        process.send(msgspec.json.encode(request) + b"\n")
        line = self._next_line(process, deadline, f"no answer to {do!r} within {limit.total_seconds():g} s")
        if not line.startswith(b'{"id":%d,' % self._ids):
            raise self._failed(
                SourceBroken(f"{self._source}: the helper said what is no answer to request {self._ids}")
            )
        self._failures = 0
        return line

    def broke_the_protocol(self, why: str) -> SourceError:
        """Ends the helper because its answer could not be understood; the error to raise."""
        return self._failed(SourceBroken(f"{self._source}: the helper's answer cannot be understood: {why}"))

    def close(self) -> None:
        """Ends the helper. May be called twice; a later `ask` starts another."""
        self._end()
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None

    def _ready(self, deadline: float) -> _Process:
        if self.hello is not None and self._monotonic() - self._started > self._patience.life.total_seconds():
            log.info("source %s: replacing the helper after %s", self._source, self._patience.life)
            self._end()
        process = self._process if self._process is not None else self._start()
        if self.hello is None:
            self.hello = self._greet(process, deadline)
        return process

    def _start(self) -> _Process:
        wait = self._not_before - self._monotonic()
        if wait > 0 and self._last_error is not None:
            error = type(self._last_error)(f"{self._last_error}; the helper is tried again in {wait:.0f} s")
            raise error from self._last_error
        if self._lifeline is None:
            self._lifeline = Lifeline()
        try:
            self._process = _Process(self._command, self._environment, self._lifeline)
        except OSError as exc:
            raise self._failed(SourceMissing(f"{self._source}: the helper cannot be started: {exc}")) from exc
        self._started = self._monotonic()
        return self._process

    def _greet(self, process: _Process, deadline: float) -> Hello:
        limit = self._started + self._patience.start.total_seconds()
        if deadline < limit:
            try:
                line = process.lines.get(timeout=max(deadline - self._monotonic(), 0))
            except queue.Empty:
                waited = self._monotonic() - self._started
                raise SourceTimeout(f"{self._source}: the helper is still starting, for {waited:.0f} s") from None
            if line is None:
                raise self._failed(self._ended(process))
        else:
            line = self._next_line(process, limit, f"the helper did not start within {self._patience.start}")
        try:
            said = msgspec.json.decode(line, type=dict)
            if "failed" in said:
                trouble = msgspec.convert(said, Failed).failed
                raise self._failed(error_for(self._source, trouble))
            hello = msgspec.convert(said, Hello)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            raise self._failed(SourceBroken(f"{self._source}: the helper did not say hello but {line[:80]!r}")) from exc
        if hello.hello != PROTOCOL_VERSION:
            text = f"{self._source}: the helper speaks protocol {hello.hello}, this exporter {PROTOCOL_VERSION}"
            raise self._failed(SourceBroken(text))
        log.info("source %s: helper %d holds %s", self._source, hello.pid, hello.assembly)
        return hello

    def _next_line(self, process: _Process, deadline: float, too_late: str) -> bytes:
        try:
            line = process.lines.get(timeout=max(deadline - self._monotonic(), 0))
        except queue.Empty:
            raise self._failed(SourceTimeout(f"{self._source}: {too_late}; the helper was ended")) from None
        if line is None:
            raise self._failed(self._ended(process))
        return line

    def _ended(self, process: _Process) -> SourceError:
        status = process.popen.wait()
        words = f": {process.last_words}" if process.last_words else ""
        return SourceUnreachable(f"{self._source}: the helper ended with status {status}{words}")

    def _failed(self, error: SourceError) -> SourceError:
        self._end()
        self._failures += 1
        pause = self._patience.first_pause.total_seconds() * 2 ** min(self._failures - 1, 30)
        pause = min(pause, self._patience.longest_pause.total_seconds())
        # Spread, so that the helpers of a machine that came back do not all start in one moment.
        self._not_before = self._monotonic() + pause * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
        self._last_error = error
        return error

    def _end(self) -> None:
        self.hello = None
        if self._process is not None:
            process, self._process = self._process, None
            process.end()
