"""
What only Windows runs: the helper's start without a window, its job object, its end, its pipes; the services.

Run by a Windows Python, real or under Wine (see `run`). The helper is a few lines of Python instead of pythonnet, which
needs a .NET Framework.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from ssis_exporter.errors import SourceError, SourceMissing, SourceTimeout
from ssis_exporter.model import Scope
from ssis_exporter.sources.dts import DtsSettings, DtsSource
from ssis_exporter.sources.dts.services import running_releases
from ssis_exporter.sources.dts.source import interpreter
from ssis_exporter.sources.dts.supervisor import HelperStarting, Patience

assert sys.platform == "win32"

QUICK = Patience(first_pause=timedelta(milliseconds=1), longest_pause=timedelta(milliseconds=2))
SECONDS = 60

HELPER = """
import ctypes, json, os, subprocess, sys, time

folder = os.path.dirname(os.path.abspath(__file__))
sys.stdout.reconfigure(encoding="utf-8", newline="\\n")
sys.stderr.reconfigure(encoding="utf-8")
# The tests' own file: which process is the helper.
with open(os.path.join(folder, "pid"), "w") as file:
    file.write(str(os.getpid()))


def mode():
    path = os.path.join(folder, "mode")
    return open(path).read() if os.path.exists(path) else ""


def say(**what):
    print(json.dumps(what, ensure_ascii=False), flush=True)


say(hello=1, pid=os.getpid(), release=160, assembly="X, Version=16.0.0.0", machine="M", elevated=True)
for line in sys.stdin.buffer:
    request = json.loads(line)
    if mode() == "hang":
        time.sleep(600)
    if mode() == "family":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(os.path.join(folder, "child"), "w") as file:
            file.write(str(child.pid))
        time.sleep(600)
    if mode() == "last words":
        sys.exit("Ünïcode 名前: es ist vorbei")
    if request["do"] == "probe":
        in_job = ctypes.c_int()
        kernel32 = ctypes.windll.kernel32
        kernel32.IsProcessInJob(ctypes.c_void_p(-1), None, ctypes.byref(in_job))
        say(id=request["id"], ok={"probe": {"window": kernel32.GetConsoleWindow(), "in_job": in_job.value}})
    else:
        row = {"instance": "a", "name": "Ünïcode 名前 \\U0001f680", "description": "one\\r\\ntwo\\x1a"}
        say(id=request["id"], ok={"running": ["a"], "rows": [row]})
"""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[DtsSource]:
    """A source with the helper above."""
    path = tmp_path / "helper.py"
    path.write_text(HELPER, encoding="utf-8")
    made = DtsSource(
        "local",
        DtsSettings(helper=(sys.executable, str(path)), time_limit=timedelta(seconds=4)),
        patience=QUICK,
    )
    yield made
    made.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for what must happen."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether no process has this number."""
    return not psutil.pid_exists(pid)


def pid_in(path: Path) -> int:
    """A process that wrote its number down."""
    until(lambda: path.exists() and path.read_text() != "", str(path))
    return int(path.read_text())


def until_it_fails(source: DtsSource) -> SourceError:
    """Looks until the helper has failed; how."""
    while True:
        try:
            source.first_snapshot()
        except HelperStarting:
            continue
        except SourceError as exc:
            return exc


def test_pipes_carry_every_letter(source: DtsSource) -> None:
    """
    Names come through the pipe as they are, in UTF-8, with line ends and the old end-of-file character in them.
    """
    seen = source.first_snapshot()

    assert "Ünïcode 名前 \U0001f680" == seen.executions[0].facts.package_name
    assert "one\r\ntwo\x1a" == seen.executions[0].facts.description
    assert Scope.ALL == seen.visibility.scope


def test_the_helper_has_no_window_and_is_in_a_job(source: DtsSource) -> None:
    """
    It starts without a console window, in a job object.
    """
    source.first_snapshot()
    probed = source.probe()

    assert {"window": 0, "in_job": 1} == probed


def test_last_words_are_told(source: DtsSource, tmp_path: Path) -> None:
    """
    What a helper says when it ends is in the error, in its own letters.
    """
    source.first_snapshot()
    (tmp_path / "mode").write_text("last words")

    assert "the helper ended with status 1: Ünïcode 名前: es ist vorbei" in str(until_it_fails(source))


