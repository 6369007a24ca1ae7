"""Runs that `dts` and `dtexec` both see, both real: each is one run, on the page and in what is counted as ended."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from ssis_exporter.history import read_history
from tests.dts.assemblies import build
from tests.dts.estate import Estate, Package, ticks
from tests.dts.served import Page, Served, served, source_entry
from tests.estate import Estate as Processes
from tests.stack import wait_until

pytestmark = pytest.mark.real

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"
RUNS = 200
NAMES = 60
SEED = int(os.environ.get("SSIS_EXPORTER_SEED", "2"))
TICK = 0.3 if FULL else 0.15
A_TICK = 4
"""Runs that begin in one."""


@dataclass
class Run:
    """A process, and what the API will say of it."""

    pid: int
    package: Package
    registers_at: float
    ends_at: float
    has_ended: bool = False


class Machine:
    """Processes that look like dtexec's, and the API that hears of each a little later."""

    def __init__(self, estate: Estate, processes: Processes) -> None:
        self.estate = estate
        self.rng = random.Random(SEED)
        self.prefix = f"Both{uuid.uuid4().hex[:8]}"
        self.user = psutil.Process().username()
        self.nursery = processes.nursery()
        self.runs: list[Run] = []
        self.is_down = False

    def pass_time(self) -> None:
        """What happens from one scrape to the next."""
        now = time.monotonic()
        for _ in range(min(A_TICK, RUNS - len(self.runs))):
            name = f"{self.prefix}_{self.rng.randrange(NAMES)}"
            pid = self.nursery.start("dtexec", "/FILE", f"/etl/{name}.dtsx")
            package = Package(name, user=self.user, pid=pid)
            registers_at = now + self.rng.choice([0.0, self.rng.uniform(0, 1.5)])
            self.runs.append(Run(pid, package, registers_at, now + self.rng.uniform(1, 6)))
        ending = [run for run in self.runs if not run.has_ended and run.ends_at <= now]
        self.nursery.end([run.pid for run in ending])
        for run in ending:
            run.has_ended = True
        for run in self.runs:
            if run.registers_at <= now and run.package not in self.estate.packages and not run.has_ended:
                run.package.start_ticks = ticks(datetime.now())
                self.estate.packages.append(run.package)
        if self.rng.random() < 0.15:
            self.is_down = not self.is_down
            self.estate.faults(*(["list throw 0x800706BA"] if self.is_down else []))
        self.estate.write()

    def end(self) -> None:
        """Everything ends, and the API answers."""
        self.nursery.end([run.pid for run in self.runs if not run.has_ended])
        for run in self.runs:
            run.has_ended = True
        self.estate.faults()

    @property
    def ended(self) -> Counter[str]:
        """How many have ended, by name."""
        return Counter(run.package.name for run in self.runs if run.has_ended)

    def names(self, pids: Collection[int]) -> Counter[str]:
        """The names of these processes' packages."""
        return Counter(run.package.name for run in self.runs if run.pid in pids)


class Seen:
    """What one scrape says of these runs, by the ids of their processes."""

    def __init__(self, page: Page, machine: Machine) -> None:
        pids = {run.package.instance: run.pid for run in machine.runs}
        self.by_dts = {pids[instance] for instance in page.runs("local")}
        self.by_dtexec = {
            int(instance.split("-")[0])
            for instance, labels in page.runs("processes").items()
            if labels["package_name"].startswith(machine.prefix)
        }
        self.pids = self.by_dts | self.by_dtexec
        self.dts_is_up = page.value("ssis_up", source="local") == 1
        self.ambiguous = page.value("ssis_ambiguous_executions", source="processes") or 0


def counted_ends(state: Path, machine: Machine) -> Counter[str]:
    """What the history counts, by name; its counters begin at 0 on the page, and stay there for a while."""
    counted: Counter[str] = Counter()
    for key, record in read_history(state).packages.items():
        if key.name.startswith(machine.prefix):
            counted[key.name] += sum(record.counts.values())
    return counted


def test_each_run_counts_once(tmp_path: Path) -> None:
    """
    Two hundred runs with random delays between process and API, equal names, and `dts` going down and up: none is shown
    twice without being counted as ambiguous, none that `dts` owns appears under `dtexec` while `dts` is down, none ends
    before it ended, and each ends once, but for those that were ambiguous.
    """
    (tmp_path / "assemblies").mkdir()
    (tmp_path / "estate").mkdir()
    estate = Estate(tmp_path / "estate", build(tmp_path / "assemblies", (16,)))
    entries = (source_entry(estate), "  - {name: processes, kind: dtexec}\n")
    with Processes(tmp_path / "processes") as processes, served(tmp_path, estate, *entries) as exporter:
        exporter.wait_until_up()
        machine = Machine(estate, processes)
        shown_twice = watch(machine, exporter, tmp_path / "state")
        machine.end()
        exporter.wait_until_up()
        last = Seen(exporter.scrape(), machine)
        wait_until(lambda: counted_ends(tmp_path / "state", machine) >= machine.ended, "all ends in the history")
        counted = counted_ends(tmp_path / "state", machine)

    print(f"{len(shown_twice)} of {RUNS} were ambiguous for a while; {counted.total()} ends were counted")
    assert RUNS == machine.ended.total()
    assert set() == last.by_dts | last.by_dtexec
    assert counted <= machine.ended + machine.names(shown_twice)
    assert len(shown_twice) < RUNS / 2


def stories(machine: Machine, seen: Seen, hidden: Run) -> list[str]:
    """Of every run of the name of one that is not shown, what is known: which of them took its place?"""
    return [
        f"{run.pid} ended {run.has_ended}, in the API {run.package in machine.estate.packages}, "
        f"shown by dts {run.pid in seen.by_dts}, by dtexec {run.pid in seen.by_dtexec}"
        for run in machine.runs
        if run.package.name == hidden.package.name
    ]


def watch(machine: Machine, exporter: Served, state: Path) -> set[int]:
    """Scrapes while the runs come and go; those that were ever shown by both."""
    shown_twice: set[int] = set()
    owned_by_dts: set[int] = set()
    while len(machine.runs) < RUNS or machine.ended.total() < RUNS * 0.9:
        machine.pass_time()
        alive = {run.pid for run in machine.runs if not run.has_ended}
        seen = Seen(exporter.scrape(), machine)
        if seen.dts_is_up:
            twice = seen.by_dts & seen.by_dtexec
            assert len(twice) <= seen.ambiguous
            assert [] == [stories(machine, seen, run) for run in machine.runs if run.pid in alive - seen.pids]
            shown_twice |= twice
            owned_by_dts = (seen.by_dts - seen.by_dtexec) & alive
        else:
            assert set() == seen.by_dts
            assert set() == owned_by_dts & seen.by_dtexec
        assert counted_ends(state, machine) <= machine.ended + machine.names(shown_twice)
        time.sleep(TICK)
    return shown_twice
