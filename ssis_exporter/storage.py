"""One SQLite file of the exporter's own: opened with suspicion, written by one thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.core import GaugeMetricFamily

from ssis_exporter.errors import (
    STORAGE_ERROR_REASONS,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageLocked,
    StorageReadOnly,
    StorageSlow,
    StorageTooNew,
)
from ssis_exporter.storagefolder import Storage, from_os_error, log_of, set_aside, sync_folder

log = logging.getLogger(__name__)

T = TypeVar("T")

_SQLITE_MAGIC = b"SQLite format 3\0"
_WAL_MAGICS = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_WAL_HEADER_BYTES = 32

SLOW_SECONDS = 5.0
"""How long the disk may take for one thing before that is trouble."""

CLOSE_SECONDS = 2.0
"""How long closing waits for it."""


class StorageMetrics:
    """How the files fare. One object for all files of a folder, registered once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._up: dict[str, bool] = {}
        self._damaged = Counter(
            "ssis_storage_damaged_total",
            "How often a file of the exporter's own was found damaged since the start.",
            registry=registry,
        )
        self._errors = Counter(
            "ssis_storage_errors_total",
            "Failed reads and writes of the exporter's own files since the start, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in STORAGE_ERROR_REASONS:
            self._errors.labels(reason)
        registry.register(self)

    def worked(self, name: str) -> None:
        """The file could be written."""
        self._up[name] = True

    def failed(self, name: str, error: StorageError) -> None:
        """The file could not be read or written."""
        self._up[name] = False
        self._errors.labels(error.reason).inc()

    def found_damaged(self) -> None:
        """A file was found damaged."""
        self._damaged.inc()

    def describe(self) -> Iterable[Metric]:
        """The gauge, without a value."""
        yield self._family()

    def collect(self) -> Iterable[Metric]:
        """Whether all files can be used."""
        family = self._family()
        family.add_metric([], float(all(self._up.values())))
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "ssis_storage_up", "Whether all files of the exporter's own could be used when last tried."
        )


