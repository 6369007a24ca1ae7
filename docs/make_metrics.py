"""Writes docs/metrics.md from the metrics as the code defines them: `python docs/make_metrics.py`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics import MetricWrapperBase

from ssis_exporter import historymetrics, selfmetrics, sourcemetrics
from ssis_exporter.families import Definition
from ssis_exporter.stopmetrics import StopMetrics
from ssis_exporter.storage import StorageMetrics
from ssis_exporter.webhook import WebhookMetrics

PAGE = Path(__file__).parent / "metrics.md"

HEAD = """# Metrics

Made from the code by `python docs/make_metrics.py`; the texts are those of `# HELP`. What the labels mean, and when a
metric is absent, is told in the [README](../README.md#metrics).
"""

Row = tuple[str, str, tuple[str, ...], str]
"""Name, type, labels, HELP."""


def of_definitions(definitions: Iterable[Definition]) -> list[Row]:
    """Metrics that are built anew on each scrape."""
    return [(each.name, each.type, each.labels, each.documentation) for each in definitions]


def of_registry(registry: CollectorRegistry) -> list[Row]:
    """Instruments, and families that others collect, as they are registered."""
    rows: list[Row] = []
    for each in registry._collector_to_names:  # noqa: SLF001 - the library has no other way to the instruments
        if isinstance(each, MetricWrapperBase):
            suffix = "_total" if each._type == "counter" else ""  # noqa: SLF001
            rows.append((each._name + suffix, each._type, tuple(each._labelnames), each._documentation))  # noqa: SLF001
        else:
            described: Iterable[Metric] = each.describe()  # type: ignore[attr-defined]
            rows += [(one.name, one.type, tuple(one._labelnames), one.documentation) for one in described]  # type: ignore[attr-defined]  # noqa: SLF001
    return rows


def sections() -> dict[str, list[Row]]:
    """Each part of the page and its metrics."""
    stops = CollectorRegistry()
    StopMetrics(stops).took(timedelta())
    StorageMetrics(stops)
    webhook = CollectorRegistry()
    WebhookMetrics(webhook)
    return {
        "Sources and what runs": of_definitions((*sourcemetrics.DEFINITIONS, sourcemetrics.SCRAPE_ERRORS)),
        "What ended, and what is usual": of_definitions(historymetrics.DEFINITIONS),
        "Stops, and the files they are kept in": of_registry(stops),
        "Alertmanager's messages": of_registry(webhook),
        "The exporter itself": of_definitions(selfmetrics.DEFINITIONS),
    }


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, rows in sections().items():
        lines = [f"\n## {title}\n", "| metric | type | labels | what |", "| --- | --- | --- | --- |"]
        for name, kind, labels, documentation in rows:
            shown = ", ".join(f"`{label}`" for label in labels)
            lines.append(f"| `{name}` | {kind} | {shown} | {documentation.rstrip('.').replace('|', chr(92) + '|')} |")
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
