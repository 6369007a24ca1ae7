"""The source of kind `dtexec` on real processes: what it shows, and what it never shows."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_exporter.errors import SourceBroken
from ssis_exporter.model import Execution, ExecutionStatus, Scope
from ssis_exporter.sources.dtexec import DtexecSettings, DtexecSource
from ssis_exporter.sources.dtexec.linux import LinuxTable
from ssis_exporter.sources.dtexec.portable import PortableLook, PortableTable
from ssis_exporter.sources.interface import Source
from ssis_exporter.testing import SourceContract
from tests.estate import Child, Estate
from tests.test_dtexec_packagefile import ATTRIBUTES, ELEMENTS, ENCRYPTED, GUID

pytestmark = pytest.mark.real

SECRET = "s3cr3t-Kx"


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    """Real processes, ended after the test."""
    with Estate(tmp_path) as estate:
        yield estate


@pytest.fixture(params=["linux", "portable"])
def source(request: pytest.FixtureRequest, estate: Estate) -> Iterator[DtexecSource]:
    """The source over each of the two ways to read processes."""
    del estate
    if request.param == "linux" and sys.platform != "linux":
        pytest.skip("only Linux has /proc")
    source = DtexecSource("local", table=LinuxTable() if request.param == "linux" else PortableTable())
    yield source
    source.close()


def runs_of(source: DtexecSource, *pids: int) -> list[Execution]:
    """The runs in these processes; other tests' processes run on this machine, too."""
    return [run for run in source.snapshot().executions if run.facts.process_id in pids]


def run_of(source: DtexecSource, child: Child | int) -> Execution:
    """The one run in this process."""
    (run,) = runs_of(source, child if isinstance(child, int) else child.pid)
    return run


class TestDtexecSource(SourceContract):
    """The rules that every source keeps."""

    @pytest.fixture
    def source(self, estate: Estate) -> Iterator[Source]:
        """One package runs."""
        estate.start("dtexec", "/F", "a.dtsx")
        source = DtexecSource("local")
        yield source
        source.close()

    @pytest.fixture
    def broken_source(self, tmp_path: Path) -> Source:
        """There is no `/proc`."""
        return DtexecSource("local", table=LinuxTable(tmp_path / "missing"))


class TestPortableDtexecSource(SourceContract):
    """The same rules over psutil."""

    @pytest.fixture
    def source(self, estate: Estate) -> Iterator[Source]:
        """One package runs."""
        estate.start("dtexec", "/F", "a.dtsx")
        source = DtexecSource("local", table=PortableTable())
        yield source
        source.close()

    @pytest.fixture
    def broken_source(self) -> Source:
        """Processes cannot be listed."""

        class Broken(PortableTable):
            """Fails as psutil does."""

            def look(self) -> PortableLook:
                """Fails."""
                raise SourceBroken("the processes cannot be listed")

        return DtexecSource("local", table=Broken())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/FILE", '"C:\\etl\\Load Sales.dtsx"', "/CALLERINFO", "SQLAGENT"], ("", "", "Load Sales", "SQLAGENT")),
        (["-f", "/home/etl/Load.DTSX", "/De", SECRET], ("", "", "Load", "")),
        (["/SQL", '"\\Finance\\Daily\\Load Sales"', "/SER", '"HOST\\INST"'], ("Finance\\Daily", "", "Load Sales", "")),
        (["/sq", "Load", "/U", "sa", "/P", SECRET], ("", "", "Load", "")),
        (["/DTS", '"\\MSDB\\Folder\\Pkg"', "/SERVER", "HOST"], ("MSDB\\Folder", "", "Pkg", "")),
        (["/D", "\\File System\\x.dtsx"], ("File System", "", "x", "")),
        (["/PROJECT", '"C:\\p\\DW.ispac"', "/PACKAGE", "Load.dtsx"], ("", "DW", "Load", "")),
    ],
)
def test_each_form_of_command_line(
    estate: Estate, source: DtexecSource, arguments: list[str], told: tuple[str, str, str, str]
) -> None:
    """
    A package is named by its command line, in every form that dtexec takes.
    """
    child = estate.start("dtexec", *arguments)
    facts = run_of(source, child).facts

    assert told == (facts.folder, facts.project, facts.package_name, facts.caller)
    assert ("dtexec", socket.gethostname(), child.pid) == (facts.host, facts.machine, facts.process_id)


