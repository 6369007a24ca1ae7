"""The managed API through the installed command, while its helper hangs, crashes, lies or is not there."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.dts.estate import Estate, Package
from tests.dts.served import BESIDE, UNRULY, Page, Served, Webhook, served, source_entry
from tests.stack import wait_until

pytest_plugins = ("tests.dts.fixtures",)
pytestmark = pytest.mark.real

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"

SCRAPE_SECONDS = 5


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and what may be told of it."""

    what: str
    reasons: frozenset[str]
    managed: str = ""
    """In the managed API, as the contract's assembly takes it."""

    mode: str = ""
    """What another helper does that takes the place of the real one."""

    ends_helper: bool = False
    """Happens to the next helper, or is that this one ends."""

    stops: bool = False
    """Happens to who asks for a stop."""


FAULTS = (
    Fault("it hangs in a property", frozenset({"timeout"}), managed="PackageName delay 600"),
    Fault("it hangs in the constructor", frozenset({"timeout"}), managed="ctor delay 600", ends_helper=True),
    Fault("it hangs in the listing", frozenset({"timeout"}), managed="list delay 600"),
    Fault("it hangs between two packages", frozenset({"timeout"}), managed="enumerate delay 600"),
    Fault("it hangs in Stop", frozenset({"timeout"}), managed="stop delay 600", stops=True),
    # A CLR that crashes writes its dump first, which may take longer than a look.
    Fault("it crashes", frozenset({"unreachable", "timeout"}), managed="PackageName crash"),
    Fault("it crashes in Stop", frozenset({"unreachable", "timeout"}), managed="stop crash", stops=True),
    Fault("it is killed", frozenset({"unreachable"}), ends_helper=True),
    Fault("it says junk", frozenset({"broken"}), mode="junk", ends_helper=True),
    Fault("it answers another request", frozenset({"broken"}), mode="late answer", ends_helper=True),
    Fault("it names runs and tells nothing of them", frozenset({"broken"}), mode="nothing of use", ends_helper=True),
    Fault("it ends before it is ready", frozenset({"unreachable"}), mode="dies", ends_helper=True),
    Fault("it is slow to start", frozenset({"timeout"}), mode="slow", ends_helper=True),
    Fault("the assembly is missing", frozenset({"missing"}), mode="missing", ends_helper=True),
    Fault("the service does not run", frozenset({"unreachable"}), managed="list dtsthrow 0xC00160AA"),
    Fault("access is denied", frozenset({"access_denied"}), managed="list denied"),
)


@pytest.fixture
def estate(estate: Estate) -> Estate:
    """One run, whose properties every look reads."""
    estate.add(Package(""))
    return estate


def test_cycles_of_failure_are_told_pass_and_leave_nothing_behind(tmp_path: Path, estate: Estate) -> None:
    """
    Whatever fails: the source is down with its reason within the scrape's deadline, says nothing of its runs, the other
    source goes on, and a new helper answers by and by. Over and over, that leaves no process, thread, descriptor or
    memory in the exporter.
    """
    cycles = 500 if FULL else len(FAULTS)
    webhook = Webhook(tmp_path)
    entry = source_entry(estate, time_limit="1s", helper=UNRULY)
    with served(tmp_path, estate, entry, BESIDE, more=webhook.config) as exporter:
        exporter.wait_until_up()
        belongings, memory = [exporter.belongings()], [exporter.process.memory_info().rss / 2**20]
        for number, fault in enumerate(itertools.islice(itertools.cycle(FAULTS), cycles), 1):
            began = time.monotonic()
            suffer(fault, exporter, estate, webhook)
            print(f"{number}: {fault.what}, over after {time.monotonic() - began:.1f} s")
            if number % len(FAULTS) == 0:
                belongings.append(exporter.belongings())
                memory.append(exporter.process.memory_info().rss / 2**20)
                print(f"processes, threads, descriptors: {belongings[-1]}; {memory[-1]:.1f} MiB")
        assert 0 == exporter.serving.stop()
    in_time = sum(share < 1 for share in exporter.shares)
    print(f"{in_time} of {len(exporter.shares)} scrapes in time; the longest took {max(exporter.shares):.2f} deadlines")

    # A machine that is busy with other things may hold up one.
    assert in_time >= 0.99 * len(exporter.shares) - 1
    processes, threads, descriptors = zip(*belongings, strict=True)
    assert {1} == set(processes)
    assert {descriptors[0]} == set(descriptors)
    # What writes the ledger is started when it is wanted first.
    assert max(threads) <= threads[0] + 2
    assert memory[-1] < memory[1] + 16
    assert [] == estate.stops()
    log = "\n".join(exporter.serving.lines)
    for words in ("within 1 s; the helper was ended", "HRESULT 0x80070005", "HRESULT 0xC00160AA"):
        assert words in log


def suffer(fault: Fault, exporter: Served, estate: Estate, webhook: Webhook) -> None:
    """One failure, from its beginning to the answer of a new helper."""
    target = estate.add(Package("Runaway")) if fault.stops else None
    if target is not None:
        wait_until(lambda: target.instance in exporter.scrape().runs("local"), "the run that will be stopped")
    before = told(exporter.scrape(SCRAPE_SECONDS), fault.reasons)
    (estate.folder / "mode").write_text(fault.mode)
    estate.faults(*([fault.managed] if fault.managed else []))
    if fault.ends_helper:
        for helper in exporter.helpers():
            helper.kill()
    if target is not None:
        webhook.stop(target)
    wait_until(lambda: is_told(exporter, fault.reasons, before), f"one of {set(fault.reasons)}: {fault.what}")
    (estate.folder / "mode").write_text("")
    estate.faults()
    if target is not None:
        estate.packages.remove(target)
        estate.write()
    exporter.wait_until_up()


