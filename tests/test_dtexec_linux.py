"""Reading `/proc`: what is hidden, what vanishes, what cannot be listed, and lines that nobody expects."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from ssis_exporter.errors import SourceAccessDenied, SourceBroken, SourceError, SourceMissing
from ssis_exporter.model import Scope, Visibility
from ssis_exporter.sources.dtexec import DtexecSettings, DtexecSource
from ssis_exporter.sources.dtexec.arguments import Arguments
from ssis_exporter.sources.dtexec.census import CensusTaker
from ssis_exporter.sources.dtexec.linux import LinuxTable
from ssis_exporter.sources.dtexec.naming import Naming
from ssis_exporter.sources.dtexec.packagefile import PackageFiles
from ssis_exporter.sources.dtexec.patience import Patience
from ssis_exporter.sources.dtexec.processes import ProcessGone, ProcessHidden
from ssis_exporter.sources.dtexec.procfiles import ProcFiles
from ssis_exporter.sources.dtexec.runs import Runs
from ssis_exporter.sources.dtexec.sight import what_is_seen
from tests.estate import Estate
from tests.real import cannot_run, need_root
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


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A made-up `/proc`, for what no real process does at the moment it is wanted."""
    path = tmp_path / "proc"
    path.mkdir()
    add(path, 1, "init", ["init"])
    return path


def add(
    proc: Path,
    pid: int,
    name: str,
    argv: list[str],
    *,
    state: str = "S",
    parent: int = 1,
    start: int = 500,
    threads: int = 1,
) -> None:
    """Adds a process."""
    folder = proc / str(pid)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    fields = f"{state} {parent} 1 1 0 -1 4194304 1 0 0 0 7 3 20 5 20 0 {threads} 0 {start} 4096 30 18446744073709551615"
    (folder / "stat").write_text(f"{pid} ({name}) {fields} 1 1 140{pid} 0 0 0 0 0 0\n")
    (folder / "comm").write_text(f"{name}\n")
    (folder / "cmdline").write_bytes("".join(f"{argument}\0" for argument in argv).encode())
    (folder / "status").write_text(f"Name:\t{name}\nUid:\t1000\t1001\t1000\t1000\n")


def source_of(proc: Path) -> DtexecSource:
    """The source over a made-up `/proc`."""
    return DtexecSource("local", table=LinuxTable(proc))


def names(source: DtexecSource) -> list[str]:
    """What runs."""
    return [run.facts.package_name for run in source.snapshot().executions]


def test_line_of_a_process_is_taken_apart(proc: Path) -> None:
    """
    Figures, account and start come from the right places of the line.
    """
    add(proc, 7, "dtexec", ["dtexec", "/F", "a.dtsx"], threads=4)
    (run,) = source_of(proc).snapshot().executions

    assert run.figures is not None
    assert timedelta(seconds=35 / os.sysconf("SC_CLK_TCK")) == run.figures.cpu_time
    assert (30 * os.sysconf("SC_PAGE_SIZE"), 4) == (run.figures.resident_bytes, run.figures.threads)
    assert run.figures.read_bytes is None
    assert "1001" == run.facts.user_name
    assert run.key.instance_id.startswith("7-500-")


@pytest.mark.parametrize("name", ["a) S 1 1 (b", "(", ")", ") ", "", "a\nb", " "])
def test_strange_names(proc: Path, name: str) -> None:
    """
    A name may hold anything but a NUL.
    """
    add(proc, 6, name, ["x"])
    add(proc, 7, "dtexec", ["dtexec", "/F", "a.dtsx"])
    add(proc, 8, name, ["x"], parent=7)
    (run,) = source_of(proc).snapshot().executions

    assert run.figures is not None
    assert 2 == run.figures.threads


