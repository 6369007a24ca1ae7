"""
A stopper in a process of its own that kills itself at one point, for the crash tests; run as a program.

Its source is a file: each run that is asked to stop has a line in `requests`, whatever process asked. The points are
every commit of the ledger and the moments before and after every call to the source, in the order in which they come.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from ssis_exporter.errors import NoSuchExecution
from ssis_exporter.hold import Hold
from ssis_exporter.ledger import NAME, Ledger
from ssis_exporter.ledgerrows import SCHEMA
from ssis_exporter.model import (
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Nomination,
    Scope,
    Snapshot,
    StopMode,
    StopReply,
    Visibility,
)
from ssis_exporter.policy import Action, Match, Policy, Rule
from ssis_exporter.sources.interface import StoppableSource
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.stopper import Stopper, StopSettings
from ssis_exporter.storage import Database
from ssis_exporter.storagefolder import Storage

STARTED_AT = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
ASKED_SINCE = STARTED_AT + timedelta(hours=1)


class Fuse:
    """Counts the points that the process comes to, and ends it at one of them as nothing but a SIGKILL does."""

    def __init__(self, at: int, log: Path) -> None:
        self._left = at
        self._log = log

    def point(self, name: str) -> None:
        """One more point."""
        with self._log.open("a") as log:
            log.write(name + "\n")
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class FileSource(StoppableSource):
    """Runs that live in a folder: `run-ID` is there while it runs, and holds `stopping` once it was asked."""

    kind = "file"
    can_force_stop = True

    def __init__(self, name: str, folder: Path, fuse: Fuse, *, obeys: bool) -> None:
        super().__init__(name)
        self._folder = folder
        self._fuse = fuse
        self._obeys = obeys
        self.gone_after = 0
        """How many looks a run survives its request, where it obeys."""

    def snapshot(self) -> Snapshot:
        """What is in the folder."""
        self._fuse.point("before snapshot")
        runs = []
        for path in sorted(self._folder.glob("run-*")):
            stopping = path.read_text() == "stopping"
            if stopping and self._obeys:
                path.unlink()
                continue
            status = ExecutionStatus.STOPPING if stopping and self.tells_stopping else ExecutionStatus.RUNNING
            facts = ExecutionFacts(
                key=ExecutionKey(self.name, path.name.removeprefix("run-")), package_name="Load", started_at=STARTED_AT
            )
            runs.append(Execution(facts=facts, status=status, duration=timedelta(hours=1)))
        seen = Snapshot(
            source=self.name,
            taken_at=datetime.now(UTC),
            visibility=Visibility(Scope.ALL),
            executions=tuple(runs),
        )
        self._fuse.point("after snapshot")
        return seen

    def evidence(self, execution: Execution) -> Mapping[str, str]:
        """Something."""
        self._fuse.point("before evidence")
        return {"id": execution.key.instance_id}

    def request_stop(self, execution: Execution) -> StopReply:
        """Counts, on disk, and marks the run."""
        return self._act("request", execution, "stopping")

    def force_stop(self, execution: Execution) -> StopReply:
        """Counts, on disk, and ends the run."""
        return self._act("force", execution, None)

    def _act(self, what: str, execution: Execution, mark: str | None) -> StopReply:
        self._fuse.point(f"before {what}")
        run = self._folder / f"run-{execution.key.instance_id}"
        if not run.exists():
            raise NoSuchExecution("it is over")
        with (self._folder / f"{what}s").open("a") as counter:
            counter.write(execution.key.instance_id + "\n")
        if mark is None:
            run.unlink()
        else:
            run.write_text(mark)
        self._fuse.point(f"after {what}")
        return StopReply.ACCEPTED


class TellingSource(FileSource):
    """One that shows who is being stopped."""

    tells_stopping = True


class FusedDatabase(Database):
    """A database that comes to a point before and after each commit."""

    fuse: Fuse

    def _transaction(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        self.fuse.point("before commit")
        return super()._transaction(work)

    def _committed(self) -> None:
        self.fuse.point("after commit")


async def main(folder: Path, plan: dict[str, Any]) -> None:
    """Nominates, and works until everything has an outcome; answers go to `accepted` before anything else."""
    fuse = Fuse(plan["at"], folder / "points")
    kind = TellingSource if plan["tells"] else FileSource
    worker = SourceWorker(kind("files", folder, fuse, obeys=plan["obeys"]))
    storage = Storage(folder / "storage")
    ledger = Ledger(storage)
    FusedDatabase.fuse = fuse
    ledger.database = FusedDatabase(storage, NAME, SCHEMA)
    escalate_after = timedelta(milliseconds=50) if plan["escalates"] else None
    rule = Rule(
        match=Match(package_name="*"),
        action=Action.STOP,
        grace=timedelta(milliseconds=1) if plan["grace"] else timedelta(),
        escalate_after=escalate_after,
    )
    stopper = Stopper(
        StopSettings(
            mode=StopMode.ARMED,
            policy=Policy((rule,)),
            retry_every=timedelta(milliseconds=10),
            confirm_timeout=timedelta(milliseconds=200),
        ),
        ledger=ledger,
        hold=Hold(storage.folder),
        worker=lambda name: worker if name == "files" else None,
        metrics=StopMetrics(CollectorRegistry()),
        # Pauses are cut short; how long an answer is waited for is not.
        wait=lambda seconds: asyncio.sleep(seconds if seconds >= 10 else min(seconds, 0.01)),
    )
    await stopper.start()
    for instance_id in plan["nominate"]:
        # Two peers of a cluster send the same.
        message = [Nomination(key=ExecutionKey("files", instance_id), asked_since=ASKED_SINCE)]
        for _ in range(2):
            await stopper.submit(message)
            with (folder / "accepted").open("a") as accepted:
                accepted.write(instance_id + "\n")
    while stopper.pending():  # noqa: ASYNC110 - the outcome is what is waited for, and this is a test's own program
        await asyncio.sleep(0.005)
    await stopper.close()
    worker.close()
    storage.release()


def serve() -> None:
    """A process per line of plans, each forked from this one, which has imported everything and runs no thread."""
    for line in sys.stdin:
        plan = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(main(Path(plan.pop("folder")), plan))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
