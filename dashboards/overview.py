"""The dashboard of the whole estate: what runs now, server by server, what ended, what it costs."""

from __future__ import annotations

from dashboards.panels import (
    BAD_ABOVE_0,
    BLUE,
    GREEN,
    ODD_ABOVE_0,
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
    timeline,
    words,
)

PACKAGE_PAGE = (
    "/d/ssis-package?${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"
    "&var-source=${__data.fields.Source}&var-folder=${__data.fields.Folder}&var-package=${__data.fields.Package}"
    "&${__url_time_range}"
)
TO_PACKAGE_PAGE = column("Package", link={"title": "This package", "url": PACKAGE_PAGE})
RUN = "source, folder, project, package_name, instance_id, user_name"
PACKAGE = "source, folder, project, package_name"


def make() -> Json:
    """The dashboard."""
    return dashboard(
        "ssis-overview",
        "SSIS overview",
        "What SQL Server Integration Services runs now, server by server. Two exporters that see the same source count "
        "once.",
        [*base_variables(), source_variable()],
        [_now(), _running(), _servers(), _ended(), _cost()],
    )


def _now() -> Json:
    return row(
        "Now",
        stat(
            "Running",
            "Packages that are running or stopping, without those whose process is gone.",
            f"sum(max by (source) (ssis_running_packages{{{SOURCE}}}))",
        ),
        stat(
            "Waiting",
            "Executions that were created and have not begun.",
            f'sum(max by (source, status) (ssis_open_executions{{{SOURCE}, status=~"created|pending"}}))',
        ),
        stat(
            "Longest running",
            "The age of the oldest run.",
            f"max(ssis_package_execution_duration_seconds{{{SOURCE}}}) or vector(0)",
            unit="s",
            decimals=1,
            thresholds=steps((None, GREEN), (4 * 3600, YELLOW), (12 * 3600, RED)),
        ),
        stat(
            "Far beyond usual",
            "Runs that take more than three times the median of their package.",
            f"count(max by ({RUN}) (ssis_package_execution_duration_seconds{{{SOURCE}}})"
            f" > on ({PACKAGE}) group_left () 3 * max by ({PACKAGE})"
            f" (ssis_package_typical_duration_seconds{{{SOURCE}}})) or vector(0)",
            thresholds=ODD_ABOVE_0,
        ),
        stat(
            "Failed",
            "Runs that failed, or lost their process, in the time shown. Canceled runs did not fail.",
            f"sum(max by ({PACKAGE}, result) (increase(ssis_package_executions_total"
            f'{{{SOURCE}, result=~"failed|ended_unexpectedly"}}[$__range]))) or vector(0)',
            thresholds=BAD_ABOVE_0,
        ),
        stat(
            "Sources down",
            "Sources that did not answer the last scrape. What runs there is not known.",
            f"count(max by (source) (ssis_up{{{SOURCE}}}) == 0) or vector(0)",
            thresholds=BAD_ABOVE_0,
        ),
    )


def _running() -> Json:
    times_usual = (
        f"max by ({RUN}) (ssis_package_execution_duration_seconds{{{SOURCE}}}) / on ({PACKAGE}) group_left ()"
        f" max by ({PACKAGE}) (ssis_package_typical_duration_seconds{{{SOURCE}}})"
    )
    per_run = "source, package_name, instance_id"
    return row(
        "Running now",
        table(
            "Running packages",
            "Each run that is running or stopping; its package leads to its own page.",
            [
                query(f"max by ({RUN}) (ssis_package_execution_duration_seconds{{{SOURCE}}})", instant=True),
                query(times_usual, instant=True),
                query(
                    f"max by ({per_run})"
                    f" (rate(ssis_package_execution_cpu_seconds_total{{{SOURCE}}}[$__rate_interval]))",
                    instant=True,
                ),
                query(f"max by ({per_run}) (ssis_package_execution_resident_memory_bytes{{{SOURCE}}})", instant=True),
            ],
            names={
                "source": "Source",
                "folder": "Folder",
                "project": "Project",
                "package_name": "Package",
                "instance_id": "Instance id",
                "user_name": "User",
                "Value #A": "Age",
                "Value #B": "Times usual",
                "Value #C": "CPU",
                "Value #D": "Memory",
            },
            columns=[
                TO_PACKAGE_PAGE,
                column("Age", unit="dtdurations", bar=True),
                column("CPU", unit="percentunit"),
                column("Memory", unit="bytes"),
            ],
            sort="Age",
            height=11,
        ),
        timeline(
            "The longest runs",
            "When the 25 packages with the longest runs of the time shown ran.",
            query(
                "(max by (source, package_name)"
                f' (ssis_package_execution_status{{{SOURCE}, status="running"}}) or 2 * max by (source, package_name)'
                f' (ssis_package_execution_status{{{SOURCE}, status="stopping"}}))'
                " and on (source, package_name) topk(25, max by (source, package_name) (max_over_time("
                f"ssis_package_execution_duration_seconds{{{SOURCE}}}[$__range] @ end())))",
                "{{package_name}} ({{source}})",
            ),
            mappings=words({"1": ("running", BLUE), "2": ("stopping", YELLOW)}),
        ),
    )


