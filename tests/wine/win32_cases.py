"""
What only Windows runs of the managed API: the helper's start without a window, its job object, its end, its pipes; the
services.

Run by a Windows Python, real or under Wine (see `run`). The supervisor is the real one; the helper is a few lines of
Python instead of pythonnet, which needs a .NET Framework.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from ssis_exporter.errors import SourceBroken, SourceError, SourceMissing, SourceTimeout, SourceUnreachable
from ssis_exporter.model import Scope, Snapshot
from ssis_exporter.sources.dts import DtsSettings, DtsSource
from ssis_exporter.sources.dts.lifeline import start_options
from ssis_exporter.sources.dts.services import is_installed, running_releases
from ssis_exporter.sources.dts.source import interpreter
from ssis_exporter.sources.dts.supervisor import HelperStarting, Patience
from tests.wine.fake_helper import LINES, LONG, TEXT

assert sys.platform == "win32"

PAUSES = {"first_pause": timedelta(milliseconds=1), "longest_pause": timedelta(milliseconds=2)}
HELPER = str(Path(__file__).with_name("fake_helper.py"))
SECONDS = 60
UNDER_WINE = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def source_in(folder: Path, *, seconds: float = 30, **patience: timedelta) -> DtsSource:
    """A source whose helper is the fake one, in this folder."""
    settings = DtsSettings(helper=(sys.executable, HELPER, str(folder)), time_limit=timedelta(seconds=seconds))
    return DtsSource("local", settings, patience=Patience(**{**PAUSES, **patience}))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[DtsSource]:
    """A source with a helper that is ready."""
    made = source_in(tmp_path)
    look(made)
    yield made
    made.close()


def look(source: DtsSource) -> Snapshot:
    """What it sees once its helper has started."""
    while True:
        try:
            return source.snapshot()
        except HelperStarting:
            continue


def failure(source: DtsSource) -> SourceError:
    """How a look fails."""
    with pytest.raises(SourceError) as caught:
        look(source)
    return caught.value


def can_look(source: DtsSource) -> bool:
    """Whether it answers now."""
    try:
        return len(look(source).executions) == 1
    except SourceError:
        return False


def obey(folder: Path, mode: str) -> None:
    """Tells the helper how to behave."""
    (folder / "mode").write_text(mode)


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
    until(path.exists, str(path))
    return int(path.read_text())


def test_pipes_carry_every_letter(source: DtsSource) -> None:
    """
    Names come through the pipe as they are, in UTF-8, with line ends and the old end-of-file character in them.
    """
    seen = look(source)

    assert TEXT == seen.executions[0].facts.package_name
    assert LINES == seen.executions[0].facts.description
    assert Scope.ALL == seen.visibility.scope


def test_a_line_of_megabytes_arrives(source: DtsSource, tmp_path: Path) -> None:
    """
    An answer longer than any pipe's buffer arrives whole.
    """
    obey(tmp_path, "long")
    seen = {run.key.instance_id: run.facts.package_name for run in look(source).executions}

    assert 3001 == len(seen)
    assert {TEXT, LONG} == set(seen.values())


def test_what_it_prints_on_standard_error_keeps_nobody_waiting(source: DtsSource, tmp_path: Path) -> None:
    """
    A helper that fills the other pipe with warnings still answers.
    """
    obey(tmp_path, "much on standard error")

    assert 1 == len(look(source).executions)


def test_the_helper_has_no_window_and_is_in_a_job(source: DtsSource) -> None:
    """
    It starts without a console window, in a process group of its own and in a job object.
    """
    flags = start_options()["creationflags"]

    assert {"window": 0, "in_job": 1} == source.probe()
    assert subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP == flags


def test_last_words_are_told(source: DtsSource, tmp_path: Path) -> None:
    """
    What a helper says when it ends is in the error, in its own letters.
    """
    obey(tmp_path, "last words")

    assert f"the helper ended with status 1: {TEXT}: es ist vorbei" in str(failure(source))


@pytest.mark.parametrize(
    ("mode", "kind", "says"),
    [
        ("crash", SourceUnreachable, "the helper ended with status 3221225477"),
        ("junk", SourceBroken, "cannot be understood"),
        ("cut", SourceUnreachable, "the helper ended with status 0"),
        ("no utf-8", SourceBroken, "cannot be understood: 'utf-8' codec"),
        ("lone surrogate", SourceBroken, "cannot be understood"),
        ("wrong id", SourceBroken, "no answer to request"),
        ("flood", SourceBroken, "cannot be understood"),
        ("hang", SourceTimeout, "the helper was ended"),
    ],
)
def test_what_is_no_answer_ends_the_helper(tmp_path: Path, mode: str, kind: type[SourceError], says: str) -> None:
    """
    A helper that crashes, hangs or says what is no answer is gone, whatever it still had to say; the next one answers.
    """
    source = source_in(tmp_path, seconds=3 if mode == "hang" else 30)
    until(lambda: can_look(source), "a first answer")
    pid = pid_in(tmp_path / "pid")
    obey(tmp_path, mode)
    error = failure(source)
    gone = is_gone(pid)
    obey(tmp_path, "")
    until(lambda: can_look(source), "an answer")
    source.close()

    assert (kind, True) == (type(error), gone)
    assert says in str(error)


@pytest.mark.parametrize(
    ("mode", "kind", "says"),
    [
        ("silent", SourceTimeout, "the helper did not start within"),
        ("junk first", SourceBroken, "did not say hello"),
        ("ends at once", SourceUnreachable, "the helper ended with status 1: no CLR here"),
        ("another version", SourceBroken, "speaks protocol 99"),
    ],
)
def test_a_start_that_fails_ends_the_helper(tmp_path: Path, mode: str, kind: type[SourceError], says: str) -> None:
    """
    A helper that does not say hello in time, or something else, is gone; the next one answers.
    """
    obey(tmp_path, mode)
    source = source_in(tmp_path, start=timedelta(seconds=3 if mode == "silent" else 60))
    error = failure(source)
    gone = is_gone(pid_in(tmp_path / "pid"))
    source.close()
    obey(tmp_path, "")
    patient = source_in(tmp_path)
    until(lambda: can_look(patient), "an answer")
    patient.close()

    assert (kind, True) == (type(error), gone)
    assert says in str(error)


def test_a_slow_start_goes_on_between_looks(tmp_path: Path) -> None:
    """
    A look that is over before the helper says hello does not end it.
    """
    source = source_in(tmp_path, seconds=0.01)
    with pytest.raises(HelperStarting, match="still starting"):
        source.snapshot()
    first = pid_in(tmp_path / "pid")
    until(lambda: not isinstance(attempt(source), HelperStarting), "the end of its start")
    last = pid_in(tmp_path / "pid")
    source.close()

    assert first == last
    assert is_gone(first)


def attempt(source: DtsSource) -> SourceError | None:
    """What became of one look."""
    try:
        source.snapshot()
    except SourceError as exc:
        return exc
    return None


def test_failures_leave_nothing_behind(tmp_path: Path) -> None:
    """
    Threads, handles and processes are as many after many failed helpers as after the first.
    """
    source = source_in(tmp_path)
    me = psutil.Process()

    def fail_and_recover(mode: str) -> None:
        look(source)
        pid = pid_in(tmp_path / "pid")
        obey(tmp_path, mode)
        failure(source)
        assert is_gone(pid)
        obey(tmp_path, "")
        until(lambda: can_look(source), "an answer")

    for mode in ("junk", "crash", "cut"):
        fail_and_recover(mode)
    threads, handles = me.num_threads(), me.num_handles()
    for mode in ("junk", "crash", "cut") * 4:
        fail_and_recover(mode)

    assert me.num_threads() <= threads
    # A few more or less are Python's own.
    assert me.num_handles() <= handles + 6
    source.close()


def test_a_helper_that_hangs_is_given_up(tmp_path: Path) -> None:
    """
    When the exporter ends, a look that hangs fails, and its helper is gone.
    """
    source = source_in(tmp_path, seconds=600)
    until(lambda: can_look(source), "a first answer")
    pid = pid_in(tmp_path / "pid")
    obey(tmp_path, "hang")
    with ThreadPoolExecutor(1) as thread:
        error = thread.submit(failure, source)
        source.give_up()
        assert "is closing this source" in str(error.result(SECONDS))

    assert is_gone(pid)


def test_what_the_helper_started_ends_with_it(tmp_path: Path) -> None:
    """
    As under `python.exe` of a virtual environment, which only starts another: its child ends, too.
    """
    source = source_in(tmp_path, seconds=3)
    until(lambda: can_look(source), "a first answer")
    obey(tmp_path, "family")
    error = failure(source)
    child = pid_in(tmp_path / "child")
    until(lambda: is_gone(child), "the end of the helper's child")
    source.close()

    assert isinstance(error, SourceTimeout)


EXPORTER = """
import sys
from datetime import timedelta
from pathlib import Path
from tests.wine.win32_cases import look, obey, source_in

