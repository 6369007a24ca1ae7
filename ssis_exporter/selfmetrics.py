"""Metrics about the exporter itself: its build, its process, its Python, its configuration, its certificates."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.registry import Collector

from ssis_exporter import __version__
from ssis_exporter.families import Definition, Family

if TYPE_CHECKING:
    import psutil

log = logging.getLogger(__name__)

BUILD_INFO = Definition(
    "ssis_exporter_build_info",
    "Always 1; the labels are what this exporter was built from and what it runs on.",
    ("version", "revision", "branch", "pythonversion", "platform"),
)
RELOAD_SUCCESSFUL = Definition(
    "ssis_exporter_config_last_reload_successful",
    "Whether the last attempt to read the configuration worked; where it did not, the old one stays in force.",
)
RELOAD_TIMESTAMP = Definition(
    "ssis_exporter_config_last_reload_success_timestamp_seconds",
    "When the configuration in force was read.",
)
CERTIFICATE_EXPIRY = Definition(
    "ssis_exporter_certificate_expiry_timestamp_seconds",
    "When the certificate that this listener shows ends to be valid, from the certificate's notAfter.",
    ("listener",),
)
PROCESS_CPU = Definition(
    "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", type="counter"
)
PROCESS_RESIDENT = Definition("process_resident_memory_bytes", "Resident memory size in bytes.")
PROCESS_VIRTUAL = Definition("process_virtual_memory_bytes", "Virtual memory size in bytes.")
PROCESS_START = Definition("process_start_time_seconds", "Start time of the process since unix epoch in seconds.")
PROCESS_OPEN_FDS = Definition("process_open_fds", "Number of open file descriptors; on Windows, of open handles.")
PROCESS_MAX_FDS = Definition("process_max_fds", "Maximum number of open file descriptors.")
PROCESS_THREADS = Definition("process_threads", "Number of threads of the process.")
PYTHON_INFO = Definition("python_info", "Python platform information")
GC_METRICS = tuple(
    Definition(f"python_gc_{name}_total", documentation, ("generation",), "counter")
    for name, documentation in (
        ("objects_collected", "Objects collected during gc"),
        ("objects_uncollectable", "Uncollectable objects found during GC"),
        ("collections", "Number of times this generation was collected"),
    )
)

_PROCESS = (PROCESS_CPU, PROCESS_RESIDENT, PROCESS_VIRTUAL, PROCESS_START, PROCESS_OPEN_FDS)

DEFINITIONS: tuple[Definition, ...] = (
    BUILD_INFO,
    RELOAD_SUCCESSFUL,
    RELOAD_TIMESTAMP,
    CERTIFICATE_EXPIRY,
    *_PROCESS,
    PROCESS_MAX_FDS,
    PROCESS_THREADS,
    PYTHON_INFO,
    *GC_METRICS,
)
"""Every metric about the exporter itself, on any platform."""


def make_registry(*, own_process: bool = True) -> CollectorRegistry:
    """
    A fresh registry with the build's, and where wanted the process's and Python's, metrics; others add their own.

    Everything on it says its names by `describe()`, so registering looks at nothing and a name that is taken twice
    fails at once.
    """
    # Else each counter brings a `_created` series of its own, which Prometheus stores and nobody asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not say
    registry = CollectorRegistry()
    registry.register(BuildInfo())
    if own_process:
        library = ProcessCollector(registry=None)
        has_proc = any(True for _ in library.collect())
        registry.register(Described(library, (*_PROCESS, PROCESS_MAX_FDS)) if has_proc else PsutilProcess())
        registry.register(Described(PlatformCollector(registry=None), (PYTHON_INFO,)))
        # It has no way to be made without a registry; a throw-away one does no harm.
        registry.register(Described(GCCollector(registry=CollectorRegistry()), GC_METRICS))
    return registry


class Described(Collector):
    """A collector of the library's, with the `describe()` that it lacks."""

    def __init__(self, collector: Collector, definitions: Sequence[Definition]) -> None:
        self._collector = collector
        self._definitions = definitions

    def describe(self) -> Iterable[Metric]:
        """The names, without a look."""
        return [Family(definition) for definition in self._definitions]

    def collect(self) -> Iterable[Metric]:
        """What the library's collector tells."""
        return self._collector.collect()


