"""Real processes that look like dtexec's: any kernel name, any arguments; told over a pipe what to do."""

from __future__ import annotations

import atexit
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

from tests.real import cannot_run, need_program

SOURCE = Path(__file__).with_name("estate.c")
SEPARATOR = "\x1f"


@cache
def compiled() -> Path:
    """The program of `estate.c`, compiled once; skips where there is no C compiler or no Linux."""
    if not os.path.isdir("/proc/self"):
        cannot_run("there is no /proc on this machine")
    cc = need_program("cc", "gcc")
    folder = mkdtemp(prefix="ssis-estate-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = Path(folder) / "program"
    # Static, because a thousand of them start several times as fast.
    for options in (["-static"], []):
        command = [cc, "-O1", "-pthread", *options, "-o", str(made), str(SOURCE)]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            break
    else:
        cannot_run("the C compiler cannot link a program")
    return made


class Child:
    """One process of an estate. It ends when its end of the pipe closes, so it never outlives the test."""

    def __init__(self, process: subprocess.Popen[bytes], *, ready: bool = True) -> None:
        self.process = process
        self.pid = process.pid
        self.program_pid = process.pid
        """Of the program itself, which may stand below a script."""
        if ready:
            self.await_ready()

    def await_ready(self) -> None:
        """Waits until the program runs and listens; where a script comes first, its line must be told before."""
        self.program_pid = self._answer()

    def say(self, command: str, *fields: object) -> int:
        """Gives one command of `estate.c` and returns its answer once it is done."""
        self.tell(command, *fields)
        return self._answer()

    def tell(self, command: str, *fields: object) -> None:
        """Writes a line for who reads it: a script, or a command that is never answered (`exit`)."""
        assert self.process.stdin is not None
        line = SEPARATOR.join([command, *map(str, fields)])
        self.process.stdin.write(os.fsencode(line) + b"\n")
        self.process.stdin.flush()

    def child(self, path: Path, *argv: str) -> int:
        """Starts a program of the estate below this process; its pid, once it has become that program."""
        return self.say("child", path, *argv)

    def signal(self, number: int) -> None:
        """Sends a signal to the process itself."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Ends it, waits until it is gone for good (no zombie is left) and returns its exit status."""
        if self.process.poll() is None:
            self.process.kill()
        return self.wait()

    def wait(self, timeout: float = 30) -> int:
        """Waits for its end."""
        status = self.process.wait(timeout)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return status

    def wait_until_zombie(self) -> None:
        """Waits until it has ended and leaves it a zombie; `end` takes it away."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    @staticmethod
    def wait_until_asleep(pid: int, seconds: float = 30) -> None:
        """Waits until a process has done what it was told and only waits."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with open(f"/proc/{pid}/stat", "rb") as line:
                if line.read().rsplit(b") ", 1)[1][:1] == b"S":
                    return
            os.sched_yield()
        raise AssertionError(f"process {pid} of the estate does not come to rest")

    @staticmethod
    def wait_until_gone(pid: int, seconds: float = 30) -> None:
        """Waits until a process that is not a child of this one has ended and is no zombie any more."""
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            ready = select.select([handle], [], [], seconds)[0]
        finally:
            os.close(handle)
        if not ready:
            raise AssertionError(f"process {pid} of the estate does not end")
        deadline = time.monotonic() + seconds
        # Its parent takes the zombie away in its own time.
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            os.sched_yield()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"process {self.pid} of the estate ended instead of answering")
        return int(line)


class Estate:
    """
    Starts processes and ends them all.

    `program("dtexec")` is the path of a program whose kernel name is `dtexec`; `start` runs one and returns when
    it waits for commands. `nursery()` starts others by the thousand.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def program(self, name: str) -> Path:
        """A program of that file name; the kernel takes its first 15 bytes as the name of the process."""
        path = self.folder / "bin" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(compiled(), path)
            path.chmod(0o755)
        return path

    def start(
        self,
        name: str,
        *arguments: str,
        argv0: str | None = None,
        ignores_term: bool = False,
        user: int | None = None,
        cwd: Path | None = None,
    ) -> Child:
        """Runs a program of that name with these arguments; it waits for commands until it is told to end."""
        path = self.program(name)
        return self.run(
            path, [argv0 if argv0 is not None else str(path), *arguments], ignores_term=ignores_term, user=user, cwd=cwd
        )

    def run(
        self,
        path: Path,
        argv: Sequence[str],
        *,
        ignores_term: bool = False,
        user: int | None = None,
        cwd: Path | None = None,
        ready: bool = True,
    ) -> Child:
        """Runs a file that becomes a program of the estate (a script that execs one, for example)."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ESTATE_")}
        if ignores_term:
            environment["ESTATE_IGNORES_TERM"] = "1"
        child = Child(
            subprocess.Popen(
                argv,
                executable=str(path),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                user=user,
                group=user,
                extra_groups=[] if user is not None else None,
                cwd=cwd,
            ),
            ready=ready,
        )
        self._children.append(child)
        return child

    def nursery(self) -> Nursery:
        """A process that starts others below itself."""
        return Nursery(self, self.start("nursery"))

    def script(self, name: str, text: str) -> Path:
        """An executable script; its first line names its interpreter."""
        path = self.folder / "scripts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def close(self) -> None:
        """Ends all that is left; may be called twice."""
        for child in self._children:
            child.end()
        self._children.clear()


class Nursery:
    """Starts processes below one parent, quickly and many; they end with it."""

    def __init__(self, estate: Estate, parent: Child) -> None:
        self.estate = estate
        self.parent = parent

    def start(self, name: str, *arguments: str) -> int:
        """Starts one and returns its pid, once it has become that program."""
        path = self.estate.program(name)
        return self.parent.child(path, str(path), *arguments)

    def crowd(self, count: int, name: str, *arguments: str, first: int = 0) -> None:
        """Starts many at once; `{n}` in an argument becomes the number of the process."""
        path = self.estate.program(name)
        started = self.parent.say("crowd", first, count, path, path, *arguments)
        assert count == started

    def end(self, pids: Iterable[int]) -> None:
        """Ends these and takes their zombies away."""
        for pid in pids:
            self.parent.say("end", pid)


def term_ignored(pid: int) -> bool:
    """Whether a process ignores SIGTERM, as the kernel says."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        ignored = next(line for line in status if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) & (1 << (signal.SIGTERM - 1)))