folder = Path(sys.argv[1])
source = source_in(folder, seconds=600)
look(source)
obey(folder, sys.argv[2])
print("ready", flush=True)
if sys.argv[2]:
    look(source)
sys.stdin.read()
"""


@pytest.mark.parametrize("mode", ["", "hang", "family"])
def test_no_helper_survives_the_exporter(tmp_path: Path, mode: str) -> None:
    """
    The exporter ended by TerminateProcess takes its helper along, one that hangs and one with a child, too.
    """
    exporter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(EXPORTER), str(tmp_path), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert exporter.stdout is not None
        assert b"ready" == exporter.stdout.readline().strip()
        family = [pid_in(tmp_path / "pid")]
        if mode == "family":
            family.append(pid_in(tmp_path / "child"))
        alive = [pid for pid in family if not is_gone(pid)]
    finally:
        exporter.kill()
        exporter.communicate(timeout=SECONDS)
    until(lambda: all(map(is_gone, family)), "the end of the helper and its child")

    assert family == alive


def test_the_real_helper_says_what_is_missing() -> None:
    """
    Our own helper starts under this Python, speaks the protocol, and says in words what it does not find.
    """
    has_pythonnet = importlib.util.find_spec("pythonnet") is not None
    missing = "Microsoft.SqlServer.ManagedDTS" if has_pythonnet else r"needs pythonnet.*ssis-exporter\[dts\]"
    source = DtsSource("local", DtsSettings(time_limit=timedelta(seconds=30)), patience=Patience(**PAUSES))
    try:
        with pytest.raises(SourceMissing, match=missing):
            look(source)
    finally:
        source.close()


def test_a_helper_that_is_no_program_is_told(tmp_path: Path) -> None:
    """
    A helper command that Windows cannot start is one sentence.
    """
    source = DtsSource("local", DtsSettings(helper=(str(tmp_path / "no such.exe"),)), patience=Patience(**PAUSES))
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


@pytest.mark.skipif(not UNDER_WINE, reason="on a real machine no service is made up")
def test_releases_are_those_of_services_that_run(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A service that is there and does not run is no release; once it runs, it is, whatever fails at another one. What
    cannot be asked is taken to be there.
    """
    before = running_releases()
    installed = is_installed(160), is_installed(150)
    subprocess.run(["sc", "start", service], check=True, timeout=SECONDS)
    until(lambda: running_releases() == [160], "the service")
    ask = psutil.win_service_get

    def trouble(name: str) -> Any:
        if name == "MsDtsServer170":
            raise OSError(22, "The parameter is incorrect", None, 87)
        if name == "MsDtsServer150":
            raise psutil.AccessDenied
        return ask(name)

    monkeypatch.setattr(psutil, "win_service_get", trouble)
    beside_trouble = running_releases()

    assert [] == before
    assert (True, False) == installed
    assert [160] == beside_trouble
    assert is_installed(170)
