"""
What a page costs: readings to families to text to gzip, against prometheus_client's own way, in one interleaved run.

`python benchmarks/render.py` prints, for pages of several sizes, the median of the ratios of neighbouring rounds.
Ratios hold on other machines; the milliseconds beside them only say in which order they are here.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import cast

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector as LibraryCollector

from ssis_exporter.collector import Collector
from ssis_exporter.exposition import OPENMETRICS, TEXT, compress, render
from ssis_exporter.model import (
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Figures,
    Reading,
    Scope,
    Snapshot,
    SourceInfo,
    Visibility,
)

NOW = datetime(2026, 3, 2, 4, 30, tzinfo=UTC)


def all_facts(count: int) -> list[ExecutionFacts]:
    """What does not change in as many runs."""
    return [
        ExecutionFacts(
            key=ExecutionKey("sql01", str(400_000 + number)),
            package_name=f"Load Customers {number:05d}",
            folder=f"Finance {number % 7}",
            project="DataWarehouse",
            package_id=f"{{6F9619FF-8B86-D011-B42D-{number:012X}}}",
            user_name=f"CORP\\svc_etl_{number % 5}",
            started_at=NOW - timedelta(seconds=number, microseconds=number * 997 % 1_000_000),
            machine="ETL01",
            process_id=1000 + number,
            caller="CORP\\agent",
            host="ISServerExec",
        )
        for number in range(count)
    ]


def reading(facts: Iterable[ExecutionFacts], scrape: int) -> Reading:
    """What one scrape gets: the same runs, somewhat older."""
    later = timedelta(seconds=15 * scrape, microseconds=scrape * 331)
    runs = tuple(
        Execution(
            facts=each,
            status=ExecutionStatus.RUNNING,
            duration=NOW + later - cast("datetime", each.started_at),
            figures=Figures(
                cpu_time=timedelta(milliseconds=number * 10 + scrape),
                resident_bytes=200_000_000 + number * 4096,
                read_bytes=number * 65_536 + scrape,
                written_bytes=number * 4096 + scrape,
                threads=20 + number % 9,
            ),
        )
        for number, each in enumerate(facts)
    )
    seen = Snapshot(source="sql01", taken_at=NOW + later, visibility=Visibility(Scope.ALL), executions=runs)
    return Reading(source="sql01", info=SourceInfo(kind="catalog"), outcome=seen, took=timedelta(seconds=0.1))


class LibraryWay(LibraryCollector):
    """The same page, built and written as prometheus_client's documentation shows it."""

    def __init__(self, page: Iterable[Metric]) -> None:
        self.reading: Reading | None = None
        self._of_the_source = [family for family in page if "instance_id" not in family.samples[0].labels]

    def collect(self) -> Iterable[Metric]:
        """Every family of the page, made anew."""
        short = ["source", "package_name", "instance_id"]
        identity = ["source", "folder", "project", "package_name", "package_id", "instance_id", "user_name"]
        told = [*short, "machine", "process_id", "description", "environment", "caller", "host"]
        prefix = "ssis_package_execution_"
        duration = GaugeMetricFamily(f"{prefix}duration_seconds", "Help.", labels=identity)
        start = GaugeMetricFamily(f"{prefix}start_timestamp_seconds", "Help.", labels=identity)
        status = GaugeMetricFamily(f"{prefix}status", "Help.", labels=[*short, "status"])
        info = GaugeMetricFamily(f"{prefix}info", "Help.", labels=told)
        cpu = CounterMetricFamily(f"{prefix}cpu_seconds", "Help.", labels=short)
        resident = GaugeMetricFamily(f"{prefix}resident_memory_bytes", "Help.", labels=short)
        read = CounterMetricFamily(f"{prefix}read_bytes", "Help.", labels=short)
        written = CounterMetricFamily(f"{prefix}written_bytes", "Help.", labels=short)
        threads = GaugeMetricFamily(f"{prefix}threads", "Help.", labels=short)
        assert self.reading is not None
        assert isinstance(self.reading.outcome, Snapshot)
        for run in self.reading.outcome.executions:
            facts, figures = run.facts, run.figures
            assert figures is not None
            assert figures.cpu_time is not None
            assert facts.started_at is not None
            key = [facts.key.source, facts.package_name, facts.key.instance_id]
            who = [facts.key.source, facts.folder, facts.project, facts.package_name, facts.package_id]
            who += [facts.key.instance_id, facts.user_name]
            rest = [
                facts.machine,
                str(facts.process_id),
                facts.description,
                facts.environment,
                facts.caller,
                facts.host,
            ]
            duration.add_metric(who, run.duration.total_seconds())
            start.add_metric(who, facts.started_at.timestamp())
            status.add_metric([*key, str(run.status)], 1)
            info.add_metric([*key, *rest], 1)
            cpu.add_metric(key, figures.cpu_time.total_seconds())
            resident.add_metric(key, cast("int", figures.resident_bytes))
            read.add_metric(key, cast("int", figures.read_bytes))
            written.add_metric(key, cast("int", figures.written_bytes))
            threads.add_metric(key, cast("int", figures.threads))
        return [*self._few(), duration, start, status, info, cpu, resident, read, written, threads]

    def _few(self) -> Iterable[Metric]:
        for family in self._of_the_source:
            made = GaugeMetricFamily(family.name, family.documentation, labels=list(family.samples[0].labels))
            for sample in family.samples:
                made.add_metric(list(sample.labels.values()), sample.value)
            yield made


