"""The dashboard of stops and of the exporter itself."""

from __future__ import annotations

from dashboards.panels import (
    BAD_ABOVE_0,
    BAD_BELOW_1,
    GREEN,
    RED,
    SOURCE,
    TARGET,
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
)


def make() -> Json:
    """The dashboard."""
    return dashboard(
        "ssis-exporter",
        "SSIS stops and exporter",
        "What was nominated for a stop and what became of it; how the exporters themselves are.",
        [*base_variables(), source_variable()],
        [_stop_state(), _stops(), _webhook(), _sources(), _process()],
    )


def _stop_state() -> Json:
    return row(
        "Stopping",
        stat(
            "Mode",
            "What becomes of a nomination that a rule allows: off, dry-run, armed; or held, while all stopping is on "
            "hold.",
            f"max by (instance, mode) (ssis_stop_mode{{{TARGET}}}) == 1",
            legend="{{mode}}",
            text_mode="name",
            width=6,
        ),
        stat(
            "Stopped",
            "Runs that were stopped in the time shown, with proof that they are gone.",
            f'sum(increase(ssis_stop_requests_total{{{SOURCE}, outcome="stopped"}}[$__range]))',
            width=3,
        ),
        stat(
            "Would have been",
            "Runs that a dry run would have stopped in the time shown.",
            f'sum(increase(ssis_stop_requests_total{{{SOURCE}, outcome="would_stop"}}[$__range]))',
            width=3,
        ),
        stat(
            "Without proof",
            "Stops that were requested in the time shown, and nothing proves that the run ended.",
            f'sum(increase(ssis_stop_requests_total{{{SOURCE}, outcome=~"unconfirmed|failed|row_stuck"}}[$__range]))',
            thresholds=BAD_ABOVE_0,
            width=3,
        ),
        stat("Pending", "Nominations that are being worked on.", f"sum(ssis_stop_pending{{{SOURCE}}})", width=3),
        stat(
            "Breaker",
            "Open when as many runs were stopped within its window as may be.",
            f"max(ssis_stop_breaker_open{{{TARGET}}})",
            unit="bool_yes_no",
            thresholds=BAD_ABOVE_0,
            width=3,
        ),
        stat(
            "Files usable",
            "Whether the ledger of stops and the history can be written.",
            f"min(ssis_storage_up{{{TARGET}}})",
            unit="bool_yes_no",
            thresholds=BAD_BELOW_1,
            width=3,
        ),
    )


def _stops() -> Json:
    return row(
        "What became of nominations",
        graph(
            "Outcomes",
            "Nominations that came to an outcome, per interval.",
            query(
                f"sum by (outcome) (increase(ssis_stop_requests_total{{{SOURCE}}}[$__rate_interval]))", "{{outcome}}"
            ),
            stacked=True,
        ),
        graph(
            "Refusals",
            "Nominations that were refused, by reason, per interval.",
            query(f"sum by (reason) (increase(ssis_stop_refusals_total{{{TARGET}}}[$__rate_interval]))", "{{reason}}"),
            stacked=True,
        ),
        table(
            "By source",
            "Outcomes of the time shown. Which runs they were: ssis-exporter audit.",
            [
                query(
                    f"sum by (source, outcome) (increase(ssis_stop_requests_total{{{SOURCE}}}[$__range]))", instant=True
                )
            ],
            names={"source": "Source", "outcome": "Outcome", "Value": "Runs"},
            sort="Runs",
            width=12,
        ),
        graph(
            "Time to stop",
            "From the request until a look showed that the run was gone.",
            query(
                "histogram_quantile(0.5, sum by (le) (rate(ssis_stop_duration_seconds_bucket"
                f"{{{TARGET}}}[$__rate_interval])))",
                "median",
            ),
            query(
                "histogram_quantile(0.95, sum by (le) (rate(ssis_stop_duration_seconds_bucket"
                f"{{{TARGET}}}[$__rate_interval])))",
                "0.95 quantile",
            ),
            unit="s",
            height=9,
        ),
    )


def _webhook() -> Json:
    return row(
        "Alertmanager's messages",
        graph(
            "Answers",
            "Requests to the webhook by status code, per interval; 401 and 403 were not let in.",
            query(f"sum by (code) (increase(ssis_webhook_requests_total{{{TARGET}}}[$__rate_interval]))", "{{code}}"),
            width=8,
        ),
        graph(
            "Alerts",
            "Alerts in accepted messages, by what they were, per interval.",
            query(
                f"sum by (disposition) (increase(ssis_webhook_alerts_total{{{TARGET}}}[$__rate_interval]))",
                "{{disposition}}",
            ),
            width=8,
        ),
        graph(
            "Cut off",
            "Alerts that Alertmanager left out of its messages; they never arrive.",
            query(f"sum(increase(ssis_webhook_truncated_alerts_total{{{TARGET}}}[$__rate_interval]))", "cut off"),
            width=8,
        ),
    )