class Database:
    """
    One SQLite file of the folder: all its work runs on one thread, never on the event loop.

    What a `write` returned is on disk. A file that is damaged stays closed until `set_aside` is called, so that an
    operator knows that what it held is lost.

    A disk that hangs keeps nobody who comes later: `StorageSlow`, until it answers.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        schema: Sequence[str],
        *,
        metrics: StorageMetrics | None = None,
        busy_timeout: timedelta = timedelta(milliseconds=500),
        executor: Executor | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        slow_seconds: float = SLOW_SECONDS,
    ) -> None:
        """`schema` is one script per version; each leads from the version before to its own."""
        self.path = storage.folder / name
        self._storage = storage
        self._schema = tuple(schema)
        self._metrics = metrics
        self._busy_seconds = busy_timeout.total_seconds()
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix=name)
        self._now = now
        self._slow_seconds = slow_seconds
        self._connection: sqlite3.Connection | None = None
        self._files: tuple[object, object] | None = None
        self._damage: StorageDamaged | None = None
        self._busy_since: float | None = None
        self._is_closed = False
        self.is_left_behind = False
        """Whether its thread still waited for the disk when it was closed: such a thread keeps the process alive."""

        self.trouble: StorageError | None = None
        """Why it could not be used when last tried; None when it could."""

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._connection is not None

    @property
    def is_damaged(self) -> bool:
        """Whether it stays closed until an operator acknowledges."""
        return self._damage is not None

    async def open(self) -> None:
        """
        Makes or checks the file; harmless when it is open. `read` and `write` do this too.

        Raises `StorageError`: `StorageInUse`, `StorageDamaged`, `StorageTooNew`, `StorageReadOnly` and others.
        """
        await self._run(self._open, waits=False)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """
        Runs `work` in one transaction, which is on disk when this returns.

        Raises `StorageError`, and nothing was written; what `work` raises itself comes through, likewise. Once begun it
        waits for a disk that hangs, because nobody can say yet what will be on it.
        """
        return await self._run(lambda: self._transaction(work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work`, which writes nothing. Raises `StorageError`."""
        return await self._run(lambda: work(self._open()), waits=False)

    async def set_aside(self) -> Path | None:
        """
        An operator knows that the file is damaged: keeps it under another name and begins a new one.

        Returns where it is kept, None when there was none. Raises `StorageError`.
        """

        def work() -> Path | None:
            self._drop()
            self._storage.claim()
            kept = set_aside(self.path, self._now())
            self._damage = None
            self._open()
            return kept

        return await self._run(work)

    async def close(self) -> None:
        """Closes the file and ends its thread, unless the disk hangs; may be called twice. The folder stays owned."""
        if self._is_closed:
            return
        self._is_closed = True
        dropping = asyncio.get_running_loop().run_in_executor(self._executor, self._drop)
        _, waiting = await asyncio.wait([dropping], timeout=CLOSE_SECONDS)
        self.is_left_behind = bool(waiting)
        self._executor.shutdown(wait=False)

    async def _run(self, work: Callable[[], T], *, waits: bool = True) -> T:
        """`waits` says that what was begun is waited for, however long it takes."""
        if self._is_closed:
            raise StorageError(f"{self.path} was closed")
        slow = StorageSlow(f"{self.path}: the disk has not answered for {self._slow_seconds:g} seconds")
        if self._busy_since is not None and time.monotonic() - self._busy_since >= self._slow_seconds:
            self._failed(slow)
            raise slow
        working = asyncio.get_running_loop().run_in_executor(self._executor, lambda: self._guarded(work))
        try:
            await asyncio.wait([working], timeout=self._slow_seconds)
            if not working.done():
                self._failed(slow)
                if not waits:
                    raise slow
            return await working
        finally:
            # For whoever is cancelled meanwhile: what has not begun never will.
            working.cancel()

    # From here on everything runs on the file's own thread.

    def _guarded(self, work: Callable[[], T]) -> T:
        self._busy_since = time.monotonic()
        try:
            result = work()
        except sqlite3.Error as exc:
            error = _from_sqlite(self.path, exc)
            if not isinstance(error, StorageLocked | StorageFull):
                # After a failed sync nobody knows what is on disk: open and check it again.
                self._drop()
            self._failed(error)
            raise error from exc
        except StorageError as exc:
            self._failed(exc)
            raise
        finally:
            self._busy_since = None
        if self.trouble is not None:
            log.warning("storage: %s can be used again", self.path)
        self.trouble = None
        if self._metrics is not None:
            self._metrics.worked(self.path.name)
        return result

    def _failed(self, error: StorageError) -> None:
        if isinstance(error, StorageDamaged) and self._damage is None:
            self._damage = error
            self._drop()
            if self._metrics is not None:
                self._metrics.found_damaged()
        if type(error) is not type(self.trouble):
            log.error("storage: %s", error)
        self.trouble = error
        if self._metrics is not None:
            self._metrics.failed(self.path.name, error)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._open()
        self._storage.claim()
        if self._files != self._files_now():
            raise StorageDamaged(f"{self.path} was taken away or replaced while it was in use")
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._committed()
        return result

    def _committed(self) -> None:
        """A transaction is on disk. For tests that end the process at each such moment."""

    def _open(self) -> sqlite3.Connection:
        if self._damage is not None:
            raise self._damage
        if self._connection is not None:
            return self._connection
        self._storage.claim()
        _check_before_opening(self.path)
        if not self.path.exists():
            self._make()
        connection = sqlite3.connect(self.path, timeout=self._busy_seconds, isolation_level=None)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._files = self._files_now()
        return connection

    def _make(self) -> None:
        """A new file gets its name only when it is complete, so an empty one is always damage."""
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            fresh.unlink(missing_ok=True)
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640))
        except OSError as exc:
            raise from_os_error(f"{self.path} cannot be made", exc) from exc
        connection = sqlite3.connect(fresh, timeout=self._busy_seconds, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            self._migrate(connection, 0)
        finally:
            connection.close()
        try:
            fresh.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as exc:
            raise from_os_error(f"{self.path} cannot be made", exc) from exc
        log.info("storage: made %s", self.path)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        check_content(connection, self.path, self._schema)
        [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StorageError(f"{self.path} cannot be kept safe where it is (no write-ahead log): use a local disk")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        # Written also when nothing changes: whether it can be is to be known now.
        self._migrate(connection, version)

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for script in self._schema[version:]:
                for statement in script.split(";\n\n"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(self._schema)}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _files_now(self) -> tuple[object, object]:
        return _which(self.path), _which(log_of(self.path))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def open_read_only(path: Path, schema: Sequence[str], *, is_in_use: bool = False) -> sqlite3.Connection:
    """
    A connection that can write nothing, also while a `serve` works with the file. Blocks; the caller closes it.

    `is_in_use` says that an exporter has the file open, and has checked it: it sees what that one writes.
    Raises `StorageError` when there is no such file, or it cannot be read, is damaged or too new.
    """
    if not path.exists():
        raise StorageError(f"there is no {path}; nothing was recorded yet, or --storage.path is another one")
    try:
        _check_before_opening(path)
        # Without a log beside it nobody works with the file, and a folder that may not be written to is fine.
        immutable = "" if is_in_use or log_of(path).exists() else "&immutable=1"
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{immutable}", uri=True, timeout=5)
        try:
            check_content(connection, path, schema, pages=not is_in_use)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as exc:
        raise _from_sqlite(path, exc) from exc
    except OSError as exc:
        raise from_os_error(f"{path} cannot be read", exc) from exc
    return connection


def check_content(connection: sqlite3.Connection, path: Path, schema: Sequence[str], *, pages: bool = True) -> None:
    """Raises `StorageTooNew`, and `StorageDamaged` when pages or indexes do not fit together: that reads all of it."""
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version > len(schema):
        raise StorageTooNew(
            f"{path} was written by a later version of ssis-exporter (format {version}, known up to {len(schema)}); "
            "install that version or give another --storage.path"
        )
    if not pages:
        return
    problems = [row[0] for row in connection.execute("PRAGMA integrity_check(1)")]
    if problems != ["ok"]:
        raise StorageDamaged(f"{path} is damaged: {problems[0]}")


def _which(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_before_opening(path: Path) -> None:
    """
    What SQLite would take for a new or an intact file, and is not.

    An empty file is to SQLite a new database, and a log whose head it does not know is no log: what was committed
    would be forgotten without a word.
    """
    try:
        log_head = _head(log_of(path), _WAL_HEADER_BYTES)
        head = _head(path, len(_SQLITE_MAGIC))
    except OSError as exc:
        raise from_os_error(f"{path} cannot be read", exc) from exc
    if head is None:
        if log_head:
            raise StorageDamaged(f"{path} is gone and its log is still there")
        return
    if head != _SQLITE_MAGIC:
        raise StorageDamaged(f"{path} is damaged: it is {'empty' if not head else 'no SQLite file'}")
    if log_head is not None and len(log_head) == _WAL_HEADER_BYTES and not log_head.startswith(_WAL_MAGICS):
        raise StorageDamaged(f"{log_of(path)} is damaged: it is no log of SQLite")


def _head(path: Path, count: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except FileNotFoundError:
        return None


def _from_sqlite(path: Path, exc: sqlite3.Error) -> StorageError:
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    sentence = f"{path}: {exc}"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageDamaged(f"{path} is damaged: {exc}")
    if code == sqlite3.SQLITE_FULL:
        return StorageFull(sentence)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return StorageLocked(f"{path} is held by another program: {exc}")
    not_writable = not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK))
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM) or (code == sqlite3.SQLITE_CANTOPEN and not_writable):
        return StorageReadOnly(sentence)
    return StorageError(sentence)