@pytest.mark.parametrize(
    ("state", "threads", "shown"), [("Z", 1, 0), ("X", 1, 0), ("Z", 3, 1), ("D", 1, 1), ("T", 1, 1)]
)
def test_states(proc: Path, state: str, threads: int, shown: int) -> None:
    """
    A zombie has ended, unless its other threads run on.
    """
    add(proc, 7, "dtexec", ["dtexec", "/F", "a.dtsx"], state=state, threads=threads)

    assert shown == len(source_of(proc).snapshot().executions)


def test_process_without_arguments_waits_for_the_next_look(proc: Path) -> None:
    """
    Within an exec the kernel knows the name before the arguments: nothing is shown until they are there.
    """
    source = source_of(proc)
    add(proc, 7, "dtexec", [])
    assert [] == names(source)
    add(proc, 7, "dtexec", ["dtexec", "/F", "a.dtsx"])

    assert ["a"] == names(source)


def test_known_run_without_arguments_stays(proc: Path) -> None:
    """
    A process that is ending has lost its arguments and its image; as long as it is there its run is not over.
    """
    source = source_of(proc)
    add(proc, 7, "dtexec", ["dtexec", "/F", "a.dtsx"])
    assert ["a"] == names(source)
    add(proc, 7, "dtexec", [])
    line = (proc / "7/stat").read_text()
    (proc / "7/stat").write_text(line.replace(" 1407 ", " 0 "))

    assert ["a"] == names(source)


def test_process_that_ends_while_it_is_read_is_not_shown(estate: Estate) -> None:
    """
    Between the line and the arguments it may end, or become another program: then nothing of it is used.
    """
    table = LinuxTable()
    ends, becomes = estate.start("dtexec", "/F", "a"), estate.start("dtexec", "/F", "b")
    look = table.look()
    seen = {seen.pid: seen for seen in look.sightings}
    ends.end()
    becomes.say("exec", estate.program("dtexec"), "dtexec", "/F", "c")

    for child in (ends, becomes):
        with pytest.raises(ProcessGone):
            look.details(seen[child.pid])


class Racing(LinuxTable):
    """Lets a test act between two reads of one look."""

    def __init__(self) -> None:
        super().__init__()
        self.act = lambda: None
        self.at = 0

    def arguments(self, pid: int) -> Arguments:
        """Acts when the arguments of the process are asked for."""
        found = super().arguments(pid)
        if pid == self.at:
            self.at = 0
            self.act()
        return found


@pytest.mark.parametrize("happens", ["ends", "becomes dtexec", "becomes another"])
def test_change_in_the_middle_of_a_look(estate: Estate, happens: str) -> None:
    """
    A run is never shown under what the process was a moment before.
    """
    table = Racing()
    source = DtexecSource("local", table=table)
    child = estate.start("dtexec", "/F", "old")

    def act() -> None:
        if happens == "ends":
            child.end()
        else:
            name = "dtexec" if happens == "becomes dtexec" else "sleeper"
            child.say("exec", estate.program(name), "dtexec", "/F", "new")

    table.act, table.at = act, child.pid
    seen = [run.facts.package_name for run in runs_of(source, child.pid)]
    later = [run.facts.package_name for run in runs_of(source, child.pid)]

    assert seen in ([], ["new"])
    assert later == (["new"] if happens == "becomes dtexec" else [])


def test_no_processes_is_never_an_empty_answer(tmp_path: Path) -> None:
    """
    Where `/proc` is missing, no folder or shows nobody, nobody says that nothing runs.
    """
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("empty", "file", "missing"):
        with pytest.raises(SourceMissing, match="local: "):
            source_of(tmp_path / name).snapshot()


def test_forbidden_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No right to list is told as such.
    """

    def forbidden(_: int) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(SourceAccessDenied, match=r"local: .*Permission denied"):
        DtexecSource("local", table=LinuxTable()).snapshot()


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from ssis_exporter.errors import SourceError
from ssis_exporter.sources.dtexec import DtexecSource
source = DtexecSource("local")
print(len(source.snapshot().executions) > 0)
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
try:
    print(source.snapshot())
except SourceError as exc:
    print(type(exc).__name__)
os.close(held.pop())
os.close(held.pop())
print(len(source.snapshot().executions) > 0)
"""


