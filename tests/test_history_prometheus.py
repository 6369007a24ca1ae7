"""What a real Prometheus makes of the counters of ended runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ssis_exporter.addresses import Address
from ssis_exporter.config import Config, SourceConfig
from ssis_exporter.exporter import Exporter
from ssis_exporter.history import History
from ssis_exporter.historymetrics import HistoryMetrics
from ssis_exporter.listening import Listener
from ssis_exporter.model import EndedExecution, ExecutionFacts, ExecutionKey, Result
from ssis_exporter.sources.interface import SourceSettings
from ssis_exporter.storagefolder import Storage
from ssis_exporter.testing import FakeSource
from ssis_exporter.web import WebSettings, make_application
from tests.serving import loop_thread
from tests.stack import Prometheus, wait_until

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: ssis
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""

SEEN = "ssis_package_executions_total{package_name='Load'}"


@pytest.mark.real
def test_the_first_failure_of_a_package_is_an_increase(tmp_path: Path) -> None:
    """
    `increase()` tells of the very first run of a package that nobody had seen before, whatever its result.
    """
    source = FakeSource("sql01")

    class Same(FakeSource):
        @classmethod
        def from_settings(cls, *_given: object) -> FakeSource:  # type: ignore[override]
            return source

    entry = SourceConfig(name="sql01", kind="fake", source_class=Same, settings=SourceSettings())
    config = Config(sources=(entry,))
    with loop_thread() as thread:
        exporter = thread.call(lambda: Exporter(config, registry=CollectorRegistry(), load=lambda: config))
        # The two minutes, in the time of a test.
        exporter._ended = HistoryMetrics(packages_per_source=100, held_seconds=4)
        storage = Storage(tmp_path / "state")
        history = thread.call(lambda: History.of(storage))
        thread.run(history.open)
        thread.call(lambda: exporter.keep_history(history))
        application = make_application(exporter, WebSettings())
        listener = thread.call(lambda: Listener(application, [Address("127.0.0.1", 0)]))
        thread.run(listener.start)
        try:
            with Prometheus(tmp_path / "prometheus", CONFIG.format(port=listener.ports[0])) as prometheus:
                wait_until(lambda: prometheus.query("count_over_time(ssis_up[1m]) > 2"), "three scrapes")
                for number, result in enumerate((Result.FAILED, Result.ENDED_UNEXPECTEDLY)):
                    source.ended.append(_end(str(number), result))
                for result in (Result.FAILED, Result.ENDED_UNEXPECTEDLY):
                    series = SEEN.replace("}", f",result='{result}'}}")
                    wait_until(
                        lambda of=series: prometheus.query(f"increase({of}[1m]) > 0"), f"an increase of {series}"
                    )
                    assert ["1"] == [found["value"][1] for found in prometheus.query(series)]
        finally:
            thread.run(lambda: listener.drain(1.0))
            thread.run(exporter.close)
            thread.run(history.close)
            storage.release()


def _end(instance: str, result: Result) -> EndedExecution:
    now = datetime.now(UTC)
    facts = ExecutionFacts(
        key=ExecutionKey("sql01", instance), package_name="Load", started_at=now - timedelta(minutes=1)
    )
    return EndedExecution(facts=facts, result=result, ended_at=now, duration=timedelta(minutes=1))
