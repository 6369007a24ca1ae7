"""
The golden files of the full exposition: what the page shows for the readings made by hand, in both formats.

After a change that is meant: `python -m tests.golden` writes them anew; look at the difference before you commit it.
A changed or vanished name is a breaking change and goes into the changelog with its old and its new name.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry

from ssis_exporter.collector import Collector
from ssis_exporter.exposition import OPENMETRICS, TEXT, Format, render
from ssis_exporter.selfmetrics import BuildInfo, CertificateExpiry, ConfigReloads, Origin, make_registry
from tests.readings import NOW, rich_readings

FOLDER = Path(__file__).parent / "data" / "golden"
FILES: dict[str, Format] = {"metrics.txt": TEXT, "metrics.openmetrics.txt": OPENMETRICS}


def page(format_: Format) -> str:
    """The full page, but for what differs between machines: the process's and Python's own metrics."""
    # Its setting about `_created` series is the process's.
    make_registry(own_process=False)
    registry = CollectorRegistry()
    origin = Origin(revision="0123456789abcdef0123456789abcdef01234567", branch="main")
    registry.register(BuildInfo(version="1.2.3", origin=origin, pythonversion="3.11.7", platform_name="linux/x86_64"))
    ConfigReloads(registry, now=NOW.timestamp)
    CertificateExpiry(registry).watch("metrics", lambda: NOW + timedelta(days=90))
    collector = Collector(executions_per_source=3, keep_user_names=True, registry=registry)
    return b"".join(render(collector.families(rich_readings()), registry, format_)).decode()


def write() -> None:
    """Writes the files anew."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, format_ in FILES.items():
        (FOLDER / name).write_bytes(page(format_).encode())


if __name__ == "__main__":
    write()
