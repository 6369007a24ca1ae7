"""Stopping a run that is a process: this one, and never another."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ssis_exporter.errors import (
    IdentityUnknown,
    NoSuchExecution,
    SourceError,
    StopDenied,
    StopError,
    StopUnsupported,
)
from ssis_exporter.model import Execution, ExecutionKey, ExecutionStatus, StopReply
from ssis_exporter.sources.dtexec import DtexecSource, portable
from ssis_exporter.sources.dtexec.linux import LinuxTable
from ssis_exporter.sources.dtexec.portable import PortableTable
from ssis_exporter.sources.dtexec.processes import ProcessTable, Sighting
from tests.estate import Child, Estate, term_ignored
from tests.real import need_root
from tests.test_dtexec_source import run_of, runs_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these processes are read from Linux's /proc"),
]


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    """Real processes, ended after the test."""
    with Estate(tmp_path) as estate:
        yield estate


@pytest.fixture(params=[LinuxTable, PortableTable])
def table(request: pytest.FixtureRequest) -> ProcessTable:
    """Each of the two ways to read processes."""
    made: ProcessTable = request.param()
    return made


@pytest.fixture
def source(table: ProcessTable) -> Iterator[DtexecSource]:
    """The source over it."""
    source = DtexecSource("local", table=table)
    yield source
    source.close()


def is_alive(child: Child) -> bool:
    """Whether it still runs and answers."""
    return child.process.poll() is None and child.say("burn", 0) == 0


def test_run_that_obeys_is_asked_and_ends(estate: Estate, source: DtexecSource) -> None:
    """
    SIGTERM goes to this run and to no other.
    """
    child, other = estate.start("dtexec", "/F", "a"), estate.start("dtexec", "/F", "a")
    run = run_of(source, child)

    assert StopReply.ACCEPTED is source.request_stop(run)
    assert -signal.SIGTERM == child.wait()
    assert [] == runs_of(source, child.pid)
    assert is_alive(other)
    with pytest.raises(NoSuchExecution):
        source.request_stop(run)


def test_run_that_does_not_obey_is_stopping_until_it_is_ended(estate: Estate, source: DtexecSource) -> None:
    """
    It is asked once; a kill comes only when it is asked for.
    """
    child = estate.start("dtexec", "/F", "a", ignores_term=True)
    assert term_ignored(child.pid)
    run = run_of(source, child)
    assert StopReply.ACCEPTED is source.request_stop(run)
    assert StopReply.ALREADY_STOPPING is source.request_stop(run)
    stopping = run_of(source, child)
    assert ExecutionStatus.STOPPING is stopping.status
    assert stopping.stopping_since is not None
    assert run.facts is stopping.facts

    assert StopReply.ACCEPTED is source.force_stop(stopping)
    assert -signal.SIGKILL == child.wait()
    assert [] == runs_of(source, child.pid)


def forgeries(run: Execution, other: Execution) -> list[Execution]:
    """Runs that are not this one, each in one respect."""
    pid, start, boot = run.key.instance_id.split("-")
    ids = [
        f"{pid}-{int(start) + 1}-{boot}",
        f"{pid}-{int(start) - 1}-{boot}",
        f"{pid}-{start}-00000000",
        f"{pid}-{start}",
        f"{pid}0-{start}-{boot}",
        f"1-{start}-{boot}",
        f"0-{start}-{boot}",
        f"-{pid}-{start}-{boot}",
        f"{pid} -{start}-{boot}",
        pid,
        "",
        other.key.instance_id,
    ]
    forged = [replace(run, facts=replace(run.facts, key=ExecutionKey("local", instance_id))) for instance_id in ids]
    forged.append(replace(run, facts=replace(run.facts, key=replace(run.key, source="other"))))
    forged.append(replace(run, facts=replace(run.facts, package_name="b")))
    return forged


def test_forged_identities_are_refused(estate: Estate, source: DtexecSource) -> None:
    """
    A wrong start, boot, pid, source or package stops nothing, also by force.
    """
    child, other = estate.start("dtexec", "/F", "a"), estate.start("dtexec", "/F", "c")
    for forged in forgeries(run_of(source, child), run_of(source, other)):
        for stop in (source.request_stop, source.force_stop):
            with pytest.raises((NoSuchExecution, IdentityUnknown)):
                stop(forged)

    assert is_alive(child)
    assert is_alive(other)
    assert ExecutionStatus.RUNNING is run_of(source, child).status


def test_identity_is_checked_in_the_moment_before_acting(estate: Estate, table: ProcessTable) -> None:
    """
    Whatever a look saw before: another start time, another program or an end is noticed by the act itself.
    """
    child = estate.start("dtexec", "/F", "a")
    (seen,) = [seen for seen in table.look().sightings if seen.pid == child.pid]
    forged = [seen._replace(start=seen.start + 1), seen._replace(name="dtshost"), seen._replace(pid=2**22 + 1)]
    for sighting in forged:
        for act in (table.request_end, table.end):
            with pytest.raises(NoSuchExecution):
                act(sighting)
    assert is_alive(child)

    child.say("exec", estate.program("sleeper"), "sleeper")
    for act in (table.request_end, table.end):
        with pytest.raises(NoSuchExecution):
            act(seen)
    assert is_alive(child)


def test_same_name_after_exec_is_another_program(estate: Estate) -> None:
    """
    On Linux an exec is noticed even when pid, start and name stay.
    """
    table = LinuxTable()
    child = estate.start("dtexec", "/F", "a")
    (seen,) = [seen for seen in table.look().sightings if seen.pid == child.pid]
    child.say("exec", estate.program("dtexec"), "dtexec", "/F", "b")

    with pytest.raises(NoSuchExecution):
        table.request_end(seen)
    assert is_alive(child)


def test_identity_is_checked_once_the_process_is_held(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What becomes another between the check and `pidfd_open` is not signalled: the check is repeated with it in hand.
    """
    table = LinuxTable()
    child = estate.start("dtexec", "/F", "a")
    (seen,) = [seen for seen in table.look().sightings if seen.pid == child.pid]
    really_open = os.pidfd_open

    def too_late(pid: int) -> int:
        child.say("exec", estate.program("sleeper"), "sleeper")
        return really_open(pid)

    monkeypatch.setattr(os, "pidfd_open", too_late)

    with pytest.raises(NoSuchExecution):
        table.request_end(seen)
    assert is_alive(child)


