"""docs/many-servers.md by a real Prometheus: sources found over `/sd` and shared out among two exporters by hash."""

from __future__ import annotations

import re
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stack import LOOPBACK, Program, Prometheus, fetch, wait_until

pytestmark = pytest.mark.real

PAGE = Path(__file__).parent.parent / "docs" / "many-servers.md"
SOURCES = [f"sql{number:02}" for number in range(12)]


def neighbours() -> str:
    """The common beginning of two free ports that differ in their last digit, 0 and 1."""
    for begin in range(2000, 3000):
        try:
            for last in "01":
                with socket.socket() as probe:
                    probe.bind((LOOPBACK, int(f"{begin}{last}")))
        except OSError:
            continue
        return str(begin)
    raise AssertionError("no two free ports beside each other")


def told(heading: str) -> str:
    """The configuration of Prometheus that the page shows below a heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    return section.partition("```yaml\n")[2].partition("```")[0]


@pytest.mark.timeout(180)
def test_each_source_is_scraped_by_one_exporter(tmp_path: Path) -> None:
    """
    Both exporters know all sources, both lists are read, and each source is one target; `instance` is its name.
    """
    ports = neighbours()
    config = re.sub(r"ssis-exporter-([01])\.corp\.example:10058", rf"{LOOPBACK}:{ports}\1", told("Several exporters"))
    config = config.replace("ssis-exporter-$1.corp.example:10058", f"{LOOPBACK}:{ports}${{1}}")
    entries = "".join(f"  - {{name: {name}, kind: demo, packages: 5}}\n" for name in SOURCES)
    (tmp_path / "exporter.yml").write_text(f"sources:\n{entries}", encoding="utf-8")
    with ExitStack() as stack:
        for last in "01":
            address = f"{LOOPBACK}:{ports}{last}"
            command = [sys.executable, "-m", "ssis_exporter", "serve", "--config.file=exporter.yml"]
            command += [f"--web.listen-address={address}", f"--storage.path=state{last}"]
            stack.enter_context(Program(tmp_path, f"exporter{last}", command)).wait_for(f"http://{address}/-/ready")
        assert b"/probe" in fetch(f"http://{LOOPBACK}:{ports}0/sd")
        interval = "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        prometheus = stack.enter_context(Prometheus(tmp_path / "prometheus", interval + config))
        wait_until(lambda: len(prometheus.query("ssis_up == 1")) >= len(SOURCES), "every source is up")
        up = prometheus.query("ssis_up")
        by_exporter = prometheus.query("count by (instance) (up == 1)")
        page = fetch(f"{prometheus.url}/api/v1/targets?state=active").decode()

    assert SOURCES == sorted(one["metric"]["source"] for one in up)
    assert all(one["metric"]["source"] == one["metric"]["instance"] for one in up)
    assert len(SOURCES) == len(by_exporter)
    assert {f"{LOOPBACK}:{ports}0", f"{LOOPBACK}:{ports}1"} == set(
        re.findall(rf"{LOOPBACK}:{ports}[01](?=/probe)", page)
    )
