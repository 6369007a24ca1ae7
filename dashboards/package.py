"""The dashboard of one package: its runs against what is usual, how they ended, what they use."""

from __future__ import annotations

from dashboards.panels import (
    BAD_ABOVE_0,
    GREEN,
    RED,
    SOURCE,
    YELLOW,
    Json,
    base_variables,
    column,
    dashboard,
    graph,
    query,
    row,
    source_variable,
    stat,
    steps,
    table,
    variable,
)

PACKAGE = f'{SOURCE}, folder=~"$folder", package_name="$package"'
"""In selectors of metrics that a package has."""

RUN = f'{SOURCE}, package_name="$package"'
"""In selectors of metrics of one run, which have no folder."""

LABELS = "source, folder, project, package_name"
OF_RUN = "source, instance_id"


def make() -> Json:
    """The dashboard."""
    known = f"ssis_package_duration_samples{{{SOURCE}"
    return dashboard(
        "ssis-package",
        "SSIS package",
        "One package: its runs against what is usual for it, how they ended, what they use.",
        [
            *base_variables(),
            source_variable(),
            variable("folder", "Folder", f"label_values({known}}}, folder)", all_value=".*"),
            variable("package", "Package", f'label_values({known}, folder=~"$folder"}}, package_name)', multi=False),
        ],
        [_now(), _runs(), _uses()],
    )


def _now() -> Json:
    return row(
        "Now and usually",
        stat(
            "Running",
            "Runs of this package that are running or stopping.",
            f"count(max by ({OF_RUN}) (ssis_package_execution_duration_seconds{{{PACKAGE}}})) or vector(0)",
            width=3,
        ),
        stat(
            "Oldest run",
            "The age of its oldest run; 0 where none runs.",
            f"max(ssis_package_execution_duration_seconds{{{PACKAGE}}}) or vector(0)",
            unit="s",
            decimals=1,
            width=3,
        ),
        stat(
            "Usually",
            "The median of its last runs.",
            f"max(ssis_package_typical_duration_seconds{{{PACKAGE}}})",
            unit="s",
            decimals=1,
            width=3,
        ),
        stat(
            "Last run took",
            "How long the run that ended last took.",
            f"max(ssis_package_last_duration_seconds{{{PACKAGE}}})",
            unit="s",
            decimals=1,
            width=3,
        ),
        stat(
            "Last success",
            "When a run last succeeded.",
            f"max(ssis_package_last_success_timestamp_seconds{{{PACKAGE}}}) * 1000",
            unit="dateTimeFromNow",
            decimals=None,
        ),
        stat(
            "Failed",
            "Runs that failed or lost their process in the time shown.",
            f"sum(max by ({LABELS}, result) (increase(ssis_package_executions_total"
            f'{{{PACKAGE}, result=~"failed|ended_unexpectedly"}}[$__range]))) or vector(0)',
            thresholds=BAD_ABOVE_0,
        ),
        stat(
            "Succeeded",
            "The share of the runs that ended in the time shown.",
            f"sum(max by ({LABELS})"
            f' (increase(ssis_package_executions_total{{{PACKAGE}, result="succeeded"}}[$__range])))'
            f" / (sum(max by ({LABELS}, result) (increase(ssis_package_executions_total{{{PACKAGE}}}[$__range]))) > 0)"
            " or vector(1)",
            unit="percentunit",
            decimals=1,
            thresholds=steps((None, RED), (0.8, YELLOW), (0.99, GREEN)),
        ),
    )


def _runs() -> Json:
    usual = f"max by (folder, project) (ssis_package_typical_duration_seconds{{{PACKAGE}}})"
    return row(
        "Runs",
        graph(
            "Duration",
            "The age of each run while it runs, against the median and the 0.95 quantile of the package.",
            query(f"max by ({OF_RUN}) (ssis_package_execution_duration_seconds{{{PACKAGE}}})", "run {{instance_id}}"),
            query(usual, "usual"),
            query(f"max by (folder, project) (ssis_package_p95_duration_seconds{{{PACKAGE}}})", "0.95 quantile"),
            unit="s",
            dashed="usual|0.95 quantile",
            width=24,
            height=9,
        ),
        graph(
            "Duration of ended runs",
            "How long the run that ended last took, over time.",
            query(f"max by (folder, project) (ssis_package_last_duration_seconds{{{PACKAGE}}})", "last run"),
            query(usual, "usual"),
            unit="s",
            dashed="usual",
        ),
        graph(
            "Ends by result",
            "How its runs ended, per interval.",
            query(
                f"sum by (result) (max by ({LABELS}, result)"
                f" (increase(ssis_package_executions_total{{{PACKAGE}}}[$__rate_interval])))",
                "{{result}}",
            ),
            stacked=True,
        ),
        table(
            "Runs seen",
            "Runs of the time shown: where they ran, who started them.",
            [
                query(
                    "max by (source, instance_id, machine, process_id, host, caller, environment)"
                    f" (last_over_time(ssis_package_execution_info{{{RUN}}}[$__range]))",
                    instant=True,
                ),
                query(
                    f"max by ({OF_RUN})"
                    f" (last_over_time(ssis_package_execution_duration_seconds{{{PACKAGE}}}[$__range]))",
                    instant=True,
                ),
                query(
                    f"max by ({OF_RUN}) (last_over_time(ssis_package_execution_start_timestamp_seconds"
                    f"{{{PACKAGE}}}[$__range])) * 1000",
                    instant=True,
                ),
            ],
            names={
                "source": "Source",
                "instance_id": "Instance id",
                "Value #C": "Started",
                "Value #B": "Seen until age",
                "machine": "Machine",
                "process_id": "Process",
                "host": "Host",
                "caller": "Started by",
                "environment": "Environment",
            },
            hidden=["Value #A"],
            columns=[
                column("Seen until age", unit="dtdurations"),
                column("Started", unit="dateTimeAsIso"),
            ],
            sort="Started",
        ),
    )


def _uses() -> Json:
    def rate(metric: str) -> Json:
        return query(f"max by ({OF_RUN}) (rate({metric}{{{RUN}}}[$__rate_interval]))", "run {{instance_id}}")

    def value(metric: str, legend: str = "run {{instance_id}}") -> Json:
        return query(f"max by ({OF_RUN}) ({metric}{{{RUN}}})", legend)

    return row(
        "What its runs use",
        graph("CPU", "In processors.", rate("ssis_package_execution_cpu_seconds_total")),
        graph("Memory", "Resident memory.", value("ssis_package_execution_resident_memory_bytes"), unit="bytes"),
        graph("Rows read", "Per second.", rate("ssis_package_execution_rows_read_total")),
        graph("Rows written", "Per second.", rate("ssis_package_execution_rows_written_total")),
        graph("Read", "Bytes per second.", rate("ssis_package_execution_read_bytes_total"), unit="Bps"),
        graph("Written", "Bytes per second.", rate("ssis_package_execution_written_bytes_total"), unit="Bps"),
        graph(
            "Data-flow buffers",
            "In use, and on disk for want of memory.",
            value("ssis_package_execution_buffers_in_use", "in use, run {{instance_id}}"),
            value("ssis_package_execution_buffers_spooled", "on disk, run {{instance_id}}"),
        ),
        graph("Threads", "Of its processes.", value("ssis_package_execution_threads")),
    )
