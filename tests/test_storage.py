"""storage: one owner per folder; what a write returned is on disk; what is damaged is never taken for new."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from prometheus_client import CollectorRegistry

from ssis_exporter.errors import (
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageInUse,
    StorageLocked,
    StorageReadOnly,
    StorageTooNew,
)
from ssis_exporter.storage import Database, StorageMetrics, open_read_only
from ssis_exporter.storagefolder import Storage, replace_file

T = TypeVar("T")

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit, signal or account")

SCHEMA = ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)",)


class File:
    """A database in a folder of its own, closed at the end."""

    def __init__(self, folder: Path, schema: tuple[str, ...] = SCHEMA) -> None:
        self.registry = CollectorRegistry()
        self.storage = Storage(folder)
        self.database = Database(self.storage, "notes.sqlite", schema, metrics=StorageMetrics(self.registry))
        self.path = self.database.path

    async def add(self, text: str = "x") -> None:
        await self.database.write(lambda connection: connection.execute("INSERT INTO notes (text) VALUES (?)", [text]))

    async def notes(self) -> list[str]:
        query = "SELECT text FROM notes ORDER BY id"
        return await self.database.read(lambda connection: [text for (text,) in connection.execute(query)])

    async def __aenter__(self) -> File:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.database.close()
        self.storage.release()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    return asyncio.run(main())


def make(folder: Path, *texts: str) -> Path:
    """A file that holds these, closed."""

    async def work() -> Path:
        async with File(folder) as file:
            for text in texts or ("first",):
                await file.add(text)
            return file.path

    return run(work)


def error_of(folder: Path, schema: tuple[str, ...] = SCHEMA) -> StorageError:
    """What opening the file raises."""

    async def work() -> StorageError:
        async with File(folder, schema) as file:
            with pytest.raises(StorageError) as caught:
                await file.add()
            assert file.value("ssis_storage_up") == 0
            assert file.value("ssis_storage_errors_total", reason=caught.value.reason) == 1
            return caught.value

    return run(work)


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """
    A write that returned lasts.
    """
    make(tmp_path / "new" / "folder", "a", "b")

    async def work() -> list[str]:
        async with File(tmp_path / "new" / "folder") as file:
            return await file.notes()

    assert ["a", "b"] == run(work)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """
    A transaction whose work raises is undone, and the file goes on.
    """

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes (text) VALUES ('half')")
        raise ZeroDivisionError

    async def work() -> list[str]:
        async with File(tmp_path) as file:
            with pytest.raises(ZeroDivisionError):
                await file.database.write(half)
            await file.add("whole")
            return await file.notes()

    assert ["whole"] == run(work)


def test_work_does_not_run_on_the_event_loop(tmp_path: Path) -> None:
    """
    While a write lasts, the loop goes on.
    """
    import threading

    async def work() -> None:
        go_on = threading.Event()
        async with File(tmp_path) as file:
            writing = asyncio.ensure_future(file.database.write(lambda _: go_on.wait(30)))
            await asyncio.sleep(0)
            go_on.set()
            assert await writing

    run(work)


def test_settings_keep_what_is_committed(tmp_path: Path) -> None:
    """
    A write-ahead log, synchronised at every commit.
    """

    async def work() -> tuple[str, int]:
        async with File(tmp_path) as file:
            await file.add()
            return await file.database.read(
                lambda connection: (
                    connection.execute("PRAGMA journal_mode").fetchone()[0],
                    connection.execute("PRAGMA synchronous").fetchone()[0],
                )
            )

    assert ("wal", 2) == run(work)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    """
    A file that a later version wrote is left alone, with a sentence.
    """
    path = make(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = path.read_bytes()
    error = error_of(tmp_path)

    assert isinstance(error, StorageTooNew)
    assert str(error).endswith(
        "was written by a later version of ssis-exporter (format 7, known up to 1); "
        "install that version or give another --storage.path"
    )
    assert before == path.read_bytes()


def test_an_earlier_version_is_brought_up(tmp_path: Path) -> None:
    """
    Each step of the schema is taken once, and what was there stays.
    """
    make(tmp_path, "old")
    later = (*SCHEMA, "ALTER TABLE notes ADD COLUMN place TEXT NOT NULL DEFAULT 'here';\n\nCREATE TABLE more (id)")

    async def work() -> list[tuple[str, str]]:
        async with File(tmp_path, later) as file:
            return await file.database.read(
                lambda connection: connection.execute("SELECT text, place FROM notes").fetchall()
            )

    assert [("old", "here")] == run(work)
    assert [("old", "here")] == run(work)


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    """
    A version is reached whole or not at all.
    """
    make(tmp_path, "old")
    error = error_of(tmp_path, (*SCHEMA, "CREATE TABLE more (id);\n\nCREATE TABLE notes (id)"))

    assert "already exists" in str(error)

    async def work() -> list[str]:
        async with File(tmp_path) as file:
            return await file.notes()

    assert ["old"] == run(work)


def wipe(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"garbage!" * 1024)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize("damage", [wipe, fill_with_garbage, cut, empty, scribble], ids=lambda one: one.__name__)
def test_a_damaged_file_stays_closed_until_it_is_set_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """
    Zeros, garbage, a part, nothing: never taken for a new file; kept when an operator acknowledges.
    """
    damage(make(tmp_path, *("text" * 200 for _ in range(40))))
    damaged = (tmp_path / "notes.sqlite").read_bytes()

    async def work() -> None:
        async with File(tmp_path) as file:
            for _ in range(2):
                with pytest.raises(StorageDamaged):
                    await file.add()
            assert file.database.is_damaged
            assert file.value("ssis_storage_up") == 0
            assert file.value("ssis_storage_damaged_total") == 1

            kept = await file.database.set_aside()
            assert kept is not None
            assert damaged == kept.read_bytes()
            await file.add("new")
            assert ["new"] == await file.notes()
            assert file.value("ssis_storage_up") == 1

    run(work)


def killed_while_open(folder: Path) -> Path:
    """A file whose process was killed, so that its log is still there."""
    code = (
        "import asyncio, os, sys, pathlib\n"
        "from tests.test_storage import File\n"
        "async def main():\n"
        "    file = File(pathlib.Path(sys.argv[1]))\n"
        "    await file.add('committed')\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(folder)], check=False, cwd=Path(__file__).parent.parent)
    assert -signal.SIGKILL == ended.returncode
    path = folder / "notes.sqlite"
    assert path.with_name("notes.sqlite-wal").stat().st_size > 0
    return path


@posix_only
def test_a_killed_process_leaves_what_it_committed_and_no_lock(tmp_path: Path) -> None:
    """
    SIGKILL loses nothing, and the next start owns the folder.
    """
    killed_while_open(tmp_path)

    async def work() -> list[str]:
        async with File(tmp_path) as file:
            return await file.notes()

    assert ["committed"] == run(work)


@posix_only
def test_a_damaged_log_is_not_overlooked(tmp_path: Path) -> None:
    """
    SQLite would take a log of zeros for none, and forget what was committed.
    """
    path = killed_while_open(tmp_path)
    wipe(path.with_name("notes.sqlite-wal"))

    assert isinstance(error_of(tmp_path), StorageDamaged)


@posix_only
def test_a_file_that_is_gone_while_its_log_is_there_is_damaged(tmp_path: Path) -> None:
    """
    What the log held would be lost with a new file.
    """
    path = killed_while_open(tmp_path)
    path.unlink()

    assert "is gone and its log is still there" in str(error_of(tmp_path))


@posix_only
def test_a_file_that_is_taken_away_while_in_use_is_damaged(tmp_path: Path) -> None:
    """
    What was written to a file without a name would be gone with the process.
    """

    async def work() -> None:
        async with File(tmp_path) as file:
            await file.add()
            file.path.rename(tmp_path / "elsewhere")
            with pytest.raises(StorageDamaged):
                await file.add()

    run(work)


def test_a_start_that_was_killed_in_the_middle_is_no_damage(tmp_path: Path) -> None:
    """
    A file gets its name only when it is complete; an incomplete one is made anew.
    """
    (tmp_path / "notes.sqlite.new").write_bytes(b"SQLite format 3\0half")

    assert make(tmp_path).exists()


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    """
    Two exporters never work with one folder, in one process or in two.
    """
    storage = Storage(tmp_path)
    storage.claim()
    storage.claim()
    with pytest.raises(StorageInUse) as caught:
        Storage(tmp_path).claim()

    assert (
        f"another ssis-exporter (process {os.getpid()}) works with {tmp_path}; end it, or give another --storage.path"
        == str(caught.value)
    )
    code = (
        "import sys, pathlib\nfrom ssis_exporter.storagefolder import Storage\n"
        "Storage(pathlib.Path(sys.argv[1])).claim()\n"
    )
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)
    assert "StorageInUse" in other.stderr

    storage.release()
    storage.release()
    next_owner = Storage(tmp_path)
    next_owner.claim()
    next_owner.release()


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    """
    The lock ends with its process, however that ends.
    """
    code = (
        "import sys, pathlib\nfrom ssis_exporter.storagefolder import Storage\n"
        "storage = Storage(pathlib.Path(sys.argv[1])); storage.claim(); print('mine', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert "mine\n" == owner.stdout.readline()
        with pytest.raises(StorageInUse):
            Storage(tmp_path).claim()
        owner.kill()
        owner.wait()
    storage = Storage(tmp_path)
    storage.claim()
    storage.release()


@posix_only
def test_whoever_lost_the_name_of_the_lock_writes_no_more(tmp_path: Path) -> None:
    """
    Somebody takes the lock away, because it looks like one that was left behind, and another exporter starts: the
    first one writes nothing until the other has ended. Where none started, the lock is there again.
    """

    async def work() -> None:
        async with File(tmp_path) as first:
            await first.add("1")
            (tmp_path / "lock").unlink()
            await first.add("2")
            with pytest.raises(StorageInUse):
                Storage(tmp_path).claim()

            (tmp_path / "lock").unlink()
            other = Storage(tmp_path)
            other.claim()
            with pytest.raises(StorageInUse):
                await first.add("3")
            assert 0 == first.registry.get_sample_value("ssis_storage_up")
            assert ["1", "2"] == await first.notes()

            other.release()
            await first.add("4")
            assert ["1", "2", "4"] == await first.notes()

    asyncio.run(work())


def test_a_full_disk(tmp_path: Path) -> None:
    """
    No room: nothing is written, what was there stays, and it goes on when there is room again.
    """

    async def work() -> None:
        async with File(tmp_path) as file:
            await file.add("before")
            pages = await file.database.read(lambda one: one.execute("PRAGMA page_count").fetchone()[0])
            await file.database.read(lambda one: one.execute(f"PRAGMA max_page_count = {pages}").fetchone())
            with pytest.raises(StorageFull):
                await file.add("x" * 100_000)
            assert file.value("ssis_storage_up") == 0
            await file.database.read(lambda one: one.execute("PRAGMA max_page_count = 100000").fetchone())
            await file.add("after")
            assert file.value("ssis_storage_up") == 1
            assert ["before", "after"] == await file.notes()

    run(work)


@posix_only
def test_a_disk_that_refuses_to_grow_a_file(tmp_path: Path) -> None:
    """
    A failed write in the middle of a commit: an error, nothing of it is there, and the next write works.
    """
    import resource

    async def work() -> None:
        async with File(tmp_path) as file:
            await file.add("before")
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
            try:
                with pytest.raises(StorageError):
                    await file.add("x" * 100_000)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            await file.add("after")
            assert ["before", "after"] == await file.notes()

    run(work)


def test_a_file_that_another_program_holds(tmp_path: Path) -> None:
    """
    It is waited for only shortly.
    """

    async def work() -> None:
        async with File(tmp_path) as file:
            await file.add("before")
            other = sqlite3.connect(file.path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageLocked):
                await file.add()
            other.execute("ROLLBACK")
            other.close()
            await file.add("after")
            assert ["before", "after"] == await file.notes()

    run(work)


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A folder of the account `nobody`, whom permissions bind, where this is root; any folder elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


@posix_only
def test_a_folder_that_may_not_be_written_to(not_root: Path) -> None:
    """
    A read-only file, and a read-only folder, are an error of their own.
    """
    path = make(not_root, "text")
    path.chmod(0o400)
    not_root.chmod(0o500)

    assert isinstance(error_of(not_root), StorageReadOnly)
    assert isinstance(error_of(not_root / "deeper"), StorageReadOnly)

    connection = open_read_only(path, SCHEMA)
    assert [("text",)] == connection.execute("SELECT text FROM notes").fetchall()
    connection.close()
    not_root.chmod(0o700)


def test_reading_while_another_writes(tmp_path: Path) -> None:
    """
    `audit` sees what is committed while `serve` works, and can change nothing.
    """

    async def work() -> None:
        async with File(tmp_path) as file:
            await file.add("text")
            connection = open_read_only(file.path, SCHEMA)
            assert [("text",)] == connection.execute("SELECT text FROM notes").fetchall()
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                connection.execute("DELETE FROM notes")
            await file.add("more")
            connection.close()

    run(work)


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    """
    No file, a damaged and a too new one: a sentence each, and nothing is made.
    """
    with pytest.raises(StorageError, match="nothing was recorded yet"):
        open_read_only(tmp_path / "notes.sqlite", SCHEMA)
    assert [] == list(tmp_path.iterdir())

    path = make(tmp_path)
    with pytest.raises(StorageTooNew):
        open_read_only(path, ())
    wipe(path)
    with pytest.raises(StorageDamaged):
        open_read_only(path, SCHEMA)


def test_replacing_a_file_is_whole_or_nothing(tmp_path: Path) -> None:
    """
    A file is put in place in one step; what cannot be is an error.
    """
    path = tmp_path / "folder" / "file"
    replace_file(path, b"one")
    replace_file(path, b"two")

    assert b"two" == path.read_bytes()
    assert ["file"] == [one.name for one in path.parent.iterdir()]
    with pytest.raises(StorageError):
        replace_file(path / "below", b"")


def test_closing_twice(tmp_path: Path) -> None:
    """
    Closing is harmless whenever it comes.
    """

    async def work() -> None:
        file = File(tmp_path)
        await file.database.close()
        await file.database.close()
        file.storage.release()

    run(work)
