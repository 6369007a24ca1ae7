"""Names as people and programs make them: from the catalog's rows to a real Prometheus, and back to the one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ssis_exporter.ledger import read_events
from ssis_exporter.model import StopOutcome
from tests import installed
from tests.catalogs import WINDOWS_ACCOUNT, Rig, windows_rig
from tests.stack import AT_ONCE, LOOPBACK, Alertmanager, Program, Prometheus, fetch, filled, free_port, wait_until

pytestmark = pytest.mark.real

TOKEN = "0ddba11c0ffee5eed0fd1e70ad57001b"

NAMES = {
    1: "Load Customers",
    2: "quo\"te 'single' [bracket] ]]; DROP TABLE x --",
    3: "line\nfeed\n\nand\n",
    4: 'back\\slash \\n \\\\ {brace="1"} %s $1 {{ . }}',
    5: "\N{GRINNING FACE} \U0001f468\u200d\U0001f469\u200d\U0001f467 \N{SAUROPOD}",
    6: "x" * 128,
    7: "\N{GREEK SMALL LETTER OMEGA}" * 128,
    8: "\U0001f600" * 64,
    9: "\u200f\u05d8\u05e2\u05d9\u05e0\u05ea \u05dc\u05e7\u05d5\u05d7\u05d5\u05ea\u200e (1)",
    10: "\u061c\u062a\u062d\u0645\u064a\u0644 \u0627\u0644\u0639\u0645\u0644\u0627\u0621 2\u200f",
    11: " leading and trailing ",
    12: "no\u00a0break \u0344 e\u0301 \ufeff",
    13: '"\n\\',
}
"""By execution id. Each is package, folder, project, environment and account of one run; nvarchar(128) holds them."""

NULLABLE = (
    *("folder_name", "project_name", "executed_as_name", "caller_name", "environment_folder_name", "environment_name"),
    *("process_id", "machine_name", "created_time"),
)
ALL_NULL = 50

CONFIG = """
sources:
  - name: sql01
    kind: catalog
    server: 127.0.0.1:{port}
    encrypt: false
    auth: {user: '{user}', password_file: windows-password}
stop:
  mode: armed
  listen_address: 127.0.0.1:{webhook}
  token_files: [stop.token]
  rules:
    - match: {package_name: "Runaway*"}
      action: stop
"""

PROMETHEUS = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
alerting:
  alertmanagers:
    - static_configs: [{targets: ["{alertmanager}"]}]
scrape_configs:
  - job_name: openmetrics
    static_configs: [{targets: ["127.0.0.1:{metrics}"]}]
  - job_name: text
    static_configs: [{targets: ["127.0.0.1:{text}"]}]
"""

DURATION = "ssis_package_execution_duration_seconds"
INFO = "ssis_package_execution_info"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    with windows_rig(tmp_path) as one:
        yield one


@contextmanager
def as_plain_text(metrics: int) -> Iterator[int]:
    """A port at which the exporter's page is the text format. Prometheus itself asks for OpenMetrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = fetch(f"http://{LOOPBACK}:{metrics}{self.path}", headers={"Accept": "text/plain"})
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class World:
    """`ssis-exporter serve` as installed, before a catalog, with a real Prometheus and a real Alertmanager."""

    def __init__(self, stack: ExitStack, folder: Path, catalog: int, rules: str = "") -> None:
        self.folder = folder
        webhook, self.metrics = free_port(), free_port()
        (folder / "stop.token").write_text(TOKEN)
        (folder / "stop.token").chmod(0o600)
        config = filled(CONFIG, port=catalog, user=WINDOWS_ACCOUNT, webhook=webhook)
        (folder / "ssis_exporter.yml").write_text(config)
        command = [
            *(str(installed.COMMAND), "serve", "--config.file", "ssis_exporter.yml", "--storage.path", "state"),
            *("--log.level", "debug", "--web.listen-address", f"{LOOPBACK}:{self.metrics}"),
        ]
        self.exporter = stack.enter_context(Program(folder, "exporter", command))
        self.exporter.wait_for(f"http://{LOOPBACK}:{self.metrics}/-/ready")
        alerts = filled(AT_ONCE, webhook=webhook, token_file=folder / "stop.token")
        self.alertmanager = stack.enter_context(Alertmanager(folder / "alertmanager", alerts))
        scrape = filled(
            PROMETHEUS,
            metrics=self.metrics,
            text=stack.enter_context(as_plain_text(self.metrics)),
            alertmanager=self.alertmanager.url.removeprefix("http://"),
        )
        self.prometheus = stack.enter_context(Prometheus(folder / "prometheus", scrape, {"rules.yml": rules}))

    def series(self, metric: str, job: str) -> dict[int, dict[str, str]]:
        """The labels of each run's series, by execution id."""
        found = self.prometheus.query(f'{metric}{{job="{job}"}}')
        return {int(one["metric"]["instance_id"]): one["metric"] for one in found}

    def json(self, path: str) -> Any:
        """What the exporter answers."""
        return json.loads(fetch(f"http://{LOOPBACK}:{self.metrics}{path}"))


def add_all(made: Rig) -> None:
    for number, name in NAMES.items():
        made.estate.add(
            number,
            package_name=f"{name}.dtsx",
            folder_name=name,
            project_name=name,
            environment_folder_name=name,
            environment_name=name,
            executed_as_name=name,
            caller_name=f"{name[1:]}c",
        )
    made.estate.add(ALL_NULL, **dict.fromkeys(NULLABLE))


