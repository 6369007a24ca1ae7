"""Bodies that overlapping requests share, and how many may be in flight."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ssis_exporter.errors import SourceTimeout
from ssis_exporter.model import Reading, Scope, Snapshot, SourceInfo, Visibility
from ssis_exporter.pages import Pages, TooManyRequests

BUDGET = timedelta(seconds=20)


class Estate:
    """Gives the readings that a test sets, once its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.readings: list[Reading] = [seen("a")]

    async def read(self, budget: timedelta, names: Collection[str] | None = None) -> list[Reading]:
        """The readings."""
        await self.gate.wait()
        # As the scraper does: new readings of the same looks.
        return [
            Reading(source=each.source, info=each.info, outcome=each.outcome, took=each.took, timed_out=each.timed_out)
            for each in self.readings
        ]


def seen(source: str) -> Reading:
    """A reading that worked."""
    snapshot = Snapshot(source=source, taken_at=datetime.now(UTC), visibility=Visibility(Scope.ALL))
    return Reading(source=source, info=SourceInfo(kind="fake"), outcome=snapshot, took=timedelta(seconds=1))


def late(source: str, seconds: float) -> Reading:
    """A reading that timed out after so long."""
    return Reading(
        source=source,
        info=SourceInfo(kind="fake"),
        outcome=SourceTimeout(f"{source}: late"),
        took=timedelta(seconds=seconds),
        timed_out=True,
    )


class Maker:
    """Makes a different body each time."""

    def __init__(self) -> None:
        self.made = 0
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def __call__(self, readings: Sequence[Reading]) -> bytes:
        """A numbered body."""
        assert self.gate.wait(20)
        self.threads.add(threading.get_ident())
        self.made += 1
        return f"{self.made}".encode()


def run(test: Callable[[Estate, Maker, Pages], Any], *, max_requests: int = 40) -> Any:
    """Runs a test on a loop of its own."""

    async def ran() -> Any:
        estate, maker = Estate(), Maker()
        pages = Pages(estate, max_requests=max_requests)
        try:
            return await test(estate, maker, pages)
        finally:
            maker.gate.set()
            pages.close()

    return asyncio.run(ran())


async def body(pages: Pages, maker: Maker, names: Collection[str] | None = None, kind: str = "text") -> bytes:
    """Asks for a page and has it sent at once."""
    async with pages.page(kind, BUDGET, names, maker) as made:
        return made


def test_overlapping_requests_share_one_body() -> None:
    """
    A hundred that see the same looks get the same bytes, made once, off the event loop.
    """

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        estate.gate.clear()
        asked = [asyncio.ensure_future(body(pages, maker)) for _ in range(100)]
        await asyncio.sleep(0)
        estate.gate.set()
        bodies = set(await asyncio.gather(*asked))

        assert {b"1"} == bodies
        assert 1 == maker.made
        assert threading.get_ident() not in maker.threads
        assert 0 == pages.in_flight

    run(test)


def test_a_later_request_gets_a_body_of_its_own() -> None:
    """
    Nothing is kept once it was sent.
    """

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        assert b"1" == await body(pages, maker)
        assert b"2" == await body(pages, maker)

    run(test)


def test_formats_do_not_share() -> None:
    """
    Only what asks for the same kind of page shares it.
    """

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        async with pages.page("text", BUDGET, None, maker) as text:
            assert text != await body(pages, maker, kind="openmetrics")
            assert text == await body(pages, maker)

    run(test)


def test_those_who_timed_out_together_share() -> None:
    """
    Requests that left a hanging source within the same moment share a body while it is made; later ones do not.
    """

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        estate.readings = [late("a", 9.501)]
        maker.gate.clear()
        first = asyncio.ensure_future(body(pages, maker))
        await asyncio.sleep(0)
        estate.readings = [late("a", 9.502)]
        second = asyncio.ensure_future(body(pages, maker))
        await asyncio.sleep(0)
        maker.gate.set()
        assert await first == await second

        async with pages.page("text", BUDGET, None, maker) as held:
            assert held != await body(pages, maker)

    run(test)


def test_beyond_the_limit_is_refused_and_joining_is_free() -> None:
    """
    Collections count until they are sent; those that join one of them do not count.
    """

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        estate.gate.clear()
        running = [asyncio.ensure_future(body(pages, maker, names)) for names in (["a"], ["b"])]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests):
            await body(pages, maker, ["c"])
        joins = asyncio.ensure_future(body(pages, maker, ["a"]))
        await asyncio.sleep(0)
        estate.gate.set()
        assert {b"1"} == set(await asyncio.gather(*running, joins))
        assert b"2" == await body(pages, maker, ["c"])

    run(test, max_requests=2)


def test_an_answer_that_nobody_reads_counts() -> None:
    """
    A body takes memory until its last byte is sent, and so a place.
    """

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        async with pages.page("text", BUDGET, None, maker):
            estate.readings = [seen("a")]
            with pytest.raises(TooManyRequests):
                await body(pages, maker)
        assert b"2" == await body(pages, maker)

    run(test, max_requests=1)


def test_zero_is_no_limit() -> None:
    """
    With 0 any number is in flight.
    """

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        estate.gate.clear()
        asked = [asyncio.ensure_future(body(pages, maker, [str(number)])) for number in range(100)]
        await asyncio.sleep(0)
        assert 100 == pages.in_flight
        estate.gate.set()
        await asyncio.gather(*asked)

    run(test, max_requests=0)


def test_who_leaves_takes_nothing_from_the_others() -> None:
    """
    One that is given up while the body is made leaves it to the others; when all leave, the place is free.
    """

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        maker.gate.clear()
        leaves, stays = (asyncio.ensure_future(body(pages, maker)) for _ in range(2))
        await asyncio.sleep(0.01)
        leaves.cancel()
        await asyncio.wait([leaves])
        maker.gate.set()
        assert b"1" == await stays
        assert 0 == pages.in_flight

    run(test)


def test_a_page_that_cannot_be_made_fails_and_frees_its_place() -> None:
    """
    An error while making reaches everybody who waits, and is not kept.
    """

    def broken(_: Sequence[Reading]) -> bytes:
        raise ZeroDivisionError

    async def test(estate: Estate, maker: Maker, pages: Pages) -> None:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with pages.page("text", BUDGET, None, broken):
                    raise AssertionError("there is no body")
        assert 0 == pages.in_flight

    run(test, max_requests=1)
