"""
What many servers in one exporter cost, against an exporter that has one of them alone.

`python benchmarks/servers.py` starts the tests' TDS servers in a process of their own, one exporter with all of them as
`catalog` sources and one with the first of them alone, and asks both for `/probe` in turn. A tenth of the servers are
dead: half refuse connections, half take them and never answer. It prints the median of the ratios of neighbouring
rounds, of processor time from round to round: of one live server in a quiet exporter, and of rounds over all live ones
while the dead ones hang. Then the resident memory that each server beyond the first takes. Everything is encrypted, as
is the default; `--plain` leaves that out.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.stack import free_port

PASSWORD = "a password of the benchmark"
HEADERS = {"Accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "Accept-Encoding": "gzip"}
CPU_GOAL, MEMORY_GOAL = 1.5, 0.5


class Exporter:
    """A running exporter, its processor time and its memory."""

    def __init__(self, command: list[str], folder: Path, sources: list[dict[str, object]]) -> None:
        folder.mkdir()
        config = folder / "exporter.yml"
        config.write_text(json.dumps({"sources": sources}), encoding="utf-8")
        self.port = free_port()
        flags = ["--config.file", config, "--web.listen-address", f"127.0.0.1:{self.port}", "--storage.path", folder]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([*command, "serve", *map(str, flags)], stdout=log, stderr=log)
        # https://man7.org/linux/man-pages/man2/clock_getres.2.html: the clock of a process, made from its pid.
        self._clock = (~self.process.pid << 3) | 2
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._await()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.process.terminate()
        self.process.wait()

    def probe(self, name: str) -> bytes:
        """One scrape of one source over a kept connection, as Prometheus does it."""
        return self._get(self._connection, f"/probe?source={name}", HEADERS)

    def probe_dead(self, name: str) -> None:
        """The same on a connection of its own, for less long than the source takes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._get(connection, f"/probe?source={name}", {**HEADERS, "X-Prometheus-Scrape-Timeout-Seconds": "2"})
        connection.close()

    def cpu(self) -> float:
        """Processor time so far, in seconds; all threads."""
        return time.clock_gettime(self._clock)

    def resident_bytes(self) -> int:
        """Memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024

    def settle(self, live: int) -> None:
        """Waits until what is done once is done: the past of each live server is read in the background."""
        deadline = time.monotonic() + 300
        while self._log.read_text(encoding="utf-8").count("was read: what is usual") < live:
            if time.monotonic() > deadline:
                raise RuntimeError("the past is still being read")
            time.sleep(0.5)

    def threads(self) -> int:
        """How many run."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def _get(self, connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> bytes:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body!r}")
        return body

    def _await(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self._get(self._connection, "/-/ready", {})
            except (OSError, RuntimeError, http.client.HTTPException):
                self._connection.close()
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self.process.args} does not answer")


def serve(count: int, runs: int, ended: int, certificate: Path | None, pipe: Connection) -> None:
    """TDS servers with their estates, until the pipe closes. In a process of its own, which alone loads them."""
    from tests.tds.server import TdsServer
    from tests.tds.tables import Estate

    servers = []
    for _ in range(count):
        estate = Estate()
        estate.add_account("exporter", PASSWORD, roles={"ssis_logreader"})
        estate.fill(range(1, ended + 1), status=7)
        for number in range(runs):
            estate.add(package_name=f"Load Customers {number:03d}.dtsx")
        encryption = "off" if certificate is None else "on"
        servers.append(TdsServer(estate, encryption=encryption, certificate=certificate))
    pipe.send([server.port for server in servers])
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        # What is recorded for the tests would grow for as long as this runs.
        for server in servers:
            server.forget()
        pipe.send(None)


def issue(folder: Path) -> Path:
    """The certificate of all servers with its key; the authority's own stands beside it."""
    from tests.certs import Authority

    authority = Authority()
    pair = authority.sign(names=("127.0.0.1",))
    path = folder / "server.pem"
    path.write_text(pair.cert + pair.key, encoding="ascii")
    path.with_suffix(".ca").write_text(authority.cert, encoding="ascii")
    return path


def source(name: str, port: int, password: Path, certificate: Path | None) -> dict[str, object]:
    """An entry of the configuration."""
    return {
        "name": name,
        "kind": "catalog",
        "server": f"127.0.0.1:{port}",
        "auth": {"user": "exporter", "password_file": str(password)},
        **({"encrypt": False} if certificate is None else {"ca_file": str(certificate.with_suffix(".ca"))}),
    }


