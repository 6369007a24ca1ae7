"""One started helper and its pipes."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ssis_exporter.sources.dts.lifeline import Lifeline, start_options

log = logging.getLogger(__name__)

LONGEST_LINE = 64 * 1024 * 1024
"""A listing of 100 000 packages is below half of it."""

MOST_WAITING = 3
"""A helper says one line a request; one that says more than these unasked is read no further."""

END_SECONDS = 1.0
"""Between the end of its output and its own end."""

READER_SECONDS = 5.0
"""How long after its end the pipes may stay open, because something that it started holds them."""


class HelperProcess:
    """
    Started in the constructor, ended by `end`.

    The thread that reads its output is also the one that starts it: the kernel ties a helper to the *thread* that
    started it (prctl(2), PR_SET_PDEATHSIG), and this one lives exactly as long as there is output to read. Whoever
    calls may be a thread that ends long before the helper should.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        """Raises `OSError`."""
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """What it says; None when that is all."""

        self.last_words = ""
        """The last line of its standard error that has words."""

        options: dict[str, Any] = dict(start_options())
        if environment is not None:
            options["env"] = {**os.environ, **environment}
        started: Future[subprocess.Popen[bytes]] = Future()
        out = threading.Thread(
            target=self._start_and_read, args=(command, options, started), name="dts-helper-out", daemon=True
        )
        err = threading.Thread(target=self._read_words, args=(started,), name="dts-helper-err", daemon=True)
        try:
            # Both before the helper: one that nobody could listen to is not started.
            err.start()
            out.start()
        except RuntimeError as exc:
            failed = OSError(f"no thread for it: {exc}")
            started.set_exception(failed)
            raise failed from exc
        try:
            self._popen = started.result()
        except BaseException:
            out.join()
            raise
        self._readers = (out, err)

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._popen.pid

    def send(self, line: bytes) -> None:
        """Writes one request; a helper that is gone is noticed at the answer."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line)
            self._popen.stdin.flush()
        except OSError as exc:
            log.debug("the helper does not take requests: %s", exc)

    def ends_by_itself(self) -> bool:
        """Whether one whose output has ended does so within a moment: its exit status is then its own."""
        until = time.monotonic() + END_SECONDS
        while not self._lifeline.has_ended():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def end(self) -> int | None:
        """Ends it and what it started, lets go of all that belonged to it; its exit status, as far as there is one."""
        status = self._lifeline.end()
        until = time.monotonic() + READER_SECONDS
        for reader in self._readers:
            reader.join(max(until - time.monotonic(), 0))
        if any(reader.is_alive() for reader in self._readers):
            # A pipe that somebody reads cannot be closed.
            log.warning("helper %d was ended, and something still holds its output", self._popen.pid)
            return status
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            try:
                pipe.close()
            except OSError as exc:  # what was not taken yet cannot be flushed any more
                log.debug("the helper's pipe: %s", exc)
        return status

    def _start_and_read(
        self, command: Sequence[str], options: Mapping[str, Any], started: Future[subprocess.Popen[bytes]]
    ) -> None:
        try:
            popen = subprocess.Popen(  # noqa: S603 - our own interpreter, or the command of the configuration
                [*command, "--parent", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **options,
            )
            try:
                self._lifeline = Lifeline(popen)
            except OSError:
                for pipe in (popen.stdin, popen.stdout, popen.stderr):
                    assert pipe is not None
                    pipe.close()
                raise
        except BaseException as exc:  # noqa: BLE001 - raised where the helper was asked for
            started.set_exception(exc)
            return
        started.set_result(popen)
        assert popen.stdout is not None
        while line := popen.stdout.readline(LONGEST_LINE):
            is_whole = line.endswith(b"\n")
            if is_whole or len(line) == LONGEST_LINE:
                self.lines.put(line)
            # What breaks off is no answer: the helper has ended.
            if not is_whole or self.lines.qsize() > MOST_WAITING:
                break
        self.lines.put(None)

    def _read_words(self, started: Future[subprocess.Popen[bytes]]) -> None:
        if started.exception() is not None:
            return
        popen = started.result()
        assert popen.stderr is not None
        while line := popen.stderr.readline(4096):
            text = line.decode("utf-8", "replace").strip()
            # The dump of a CLR that crashed ends with a rule.
            if any(character.isalnum() for character in text):
                self.last_words = text
                log.debug("helper %d: %s", popen.pid, text)