def test_zombie_has_ended(estate: Estate, source: DtexecSource) -> None:
    """
    There is nothing left to stop.
    """
    child = estate.start("dtexec", "/F", "a")
    run = run_of(source, child)
    child.process.kill()
    child.wait_until_zombie()

    for stop in (source.request_stop, source.force_stop):
        with pytest.raises(NoSuchExecution):
            stop(run)


def test_run_whose_identity_cannot_be_read_is_not_touched(estate: Estate, tmp_path: Path) -> None:
    """
    Where the start time cannot be compared, nothing is done.
    """

    class Unreadable(LinuxTable):
        """A `/proc` that breaks between the look and the act."""

        def read_stat(self, pid: int):  # type: ignore[no-untyped-def]
            """Fails as a machine without free file descriptors does."""
            raise SourceError(f"{pid}: too many open files")

    table = Unreadable()
    child = estate.start("dtexec", "/F", "a")
    (seen,) = [seen for seen in table.look().sightings if seen.pid == child.pid]

    for act in (table.request_end, table.end):
        with pytest.raises(IdentityUnknown):
            act(seen)
    assert is_alive(child)


def test_source_that_cannot_look_stops_nothing(estate: Estate, tmp_path: Path) -> None:
    """
    A run that is not known is looked for; where that fails, its identity is unknown.
    """
    child = estate.start("dtexec", "/F", "a")
    run = run_of(DtexecSource("local"), child)
    blind = DtexecSource("local", table=LinuxTable(tmp_path / "missing"))

    with pytest.raises(IdentityUnknown):
        blind.request_stop(run)
    assert {"processes"} == set(blind.evidence(run))
    assert is_alive(child)


def test_processes_of_another_namespace_are_not_signalled(estate: Estate, tmp_path: Path) -> None:
    """
    In a mounted `/proc` a pid names another machine's or container's process; here it may be anybody.
    """
    child = estate.start("dtexec", "/F", "a")
    fake = tmp_path / "proc" / str(child.pid)
    fake.mkdir(parents=True)
    for name in ("stat", "cmdline", "status"):
        (fake / name).write_bytes(Path(f"/proc/{child.pid}/{name}").read_bytes())
    source = DtexecSource("local", table=LinuxTable(tmp_path / "proc"))
    run = run_of(source, child)
    assert str(os.geteuid()) == run.facts.user_name

    for stop in (source.request_stop, source.force_stop):
        with pytest.raises(StopUnsupported):
            stop(run)
    assert is_alive(child)


