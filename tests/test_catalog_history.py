"""The catalog's ends in the history, over the real driver: each once, whatever happens to the exporter."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from ssis_exporter.backfill import Backfill, FirstErrors
from ssis_exporter.history import History
from ssis_exporter.historyfile import NAME, SCHEMA
from ssis_exporter.model import ExecutionFacts, ExecutionKey, Result
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.storage import Database
from ssis_exporter.storagefolder import Storage
from tests.catalogs import Clock, Rig, make_estate, rig

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"
WAIT = timedelta(seconds=60)
CODES = {3: Result.CANCELED, 4: Result.FAILED, 6: Result.ENDED_UNEXPECTEDLY, 7: Result.SUCCEEDED, 9: Result.COMPLETED}


def counts(history: History) -> Counter[Result]:
    """By result."""
    found: Counter[Result] = Counter()
    for record in history.records():
        found.update({result: count for result, count in record.counts.items() if count})
    return found


async def life(made: Rig, storage: Storage, rng: random.Random, log: Counter[Result], looks: int) -> Counter[Result]:
    """One life of an exporter while runs begin and end; some lives end with looks that were never written."""
    history = History.of(storage)
    await history.open()
    source = made.source()
    source.resume(*history.resume_point("sql01"))
    unwritten = looks - rng.choice([0, 0, 2])
    for turn in range(looks):
        seen = source.snapshot()
        if turn < unwritten:
            history.observe(seen)
            await history.settle(WAIT)
        change(made, rng, log)
    source.close()
    await history.close()
    storage.release()
    return counts(history)


def change(made: Rig, rng: random.Random, log: Counter[Result]) -> None:
    """Runs begin, end, or do both."""
    estate = made.estate
    open_ids = [row[0] for row in estate.db.execute("SELECT execution_id FROM catalog_executions WHERE status = 2")]
    for execution_id in open_ids:
        if rng.random() < 0.3:
            code = rng.choice(list(CODES))
            estate.end(execution_id, code)
            log[CODES[code]] += 1
    for _ in range(rng.randrange(4)):
        if rng.random() < 0.3:
            code = rng.choice(list(CODES))
            estate.add(status=code)
            log[CODES[code]] += 1
        else:
            estate.add()


@pytest.mark.parametrize("seed", range(20 if FULL else 2))
def test_every_end_of_the_catalog_is_counted_once(tmp_path: Path, seed: int) -> None:
    """
    Also those of runs that came and went while the exporter was off, or whose looks were never written.
    """
    rng = random.Random(seed)
    clock = Clock()
    with rig(tmp_path, make_estate(clock=clock)) as made:
        made.estate.fill(range(1, 30), status=7)
        log: Counter[Result] = Counter()
        storage = Storage(tmp_path / "state")
        # The first look parts the past from what is counted.
        asyncio.run(one_look(made, storage))
        for _ in range(40 if FULL else 8):
            clock.pass_time(minutes=5)
            asyncio.run(life(made, storage, rng, log, rng.randrange(1, 6)))
            change(made, rng, log)
        found = asyncio.run(one_look(made, storage))

    assert log == found


async def one_look(made: Rig, storage: Storage) -> Counter[Result]:
    """A life with one look, kept."""
    history = History.of(storage)
    await history.open()
    source = made.source()
    source.resume(*history.resume_point("sql01"))
    history.observe(source.snapshot())
    await history.settle(WAIT)
    source.close()
    await history.close()
    storage.release()
    return counts(history)


def test_the_catalogs_own_record_teaches_what_is_usual(tmp_path: Path) -> None:
    """
    Filled in the background, counting nothing; the first error of a failure is found.
    """
    clock = Clock()
    with rig(tmp_path, make_estate(clock=clock)) as made:
        for number in range(1, 41):
            began = clock.now - timedelta(hours=number)
            execution_id = made.estate.add(
                status=7, start_time=began, end_time=began + timedelta(minutes=10), package_name="Load.dtsx"
            )
        made.estate.set(execution_id, status=4)
        made.estate.add_message(1, execution_id, 120, "Login failed")

        async def main() -> None:
            storage = Storage(tmp_path / "state")
            history = History(Database(storage, NAME, SCHEMA), now=clock)
            await history.open()
            worker = SourceWorker(made.source(), observe=history.observe)
            reading = Backfill(history, worker=lambda _: worker, share=lambda: 0.5, now=clock)
            reading.begin(["sql01"])
            async with asyncio.timeout(60):
                while not history.fill_point("sql01").done:  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(0.01)
            await reading.close()
            await FirstErrors(history, worker=lambda _: worker).ask_one()
            await history.settle(WAIT)
            [record] = history.records()
            baseline = history.baseline(
                ExecutionFacts(
                    key=ExecutionKey("sql01", "x"),
                    package_name="Load",
                    folder=record.key.folder,
                    project=record.key.project,
                )
            )
            worker.close()
            await history.close()
            storage.release()
            assert baseline is not None
            assert (timedelta(minutes=10), 39) == (baseline.typical, baseline.samples)
            assert Counter() == counts(history)
            assert [(str(execution_id), "Login failed")] == [
                (failure.instance_id, failure.message) for failure in history.failures()
            ]

        asyncio.run(main())
