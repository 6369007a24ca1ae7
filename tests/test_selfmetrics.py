"""Metrics about the exporter itself."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime

import psutil
import pytest
from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.registry import Collector

from ssis_exporter import __version__
from ssis_exporter.exposition import OPENMETRICS, TEXT, render
from ssis_exporter.selfmetrics import (
    DEFINITIONS,
    PROCESS_MAX_FDS,
    PROCESS_THREADS,
    BuildInfo,
    CertificateExpiry,
    ConfigReloads,
    Described,
    Origin,
    PsutilProcess,
    installed_origin,
    make_registry,
)


def names(registry: CollectorRegistry) -> set[str]:
    """The families on a registry's page."""
    return {family.name for family in registry.collect()}


def test_each_registry_is_fresh() -> None:
    """
    Two exporters in one process do not share their metrics.
    """
    first, second = make_registry(), make_registry()
    Counter("ssis_x_total", "Help.", registry=first)

    assert "ssis_x" not in names(second)
    Counter("ssis_x_total", "Help.", registry=second)


def test_names_that_are_taken_are_known_without_a_look() -> None:
    """
    Every collector on the registry says its names, so taking one twice fails at once.
    """
    registry = make_registry()
    for name in ("process_cpu_seconds", "python_info", "python_gc_collections", "ssis_exporter_build_info"):
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            Counter(name, "Help.", registry=registry)


def test_described_names_are_the_collected_ones() -> None:
    """
    What `describe` says is what comes, on this system.
    """
    registry = make_registry()
    ConfigReloads(registry)
    CertificateExpiry(registry).watch("metrics", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    known = {definition.family_name for definition in DEFINITIONS}

    assert names(registry) <= known
    assert known - names(registry) <= {PROCESS_THREADS.name, PROCESS_MAX_FDS.name}


class Forbidden(Collector):
    """A collector that must not be asked."""

    def collect(self) -> Iterable[Metric]:
        """Fails."""
        raise AssertionError("it was asked")


def test_describing_does_not_collect() -> None:
    """
    Registering looks at nothing.
    """
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Described(Forbidden(), DEFINITIONS[:1]))


def test_own_process_can_be_left_out() -> None:
    """
    Without the process's metrics the build stays.
    """
    assert {"ssis_exporter_build_info"} == names(make_registry(own_process=False))


def test_build_info_says_what_runs_here() -> None:
    """
    Version, Python and platform are known without being told.
    """
    family = next(iter(make_registry(own_process=False).collect()))
    labels = family.samples[0].labels

    assert __version__ == labels["version"]
    assert re.fullmatch(r"3\.\d+\.\d+.*", labels["pythonversion"])
    assert re.fullmatch(r"\w+/\w+", labels["platform"])
    assert {"version", "revision", "branch", "pythonversion", "platform"} == labels.keys()


def test_build_info_tells_the_commit_that_pip_installed() -> None:
    """
    What pip records of an installation from git becomes revision and branch.
    """
    record = {
        "url": "https://git.example/x",
        "vcs_info": {"vcs": "git", "commit_id": "abc", "requested_revision": "main"},
    }

    assert Origin(revision="abc", branch="main") == installed_origin(json.dumps(record))


@pytest.mark.parametrize("record", ["", "{}", "not json", "[]", '{"vcs_info": 7}', '{"dir_info": {"editable": true}}'])
def test_an_unknown_origin_is_empty(record: str) -> None:
    """
    A distribution from a file or an index tells no commit, and nothing fails.
    """
    assert Origin() == installed_origin(record)


def test_process_metrics_from_psutil_agree_with_the_process() -> None:
    """
    Where there is no `/proc`, psutil gives the same names; they are this process's.
    """
    registry = CollectorRegistry()
    registry.register(PsutilProcess())
    process = psutil.Process(os.getpid())

    def value(name: str) -> float:
        found = registry.get_sample_value(name)
        assert found is not None
        return found

    assert process.create_time() == value("process_start_time_seconds")
    assert 0 < value("process_cpu_seconds_total") <= sum(process.cpu_times()[:2])
    assert value("process_resident_memory_bytes") > 2**20
    # On Windows it is what was promised to the process alone, without the libraries that it shares.
    assert value("process_virtual_memory_bytes") > 2**20
    assert value("process_open_fds") >= 3
    assert value("process_threads") >= 1


class LockedProcess(psutil.Process):
    """A process whose files cannot be counted."""

    def num_fds(self) -> int:
        """Refuses."""
        raise psutil.AccessDenied(self.pid)

    num_handles = num_fds


def test_a_process_figure_that_cannot_be_read_is_left_out() -> None:
    """
    One figure that is refused does not take the others away.
    """
    registry = CollectorRegistry()
    registry.register(PsutilProcess(LockedProcess()))

    assert registry.get_sample_value("process_open_fds") is None
    assert registry.get_sample_value("process_threads") is not None


def test_reloads_are_told() -> None:
    """
    A failed reload lowers the gauge and leaves the time of the configuration in force.
    """
    registry = CollectorRegistry()
    times = iter([100.0, 200.0])
    reloads = ConfigReloads(registry, now=lambda: next(times))

    def told() -> tuple[float | None, float | None]:
        prefix = "ssis_exporter_config_last_reload_success"
        return registry.get_sample_value(f"{prefix}ful"), registry.get_sample_value(f"{prefix}_timestamp_seconds")

    assert (1, 100) == told()
    reloads.failed()
    assert (0, 100) == told()
    reloads.worked()
    assert (1, 200) == told()


def test_certificates_tell_their_end() -> None:
    """
    Each listener with a readable certificate has a series; the others have none.
    """

    def unreadable() -> datetime:
        raise OSError("no such file")

    registry = CollectorRegistry()
    expiry = CertificateExpiry(registry)
    assert set() == names(registry)
    expiry.watch("metrics", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    expiry.watch("webhook", unreadable)
    expiry.watch("plain", lambda: None)
    name = "ssis_exporter_certificate_expiry_timestamp_seconds"

    assert datetime(2026, 1, 1, tzinfo=UTC).timestamp() == registry.get_sample_value(name, {"listener": "metrics"})
    assert 1 == len(next(iter(registry.collect())).samples)


@pytest.mark.parametrize("format_", [TEXT, OPENMETRICS], ids=["text", "openmetrics"])
def test_counters_bring_no_created_series(format_: object) -> None:
    """
    Counters on our registry are one series each.
    """
    registry = make_registry(own_process=False)
    Counter("ssis_x_total", "Help.", registry=registry)

    assert b"_created" not in b"".join(render([], registry, OPENMETRICS if format_ is OPENMETRICS else TEXT))


def test_labels_of_the_build_are_cleaned() -> None:
    """
    No label comes onto the page uncleaned.
    """
    family = next(iter(BuildInfo(version="1\r", origin=Origin()).collect()))

    assert "1\ufffd" == family.samples[0].labels["version"]
