"""Processes that start and end by the thousand while they are looked at."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssis_exporter.sources.dtexec import DtexecSource
from ssis_exporter.sources.dtexec.linux import LinuxTable
from ssis_exporter.sources.dtexec.portable import PortableTable
from ssis_exporter.sources.dtexec.processes import ProcessTable
from tests.estate import Estate, Nursery

pytestmark = pytest.mark.real

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"
SECONDS = 120 if FULL else 4
PER_MINUTE = 2000
OURS = f"P{os.getpid()}-"
"""How the names of this test's packages begin."""


class Churn:
    """
    Starts and ends processes at a steady rate and writes down who lived when.

    Each process has a package of its own name, so that a run under another's name is noticed. Some are no dtexec,
    some become one by exec, some fork, and each lives for a random time.
    """

    def __init__(self, nursery: Nursery, seconds: float) -> None:
        self._nursery = nursery
        self._seconds = seconds
        self._random = random.Random(10058)
        self._number = 0
        self._lives: list[tuple[float, int]] = []
        self.package_of: dict[int, list[tuple[float, str]]] = {}
        self.born: dict[str, float] = {}
        self.died: dict[str, float] = {}
        self.buried: dict[str, float] = {}
        self.failed: list[BaseException] = []

    def run(self) -> None:
        """Until the time is up."""
        try:
            self._run()
        except BaseException as exc:
            self.failed.append(exc)

    def _run(self) -> None:
        began = time.monotonic()
        packages: dict[int, str] = {}
        while (now := time.monotonic()) < began + self._seconds:
            while self._lives and self._lives[0][0] <= now:
                _, pid = self._lives.pop(0)
                # Between the two moments it may be seen or not.
                self.died[packages[pid]] = time.monotonic()
                self._nursery.end([pid])
                self.buried[packages[pid]] = time.monotonic()
            if self._number < (now - began) * PER_MINUTE / 60:
                self._number += 1
                package = f"{OURS}{self._number}"
                name = self._random.choice(["dtexec", "dtexec", "dtexec.exe", "sleeper"])
                pid = self._nursery.start(name, "/F", f"{package}.dtsx")
                self.package_of.setdefault(pid, []).append((time.monotonic(), package))
                packages[pid] = package
                if name != "sleeper":
                    self.born[package] = time.monotonic()
                self._lives.append((now + self._random.choice([0.0, 0.05, 0.3, 1.0, 2.0]), pid))
                self._lives.sort()
            else:
                time.sleep(0.001)


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    """Real processes, ended after the test."""
    with Estate(tmp_path) as estate:
        yield estate


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("kind", [LinuxTable, PortableTable])
def test_looks_during_churn(estate: Estate, kind: type[ProcessTable], caplog: pytest.LogCaptureFixture) -> None:
    """
    No exception, no run twice, none under another's name, and every run that lived through a whole interval was seen.
    """
    caplog.set_level(logging.DEBUG)
    estate.program("dtexec.exe")
    estate.program("dtexec")
    estate.program("sleeper")
    churn = Churn(estate.nursery(), SECONDS)
    source = DtexecSource("local", table=kind())
    thread = threading.Thread(target=churn.run)
    thread.start()
    looks: list[tuple[float, float, dict[int, str]]] = []
    try:
        while thread.is_alive():
            began = time.monotonic()
            snapshot = source.snapshot()
            ended = time.monotonic()
            keys = [run.key for run in snapshot.executions]
            assert len(set(keys)) == len(keys)
            pids = [run.facts.process_id for run in snapshot.executions]
            assert len(set(pids)) == len(pids)
            seen = {run.facts.process_id or 0: run.facts.package_name for run in snapshot.executions}
            looks.append((began, ended, seen))
            thread.join(0.05)
    finally:
        thread.join()
        source.close()

    assert [] == churn.failed
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]
    assert len(looks) > 10
    # Other programs may start runs, too, and get a pid that was one of ours.
    wrong = [
        (pid, package)
        for _, ended, seen in looks
        for pid, package in seen.items()
        if package.startswith(OURS) and package not in [name for _, name in churn.package_of.get(pid, ())]
    ]
    assert [] == wrong
    shown = [set(seen.values()) for _, _, seen in looks]
    missed = [
        package
        for package, born in churn.born.items()
        for (began, ended, _), names in zip(looks, shown, strict=True)
        if born < began and ended < churn.died.get(package, float("inf")) and package not in names
    ]
    assert [] == missed
    ghosts = [
        package
        for (began, _, _), names in zip(looks, shown, strict=True)
        for package, buried in churn.buried.items()
        if package in names and buried < began
    ]
    assert [] == ghosts