def test_exhausted_descriptors_are_no_end_of_runs(estate: Estate) -> None:
    """
    Without free file descriptors nothing can be told, and afterwards everything again.
    """
    estate.start("dtexec", "/F", "a")
    told = subprocess.run([sys.executable, "-c", WITHOUT_DESCRIPTORS], check=True, capture_output=True, text=True)

    assert ["True", SourceBroken.__name__, "True"] == told.stdout.split()


def test_all_is_seen_on_an_open_machine() -> None:
    """
    Without `hidepid` an account sees every process; in a container it sees the container's.
    """
    first = os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"

    assert (Scope.ALL if first else Scope.PARTIAL) is LinuxTable().look().visibility.scope


def test_processes_that_may_not_be_read_make_it_partial(proc: Path) -> None:
    """
    Listed and unreadable processes may be anything.
    """
    assert Scope.ALL is what_is_seen(proc, hidden=0, shows_our_namespace=False).scope
    assert Scope.PARTIAL is what_is_seen(proc, hidden=1, shows_our_namespace=False).scope


def test_first_process_that_is_hidden_makes_it_own(proc: Path) -> None:
    """
    Pid 1 always exists; who cannot see it sees only its own processes.
    """
    shutil.rmtree(proc / "1")

    assert Scope.OWN is what_is_seen(proc, hidden=0, shows_our_namespace=False).scope


CONTAINER = """
from pathlib import Path
from ssis_exporter.sources.dtexec.linux import LinuxTable
import os, sys
look = LinuxTable(Path(sys.argv[1])).look()
print(look.visibility.scope, look.count)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(LinuxTable(Path(sys.argv[1])).look().visibility.scope)
"""


@pytest.mark.parametrize("where", ["/proc", "elsewhere"])
def test_a_containers_processes_are_not_all(tmp_path: Path, where: str) -> None:
    """
    Wherever it is mounted: in its own PID namespace the exporter does not see the machine, and says so.
    """
    need_root("to make a PID namespace")
    path = tmp_path / "proc" if where == "elsewhere" else Path(where)
    path.mkdir(exist_ok=True)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    script = 'mount -t proc proc /proc && mount -t proc proc "$3" && "$0" -c "$2" "$3"'
    command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, sys.executable, "-", CONTAINER, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        cannot_run(f"/proc cannot be mounted here: {done.stderr.strip()}")

    assert "" == done.stderr
    assert ["partial 2", "partial"] == done.stdout.splitlines()


def test_run_whose_arguments_are_hidden_makes_it_partial(proc: Path) -> None:
    """
    It may be a run or a client: it is not shown, and the scope says so.
    """

    class Hidden(LinuxTable):
        """A kernel that shows names and no arguments."""

        def arguments(self, pid: int) -> Arguments:
            """Refuses."""
            raise ProcessHidden(f"{pid} may not be read")

    add(proc, 7, "dtexec", ["dtexec", "/F", "a.dtsx"])
    snapshot = DtexecSource("local", table=Hidden(proc)).snapshot()

    assert () == snapshot.executions
    assert Scope.PARTIAL is snapshot.visibility.scope


HIDDEN_MACHINE = """
import codecs, os, sys
from ssis_exporter.sources.dtexec import DtexecSource, linux, packagefile
import pwd
for name in ("ascii", "utf-8-sig", "utf-16"):
    codecs.lookup(name)
def show(source):
    snapshot = source.snapshot()
    seen = [run for run in snapshot.executions if run.facts.process_id in map(int, sys.argv[1:])]
    print(snapshot.visibility.scope, *sorted(run.facts.package_name for run in seen), flush=True)
show(DtexecSource("local"))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
source = DtexecSource("local")
show(source)
print(*[finding.level for finding in source.check()], any("hidepid" in finding.remedy for finding in source.check()))
"""


