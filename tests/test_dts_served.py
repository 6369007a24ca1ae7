"""The managed API through the installed command: what `/metrics` shows, while everything goes well and while not."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests.dts.assemblies import Gac, build
from tests.dts.estate import Estate, Package, ticks
from tests.dts.served import Page, Served, served, source_entry
from tests.stack import wait_until

pytestmark = pytest.mark.real

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"

BESIDE = "  - {name: beside, kind: demo, packages: 40, speed: 1}\n"
"""A source that must not notice anything."""


@pytest.fixture(scope="module")
def gac(tmp_path_factory: pytest.TempPathFactory) -> Gac:
    """The contract as 15.0.0.0 and 16.0.0.0."""
    return build(tmp_path_factory.mktemp("assemblies"), (15, 16))


@pytest.fixture
def estate(tmp_path: Path, gac: Gac, monkeypatch: pytest.MonkeyPatch) -> Iterator[Estate]:
    """A machine on which nothing runs yet; a CLR that crashes writes its dump into it."""
    (tmp_path / "estate").mkdir()
    monkeypatch.chdir(tmp_path / "estate")
    made = Estate(tmp_path / "estate", gac)
    yield made
    made.close()


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
        )
        for number in range(1000)
    ]
    estate.write()
    with served(tmp_path, estate, source_entry(estate), BESIDE) as exporter:
        exporter.wait_until_up()
        page = exporter.scrape()
        runs = page.runs("local")
        gone = estate.packages.pop(500)
        estate.write()
        later = exporter.scrape().runs("local")

    starts = {
        sample.labels["instance_id"]: sample.value
        for sample in page.samples
        if sample.name == "ssis_package_execution_start_timestamp_seconds"
    }
    descriptions = page.runs("local", "ssis_package_execution_info")
    for number, package in enumerate([*estate.packages[:500], gone, *estate.packages[500:]]):
        labels = runs[package.instance]
        assert (f"Load {number}", f"CORP\\u{number}") == (labels["package_name"], labels["user_name"])
        assert f"{{A0000000-0000-0000-0000-{number:012X}}}" == labels["package_id"]
        assert f"number {number}" == descriptions[package.instance]["description"]
        assert (now - timedelta(seconds=number)).timestamp() == starts[package.instance]
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


FAULTS = {
    "PackageName delay 600": {"timeout"},
    "list delay 600": {"timeout"},
    "enumerate delay 600": {"timeout"},
    # A CLR that crashes writes its dump first, which may take longer than a look.
    "PackageName crash": {"unreachable", "timeout"},
    "list dtsthrow 0xC00160AA": {"unreachable"},
    "list denied": {"access_denied"},
}
"""What goes wrong in the managed API, and what may be told of it."""

QUICK_ONES = ("list delay 600", "PackageName crash", "list denied")


def test_whatever_fails_is_told_in_time_and_passes(tmp_path: Path, estate: Estate) -> None:
    """
    While the helper hangs, crashes or is refused, the source is down with a reason within the scrape's deadline, says
    nothing of its runs, and the other source goes on; then it recovers by itself.
    """
    estate.add(Package(""))
    with served(tmp_path, estate, source_entry(estate, time_limit="1s"), BESIDE) as exporter:
        for fault, reasons in FAULTS.items():
            if not FULL and fault not in QUICK_ONES:
                continue
            exporter.wait_until_up()
            estate.faults(fault)
            is_told(exporter, reasons)
            estate.faults()
        exporter.wait_until_up()
        [helper] = exporter.helpers()
        helper.kill()
        psutil.wait_procs([helper], timeout=30)
        assert not exporter.is_up()
        exporter.wait_until_up()
        assert exporter.helpers() != [helper]

    log = "\n".join(exporter.serving.lines)
    for words in ("no answer to 'list' within 1 s; the helper was ended", "HRESULT 0x80070005"):
        assert words in log


def is_told(exporter: Served, reasons: set[str]) -> None:
    """Scrapes until the failure was told for one of these reasons; each scrape tells it in time and nothing else."""

    def errors(page: Page) -> float:
        return sum(page.value("ssis_scrape_errors_total", source="local", reason=reason) or 0 for reason in reasons)

    def told() -> bool:
        began = time.monotonic()
        page = exporter.scrape(5)
        assert time.monotonic() - began < 5
        assert 1 == page.value("ssis_up", source="beside")
        assert page.runs("beside")
        if page.value("ssis_up", source="local") == 1:
            return False
        assert not page.has_run_metrics("local")
        assert page.value("ssis_running_packages", source="local") is None
        return errors(page) > before

    before = errors(exporter.scrape(5))
    wait_until(told, f"one of {reasons}")


JUNKY = """
import json, os, sys, time

