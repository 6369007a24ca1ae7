"""
Keeps what a real Alertmanager sends for alerts that carry our labels: `python -m tests.capture_alertmanager`.

Run it again to see what a newer Alertmanager sends. The files are byte for byte what came; only the times and the
alerts' starts differ between two runs. Host names are invented, nothing of the machine gets into a body.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.stack import LOOPBACK, Alertmanager, wait_until

KEPT_IN = Path(__file__).parent / "data" / "alertmanager"

CONFIG = """
route:
  receiver: ssis-stop
  group_by: [alertname, job]
  group_wait: 1s
  group_interval: 2s
  repeat_interval: 6s
  routes:
    - matchers: [folder="Sales"]
      receiver: ssis-stop-each
      group_by: ['...']
    - matchers: [folder="Archive"]
      receiver: ssis-stop-two
    - matchers: [severity="page"]
      receiver: nobody
      routes:
        - matchers: [folder="Logistics"]
          receiver: ssis-stop
          group_by: [alertname]
receivers:
  - name: nobody
  - name: ssis-stop
    webhook_configs: [{url: "{url}/ssis-stop", send_resolved: true, max_alerts: 0}]
  - name: ssis-stop-each
    webhook_configs: [{url: "{url}/ssis-stop-each", send_resolved: true, max_alerts: 0}]
  - name: ssis-stop-two
    webhook_configs: [{url: "{url}/ssis-stop-two", send_resolved: true, max_alerts: 2}]
"""

PEER_CONFIG = """
route: {receiver: ssis-stop, group_by: [alertname], group_wait: 1s, group_interval: 10s, repeat_interval: 1h}
receivers:
  - name: ssis-stop
    webhook_configs: [{url: "{url}/slow", send_resolved: true}]
"""

Body = dict[str, Any]


class Recorder:
    """A listener that keeps every body; the path `/slow` answers only when the test lets it."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self.let_go = threading.Event()
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                recorder.bodies.append((self.path, body))
                if self.path == "/slow":
                    recorder.let_go.wait(60)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
                pass

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, path: str, wanted: Callable[[Body], bool], *, after: int = 0) -> tuple[int, bytes]:
        """The first body sent to a path, after the one of that number, that is wanted; with its number."""

        def found() -> tuple[int, bytes] | None:
            for number, (to, body) in enumerate(list(self.bodies)):
                if number >= after and to == path and wanted(json.loads(body)):
                    return number + 1, body
            return None

        answer: tuple[int, bytes] = wait_until(found, f"a body to {path}")
        return answer

    def close(self) -> None:
        """Ends the listener."""
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()


def alert(instance_id: str, package_name: str, folder: str = "Finance", **changes: str) -> Body:
    """An alert as Prometheus makes it of our rule."""
    labels = {
        "alertname": "SSISRunawayPackage",
        "folder": folder,
        "instance": "etl01.example.com:10058",
        "instance_id": instance_id,
        "job": "ssis",
        "package_id": "{5D1F3A5E-7C56-4E0B-9D1B-2B1C0A9F3E77}",
        "package_name": package_name,
        "project": "DW",
        "severity": "critical",
        "source": "sqlprod01",
        "ssis_action": "stop",
        "user_name": "CORP\\svc_etl",
    }
    return {
        "labels": labels | {key: value for key, value in changes.items() if key in labels},
        "annotations": {
            "summary": f"{package_name} ({instance_id}) has run for 3h 12m",
            "description": 'Usual run time is 41m. "quoted", back\\slash, new\nline, é中😀',
            "runbook_url": "https://runbooks.example.com/ssis/SSISRunawayPackage",
        },
        "generatorURL": "http://prometheus.example.com/graph?g0.expr=ssis_package_execution_duration_seconds+%3E+10800",
    } | {key: value for key, value in changes.items() if key not in labels}


def ended(started: Body) -> Body:
    """The same alert, resolved a second ago."""
    return started | {"endsAt": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}


def states(body: Body) -> dict[str, str]:
    """Each run of a body and the status of its alert."""
    return {one["labels"]["instance_id"]: one["status"] for one in body["alerts"]}


def is_exactly(**expected: str) -> Callable[[Body], bool]:
    """Whether a body shows exactly these runs (`r` before the number) in these states."""
    wanted = {key.removeprefix("r"): value for key, value in expected.items()}
    return lambda body: states(body) == wanted


