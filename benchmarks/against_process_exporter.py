"""
What a scrape costs, against Debian's prometheus-process-exporter on the same processes.

`python benchmarks/against_process_exporter.py` starts real processes of which some are called dtexec, runs both
exporters, scrapes them in turn with gzip, and prints the median of the ratios of neighbouring scrapes, of processor
time from one scrape to the next. Then the memory of an idle exporter, and whether it grows over many scrapes.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.estate import Estate
from tests.stack import free_port

SIZES = ((200, 10, 0.6), (1000, 100, 0.4), (3000, 1000, 0.25), (3000, 10, 0.5))
"""Processes, dtexec among them, and what the ratio should be at most."""

ACCEPT = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

# One group for each process, named by its package: what we show, as near as it comes.
PEER_CONFIG = """process_names:
  - name: "{{.Comm}}:{{.PID}}:{{.Matches.Pkg}}"
    comm: [dtexec]
    cmdline: ['/FILE (?P<Pkg>\\S+)']
"""


class Exporter:
    """A running exporter and its processor time, children that ended not included: neither has any."""

    def __init__(self, command: list[str], port: int) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # https://man7.org/linux/man-pages/man2/clock_getres.2.html: the clock of a process, made from its pid.
        self._clock = (~self.process.pid << 3) | 2
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._await()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.process.terminate()
        self.process.wait()

    def scrape(self) -> bytes:
        """One scrape as Prometheus does it, over a kept connection."""
        self._connection.request("GET", "/metrics", headers={"Accept": ACCEPT, "Accept-Encoding": "gzip"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{self.process.args}: {answer.status}")
        return body

    def cpu(self) -> float:
        """Processor time so far, in seconds; all threads."""
        return time.clock_gettime(self._clock)

    def resident_bytes(self) -> int:
        """Memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024

    def _await(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                self.scrape()
            except (ConnectionError, http.client.HTTPException):
                self._connection.close()
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self.process.args} does not answer")


def ours(folder: Path) -> Exporter:
    """Our exporter as it is without a configuration."""
    port = free_port()
    command = [sys.executable, "-m", "ssis_exporter", "serve", "--web.listen-address", f"127.0.0.1:{port}"]
    return Exporter([*command, "--storage.path", str(folder / f"storage-{port}")], port)


def peer(program: str, folder: Path) -> Exporter:
    """The peer, with a group for each process."""
    port = free_port()
    config = folder / "process-exporter.yml"
    config.write_text(PEER_CONFIG, encoding="ascii")
    return Exporter([program, "-config.path", str(config), "-web.listen-address", f"127.0.0.1:{port}"], port)


def compare(program: str, processes: int, matches: int, goal: float, rounds: int) -> None:
    """One size of estate."""
    with tempfile.TemporaryDirectory() as name, Estate(Path(name)) as estate:
        folder, nursery = Path(name), estate.nursery()
        arguments = ("/FILE", "C:\\etl\\Finance\\Load{n}.dtsx", "/CHECKPOINTING", "OFF", "/REPORTING", "EWP")
        nursery.crowd(matches, "dtexec", *arguments)
        nursery.crowd(processes - matches, "sleeper", "worker", "--number={n}")
        with ours(folder) as we, peer(program, folder) as they:
            both = (we, they)
            for exporter in (*both, *both):
                shown = gzip.decompress(exporter.scrape())
                if shown.count(b"Load0") == 0:
                    raise RuntimeError(f"{exporter.process.args} does not show the packages")
            marks = {exporter: exporter.cpu() for exporter in both}
            taken: dict[Exporter, list[float]] = {exporter: [] for exporter in both}
            for number in range(rounds):
                for exporter in both if number % 2 else both[::-1]:
                    exporter.scrape()
                # From scrape to scrape, so that what goes on after the answer counts as well.
                for exporter in both:
                    now = exporter.cpu()
                    taken[exporter].append(now - marks[exporter])
                    marks[exporter] = now
            ratio = statistics.median(one / other for one, other in zip(taken[we], taken[they], strict=True))
            ms = {exporter: statistics.median(times) * 1e3 for exporter, times in taken.items()}
            print(
                f"{processes:5} / {matches:<5} {ratio:5.2f} x process-exporter (goal {goal:.2f});"
                f" {ms[we]:6.1f} ms against {ms[they]:6.1f} ms;"
                f" resident {we.resident_bytes() >> 20} MB against {they.resident_bytes() >> 20} MB"
            )


def memory(scrapes: int) -> None:
    """An idle exporter, and the same after many scrapes of a small, ever changing estate."""
    with tempfile.TemporaryDirectory() as name, Estate(Path(name)) as estate, ours(Path(name)) as we:
        nursery = estate.nursery()
        for _ in range(3):
            we.scrape()
        print(f"idle: {we.resident_bytes() / (1 << 20):.1f} MB resident (goal 60)")
        tenth = max(scrapes // 10, 1)
        for number in range(scrapes):
            pid = nursery.start("dtexec", "/FILE", f"Load{number % 50}.dtsx")
            we.scrape()
            nursery.end([pid])
            if number + 1 in (tenth, scrapes):
                print(f"after {number + 1:6} scrapes: {we.resident_bytes() / (1 << 20):.1f} MB resident")


def main() -> None:
    """All sizes and the memory, or what is chosen."""
    parser = argparse.ArgumentParser(description="A scrape against prometheus-process-exporter's.")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--scrapes", type=int, default=10_000, help="for the memory; 0 leaves it out")
    parser.add_argument("--size", nargs=2, type=int, metavar=("PROCESSES", "DTEXEC"), help="0 0 leaves it out")
    chosen = parser.parse_args()
    program = shutil.which("prometheus-process-exporter")
    if program is None:
        print("prometheus-process-exporter is missing (Debian package prometheus-process-exporter)")
        return
    for processes, matches, goal in SIZES:
        if chosen.size in (None, [processes, matches]):
            compare(program, processes, matches, goal, chosen.rounds)
    if chosen.scrapes:
        memory(chosen.scrapes)


if __name__ == "__main__":
    main()
