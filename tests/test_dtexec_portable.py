"""Reading processes through psutil, which stands for Windows here: its rules, tried on real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from ssis_exporter.errors import ConfigError, IdentityUnknown, SourceAccessDenied, SourceBroken
from ssis_exporter.model import Scope
from ssis_exporter.sources.dtexec import DtexecSettings, DtexecSource, portable, source
from ssis_exporter.sources.dtexec.portable import PortableTable
from ssis_exporter.sources.dtexec.processes import ProcessGone
from tests.estate import Estate
from tests.test_dtexec_source import run_of, runs_of

pytestmark = pytest.mark.real


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    """Real processes, ended after the test."""
    with Estate(tmp_path) as estate:
        yield estate


class Clock:
    """A clock that a test sets."""

    def __init__(self, time: float) -> None:
        self.time = time

    def __call__(self) -> float:
        """Now."""
        return self.time


def test_duration_does_not_follow_the_wall_clock(estate: Estate) -> None:
    """
    The age is taken once; from then on a clock counts that nobody sets.
    """
    child = estate.start("dtexec", "/F", "a")
    wall, monotonic = Clock(psutil.Process(child.pid).create_time() + 100), Clock(5000)
    local = DtexecSource("local", table=PortableTable(wall_clock=wall, monotonic=monotonic))
    # The start is kept in microseconds, a float holds it a little coarser.
    slack = timedelta(milliseconds=1)
    assert abs(run_of(local, child).duration - timedelta(seconds=100)) < slack

    for moved in (-3600, 3600, 86400):
        wall.time += moved
        monotonic.time += 10
    assert abs(run_of(local, child).duration - timedelta(seconds=130)) < slack


def test_start_in_the_future_is_no_negative_duration(estate: Estate) -> None:
    """
    A wall clock that was set back does not make a run younger than nothing.
    """
    child = estate.start("dtexec", "/F", "a")
    wall = Clock(psutil.Process(child.pid).create_time() - 100)

    assert timedelta() <= run_of(DtexecSource("l", table=PortableTable(wall_clock=wall)), child).duration


@pytest.mark.parametrize("error", [psutil.AccessDenied(1), PermissionError(5, "denied"), OSError(87, "bad parameter")])
def test_denied_arguments_make_it_partial(estate: Estate, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """
    Errors come as psutil's own and as plain ones; a dtexec whose arguments are denied may be a client, so it is not
    shown, and the scope says so.
    """
    child = estate.start("dtexec", "/F", "a")
    asked = psutil.Process.cmdline

    def cmdline(process: psutil.Process) -> list[str]:
        if process.pid == child.pid:
            raise error
        return asked(process)

    monkeypatch.setattr(psutil.Process, "cmdline", cmdline)
    local = DtexecSource("local", table=PortableTable())
    assert [] == runs_of(local, child.pid)
    assert Scope.PARTIAL is local.snapshot().visibility.scope
    assert any(finding.remedy for finding in local.check())
    monkeypatch.undo()

    assert "a" == run_of(local, child).facts.package_name
    assert Scope.ALL is local.snapshot().visibility.scope


def test_known_run_that_may_no_longer_be_read_stays(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Figures that are denied are unknown; the run and its facts are known already.
    """
    child = estate.start("dtexec", "/F", "a")
    local = DtexecSource("local", table=PortableTable())
    facts = run_of(local, child).facts
    for name in ("cmdline", "cpu_times", "memory_info", "io_counters", "num_threads", "username"):
        monkeypatch.setattr(psutil.Process, name, _denied)

    run = run_of(local, child)
    assert facts is run.facts
    assert run.figures is None


def _denied(process: psutil.Process, *_: object) -> object:
    raise psutil.AccessDenied(process.pid)


