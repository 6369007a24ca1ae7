"""What a login may see of the catalog: it is told, and what is not shown has not ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ssis_exporter.errors import SourceAccessDenied, SourceBroken, SourceTimeout
from ssis_exporter.model import FindingLevel, Scope
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
        self.server_settings = made.settings
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


def test_what_has_to_be_judged_is_asked_for_once_in_a_look(made: Rig) -> None:
    """
    Not for the highest id of all before and after it as well: what is above the known runs is judged in one question.
    """
    own = Own(made, seconds=0.0)
    own.server.forget()
    own.look()

    [look] = [one.text for one in own.server.exchanges]
    parts = [part for part in look.split("; ") if "catalog.executions" in part]
    above = [part for part in parts if "execution_id > @seen" in part or "execution_id > 0" in part]
    assert (5, 1) == (len(parts), len(above))


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


@contextmanager
def judges_for_ever(own: Own) -> Iterator[None]:
    """The server comes to no end with what it has to judge for a login without a role; a look lasts two seconds."""
    generous, own.source._settings = own.source._settings, own.server_settings(time_limit=timedelta(seconds=0.3))
    over = threading.Event()

    def judge(text: str) -> None:
        if "ORDER BY e.execution_id" in text and not own.estate.accounts["exporter"].roles:
            own.now += 2
            over.wait()

    before, own.server.before_each = own.server.before_each, judge
    try:
        yield
    finally:
        over.set()
        own.server.before_each = before
        own.source._settings = generous


WHY = "exporter is in none of ssis_logreader, .* judges the runs of all others, .* ssis-exporter check prints what"


def test_a_server_that_comes_to_no_end_is_left_alone_for_a_while(made: Rig) -> None:
    """
    And the reason is told with what to do. A role that is given is noticed at once.
    """
    own = Own(made, seconds=0.0)
    own.source.close()
    own.source = made.source("new", monotonic=lambda: own.now)
    with judges_for_ever(own):
        for _ in range(2):
            with pytest.raises(SourceTimeout, match=WHY):
                own.look()
        own.server.forget()
        with pytest.raises(SourceTimeout, match=WHY):
            own.look(after=37)
        assert not [one for one in own.server.exchanges if "execution_id" in one.text]

        with pytest.raises(SourceTimeout, match=WHY):
            own.look(after=2)
        assert [one for one in own.server.exchanges if "execution_id" in one.text] == []
        made.estate.accounts["exporter"].roles.add("ssis_logreader")
        assert ({own.first}, False) == own.look()


def test_known_runs_are_told_where_new_ones_cannot_be_found(made: Rig) -> None:
    """
    Once it is clear that the server is not silent but judging: a look of known runs, and it is told as incomplete.
    """
    own = Own(made, seconds=0.0)
    with judges_for_ever(own):
        with pytest.raises(SourceTimeout, match="no answer in time"):
            own.look()
        with pytest.raises(SourceTimeout, match=WHY):
            own.look()
        assert ({own.first}, True) == own.look()
        own.estate.end(own.first)
        assert [own.first] == told(own.source.snapshot())

    second = own.add()
    assert (set(), True) == own.look(after=20)
    assert ({second}, False) == own.look(after=20)


def test_check_knows_what_to_grant_where_the_server_comes_to_no_end(made: Rig) -> None:
    """
    It asks for nothing that has to be judged.
    """
    own = Own(made, seconds=0.0)
    own.source.close()
    with judges_for_ever(own):
        (problem,) = [one for one in own.source.check() if one.level is FindingLevel.PROBLEM]

    assert "ALTER ROLE ssis_logreader ADD MEMBER [exporter];" in problem.remedy


def test_a_login_that_sees_only_its_own_is_told_of_in_the_log(made: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """
    Once, and once more where that makes new runs hard to find.
    """
    own = Own(made, seconds=2.0)
    for _ in range(3):
        own.look(after=100)

    sees, judges = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    who = "source sql01: exporter is in none of ssis_logreader, ssis_admin, sysadmin, so "
    assert sees.startswith(f"{who}it sees only runs that it started or was granted; ssis-exporter check")
    assert judges.startswith(
        f"{who}for every look the server judges the runs of all others, which has taken it 2.0 s; "
    )


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