@pytest.mark.parametrize(
    "arguments",
    [
        ["/ISSERVER", "\\SSISDB\\F\\P\\x.dtsx", "/SERVER", "HOST", "/Par", "$ServerOption::SYNCHRONIZED(Boolean);True"],
        ["/F", "x.dtsx", "/VALIDATE"],
        ["/?"],
        ["/Help"],
        [],
    ],
)
def test_client_and_runs_of_nothing_are_no_executions(
    estate: Estate, source: DtexecSource, arguments: list[str]
) -> None:
    """
    What runs elsewhere or nowhere is not shown.
    """
    child = estate.start("dtexec", *arguments)

    assert [] == runs_of(source, child.pid)
    assert [] == runs_of(source, child.pid)


@pytest.mark.parametrize("name", ["dtexec.exe", "DTExec.exe", "DTEXEC"])
def test_name_in_any_case(estate: Estate, source: DtexecSource, name: str) -> None:
    """
    The program's name counts in any case, with or without `.exe`.
    """
    assert "a" == run_of(source, estate.start(name, "/F", "a.dtsx")).facts.package_name


def test_other_programs_are_not_shown(estate: Estate, source: DtexecSource) -> None:
    """
    Only the whole name counts, and a name that would break a careless reader of `/proc` breaks nothing.
    """
    strange = [") S 1 (dtexec) R", "a\n(dtexec", "dtexec)", "dtexec2"]
    children = [estate.start(name, "/F", "a.dtsx") for name in strange]
    child = estate.start("dtexec", "/F", "b.dtsx")

    assert ["b"] == [run.facts.package_name for run in runs_of(source, child.pid, *(other.pid for other in children))]


def test_account_start_and_identity(estate: Estate, source: DtexecSource) -> None:
    """
    The account is the one it runs as, the start is right to a second, the identity is pid, start and boot.
    """
    began = datetime.now(UTC)
    child = estate.start("dtexec", "/F", "a.dtsx")
    run = run_of(source, child)
    ended = datetime.now(UTC)

    import pwd

    assert pwd.getpwuid(os.geteuid()).pw_name == run.facts.user_name
    assert run.facts.started_at is not None
    # psutil's start time rests on the time of boot in whole seconds.
    slack = timedelta(seconds=1.5)
    assert began - slack <= run.facts.started_at <= ended + slack
    assert timedelta() <= run.duration <= ended - began + slack
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().split("-")[0]
    pid, start, its_boot = run.key.instance_id.split("-")
    assert (str(child.pid), boot) == (pid, its_boot)
    assert start.isdigit()


def test_start_in_the_identity_is_raw(estate: Estate) -> None:
    """
    On Linux the identity holds the start time exactly as the kernel writes it.
    """
    child = estate.start("dtexec", "/F", "a.dtsx")
    start = Path(f"/proc/{child.pid}/stat").read_text().rsplit(") ", 1)[1].split()[19]

    assert start == run_of(DtexecSource("local"), child).key.instance_id.split("-")[1]


def test_ended_run_is_gone_from_the_next_look(estate: Estate, source: DtexecSource) -> None:
    """
    Nothing of an ended process is kept.
    """
    child = estate.start("dtexec", "/F", "a.dtsx")
    assert runs_of(source, child.pid)
    child.end()

    assert [] == runs_of(source, child.pid)


def test_zombie_is_not_running(estate: Estate, source: DtexecSource) -> None:
    """
    An ended process that nobody waited for has ended.
    """
    child = estate.start("dtexec", "/F", "a.dtsx")
    assert runs_of(source, child.pid)
    child.process.kill()
    child.wait_until_zombie()

    assert [] == runs_of(source, child.pid)