class Bench:
    """One page size: our way and the library's, on the same readings."""

    def __init__(self, size: int) -> None:
        self._facts = all_facts(size)
        self._collector = Collector(executions_per_source=size, keep_user_names=True, registry=CollectorRegistry())
        self._library = LibraryWay(list(self._collector.families([reading(self._facts, 0)])))
        self._registry = CollectorRegistry()
        self._registry.register(self._library)
        self.next_scrape(0)

    def next_scrape(self, scrape: int) -> None:
        """The readings of the next round; making them is no part of what is measured."""
        self._reading = self._library.reading = reading(self._facts, scrape)

    def text(self) -> None:
        """Ours, text."""
        for _ in render(self._collector.families([self._reading]), None, TEXT):
            pass

    def openmetrics(self) -> None:
        """Ours, OpenMetrics."""
        for _ in render(self._collector.families([self._reading]), None, OPENMETRICS):
            pass

    def packed(self) -> None:
        """Ours, text and gzip."""
        for _ in compress(render(self._collector.families([self._reading]), None, TEXT)):
            pass

    def library_text(self) -> None:
        """The library's, text."""
        generate_latest(self._registry)

    def library_openmetrics(self) -> None:
        """The library's, OpenMetrics."""
        generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]

    def library_packed(self) -> None:
        """The library's, text and gzip as its server does it."""
        gzip.compress(generate_latest(self._registry))

    def first(self) -> None:
        """Ours, text, with every run new: nothing is kept from the scrape before."""
        self._collector.configure(executions_per_source=len(self._facts), keep_user_names=True, sources=[])
        self.text()


def cpu(work: Callable[[], None], repeat: int) -> float:
    """CPU milliseconds of one call."""
    began = time.process_time()
    for _ in range(repeat):
        work()
    return (time.process_time() - began) * 1000 / repeat


def peak(work: Callable[[], None]) -> float:
    """Megabytes that one call needs at most, beyond what was there before."""
    work()
    gc.collect()
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 1000, 10000])
    arguments = parser.parse_args()
    for size in arguments.sizes:
        bench = Bench(size)
        pairs = {
            "text": (bench.text, bench.library_text),
            "openmetrics": (bench.openmetrics, bench.library_openmetrics),
            "text + gzip": (bench.packed, bench.library_packed),
            "text, all runs new": (bench.first, bench.library_text),
        }
        repeat = max(1, 1000 // size)
        print(f"{size} runs, {9 * size} series of runs")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
        for scrape in range(1, arguments.rounds + 1):
            bench.next_scrape(scrape)
            for name, (ours, theirs) in pairs.items():
                times[name].append((cpu(ours, repeat), cpu(theirs, repeat)))
        for name, measured in times.items():
            ratio = statistics.median(mine / theirs for mine, theirs in measured)
            mine, theirs = (statistics.median(column) for column in zip(*measured, strict=True))
            print(f"  {name:20} {ratio:6.3f} x the library's CPU   ({mine:8.2f} ms against {theirs:8.2f} ms)")
        print(f"  {'peak memory, text':20} {peak(bench.text):6.2f} MB against {peak(bench.library_text):.2f} MB")


if __name__ == "__main__":
    main()
