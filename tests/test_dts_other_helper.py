"""A helper that is no Python (`tests/dts/contract/Helper.cs`), written from the protocol's page, in place of ours."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests.dts.assemblies import CONTRACT
from tests.dts.assemblies import run as run_tool
from tests.dts.estate import Estate, Package, ticks
from tests.dts.served import Webhook, served, source_entry
from tests.installed import run
from tests.real import need_program

pytest_plugins = ("tests.dts.fixtures",)
pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its command, as a configuration names it."""
    program = tmp_path_factory.mktemp("helper") / "Helper.exe"
    run_tool(
        [need_program("mcs", "mono-mcs"), "-langversion:5", f"-out:{program}", str(CONTRACT.with_name("Helper.cs"))]
    )
    return f'["{need_program("mono", "mono-runtime")}", "{program}"]'


def test_it_lists_and_stops(tmp_path: Path, estate: Estate, helper: str) -> None:
    """
    Packages are shown with their values, one is stopped by its InstanceID and no other, and failures have their reason.
    """
    began = datetime.now().replace(microsecond=0) - timedelta(minutes=7)
    packages = [
        estate.add(Package('Ünïcode "名前"', description="a\nb", start_ticks=ticks(began)), with_process=True)
        for _ in range(3)
    ]
    target = packages[1]
    entry = source_entry(estate, helper=helper)
    with served(tmp_path, estate, entry, more=Webhook(tmp_path).config) as exporter:
        exporter.wait_until_up()
        page = exporter.scrape()
        done = run("stop", target.instance, "--source", "local", "--yes", "--storage.path", tmp_path / "state")
        left = exporter.scrape().runs("local").keys()
        estate.faults("list denied")
        denied = exporter.scrape()
        estate.faults()
        exporter.wait_until_up()
        helpers = exporter.helpers()
        exporter.serving.process.kill()
        exporter.serving.process.wait(30)
        assert [] == psutil.wait_procs(helpers, timeout=30)[1]

    starts = page.values("ssis_package_execution_start_timestamp_seconds", "local")
    assert dict.fromkeys((package.instance for package in packages), began.timestamp()) == starts
    assert {'Ünïcode "名前"'} == {labels["package_name"] for labels in page.runs("local").values()}
    assert 1 == page.value("ssis_source_info", source="local", version="16.0.0.0")
    assert 0 == done.code, done.out + done.err
    assert [target.instance] == estate.stops()
    assert {package.instance for package in packages} - {target.instance} == left
    assert 1 == denied.value("ssis_scrape_errors_total", source="local", reason="access_denied")


def test_a_missing_release_is_told(tmp_path: Path, estate: Estate, helper: str) -> None:
    """
    What it says instead of hello is told by the HRESULT.
    """
    config = tmp_path / "ssis_exporter.yml"
    config.write_text("sources:\n" + source_entry(estate, helper=helper, release=170))
    done = run("check", "--config.file", config, env=estate.environment())

    assert 1 == done.code
    assert "not installed" in done.out
    assert "HRESULT 0x80070002" in done.out
