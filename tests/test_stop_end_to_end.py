"""Real Prometheus, real Alertmanager, real processes: the one run that an alert nominates ends, the others run on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.ledger import read_events
from ssis_exporter.ledgerrows import Event, EventKind
from ssis_exporter.model import StopOutcome
from tests.estate import Child, Estate
from tests.stack import AT_ONCE, LOOPBACK, Alertmanager, Program, Prometheus, fetch, filled, free_port, wait_until

pytestmark = pytest.mark.real

TOKEN = "c0ffee5eed0fd1e70ad57001bad1dea5"
RUNS = 50

EXPORTER_CONFIG = """
sources:
  - {name: etl01, kind: dtexec}
stop:
  mode: {mode}
  listen_address: 127.0.0.1:{webhook}
  token_files: [stop.token]
  rules:
    - match: {package_name: "{package}"}
      action: stop
"""

PROMETHEUS_CONFIG = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
alerting:
  alertmanagers:
    - static_configs: [{targets: {alertmanagers}}]
scrape_configs:
  - job_name: ssis
    static_configs: [{targets: ["127.0.0.1:{metrics}"]}]
"""

RULES = """
groups:
  - name: stop
    rules:
      - alert: SSISRunawayPackage
        expr: ssis_package_execution_duration_seconds{package_name="{package}"} > 0.1
        labels: {ssis_action: stop, severity: critical}
        annotations: {summary: "{{ $labels.package_name }} runs too long"}
"""


