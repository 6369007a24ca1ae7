"""
The supervised helper of the source `dts`: what becomes of one that hangs, crashes, lies, or is not there.

Through the real helper and the real pythonnet on Mono where it can be; what that never does, a few lines of Python do.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from ssis_exporter.errors import (
    SourceAccessDenied,
    SourceBroken,
    SourceError,
    SourceMissing,
    SourceTimeout,
    SourceUnreachable,
)
from ssis_exporter.model import StopReply
from ssis_exporter.sources.dts import DtsSource
from ssis_exporter.sources.dts.process import LONGEST_LINE
from ssis_exporter.sources.dts.supervisor import Patience
from tests.dts.assemblies import Gac
from tests.dts.estate import (
    QUICK,
    Estate,
    Package,
    fake_helper,
    settings,
    source_on,
    ticks,
    until_answered,
    until_not_starting,
)
from tests.stack import wait_until

pytest_plugins = ("tests.dts.fixtures",)
pytestmark = pytest.mark.real

HELLO = 'import sys; print(\'{"hello":1,"pid":1,"release":160,"assembly":"x"}\', flush=True); sys.stdin.readline()'

MadeOf = Callable[[str], DtsSource]


@pytest.fixture
def made_of(tmp_path: Path, gac: Gac) -> Iterator[MadeOf]:
    """Makes a source whose helper is these lines of Python; it is closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(script: str) -> DtsSource:
            helper = fake_helper(tmp_path, script)
            source = DtsSource("local", settings(gac, helper=helper), patience=QUICK)
            stack.callback(source.close)
            return source

        yield make


@pytest.mark.parametrize("member", ["ctor", "list", "enumerate", "PackageName"])
def test_a_hang_is_ended_and_recovered_from(estate: Estate, member: str) -> None:
    """
    A helper that hangs in managed code is ended at the time limit; the next look has a new one.
    """
    estate.add(Package("Load"))
    with source_on(estate, time_limit=timedelta(seconds=1.5)) as source:
        if member != "ctor":
            until_answered(source)
            estate.packages[0] = Package("Load")
            estate.write()
        estate.faults(f"{member} delay 600")
        with pytest.raises(SourceTimeout, match="was ended"):
            until_not_starting(source)
        estate.faults()

        assert 1 == len(until_answered(source).executions)


def test_a_hung_stop_is_no_answer(estate: Estate) -> None:
    """
    A Stop that hangs is an error of the source: nobody can say whether it arrived.
    """
    estate.add(Package("Load"))
    with source_on(estate, time_limit=timedelta(seconds=1.5)) as source:
        [run] = until_answered(source).executions
        estate.faults("stop delay 600")
        with pytest.raises(SourceTimeout):
            source.request_stop(run)


def test_giving_up_cuts_a_look_short_but_no_stop(
    estate: Estate, source: DtsSource, children: Callable[[], list[psutil.Process]]
) -> None:
    """
    When the exporter ends, a stop that is being asked gets its answer; a look does not, nor does any that comes.
    """
    package = estate.add(Package("Load"))
    [run] = source.snapshot().executions
    with ThreadPoolExecutor(1) as thread:
        estate.faults("stop delay 1")
        stop = thread.submit(source.request_stop, run)
        wait_until((estate.folder / "stop.hangs").exists, "the call of Stop")
        source.give_up()
        assert StopReply.ACCEPTED == stop.result(60)
        for _ in range(2):
            with pytest.raises(SourceUnreachable, match="is closing this source"):
                thread.submit(source.snapshot).result(60)

    assert [package.instance] == estate.stops()
    assert [] == children()


def test_a_crash_is_recovered_from(estate: Estate, source: DtsSource) -> None:
    """
    A helper that dies with its CLR is an error that says so; the next look has a new one.
    """
    estate.add(Package("Load"))
    source.snapshot()
    estate.packages[0] = Package("Load")
    estate.write()
    estate.faults("PackageName crash")
    with pytest.raises(SourceUnreachable, match="ended with status"):
        source.snapshot()
    estate.faults()

    assert 1 == len(until_answered(source).executions)


