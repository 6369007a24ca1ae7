"""Runs the installed command `ssis-exporter`, as an operator does."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

COMMAND = Path(sysconfig.get_path("scripts")) / ("ssis-exporter.exe" if os.name == "nt" else "ssis-exporter")

SECONDS = 60
"""A generous deadline for anything that takes part of a second on an idle machine."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def run(*arguments: str | Path, env: dict[str, str] | None = None, module: bool = False) -> Done:
    """Runs a command that ends by itself; `module` for `python -m ssis_exporter`."""
    command = [sys.executable, "-m", "ssis_exporter"] if module else [str(COMMAND)]
    with tempfile.TemporaryDirectory(prefix="ssis-exporter-test-", ignore_cleanup_errors=True) as state:
        done = subprocess.run(
            [*command, *map(str, arguments)],
            check=False,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            env={**os.environ, "STATE_DIRECTORY": state, **(env or {})},
        )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Answer:
    """What a URL answered."""

    status: int
    text: str


class Serving:
    """
    `ssis-exporter serve` or `demo` on a free port of loopback, from the line that says so until the block ends.

    `wait_for` finds lines of its log, in order; `stop` ends it as an operator does and gives the exit code.
    """

    def __init__(self, *arguments: str | Path, command: str = "serve", env: dict[str, str] | None = None) -> None:
        self._arguments = [command, "--web.listen-address", "127.0.0.1:0", *map(str, arguments)]
        # A folder of its own: two exporters in one would be one too many.
        self._state = tempfile.TemporaryDirectory(prefix="ssis-exporter-test-", ignore_cleanup_errors=True)
        self._env = {**os.environ, "STATE_DIRECTORY": self._state.name, **(env or {})}
        self._new: queue.Queue[str | None] = queue.Queue()
        self.lines: list[str] = []
        self.out: list[str] = []

    def __enter__(self) -> Serving:
        self.process = subprocess.Popen(
            [str(COMMAND), *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=self._env,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._readers = [
            threading.Thread(target=self._read_log, daemon=True),
            threading.Thread(target=self._read_out, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            line = self.wait_for(r"listening on 127\.0\.0\.1:\d+")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
        assert found is not None
        self.port = int(found[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self._state.cleanup()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, pattern: str) -> str:
        """The next line of the log that holds the pattern."""
        while True:
            try:
                line = self._new.get(timeout=SECONDS)
            except queue.Empty:
                raise AssertionError(f"no line with {pattern!r} within {SECONDS} s; the log: {self.lines}") from None
            if line is None:
                raise AssertionError(f"it ended without a line with {pattern!r}; the log: {self.lines}")
            if re.search(pattern, line):
                return line

    def get(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
        """What a path answers, errors too."""
        request = urllib.request.Request(self.url + path, method=method, headers=headers or {})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=SECONDS) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as exc:
            with exc:
                return Answer(exc.code, exc.read().decode())

    def stop(self, number: int | None = None) -> int:
        """Asks it to end (SIGTERM, on Windows Ctrl-Break) and waits for its exit code."""
        self.signal(number if number is not None else getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        return self.wait()

    def signal(self, number: int) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Waits for its end and the last of its log; gives the exit code."""
        code = self.process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        return code

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self._read(self.process.stderr, self.lines, self._new.put)

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        self._read(self.process.stdout, self.out, lambda _: None)

    def _read(self, stream: object, kept: list[str], tell: Callable[[str | None], None]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            kept.append(line.rstrip("\n"))
            tell(line.rstrip("\n"))
        tell(None)
