"""
What a look through the managed API costs, against the bridge itself: the least that pythonnet and a pipe can do.

The bare bridge is a helper of a few lines that reads all seven properties of each package at each call and writes them
as one line of JSON. Against it, taken in turns in the same run: a look of the source, and a whole scrape of the
installed command. Then the helper's memory over many listings. On Mono, with 1 000 packages; the cost of a property
that is a COM call is not in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from ssis_exporter.sources.dts import DtsSource
from tests.dts.assemblies import Gac, build
from tests.dts.estate import Estate, Package, settings
from tests.dts.served import served, source_entry

PACKAGES = 1000
ROUNDS = 60
LISTINGS = 20_000
MOST = 1.2
"""A scrape may cost so many times what the bridge costs."""

BARE = """
import json, os, sys

out = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)
import clr_loader, pythonnet
pythonnet.set_runtime(clr_loader.get_mono())
pythonnet.load()
import System.Reflection
name = f"Microsoft.SqlServer.ManagedDTS, Version=16.0.0.0, Culture=neutral, PublicKeyToken={sys.argv[1]}"
application = System.Reflection.Assembly.Load(name).CreateInstance("Microsoft.SqlServer.Dts.Runtime.Application")
out.write(b"ready\\n")
for line in sys.stdin.buffer:
    rows = [
        [
            str(package.InstanceID),
            str(package.PackageID),
            package.PackageName,
            package.PackageDescription,
            package.UserName,
            package.ExecutionStartTime.Ticks,
            package.ExecutionDuration,
        ]
        for package in application.GetRunningPackages(".")
    ]
    data = memoryview(json.dumps(rows).encode() + b"\\n")
    while data:
        data = data[os.write(out.fileno(), data):]
"""


class Bare:
    """The bridge without an exporter."""

    def __init__(self, estate: Estate) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BARE, estate.gac.public_key_token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **estate.environment()},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def look(self) -> list[Any]:
        """One round trip."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"list\n")
        self.process.stdin.flush()
        rows: list[Any] = json.loads(self.process.stdout.readline())
        assert len(rows) == PACKAGES
        return rows

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(gac: Gac, folder: Path) -> bool:
    """Prints what each costs, against the bridge in the same round; whether a scrape is within what it may cost."""
    (folder / "estate").mkdir()
    estate = Estate(folder / "estate", gac)
    estate.packages = [Package(f"Load {number}", user=f"CORP\\u{number}") for number in range(PACKAGES)]
    estate.write()
    with ExitStack() as stack:
        bare = Bare(estate)
        stack.callback(bare.close)
        source = DtsSource("local", settings(gac), environment=estate.environment())
        stack.callback(source.close)
        exporter = stack.enter_context(served(folder, estate, source_entry(estate)))
        exporter.wait_until_up()
        source.first_snapshot()
        url = exporter.serving.url + "/metrics"

        def scrape() -> None:
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert b'ssis_up{source="local"} 1' in answer.read()

        works = {"the bare bridge": bare.look, "a look of the source": source.snapshot, "a scrape, all of it": scrape}
        rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(ROUNDS)]
    print(f"{PACKAGES} packages, {ROUNDS} rounds: the least, and the median of each round's ratio to the bare bridge")
    least = {name: min(took[name] for took in rounds) for name in works}
    ratios = {name: median(took[name] / took["the bare bridge"] for took in rounds) for name in works}
    for name, took in least.items():
        print(f"  {name:<22} {1000 * took:7.2f} ms  {took / least['the bare bridge']:5.2f}  {ratios[name]:5.2f}")
    return ratios["a scrape, all of it"] <= MOST


def memory(gac: Gac, folder: Path) -> bool:
    """Prints how the helper grows over many listings; whether it is flat."""
    (folder / "memory").mkdir()
    estate = Estate(folder / "memory", gac)
    for number in range(10):
        # Of those without a name every look reads every property.
        estate.packages.append(Package("Load" if number % 2 else ""))
    estate.write()
    source = DtsSource("local", settings(gac, time_limit=timedelta(seconds=60)), environment=estate.environment())
    try:
        source.first_snapshot()
        [helper] = psutil.Process().children()
        told = []
        for listing in range(LISTINGS + 1):
            source.snapshot()
            if listing % (LISTINGS // 4) == 0:
                told.append(helper.memory_info().rss / 2**20)
    finally:
        source.close()
    print(f"resident memory of the helper over {LISTINGS} listings: {', '.join(f'{size:.1f}' for size in told)} MiB")
    return told[-1] < told[1] + 4


def main() -> int:
    """1 where it costs too much."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "assemblies").mkdir()
        gac = build(folder / "assemblies", (16,))
        is_cheap = compare(gac, folder)
        is_flat = memory(gac, folder)
    print("within" if is_cheap and is_flat else "NOT within", f"{MOST} times the bridge, and flat")
    return 0 if is_cheap and is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