class PsutilProcess(Collector):
    """The library's process metrics, from psutil, for systems without `/proc`."""

    def __init__(self, process: psutil.Process | None = None) -> None:
        # Not at the top: where the library has these metrics, nothing of the exporter's own needs psutil.
        import psutil  # noqa: PLC0415

        self._unreadable = (psutil.Error, OSError)
        self._process = process if process is not None else psutil.Process()

    def describe(self) -> Iterable[Metric]:
        """The names, without a look."""
        return [Family(definition) for definition in (*_PROCESS, PROCESS_THREADS)]

    def collect(self) -> Iterable[Metric]:
        """What psutil tells of this process; what it cannot read is left out."""
        readers: tuple[tuple[Definition, Callable[[], float]], ...] = (
            (PROCESS_CPU, self._cpu_seconds),
            (PROCESS_RESIDENT, lambda: int(self._process.memory_info().rss)),
            (PROCESS_VIRTUAL, lambda: int(self._process.memory_info().vms)),
            (PROCESS_START, self._process.create_time),
            (PROCESS_OPEN_FDS, self._open_files),
            (PROCESS_THREADS, self._process.num_threads),
        )
        for definition, read in readers:
            try:
                value = read()
            except self._unreadable as exc:
                log.debug("%s cannot be read: %s", definition.name, exc)
                continue
            yield _single(definition, value)

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _open_files(self) -> int:
        if sys.platform == "win32":
            return int(self._process.num_handles())
        return int(self._process.num_fds())


@dataclass(frozen=True, slots=True)
class Origin:
    """What a distribution was made from."""

    revision: str = ""
    branch: str = ""


class BuildInfo(Collector):
    """`ssis_exporter_build_info`."""

    def __init__(
        self,
        *,
        version: str = __version__,
        origin: Origin | None = None,
        pythonversion: str | None = None,
        platform_name: str | None = None,
    ) -> None:
        told = origin if origin is not None else installed_origin()
        python = pythonversion if pythonversion is not None else platform.python_version()
        machine = platform_name if platform_name is not None else f"{sys.platform}/{platform.machine().lower()}"
        self._labels = (version, told.revision, told.branch, python, machine)

    def describe(self) -> Iterable[Metric]:
        """The name."""
        return (Family(BUILD_INFO),)

    def collect(self) -> Iterable[Metric]:
        """One series that never changes."""
        return (_single(BUILD_INFO, 1, self._labels),)


def installed_origin(direct_url: str | None = None) -> Origin:
    """
    The commit and branch that this distribution was installed from, which pip records when it installs from git.

    Empty where it was installed from a file or an index. `direct_url` is the text of the record, for tests.
    https://packaging.python.org/en/latest/specifications/direct-url/
    """
    try:
        text = direct_url if direct_url is not None else distribution("ssis-exporter").read_text("direct_url.json")
        git = json.loads(text or "{}").get("vcs_info", {})
        return Origin(revision=str(git.get("commit_id", "")), branch=str(git.get("requested_revision", "")))
    except (PackageNotFoundError, OSError, ValueError, AttributeError):
        return Origin()


class ConfigReloads:
    """Whether reading the configuration worked, and when it last did."""

    def __init__(self, registry: CollectorRegistry, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._successful = Gauge(RELOAD_SUCCESSFUL.name, RELOAD_SUCCESSFUL.documentation, registry=registry)
        self._timestamp = Gauge(RELOAD_TIMESTAMP.name, RELOAD_TIMESTAMP.documentation, registry=registry)
        self.worked()

    def worked(self) -> None:
        """The configuration was read and is in force."""
        self._successful.set(1)
        self._timestamp.set(self._now())

    def failed(self) -> None:
        """The new configuration is wrong; the old one stays in force."""
        self._successful.set(0)


class CertificateExpiry(Collector):
    """When the certificates of the listeners end; asks those who serve them at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._watched: dict[str, Callable[[], datetime | None]] = {}
        registry.register(self)

    def watch(self, listener: str, not_after: Callable[[], datetime | None]) -> None:
        """Asks `not_after` for this listener from now on; None where it shows no certificate. It must not block."""
        self._watched[listener] = not_after

    def describe(self) -> Iterable[Metric]:
        """The name, without asking anybody."""
        return (Family(CERTIFICATE_EXPIRY),)

    def collect(self) -> Iterable[Metric]:
        """One series per listener that shows a certificate which can be read."""
        family = Family(CERTIFICATE_EXPIRY)
        for listener, not_after in self._watched.items():
            try:
                ends = not_after()
            except Exception as exc:  # noqa: BLE001 - an unreadable certificate must not take the page away
                log.debug("the certificate of %s cannot be read: %s", listener, exc)
                continue
            if ends is not None:
                family.add((listener,), ends.timestamp())
        return (family,) if family.values else ()


def _single(definition: Definition, value: float, labels: Sequence[str] = ()) -> Family:
    family = Family(definition)
    family.add(labels, value)
    return family
