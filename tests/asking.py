"""Every query of the dashboards, asked of a real Prometheus as Grafana would ask it."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.promql import expanded
from tests.real import need_program
from tests.stack import Prometheus, fetch

DASHBOARDS = sorted((Path(__file__).parent.parent / "dashboards").glob("ssis-*.json"))
POINTS = 700
"""How many points wide a panel is."""

EVERYTHING = {"job": ".+", "instance": ".+", "source": ".+", "folder": ".*"}
SCRAPED_ONLY = "global: {scrape_interval: 1m}\n"


@dataclass(frozen=True)
class Answer:
    """What became of one query."""

    where: str
    """Dashboard, panel, and which of its queries."""

    seconds: float
    series: int
    error: str = ""


def load(folder: Path, samples: Path) -> Prometheus:
    """A Prometheus that holds the samples of an OpenMetrics file, and scrapes nothing."""
    promtool = need_program("promtool", "prometheus")
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(samples), str(folder / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert 0 == done.returncode, done.stdout + done.stderr
    return Prometheus(folder, SCRAPED_ONLY)


def ask(prometheus: Prometheus, path: str, **parameters: object) -> Any:
    """The data of an answer of Prometheus's API; raises `ValueError` with its words for an error."""
    data = urllib.parse.urlencode({name: str(value) for name, value in parameters.items()}).encode()
    try:
        answer = json.loads(fetch(f"{prometheus.url}/api/v1/{path}", data=data, seconds=120))
    except urllib.error.HTTPError as exc:
        raise ValueError(exc.read().decode()) from exc
    return answer["data"]


def values_of(prometheus: Prometheus, definition: str, values: Mapping[str, str], *, at: float) -> list[str]:
    """What a variable `label_values(SELECTOR, LABEL)` offers."""
    selector, _, label = definition.removeprefix("label_values(").removesuffix(")").rpartition(", ")
    url = f"{prometheus.url}/api/v1/label/{label}/values?" + urllib.parse.urlencode(
        {"match[]": expanded(selector, values), "start": at - 6 * 3600, "end": at}
    )
    found: list[str] = json.loads(fetch(url))["data"]
    return found


def ask_all(
    prometheus: Prometheus, *, end: datetime, shown: timedelta, scrape: timedelta, package: str
) -> Iterator[Answer]:
    """All queries of all dashboards over the time shown; variables are All, the package is the one given."""
    step = max(shown / POINTS, scrape)
    grafana = {
        "__range": f"{shown.total_seconds():.0f}s",
        "__interval": f"{step.total_seconds():.0f}s",
        # https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
        "__rate_interval": f"{max(step + scrape, 4 * scrape).total_seconds():.0f}s",
    }
    values = {**EVERYTHING, **grafana, "package": package}
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            for one in panel["panels"] if panel["type"] == "row" else [panel]:
                for target in one["targets"]:
                    where = f"{path.stem}: {one['title']} {target['refId']}"
                    asked: dict[str, object] = {"query": expanded(target["expr"], values)}
                    if target["instant"]:
                        yield _answer(prometheus, where, "query", {**asked, "time": end.timestamp()})
                    else:
                        span = {"start": (end - shown).timestamp(), "end": end.timestamp()}
                        asked = {**asked, **span, "step": step.total_seconds()}
                        yield _answer(prometheus, where, "query_range", asked)


def _answer(prometheus: Prometheus, where: str, path: str, parameters: Mapping[str, object]) -> Answer:
    began = time.perf_counter()
    try:
        found = ask(prometheus, path, **parameters)["result"]
    except ValueError as exc:
        return Answer(where, time.perf_counter() - began, 0, str(exc))
    return Answer(where, time.perf_counter() - began, len(found))