folder = os.environ["SSIS_TEST_ESTATE"]


def mode():
    with open(os.path.join(folder, "mode")) as file:
        return file.read()


def say(**what):
    print(json.dumps(what), flush=True)


if mode() == "missing":
    say(failed={"type": "FileNotFoundException", "hresult": 0x80070002, "message": "no such assembly"})
    sys.exit(3)
if mode() == "slow":
    time.sleep(600)
say(hello=1, pid=os.getpid(), release=160, assembly="X, Version=16.0.0.0", machine="M", elevated=True)
for line in sys.stdin:
    request = json.loads(line)
    match mode():
        case "hang":
            time.sleep(600)
        case "die":
            sys.exit("it is over")
        case "junk":
            print("Segmentation fault (core dumped)", flush=True)
        case "late answer":
            say(id=request["id"] - 1, ok={"running": []})
        case "nothing of use":
            say(id=request["id"], ok={"running": ["no such row"]})
        case _:
            say(id=request["id"], ok={"running": ["a"], "rows": [{"instance": "a", "name": "Load"}]})
"""

MODES = {
    "hang": "timeout",
    "die": "unreachable",
    "junk": "broken",
    "late answer": "broken",
    "nothing of use": "broken",
    "missing": "missing",
    "slow": "timeout",
}


def test_cycles_of_failure_leave_nothing_behind(tmp_path: Path, estate: Estate) -> None:
    """
    Helpers that fail in every way, over and over, leave no process, thread or descriptor in the exporter.
    """
    cycles = 500 if FULL else 7
    (estate.folder / "helper.py").write_text(JUNKY)
    mode = estate.folder / "mode"
    mode.write_text("")
    entry = source_entry(estate, time_limit="1s", helper=f'["{sys.executable}", "{estate.folder / "helper.py"}"]')
    with served(tmp_path, estate, entry, BESIDE) as exporter:
        exporter.wait_until_up()
        before = exporter.belongings()
        for number, (what, reason) in enumerate(itertools.islice(itertools.cycle(MODES.items()), cycles)):
            mode.write_text(what)
            if what in ("missing", "slow"):
                for helper in exporter.helpers():
                    helper.kill()
            is_told(exporter, {reason})
            mode.write_text("")
            # One that starts slowly is not ended by a look.
            if what == "slow":
                for helper in exporter.helpers():
                    helper.kill()
            exporter.wait_until_up()
            if number % 7 == 6:
                assert before == exporter.belongings()
        assert 0 == exporter.serving.stop()


def test_no_helper_survives_a_killed_exporter(tmp_path: Path, estate: Estate) -> None:
    """
    SIGKILL at any moment of the helper's start, and while it hangs: none is left.
    """
    rng = random.Random(6)
    estate.add(Package("Load"))
    for number in range(100 if FULL else 6):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        estate.faults(*(["list delay 600"] if number % 2 else []))
        with served(folder, estate, source_entry(estate, time_limit="60s")) as exporter:
            pid = exporter.serving.process.pid
            scrape = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "import sys, urllib.request as u; u.urlopen(sys.argv[1])",
                    exporter.serving.url + "/metrics",
                ],
                stderr=subprocess.DEVNULL,
            )
            wait_until(exporter.helpers, "the start of a helper")
            time.sleep(rng.uniform(0, 0.6))
            exporter.serving.process.kill()
            exporter.serving.process.wait(30)
            scrape.wait(30)
        left = helpers_of(pid)
        assert [] == psutil.wait_procs(left, timeout=30)[1]


def helpers_of(pid: int) -> list[psutil.Process]:
    """The processes that were told to end with this one."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[-2:] == ["--parent", str(pid)]
    ]