def test_of_a_helper_that_is_killed_nothing_else_is_told(
    estate: Estate, source: DtsSource, children: Callable[[], list[psutil.Process]]
) -> None:
    """
    What a library said at the start of a helper is not told as the reason of its end.
    """
    source.snapshot()
    children()[0].kill()
    with pytest.raises(SourceUnreachable, match=r"ended with status -9$"):
        source.snapshot()


def test_junk_from_managed_code_does_not_reach_the_protocol(estate: Estate, source: DtsSource) -> None:
    """
    What managed code prints goes to the log, not into the answers.
    """
    estate.add(Package("Load"))
    estate.faults("list junk")

    assert 1 == len(source.snapshot().executions)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("print('hello')", "did not say hello"),
        ('print(\'{"hello": 99, "pid": 1, "release": 160, "assembly": "x"}\')', "protocol 99"),
        ("import sys; sys.exit('no CLR here')", "no CLR here"),
        ("import sys; sys.exit('no CLR here\\n=====')", "no CLR here"),
        (f"{HELLO}; print('segfault at 0', flush=True); sys.stdin.readline()", "understood"),
        (f'{HELLO}; print(\'{{"id":1,"ok":{{"running":7}}}}\', flush=True); sys.stdin.readline()', "understood"),
        (
            f'{HELLO}; print(\'{{"id":1,"ok":{{"running":["\\\\ud800"]}}}}\', flush=True); sys.stdin.readline()',
            "understood",
        ),
        (f'{HELLO}; sys.stdout.buffer.write(b\'{{"id":1,"ok":{{"running":["\\xff"]}}}}\\n\')', "understood"),
        ("import sys; sys.stdout.buffer.write(b'{\"\\xff\": 1}\\n')", "did not say hello"),
        ("print('{\"hello\":' + '[' * 100_000, flush=True); input()", "did not say hello"),
        (f"{HELLO}; print('{{\"id\":1,\"x\":' + '[' * 100_000, flush=True); sys.stdin.readline()", "understood"),
    ],
)
def test_what_is_no_answer_ends_the_helper(
    made_of: MadeOf, script: str, error: str, children: Callable[[], list[psutil.Process]]
) -> None:
    """
    A helper that says what it must not is ended and named; nothing of it is shown.
    """
    source = made_of(script)
    with pytest.raises(SourceError, match=error):
        until_not_starting(source)
    source.close()

    assert [] == children()


@pytest.mark.parametrize("hresult", [0x80070005, 0x80070005 - 2**32])
def test_another_helper_may_tell_an_hresult_with_its_sign(made_of: MadeOf, hresult: int) -> None:
    """
    .NET's HRESULT is a signed number; told as it is, it means the same.
    """
    said = json.dumps({"id": 1, "error": {"type": "COMException", "hresult": hresult}})
    script = f"{HELLO}; print({said!r}, flush=True); sys.stdin.readline()"
    source = made_of(script)
    with pytest.raises(SourceAccessDenied, match="HRESULT 0x80070005"):
        until_not_starting(source)


def test_a_slow_start_goes_on_between_looks(estate: Estate) -> None:
    """
    A helper that needs longer to start than a look may take is not ended by the look.
    """
    estate.add(Package("Load"))
    with source_on(estate, time_limit=timedelta(milliseconds=50)) as source:
        with pytest.raises(SourceTimeout, match="still starting"):
            source.snapshot()

        assert 1 == len(until_answered(source).executions)


def test_a_machine_that_has_no_thread_left(
    estate: Estate, source: DtsSource, children: Callable[[], list[psutil.Process]]
) -> None:
    """
    A helper to which nobody could listen is not started; that is told, and passes.
    """
    usual = threading.stack_size(1 << 48)
    try:
        with pytest.raises(SourceUnreachable, match="cannot be started"):
            source.snapshot()
    finally:
        threading.stack_size(usual)
    assert [] == children()

    assert () == until_answered(source).executions


def test_a_program_that_is_none(gac: Gac) -> None:
    """
    A helper's command that names nothing is missing, not out of reach.
    """
    source = DtsSource("local", settings(gac, helper=("/nowhere/helper",)), patience=QUICK)
    with pytest.raises(SourceMissing, match="/nowhere/helper"):
        source.snapshot()


