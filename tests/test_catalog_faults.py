"""What goes wrong between the exporter and a server: the right reason, in time, no lie, and a full recovery at once."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from ssis_exporter.collector import Collector
from ssis_exporter.errors import (
    SourceAccessDenied,
    SourceBroken,
    SourceError,
    SourceLoginFailed,
    SourceMissing,
    SourceTimeout,
    SourceUnreachable,
)
from ssis_exporter.model import Snapshot
from ssis_exporter.scrape import Scraper
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog.patience import Patience
from ssis_exporter.sources.catalog.settings import CatalogSettings
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.testing import FakeSource
from tests.catalogs import Rig, ids, make_estate, rig
from tests.tds.engine import SqlError

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"

SHORT = timedelta(seconds=0.3)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, make_estate()) as one:
        one.estate.add(7)
        yield one


Break = Callable[[Rig], None]


def freeze(made: Rig) -> None:
    made.server.freeze()


def thaw(made: Rig) -> None:
    made.server.thaw()


def stop_answering_newcomers(made: Rig) -> None:
    made.server.faults.deaf = True
    made.server.cut_all()


def kill_session(made: Rig) -> None:
    made.server.faults.kill = 2


def cut(made: Rig) -> None:
    made.server.faults.cut = 2


def cut_midway(made: Rig) -> None:
    made.server.faults.cut_midway = 2


def stop_service(made: Rig) -> None:
    made.server.stop_listening()


def start_service(made: Rig) -> None:
    made.server.listen()


def refuse_login(made: Rig) -> None:
    made.server.faults.refuse_login = 18456
    made.server.cut_all()


def expire_password(made: Rig) -> None:
    made.server.faults.refuse_login = 18487
    made.server.cut_all()


def drop_database(made: Rig) -> None:
    made.server.faults.database_missing = True
    made.server.cut_all()


def take_role(made: Rig) -> None:
    made.estate.accounts["exporter"].roles.clear()


def give_role(made: Rig) -> None:
    made.estate.accounts["exporter"].roles.add("ssis_logreader")


def answer(number: int) -> Break:
    def do(made: Rig) -> None:
        made.server.faults.errors = [(number, None)]

    do.__name__ = f"error_{number}"
    return do


def drip(made: Rig) -> None:
    made.server.faults.drip = 0.01


def slow(made: Rig) -> None:
    made.server.faults.delay = 30


def talk_nonsense(made: Rig) -> None:
    made.server.faults.garbage = 1


def nothing(made: Rig) -> None:
    faults = made.server.faults
    faults.refuse_login, faults.database_missing, faults.errors, faults.deaf = None, False, [], False
    faults.drip, faults.delay, faults.garbage = 0.0, 0.0, 0
    faults.cut, faults.cut_midway, faults.kill = 0, 0, 0


FAULTS: list[tuple[Break, Break, type[SourceError]]] = [
    (freeze, thaw, SourceTimeout),
    (drip, nothing, SourceTimeout),
    (slow, nothing, SourceTimeout),
    (stop_answering_newcomers, nothing, SourceTimeout),
    (kill_session, nothing, SourceUnreachable),
    (cut, nothing, SourceUnreachable),
    (cut_midway, nothing, SourceUnreachable),
    (stop_service, start_service, SourceUnreachable),
    (refuse_login, nothing, SourceLoginFailed),
    (expire_password, nothing, SourceLoginFailed),
    (drop_database, nothing, SourceMissing),
    (take_role, give_role, SourceAccessDenied),
    (answer(1205), nothing, SourceTimeout),
    (answer(1222), nothing, SourceTimeout),
    (answer(601), nothing, SourceTimeout),
    (answer(40197), nothing, SourceUnreachable),
    (answer(229), nothing, SourceAccessDenied),
    (answer(208), nothing, SourceMissing),
    (answer(927), nothing, SourceMissing),
    (answer(50000), nothing, SourceBroken),
    (talk_nonsense, nothing, SourceBroken),
]


def limited(made: Rig, reason: type[SourceError]) -> CatalogSettings:
    """A short limit where it decides; the other troubles are told as soon as they happen."""
    return made.settings(time_limit=SHORT) if reason is SourceTimeout else made.settings()


@pytest.mark.parametrize(("do", "undo", "reason"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_each_trouble_has_its_reason_and_leaves_nothing(
    made: Rig, do: Break, undo: Break, reason: type[SourceError]
) -> None:
    """
    Told within the limit, never as an empty answer; the first look after its end is whole, and no end was made up.
    """
    source = made.source()
    assert {7} == ids(source.snapshot())
    generous = source._settings
    source._settings = limited(made, reason)
    do(made)

    began = time.monotonic()
    with pytest.raises(SourceError) as told:
        source.snapshot()
    took = time.monotonic() - began
    undo(made)
    source._settings = generous
    made.estate.add(8)
    seen = source.snapshot()

    assert reason is type(told.value)
    assert str(told.value).startswith("sql01: 127.0.0.1")
    assert took < 5
    assert ({7, 8}, (), False) == (ids(seen), seen.ended, seen.incomplete)


@pytest.mark.parametrize(("do", "undo", "reason"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_trouble_at_the_first_look_is_told_too(made: Rig, do: Break, undo: Break, reason: type[SourceError]) -> None:
    """
    The same at the very first connection; only a login that never had a role is no trouble but a smaller sight.
    """
    source = made.source()
    generous, source._settings = source._settings, limited(made, reason)
    do(made)
    if do is take_role:
        assert set() == ids(source.snapshot())
        return

    with pytest.raises(SourceError) as told:
        source.snapshot()
    undo(made)
    source._settings = generous

    assert {7} == ids(source.snapshot())
    assert reason is type(told.value) or do is talk_nonsense


def test_a_scrape_goes_on_without_the_bad_server(made: Rig) -> None:
    """
    Its `ssis_up` is 0 with the reason counted and no run metrics; the others' runs are there, all within the deadline.
    """
    made.server.freeze()
    registry = CollectorRegistry()
    collector = Collector(executions_per_source=10, keep_user_names=True, registry=registry)
    fake = FakeSource("other")
    fake.start("1")
    source = made.source(settings=made.settings(time_limit=timedelta(seconds=0.5)))
    workers = [SourceWorker(source), SourceWorker(fake)]

    async def scrape(seconds: float) -> dict[str, dict[str, float]]:
        readings = await scraper.read(timedelta(seconds=seconds))
        found: dict[str, dict[str, float]] = {}
        for family in collector.families(readings):
            for sample in family.samples:
                if "source" in sample.labels:
                    found.setdefault(sample.labels["source"], {})[sample.name] = sample.value
        return found

    async def all_of_it() -> tuple[dict[str, dict[str, float]], ...]:
        early = await scrape(0.1)
        late = await scrape(5)
        made.server.thaw()
        return early, late, await scrape(20)

    scraper = Scraper(workers)
    try:
        early, late, healed = asyncio.run(all_of_it())
    finally:
        for worker in workers:
            worker.close()

    runs = "ssis_package_execution_duration_seconds"
    assert [0, 0, 1] == [found["sql01"]["ssis_up"] for found in (early, late, healed)]
    assert [1, 0] == [found["sql01"]["ssis_scrape_timed_out"] for found in (early, late)]
    assert [False, False, True] == [runs in found["sql01"] for found in (early, late, healed)]
    assert all(found["other"]["ssis_up"] == 1 and runs in found["other"] for found in (early, late, healed))
    counted = registry.get_sample_value("ssis_scrape_errors_total", {"source": "sql01", "reason": "timeout"})
    assert counted is None or counted >= 1


def test_many_cycles_of_trouble_leave_nothing_behind(made: Rig) -> None:
    """
    Threads, sockets, files and memory are after many cycles what they were after few.
    """
    cycles = 1000 if FULL else 60
    quick = [fault for fault in FAULTS if fault[0] not in (drip,)]
    source = made.source(settings=made.settings(time_limit=timedelta(seconds=0.08)))
    generous = made.settings(time_limit=timedelta(seconds=20))
    me = psutil.Process()

    def run(count: int) -> None:
        for cycle in range(count):
            do, undo, _ = quick[cycle % len(quick)]
            do(made)
            with pytest.raises(SourceError):
                source.snapshot()
            undo(made)
            source._settings, was = generous, source._settings
            assert {7} == ids(source.snapshot())
            source._settings = was
        made.server.forget()
        gc.collect()

    source._settings, was = generous, source._settings
    source.snapshot()
    source._settings = was
    run(max(len(quick) * 2, cycles // 2))
    made.server.wait_until_count(1)
    before = (threading.active_count(), handles(me), me.memory_info().rss)

    run(cycles)

    made.server.wait_until_count(1)
    assert before[0] >= threading.active_count()
    assert before[1] >= handles(me)
    assert me.memory_info().rss - before[2] < 8 * 2**20


def handles(process: psutil.Process) -> int:
    """Open files and sockets; on Windows handles of every sort."""
    return int(process.num_fds() if hasattr(process, "num_fds") else process.num_handles())


def test_a_source_closes_what_it_opened(made: Rig) -> None:
    """
    No socket and no thread stays after `close`, called twice and also while nothing was opened.
    """
    source = made.source()
    source.close()
    source.snapshot()
    source.close()
    source.close()

    assert made.server.wait_until_empty()
    assert {7} == ids(source.snapshot())


@pytest.mark.parametrize("how", ["restart", "kill", "cut"])
def test_a_kept_connection_that_died_is_no_trouble(made: Rig, how: str) -> None:
    """
    A server that was restarted between two looks, or that ended our session, is simply connected to again.
    """
    source = made.source()
    source.snapshot()
    if how == "restart":
        made.server.stop_listening()
        made.server.listen()
    else:
        setattr(made.server.faults, how, 1)

    assert {7} == ids(source.snapshot())


@pytest.mark.parametrize("at", range(1, 6))
def test_rows_that_moved_while_they_were_read_are_no_trouble(made: Rig, at: int) -> None:
    """
    A query without locks fails with error 601 where the cleanup deletes what it reads; it is asked once more.
    """
    source = made.source()
    source.snapshot()
    newer = made.estate.add(status=4)
    asked = 0

    def fail_one(_: str) -> None:
        nonlocal asked
        asked += 1
        if asked == at:
            raise SqlError(601, "Could not continue scan with NOLOCK due to data movement.", severity=12)

    made.server.before_each = fail_one
    looks = [source.snapshot() for _ in range(5)]

    assert asked >= at
    assert [{7}] * 5 == [ids(seen) for seen in looks]
    assert [str(newer)] == [end.facts.key.instance_id for seen in looks for end in seen.ended]


def test_a_look_that_hangs_ends_with_its_connection(made: Rig) -> None:
    """
    When the connection goes and no new one comes, a look that hangs is no answer.
    """
    source = made.source(settings=made.settings(time_limit=timedelta(minutes=1)))
    source.snapshot()
    outcome: list[Snapshot | SourceError] = []

    def look() -> None:
        try:
            outcome.append(source.snapshot())
        except SourceError as exc:
            outcome.append(exc)

    made.server.freeze()
    thread = threading.Thread(target=look)
    thread.start()
    made.server.wait_until_asked()
    made.server.stop_listening()
    thread.join(30)

    assert isinstance(outcome[0], SourceUnreachable)


def test_a_server_that_is_down_for_long_is_not_hammered() -> None:
    """
    Asked a hundred times a second, it is tried about once a second, with a random share taken off.
    """
    now = [0.0]
    patience = Patience(monotonic=lambda: now[0], jitter=lambda: 0.5)
    tries = 0
    while now[0] < 20:
        now[0] += patience.wait()
        patience.failed()
        tries += 1
        now[0] += 0.01
    patience.succeeded()

    assert 20 <= tries <= 40
    assert 0 == patience.wait()


def test_a_server_that_keeps_silent_is_tried_by_each_scrape() -> None:
    """
    A try that took longer than the pause is followed by another at once.
    """
    now = [0.0]
    patience = Patience(monotonic=lambda: now[0], jitter=lambda: 0.0)
    for _ in range(20):
        assert 0 == patience.wait()
        now[0] += 1.0
        patience.failed()


@pytest.mark.parametrize("failures", [1, 3, 7])
def test_a_trouble_is_over_at_the_first_look_after_it(made: Rig, failures: int) -> None:
    """
    However long it was: a look is never answered by what was so before.
    """
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(seconds)

    source: CatalogSource = made.source(settings=made.settings(time_limit=timedelta(seconds=20)), pause=pause)
    made.server.stop_listening()
    for _ in range(failures):
        with pytest.raises(SourceUnreachable):
            source.snapshot()
    made.server.listen()

    assert {7} == ids(source.snapshot())
    assert (failures > 3, True) == (bool(waits), all(0 < wait <= 1 for wait in waits))


def test_a_server_is_not_waited_for_longer_than_the_scrape_waits(made: Rig) -> None:
    """
    One that says nothing is given up a little before the scrape is, whatever the time limit.
    """
    source = made.source(settings=made.settings(time_limit=timedelta(minutes=5)))
    source.snapshot()
    made.server.faults.delay = 200
    for asked, silence in ((8, 6.0), (1, 0.75), (0.001, 0.3)):
        source.asked_within = timedelta(seconds=asked)
        assert silence == source._deadline().wait
    began = time.monotonic()
    with pytest.raises(SourceTimeout):
        source.snapshot()

    assert time.monotonic() - began < 100
    assert source._deadline().left > 200


def test_what_nobody_waits_for_leaves_a_server_alone_that_is_down(made: Rig) -> None:
    """
    Reading the past would only hold up the look that finds out whether it is back; after that, it is read again.
    """
    made.estate.add(6, status=4)
    source = made.source()
    source.snapshot()
    made.server.stop_listening()
    with pytest.raises(SourceUnreachable, match="port"):
        source.snapshot()
    made.server.listen()

    for ask in (lambda: source.past(""), lambda: source.first_error("6")):
        with pytest.raises(SourceUnreachable, match="left alone until it answers"):
            ask()
    assert {7} == ids(source.snapshot())
    assert 1 == len(source.past("")[0])
    assert "" == source.first_error("6")


def test_a_server_that_is_slow_but_speaks_is_waited_for(made: Rig) -> None:
    """
    The time limit is for a look as a whole; what the scrape waits for is the longest silence in it.
    """
    source = made.source(settings=made.settings(time_limit=timedelta(minutes=5)))
    source.asked_within = timedelta(seconds=1)
    made.server.faults.delay = 0.3
    began = time.monotonic()

    assert {7} == ids(source.snapshot())
    assert time.monotonic() - began > 1