@pytest.mark.parametrize(
    ("name", "program"),
    [("ISServerExec.exe", "ISServerExec"), ("DTExecUI.exe", "DTExecUI"), ("DtsDebugHost.exe", "DtsDebugHost")],
)
def test_hosts_are_counted_and_no_executions(estate: Estate, source: DtexecSource, name: str, program: str) -> None:
    """
    A program that only may host packages is a host process, also when the kernel cut its name.
    """
    child = estate.start(name, "/F", "a.dtsx")
    snapshot = source.snapshot()

    assert child.pid not in [run.facts.process_id for run in snapshot.executions]
    assert snapshot.host_processes is not None
    (host,) = [host for host in snapshot.host_processes if host.process_id == child.pid]
    assert program == host.program
    assert host.started_at <= snapshot.taken_at


def test_dtshost_counts_only_alone(estate: Estate, source: DtexecSource) -> None:
    """
    Under a dtexec, also far under it, it is a part of that run; alone it is a run.
    """
    alone = estate.start("dtshost.exe", "/F", "a.dtsx")
    silent = estate.start("dtshost", "-Embedding")
    above = estate.start("dtexec", "/F", "b.dtsx")
    below = above.child(estate.program("dtshost"), "dtshost", "/F", "b.dtsx")

    assert {("a", "dtshost"), ("", "dtshost"), ("b", "dtexec")} == {
        (run.facts.package_name, run.facts.host) for run in runs_of(source, alone.pid, silent.pid, above.pid, below)
    }


def test_dtexec_started_by_a_package_is_a_run_of_its_own(estate: Estate, source: DtexecSource) -> None:
    """
    A package may start another one.
    """
    above = estate.start("dtexec", "/F", "a.dtsx")
    below = above.child(estate.program("dtexec"), "dtexec", "/F", "b.dtsx")

    assert {"a", "b"} == {run.facts.package_name for run in runs_of(source, above.pid, below)}


def test_fork_is_a_part_of_the_run_until_it_becomes_another(estate: Estate, source: DtexecSource) -> None:
    """
    Between fork and exec the child has its parent's name and arguments; it is not shown as a second run.
    """
    above = estate.start("dtexec", "/F", "a.dtsx")
    below = above.say("fork")
    for _ in range(2):
        assert [above.pid] == [run.facts.process_id for run in runs_of(source, above.pid, below)]


def test_shell_that_becomes_dtexec_is_found(estate: Estate, source: DtexecSource) -> None:
    """
    A wrapper that was seen as another program is found at the next look after its exec.
    """
    child = estate.start("sleeper", "x")
    shell = estate.run(
        estate.script("wrapper", f"#!/bin/sh\nread go\nexec {estate.program('dtexec')} /F c.dtsx\n"),
        ["wrapper"],
        ready=False,
    )
    assert [] == runs_of(source, child.pid, shell.pid)
    child.say("exec", estate.program("dtexec"), "dtexec", "/F", "b.dtsx")
    shell.tell("go")
    shell.await_ready()

    assert {"b", "c"} == {run.facts.package_name for run in runs_of(source, child.pid, shell.pid)}


def test_dtexec_that_becomes_another_program_is_gone(estate: Estate, source: DtexecSource) -> None:
    """
    The pid and the start time stay, the run does not.
    """
    child = estate.start("dtexec", "/F", "a.dtsx")
    assert runs_of(source, child.pid)
    child.say("exec", estate.program("sleeper"), "dtexec", "/F", "a.dtsx")

    assert [] == runs_of(source, child.pid)