def test_denied_names_make_it_partial(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A process without a name may be anything.
    """
    monkeypatch.setattr(psutil.Process, "name", _denied)

    assert Scope.PARTIAL is PortableTable().look().visibility.scope


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (psutil.AccessDenied(0), SourceAccessDenied),
        (OSError(24, "too many"), SourceBroken),
        (PermissionError(), SourceAccessDenied),
    ],
)
def test_processes_that_cannot_be_listed(
    monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    """
    Nobody says that nothing runs.
    """

    def pids() -> list[int]:
        raise error

    monkeypatch.setattr(psutil, "pids", pids)
    with pytest.raises(raised, match=r"local: "):
        DtexecSource("local", table=PortableTable()).snapshot()


def test_identity_that_cannot_be_read_is_not_touched(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where the start time is denied, nothing is done.
    """
    child = estate.start("dtexec", "/F", "a")
    local = DtexecSource("local", table=PortableTable())
    run = run_of(local, child)
    monkeypatch.setattr(psutil.Process, "create_time", _denied)

    for stop in (local.request_stop, local.force_stop):
        with pytest.raises(IdentityUnknown):
            stop(run)
    assert child.process.poll() is None


def test_parent_that_is_younger_is_none(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Windows keeps the pid of an ended parent; when it is used again, a stranger would be the parent.
    """
    child = estate.start("dtshost", "/F", "a")
    stranger = estate.start("dtexec", "/F", "b")
    monkeypatch.setattr(psutil, "_ppid_map", lambda: {child.pid: stranger.pid, stranger.pid: 1})
    # The start times of the two must differ.
    while psutil.Process(stranger.pid).create_time() == psutil.Process(child.pid).create_time():
        stranger.end()
        stranger = estate.start("dtexec", "/F", "b")
    local = DtexecSource("local", table=PortableTable())

    assert {"a", "b"} == {run.facts.package_name for run in runs_of(local, child.pid, stranger.pid)}
    look = PortableTable().look()
    assert [] == list(look.descendants(stranger.pid))
    assert stranger.pid not in look.ancestors(child.pid)


def test_without_psutils_table_of_parents(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The function has no public name, so it may be gone one day.
    """
    monkeypatch.delattr(psutil, "_ppid_map")
    above = estate.start("dtexec", "/F", "a")
    below = above.child(estate.program("dtshost"), "dtshost")

    assert [below] == list(PortableTable().look().descendants(above.pid))


def test_process_that_ends_while_it_is_read(estate: Estate) -> None:
    """
    Nothing of it is used.
    """
    child = estate.start("dtexec", "/F", "a")
    look = PortableTable().look()
    (seen,) = [seen for seen in look.sightings if seen.pid == child.pid]
    child.end()

    with pytest.raises(ProcessGone):
        look.details(seen)
    assert look.usage(child.pid) is None
    assert f"{child.pid} gone" == look.describe(child.pid)


def test_without_bytes(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    macOS tells no bytes.
    """
    monkeypatch.delattr(psutil.Process, "io_counters")
    figures = run_of(DtexecSource("local", table=PortableTable()), estate.start("dtexec", "/F", "a")).figures

    assert figures is not None
    assert figures.read_bytes is None
    assert figures.cpu_time is not None


def test_proc_path_is_for_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Elsewhere the key means nothing.
    """
    monkeypatch.setattr(source, "_ON_LINUX", False)
    with pytest.raises(ConfigError, match=r"proc_path .* remove the key"):
        DtexecSource.from_settings("local", DtexecSettings(proc_path="/host/proc"))

    made = DtexecSource.from_settings("local", DtexecSettings())
    assert isinstance(made._table, PortableTable)


def test_boot_of_a_system_without_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Start times are absolute there, so a fixed word is enough; the time of boot would move with the wall clock.
    """

    def missing(path: Path, encoding: str) -> str:
        raise FileNotFoundError(path, encoding)

    monkeypatch.setattr(Path, "read_text", missing)

    assert "0" == PortableTable().boot


def test_ages_are_forgotten_with_their_processes(estate: Estate) -> None:
    """
    The memory holds only what runs.
    """
    table = PortableTable(monotonic=time.monotonic)
    child = estate.start("dtexec", "/F", "a")
    table.look()
    assert child.pid in [seen.pid for seen in table._ages]
    child.end()
    table.look()

    assert child.pid not in [seen.pid for seen in table._ages]
    assert portable.ON_WINDOWS is False


@pytest.mark.parametrize("listed", [[], [1]])
def test_list_that_is_not_whole_is_no_answer(monkeypatch: pytest.MonkeyPatch, listed: list[int]) -> None:
    """
    This process always runs: a list without it does not say what runs.
    """
    monkeypatch.setattr(psutil, "pids", lambda: listed)

    with pytest.raises(SourceBroken, match="not even this process"):
        DtexecSource("local", table=PortableTable()).snapshot()
