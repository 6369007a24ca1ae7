"""`ssis-exporter serve` with a section `stop`: start, reload, a ledger that cannot be used, the end."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tornado.web import Application, RequestHandler

from ssis_exporter.cli import exits
from ssis_exporter.ledger import NAME
from tests.installed import Serving, run
from tests.serving import serving as serving_application
from tests.test_alertmessage import LABELS, alert, body

TOKEN = "c0ffee5eed0fd1e70ad57001bad1dea5"

CONFIG = """
sources:
  - {{name: sqlprod01, kind: demo, packages: 30}}
stop:
  mode: {mode}
  listen_address: 127.0.0.1:0
  token_files: [{tokens}]
  rules:
    - match: {{package_name: "*"}}
      action: {action}
"""


class Place:
    """A folder with a configuration, a token and the storage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "ssis.yml"
        self.state = folder / "state"
        self.token("stop.token", TOKEN)
        self.configure()

    def token(self, name: str, text: str) -> None:
        """A token file."""
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o600)

    def configure(self, *, mode: str = "dry-run", action: str = "stop", tokens: str = "stop.token") -> None:
        """Writes the configuration."""
        self.config.write_text(CONFIG.format(mode=mode, action=action, tokens=tokens))

    @property
    def flags(self) -> tuple[str | Path, ...]:
        """Of `serve`."""
        return ("--config.file", self.config, "--storage.path", self.state, "--web.enable-lifecycle")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def post(serving: Serving, content: bytes, token: str = TOKEN) -> tuple[int, Any]:
    """One message to the webhook; the code, and the answer as JSON where it is."""
    taken = next(line for line in serving.lines if "stop requests of Alertmanager are taken on" in line)
    found = re.search(r"taken on (127\.0\.0\.1:\d+)", taken)
    assert found is not None
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://{found[1]}/webhook/alertmanager", content, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def reload(serving: Serving) -> None:
    """Asks it to read its configuration again."""
    assert serving.get("/-/reload", "POST").status in (200, 500)


def a_run(serving: Serving) -> bytes:
    """A message about a run of the demo estate that is running."""
    shown = json.loads(serving.get("/api/v1/executions").text)
    instance_id = next(one["instance_id"] for one in shown["executions"] if one["status"] == "running")
    # From now on: the alert began after the run did.
    return body(alert(labels={**_plain(), "instance_id": instance_id}, startsAt=shown["executions"][0]["started_at"]))


def _plain() -> dict[str, str]:
    return {name: LABELS[name] for name in ("alertname", "ssis_action", "source")}


def mode(serving: Serving) -> str:
    """The mode that the metrics show."""
    page = serving.get("/metrics").text
    [found] = re.findall(r'^ssis_stop_mode\{mode="([^"]+)"\} 1', page, re.MULTILINE)
    return str(found)


def test_a_reload_changes_mode_and_rules(place: Place) -> None:
    """
    A reload puts mode, rules and tokens in force without a gap; a wrong configuration changes nothing.
    """
    with Serving(*place.flags) as serving:
        assert "dry-run" == mode(serving)
        place.token("next.token", "another-token-for-later")
        place.configure(mode="dry-run", action="never", tokens="stop.token, next.token")
        reload(serving)
        serving.wait_for("the configuration was reloaded")
        _, answer = post(serving, a_run(serving), "another-token-for-later")
        shown = answer["alerts"][0]
        serving.wait_for("refused; rule 1 says never")
        assert (None, "nominated") == (shown["outcome"], shown["disposition"])

        place.configure(mode="armed", action="stop")
        reload(serving)
        serving.wait_for("stopping is now: armed")
        assert "armed" == mode(serving)
        assert 401 == post(serving, body(), "another-token-for-later")[0]

        place.config.write_text("stop: {mode: reckless}\n")
        reload(serving)
        serving.wait_for("the configuration was not reloaded")
        assert "armed" == mode(serving)

        place.config.write_text("sources: [{name: sqlprod01, kind: demo, packages: 30}]\n")
        reload(serving)
        serving.wait_for("the section stop is gone: everything is refused from now on")
        assert "off" == mode(serving)
        _, answer = post(serving, a_run(serving))
        assert ("refused", "off") == tuple(answer["alerts"][0][key] for key in ("outcome", "reason"))
        assert exits.OK == serving.stop()