def test_on_windows_nothing_can_be_asked(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    There only a kill exists, and only when asked for; it compares the start time, too.
    """
    monkeypatch.setattr(portable, "ON_WINDOWS", True)
    source = DtexecSource("local", table=PortableTable())
    child = estate.start("dtexec", "/F", "a")
    run = run_of(source, child)
    with pytest.raises(StopUnsupported):
        source.request_stop(run)
    assert is_alive(child)
    assert ExecutionStatus.RUNNING is run_of(source, child).status

    assert StopReply.ACCEPTED is source.force_stop(run)
    assert -signal.SIGKILL == child.wait()


def test_without_the_system_call_for_handles(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where a sandbox forbids `pidfd_open`, the check comes right before an ordinary signal.
    """

    def forbidden(pid: int) -> int:
        raise PermissionError(1, "not permitted", str(pid))

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    source = DtexecSource("local")
    child = estate.start("dtexec", "/F", "a")
    run = run_of(source, child)

    assert StopReply.ACCEPTED is source.request_stop(run)
    assert -signal.SIGTERM == child.wait()


def test_evidence_tells_the_processes(estate: Estate, source: DtexecSource) -> None:
    """
    Pids, names and processor time; no arguments.
    """
    child = estate.start("dtexec", "/F", "a", "/P", "s3cr3t")
    below = child.child(estate.program("dtshost"), "dtshost", "s3cr3t")
    told = source.evidence(run_of(source, child))

    assert re.fullmatch(rf"{child.pid} dtexec \d+\.\d\ds; {below} dtshost \d+\.\d\ds", told["processes"])
    assert "s3cr3t" not in repr(told)


def test_pid_that_is_used_again_is_another_run(estate: Estate, source: DtexecSource) -> None:
    """
    The next look shows the new run under its own name, and a stop of the old one does not touch it.
    """
    need_root("to choose the next pid")
    nursery = estate.nursery()
    for _ in range(200):
        pid = nursery.start("dtexec", "/F", "old.dtsx")
        old = run_of(source, pid)
        nursery.end([pid])
        with suppress(OSError):
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        again = nursery.start("dtexec", "/F", "new.dtsx")
        # The kernel counts the start in hundredths of a second; nobody goes round all pids in one.
        if again == pid and run_of(source, pid).key != old.key:
            break
    else:
        pytest.fail("other processes always took the pid first")

    new = run_of(source, pid)
    assert "new" == new.facts.package_name
    assert old.key != new.key
    for stop in (source.request_stop, source.force_stop):
        with pytest.raises((NoSuchExecution, IdentityUnknown)):
            stop(old)
    assert [pid] == [run.facts.process_id for run in runs_of(source, pid)]


AS_NOBODY = """
import codecs, os, sys
from ssis_exporter.errors import StopError
from ssis_exporter.sources.dtexec import DtexecSource, linux, portable, packagefile
import pwd, psutil, defusedxml.ElementTree
# Python itself may be where only root can read.
for name in ("ascii", "utf-8-sig", "utf-16"):
    codecs.lookup(name)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
table = portable.PortableTable() if sys.argv[2] == "portable" else linux.LinuxTable()
source = DtexecSource("local", table=table)
(run,) = [run for run in source.snapshot().executions if run.facts.process_id == int(sys.argv[1])]
print(run.facts.user_name, run.facts.package_name, run.figures.read_bytes)
for stop in (source.request_stop, source.force_stop):
    try:
        print(stop(run))
    except StopError as exc:
        print(type(exc).__name__, "CAP_KILL" in str(exc) or "administrator" in str(exc))
print(*[finding.level for finding in source.check()])
"""


@pytest.mark.parametrize("kind", ["linux", "portable"])
def test_account_without_rights_is_told_so(estate: Estate, kind: str) -> None:
    """
    Another account's run is shown, its bytes are unknown, and it is not stopped: the sentence says what to grant.
    """
    need_root("to become another account")
    child = estate.start("dtexec", "/F", "a")
    command = [sys.executable, "-c", AS_NOBODY, str(child.pid), kind]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    assert ["root a None", "StopDenied True", "StopDenied True", "ok ok warning"] == told
    assert is_alive(child)


def test_own_run_of_another_account_is_stopped(estate: Estate) -> None:
    """
    Without any right an account may still stop its own runs.
    """
    need_root("to become another account")
    estate.folder.chmod(0o755)
    for folder in estate.folder.parents[:2]:
        folder.chmod(folder.stat().st_mode | 0o055)
    child = estate.start("dtexec", "/F", "a", user=65534)
    command = [sys.executable, "-c", AS_NOBODY, str(child.pid), "linux"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    assert "nobody a 0" == told[0]
    assert "accepted" == told[1]
    assert -signal.SIGTERM == child.wait()


def test_every_refusal_is_a_stop_error() -> None:
    """
    Who stops runs can tell a refusal from a failure to look.
    """
    for act in (LinuxTable().request_end, PortableTable().request_end):
        with pytest.raises(StopError):
            act(Sighting(2**22 + 1, 1, "dtexec", 0))
    assert not issubclass(StopDenied, SourceError)