@pytest.mark.parametrize("option", ["1", "2"])
def test_hidepid(estate: Estate, option: str) -> None:
    """
    On a machine that hides others' processes, root sees all and any other account its own, and says so.
    """
    need_root("to mount /proc with hidepid")
    for folder in (estate.folder, *estate.folder.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    others, own = estate.start("dtexec", "/F", "others"), estate.start("dtexec", "/F", "own", user=65534)
    script = f'mount -t proc -o hidepid={option} proc /proc && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", HIDDEN_MACHINE]
    done = subprocess.run([*command, str(others.pid), str(own.pid)], check=False, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        cannot_run(f"/proc cannot be mounted here: {done.stderr.strip()}")

    assert "" == done.stderr
    assert ["all others own", "own own", "ok warning warning True"] == done.stdout.splitlines()


def test_right_to_see_is_part_of_what_ended_means() -> None:
    """
    What vanished under a narrower sight has not ended for certain.
    """
    own = Visibility(Scope.OWN, "x")

    assert not own.proves_end_of_what_was_seen_under(Visibility(Scope.ALL, "y"))


def test_file_that_hangs_does_not_hang_a_look(proc: Path, tmp_path: Path) -> None:
    """
    A package on a dead file server is called by its file; the run is shown all the same.
    """
    gate = threading.Event()

    class Hanging(PackageFiles):
        """A file server that does not answer."""

        def package(self, path: str):  # type: ignore[no-untyped-def]
            """Waits for ever."""
            gate.wait()
            return super().package(path)

    add(proc, 7, "dtexec", ["dtexec", "/F", str(tmp_path / "Load.dtsx")])
    table = LinuxTable(proc)
    table.shares_our_files = lambda _: True  # type: ignore[method-assign]
    runs = Runs("local", "m", "b", Naming(Hanging(), Patience(0.05)))
    look = table.look()
    source = source_of(proc)
    runs.update(look, source._now())

    assert ["Load"] == [run.facts.package_name for run in runs.executions(look)]
    gate.set()


def test_file_that_nobody_foresaw_does_not_blind_a_look(
    proc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A package file that makes its reader fail in an unforeseen way names its run by the command line, and no more.
    """

    class Failing(PackageFiles):
        """A reader with a bug."""

        def package(self, path: str):  # type: ignore[no-untyped-def]
            """Fails with what stands in the file."""
            raise LookupError("secret")

    add(proc, 7, "dtexec", ["dtexec", "/F", str(tmp_path / "Load.dtsx")])
    table = LinuxTable(proc)
    table.shares_our_files = lambda _: True  # type: ignore[method-assign]
    runs = Runs("local", "m", "b", Naming(Failing(), Patience(5)))
    look = table.look()
    runs.update(look, source_of(proc)._now())

    assert ["Load"] == [run.facts.package_name for run in runs.executions(look)]
    assert "LookupError" in caplog.text
    assert "secret" not in caplog.text


def test_file_is_not_read_where_paths_mean_something_else(proc: Path, tmp_path: Path) -> None:
    """
    In another container the same path is another file, so ours is not taken for it.
    """
    from tests.test_dtexec_packagefile import ATTRIBUTES

    (tmp_path / "x.dtsx").write_text(ATTRIBUTES)
    add(proc, 7, "dtexec", ["dtexec", "/F", str(tmp_path / "x.dtsx")])

    assert ["x"] == names(source_of(proc))


def test_changed_root_is_not_ours(estate: Estate) -> None:
    """
    The root of our own children is ours.
    """
    child = estate.start("dtexec", "/F", "a")

    assert LinuxTable().shares_our_files(child.pid)
    assert LinuxTable().shows_our_namespace


@pytest.mark.parametrize(("path", "sentence"), [("proc", "absolute"), ("", "absolute")])
def test_proc_path_must_be_absolute(path: str, sentence: str) -> None:
    """
    A setting that means nothing is refused with a sentence.
    """
    with pytest.raises(Exception, match=sentence):
        DtexecSource.from_settings("local", DtexecSettings(proc_path=path))


def test_settings_make_the_source(proc: Path) -> None:
    """
    `proc_path` is where it looks.
    """
    add(proc, 7, "dtexec", ["dtexec", "/F", "a.dtsx"])

    assert ["a"] == names(DtexecSource.from_settings("local", DtexecSettings(proc_path=str(proc))))


def test_boot_without_an_id_does_not_move(proc: Path) -> None:
    """
    Where the kernel tells no id of its boot, one is made once.
    """
    table = LinuxTable(proc)

    assert table.boot.startswith("t")
    assert table.boot == table.boot


def test_memory_holds_only_what_runs(proc: Path) -> None:
    """
    What ended is forgotten at the next look.
    """
    source = source_of(proc)
    for pid in range(10, 60):
        add(proc, pid, "dtexec", ["dtexec", "/F", "a.dtsx"])
    assert 50 == len(names(source))
    for pid in range(10, 60):
        shutil.rmtree(proc / str(pid))
    assert [] == names(source)

    assert source._runs is not None
    assert {} == source._runs._known


def test_names_of_processes_are_remembered_in_bounds(proc: Path) -> None:
    """
    A machine that makes up names does not fill the memory.
    """
    taker = CensusTaker(ProcFiles(proc))
    for number in range(5000):
        taker._is_program(str(number).encode())

    assert len(taker._names) <= 4096


def test_family_that_goes_in_circles_is_left(proc: Path) -> None:
    """
    The lines of one look are read one after another, so parents may not fit together.
    """
    add(proc, 7, "dtexec", ["dtexec", "/F", "a.dtsx"], parent=8)
    add(proc, 8, "x", ["x"], parent=7)
    look = LinuxTable(proc).look()

    assert [8] == look.descendants(7)
    assert [8, 7] == list(look.ancestors(7))


def test_long_arguments_are_read_whole(estate: Estate) -> None:
    """
    The package may stand behind a hundred thousand bytes of parameters.
    """
    parameters = [part for number in range(3000) for part in ("/Par", f"name{number};{'x' * 30}")]
    child = estate.start("dtexec", *parameters, "/F", "a.dtsx")

    assert "a" == run_of(DtexecSource("local"), child).facts.package_name


def test_missing_folder_comes_back(tmp_path: Path) -> None:
    """
    A source that could not look can look again when the reason is gone.
    """
    source = source_of(tmp_path / "proc")
    with pytest.raises(SourceError):
        source.snapshot()
    for start, name in ((500, "a"), (600, "b")):
        shutil.rmtree(tmp_path / "proc", ignore_errors=True)
        (tmp_path / "proc").mkdir()
        add(tmp_path / "proc", 1, "init", ["init"])
        add(tmp_path / "proc", 7, "dtexec", ["dtexec", "/F", f"{name}.dtsx"], start=start)
        if name == "b":
            # The folder that is open is gone, with all that was in it.
            with pytest.raises(SourceMissing):
                source.snapshot()

        assert [name] == names(source)
    source.close()
    source.close()
    assert ["b"] == names(source)


def test_line_that_is_longer_than_lines_are(proc: Path) -> None:
    """
    A line that was cut is read again, whole; when the process is gone by then, it has ended.
    """
    for pid in (7, 8):
        add(proc, pid, "dtexec", ["dtexec", "/F", "a.dtsx"])
        line = (proc / f"{pid}/stat").read_text()
        (proc / f"{pid}/stat").write_text(line.replace(" 4096 30 ", f" {'9' * 500} 30 "))
    table = LinuxTable(proc)
    cut = (proc / "8/stat").read_bytes()[:470]
    shutil.rmtree(proc / "8")

    assert ["a"] == names(DtexecSource("local", table=table))
    assert not table.whole(cut).is_running
