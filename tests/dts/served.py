"""The installed command with a source of kind `dts` on Mono, beside one that has nothing to do with it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.dts.estate import Estate, Package
from tests.installed import Serving
from tests.stack import LOOPBACK, fetch, free_port, wait_until

BESIDE = "  - {name: beside, kind: demo, packages: 40, speed: 1}\n"
"""A source that must not notice anything."""

UNRULY = f'["{sys.executable}", "{Path(__file__).with_name("unruly.py")}"]'
"""The command of a helper that does what the file `mode` of the estate says."""

RUN_METRICS = "ssis_package_execution_"

TOKEN = "c0ffee5eed0fd1e70ad57001bad1dea5"

STOP = """
stop:
  mode: armed
  listen_address: 127.0.0.1:{port}
  token_files: [stop.token]
  breaker: {{stops: 1000, window: 10m}}
  rules:
    - match: {{source: local, package_name: "*"}}
      action: stop
"""


class Page:
    """What one scrape told."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample with these labels among its own."""
        found = [
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) < 2, f"{name}{labels} stands {len(found)} times"
        return found[0] if found else None

    def runs(self, source: str, name: str = "ssis_package_execution_duration_seconds") -> dict[str, dict[str, str]]:
        """The labels of every run of a source, by instance."""
        return {
            sample.labels["instance_id"]: sample.labels
            for sample in self.samples
            if sample.name == name and sample.labels["source"] == source
        }

    def values(self, name: str, source: str) -> dict[str, float]:
        """The values of every run of a source, by instance."""
        return {
            sample.labels["instance_id"]: sample.value
            for sample in self.samples
            if sample.name == name and sample.labels["source"] == source
        }

    def has_run_metrics(self, source: str) -> bool:
        """Whether anything at all is said of a run of the source."""
        return any(
            sample.name.startswith(RUN_METRICS) and sample.labels.get("source") == source for sample in self.samples
        )


class Served:
    """A running exporter."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.process = psutil.Process(serving.process.pid)
        self.shares: list[float] = []
        """Of its deadline that each scrape took."""

    def scrape(self, seconds: float = 10) -> Page:
        """As Prometheus does."""
        began = time.monotonic()
        answer = self.serving.get("/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": str(seconds)})
        self.shares.append((time.monotonic() - began) / seconds)
        assert 200 == answer.status
        return Page(answer.text)

    def is_up(self, source: str = "local") -> bool:
        """Whether the source answers now."""
        return self.scrape().value("ssis_up", source=source) == 1

    def wait_until_up(self, source: str = "local") -> None:
        """Over pauses and starts."""
        wait_until(lambda: self.is_up(source), f"an answer of {source}", seconds=120)

    def helpers(self) -> list[psutil.Process]:
        """The helper processes that live."""
        return self.process.children(recursive=True)

    def belongings(self) -> tuple[int, int, int]:
        """Processes, threads and descriptors."""
        return len(self.helpers()), self.process.num_threads(), self.process.num_fds()


class Webhook:
    """The part of a configuration in `folder` by which runs may be stopped, and what asks for it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}/webhook/alertmanager"
        self.config = STOP.format(port=self.port)
        self.token_file = folder / "stop.token"
        self.token_file.write_text(TOKEN + "\n")
        self.token_file.chmod(0o600)

    def stop(self, target: Package) -> None:
        """The message for one run, as an Alertmanager sends it."""
        more = {"status": "firing", "fingerprint": "0123456789abcdef", "endsAt": "0001-01-01T00:00:00Z"}
        body = {
            "version": "4",
            "groupKey": "{}",
            "truncatedAlerts": 0,
            "status": "firing",
            "receiver": "ssis-stop",
            "groupLabels": {},
            "commonLabels": {},
            "commonAnnotations": {},
            "externalURL": "",
            "alerts": [nomination(target) | more],
        }
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        fetch(self.url, data=json.dumps(body).encode(), headers=headers)


def nomination(target: Package) -> dict[str, object]:
    """An alert that names one run."""
    labels = {
        "alertname": "SSISRunawayPackage",
        "ssis_action": "stop",
        "source": "local",
        "instance_id": target.instance,
        "package_name": target.name,
    }
    now = datetime.now(UTC)
    return {"labels": labels, "annotations": {}, "startsAt": now.isoformat(), "generatorURL": ""}


def source_entry(estate: Estate, name: str = "local", **keys: object) -> str:
    """A line of the configuration."""
    given = {"runtime": "mono", "public_key_token": f'"{estate.gac.public_key_token}"', **keys}
    return f"  - {{name: {name}, kind: dts, {', '.join(f'{key}: {value}' for key, value in given.items())}}}\n"


@contextmanager
def served(
    folder: Path, estate: Estate, *entries: str, more: str = "", env: dict[str, str] | None = None
) -> Iterator[Served]:
    """`ssis-exporter serve` with these sources."""
    config = folder / "ssis_exporter.yml"
    config.write_text("sources:\n" + "".join(entries) + more)
    arguments = ("--config.file", str(config), "--storage.path", str(folder / "state"))
    with Serving(*arguments, env={**estate.environment(), **(env or {})}) as serving:
        yield Served(serving)