def test_an_answer_that_breaks_off_is_the_end_of_its_helper(made_of: MadeOf) -> None:
    """
    Of a helper that ends within a line its end is told, not the piece of a line.
    """
    script = f"{HELLO}; print('{{\"id\":1,\"ok\":', end='', flush=True); sys.exit('out of memory')"
    source = made_of(script)
    with pytest.raises(SourceUnreachable, match="ended with status 1: out of memory"):
        until_not_starting(source)


def test_a_helper_that_closes_its_output_and_lives(
    made_of: MadeOf, children: Callable[[], list[psutil.Process]]
) -> None:
    """
    It is ended, and its exit status, which is ours then, is not told as its own.
    """
    script = f"{HELLO}; import os, time; os.close(1); time.sleep(600)"
    source = made_of(script)
    with pytest.raises(SourceUnreachable, match=r"closed its output and was ended$"):
        until_not_starting(source)

    assert [] == children()


def test_a_line_without_end_is_read_no_further(made_of: MadeOf) -> None:
    """
    A helper that writes on and on within one line is ended, and what it wrote does not pile up in the exporter.
    """
    script = f"{HELLO}; print('x' * (LONGEST + 1), end='', flush=True); sys.stdin.readline()"
    script = f"LONGEST = {LONGEST_LINE}; {script}"
    source = made_of(script)
    with pytest.raises(SourceBroken, match="understood"):
        until_not_starting(source)


def test_pauses_after_failures(tmp_path: Path, gac: Gac) -> None:
    """
    After a failure the next helper waits, longer each time, and the error meanwhile is the one that was.
    """
    command = fake_helper(tmp_path, "import sys; sys.exit('no CLR here')")
    patience = Patience(first_pause=timedelta(hours=1), longest_pause=timedelta(hours=4))
    source = DtsSource("local", settings(gac, helper=command), patience=patience)
    with pytest.raises(SourceUnreachable, match="no CLR here"):
        until_not_starting(source)
    with pytest.raises(SourceUnreachable, match=r"no CLR here; the helper is tried again in \d+ s"):
        source.snapshot()
    source.close()


def test_release_that_is_missing(estate: Estate, children: Callable[[], list[psutil.Process]]) -> None:
    """
    17.0 is missing and 16.0 found where no release is asked for; asked for by number, a missing one is an error.
    """
    with source_on(estate) as newest, source_on(estate, release=150) as older, source_on(estate, release=170) as none:
        newest.snapshot()
        older.snapshot()
        with pytest.raises(SourceMissing, match="not installed"):
            none.snapshot()

        assert ("16.0.0.0", "15.0.0.0") == (newest.info.version, older.info.version)
        assert 2 == len(children())


SERVICES = """
import json, sys
from pathlib import Path
release, here = int(sys.argv[sys.argv.index("--release") + 1]), Path({here!r})
def say(**what): print(json.dumps(what), flush=True)
say(hello=1, pid=1, release=release, assembly=f"X, Version={{release // 10}}.0.0.0", elevated=True)
for line in sys.stdin:
    number = json.loads(line)["id"]
    if not (here / str(release)).exists():
        say(id=number, error={{"type": "DtsRuntimeException", "hresult": 0xC00160AA}})
    else:
        running = (here / str(release)).read_text().split()
        rows = [{{"instance": one, "name": "Load", "start_ticks": {start}}} for one in running]
        say(id=number, ok={{"running": running, "rows": rows}})
"""
"""Each SSIS service that runs is a file with its packages."""


