"""The dashboards on real data: hours of the demo estate in a real Prometheus, every query answered, none empty."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.asking import DASHBOARDS, EVERYTHING, ask_all, load, values_of
from tests.day import write_day
from tests.stack import Prometheus

# The whole day takes minutes to write and load.
pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"
HOURS, PACKAGES = (24.0, 200) if FULL else (3.0, 40)
END = datetime.now(UTC)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One with some hours of the demo estate in it."""
    folder = tmp_path_factory.mktemp("prometheus")
    samples = folder / "samples.om"
    write_day(samples, end=END, hours=HOURS, packages=PACKAGES)
    with load(folder, samples) as server:
        yield server


def packages(prometheus: Prometheus) -> list[str]:
    """Packages that ran within the last half hour."""
    found = prometheus.query(
        f"count by (package_name) (max_over_time(ssis_package_execution_info[30m] @ {END.timestamp():.0f})) > 0"
    )
    return sorted(one["metric"]["package_name"] for one in found)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_variables_offer_something(prometheus: Prometheus, path: Path) -> None:
    """
    Each choice at the top of a dashboard has values.
    """
    for each in json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]:
        if each["type"] == "query":
            assert values_of(prometheus, each["definition"], EVERYTHING, at=END.timestamp()), each["name"]


@pytest.mark.parametrize("hours", [HOURS, 1.0], ids=["all", "an_hour"])
def test_no_query_fails_or_is_empty(prometheus: Prometheus, hours: float) -> None:
    """
    Every panel of every dashboard shows something, over all hours and over the last one.
    """
    shown = timedelta(hours=hours)
    answers = list(
        ask_all(prometheus, end=END, shown=shown, scrape=timedelta(minutes=1), package=packages(prometheus)[0])
    )

    assert [] == [answer for answer in answers if answer.error]
    assert [] == [answer.where for answer in answers if not answer.series]
