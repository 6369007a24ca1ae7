"""One scrape: all sources at the same time, under its own deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from ssis_exporter.errors import SourceBroken, SourceError, SourceTimeout, SourceUnreachable
from ssis_exporter.model import Reading, Snapshot
from ssis_exporter.scrape import Scraper, scrape_budget
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.testing import FakeSource

T = TypeVar("T")

LONG = timedelta(seconds=20)
SHORT = timedelta(milliseconds=50)
MARGIN = timedelta(seconds=0.5)


class Estate:
    """Some sources with their workers."""

    def __init__(self, *names: str) -> None:
        self.sources = {name: FakeSource(name) for name in names}
        self.workers = [SourceWorker(source) for source in self.sources.values()]

    def run(self, make: Any) -> Any:
        """Runs a coroutine that takes a scraper."""

        async def ran() -> Any:
            return await make(Scraper(self.workers))

        return asyncio.run(ran())

    def close(self) -> None:
        for source in self.sources.values():
            source.gate.set()
        for worker in self.workers:
            assert worker.close(20)


@pytest.fixture
def estate() -> Iterator[Estate]:
    made = Estate("a", "b", "c")
    yield made
    made.close()


def outcomes(readings: list[Reading]) -> dict[str, type]:
    """What kind of outcome each source gave."""
    return {reading.source: type(reading.outcome) for reading in readings}


async def in_thread(function: Any) -> None:
    """Waits for a blocking function without blocking the loop."""
    assert await asyncio.to_thread(function)


def begun(source: FakeSource) -> Coroutine[Any, Any, None]:
    """Until one more look of this source has begun."""
    return in_thread(lambda: source.began.acquire(timeout=20))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 9.5),
        ("10", 9.5),
        ("1.5", 1.0),
        ("0.6", 0.3),
        ("1", 0.5),
        ("3600", 3599.5),
        ("3601", 9.5),
        ("0", 9.5),
        ("-1", 9.5),
        ("nan", 9.5),
        ("inf", 9.5),
        ("-inf", 9.5),
        ("1e400", 9.5),
        ("", 9.5),
        ("soon", 9.5),
        ("1e-9", 5e-10),
    ],
)
def test_budget_of_a_scrape(header: str | None, seconds: float) -> None:
    """
    The scrape's timeout less the margin, at least half of it; what is no sensible number counts as ten seconds.
    """
    assert timedelta(seconds=seconds) == scrape_budget(header, MARGIN)


def test_one_reading_per_source_in_their_order(estate: Estate) -> None:
    """
    Every source is read, in the order of the configuration.
    """
    readings = estate.run(lambda scraper: scraper.read(LONG))

    assert ["a", "b", "c"] == [reading.source for reading in readings]
    assert {"a": Snapshot, "b": Snapshot, "c": Snapshot} == outcomes(readings)


def test_only_named_sources_are_read(estate: Estate) -> None:
    """
    Where names are given, no other source is asked.
    """
    readings = estate.run(lambda scraper: scraper.read(LONG, ["c", "a"]))

    assert ["a", "c"] == [reading.source for reading in readings]
    assert 0 == estate.sources["b"].calls


def test_no_source_is_no_reading() -> None:
    """
    Without sources a scrape is empty at once.
    """
    assert [] == Estate().run(lambda scraper: scraper.read(LONG))


def test_a_source_that_hangs_is_reported_and_delays_nobody(estate: Estate) -> None:
    """
    At the deadline the one that hangs is a timeout; the others have answered.
    """
    estate.sources["b"].gate.clear()
    readings = estate.run(lambda scraper: scraper.read(SHORT))

    assert {"a": Snapshot, "b": SourceTimeout, "c": Snapshot} == outcomes(readings)
    assert [False, True, False] == [reading.timed_out for reading in readings]
    assert "b: no answer within 0.05 s; the call is still running" == str(readings[1].outcome)
    assert readings[1].took >= SHORT


def test_a_source_that_raises_takes_nothing_from_the_others(estate: Estate) -> None:
    """
    An error, foreseen or not, is the outcome of that source alone.
    """
    estate.sources["a"].fail_with = SourceUnreachable("a: down")
    estate.sources["b"].fail_with = ZeroDivisionError("b")
    readings = estate.run(lambda scraper: scraper.read(LONG))

    assert {"a": SourceUnreachable, "b": SourceBroken, "c": Snapshot} == outcomes(readings)


def test_a_hanging_call_is_never_started_twice_and_recovers(estate: Estate) -> None:
    """
    Scrapes that come while a call hangs wait for that call; when it returns, the scrape that waits has its answer.
    """
    hung = estate.sources["b"]
    hung.gate.clear()

    async def scrape(scraper: Scraper) -> tuple[list[Reading], list[Reading], list[Reading]]:
        first = await scraper.read(SHORT)
        second = await scraper.read(SHORT)
        third = asyncio.ensure_future(scraper.read(LONG))
        await asyncio.sleep(0)
        hung.gate.set()
        return first, second, await third

    first, second, third = estate.run(scrape)

    assert [SourceTimeout, SourceTimeout, Snapshot] == [outcomes(each)["b"] for each in (first, second, third)]
    assert 1 == hung.calls


def test_a_look_of_an_earlier_scrape_that_fails_is_not_the_answer(estate: Estate) -> None:
    """
    The connection that an earlier scrape waited for in vain is given up; what is wrong now is asked anew, once.
    """

    class Recovering(FakeSource):
        """Fails once."""

        def snapshot(self) -> Snapshot:
            try:
                return super().snapshot()
            finally:
                self.fail_with = None

    hung = estate.sources["b"] = Recovering("b")
    estate.workers[1] = SourceWorker(hung)
    hung.gate.clear()
    hung.fail_with = SourceTimeout("b: no answer in time")

    async def scrape(scraper: Scraper) -> list[Reading]:
        await scraper.read(SHORT)
        next_one = asyncio.ensure_future(scraper.read(LONG))
        await asyncio.sleep(0)
        hung.gate.set()
        return await next_one

    assert {"a": Snapshot, "b": Snapshot, "c": Snapshot} == outcomes(estate.run(scrape))
    assert 2 == hung.calls


def test_a_source_that_stays_in_trouble_is_asked_once_more_only(estate: Estate) -> None:
    """
    A second failure is the answer; and a look that the scrape itself began is not repeated.
    """
    hung = estate.sources["b"]
    hung.gate.clear()
    hung.fail_with = SourceUnreachable("b: down")

    async def scrape(scraper: Scraper) -> list[Reading]:
        await scraper.read(SHORT)
        next_one = asyncio.ensure_future(scraper.read(LONG))
        await asyncio.sleep(0)
        hung.gate.set()
        return [*await next_one, *await scraper.read(LONG)]

    assert SourceUnreachable is outcomes(estate.run(scrape))["b"]
    assert 3 == hung.calls


def test_a_hundred_overlapping_scrapes_cause_one_call_and_none_fails(estate: Estate) -> None:
    """
    Scrapes that overlap share the look that runs, each source's.
    """
    for source in estate.sources.values():
        source.gate.clear()

    async def scrape(scraper: Scraper) -> list[list[Reading]]:
        first = asyncio.ensure_future(scraper.read(LONG))
        await asyncio.gather(*(begun(source) for source in estate.sources.values()))
        others = [asyncio.ensure_future(scraper.read(LONG)) for _ in range(99)]
        await asyncio.sleep(0)
        for source in estate.sources.values():
            source.gate.set()
        return await asyncio.gather(first, *others)

    scrapes = estate.run(scrape)

    assert [1, 1, 1] == [source.calls for source in estate.sources.values()]
    assert {(Snapshot, Snapshot, Snapshot)} == {tuple(outcomes(each).values()) for each in scrapes}
    assert 3 == len({id(reading.outcome) for each in scrapes for reading in each})


def test_each_scrape_keeps_its_own_deadline(estate: Estate) -> None:
    """
    Of two that wait for the same call, the hurried one leaves and the patient one gets the answer.
    """
    slow = estate.sources["a"]
    slow.gate.clear()

    async def scrape(scraper: Scraper) -> tuple[list[Reading], list[Reading]]:
        patient = asyncio.ensure_future(scraper.read(LONG))
        hurried = await scraper.read(SHORT)
        slow.gate.set()
        return hurried, await patient

    hurried, patient = estate.run(scrape)

    assert (SourceTimeout, Snapshot) == (outcomes(hurried)["a"], outcomes(patient)["a"])
    assert 1 == slow.calls


def test_a_scrape_that_is_given_up_takes_nothing_from_the_others(estate: Estate) -> None:
    """
    When a scraper hangs up, those who wait for the same look still get it.
    """
    source = estate.sources["a"]
    source.gate.clear()

    async def scrape(scraper: Scraper) -> list[Reading]:
        gives_up = asyncio.ensure_future(scraper.read(LONG))
        stays = asyncio.ensure_future(scraper.read(LONG))
        await begun(source)
        gives_up.cancel()
        await asyncio.wait([gives_up])
        source.gate.set()
        return await stays

    readings = estate.run(scrape)

    assert not any(isinstance(reading.outcome, SourceError) for reading in readings)


def test_a_call_that_hangs_for_days_collects_nothing(estate: Estate) -> None:
    """
    However many scrapes wait for one call, it holds one callback.
    """
    hung = estate.sources["a"]
    hung.gate.clear()

    async def scrape(scraper: Scraper) -> int:
        for _ in range(20):
            await scraper.read(timedelta(milliseconds=1))
        return len(estate.workers[0].look()._done_callbacks)

    assert 1 == estate.run(scrape)


def test_who_ends_makes_everybody_hurry(estate: Estate) -> None:
    """
    Once the exporter ends, whoever waits is answered soon with what is there, and so is who comes later.
    """
    estate.sources["a"].gate.clear()

    async def scrape(scraper: Scraper) -> tuple[list[Reading], list[Reading]]:
        patient = asyncio.ensure_future(scraper.read(LONG))
        await begun(estate.sources["a"])
        scraper.hurry(SHORT)
        return await patient, await scraper.read(LONG)

    patient, later = estate.run(scrape)

    assert {"a": SourceTimeout, "b": Snapshot, "c": Snapshot} == outcomes(patient)
    assert SourceTimeout is outcomes(later)["a"]


def test_a_scrape_that_is_short_already_is_not_made_longer(estate: Estate) -> None:
    """
    Ending gives nobody more time than it had.
    """
    estate.sources["a"].gate.clear()

    async def scrape(scraper: Scraper) -> list[Reading]:
        short = asyncio.ensure_future(scraper.read(SHORT))
        await begun(estate.sources["a"])
        scraper.hurry(LONG)
        return await short

    assert SourceTimeout is outcomes(estate.run(scrape))["a"]


def test_other_workers_from_now_on(estate: Estate) -> None:
    """
    After a reload the new sources are asked, and a scrape that waits gets the answers of those it asked.
    """
    first, second = estate.sources["a"], estate.workers[1:]
    first.gate.clear()

    async def scrape(scraper: Scraper) -> tuple[list[Reading], list[Reading]]:
        waits = asyncio.ensure_future(scraper.read(LONG))
        await begun(first)
        scraper.use(second)
        later = await scraper.read(LONG)
        first.gate.set()
        return await waits, later

    waited, later = estate.run(scrape)

    assert {"a": Snapshot, "b": Snapshot, "c": Snapshot} == outcomes(waited)
    assert {"b": Snapshot, "c": Snapshot} == outcomes(later)