def test_what_another_release_does_not_list_has_not_ended(tmp_path: Path, gac: Gac) -> None:
    """
    A source whose service is gone while packages run there does not take another release's list for its own, not even
    after a restart; when nothing ran there, it does.
    """
    began = datetime(2024, 1, 15, 12)
    helper = fake_helper(tmp_path, SERVICES.format(here=str(tmp_path), start=ticks(began)))

    def services() -> list[int]:
        return [release for release in (160, 150) if (tmp_path / str(release)).exists()]

    def made() -> DtsSource:
        return DtsSource("local", settings(gac, helper=helper), patience=QUICK, services=services)

    (tmp_path / "160").write_text("6f0e0000-0000-0000-0000-000000000001")
    (tmp_path / "150").write_text("")
    source = made()
    first = until_answered(source)
    (tmp_path / "160").unlink()
    for _ in range(4):
        with pytest.raises(SourceUnreachable):
            until_not_starting(source)
    source.close()
    later, elsewhere = made(), made()
    later.resume(first.bookmark, ["6f0e0000-0000-0000-0000-000000000001"])
    elsewhere.resume(first.bookmark, [])
    for _ in range(4):
        with pytest.raises(SourceUnreachable):
            until_not_starting(later)
    assert () == until_answered(elsewhere).executions
    elsewhere.close()
    (tmp_path / "160").write_text("")
    assert () == until_answered(later).executions
    (tmp_path / "160").unlink()
    (tmp_path / "150").write_text("6f0e0000-0000-0000-0000-000000000002")
    [other] = until_answered(later).executions
    later.close()

    assert ["Load"] == [run.facts.package_name for run in first.executions]
    assert "15.0.0.0" == later.info.version
    # That the other one's list did not show it tells nothing of its start.
    assert (began.astimezone(), False) == (other.facts.started_at, other.facts.start_uncertain)


def test_a_helper_outlives_the_thread_that_asked_first(
    estate: Estate, source: DtsSource, children: Callable[[], list[psutil.Process]]
) -> None:
    """
    The kernel ties a helper to the thread that started it: that is none of those that ask.
    """
    estate.add(Package("Load"))
    first = threading.Thread(target=source.snapshot)
    first.start()
    first.join()
    [helper] = children()

    assert 1 == len(source.snapshot().executions)
    assert [helper] == children()


def test_what_a_helper_started_ends_with_it(made_of: MadeOf) -> None:
    """
    A helper that started a program which holds its output is ended with that program, and in time.
    """
    mark = uuid.uuid4().hex
    script = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {mark!r}])
{HELLO}
"""
    source = made_of(script)
    with pytest.raises(SourceError):
        until_not_starting(source)
    source.close()
    left = [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])]
    _, alive = psutil.wait_procs(left, timeout=30)

    assert [] == alive


def test_a_helper_that_talks_without_end_is_read_no_further(made_of: MadeOf) -> None:
    """
    What nobody asked for does not pile up in the exporter.
    """
    script = f"{HELLO}; import itertools; [print('x' * 65536, flush=True) for _ in itertools.count()]"
    source = made_of(script)
    with pytest.raises(SourceBroken, match="understood"):
        until_not_starting(source)


def test_an_answer_may_be_spaced_as_its_writer_likes(made_of: MadeOf) -> None:
    """
    Another helper's JSON may hold spaces and keys in any order.
    """
    said = '{"ok": {"rows": [], "running": []}, "id": 1}'
    script = f"{HELLO}; print({said!r}, flush=True); sys.stdin.readline()"
    source = made_of(script)

    assert () == until_answered(source).executions


def test_an_old_helper_is_replaced(estate: Estate, children: Callable[[], list[psutil.Process]]) -> None:
    """
    A helper that reached its age is replaced between two looks, and what is known of the runs stays.
    """
    estate.add(Package("Load"))
    with source_on(estate, patience=Patience(life=timedelta(0))) as source:
        [first] = source.snapshot().executions
        old = children()[0].pid
        [second] = source.snapshot().executions

        assert old != children()[0].pid
        assert first.facts is second.facts


def test_memory_of_the_helper_stays_flat(
    estate: Estate, source: DtsSource, children: Callable[[], list[psutil.Process]]
) -> None:
    """
    Many listings do not grow the helper.
    """
    listings = 20_000 if os.environ.get("SSIS_EXPORTER_FULL") == "1" else 600
    for number in range(10):
        # Of those without a name every look reads every property.
        estate.add(Package("Load" if number % 2 else ""))
    for _ in range(300):
        source.snapshot()
    helper = children()[0]
    before = helper.memory_info().rss
    for _ in range(listings):
        source.snapshot()
    after = helper.memory_info().rss

    print(f"the helper over {listings} listings: {before / 2**20:.1f} to {after / 2**20:.1f} MiB")
    assert after < before + 4 * 1024 * 1024
