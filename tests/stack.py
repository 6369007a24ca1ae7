"""Real Prometheus and Alertmanager processes for tests: started on loopback, ended by their own handles."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.real import need_program

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], what: str, *, seconds: float = 60) -> Any:
    """The first true value of `condition`; fails with `what` after a generous deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:g} s in vain for {what}")


def fetch(
    url: str, *, data: bytes | None = None, headers: Mapping[str, str] | None = None, seconds: float = 10
) -> bytes:
    """The body of an answer of the test's own servers; the data is posted where there is any."""
    request = urllib.request.Request(url, data=data, headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        body: bytes = answer.read()
        return body


class Program:
    """One program in its own process, with its output in a file of `directory`."""

    def __init__(self, directory: Path, name: str, command: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=directory)

    def wait_for(self, url: str) -> None:
        """Waits until the address answers with success."""

        def answers() -> bool:
            assert self.process.poll() is None, f"it ended:\n{self.output()}"
            with suppress(OSError, urllib.error.URLError):
                fetch(url)
                return True
            return False

        wait_until(answers, f"{url}; it said:\n{self.output()}")

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def end(self) -> int:
        """Asks it to end, and ends it when it does not; its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.end()


def filled(template: str, **values: object) -> str:
    """A template with `{name}` replaced; other braces stand for themselves."""
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", str(value))
    return template


AT_ONCE = """
route:
  receiver: ssis-stop
  group_by: ['...']
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: ssis-stop
    webhook_configs:
      - url: http://127.0.0.1:{webhook}/webhook/alertmanager
        http_config:
          follow_redirects: false
          authorization: {credentials_file: {token_file}}
"""
"""What Alertmanager is told, so that it sends each alert at once and by itself to the stop endpoint."""


class Alertmanager(Program):
    """A real Alertmanager; `peer` is the cluster address of another, `external_url` what it says its own name is."""

    def __init__(
        self,
        directory: Path,
        config: str,
        *,
        external_url: str = "http://alertmanager.example.com",
        cluster: bool = False,
        peer: str = "",
        peer_timeout: str = "15s",
    ) -> None:
        program = need_program("prometheus-alertmanager", "prometheus-alertmanager")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "alertmanager.yml").write_text(config, encoding="utf-8")
        self.url = f"http://{LOOPBACK}:{free_port()}"
        self.cluster_address = f"{LOOPBACK}:{free_port()}" if cluster else ""
        command = [
            program,
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            f"--web.external-url={external_url}",
            # Under an external address with a path it would serve below that path.
            "--web.route-prefix=/",
            f"--cluster.listen-address={self.cluster_address}",
            f"--cluster.peer-timeout={peer_timeout}",
        ]
        if cluster:
            command += ["--cluster.settle-timeout=1s", f"--cluster.advertise-address={self.cluster_address}"]
        if peer:
            command.append(f"--cluster.peer={peer}")
        super().__init__(directory, "alertmanager", command)
        try:
            self.wait_for(f"{self.url}/-/ready")
        except BaseException:
            self.end()
            raise

    def peers(self) -> int:
        """How many members its cluster has."""
        status = json.loads(fetch(f"{self.url}/api/v2/status"))
        return len(status["cluster"]["peers"])

    def send(self, *alerts: Mapping[str, Any]) -> None:
        """Gives it alerts, as Prometheus does."""
        fetch(
            f"{self.url}/api/v2/alerts",
            data=json.dumps(list(alerts)).encode(),
            headers={"Content-Type": "application/json"},
        )


class Prometheus(Program):
    """A real Prometheus with a configuration and rule files beside it."""

    def __init__(self, directory: Path, config: str, rules: Mapping[str, str] | None = None) -> None:
        program = need_program("prometheus", "prometheus")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "prometheus.yml").write_text(config, encoding="utf-8")
        for name, text in (rules or {}).items():
            (directory / name).write_text(text, encoding="utf-8")
        self.url = f"http://{LOOPBACK}:{free_port()}"
        command = [
            program,
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--rules.alert.resend-delay=1s",
        ]
        super().__init__(directory, "prometheus", command)
        try:
            self.wait_for(f"{self.url}/-/ready")
        except BaseException:
            self.end()
            raise

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's result."""
        answer = json.loads(fetch(f"{self.url}/api/v1/query?query={quote(expression)}"))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result