def _sources() -> Json:
    return row(
        "Looking",
        graph(
            "Sources up",
            "Whether each source answered.",
            query(f"max by (source, instance) (ssis_up{{{SOURCE}}})", "{{source}} at {{instance}}"),
            unit="bool_yes_no",
            width=8,
        ),
        graph(
            "A look takes",
            "How long each source took for its answer, or was waited for in vain.",
            query(
                f"max by (source, instance) (ssis_scrape_duration_seconds{{{SOURCE}}})", "{{source}} at {{instance}}"
            ),
            unit="s",
            width=8,
        ),
        graph(
            "Looks that failed",
            "Scrapes that a source did not answer, by reason, per interval.",
            query(
                f"sum by (source, reason) (increase(ssis_scrape_errors_total{{{SOURCE}}}[$__rate_interval]))",
                "{{source}} {{reason}}",
            ),
            width=8,
        ),
        graph(
            "Left out",
            "Runs and packages without series of their own, because of the series budget.",
            query(f"max by (source) (ssis_executions_truncated{{{SOURCE}}})", "runs of {{source}}"),
            query(f"max by (source) (ssis_packages_truncated{{{SOURCE}}})", "packages of {{source}}"),
            width=8,
        ),
        graph(
            "Sees less than everything",
            "1 where the account sees only a part, or the source has not finished its first look.",
            query(f'max by (source, scope) (ssis_visibility{{{SOURCE}, scope!="all"}})', "{{source}} sees {{scope}}"),
            query(f"max by (source) (ssis_source_incomplete{{{SOURCE}}})", "{{source}} incomplete"),
            width=8,
        ),
        graph(
            "In doubt",
            "Runs that two sources may both show, and scrapes that were cut off at their deadline.",
            query(f"max by (source) (ssis_ambiguous_executions{{{SOURCE}}})", "ambiguous ({{source}})"),
            query(f"max by (source) (ssis_scrape_timed_out{{{SOURCE}}})", "timed out ({{source}})"),
            width=8,
        ),
    )


def _process() -> Json:
    return row(
        "The exporter's process",
        table(
            "Exporters",
            "Versions, and how many series the last scrape brought.",
            [
                query(
                    f"max by (instance, version, pythonversion, platform) (ssis_exporter_build_info{{{TARGET}}})",
                    instant=True,
                ),
                query(f"max by (instance) (up{{{TARGET}}})", instant=True),
                query(f"max by (instance) (ssis_exporter_config_last_reload_successful{{{TARGET}}})", instant=True),
                query(
                    "max by (instance)"
                    f" (ssis_exporter_config_last_reload_success_timestamp_seconds{{{TARGET}}}) * 1000",
                    instant=True,
                ),
                query(f"max by (instance) (scrape_samples_scraped{{{TARGET}}})", instant=True),
            ],
            names={
                "instance": "Instance",
                "version": "Version",
                "pythonversion": "Python",
                "platform": "Platform",
                "Value #B": "Up",
                "Value #C": "Last reload worked",
                "Value #D": "Configuration of",
                "Value #E": "Series",
            },
            hidden=["Value #A"],
            columns=[
                column("Up", unit="bool_yes_no"),
                column("Last reload worked", unit="bool_yes_no"),
                column("Configuration of", unit="dateTimeAsIso"),
            ],
            height=6,
        ),
        graph(
            "CPU",
            "In processors.",
            query(f"max by (instance) (rate(process_cpu_seconds_total{{{TARGET}}}[$__rate_interval]))", "{{instance}}"),
            width=6,
        ),
        graph(
            "Memory",
            "Resident memory.",
            query(f"max by (instance) (process_resident_memory_bytes{{{TARGET}}})", "{{instance}}"),
            unit="bytes",
            width=6,
        ),
        graph(
            "Scrape takes",
            "As Prometheus sees it, and the samples that came with it.",
            query(f"max by (instance) (scrape_duration_seconds{{{TARGET}}})", "{{instance}}"),
            unit="s",
            width=6,
        ),
        stat(
            "Certificate ends",
            "The first certificate to end among the listeners; ten years where no TLS is used.",
            f"min(ssis_exporter_certificate_expiry_timestamp_seconds{{{TARGET}}}) - time() or vector(10 * 365 * 86400)",
            unit="dtdurations",
            thresholds=steps((None, RED), (2 * 86400, YELLOW), (14 * 86400, GREEN)),
            width=6,
        ),
        collapsed=True,
    )