def test_same_name_again_is_not_shown_under_the_old_package(estate: Estate) -> None:
    """
    A dtexec that becomes a dtexec with another package is noticed, although pid, start and name stay.
    """
    source = DtexecSource("local")
    child = estate.start("dtexec", "/F", "a.dtsx")
    assert "a" == run_of(source, child).facts.package_name
    child.say("exec", estate.program("dtexec"), "dtexec", "/F", "b.dtsx")

    assert "b" == run_of(source, child).facts.package_name


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("wine64-preloader", ["wine64-preloader", "/usr/bin/wine64", "C:\\Binn\\DTExec.exe", "/F", "a.dtsx"]),
        (
            "ld-linux-x86-64.so.2",
            ["/lib64/ld-linux-x86-64.so.2", "--library-path", "/x", "/opt/dtexec", "/F", "a.dtsx"],
        ),
        ("qemu-x86_64-static", ["qemu-x86_64-static", "/opt/ssis/bin/dtexec", "/F", "a.dtsx"]),
        ("box64", ["box64", "dtexec", "/F", "a.dtsx"]),
        ("dotnet", ["dotnet", "dtexec.dll", "/F", "a.dtsx"]),
    ],
)
def test_loader_before_the_program(estate: Estate, source: DtexecSource, name: str, argv: list[str]) -> None:
    """
    A loader's process is the run of the program it was given.
    """
    child = estate.run(estate.program(name), argv)

    for _ in range(2):
        assert "a" == run_of(source, child).facts.package_name


def test_loader_with_another_program_is_not_shown(estate: Estate, source: DtexecSource) -> None:
    """
    Also not when it names dtexec somewhere; and it is found when it becomes the loader of one.
    """
    child = estate.run(estate.program("wine"), ["wine", "notepad.exe", "dtexec.exe", "/F", "a.dtsx"])
    assert [] == runs_of(source, child.pid)
    child.say("exec", estate.program("wine"), "wine", "dtexec.exe", "/F", "b.dtsx")

    assert "b" == run_of(source, child).facts.package_name


def test_binary_format_handler(estate: Estate, source: DtexecSource) -> None:
    """
    Where the kernel starts the loader itself, the process has the program's name and the loader's arguments.
    """
    handler = estate.script("DTExec.exe", f"#!{estate.program('wine')}\n")
    child = estate.run(handler, ["DTExec.exe", "/F", "a.dtsx"])

    assert "a" == run_of(source, child).facts.package_name


def test_script_of_the_name_is_the_run_until_the_program_is_seen(estate: Estate, source: DtexecSource) -> None:
    """
    A script called dtexec that starts the program gives way to it, and does not come back when the program ends.
    """
    script = estate.script("dtexec", f'#!/bin/sh\nread go\n{estate.program("dtexec")} "$@"\nread stay\n')
    child = estate.run(script, ["dtexec", "/F", "a.dtsx"], ready=False)
    assert child.pid == run_of(source, child).facts.process_id
    child.tell("go")
    child.await_ready()
    assert [child.program_pid] == [r.facts.process_id for r in runs_of(source, child.pid, child.program_pid)]
    child.tell("exit", 0)
    child.wait_until_gone(child.program_pid)

    assert [] == runs_of(source, child.pid, child.program_pid)


def test_script_of_the_name_that_becomes_the_program_is_one_run(estate: Estate, source: DtexecSource) -> None:
    """
    Before and after its exec it has the same identity and the same facts.
    """
    script = estate.script("dtexec", f'#!/bin/sh\nread go\nexec {estate.program("dtexec")} "$@"\n')
    child = estate.run(script, ["dtexec", "/F", "a.dtsx"], ready=False)
    before = run_of(source, child)
    child.tell("go")
    child.await_ready()
    after = run_of(source, child)

    assert before.facts is after.facts


@pytest.mark.parametrize("text", [ATTRIBUTES, ELEMENTS], ids=["2012", "2008"])
def test_package_file_tells_name_id_and_description(
    estate: Estate, source: DtexecSource, tmp_path: Path, text: str
) -> None:
    """
    Of a file that can be read, named absolutely or as the process sees it.
    """
    path = tmp_path / "file name.dtsx"
    path.write_text(text)
    absolute = estate.start("dtexec", "/FILE", str(path))
    relative = estate.start("dtexec", "/FILE", '"file name.dtsx"', cwd=tmp_path)

    for run in runs_of(source, absolute.pid, relative.pid):
        assert ("Load Sales", GUID, "Loads <sales>") == (
            run.facts.package_name,
            run.facts.package_id,
            run.facts.description,
        )