def told(page: Page, reasons: frozenset[str]) -> float:
    """How often one of these was the reason."""
    return sum(page.value("ssis_scrape_errors_total", source="local", reason=reason) or 0 for reason in reasons)


def is_told(exporter: Served, reasons: frozenset[str], before: float, seconds: float = SCRAPE_SECONDS) -> bool:
    """Scrapes once: whether it was told by now; as long as the source is down, that is all that is told of it."""
    page = exporter.scrape(seconds)
    assert 1 == page.value("ssis_up", source="beside")
    assert page.runs("beside")
    if page.value("ssis_up", source="local") == 1:
        return False
    assert not page.has_run_metrics("local")
    assert page.value("ssis_running_packages", source="local") is None
    return told(page, reasons) > before


def test_a_hang_that_may_last_longer_than_the_scrape(tmp_path: Path, estate: Estate) -> None:
    """
    Where the source's own limit lies behind the scrape's, the scrape is answered at its own; the exporter then ends
    in order, and its helper with it, which does not hold it up.
    """
    with served(tmp_path, estate, source_entry(estate, time_limit="60s"), BESIDE) as exporter:
        exporter.wait_until_up()
        [helper] = exporter.helpers()
        estate.faults("PackageName delay 600")
        assert is_told(exporter, frozenset({"timeout"}), 0, seconds=2)
        assert 1 == exporter.scrape(1).value("ssis_scrape_timed_out", source="local")
        assert 0 == exporter.serving.stop()

        assert [] == psutil.wait_procs([helper], timeout=30)[1]
    assert "left behind" not in "\n".join(exporter.serving.lines)


def test_a_reload_while_the_helper_hangs(tmp_path: Path, estate: Estate) -> None:
    """
    The helper of a source whose entry has changed is ended at once, however long it may take; the new one answers.
    """
    config = tmp_path / "ssis_exporter.yml"
    with served(tmp_path, estate, source_entry(estate, time_limit="1h"), BESIDE) as exporter:
        exporter.wait_until_up()
        [helper] = exporter.helpers()
        estate.faults("PackageName delay 600")
        assert is_told(exporter, frozenset({"timeout"}), 0, seconds=2)
        estate.faults()
        config.write_text(config.read_text().replace("1h", "2h"))
        exporter.serving.signal(signal.SIGHUP)
        exporter.wait_until_up()

        assert [] == psutil.wait_procs([helper], timeout=30)[1]
        assert 1 == len(exporter.helpers())


def test_pauses_between_helpers_that_fail(tmp_path: Path, estate: Estate) -> None:
    """
    After each failure in a row the next helper waits longer, however often the exporter is scraped; meanwhile the page
    says when, and why.
    """
    starts = estate.folder / "starts"
    script = tmp_path / "counting.py"
    script.write_text(f"import sys; open({str(starts)!r}, 'a').write('one\\n'); sys.exit('no CLR here')")
    entry = source_entry(estate, helper=f'["{sys.executable}", "{script}"]')
    with served(tmp_path, estate, entry, BESIDE) as exporter:
        began = time.monotonic()
        wait_until(lambda: is_told(exporter, frozenset({"unreachable"}), 0), "the first failure")
        while time.monotonic() - began < 4:
            page = exporter.scrape()
            assert (0, 1) == (page.value("ssis_up", source="local"), page.value("ssis_up", source="beside"))
        # At once, then 1, 3 and 7 seconds later, up to a quarter earlier; later on a machine that is busy.
        assert 1 <= len(starts.read_text().split()) <= 2 + math.log2(1 + (time.monotonic() - began) / 0.75)

        wait_until(lambda: NEXT_TRY.search(error_of_local(exporter)), "the next try")
        wait_until(lambda: len(starts.read_text().split()) > 1, "another helper")


NEXT_TRY = re.compile(r"no CLR here; the helper is tried again in \d+ s")


def error_of_local(exporter: Served) -> str:
    """What the page's JSON says of the source, which is down."""
    said = json.loads(exporter.serving.get("/api/v1/executions").text)["sources"]
    return next(source["error"] for source in said if source["name"] == "local")


ENDS = ("SIGKILL", "SIGTERM", "SIGSEGV")
"""By name: not every system has them."""


def test_no_helper_survives_the_exporter(tmp_path: Path, estate: Estate) -> None:
    """
    The exporter is killed, asked to end or crashes, at any moment of the helper's start and while it hangs: none is
    left.
    """
    rng = random.Random(6)
    for number in range(120 if FULL else 6):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        estate.faults(*(["PackageName delay 600"] if number % 2 else []))
        how = getattr(signal, ENDS[number % len(ENDS)])
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
            time.sleep(rng.uniform(0, 1.0))
            exporter.serving.signal(how)
            assert (0 if how == signal.SIGTERM else -how) == exporter.serving.process.wait(60)
            scrape.wait(30)
        assert [] == psutil.wait_procs(helpers_of(pid), timeout=30)[1]


def helpers_of(pid: int) -> list[psutil.Process]:
    """The processes that were told to end with this one."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[-2:] == ["--parent", str(pid)]
    ]
