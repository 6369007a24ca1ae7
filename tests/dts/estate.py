"""What runs on the machine of the managed API's contract: packages as lines of a file, some with real processes."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from ssis_exporter.errors import SourceError
from ssis_exporter.model import Snapshot
from ssis_exporter.sources.dts import DtsSettings, DtsSource
from ssis_exporter.sources.dts.supervisor import HelperStarting, Patience
from tests.dts.assemblies import Gac

YEAR_ONE = datetime(1, 1, 1)
QUICK = Patience(
    start=timedelta(seconds=30), first_pause=timedelta(milliseconds=1), longest_pause=timedelta(milliseconds=2)
)


def ticks(local: datetime) -> int:
    """A naive local time as .NET counts it."""
    return (local - YEAR_ONE) // timedelta(microseconds=1) * 10


@dataclass
class Package:
    """A running package; without a process it runs until it is taken out of the list."""

    name: str = "Load"
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))
    package_id: str = "a0000000-0000-0000-0000-00000000000a"
    description: str = ""
    user: str = "CORP\\etl"
    start_ticks: int = field(default_factory=lambda: ticks(datetime.now()))
    raw_duration: int = 0
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0
    """Of a process that somebody else started."""

    def line(self) -> str:
        """As the contract's assembly reads it."""
        pid = self.pid if self.process is None else self.process.pid
        texts = [self.instance, self.package_id, self.name, self.description, self.user]
        escaped = [text.replace("\n", "\\n").replace("\t", "\\t").replace("\ud800", "\\d800") for text in texts]
        return "\t".join([*escaped, str(self.start_ticks), str(self.raw_duration), str(pid)])


class Estate:
    """The folder that the contract's assembly reads."""

    def __init__(self, folder: Path, gac: Gac) -> None:
        self.folder = folder
        self.gac = gac
        self.packages: list[Package] = []
        self.write()

    def add(self, package: Package, *, with_process: bool = False) -> Package:
        """A package starts; with a real process behind it, it runs as long as that."""
        if with_process:
            package.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.packages.append(package)
        self.write()
        return package

    def write(self) -> None:
        """Makes the list what `packages` is, in one move."""
        new = self.folder / "packages.new"
        new.write_text("".join(package.line() + "\n" for package in self.packages), encoding="utf-8")
        new.replace(self.folder / "packages.tsv")

    def faults(self, *lines: str) -> None:
        """What goes wrong from the next call on; nothing, without lines."""
        (self.folder / "faults.txt").write_text("\n".join(lines))

    def stops(self) -> list[str]:
        """The instance ids whose Stop was called, in order."""
        log = self.folder / "stops.log"
        return log.read_text().split() if log.exists() else []

    def environment(self) -> dict[str, str]:
        """What the helper's process needs."""
        return {**self.gac.environment, "SSIS_TEST_ESTATE": str(self.folder)}

    def close(self) -> None:
        """Ends the processes behind the packages."""
        for package in self.packages:
            if package.process is not None:
                package.process.kill()
                package.process.wait()


def settings(gac: Gac, **keys: object) -> DtsSettings:
    """Settings that reach the assemblies of the tests."""
    return DtsSettings(runtime="mono", public_key_token=gac.public_key_token, **keys)  # type: ignore[arg-type]


@contextmanager
def source_on(
    estate: Estate,
    *,
    name: str = "local",
    patience: Patience = QUICK,
    environment: Mapping[str, str] | None = None,
    **keys: object,
) -> Iterator[DtsSource]:
    """A source whose helper sees the estate."""
    source = DtsSource(
        name,
        settings(estate.gac, **keys),
        patience=patience,
        environment={**estate.environment(), **(environment or {})},
    )
    try:
        yield source
    finally:
        source.close()


def fake_helper(folder: Path, script: str) -> Sequence[str]:
    """The command of a helper that is a few lines of Python, for what the real one never does."""
    path = folder / "fake_helper.py"
    path.write_text(script)
    return (sys.executable, str(path))


def until_not_starting(source: DtsSource) -> None:
    """Looks until the helper has started, so that what comes is not about its start."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            source.snapshot()
        except HelperStarting:
            continue


def until_answered(source: DtsSource) -> Snapshot:
    """Looks until there is an answer, over pauses and starts."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return source.snapshot()
        except SourceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