def ratio(times: list[tuple[float, float]]) -> str:
    """Many against alone, with both medians in milliseconds."""
    many, alone = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    return f"{statistics.median(a / b for a, b in times):5.2f} x ({many:.2f} ms against {alone:.2f} ms)"


def quiet(many: Exporter, alone: Exporter, rounds: int) -> str:
    """One live server, and nobody asks for the others."""
    times = []
    for number in range(rounds):
        taken = {}
        for exporter in (many, alone) if number % 2 else (alone, many):
            began = exporter.cpu()
            for _ in range(20):
                exporter.probe("sql000")
            taken[exporter] = (exporter.cpu() - began) / 20
        times.append((taken[many], taken[alone]))
    return ratio(times)


def busy(many: Exporter, alone: Exporter, live: list[str], dead: list[str], rounds: int) -> str:
    """All live servers in turn, each as often as the one that is alone; with `dead` asked for at the same time."""
    times = []
    for _ in range(rounds):
        asking = [threading.Thread(target=many.probe_dead, args=(name,)) for name in dead]
        began, began_alone = many.cpu(), alone.cpu()
        for thread in asking:
            thread.start()
        for name in live:
            many.probe(name)
            alone.probe("sql000")
        for thread in asking:
            thread.join()
        times.append(((many.cpu() - began) / len(live), (alone.cpu() - began_alone) / len(live)))
    return ratio(times)


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description="Many servers in one exporter, against one alone.")
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--dead", type=int, default=20)
    parser.add_argument("--runs", type=int, default=20, help="running packages on each server")
    parser.add_argument("--ended", type=int, default=500, help="runs in the history of each server")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--plain", action="store_true", help="without encryption")
    parser.add_argument("--command", default="", help="the exporter's command, when not this Python's")
    chosen = parser.parse_args()
    command = [chosen.command] if chosen.command else [sys.executable, "-m", "ssis_exporter"]
    ours, theirs = multiprocessing.Pipe()
    count = chosen.servers - chosen.dead
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate = None if chosen.plain else issue(folder)
        servers = multiprocessing.get_context("fork").Process(
            target=serve, args=(count, chosen.runs, chosen.ended, certificate, theirs), daemon=True
        )
        servers.start()
        theirs.close()
        silent = [socket.create_server(("127.0.0.1", 0)) for _ in range(chosen.dead // 2)]
        password = folder / "password"
        password.touch(0o600)
        password.write_text(PASSWORD, encoding="utf-8")
        live = [source(f"sql{place:03}", port, password, certificate) for place, port in enumerate(ours.recv())]
        ports = [one.getsockname()[1] for one in silent]
        ports += [free_port() for _ in range(chosen.dead - len(ports))]
        dead = [source(f"dead{place:02}", port, password, certificate) for place, port in enumerate(ports)]
        names, dead_names = [str(one["name"]) for one in live], [str(one["name"]) for one in dead]
        everything = [*dead, *live]
        with (
            Exporter(command, folder / "many", everything) as many,
            Exporter(command, folder / "alone", live[:1]) as alone,
        ):
            alone_idle, many_idle = alone.resident_bytes(), many.resident_bytes()
            for _ in range(3):
                for each in names:
                    if b"" == many.probe(each):
                        raise RuntimeError(f"{each} shows nothing")
                    alone.probe("sql000")
            many.settle(len(live))
            alone.settle(1)
            ours.send(None), ours.recv()
            kind = "plain" if chosen.plain else "encrypted"
            print(f"{len(everything)} servers, {len(dead)} of them dead; {chosen.runs} running packages each; {kind}")
            print(f"one live, the rest quiet       {quiet(many, alone, chosen.rounds)} (goal {CPU_GOAL})")
            ours.send(None), ours.recv()
            print(f"all live in turn               {busy(many, alone, names, [], chosen.rounds)} (goal {CPU_GOAL})")
            ours.send(None), ours.recv()
            print(f"the same while dead ones hang  {busy(many, alone, names, dead_names, chosen.rounds)}")
            extra = (many.resident_bytes() - alone.resident_bytes()) / (len(everything) - 1)
            print(
                f"resident: {extra / 2**20:.3f} MB a server beyond the first (goal {MEMORY_GOAL});"
                f" {many.resident_bytes() / 2**20:.0f} MB against {alone.resident_bytes() / 2**20:.0f} MB,"
                f" {many_idle / 2**20:.0f} and {alone_idle / 2**20:.0f} MB at start; {many.threads()} threads"
            )
        ours.close()
        servers.terminate()


if __name__ == "__main__":
    main()
