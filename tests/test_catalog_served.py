"""The catalog as an operator has it: `ssis-exporter serve`, its configuration's defaults, and what a scrape is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ssis_exporter.errors import SourceError, SourceTimeout
from tests.blackhole import BlackHole
from tests.catalogs import PASSWORD, USER, Rig, make_estate, rig
from tests.installed import Serving
from tests.test_catalog_faults import FAULTS, Break

CONFIG = """
sources:
  - name: sql01
    kind: catalog
    server: 127.0.0.1:{port}
    encrypt: false
    auth: {{user: {user}, password_file: password}}
    {more}
  - {{name: other, kind: demo, packages: 5}}
"""

SCRAPE_TIMEOUT = 2.0
"""Seconds; far below the default `time_limit`."""

SLACK = 1.0
"""Seconds that a busy machine may take beyond it."""

DURATION = "ssis_package_execution_duration_seconds"
ENDED = "ssis_package_executions_total"


class Scraped:
    """One page."""

    def __init__(self, serving: Serving) -> None:
        began = time.monotonic()
        page = serving.get("/metrics", headers={"X-Prometheus-Scrape-Timeout-Seconds": f"{SCRAPE_TIMEOUT}"}).text
        self.took = time.monotonic() - began
        self.samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Of the one series that has these labels."""
        [found] = [one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        return float(found)

    def runs(self, source: str) -> set[str]:
        """The instance ids that it shows."""
        return {
            one.labels["instance_id"] for one in self.samples if one.name == DURATION and one.labels["source"] == source
        }

    def run_metrics(self, source: str) -> set[str]:
        """The names of the metrics about runs that the source has."""
        about = ("ssis_running_packages", "ssis_open_executions", "ssis_package_execution_")
        return {one.name for one in self.samples if one.name.startswith(about) and one.labels.get("source") == source}

    def ended(self) -> float:
        """All ends of the catalog's runs that were counted."""
        return sum(one.value for one in self.samples if one.name == ENDED and one.labels["source"] == "sql01")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, make_estate()) as one:
        one.estate.add(7)
        yield one


def configured(folder: Path, port: int, more: str = "") -> Path:
    password = folder / "password"
    password.write_text(PASSWORD, encoding="utf-8")
    password.chmod(0o600)
    path = folder / "ssis_exporter.yml"
    path.write_text(CONFIG.format(port=port, user=USER, more=more), encoding="utf-8")
    return path


def goes_down_and_comes_back(
    serving: Serving, do: Break, undo: Break, made: Rig, reason: type[SourceError], *, scrapes: int = 1
) -> None:
    before = Scraped(serving)
    assert (1, {"7"}) == (before.value("ssis_up", source="sql01"), before.runs("sql01"))
    do(made)
    downs = [Scraped(serving) for _ in range(scrapes)]
    undo(made)
    after = Scraped(serving)

    counted = {"source": "sql01", "reason": reason.reason}
    for number, down in enumerate(downs, 1):
        assert down.took < SCRAPE_TIMEOUT + SLACK
        assert 0 == down.value("ssis_up", source="sql01")
        errors = down.value("ssis_scrape_errors_total", **counted)
        assert before.value("ssis_scrape_errors_total", **counted) + number == errors
        assert set() == down.run_metrics("sql01")
        assert (1, True) == (down.value("ssis_up", source="other"), bool(down.run_metrics("other")))
    assert (1, {"7"}) == (after.value("ssis_up", source="sql01"), after.runs("sql01"))
    assert before.ended() == downs[-1].ended() == after.ended() == 0


@pytest.mark.timeout(180)
def test_each_trouble_is_told_in_time_and_over_at_once(made: Rig, tmp_path: Path) -> None:
    """
    Down with the right reason within the scrape's deadline, no runs, no ends, the other source unaffected; and whole at
    the first scrape after it, however short a scrape is beside `time_limit`.
    """
    with Serving("--config.file", configured(tmp_path, made.server.port)) as serving:
        for do, undo, reason in FAULTS:
            try:
                goes_down_and_comes_back(serving, do, undo, made, reason)
            except AssertionError as exc:
                raise AssertionError(f"{do.__name__}: {exc}") from exc
        assert 0 == serving.stop()


@pytest.mark.parametrize("more", ["", "time_limit: 5m"])
@pytest.mark.parametrize("scrapes", [1, 3])
def test_a_black_hole_is_over_at_once(made: Rig, tmp_path: Path, more: str, scrapes: int) -> None:
    """
    Also where the connection of before is dead for ever, and whatever `time_limit` is.
    """
    with BlackHole(made.server.port) as network:
        with Serving("--config.file", configured(tmp_path, network.port, more)) as serving:
            goes_down_and_comes_back(
                serving, lambda _: network.open(), lambda _: network.shut(), made, SourceTimeout, scrapes=scrapes
            )
            assert 0 == serving.stop()


def test_a_server_that_was_down_for_many_scrapes_is_back_at_the_first(made: Rig, tmp_path: Path) -> None:
    """
    Scraped in quick succession, a server that refuses connections is tried with pauses, and no scrape is told what was.
    """
    [(do, undo, reason)] = [fault for fault in FAULTS if fault[0].__name__ == "stop_service"]
    with Serving("--config.file", configured(tmp_path, made.server.port)) as serving:
        goes_down_and_comes_back(serving, do, undo, made, reason, scrapes=8)
        assert 0 == serving.stop()
