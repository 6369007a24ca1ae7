"""The made-up estate, faster than in real life, under real Prometheus and Alertmanager: what it can cause, fires."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.asking import ask_all
from tests.scaled import expression, rules, span
from tests.stack import LOOPBACK, Alertmanager, Program, Prometheus, free_port, wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

ALERTS = Path(__file__).parent.parent / "alerts"
FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"

SPEED = 120 if FULL else 400
SCRAPE = 0.25

CAUSED = {
    "SSISPackageRunsTooLong",
    "SSISPackageSlow",
    "SSISPackageFailed",
    "SSISPackageEndedUnexpectedly",
    "SSISPackageOverdue",
    "SSISExecutionOrphaned",
    "SSISExecutionWaits",
    "SSISRunawayPackage",
    "SSISStopRefused",
    "SSISStopBreakerOpen",
}
"""
What the estate causes within ten hours. What it cannot: stops for real, since this is a dry run; troubles of an
exporter, of its files and of its webhook, which has none; sources that are down for longer than five minutes; a run
that sticks for the exporter's own five minutes, which no speed makes shorter.
"""

SOON = {"SSISPackageSlow", "SSISExecutionOrphaned", "SSISStopRefused"}
"""What has fired and resolved within a few hours, for the small size of this test."""

EXPORTER = """
sources:
  - {{name: made-up, kind: demo, speed: {speed}, packages: 60, seed: 1}}
stop:
  mode: dry-run
  listen_address: 127.0.0.1:{webhook}
  breaker: {{stops: 2, window: {window}}}
  rules:
    - {{match: {{project: Payroll}}, action: never}}
    - match: {{package_name: "*"}}
      action: stop
      min_overrun: 2
"""

PROMETHEUS = """
global: {{scrape_interval: {scrape}, scrape_timeout: {scrape}, evaluation_interval: {scrape}}}
rule_files: ["*.rules.yml"]
alerting:
  alertmanagers:
    - static_configs: [{{targets: ["{alertmanager}"]}}]
scrape_configs:
  - job_name: ssis
    static_configs: [{{targets: ["127.0.0.1:{metrics}"]}}]
"""

ALERTMANAGER = """
route:
  receiver: told
  group_by: ['...']
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
  routes:
    - matchers: [ssis_action="stop"]
      receiver: ssis-stop
      group_interval: 1s
      repeat_interval: 15s
      continue: true
    - receiver: told
receivers:
  - name: told
    webhook_configs:
      - {{url: "http://127.0.0.1:{told}/", send_resolved: true, max_alerts: 0}}
  - name: ssis-stop
    webhook_configs:
      - {{url: "http://127.0.0.1:{webhook}/webhook/alertmanager", send_resolved: true, max_alerts: 0}}
"""

# What runs far beyond its usual time is nominated; SSISRunawayPackage alone would nominate the few of twelve hours.
NOMINATION = """
groups:
  - name: nominate
    rules:
      - alert: SSISDemoRunaway
        expr: {expr}
        labels: {{ssis_action: stop, severity: warning}}