def test_a_hang_is_ended_and_recovered_from(source: DtsSource, tmp_path: Path) -> None:
    """
    A helper that hangs is gone at the limit, and the next one answers; nothing piles up.
    """
    source.first_snapshot()
    threads = psutil.Process().num_threads()
    for _ in range(3):
        pid = pid_in(tmp_path / "pid")
        (tmp_path / "mode").write_text("hang")
        assert isinstance(until_it_fails(source), SourceTimeout)
        assert is_gone(pid)
        (tmp_path / "mode").write_text("")
        until(lambda: can_look(source), "an answer")

    assert psutil.Process().num_threads() <= threads


def can_look(source: DtsSource) -> bool:
    """Whether it answers now."""
    try:
        return len(source.first_snapshot().executions) == 1
    except SourceError:
        return False


def test_what_the_helper_started_ends_with_it(source: DtsSource, tmp_path: Path) -> None:
    """
    As under `python.exe` of a virtual environment, which only starts another: its child ends, too.
    """
    source.first_snapshot()
    (tmp_path / "mode").write_text("family")
    until_it_fails(source)
    source.close()
    child = pid_in(tmp_path / "child")

    until(lambda: is_gone(child), "the end of the helper's child")


@pytest.mark.parametrize("mode", ["", "hang"])
def test_no_helper_survives_the_exporter(tmp_path: Path, mode: str) -> None:
    """
    The exporter ended by TerminateProcess takes its helper along, also one that hangs.
    """
    (tmp_path / "helper.py").write_text(HELPER, encoding="utf-8")
    script = textwrap.dedent(
        """
        import sys
        from datetime import timedelta
        from ssis_exporter.sources.dts import DtsSettings, DtsSource
        settings = DtsSettings(helper=(sys.executable, sys.argv[1]), time_limit=timedelta(seconds=600))
        source = DtsSource("local", settings)
        source.first_snapshot()
        open(sys.argv[2], "w").write(sys.argv[3])
        print("ready", flush=True)
        source.first_snapshot()
        sys.stdin.read()
        """
    )
    arguments = [str(tmp_path / "helper.py"), str(tmp_path / "mode"), mode]
    exporter = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert exporter.stdout is not None
    assert b"ready" == exporter.stdout.readline().strip()
    helper = pid_in(tmp_path / "pid")
    assert not is_gone(helper)
    exporter.kill()
    exporter.communicate(timeout=SECONDS)

    until(lambda: is_gone(helper), "the end of the helper")


def test_the_real_helper_says_what_is_missing() -> None:
    """
    Our own helper starts under this Python, speaks the protocol, and says in words that pythonnet is not installed.
    """
    source = DtsSource("local", DtsSettings(time_limit=timedelta(seconds=30)), patience=QUICK)
    try:
        with pytest.raises(SourceMissing, match=r"needs pythonnet.*ssis-exporter\[dts\]"):
            source.first_snapshot()
    finally:
        source.close()


def test_a_helper_that_is_no_program_is_told(tmp_path: Path) -> None:
    """
    A helper command that Windows cannot start is one sentence.
    """
    source = DtsSource("local", DtsSettings(helper=(str(tmp_path / "no such.exe"),)), patience=QUICK)
    with pytest.raises(SourceMissing, match="the helper cannot be started"):
        source.snapshot()
    source.close()


def test_a_service_starts_its_helper_with_a_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Inside pythonservice.exe the helper is started by the python.exe beside it.
    """
    beside = Path(sys.executable)
    monkeypatch.setattr(sys, "executable", str(beside.with_name("pythonservice.exe")))

    assert beside == Path(interpreter())


@pytest.fixture
def service() -> Iterator[str]:
    """A service called as SQL Server's, whose program is one that every Windows has."""
    name = "MsDtsServer160"
    program = Path(os.environ["SYSTEMROOT"]) / "system32" / "spoolsv.exe"
    display = ("DisplayName=", "SQL Server Integration Services 16.0")
    subprocess.run(
        ["sc", "create", name, "binPath=", str(program), "type=", "own", *display], check=True, timeout=SECONDS
    )
    yield name
    subprocess.run(["sc", "stop", name], check=False, timeout=SECONDS)
    subprocess.run(["sc", "delete", name], check=True, timeout=SECONDS)


def test_releases_are_those_of_services_that_run(service: str) -> None:
    """
    A service that is there and does not run is no release; once it runs, it is.
    """
    before = running_releases()
    subprocess.run(["sc", "start", service], check=True, timeout=SECONDS)
    until(lambda: running_releases() == [160], "the service")

    assert [] == before
