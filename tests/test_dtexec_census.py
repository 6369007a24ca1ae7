"""What is remembered from one pass over `/proc` to the next never changes what a pass finds."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

from ssis_exporter.errors import SourceBroken
from ssis_exporter.model import Scope
from ssis_exporter.sources.dtexec.linux import LinuxTable

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has such files")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A made-up `/proc` with its first process."""
    path = tmp_path / "proc"
    path.mkdir()
    put(path, 1, "init", parent=0)
    return path


def put(proc: Path, pid: int, name: str, *, parent: int = 1) -> None:
    """Adds a process; one that has the pid already is another one, and gone."""
    made = proc / f"new-{pid}"
    made.mkdir()
    write(made, pid, name, parent)
    # Both are there for a moment, so that no file system gives both the same inode.
    old = proc / str(pid)
    if old.exists():
        old.rename(proc / f"old-{pid}")
    made.rename(old)
    shutil.rmtree(proc / f"old-{pid}", ignore_errors=True)


def write(folder: Path, pid: int, name: str, parent: int) -> None:
    """What the files of a process say from now on."""
    fields = f"S {parent} 1 1 0 -1 4194304 1 0 0 0 7 3 20 5 20 0 1 0 500 4096 30 18446744073709551615"
    (folder / "stat").write_text(f"{pid} ({name}) {fields} 1 1 140{pid} 0 0 0 0 0 0\n")
    (folder / "comm").write_text(f"{name}\n")
    (folder / "cmdline").write_bytes(f"{name}\0/F\0a.dtsx\0".encode())


def found(table: LinuxTable) -> tuple[int, list[int], dict[int, list[int]]]:
    """How many processes there are, the programs among them, and who is below each."""
    look = table.look()
    pids = sorted(seen.pid for seen in look.sightings)
    return look.count, pids, {pid: sorted(look.descendants(pid)) for pid in pids}


def test_line_of_a_known_process_is_not_read_again(proc: Path) -> None:
    """
    Its name is enough, as long as it is none of ours.
    """
    put(proc, 7, "sleeper")
    table = LinuxTable(proc)
    table.look()
    (proc / "7/stat").unlink()

    assert 2 == table.look().count


def test_known_process_that_becomes_a_program_is_found(proc: Path) -> None:
    """
    `exec` keeps the pid, the start time and the folder.
    """
    put(proc, 7, "sh-like")
    table = LinuxTable(proc)
    assert (2, [], {}) == found(table)
    write(proc / "7", 7, "dtexec", 1)

    assert (2, [7], {7: []}) == found(table)


def test_known_process_that_ends_while_it_becomes_a_program_is_none(proc: Path) -> None:
    """
    Between its name and its line it may end.
    """
    put(proc, 7, "sleeper")
    table = LinuxTable(proc)
    table.look()
    write(proc / "7", 7, "dtexec", 1)
    (proc / "7/stat").unlink()

    assert (1, [], {}) == found(table)


@pytest.mark.parametrize("heir", [1, 7])
def test_process_whose_parent_ended_has_another(proc: Path, heir: int) -> None:
    """
    The first process, or one above that said so (a subreaper), takes over.
    """
    put(proc, 7, "dtexec")
    put(proc, 8, "between", parent=7)
    put(proc, 9, "below", parent=8)
    table = LinuxTable(proc)
    assert {7: [8, 9]} == found(table)[2]
    shutil.rmtree(proc / "8")
    write(proc / "9", 9, "below", heir)

    assert {7: [9] if heir == 7 else []} == found(table)[2]


@pytest.mark.parametrize("heir", [1, 7])
def test_pid_that_is_used_again_has_its_own_parent(proc: Path, heir: int) -> None:
    """
    Neither it nor those below the one before it are taken for what they were.
    """
    put(proc, 7, "dtexec")
    put(proc, 8, "between", parent=7)
    put(proc, 9, "below", parent=8)
    table = LinuxTable(proc)
    table.look()
    put(proc, 8, "between")
    write(proc / "9", 9, "below", heir)

    assert {7: [9] if heir == 7 else []} == found(table)[2]


def test_process_whose_parent_was_not_seen_is_read_again(proc: Path) -> None:
    """
    Nobody would notice when such a parent ends.
    """
    put(proc, 7, "dtexec")
    put(proc, 8, "below", parent=6)
    table = LinuxTable(proc)
    table.look()
    write(proc / "8", 8, "below", 7)

    assert {7: [8]} == found(table)[2]


def test_what_is_known_of_parents_is_compared_with_their_lines(proc: Path) -> None:
    """
    A process that has the inode of one before it is no child of that one's parent.
    """
    put(proc, 7, "dtexec")
    put(proc, 8, "below", parent=7)
    table = LinuxTable(proc)
    table.look()
    write(proc / "8", 8, "below", 1)

    assert {7: []} == found(table)[2]


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("number", [errno.ESRCH, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM])
def test_read_that_fails(proc: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_known: bool) -> None:
    """
    What ended is not there, what is forbidden is counted, and anything else ends the look: nobody says nothing runs.
    """
    put(proc, 7, "sleeper")
    table = LinuxTable(proc)
    if is_known:
        table.look()
    really_read = os.read

    def read(file: int, size: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{file}") == str(proc / ("7/comm" if is_known else "7/stat")):
            raise OSError(number, "told so")
        return really_read(file, size)

    monkeypatch.setattr(os, "read", read)
    if number in (errno.EIO, errno.ENOMEM):
        with pytest.raises(SourceBroken, match="told so"):
            table.look()
    else:
        look = table.look()
        assert 1 == look.count
        assert (number == errno.ESRCH) == (look.visibility.scope is Scope.ALL)
    monkeypatch.undo()

    assert 2 == table.look().count


def test_line_that_is_none_ends_the_look(proc: Path) -> None:
    """
    What cannot be understood may be a run.
    """
    put(proc, 7, "dtexec")
    (proc / "7/stat").write_text("")

    with pytest.raises(SourceBroken, match="is no line of a process"):
        LinuxTable(proc).look()


@pytest.mark.parametrize("seed", range(5))
def test_whoever_remembers_finds_what_whoever_begins_finds(proc: Path, seed: int) -> None:
    """
    Processes start, end, become others and leave their children behind; a look of a new table is the measure.
    """
    chance = random.Random(seed)
    table = LinuxTable(proc)
    family = {1: (0, "init")}
    for _ in range(80):
        for _ in range(chance.randrange(4)):
            pid = chance.randrange(2, 25)
            for child in [child for child, (parent, _) in family.items() if parent == pid]:
                # The first process inherits; the ended one's children are not those of who gets its pid.
                family[child] = (1, family[child][1])
                write(proc / str(child), child, family[child][1], 1)
            ends = pid in family and chance.random() < 0.4
            becomes = pid in family and not ends and chance.random() < 0.5
            name = chance.choice(["dtexec", "sleeper", "bash", "worker)"])
            if ends:
                del family[pid]
                shutil.rmtree(proc / str(pid))
            elif becomes:
                family[pid] = (family[pid][0], name)
                write(proc / str(pid), pid, *family[pid][::-1])
            else:
                family.pop(pid, None)
                family[pid] = (chance.choice([*family]), name)
                put(proc, pid, name, parent=family[pid][0])

        assert found(LinuxTable(proc)) == found(table)