def test_every_name_arrives_intact_in_prometheus(made: Rig, tmp_path: Path) -> None:
    """
    Asked by its API, Prometheus shows each name as the catalog has it, read from either format; NULL is no label.
    """
    add_all(made)
    with ExitStack() as stack:
        world = World(stack, tmp_path, made.server.port)
        wait_until(lambda: ALL_NULL in world.series(INFO, "text"), "a scrape of the text format")
        wait_until(lambda: ALL_NULL in world.series(INFO, "openmetrics"), "a scrape of OpenMetrics")
        shown = {job: (world.series(DURATION, job), world.series(INFO, job)) for job in ("openmetrics", "text")}
        executions = world.json("/api/v1/executions")["executions"]
        page = fetch(f"http://{LOOPBACK}:{world.metrics}/").decode()
        listed = installed.run("list", "--url", f"http://{LOOPBACK}:{world.metrics}")
        log = world.exporter.output()

    for durations, infos in shown.values():
        assert {*NAMES, ALL_NULL} == durations.keys() == infos.keys()
        for number, name in NAMES.items():
            labels, info = durations[number], infos[number]
            assert [name] * 4 == [labels[key] for key in ("package_name", "folder", "project", "user_name")]
            assert [name, f"{name}\\{name}", f"{name[1:]}c"] == [
                info[key] for key in ("package_name", "environment", "caller")
            ]
        assert {"package_name": "Load"} == named(durations[ALL_NULL])
        assert {"package_name": "Load", "host": "ISServerExec"} == named(infos[ALL_NULL])
    assert {**NAMES, ALL_NULL: "Load"} == {int(run["instance_id"]): run["package_name"] for run in executions}
    # Where a name must stay one line: a row each in the list, and no line of the log begins within one.
    assert 1 + len(NAMES) + 1 == len(listed.out.splitlines())
    assert "line\ufffdfeed\ufffd\ufffdand\ufffd" in listed.out
    assert "line\ufffdfeed\ufffd\ufffdand\ufffd" in page
    assert all(line.startswith("ts=") for line in log.splitlines())


def named(labels: dict[str, str]) -> dict[str, str]:
    """The labels that the catalog's columns fill."""
    return {
        key: text for key, text in labels.items() if key not in ("__name__", "job", "instance", "source", "instance_id")
    }


RUNAWAY = 'Runaway\n"\u05e9\u05dc\u05d5\u05dd"\\ \N{GRINNING FACE}'

# It picks the run by its name, as a person would write it.
RULES = r"""
groups:
  - name: stop
    rules:
      - alert: Runaway
        expr: >-
          ssis_package_execution_duration_seconds{job="openmetrics",
          package_name="Runaway\n\"\u05e9\u05dc\u05d5\u05dd\"\\ \U0001f600"} > 60
        labels: {ssis_action: stop}
"""


@pytest.mark.timeout(180)
def test_an_alert_about_such_a_name_stops_that_run_alone(made: Rig, tmp_path: Path) -> None:
    """
    From Prometheus over Alertmanager: the run whose name has the line feed is stopped, and none of those whose names
    only look like it; its end is counted under the same name.
    """
    lookalikes = [RUNAWAY.replace("\n", other) for other in ("\ufffd", "\r", "\r\n", " ", "", "\\n")]
    old = datetime.now(UTC) - timedelta(hours=1)
    made.estate.add(1, package_name=f"{RUNAWAY}.dtsx", created_time=old, start_time=old, folder_name="a\nb")
    for number, name in enumerate(lookalikes, 2):
        made.estate.add(number, package_name=f"{name}.dtsx", created_time=old, start_time=old, folder_name="a\nb")
    with ExitStack() as stack:
        world = World(stack, tmp_path, made.server.port, RULES)

        def outcomes() -> dict[str, StopOutcome]:
            events = read_events(tmp_path / "state")
            return {event.key.instance_id: event.outcome for event in events if event.outcome is not None}

        wait_until(outcomes, "an outcome")
        counted = 'ssis_package_executions_total{job="openmetrics",result="stopped_by_exporter"}'
        [ended] = wait_until(lambda: world.prometheus.query(counted), "its end is counted")
        # And what no alert of ours would say: a run that looks like it under its name, and a key of two lines.
        forged = {"alertname": "Forged", "ssis_action": "stop", "source": "sql01", "package_name": RUNAWAY}
        for key in ("3\n", "2"):
            world.alertmanager.send({"labels": {**forged, "instance_id": key}, "startsAt": now()})
        wait_until(lambda: len(outcomes()) == 2, "the forged ones are decided")
        ignored = 'ssis_webhook_alerts_total{job="openmetrics",disposition="incomplete"} > 0'
        wait_until(lambda: world.prometheus.query(ignored), "the key of two lines is ignored")
        still = [made.estate.get(number)["status"] for number in range(2, 2 + len(lookalikes))]  # type: ignore[index]
        audit = installed.run("audit", "--storage.path", tmp_path / "state")

    assert {"1": StopOutcome.STOPPED, "2": StopOutcome.REFUSED} == outcomes()
    assert [1] == made.server.stop_operation.calls
    assert [2] * len(lookalikes) == still
    assert (RUNAWAY, "a\nb") == (ended["metric"]["package_name"], ended["metric"]["folder"])
    assert all(line.startswith(("TIME", "20")) for line in audit.out.splitlines())


def now() -> str:
    return datetime.now(UTC).isoformat()