def _servers() -> Json:
    return row(
        "By server",
        table(
            "Sources",
            "What each source is and how it is. A source that is down has no counts.",
            [
                query(f"max by (source, kind, server, version) (ssis_source_info{{{SOURCE}}})", instant=True),
                query(f"max by (source) (ssis_up{{{SOURCE}}})", instant=True),
                query(f"max by (source) (ssis_running_packages{{{SOURCE}}})", instant=True),
                query(
                    "sum by (source) (max by (source, status)"
                    f' (ssis_open_executions{{{SOURCE}, status=~"created|pending"}}))',
                    instant=True,
                ),
                query(f"max by (source, scope) (ssis_visibility{{{SOURCE}}}) == 1", instant=True),
                query(
                    f"sum by (source) (max by (source, problem) (ssis_orphaned_executions{{{SOURCE}}}))", instant=True
                ),
                query(f"max by (source) (ssis_scrape_duration_seconds{{{SOURCE}}})", instant=True),
            ],
            names={
                "source": "Source",
                "kind": "Kind",
                "server": "Server",
                "version": "Version",
                "Value #B": "Up",
                "Value #C": "Running",
                "Value #D": "Waiting",
                "scope": "Sees",
                "Value #F": "Orphans",
                "Value #G": "Look takes",
            },
            hidden=["Value #A", "Value #E"],
            columns=[column("Look takes", unit="s"), column("Up", unit="bool_yes_no")],
            height=7,
        ),
        graph(
            "Running",
            "Running and stopping packages of each source.",
            query(f"max by (source) (ssis_running_packages{{{SOURCE}}})", "{{source}}"),
            stacked=True,
        ),
        graph(
            "Open executions",
            "By status: created, pending, running, stopping.",
            query(f"sum by (status) (max by (source, status) (ssis_open_executions{{{SOURCE}}}))", "{{status}}"),
            stacked=True,
        ),
        graph(
            "Needs a look",
            "Orphaned executions, those that have been stopping for long, processes of a catalog that nobody reads.",
            query(
                f"max by (source, problem) (ssis_orphaned_executions{{{SOURCE}}})", "orphaned, {{problem}} ({{source}})"
            ),
            query(f"max by (source) (ssis_stuck_stopping_executions{{{SOURCE}}})", "stopping for long ({{source}})"),
            query(f"max by (source) (ssis_unclaimed_host_processes{{{SOURCE}}})", "unclaimed ({{source}})"),
        ),
        graph(
            "Longest wait",
            "How long the oldest pending execution of each source waits.",
            query(f"max by (source) (ssis_oldest_pending_seconds{{{SOURCE}}})", "{{source}}"),
            unit="s",
        ),
    )


def _ended() -> Json:
    ends = f"max by ({PACKAGE}, result) (increase(ssis_package_executions_total{{{SOURCE}"
    return row(
        "Ended",
        graph(
            "Ends by result",
            "How runs ended, per interval.",
            query(f"sum by (result) ({ends}}}[$__rate_interval])))", "{{result}}"),
            stacked=True,
        ),
        graph(
            "Failures by source",
            "Runs that failed or lost their process, per interval.",
            query(f'sum by (source) ({ends}, result=~"failed|ended_unexpectedly"}}[$__rate_interval])))', "{{source}}"),
        ),
        _packages(
            "Failures by package",
            "Packages with failures in the time shown, the most first.",
            f'max by ({PACKAGE}) (increase(ssis_package_executions_total{{{SOURCE}, result="failed"}}[$__range])) > 0',
            name="Failures",
            unit="none",
        ),
        _packages(
            "Longest without success",
            "Packages by the time since their last success.",
            f"time() - max by ({PACKAGE}) (ssis_package_last_success_timestamp_seconds{{{SOURCE}}})",
            name="Since",
            unit="dtdurations",
        ),
    )


def _packages(title: str, description: str, expr: str, *, name: str, unit: str) -> Json:
    """The packages for which `expr` is highest; each leads to its own page."""
    return table(
        title,
        description,
        [query(f"topk(50, {expr})", instant=True)],
        names={"source": "Source", "folder": "Folder", "project": "Project", "package_name": "Package", "Value": name},
        columns=[column(name, unit=unit), TO_PACKAGE_PAGE],
        sort=name,
        width=12,
    )


def _cost() -> Json:
    per_run = "source, package_name, instance_id"
    return row(
        "What it costs",
        graph(
            "CPU",
            "The ten busiest packages, in processors.",
            query(
                "topk(10, sum by (source, package_name) (max by ("
                f"{per_run}) (rate(ssis_package_execution_cpu_seconds_total{{{SOURCE}}}[$__rate_interval]))))",
                "{{package_name}} ({{source}})",
            ),
        ),
        graph(
            "Memory",
            "The ten largest packages: resident memory of their processes.",
            query(
                "topk(10, sum by (source, package_name) (max by ("
                f"{per_run}) (ssis_package_execution_resident_memory_bytes{{{SOURCE}}})))",
                "{{package_name}} ({{source}})",
            ),
            unit="bytes",
        ),
        graph(
            "Read",
            "Bytes per second that the processes of packages read, by source.",
            query(
                f"sum by (source) (max by ({per_run})"
                f" (rate(ssis_package_execution_read_bytes_total{{{SOURCE}}}[$__rate_interval])))",
                "{{source}}",
            ),
            unit="Bps",
        ),
        graph(
            "Written",
            "Bytes per second that the processes of packages wrote, by source.",
            query(
                f"sum by (source) (max by ({per_run})"
                f" (rate(ssis_package_execution_written_bytes_total{{{SOURCE}}}[$__rate_interval])))",
                "{{source}}",
            ),
            unit="Bps",
        ),
    )