def one_group(recorder: Recorder, manager: Alertmanager) -> dict[str, bytes]:
    """The life of one group: firing, joined, repeated, partly resolved, resolved, fired again."""
    sales, customers = alert("41287", "Load_Fact_Sales"), alert("41291", "Load Dim_Customer")
    kept: dict[str, bytes] = {}
    manager.send(sales)
    at, kept["firing"] = recorder.wait_for("/ssis-stop", is_exactly(r41287="firing"))
    manager.send(customers)
    both = is_exactly(r41287="firing", r41291="firing")
    at, kept["grouped"] = recorder.wait_for("/ssis-stop", both, after=at)
    at, kept["repeat"] = recorder.wait_for("/ssis-stop", both, after=at)
    manager.send(ended(sales))
    mixed = is_exactly(r41287="resolved", r41291="firing")
    at, kept["mixed"] = recorder.wait_for("/ssis-stop", mixed, after=at)
    manager.send(ended(customers))
    at, kept["resolved"] = recorder.wait_for("/ssis-stop", is_exactly(r41291="resolved"), after=at)
    manager.send(customers)
    at, kept["refired"] = recorder.wait_for("/ssis-stop", is_exactly(r41291="firing"), after=at)
    return kept


def other_routes(recorder: Recorder, manager: Alertmanager) -> dict[str, bytes]:
    """Bodies that look different because of the route they took."""
    kept: dict[str, bytes] = {}
    manager.send(alert("50013", "Load_Orders", "Sales"))
    kept["group-by-all-labels"] = recorder.wait_for("/ssis-stop-each", is_exactly(r50013="firing"))[1]
    manager.send(alert("52001", "Load_Trucks", "Logistics", severity="page"))
    kept["subroute"] = recorder.wait_for("/ssis-stop", is_exactly(r52001="firing"))[1]
    many = [alert(str(60000 + number), f"Archive_{number}", "Archive") for number in range(5)]
    manager.send(*many)
    at, kept["truncated"] = recorder.wait_for("/ssis-stop-two", lambda body: body["truncatedAlerts"] == 3)
    manager.send(ended(many[0]))
    takes_a_place = is_exactly(r60000="resolved", r60001="firing")
    kept["truncated-resolved-takes-a-place"] = recorder.wait_for("/ssis-stop-two", takes_a_place, after=at)[1]
    return kept


def two_peers(recorder: Recorder, directory: Path) -> dict[str, bytes]:
    """What both peers of a cluster send when the listener answers later than the peer time-out."""
    with ExitStack() as stack:
        config = PEER_CONFIG.replace("{url}", recorder.url)
        a = stack.enter_context(
            Alertmanager(
                directory / "a", config, external_url="http://am-a.example.com", cluster=True, peer_timeout="1s"
            )
        )
        b = stack.enter_context(
            Alertmanager(
                directory / "b",
                config,
                external_url="http://am-b.example.com",
                cluster=True,
                peer=a.cluster_address,
                peer_timeout="1s",
            )
        )
        wait_until(lambda: a.peers() == b.peers() == 2, "a cluster of two")
        starts = datetime.now(UTC).isoformat()
        for manager in (a, b):
            manager.send(alert("41287", "Load_Fact_Sales", startsAt=starts))
        kept = {
            f"peer-{name}": recorder.wait_for("/slow", lambda body, name=name: f"am-{name}" in body["externalURL"])[1]  # type: ignore[misc]
            for name in "ab"
        }
        recorder.let_go.set()
        return kept


def capture(directory: Path) -> dict[str, bytes]:
    """Every body by its name."""
    recorder = Recorder()
    try:
        with Alertmanager(directory / "one", CONFIG.replace("{url}", recorder.url)) as manager:
            kept = one_group(recorder, manager) | other_routes(recorder, manager)
        return kept | two_peers(recorder, directory)
    finally:
        recorder.close()


def main() -> None:
    """Writes the bodies to `tests/data/alertmanager/`."""
    with tempfile.TemporaryDirectory() as directory:
        for name, body in capture(Path(directory)).items():
            (KEPT_IN / f"{name}.json").write_bytes(body)
            print(f"{name}.json: {len(body)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