"""


@dataclass
class Told:
    """What people would have been told: a receiver of Alertmanager's messages."""

    status: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Each alert's name and the states it was told in."""

    def __enter__(self) -> Told:
        status = self.status

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    status[alert["labels"]["alertname"]].add(alert["status"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def resolved(self) -> set[str]:
        """Alerts that fired and ended."""
        return {name for name, states in self.status.items() if states >= {"firing", "resolved"}}


@dataclass
class Estate:
    """Everything that runs, and since when."""

    prometheus: Prometheus
    told: Told
    began: float

    @property
    def simulated(self) -> timedelta:
        """How long the estate has been running, by its own time."""
        return timedelta(seconds=(time.monotonic() - self.began) * SPEED)


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """Exporter, Prometheus, Alertmanager and somebody who is told."""
    folder = tmp_path_factory.mktemp("estate")
    with ExitStack() as stack:
        told = stack.enter_context(Told())
        metrics, webhook = free_port(), free_port()
        window = f"{max(round(600 / SPEED), 1)}s"
        (folder / "exporter.yml").write_text(EXPORTER.format(speed=SPEED, webhook=webhook, window=window))
        command = [sys.executable, "-m", "ssis_exporter", "serve", "--config.file=exporter.yml", "--storage.path=state"]
        command.append(f"--web.listen-address={LOOPBACK}:{metrics}")
        exporter = stack.enter_context(Program(folder, "exporter", command))
        exporter.wait_for(f"http://{LOOPBACK}:{metrics}/-/ready")
        receivers = ALERTMANAGER.format(told=told.server.server_port, webhook=webhook)
        alertmanager = stack.enter_context(Alertmanager(folder / "alertmanager", receivers))
        config = PROMETHEUS.format(
            scrape=f"{SCRAPE * 1000:.0f}ms", alertmanager=alertmanager.url.removeprefix("http://"), metrics=metrics
        )
        usual = (
            "ssis_package_execution_duration_seconds > on (job, instance, source, folder, project, package_name)"
            " group_left () 3 * ssis_package_typical_duration_seconds"
        )
        files = {path.name: rules(path, SPEED) for path in ALERTS.glob("*.rules.yml")}
        files["nominate.rules.yml"] = NOMINATION.format(expr=usual)
        began = time.monotonic()
        prometheus = stack.enter_context(Prometheus(folder / "prometheus", config, files))
        yield Estate(prometheus, told, began)


def test_spans_are_divided() -> None:
    """
    Ranges, offsets and numbers of seconds shrink; names, quantiles and plain numbers stay.
    """
    assert "500ms" == span("1m", 120)
    assert 'increase(a_total{b="5m_x"}[7500ms] offset 500ms) > 4 * 30.000000 + 0.95' == expression(
        'increase(a_total{b="5m_x"}[15m] offset 1m) > 4 * 3600 + 0.95', 120
    )


def test_what_the_estate_causes_fires_and_resolves(estate: Estate) -> None:
    """
    Each alert that the estate can cause has fired and resolved within ten simulated hours, as Alertmanager told it.
    """
    wanted = CAUSED if FULL else SOON
    limit = timedelta(hours=10)
    wait_until(
        lambda: wanted <= estate.told.resolved() or estate.simulated > limit,
        f"{wanted}",
        seconds=limit.total_seconds() / SPEED + 30,
    )

    assert set() == wanted - estate.told.resolved(), dict(estate.told.status)


def test_nothing_is_wrong_with_the_machinery(estate: Estate) -> None:
    """
    No alert about the exporter, its webhook or its files fires while all is well.
    """
    fired = {name for name, states in estate.told.status.items() if "firing" in states}
    # Prometheus takes some seconds to its first scrape, and here they stand for ten minutes.
    fired.discard("SSISExporterAbsent")

    assert not {name for name in fired if name.startswith(("SSISExporter", "SSISWebhook", "SSISStorage", "SSISSource"))}


def test_rehearsed_stops_are_on_the_dashboard(estate: Estate) -> None:
    """
    A dry run's stops are in the answers to the queries of the dashboard of stops.
    """
    would = (
        'sum(increase(ssis_stop_requests_total{job=~".+", instance=~".+", source=~".+", outcome="would_stop"}[10m]))'
    )
    wait_until(lambda: (found := estate.prometheus.query(would)) and float(found[0]["value"][1]) > 0, would)
    answers = ask_all(
        estate.prometheus,
        end=datetime.now(UTC),
        shown=timedelta(minutes=2),
        scrape=timedelta(seconds=1),
        package="none",
    )
    stops = {answer.where: answer for answer in answers if answer.where.startswith("ssis-exporter")}

    assert [] == [answer for answer in stops.values() if answer.error]
    for where in ("Mode A", "Would have been A", "By source A", "Outcomes A", "Alerts A", "Answers A"):
        assert stops[f"ssis-exporter: {where}"].series
