"""The managed API through the installed command: what `/metrics` shows, while everything goes well and while not."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.dts.estate import Estate, Package, ticks
from tests.dts.served import BESIDE, UNRULY, Webhook, served, source_entry
from tests.installed import run
from tests.stack import wait_until

pytest_plugins = ("tests.dts.fixtures",)
pytestmark = pytest.mark.real


def test_a_thousand_packages_on_the_page(tmp_path: Path, estate: Estate) -> None:
    """
    Each of a thousand packages has its own name, user, id, start and age; one that ends is gone from the next scrape.
    """
    now = datetime.now().replace(microsecond=0)
    estate.packages = [
        Package(
            f"Load {number}",
            user=f"CORP\\u{number}",
            package_id=f"a0000000-0000-0000-0000-{number:012x}",
            description=f"number {number}",
            start_ticks=ticks(now - timedelta(seconds=number)),
            # Its unit is not documented, so nothing may rest on it.
            raw_duration=7_000_000 + number,
        )
        for number in range(1000)
    ]
    estate.write()
    with served(tmp_path, estate, source_entry(estate), BESIDE) as exporter:
        exporter.wait_until_up()
        asked = time.time()
        page = exporter.scrape()
        answered = time.time()
        runs = page.runs("local")
        gone = estate.packages.pop(500)
        estate.write()
        later = exporter.scrape().runs("local")

    starts = page.values("ssis_package_execution_start_timestamp_seconds", "local")
    ages = page.values("ssis_package_execution_duration_seconds", "local")
    descriptions = page.runs("local", "ssis_package_execution_info")
    for number, package in enumerate([*estate.packages[:500], gone, *estate.packages[500:]]):
        labels = runs[package.instance]
        assert (f"Load {number}", f"CORP\\u{number}") == (labels["package_name"], labels["user_name"])
        assert f"{{A0000000-0000-0000-0000-{number:012X}}}" == labels["package_id"]
        assert f"number {number}" == descriptions[package.instance]["description"]
        began = (now - timedelta(seconds=number)).timestamp()
        assert began == starts[package.instance]
        assert asked - began <= ages[package.instance] <= answered - began
    assert 1000 == len(runs) == page.value("ssis_running_packages", source="local")
    assert {gone.instance} == runs.keys() - later.keys()
    assert 999 == len(later)
    assert 1 == page.value("ssis_source_info", source="local", version="16.0.0.0")


def test_two_releases_are_two_helpers(tmp_path: Path, estate: Estate) -> None:
    """
    Two sources of two releases have a helper each, with its own assembly; a release that is missing says so.
    """
    estate.add(Package("Load"))
    entries = [source_entry(estate, f"s{release}", release=release) for release in (150, 160, 170)]
    with served(tmp_path, estate, *entries) as exporter:
        exporter.wait_until_up("s150")
        exporter.wait_until_up("s160")
        page = exporter.scrape()
        wait_until(lambda: 2 == len(exporter.helpers()), "two helpers, and none for the release that is missing")

    assert 1 == page.value("ssis_source_info", source="s150", version="15.0.0.0")
    assert 1 == page.value("ssis_source_info", source="s160", version="16.0.0.0")
    assert 0 == page.value("ssis_up", source="s170")
    assert page.value("ssis_scrape_errors_total", source="s170", reason="missing")


def test_the_command_stops_the_process_behind_one_instance(tmp_path: Path, estate: Estate) -> None:
    """
    Of five packages of one name and one user, `ssis-exporter stop` ends the process of the one that it names.
    """
    packages = [estate.add(Package("Load"), with_process=True) for _ in range(5)]
    target = packages[3]
    with served(tmp_path, estate, source_entry(estate), more=Webhook(tmp_path).config) as exporter:
        exporter.wait_until_up()
        done = run("stop", target.instance, "--source", "local", "--yes", "--storage.path", tmp_path / "state")
        left = exporter.scrape().runs("local")

    assert 0 == done.code, done.out + done.err
    assert [target.instance] == estate.stops()
    assert {package.instance for package in packages} - {target.instance} == left.keys()
    assert target.process is not None
    assert -15 == target.process.wait(30)
    assert all(package.process.poll() is None for package in packages if package is not target and package.process)


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("", 0, ["16.0.0.0: 1 running packages"]),
        ("list dtsthrow 0xC00160AA", 1, ["HRESULT 0xC00160AA", "Start-Service MsDtsServer160"]),
        ("list throw 0x800706BA", 1, ["HRESULT 0x800706BA", "Start-Service MsDtsServer160"]),
        ("list denied", 1, ["HRESULT 0x80070005", "DCOM Config", "Integration Services 16.0", "event 10016"]),
        ("list dtsthrow 0xC00160AE", 1, ["access denied", "HRESULT 0xC00160AE", "event 10016"]),
        ("ctor throw 0x80040154", 1, ["HRESULT 0x80040154", "not registered for this bitness or release"]),
        ("helper missing", 1, ["HRESULT 0x80070002", "install Integration Services of that release"]),
        ("helper own", 0, ["no elevated administrator", "sees and stops only the packages that it started"]),
    ],
    ids=[
        "fine",
        "service stopped",
        "no RPC",
        "DCOM",
        "DCOM by SSIS",
        "not registered",
        "not installed",
        "not elevated",
    ],
)
def test_check_says_what_is_missing(tmp_path: Path, estate: Estate, fault: str, code: int, says: list[str]) -> None:
    """
    `ssis-exporter check` names what is missing by the HRESULT, and what to do about it.
    """
    estate.add(Package("Load"))
    member, _, what = fault.partition(" ")
    (estate.folder / "mode").write_text(what if member == "helper" else "")
    estate.faults(*([fault] if member != "helper" else []))
    config = tmp_path / "ssis_exporter.yml"
    config.write_text("sources:\n" + source_entry(estate, helper=UNRULY))
    done = run("check", "--config.file", config, env=estate.environment())

    assert code == done.code, done.out + done.err
    for words in says:
        assert words in done.out


@pytest.mark.parametrize("elevated", [True, False])
def test_what_the_account_sees_is_on_the_page(tmp_path: Path, estate: Estate, elevated: bool) -> None:
    """
    An elevated administrator sees `all` packages, any other account its `own`.
    """
    # A helper of the tests says so; the real one asks Windows.
    (estate.folder / "mode").write_text("all" if elevated else "own")
    with served(tmp_path, estate, source_entry(estate, helper=UNRULY)) as exporter:
        exporter.wait_until_up()
        page = exporter.scrape()

    assert elevated == page.value("ssis_visibility", source="local", scope="all")
    assert (not elevated) == page.value("ssis_visibility", source="local", scope="own")