def test_package_in_a_project_file(estate: Estate, source: DtexecSource, tmp_path: Path) -> None:
    """
    The project is the file's name, the package is read from it.
    """
    with zipfile.ZipFile(tmp_path / "DW.ispac", "w") as archive:
        archive.writestr("Load.dtsx", ATTRIBUTES)
    facts = run_of(source, estate.start("dtexec", "/Proj", str(tmp_path / "DW.ispac"), "/Pack", "load.dtsx")).facts

    assert ("DW", "Load Sales", GUID) == (facts.project, facts.package_name, facts.package_id)


@pytest.mark.parametrize("text", [ENCRYPTED, "broken", None])
def test_file_that_tells_nothing_names_the_package(
    estate: Estate, source: DtexecSource, tmp_path: Path, text: str | None
) -> None:
    """
    Encrypted, broken or missing: the package is called by its file.
    """
    path = tmp_path / "Load.dtsx"
    if text is not None:
        path.write_text(text)
    facts = run_of(source, estate.start("dtexec", "/F", str(path))).facts

    assert ("Load", "", "") == (facts.package_name, facts.package_id, facts.description)


def test_files_are_not_read_when_told_not_to(estate: Estate, tmp_path: Path) -> None:
    """
    `package_files: false` leaves the names to the command line.
    """
    (tmp_path / "x.dtsx").write_text(ATTRIBUTES)
    child = estate.start("dtexec", "/F", str(tmp_path / "x.dtsx"))

    facts = run_of(DtexecSource("local", settings=DtexecSettings(package_files=False)), child).facts
    assert ("x", "") == (facts.package_name, facts.package_id)


def test_command_file_names_the_package(estate: Estate, source: DtexecSource, tmp_path: Path) -> None:
    """
    The package's name may stand in a file; where that cannot be read, the name is unknown.
    """
    (tmp_path / "options.txt").write_text(f'/SQL "\\Finance\\Load"\n/P {SECRET}\n')
    told = estate.start("dtexec", "/Com", "options.txt", cwd=tmp_path)
    untold = estate.start("dtexec", "/Com", "missing.txt", cwd=tmp_path)

    assert ("Finance", "Load") == (run_of(source, told).facts.folder, run_of(source, told).facts.package_name)
    assert "" == run_of(source, untold).facts.package_name


def reachable_text(root: object) -> Iterator[str]:
    """All text that an object keeps alive."""
    todo, known = [root], {id(root)}
    while todo:
        item = todo.pop()
        if isinstance(item, str | bytes):
            yield item if isinstance(item, str) else item.decode("latin-1")
        elif not isinstance(item, type) and type(item).__name__ not in ("module", "function"):
            for below in gc.get_referents(item):
                if id(below) not in known:
                    known.add(id(below))
                    todo.append(below)