@pytest.mark.parametrize(
    ("state", "became"),
    [("suppressed", "vetoed; its alert is silenced in Alertmanager"), ("active", "would_stop; rule 1 allows it")],
)
def test_the_configured_alertmanager_is_asked_for_silences(place: Place, state: str, became: str) -> None:
    """
    After the grace, of the address in the configuration, for the alert that nominated.
    """
    known: list[dict[str, Any]] = []

    class Alerts(RequestHandler):
        def get(self) -> None:
            self.finish(json.dumps(known))

    with serving_application(Application([("/api/v2/alerts", Alerts)])) as alertmanager:
        url = f"http://127.0.0.1:{alertmanager.port}"
        text = place.config.read_text().replace("action: stop\n", "action: stop\n      grace: 1s\n")
        place.config.write_text(f"{text}  alertmanager_url: {url}\n")
        with Serving(*place.flags) as serving:
            message = a_run(serving)
            [sent] = json.loads(message)["alerts"]
            known.append({"labels": sent["labels"], "status": {"state": state}})
            assert 202 == post(serving, message)[0]
            serving.wait_for(became)


def test_without_a_section_stop_nothing_listens(tmp_path: Path) -> None:
    """
    Nothing is stopped and nothing listens for it; that a new section needs a start is told.
    """
    config = tmp_path / "ssis.yml"
    config.write_text("sources: [{name: sqlprod01, kind: demo}]\n")
    flags = ("--config.file", config, "--storage.path", tmp_path / "state", "--web.enable-lifecycle")
    with Serving(*flags) as serving:
        assert "off" == mode(serving)
        assert "Off: nothing is stopped" in serving.get("/").text
        assert 404 == serving.get("/webhook/alertmanager", "POST").status
        assert not (tmp_path / "state" / NAME).exists()
        config.write_text("sources: [{name: sqlprod01, kind: demo}]\nstop: {rules: []}\n")
        reload(serving)
        serving.wait_for("the section stop is new: it takes effect with the next start")


def test_the_webhook_is_nowhere_else(place: Place) -> None:
    """
    The listener of the metrics has no way to stop anything, the webhook's listener has no metrics.
    """
    with Serving(*place.flags) as serving:
        for path in ("/webhook/alertmanager", "/api/v1/stop", "/api/v1/hold", "/api/v1/resume"):
            assert 404 == serving.get(path, "POST").status


def test_a_damaged_ledger_stops_nothing_and_metrics_go_on(place: Place) -> None:
    """
    It starts, says so, answers 503, and the page of metrics is there with `ssis_storage_up` 0.
    """
    place.state.mkdir()
    (place.state / NAME).write_bytes(b"this was a ledger once" * 500)
    place.configure(mode="armed")
    with Serving(*place.flags) as serving:
        assert (503, "the ledger cannot be written; send it again\n") == post(serving, a_run(serving))
        page = serving.get("/metrics").text
        assert "ssis_storage_up 0" in page
        assert "ssis_storage_damaged_total 1" in page
        assert 'ssis_up{source="sqlprod01"} 1' in page
        assert exits.OK == serving.stop()


def test_the_end_takes_nothing_more_and_leaves_no_key(place: Place) -> None:
    """
    SIGTERM ends it well, its key is gone, and a hold stays.
    """
    with Serving(*place.flags) as serving:
        assert exits.OK == run("hold", "--storage.path", place.state).code
        assert "held" == mode(serving)
        assert "On hold: nothing is stopped." in serving.get("/").text
        assert exits.OK == serving.stop()
    assert [] == list((place.state / "control").iterdir())
    with Serving(*place.flags) as serving:
        assert "held" == mode(serving)


def test_a_weak_token_keeps_it_from_starting(place: Place) -> None:
    """
    One sentence with the file, and nothing listens.
    """
    place.token("stop.token", "short")
    done = run("serve", *place.flags)

    assert exits.USAGE == done.code
    assert "the token has 5 characters and needs at least 16" in done.err
    assert "Traceback" not in done.err


def test_a_port_in_use_keeps_it_from_starting(place: Place) -> None:
    """
    The webhook's port too: without it nothing could be asked.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        place.config.write_text(place.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        done = run("serve", *place.flags, "--web.listen-address", "127.0.0.1:0")

    assert exits.LISTEN == done.code
    assert f"127.0.0.1:{port}" in done.err
