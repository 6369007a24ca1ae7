"""
`serve` as installed, ended by a real SIGKILL at every request to the catalog of a stop that two Alertmanagers ask for.

What happens between two requests, at the commits of the ledger, is in `test_stop_crash`.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.ledger import read_events
from ssis_exporter.model import StopOutcome
from tests.catalogs import WINDOWS_ACCOUNT, Rig, windows_rig
from tests.installed import COMMAND
from tests.stack import AT_ONCE, LOOPBACK, Alertmanager, Program, filled, free_port, wait_until
from tests.tds.engine import Session
from tests.test_catalog_stopping import CONFIG, TOKEN

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL"),
]

STEP = 1 if os.environ.get("SSIS_EXPORTER_FULL") == "1" else 4
MOST = 200
"""More requests than one stop takes."""


class Fuse:
    """Counts the requests to the server, and ends the exporter at one of them."""

    def __init__(self, made: Rig) -> None:
        self.exporter: Program | None = None
        self._left = 0
        self._lock = threading.Lock()
        self._stop = made.server.procedures["catalog.stop_operation"]
        made.server.before_each = lambda _: self.point()
        made.server.procedures["catalog.stop_operation"] = self._call

    def at(self, point: int) -> None:
        """From now on the requests are counted."""
        with self._lock:
            self._left = point

    def point(self) -> None:
        """One more: a request that came in, or an answer that was not sent yet."""
        with self._lock:
            self._left -= 1
            if self._left == 0 and self.exporter is not None:
                self.exporter.process.kill()
                self.exporter.process.wait()

    def _call(self, session: Session, arguments: dict[str, Any]) -> int:
        self.point()
        try:
            return self._stop(session, arguments)
        finally:
            self.point()


@pytest.mark.timeout(900)
def test_a_crash_at_every_request_to_the_catalog(tmp_path: Path) -> None:
    """
    Each run comes to one outcome with at most one request, whichever request the exporter was ended at; the run beside
    it goes on.
    """
    webhook = free_port()
    crashes, number = 0, 0
    with windows_rig(tmp_path) as made, ExitStack() as stack:
        estate = made.estate
        beside = estate.add(1000, package_name="Runaway beside.dtsx", start_time=long_ago())
        (tmp_path / "stop.token").write_text(TOKEN)
        (tmp_path / "stop.token").chmod(0o600)
        config = filled(CONFIG, port=made.server.port, user=WINDOWS_ACCOUNT, webhook=webhook)
        (tmp_path / "ssis_exporter.yml").write_text(config)
        alerts = filled(AT_ONCE, webhook=webhook, token_file=tmp_path / "stop.token")
        first = stack.enter_context(Alertmanager(tmp_path / "am-a", alerts, cluster=True, peer_timeout="0s"))
        second = stack.enter_context(
            Alertmanager(tmp_path / "am-b", alerts, cluster=True, peer=first.cluster_address, peer_timeout="0s")
        )
        wait_until(lambda: first.peers() == second.peers() == 2, "a cluster of two")
        fuse = Fuse(made)
        for point in range(1, MOST, STEP):
            number += 1
            estate.add(number, package_name="Runaway.dtsx", start_time=long_ago())
            with serve(tmp_path) as exporter:
                fuse.exporter = exporter
                fuse.at(point)
                labels = {"alertname": "Runaway", "ssis_action": "stop", "source": "sql01", "instance_id": str(number)}
                for alertmanager in (first, second):
                    alertmanager.send({"labels": labels, "startsAt": datetime.now(UTC).isoformat()})
                wait_until(
                    lambda of=exporter, run=number: of.process.poll() is not None or outcomes(tmp_path, run),
                    "the crash, or the outcome",
                )
                fuse.at(0)
            has_crashed = exporter.process.poll() == -9
            with serve(tmp_path):
                told = wait_until(lambda run=number: outcomes(tmp_path, run), "its outcome")
            assert [StopOutcome.STOPPED] == told, point
            assert 1 == made.server.stop_operation.calls.count(number), point
            if not has_crashed:
                break
            crashes += 1

    assert 10 // STEP <= crashes < MOST // STEP - 1
    assert 2 == estate.get(beside)["status"]  # type: ignore[index]
    assert beside not in made.server.stop_operation.calls


def long_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=2)


def serve(folder: Path) -> Program:
    metrics = free_port()
    command = [
        *(str(COMMAND), "serve", "--config.file", "ssis_exporter.yml", "--storage.path", "state"),
        *("--log.level", "debug", "--web.listen-address", f"{LOOPBACK}:{metrics}"),
    ]
    exporter = Program(folder, f"exporter-{metrics}", command)
    exporter.wait_for(f"http://{LOOPBACK}:{metrics}/-/ready")
    return exporter


def outcomes(folder: Path, number: int) -> list[StopOutcome]:
    return [
        event.outcome
        for event in read_events(folder / "state")
        if event.key.instance_id == str(number) and event.outcome is not None
    ]