def test_no_secret_is_kept_shown_or_logged(
    estate: Estate, source: DtexecSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Passwords and values on the command line or in a command file are in nothing that we show, log or remember.
    """
    caplog.set_level(logging.DEBUG)
    (tmp_path / "options.txt").write_text(f"/P {SECRET}\n")
    secrets = ["/P", SECRET, "/De", SECRET, "/Conn", f'"DW";"Password={SECRET}"', "/Set", f'"\\x.y";{SECRET}']
    secrets += ["/Par", f'"$Package::p";{SECRET}', "/L", f"x;{SECRET}", f"/P:{SECRET}"]
    children = [
        estate.start("dtexec", "/F", "missing.dtsx", *secrets),
        estate.start("dtexec", "/SQL", "x", *secrets, "/Com", str(tmp_path / "options.txt")),
        estate.start("dtexec", "/ISSERVER", "x", *secrets),
        estate.start("dtexec", *secrets, "/F"),
        estate.start("dtshost", *secrets),
    ]
    above = estate.start("dtexec", "/F", "x", *secrets)
    above.say("fork")
    children.append(above)
    for _ in range(2):
        snapshot = source.snapshot()
        assert SECRET not in repr(snapshot)
    for run in snapshot.executions:
        if run.facts.process_id in [child.pid for child in children]:
            assert SECRET not in repr(source.evidence(run))
    assert SECRET not in repr(source.check())
    assert SECRET not in caplog.text

    assert [] == [text for text in reachable_text(source) if SECRET in text]


def test_figures_of_the_run_and_its_children(estate: Estate, source: DtexecSource, tmp_path: Path) -> None:
    """
    Processor time, memory, threads and bytes are sums, and none of the counters falls when a child ends.
    """
    child = estate.start("dtexec", "/F", "a.dtsx")
    first = run_of(source, child).figures
    assert first is not None
    assert 1 == first.threads
    assert first.resident_bytes is not None
    assert first.resident_bytes > 0

    child.say("threads", 2)
    child.say("burn", 50)
    child.say("write", tmp_path / "x", 1 << 20)
    below = child.child(estate.program("helper"), "helper")
    second = run_of(source, child).figures
    assert second is not None
    assert 4 == second.threads
    assert second.cpu_time is not None
    assert second.cpu_time >= timedelta(milliseconds=40)
    assert second.written_bytes is not None
    assert second.written_bytes >= 1 << 20

    child.say("end", below)
    third = run_of(source, child).figures
    assert third is not None
    assert third.cpu_time is not None
    assert third.cpu_time >= second.cpu_time
    assert third.written_bytes is not None
    assert third.written_bytes >= second.written_bytes


@pytest.mark.parametrize("waits", [True, False], ids=["waited for", "nobody waits"])
def test_processor_time_of_an_ended_child_stays(estate: Estate, waits: bool) -> None:
    """
    Whether the parent waits for its child or not, the time that it used stays counted, and only once.
    """
    source = DtexecSource("local")
    child = estate.start("dtexec", "/F", "a.dtsx")
    if not waits:
        child.say("autoreap")
    below = child.say("forkburn", 200)
    child.wait_until_asleep(below)
    figures = run_of(source, child).figures
    assert figures is not None
    seen = figures.cpu_time
    assert seen is not None
    assert seen >= timedelta(milliseconds=100)
    child.say("end", below) if waits else child.say("kill", below)
    child.wait_until_gone(below)
    for _ in range(3):
        after = run_of(source, child).figures

    assert after is not None
    assert after.cpu_time is not None
    assert seen <= after.cpu_time <= seen + timedelta(milliseconds=60)


def test_wall_clock_may_jump(estate: Estate) -> None:
    """
    Durations come from a clock that nobody sets; the start is told once and stays.
    """
    clock = [datetime(2026, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]
    source = DtexecSource("local", now=lambda: clock.pop(0))
    child = estate.start("dtexec", "/F", "a.dtsx")
    looks = [run_of(source, child) for _ in range(3)]

    assert 1 == len({run.facts.started_at for run in looks})
    assert sorted(run.duration for run in looks) == [run.duration for run in looks]
    assert all(timedelta() <= run.duration < timedelta(minutes=5) for run in looks)


def test_status_of_a_run_is_running(estate: Estate, source: DtexecSource) -> None:
    """
    A process runs; nothing else is known of it.
    """
    assert ExecutionStatus.RUNNING is run_of(source, estate.start("dtexec", "/F", "a")).status


def test_check_says_what_the_account_sees(estate: Estate, source: DtexecSource) -> None:
    """
    Findings are sentences with the source's name.
    """
    del estate
    findings = source.check()

    assert len(findings) >= 2
    assert all(finding.text.startswith("local: ") for finding in findings)
    assert Scope.ALL is source.snapshot().visibility.scope or any(finding.remedy for finding in findings)