class Stack:
    """Fifty runs, one of them to be stopped, and the exporter that sees them."""

    def __init__(self, folder: Path, stack: ExitStack, mode: str = "armed") -> None:
        self.folder = folder
        self._stack = stack
        # No other program on this machine has a package of this name, so no other run can be meant.
        self.package = f"Runaway_{uuid.uuid4().hex[:12]}"
        estate = stack.enter_context(Estate(folder / "estate"))
        packages = [f"{self.package}_{number}" for number in range(RUNS - 1)]
        self.target = estate.start("dtexec", "/FILE", f"/etl/{self.package}.dtsx", "/De", "hunter2-in-the-command-line")
        self.others = [estate.start("dtexec", "/FILE", f"/etl/{name}.dtsx") for name in packages]
        self.metrics_port, self.webhook_port = free_port(), free_port()
        self.token_file = folder / "stop.token"
        self.token_file.write_text(TOKEN + "\n")
        self.token_file.chmod(0o600)
        self.mode = mode
        self.exporter = self.start_exporter()

    def start_exporter(self, name: str = "exporter") -> Program:
        """`serve` as installed."""
        config = filled(EXPORTER_CONFIG, mode=self.mode, webhook=self.webhook_port, package=self.package)
        (self.folder / "ssis_exporter.yml").write_text(config)
        command = [
            *(sys.executable, "-m", "ssis_exporter", "serve"),
            *("--config.file", "ssis_exporter.yml", "--storage.path", "state", "--log.level", "debug"),
            *("--web.listen-address", f"{LOOPBACK}:{self.metrics_port}"),
        ]
        exporter = self._stack.enter_context(Program(self.folder, name, command))
        exporter.wait_for(f"http://{LOOPBACK}:{self.metrics_port}/-/ready")
        return exporter

    def start_alertmanager(self, name: str = "alertmanager", **cluster: Any) -> Alertmanager:
        """A real one that sends to the exporter."""
        config = filled(AT_ONCE, webhook=self.webhook_port, token_file=self.token_file)
        return self._stack.enter_context(Alertmanager(self.folder / name, config, **cluster))

    def start_prometheus(self, *alertmanagers: Alertmanager) -> Prometheus:
        """A real one that scrapes the exporter and has a rule for the one run."""
        targets = json.dumps([one.url.removeprefix("http://") for one in alertmanagers])
        config = filled(PROMETHEUS_CONFIG, metrics=self.metrics_port, alertmanagers=targets)
        rules = {"rules.yml": filled(RULES, package=self.package)}
        return self._stack.enter_context(Prometheus(self.folder / "prometheus", config, rules))

    def command(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Another command of the exporter, on the same storage."""
        return subprocess.run(
            [sys.executable, "-m", "ssis_exporter", *arguments, "--storage.path", "state"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def events(self) -> list[Event]:
        """The ledger."""
        return list(read_events(self.folder / "state"))

    def outcomes(self) -> list[StopOutcome]:
        """The outcomes in the ledger."""
        return [event.outcome for event in self.events() if event.outcome is not None]

    def metric(self, line: str) -> float:
        """One sample of the exporter's own page, by all that stands before its value."""
        page = fetch(f"http://{LOOPBACK}:{self.metrics_port}/metrics").decode()
        found = re.search(rf"^{re.escape(line)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found is not None else 0.0

    def secrets_nowhere(self) -> None:
        """The credential is in no log, no ledger, no page."""
        written = {path: path.read_bytes() for path in (self.folder / "state").rglob("*") if path.is_file()}
        written |= {path: path.read_bytes() for path in self.folder.glob("*.log")}
        pages = ("/", "/metrics", "/api/v1/executions")
        written |= {Path(page): fetch(f"http://{LOOPBACK}:{self.metrics_port}{page}") for page in pages}
        audit = self.command("audit", "--json")
        written |= {Path("audit"): (audit.stdout + audit.stderr).encode()}
        for secret in (TOKEN, "hunter2"):
            assert [] == [str(path) for path, content in written.items() if secret.encode() in content]
        key = (self.folder / "state" / "control" / "key").read_bytes().strip()
        assert [self.folder / "state" / "control" / "key"] == [path for path, text in written.items() if key in text]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as everything:
        yield everything


def ended(child: Child) -> int | None:
    """The exit status of a process of the estate that has ended."""
    return child.process.poll()


def at(events: list[Event], kind: EventKind) -> datetime:
    """When something of this kind first happened."""
    return next(event.at for event in events if event.kind is kind)


def test_an_alert_ends_the_one_run_it_names(tmp_path: Path, stack: ExitStack) -> None:
    """
    A rule fires for one of fifty runs: that one ends by SIGTERM, within two seconds of the message; 49 run on.
    """
    estate = Stack(tmp_path, stack)
    alertmanager = estate.start_alertmanager()
    estate.start_prometheus(alertmanager)

    wait_until(lambda: ended(estate.target) is not None, "the end of the run that was nominated")
    wait_until(lambda: StopOutcome.STOPPED in estate.outcomes(), "its outcome in the ledger")
    events = estate.events()
    took = at(events, EventKind.REQUESTED) - at(events, EventKind.NOMINATED)
    proof = next(event.at for event in events if event.outcome is not None) - at(events, EventKind.NOMINATED)
    print(f"from the message to the signal: {took.total_seconds():.3f} s; to the proof: {proof.total_seconds():.3f} s")

    assert -15 == ended(estate.target)
    assert [] == [child for child in estate.others if ended(child) is not None]
    assert [StopOutcome.STOPPED] == estate.outcomes()
    assert took <= timedelta(seconds=2)
    assert {estate.package} == {
        event.details["facts"]["package_name"] for event in events if event.kind is EventKind.SEEN
    }
    stopped = 'ssis_stop_requests_total{source="etl01",outcome="stopped"}'
    wait_until(lambda: estate.metric(stopped) == 1, "the outcome on the page")
    estate.secrets_nowhere()


def test_two_alertmanagers_of_a_cluster_cause_one_stop(tmp_path: Path, stack: ExitStack) -> None:
    """
    Both members send, because neither waits for the other: the run is asked to stop once.
    """
    estate = Stack(tmp_path, stack)
    first = estate.start_alertmanager("am-a", cluster=True, peer_timeout="0s")
    second = estate.start_alertmanager("am-b", cluster=True, peer=first.cluster_address, peer_timeout="0s")
    wait_until(lambda: first.peers() == second.peers() == 2, "a cluster of two")
    estate.start_prometheus(first, second)

    wait_until(lambda: ended(estate.target) is not None, "the end of the run that was nominated")
    both = 'ssis_webhook_alerts_total{disposition="nominated"}'
    wait_until(lambda: estate.metric(both) >= 2, "both messages")
    wait_until(lambda: estate.outcomes(), "its outcome in the ledger")

    assert [StopOutcome.STOPPED] == estate.outcomes()
    assert 1 == len([event for event in estate.events() if event.kind is EventKind.REQUESTED])
    assert [] == [child for child in estate.others if ended(child) is not None]


def test_a_dry_run_ends_nothing(tmp_path: Path, stack: ExitStack) -> None:
    """
    In a dry run the same alert is recorded as one that would have stopped the run.
    """
    estate = Stack(tmp_path, stack, mode="dry-run")
    estate.start_prometheus(estate.start_alertmanager())
    wait_until(lambda: estate.outcomes(), "an outcome in the ledger")

    assert {StopOutcome.WOULD_STOP} == set(estate.outcomes())
    assert [] == [child for child in (estate.target, *estate.others) if ended(child) is not None]
    assert 1 == estate.metric('ssis_stop_mode{mode="dry-run"}')


def test_hold_and_resume_of_a_running_service(tmp_path: Path, stack: ExitStack) -> None:
    """
    What is on hold is not stopped, although the alert comes; after `resume` its next message stops it.
    """
    estate = Stack(tmp_path, stack)
    held = estate.command("hold", "--reason", "month end", check=True)
    alertmanager = estate.start_alertmanager()
    prometheus = estate.start_prometheus(alertmanager)
    wait_until(lambda: estate.outcomes(), "an outcome in the ledger")
    refused = estate.events()[-1]
    one = prometheus.query(f'ssis_package_execution_duration_seconds{{package_name="{estate.package}"}}')[0]["metric"]
    asked = estate.command("stop", one["instance_id"], "--source", "etl01", "--yes")

    assert "on hold: nothing is stopped until `ssis-exporter resume`" in held.stdout
    assert (StopOutcome.REFUSED, "held") == (refused.outcome, str(refused.reason))
    assert "refused (held)" in asked.stdout
    assert 1 == asked.returncode
    assert 1 == estate.metric('ssis_stop_mode{mode="held"}')
    assert None is ended(estate.target)

    resumed = estate.command("resume", check=True)
    stopped = estate.command("stop", one["instance_id"], "--source", "etl01", "--yes")

    assert "month end" in resumed.stdout
    assert 0 == stopped.returncode, stopped.stdout + stopped.stderr
    assert "stopped" in stopped.stdout
    assert -15 == estate.target.wait()
    assert [] == [child for child in estate.others if ended(child) is not None]


def test_a_message_that_came_before_a_crash_is_worked_on_after_it(tmp_path: Path, stack: ExitStack) -> None:
    """
    The commands work without a service, too: a hold outlives a SIGKILL, and `stop` takes the storage lock itself.
    """
    estate = Stack(tmp_path, stack)
    estate.exporter.process.kill()
    estate.exporter.process.wait()
    shown = subprocess.run(
        [sys.executable, "-m", "ssis_exporter", "list", "--json", "--config.file", "ssis_exporter.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    runs = {run["package_name"]: run["instance_id"] for run in json.loads(shown.stdout)["executions"]}
    config = ("--config.file", "ssis_exporter.yml", "--source", "etl01", "--yes")
    estate.command("hold", check=True)
    held = estate.command("stop", runs[estate.package], *config)
    estate.command("resume", check=True)
    other = estate.command("stop", runs[f"{estate.package}_7"], *config)
    stopped = estate.command("stop", runs[estate.package], *config)

    assert "refused (held)" in held.stdout
    assert (1, "refused (no_rule)") == (other.returncode, re.search(r"refused \(\w+\)", other.stdout)[0])  # type: ignore[index]
    assert 0 == stopped.returncode, stopped.stdout + stopped.stderr
    assert -15 == estate.target.wait()
    assert [] == [child for child in estate.others if ended(child) is not None]
    assert [StopOutcome.STOPPED] == estate.outcomes()


def test_a_second_service_on_the_same_storage_refuses_to_start(tmp_path: Path, stack: ExitStack) -> None:
    """
    One writer: the second one says so and ends with its own exit status.
    """
    estate = Stack(tmp_path, stack)
    second = estate.command("serve", "--config.file", "ssis_exporter.yml", "--web.listen-address", f"{LOOPBACK}:0")

    assert 4 == second.returncode
    assert f"another ssis-exporter (process {estate.exporter.process.pid}) works with" in second.stderr
    assert "" == second.stdout
