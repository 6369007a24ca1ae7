"""Whether Alertmanager silences an alert: asked of a real one, and of one that answers nonsense."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.web import Application, RequestHandler

from ssis_exporter.errors import AlertmanagerError
from ssis_exporter.model import ExecutionKey, Nomination
from ssis_exporter.silences import Silences
from tests.real import need_program
from tests.serving import serving
from tests.stack import Alertmanager, free_port, wait_until
from tests.test_alertmessage import LABELS

CONFIG = """
route: {receiver: nobody, group_wait: 0s, group_interval: 1s}
inhibit_rules:
  - source_matchers: [alertname="MaintenanceWindow"]
    target_matchers: [ssis_action="stop"]
receivers: [{name: nobody}]
"""


def nominated(**changes: str) -> Nomination:
    """A nomination by an alert with these labels."""
    labels = LABELS | changes
    return Nomination(key=ExecutionKey(labels["source"], labels["instance_id"]), labels=labels)


def silenced(url: str, nomination: Nomination) -> bool:
    """The answer."""
    return asyncio.run(Silences(url).silenced(nomination))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Alertmanager]:
    with Alertmanager(tmp_path / "alertmanager", CONFIG) as running:
        yield running


@pytest.mark.real
def test_a_real_alertmanager_is_asked(manager: Alertmanager) -> None:
    """
    Only the very alert that nominated counts: silenced or inhibited now, or neither.
    """
    amtool = need_program("amtool", "prometheus-alertmanager")
    evil = 'a"b\\c'
    alerts = [LABELS, LABELS | {"instance_id": "41291"}, LABELS | {"instance_id": evil}]
    manager.send(*({"labels": labels} for labels in alerts))
    before = [silenced(manager.url, nominated(instance_id=one["instance_id"])) for one in alerts]
    subprocess.run(
        [
            *(amtool, f"--alertmanager.url={manager.url}", "silence", "add", "--author=ops", "--comment=month end"),
            'instance_id="41287"',
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )

    assert [False, False, False] == before
    wait_until(lambda: silenced(manager.url, nominated()), "the silence")
    assert False is silenced(manager.url, nominated(instance_id="41291"))

    manager.send({"labels": {"alertname": "MaintenanceWindow"}})
    wait_until(lambda: silenced(manager.url, nominated(instance_id="41291")), "the inhibition")


@pytest.mark.real
def test_an_alert_that_alertmanager_does_not_know(manager: Alertmanager) -> None:
    """
    Nobody can tell: that is not the same as "not silenced".
    """
    manager.send({"labels": LABELS})

    for changes in ({"instance_id": "9"}, {"severity": "critical"}, {"package_name": "Other"}):
        with pytest.raises(AlertmanagerError, match="does not know the alert"):
            silenced(manager.url, nominated(**changes))


def test_a_person_cannot_be_silenced() -> None:
    """
    A nomination without labels is an operator's; nobody is asked.
    """
    assert False is silenced("http://127.0.0.1:1", Nomination(key=ExecutionKey("a", "1")))


def test_nobody_answers() -> None:
    """
    An address where nobody listens is an error that says so.
    """
    with pytest.raises(AlertmanagerError, match="could not be asked"):
        silenced(f"http://127.0.0.1:{free_port()}", nominated())


ALERT = {"labels": LABELS, "status": {"state": "active"}}


@pytest.mark.parametrize(
    ("status", "content", "sentence"),
    [
        (200, b"", "not understood"),
        (200, b"<html>", "not understood"),
        (200, b"{}", "not understood"),
        (200, b"[]", "does not know the alert"),
        (200, json.dumps([{"labels": LABELS}]).encode(), "not understood"),
        (200, json.dumps([ALERT | {"status": {"state": "whatever"}}]).encode(), "not understood"),
        (200, b"[" * 100_000, "not understood"),
        (204, b"", "204"),
        (302, b"", "302"),
        (401, b"", "401"),
        (500, json.dumps([ALERT]).encode(), "500"),
    ],
)
def test_an_answer_that_is_none(status: int, content: bytes, sentence: str) -> None:
    """
    Whatever is not plainly an answer is an error: then nothing is stopped.
    """

    class Answers(RequestHandler):
        def get(self) -> None:
            self.set_status(status)
            if status == 302:
                self.set_header("Location", "/elsewhere")
            self.finish(content or None)

    with serving(Application([("/api/v2/alerts", Answers)])) as served:
        with pytest.raises(AlertmanagerError, match=sentence):
            silenced(f"http://127.0.0.1:{served.port}", nominated())


def test_a_prefix_of_the_address_is_kept() -> None:
    """
    An Alertmanager below a path is asked below that path, for the one run only.
    """
    asked: list[Any] = []

    class Answers(RequestHandler):
        def get(self) -> None:
            asked.append(self.get_query_arguments("filter"))
            self.finish(json.dumps([ALERT]))

    with serving(Application([("/am/api/v2/alerts", Answers)])) as served:
        assert False is silenced(f"http://127.0.0.1:{served.port}/am/", nominated())

    assert [['source="sqlprod01"', 'instance_id="41287"']] == asked
