"""
What a look at the processes costs, against a C loop that reads `/proc/PID/stat` of each.

`python benchmarks/scan.py` starts real processes of which some are called dtexec, and prints the median of the ratios
of neighbouring rounds, of processor time. psutil's way stands beside it. Only on Linux, with a C compiler.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from ssis_exporter.sources.dtexec import DtexecSource
from ssis_exporter.sources.dtexec.linux import LinuxTable
from ssis_exporter.sources.dtexec.portable import PortableTable
from tests.estate import Estate

SIZES = ((200, 10), (1000, 100), (3000, 1000), (3000, 10))


def psutil_prefilter() -> None:
    """psutil as it is mostly used: names of all, the rest of those that match."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "dtexec":
            process.as_dict(["cmdline", "username", "create_time", "cpu_times", "memory_info", "num_threads"])


def cpu(work: Callable[[], object]) -> float:
    """Processor time of one call, in milliseconds."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3


def measure(processes: int, matches: int, rounds: int) -> None:
    """One size of estate."""
    with tempfile.TemporaryDirectory() as folder, Estate(Path(folder)) as estate:
        nursery = estate.nursery()
        arguments = ("/FILE", "C:\\etl\\Finance\\Load {n}.dtsx", "/CHECKPOINTING", "OFF", "/REPORTING", "EWP")
        nursery.crowd(matches, "dtexec", *arguments)
        nursery.crowd(processes - matches, "sleeper", "worker", "--number={n}")
        # Without files: these packages are in no folder of this machine.
        source, table = DtexecSource("local"), LinuxTable()
        portable = DtexecSource("portable", table=PortableTable())
        ways: dict[str, Callable[[], float]] = {
            "C loop": lambda: nursery.parent.say("readstats") / 1e3,
            "look only": lambda: cpu(table.look),
            "snapshot": lambda: cpu(source.snapshot),
            "psutil, prefilter": lambda: cpu(psutil_prefilter),
            "snapshot by psutil": lambda: cpu(portable.snapshot),
        }
        for way in ways.values():
            way()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                times[name].append(ways[name]())
        for name, taken in times.items():
            ratio = statistics.median(one / floor for one, floor in zip(taken, times["C loop"], strict=True))
            median = statistics.median(taken)
            print(f"{processes:5} / {matches:<5} {name:20} {ratio:6.2f} x the C loop   ({median:7.1f} ms)")


def main() -> None:
    """All sizes, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--size", nargs=2, type=int, metavar=("PROCESSES", "DTEXEC"))
    chosen = parser.parse_args()
    if not sys.platform.startswith("linux"):
        print("this benchmark reads /proc, which only Linux has")
        return
    for processes, matches in [chosen.size] if chosen.size else SIZES:
        measure(processes, matches, chosen.rounds)


if __name__ == "__main__":
    main()
