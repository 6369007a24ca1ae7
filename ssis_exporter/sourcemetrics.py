"""The metrics that tell of sources and of what runs: name, HELP and labels of each."""

from __future__ import annotations

from ssis_exporter.families import Definition
from ssis_exporter.runlabels import IDENTITY_LABELS, INFO_LABELS, RUN_LABELS

SOURCE_LABELS = ("source",)

RUNNING = Definition(
    "ssis_running_packages",
    "Runs that the source shows as running or stopping, without those whose host process is gone for certain.",
    SOURCE_LABELS,
)
OPEN = Definition(
    "ssis_open_executions",
    "Runs that the source shows as created, pending, running or stopping, before any series budget.",
    (*SOURCE_LABELS, "status"),
)
DURATION = Definition(
    "ssis_package_execution_duration_seconds",
    "How long this run has been running: now minus its start, by the source's own clock.",
    IDENTITY_LABELS,
)
START = Definition(
    "ssis_package_execution_start_timestamp_seconds",
    "When this run began, as the source tells it.",
    IDENTITY_LABELS,
)
START_UNCERTAIN = Definition(
    "ssis_package_execution_start_uncertain",
    "Always 1: two instants fit what the source says of this run's start (the hour that comes twice in autumn); the "
    "later one is shown, so the run may be an hour older.",
    RUN_LABELS,
)
STATUS = Definition(
    "ssis_package_execution_status",
    "Always 1; the label status is what the source says of this run: running or stopping.",
    (*RUN_LABELS, "status"),
)
INFO = Definition(
    "ssis_package_execution_info",
    "Always 1; the labels are what else the source tells of this run and what does not change in it.",
    (*RUN_LABELS, *INFO_LABELS),
)
CPU = Definition(
    "ssis_package_execution_cpu_seconds_total",
    "User and system time of this run's host process and its children; it does not fall when a child ends.",
    RUN_LABELS,
    "counter",
)
RESIDENT = Definition(
    "ssis_package_execution_resident_memory_bytes",
    "Resident memory of this run's host process and its children.",
    RUN_LABELS,
)
READ = Definition(
    "ssis_package_execution_read_bytes_total",
    "Bytes that this run's host process and its children read; it does not fall when a child ends.",
    RUN_LABELS,
    "counter",
)
WRITTEN = Definition(
    "ssis_package_execution_written_bytes_total",
    "Bytes that this run's host process and its children wrote; it does not fall when a child ends.",
    RUN_LABELS,
    "counter",
)
THREADS = Definition(
    "ssis_package_execution_threads",
    "Threads of this run's host process and its children.",
    RUN_LABELS,
)
ROWS_READ = Definition(
    "ssis_package_execution_rows_read_total",
    "Rows that this run's data flows read from their sources (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
    "counter",
)
ROWS_WRITTEN = Definition(
    "ssis_package_execution_rows_written_total",
    "Rows that this run's data flows handed to their destinations (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
    "counter",
)
BUFFERS_IN_USE = Definition(
    "ssis_package_execution_buffers_in_use",
    "Data-flow buffers that this run uses (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
)
BUFFERS_SPOOLED = Definition(
    "ssis_package_execution_buffers_spooled",
    "Data-flow buffers that this run wrote to disk for want of memory (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
)
BUFFER_MEMORY = Definition(
    "ssis_package_execution_buffer_memory_bytes",
    "Memory of this run's data-flow buffers (catalog.dm_execution_performance_counters).",
    RUN_LABELS,
)
ORPHANED = Definition(
    "ssis_orphaned_executions",
    "Runs without their other half: no_process, the record says running and the host process is gone for certain; "
    "no_row, a host process for which there is no open record.",
    (*SOURCE_LABELS, "problem"),
)
STUCK = Definition(
    "ssis_stuck_stopping_executions",
    "Runs that the source shows as stopping for more than 5 minutes.",
    SOURCE_LABELS,
)
OLDEST_PENDING = Definition(
    "ssis_oldest_pending_seconds",
    "How long the run that has been pending longest waits since it was created; 0 when none is pending.",
    SOURCE_LABELS,
)
HOSTS = Definition(
    "ssis_host_processes",
    "Processes on this machine that may host packages without saying so.",
    (*SOURCE_LABELS, "program"),
)
UNCLAIMED_HOSTS = Definition(
    "ssis_unclaimed_host_processes",
    "ISServerExec processes on this machine that no run of a configured source accounts for: a catalog runs packages "
    "here that nobody reads. Absent while a source that accounted for some before could not be read.",
    SOURCE_LABELS,
)
AMBIGUOUS = Definition(
    "ssis_ambiguous_executions",
    "Runs that two sources may both show, because it could not be told whether they are one.",
    SOURCE_LABELS,
)
INCOMPLETE = Definition(
    "ssis_source_incomplete",
    "1 until the source has filled in what ran before it was first read: counts are a lower bound.",
    SOURCE_LABELS,
)
VISIBILITY = Definition(
    "ssis_visibility",
    "1 for how much the exporter's account can see of what runs, 0 for the other scopes.",
    (*SOURCE_LABELS, "scope"),
)
TRUNCATED = Definition(
    "ssis_executions_truncated",
    "Running or stopping runs that have no series of their own, mostly because the series budget keeps the longest.",
    SOURCE_LABELS,
)
UP = Definition("ssis_up", "Whether the source answered this scrape.", SOURCE_LABELS)
SOURCE_INFO = Definition(
    "ssis_source_info",
    "Always 1; the labels are what the source is. What only a connection tells is empty until there was one.",
    (*SOURCE_LABELS, "kind", "server", "version"),
)
SCRAPE_DURATION = Definition(
    "ssis_scrape_duration_seconds",
    "How long the source took for the answer that this scrape shows, or how long this scrape waited in vain.",
    SOURCE_LABELS,
)
SCRAPE_TIMED_OUT = Definition(
    "ssis_scrape_timed_out",
    "Whether the source was still busy when this scrape's time was up.",
    SOURCE_LABELS,
)

DEFINITIONS: tuple[Definition, ...] = (
    UP,
    SOURCE_INFO,
    SCRAPE_DURATION,
    SCRAPE_TIMED_OUT,
    INCOMPLETE,
    VISIBILITY,
    RUNNING,
    OPEN,
    TRUNCATED,
    ORPHANED,
    STUCK,
    OLDEST_PENDING,
    HOSTS,
    UNCLAIMED_HOSTS,
    AMBIGUOUS,
    DURATION,
    START,
    START_UNCERTAIN,
    STATUS,
    INFO,
    CPU,
    RESIDENT,
    READ,
    WRITTEN,
    THREADS,
    ROWS_READ,
    ROWS_WRITTEN,
    BUFFERS_IN_USE,
    BUFFERS_SPOOLED,
    BUFFER_MEMORY,
)
"""Every metric that is built from readings, in the order of the page."""

SCRAPE_ERRORS = Definition(
    "ssis_scrape_errors_total",
    "Scrapes that the source did not answer, by reason.",
    (*SOURCE_LABELS, "reason"),
    "counter",
)
"""The one that is counted, on the registry, instead of built from readings."""
