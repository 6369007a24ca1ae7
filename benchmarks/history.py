"""
What keeping history costs: memory, the file, and the pages that show it.

`python benchmarks/history.py` takes 2 000 packages on 20 servers, each with 200 samples and as many remembered ends as
are kept, and prints the resident memory that they take, the size of the file, what one scrape pays for the families of
history, and what prometheus_client's own gauges and counters with the same series pay for theirs, as the median of the
ratios of neighbouring rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from ssis_exporter.baseline import MOST_SAMPLES
from ssis_exporter.ends import REMEMBERED_ENDS
from ssis_exporter.exposition import TEXT, render
from ssis_exporter.history import History
from ssis_exporter.historyfile import NAME
from ssis_exporter.historymetrics import PACKAGE_LABELS, HistoryMetrics
from ssis_exporter.model import EndedExecution, ExecutionFacts, ExecutionKey, Result, Scope, Snapshot, Visibility
from ssis_exporter.storagefolder import Storage

BEGIN = datetime(2026, 3, 2, 4, 30, tzinfo=UTC)
WAIT = timedelta(minutes=10)


def looks(source: str, packages: int, runs: int) -> Iterator[Snapshot]:
    """Looks at a server whose packages end in turn, a thousand at each look."""
    for first in range(0, runs, 1000):
        ended = []
        for number in range(first, min(first + 1000, runs)):
            began = BEGIN + timedelta(seconds=number)
            facts = ExecutionFacts(
                key=ExecutionKey(source, str(400_000 + number)),
                package_name=f"Load Customers {number % packages:05d}",
                folder=f"Finance {number % 7}",
                project="DataWarehouse",
                user_name="CORP\\svc_etl",
                created_at=began,
                started_at=began,
            )
            result = Result.SUCCEEDED if number % 50 else Result.FAILED
            duration = timedelta(seconds=60, milliseconds=number * 977 % 100_000)
            ended.append(EndedExecution(facts=facts, result=result, ended_at=began + duration, duration=duration))
        yield Snapshot(
            source=source,
            taken_at=BEGIN + timedelta(seconds=first + 2000),
            visibility=Visibility(Scope.ALL),
            ended=tuple(ended),
            records_ends=True,
            bookmark=str(first),
        )


def resident() -> int:
    """Bytes that this process has in memory."""
    gc.collect()
    found: int = psutil.Process().memory_info().rss
    return found


class Peer:
    """The same series as instruments of prometheus_client: a counter by result and six gauges per package."""

    def __init__(self, history: History) -> None:
        self.registry = CollectorRegistry()
        counter = Counter("ssis_package_executions", "Ended runs.", [*PACKAGE_LABELS, "result"], registry=self.registry)
        gauges = [Gauge(f"ssis_package_{name}", name, PACKAGE_LABELS, registry=self.registry) for name in "abcdef"]
        for record in history.records():
            key = record.key
            for result in record.counts:
                counter.labels(key.source, key.folder, key.project, key.name, result.value).inc()
            for gauge in gauges:
                gauge.labels(key.source, key.folder, key.project, key.name).set(1.5)


async def measure(folder: Path, *, servers: int, packages: int, rounds: int) -> None:
    """Fills a history and prints what it costs."""
    before = resident()
    storage = Storage(folder)
    history = History.of(storage)
    await history.open()
    each = packages // servers
    # Each package has all its samples, and each server as many remembered ends as are kept.
    runs = max(each * (MOST_SAMPLES + 10), REMEMBERED_ENDS)
    names = [f"sql{number:02d}" for number in range(servers)]
    began = time.perf_counter()
    for name in names:
        for seen in looks(name, each, runs):
            history.observe(seen)
            await history.settle(WAIT)
    took = time.perf_counter() - began
    metrics = HistoryMetrics(packages_per_source=each, held_seconds=0)

    def ours() -> bytes:
        return b"".join(render(metrics.families(history.records(), names), None, TEXT))

    page = ours()
    lines, megabyte = page.count(b"\n"), 1024 * 1024
    print(f"{servers} servers, {packages} packages, {servers * runs} ended runs counted in {took:.1f} s")
    print(f"resident memory: {(resident() - before) / megabyte:.1f} MB more (goal: at most 40)")
    print(f"page of history: {lines} lines, {len(page) / megabyte:.2f} MB")
    peer = Peer(history)
    ratios = []
    for _ in range(rounds):
        theirs = timed(lambda: generate_latest(peer.registry))
        ratios.append(timed(ours) / theirs)
    theirs = 1000 * timed(lambda: generate_latest(peer.registry))
    print(f"a page of history against prometheus_client's instruments: {statistics.median(ratios):.2f} of its time")
    print(f"(here: {1000 * timed(ours):.1f} ms and {theirs:.1f} ms)")
    await history.close()
    storage.release()
    size = sum(os.stat(found.path).st_size for found in os.scandir(folder) if found.name.startswith(NAME))
    print(f"file: {size / megabyte:.1f} MB (goal: at most 100)")
    began = time.perf_counter()
    again = History.of(Storage(folder))
    await again.open()
    print(f"(read again in {time.perf_counter() - began:.2f} s here)")
    await again.close()


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Reads the sizes and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=20)
    parser.add_argument("--packages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), servers=given.servers, packages=given.packages, rounds=given.rounds))


if __name__ == "__main__":
    main()
