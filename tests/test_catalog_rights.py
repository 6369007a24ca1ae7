"""What a login may see of the catalog: it is told, and what is not shown has not ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssis_exporter.errors import SourceAccessDenied, SourceBroken
from ssis_exporter.model import Scope
from tests.catalogs import Rig, complete, ids, make_estate, rig, told

pytest_plugins = ("tests.catalogfixtures",)


def test_without_a_role_only_own_runs_are_seen_and_it_says_so(tmp_path: Path) -> None:
    """
    An answer of few runs can be told from an idle server.
    """
    with rig(tmp_path, make_estate(roles=set())) as made:
        made.estate.add(1, caller_name="CORP\\etl")
        mine = made.estate.add(2, caller_name="exporter")

        seen = made.source().snapshot()

        assert ({mine}, Scope.OWN) == (ids(seen), seen.visibility.scope)


class Own:
    """A login without a role, whose server needs `seconds` to find what is new among the runs of all others."""

    def __init__(self, made: Rig, *, seconds: float, roles: set[str] | None = None) -> None:
        self.now = 1000.0
        self.seconds = seconds
        made.estate.accounts["exporter"].roles = roles or set()
        made.server.before_each = self._answer
        self.estate, self.server = made.estate, made.server
        self.source = made.source(monotonic=lambda: self.now)
        self.first = self.add()
        complete(self.source)
        self.now += 1000

    def _answer(self, text: str) -> None:
        if "COUNT_BIG" in text:
            self.now += self.seconds

    def add(self) -> int:
        return self.estate.add(caller_name="exporter")

    def look(self, *, after: float = 0.0) -> tuple[set[int], bool]:
        self.now += after
        seen = self.source.snapshot()
        return ids(seen), seen.incomplete


def test_where_new_runs_are_hard_to_find_they_are_looked_for_seldom(made: Rig) -> None:
    """
    A login that sees only its own makes the server judge each row of others: that takes a twentieth of its time, and
    the answer between is a lower bound. Known runs and their ends are told at every look.
    """
    own = Own(made, seconds=2.0)
    assert ({own.first}, False) == own.look()
    second = own.add()

    assert ({own.first}, True) == own.look()
    assert ({own.first}, True) == own.look(after=37)
    assert ({own.first, second}, False) == own.look(after=2)

    own.server.forget()
    own.estate.end(own.first)
    seen = own.source.snapshot()
    assert ({second}, [own.first], True) == (ids(seen), told(seen), seen.incomplete)
    asked = [one.text for one in own.server.exchanges]
    assert not [text for text in asked if "TOP (1) e." in text or "execution_id > @" in text]


@pytest.mark.parametrize(("seconds", "roles"), [(0.4, set()), (2.0, {"ssis_logreader"})])
def test_new_runs_are_looked_for_at_once_where_they_are_easy_to_find(
    made: Rig, seconds: float, roles: set[str]
) -> None:
    """
    A small catalog, or a login that sees all: its questions are a seek however long they wait.
    """
    own = Own(made, seconds=seconds, roles=roles)
    own.look()
    second = own.add()

    assert ({own.first, second}, False) == own.look()


def test_a_restore_is_noticed_while_new_runs_are_not_looked_for(made: Rig) -> None:
    """
    The recovery fork is read at every look, and then everything is read anew.
    """
    own = Own(made, seconds=2.0)
    own.estate.next_id += 5000
    gone = own.add()
    assert {own.first, gone} == own.look()[0]
    made.server.restore(own.first)
    newer = own.add()

    assert ({own.first, newer}, False) == own.look()
    assert newer < gone
    assert [] == told(own.source.snapshot())


def test_a_start_that_is_rolled_back_is_looked_into_at_once(made: Rig) -> None:
    """
    The newest ids are read again then, whatever that takes.
    """
    own = Own(made, seconds=2.0)
    ghost = own.add()
    assert ({own.first, ghost}, False) == own.look()
    own.estate.delete(ghost)

    assert ({own.first}, False) == own.look(after=60)


def test_before_2016_there_is_no_reader_role(tmp_path: Path) -> None:
    """
    `ssis_logreader` says nothing on a release that does not know it.
    """
    with rig(tmp_path, make_estate(release=2014)) as made:
        made.estate.add(1)

        assert Scope.OWN == made.source().snapshot().visibility.scope


def test_a_lost_role_is_an_error_and_no_end(made: Rig) -> None:
    """
    Runs that vanish together with the right to see them have not ended; with the right they are there again.
    """
    number = made.estate.add()
    source = made.source()
    source.snapshot()
    made.estate.accounts["exporter"].roles.clear()

    with pytest.raises(SourceAccessDenied, match="the right to see all runs is lost"):
        source.snapshot()
    with pytest.raises(SourceAccessDenied):
        source.snapshot()
    made.estate.accounts["exporter"].roles.add("ssis_logreader")
    seen = source.snapshot()

    assert ({number}, ()) == (ids(seen), seen.ended)


def test_a_role_that_is_lost_in_the_middle_of_a_look_ends_nothing(made: Rig) -> None:
    """
    Rights are read before and after the rows: what vanished in between is not believed.
    """
    number = made.estate.add()
    gone = made.estate.add()
    source = made.source()
    source.snapshot()
    account = made.estate.accounts["exporter"]
    made.estate.end(gone, 7)
    made.server.before_each = lambda text: account.roles.clear() if "READ COMMITTED" in text else None

    with pytest.raises(SourceAccessDenied):
        source.snapshot()
    made.server.before_each = None
    account.roles.add("ssis_logreader")
    seen = complete(source)

    assert ({number}, [str(gone)]) == (ids(seen), [end.facts.key.instance_id for end in seen.ended])


def test_more_rights_show_more(tmp_path: Path) -> None:
    """
    A role that is given shows all runs, also those that are far below the newest ids.
    """
    with rig(tmp_path, make_estate(roles=set())) as made:
        made.estate.fill(range(1, 4000), status=7)
        made.estate.set(3, status=2, end_time=None)
        source = made.source()
        assert set() == ids(source.snapshot())
        made.estate.accounts["exporter"].roles.add("ssis_logreader")

        seen = complete(source)

        assert ({3}, Scope.ALL) == (ids(seen), seen.visibility.scope)


def test_a_catalog_that_cannot_be_seen_is_no_empty_answer(made: Rig) -> None:
    """
    Without the view's columns nothing is claimed.
    """
    made.estate.db.execute("DELETE FROM sys_columns")

    with pytest.raises(SourceBroken, match=r"no view catalog\.executions"):
        made.source().snapshot()
