"""Names of servers are resolved by a function of the system that knows no time limit; a look has one all the same."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ssis_exporter.errors import SourceTimeout, SourceUnreachable
from ssis_exporter.sources.catalog.address import connect
from ssis_exporter.sources.catalog.aside import MOST_AT_ONCE
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.resolver import Resolver
from ssis_exporter.sources.catalog.settings import ServerAddress
from tests.catalogs import make_estate, rig

SOON = 0.05
"""Seconds after which a name counts as hanging, in these tests."""

WAIT = 20.0
"""Seconds for what should come at once."""

ONE = (socket.AF_INET, ("10.0.0.1", 1433))


class System:
    """`socket.getaddrinfo` as far as it matters: hangs while told to."""

    def __init__(self) -> None:
        self.works = threading.Event()
        self.works.set()
        self.asked = 0
        self.fails_with: Exception | None = None
        self.running = 0
        self._changed = threading.Condition()

    def __call__(self, host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        with self._changed:
            self.asked += 1
            self.running += 1
        try:
            self.works.wait()
            if self.fails_with is not None:
                raise self.fails_with
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))] * 2
        finally:
            with self._changed:
                self.running -= 1
                self._changed.notify_all()

    def recover(self) -> None:
        """Everything that hung is answered."""
        self.works.set()
        with self._changed:
            assert self._changed.wait_for(lambda: self.running == 0, WAIT)


@pytest.fixture
def system() -> Iterator[System]:
    one = System()
    yield one
    one.recover()


def finished(resolver: Resolver) -> None:
    """Waits until every answer that is left can be taken: the system has answered a moment before."""
    for question in resolver._left["sql01", 1433]:
        question.answer.exception(WAIT)


def test_each_address_is_given_once(system: System) -> None:
    """
    And each look asks anew: where a server is, may change.
    """
    resolver = Resolver(system)

    assert [ONE] == resolver.addresses("sql01", 1433, WAIT)
    assert [ONE] == resolver.addresses("sql01", 1433, WAIT)
    assert 2 == system.asked


def test_a_name_that_hangs_is_given_up_and_leaves_few_threads(system: System) -> None:
    """
    However often it is asked for, only few questions hang; other names go on; afterwards all is as before.
    """
    resolver = Resolver(system)
    system.works.clear()
    before = threading.active_count()

    for _ in range(50):
        with pytest.raises(SourceTimeout, match="the name sql01 was not resolved in time"):
            resolver.addresses("sql01", 1433, SOON / 50)
    assert MOST_AT_ONCE == system.asked
    assert threading.active_count() <= before + MOST_AT_ONCE
    with pytest.raises(SourceTimeout, match="sql02"):
        resolver.addresses("sql02", 1433, SOON)
    assert MOST_AT_ONCE + 1 == system.asked

    system.recover()
    assert [ONE] == resolver.addresses("sql01", 1433, WAIT)


def test_who_comes_while_all_hang_is_answered_with_them(system: System) -> None:
    """
    The newest question that hangs is waited for like a new one.
    """
    resolver = Resolver(system)
    system.works.clear()
    for _ in range(MOST_AT_ONCE):
        with pytest.raises(SourceTimeout):
            resolver.addresses("sql01", 1433, SOON)
    found: list[Any] = []
    asks = threading.Thread(target=lambda: found.append(resolver.addresses("sql01", 1433, WAIT)))
    asks.start()
    system.recover()
    asks.join(WAIT)

    assert [[ONE]] == found
    assert MOST_AT_ONCE == system.asked


def test_a_question_that_hangs_does_not_hold_up_the_next(system: System) -> None:
    """
    One that went to a server of names which was down must not be waited for when it is up again.
    """
    resolver = Resolver(system)
    works, system.works = system.works, threading.Event()
    with pytest.raises(SourceTimeout):
        resolver.addresses("sql01", 1433, SOON)
    hangs, system.works = system.works, works

    assert [ONE] == resolver.addresses("sql01", 1433, WAIT)
    hangs.set()


def test_a_late_answer_is_for_who_asks_next(system: System) -> None:
    """
    Otherwise a resolver that always takes longer than a look may would never lead anywhere; but only once.
    """
    resolver = Resolver(system)
    system.works.clear()
    with pytest.raises(SourceTimeout):
        resolver.addresses("sql01", 1433, SOON)
    system.recover()
    finished(resolver)

    assert [ONE] == resolver.addresses("sql01", 1433, WAIT)
    assert 1 == system.asked
    assert [ONE] == resolver.addresses("sql01", 1433, WAIT)
    assert 2 == system.asked


def test_a_late_answer_is_for_nobody_where_a_newer_one_came(system: System) -> None:
    """
    Where the server is may have changed since.
    """
    resolver = Resolver(system)
    works, system.works = system.works, threading.Event()
    with pytest.raises(SourceTimeout):
        resolver.addresses("sql01", 1433, SOON)
    hangs, system.works = system.works, works
    resolver.addresses("sql01", 1433, WAIT)
    hangs.set()
    system.recover()
    finished(resolver)

    assert [ONE] == resolver.addresses("sql01", 1433, WAIT)
    assert 3 == system.asked


def test_a_late_refusal_is_for_nobody(system: System) -> None:
    """
    The name is asked for again.
    """
    resolver = Resolver(system)
    system.works.clear()
    system.fails_with = socket.gaierror(-3, "Temporary failure in name resolution")
    with pytest.raises(SourceTimeout, match="in time"):
        resolver.addresses("sql01", 1433, SOON)
    system.recover()
    finished(resolver)

    system.fails_with = None
    assert [ONE] == resolver.addresses("sql01", 1433, WAIT)


def test_a_refusal_is_told_in_the_systems_words(system: System) -> None:
    """
    And the name is asked for again by the next look.
    """
    resolver = Resolver(system)
    system.fails_with = socket.gaierror(-3, "Temporary failure in name resolution")
    for _ in range(2):
        with pytest.raises(SourceUnreachable, match="the name sql01 leads nowhere: Temporary failure"):
            resolver.addresses("sql01", 1433, WAIT)

    assert 2 == system.asked


@pytest.mark.parametrize("instance", ["", "SQL2022"])
def test_a_look_gives_up_a_name_that_hangs(system: System, instance: str) -> None:
    """
    After one wait, as it gives up a server that says nothing, and with the same reason: the one that a scrape tells
    whose own time ends before. By port and by the name of an instance.
    """
    system.works.clear()
    deadline = Deadline(timedelta(minutes=5), silence=timedelta(seconds=SOON))

    with pytest.raises(SourceTimeout, match="the name sql01 was not resolved in time"):
        connect(ServerAddress("sql01", None if instance else 1433, instance), deadline, resolver=Resolver(system))

    assert deadline.left > 240


def test_the_system_is_asked(tmp_path: Any) -> None:
    """
    Of the real one, nothing but the thread is between.
    """
    with rig(tmp_path, make_estate()) as made:
        sock, port = connect(ServerAddress("localhost", made.server.port), Deadline(timedelta(seconds=WAIT)))
        sock.close()

    assert made.server.port == port
