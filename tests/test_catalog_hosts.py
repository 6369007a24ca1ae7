"""What the catalog source adds where its engine runs on this machine; live counters; and what `check` says."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_exporter.errors import IdentityUnknown, NoSuchExecution, SourceMissing, StopFailed, StopUnsupported
from ssis_exporter.model import DataFlow, Execution, FindingLevel, Snapshot, StopReply
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog.checking import trouble
from ssis_exporter.sources.catalog.counters import Counters
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.hosts import SURE_AFTER, LocalHosts
from ssis_exporter.sources.catalog.session import CatalogSession
from ssis_exporter.sources.catalog.settings import CatalogSettings, Credentials
from ssis_exporter.sources.catalog.troubles import ServerError
from ssis_exporter.sources.dtexec.portable import PortableTable
from tests.catalogs import Rig, make_estate, rig
from tests.estate import Child, Estate
from tests.installed import run
from tests.tds.server import ntlm_users

real = pytest.mark.real


class Ticks:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Estate]:
    with Estate(tmp_path) as one:
        yield one


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    """A server whose engine is this very process: what the test starts are its children."""
    with rig(tmp_path, make_estate()) as one:
        one.estate.engine_pid = os.getpid()
        yield one


def source_here(made: Rig, ticks: Ticks, **arguments: object) -> CatalogSource:
    hosts = LocalHosts(PortableTable(), names=lambda: {"SQL01"}, monotonic=ticks)
    return made.source(hosts=hosts, **arguments)


def start_run(made: Rig, process: Child | None, **columns: object) -> int:
    given = {"process_id": process.pid if process else 2**22 + 5, "start_time": datetime.now(UTC), **columns}
    return made.estate.add(**given)  # type: ignore[arg-type]


def only(seen: Snapshot) -> Execution:
    (run,) = seen.executions
    return run


def orphaned_after_a_while(source: CatalogSource, ticks: Ticks) -> list[bool]:
    """Whether it is an orphan at the first look, at the second, and a while later."""
    found = [only(source.snapshot()).orphaned, only(source.snapshot()).orphaned]
    ticks.now += SURE_AFTER + 1
    return [*found, only(source.snapshot()).orphaned]


@real
def test_figures_come_from_the_host_process(made: Rig, processes: Estate, ticks: Ticks) -> None:
    """
    Processor time, memory and threads of the run's own ISServerExec.
    """
    start_run(made, processes.start("ISServerExec"))

    figures = only(source_here(made, ticks).snapshot()).figures

    assert figures is not None
    assert figures.resident_bytes
    assert figures.threads


@real
@pytest.mark.parametrize(
    "columns",
    [
        {"machine_name": "OTHER"},
        {"machine_name": None},
        {"process_id": None},
        {"start_time": datetime(2100, 1, 1, tzinfo=UTC)},
        {"worker_agent_id": "6f9619ff-8b86-d011-b42d-00c04fc964ff"},
    ],
)
def test_in_doubt_there_are_no_figures_and_no_orphan(
    made: Rig, processes: Estate, ticks: Ticks, columns: dict[str, object]
) -> None:
    """
    Another machine, no process, a process that is older than the run, a Scale Out worker: unknown.
    """
    process = processes.start("ISServerExec")
    start_run(made, process, **columns)
    source = source_here(made, ticks)

    assert [False] * 3 == orphaned_after_a_while(source, ticks)
    assert None is only(source.snapshot()).figures


@real
def test_a_run_whose_process_is_gone_is_an_orphan(made: Rig, processes: Estate, ticks: Ticks) -> None:
    """
    After a while, and again none as soon as the row has ended.
    """
    process = processes.start("ISServerExec")
    number = start_run(made, process)
    source = source_here(made, ticks)
    assert [False] * 3 == orphaned_after_a_while(source, ticks)
    process.end()

    assert [False, False, True] == orphaned_after_a_while(source, ticks)
    made.estate.end(number, 6)
    assert () == source.snapshot().executions


@real
@pytest.mark.parametrize(
    ("program", "columns"), [("notepad", {}), ("ISServerExec", {"start_time": datetime(2020, 1, 1, tzinfo=UTC)})]
)
def test_a_pid_that_was_used_again_does_not_keep_a_run_alive(
    made: Rig, processes: Estate, ticks: Ticks, *, program: str, columns: dict[str, object]
) -> None:
    """
    Another program's process, and one that began long after the run, are not the run's.
    """
    start_run(made, processes.start(program), **columns)

    assert [False, False, True] == orphaned_after_a_while(source_here(made, ticks), ticks)


def test_elsewhere_nothing_is_said_of_processes(made: Rig, ticks: Ticks) -> None:
    """
    Where the engine runs on another machine a missing process means nothing.
    """
    start_run(made, None)
    hosts = LocalHosts(PortableTable(), names=lambda: {"MONITORING"}, monotonic=ticks)
    source = made.source(hosts=hosts)

    assert [False] * 3 == orphaned_after_a_while(source, ticks)
    assert None is source.snapshot().hosts_without_row


@real
def test_a_host_that_no_row_names_is_counted(made: Rig, processes: Estate, ticks: Ticks) -> None:
    """
    A child of this catalog's engine for which no open row stands; another engine's child is not ours to judge.
    """
    start_run(made, processes.start("ISServerExec"))
    processes.start("ISServerExec")
    source = source_here(made, ticks)
    first = source.snapshot().hosts_without_row
    ticks.now += SURE_AFTER + 1
    later = source.snapshot().hosts_without_row

    made.estate.engine_pid = 1
    other = source_here(made, ticks)
    other.snapshot()
    ticks.now += SURE_AFTER + 1

    assert (0, 1, 0) == (first, later, other.snapshot().hosts_without_row)


@real
def test_the_last_resort_ends_the_process_of_a_run_that_is_stopping(made: Rig, processes: Estate, ticks: Ticks) -> None:
    """
    Only one that the catalog shows as stopping; the row stays there, and is an orphan.
    """
    process = processes.start("ISServerExec")
    bystander = processes.start("ISServerExec")
    number = start_run(made, process)
    source = source_here(made, ticks)
    run = only(source.snapshot())
    with pytest.raises(StopFailed, match="was not asked to stop yet"):
        source.force_stop(run)
    made.estate.set(number, status=8)

    assert StopReply.ACCEPTED == source.force_stop(run)

    process.wait()
    assert bystander.process.poll() is None
    with pytest.raises(NoSuchExecution):
        source.force_stop(run)
    assert [False, False, True] == orphaned_after_a_while(source, ticks)
    assert "stopping" == only(source.snapshot()).status


@real
@pytest.mark.parametrize(
    ("columns", "program", "expected"),
    [
        ({"machine_name": "OTHER"}, "ISServerExec", StopUnsupported),
        ({"start_time": datetime(2020, 1, 1, tzinfo=UTC)}, "ISServerExec", IdentityUnknown),
        ({"process_id": None}, "ISServerExec", IdentityUnknown),
        ({}, "sqlservr", NoSuchExecution),
    ],
)
def test_a_process_that_is_not_certainly_the_runs_is_left_alone(
    made: Rig,
    processes: Estate,
    ticks: Ticks,
    *,
    columns: dict[str, object],
    program: str,
    expected: type[Exception],
) -> None:
    """
    Another machine, a start that does not fit, no pid, another program.
    """
    process = processes.start(program)
    start_run(made, process, status=8, **columns)
    source = source_here(made, ticks)

    with pytest.raises(expected):
        source.force_stop(only(source.snapshot()))
    assert process.process.poll() is None


@real
@pytest.mark.parametrize("machine", ["SQL01", "sql01", None])
def test_a_process_that_another_run_has_too_is_left_alone(
    made: Rig, processes: Estate, ticks: Ticks, machine: str | None
) -> None:
    """
    The one's process ended at once, its number was given out again, and hosts the other by now.
    """
    process = processes.start("ISServerExec")
    sticks = start_run(made, process, status=8)
    start_run(made, process, machine_name=machine)
    source = source_here(made, ticks)
    run = next(one for one in source.snapshot().executions if one.key.instance_id == str(sticks))

    with pytest.raises(IdentityUnknown, match="also that of execution"):
        source.force_stop(run)
    assert process.process.poll() is None


@real
def test_the_same_number_on_another_machine_is_another_process(made: Rig, processes: Estate, ticks: Ticks) -> None:
    """
    Where a catalog's runs run on several machines.
    """
    process = processes.start("ISServerExec")
    sticks = start_run(made, process, status=8)
    start_run(made, process, machine_name="OTHER")
    source = source_here(made, ticks)
    run = next(one for one in source.snapshot().executions if one.key.instance_id == str(sticks))

    assert StopReply.ACCEPTED == source.force_stop(run)
    process.wait()


@real
def test_while_not_all_runs_are_known_no_process_is_ended(made: Rig, processes: Estate, ticks: Ticks) -> None:
    """
    One of those that nobody has read yet may have the process, too.
    """
    process = processes.start("ISServerExec")
    start_run(made, process, status=8)
    source = source_here(made, ticks)
    run = only(source.snapshot())
    source._looker.memory.is_behind = True

    with pytest.raises(IdentityUnknown, match="not all runs"):
        source.force_stop(run)
    assert process.process.poll() is None


@real
def test_a_process_of_another_engine_is_left_alone(made: Rig, processes: Estate, ticks: Ticks) -> None:
    """
    ISServerExec is a child of its engine.
    """
    process = processes.start("ISServerExec")
    start_run(made, process, status=8)
    made.estate.engine_pid = 1
    source = source_here(made, ticks)

    with pytest.raises(IdentityUnknown, match="was not started by the engine"):
        source.force_stop(only(source.snapshot()))
    assert process.process.poll() is None


# Live counters.


def count(made: Rig, number: int, **values: int) -> None:
    for name, value in values.items():
        made.estate.db.execute(
            "INSERT INTO catalog_dm_execution_performance_counters VALUES (?, ?, ?)",
            (number, name.replace("_", " ").capitalize(), value),
        )


def test_counters_are_read_per_run_when_asked_for(made: Rig) -> None:
    """
    Off by default; per execution id, never for all at once.
    """
    number, other = made.estate.add(), made.estate.add()
    count(made, number, rows_read=5, rows_written=4, buffers_in_use=3, buffers_spooled=0, buffer_memory=1 << 40)
    off = made.source().snapshot()
    seen = made.source(settings=made.settings(performance_counters=True)).snapshot()

    flows = {int(run.key.instance_id): run.data_flow for run in seen.executions}
    assert {None} == {run.data_flow for run in off.executions}
    expected = DataFlow(rows_read=5, rows_written=4, buffers_in_use=3, buffers_spooled=0, buffer_memory_bytes=1 << 40)
    assert {number: expected, other: None} == flows


def test_counters_that_hang_cost_a_look_their_limit_only(made: Rig, ticks: Ticks) -> None:
    """
    The look goes on without them, and they are left alone for a minute.
    """
    number = made.estate.add()
    count(made, number, rows_read=5)
    settings = made.settings(performance_counters=True, time_limit=timedelta(seconds=2))
    source = made.source(settings=settings)
    source.snapshot()

    hung = threading.Event()

    def hang(text: str) -> None:
        if "performance_counters" in text:
            hung.wait(30)

    made.server.exchanges.clear()
    made.server.before_each = hang
    seen = source.snapshot()
    hung.set()
    again = source.snapshot()

    assert [None, None] == [only(seen).data_flow, only(again).data_flow]
    assert made.server.wait_until_count(1)
    assert 1 == sum("performance_counters" in one.text for one in made.server.exchanges)


def test_counters_leave_time_to_a_scrape_that_waits_shortly(made: Rig) -> None:
    """
    Their limit is a part of what the scrape waits for, not of `time_limit`.
    """
    limits: list[float] = []

    def connect(deadline: Deadline) -> CatalogSession:
        limits.append(deadline.left)
        raise OSError("enough")

    for silence in (0.4, 60):
        deadline = Deadline(timedelta(minutes=5), silence=timedelta(seconds=silence), monotonic=lambda: 0.0)
        Counters("sql01", connect, monotonic=lambda: 0.0).read([1], deadline)

    assert [0.2, 1] == limits


# check


def test_check_prints_what_to_grant(tmp_path: Path) -> None:
    """
    T-SQL to copy, with names quoted; a SQL login is told that it cannot stop.
    """
    estate = make_estate(roles=set())
    strange = "o'dd ]name"
    estate.add_account(strange, "x")
    with rig(tmp_path, estate) as made:
        file = tmp_path / "x"
        file.write_text("x")
        source = made.source(settings=made.settings(auth=Credentials(user=strange, password_file=file)))

        findings = source.check()

    texts = [finding.text for finding in findings]
    assert any("cannot stop" in text and "27123" in text for text in texts)
    assert any("encrypt is false" in text for text in texts)
    assert not any("open executions" in text for text in texts)
    (problem,) = [finding for finding in findings if finding.level is FindingLevel.PROBLEM]
    assert (
        "USE [SSISDB];\n"
        "IF USER_ID(N'o''dd ]name') IS NULL CREATE USER [o'dd ]]name];\n"
        "ALTER ROLE ssis_logreader ADD MEMBER [o'dd ]]name];"
    ) == problem.remedy


def test_check_prints_all_of_what_is_to_be_copied(tmp_path: Path) -> None:
    """
    However long a name is: half a statement is none.
    """
    estate = make_estate(release=2014, roles=set())
    strange = "']" * 64
    estate.add_account(strange, "secret")
    with rig(tmp_path, estate) as made:
        (tmp_path / "strange").write_text("secret")
        (tmp_path / "strange").chmod(0o600)
        config = f"""
sources:
  - name: sql01
    kind: catalog
    server: 127.0.0.1:{made.server.port}
    encrypt: false
    auth: {{user: "{strange}", password_file: strange}}
"""
        (tmp_path / "ssis.yml").write_text(config)
        done = run("check", "--config.file", tmp_path / "ssis.yml")

    literal, name = strange.replace("'", "''"), strange.replace("]", "]]")
    assert f"IF USER_ID(N'{literal}') IS NULL CREATE USER [{name}];\n" in done.out
    assert "and may do far more than see\n" in done.out
    assert 1 == done.code


def test_check_prints_how_to_let_a_login_in(made: Rig) -> None:
    """
    A login without a user in the database is refused before it can be told anything else.
    """
    made.estate.accounts["exporter"].has_user = False

    (problem,) = made.source().check()

    assert "the login has no user in it" in problem.text
    assert (
        "USE [SSISDB];\n"
        "IF USER_ID(N'exporter') IS NULL CREATE USER [exporter]; ELSE ALTER USER [exporter] WITH LOGIN = [exporter];\n"
        "ALTER ROLE ssis_logreader ADD MEMBER [exporter];  -- before SQL Server 2016: ssis_admin"
    ) == problem.remedy


@pytest.mark.parametrize(
    ("user", "account"), [("CORP\\o'dd]", "CORP\\o'dd]"), ("svc@corp.example", "DOMAIN\\svc"), ("", "DOMAIN\\account")]
)
def test_check_prints_how_to_let_an_account_in(tmp_path: Path, user: str, account: str) -> None:
    """
    By the name that the server knows; where that is not known, what has to be put in its place.
    """
    auth = Credentials(user=user, password_file=tmp_path / "p") if user else "kerberos"
    refused = SourceMissing("no user")
    refused.__cause__ = ServerError([4060, 18456], "refused")

    remedy = trouble(CatalogSettings(server="a", auth=auth), refused).remedy

    literal, name = account.replace("'", "''"), account.replace("]", "]]")
    note = "" if account == user else f"-- {account} stands for the account as the server knows it\n"
    assert (
        f"{note}USE [SSISDB];\n"
        f"IF USER_ID(N'{literal}') IS NULL CREATE USER [{name}];\n"
        f"ALTER ROLE ssis_logreader ADD MEMBER [{name}];  -- before SQL Server 2016: ssis_admin"
    ) == remedy


@pytest.mark.parametrize(("user", "named"), [("reader", "reader"), ("dbo", "exporter"), ("guest", "exporter")])
def test_check_grants_to_the_user_that_the_login_has(made: Rig, user: str, named: str) -> None:
    """
    Which may have another name; `dbo` and `guest` are nobody's own.
    """
    made.estate.accounts["exporter"].roles.clear()
    made.estate.accounts["exporter"].user = user

    (problem,) = [one for one in made.source().check() if one.level is FindingLevel.PROBLEM]

    assert f"ALTER ROLE ssis_logreader ADD MEMBER [{named}];" in problem.remedy


def test_whether_a_login_could_stop_is_known_at_start(made: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """
    The log says once who is logged in, and that a login of SQL Server stops nothing.
    """
    caplog.set_level("INFO", "ssis_exporter.sources.catalog.source")
    source = made.source()
    for _ in range(2):
        source.snapshot()
        source.close()

    (line,) = [record.getMessage() for record in caplog.records if "logged in" in record.getMessage()]
    assert "source sql01: SQL Server 16.0.4085.2, logged in as exporter; it can stop nothing" in line
    assert "27123" in line


def test_check_of_a_wrong_password_grants_nothing(made: Rig) -> None:
    """
    What no grant mends has none.
    """
    made.server.faults.refuse_login = 18456

    (problem,) = made.source().check()

    assert ("", True) == (problem.remedy, "the login failed" in problem.text)


def test_check_before_2016_names_the_only_role_there_is(tmp_path: Path) -> None:
    """
    And that it is a strong one.
    """
    with rig(tmp_path, make_estate(release=2014, roles=set())) as made:
        (problem,) = [one for one in made.source().check() if one.level is FindingLevel.PROBLEM]

    assert "ALTER ROLE ssis_admin" in problem.remedy
    assert "may do far more than see" in problem.text


@pytest.mark.parametrize(
    ("roles", "words"), [({"ssis_admin"}, "may stop every"), ({"ssis_logreader"}, "may stop only")]
)
def test_check_says_whether_a_windows_account_could_stop(tmp_path: Path, roles: set[str], words: str) -> None:
    """
    By its roles.
    """
    estate = make_estate()
    estate.add_account("CORP\\svc", windows=True, roles=roles)
    file = tmp_path / "domain"
    file.write_text("secret")
    with ntlm_users(tmp_path / "users", ("CORP", "svc", "secret")), rig(tmp_path, estate) as made:
        made.estate.add()
        source = made.source(settings=made.settings(auth=Credentials(user="CORP\\svc", password_file=file)))
        findings = source.check()

    assert any(words in finding.text for finding in findings)
    grants = [one.remedy for one in findings if "may stop only" in one.text]
    assert all("CREATE USER [CORP\\svc]" in one and "ALTER ROLE ssis_admin" in one for one in grants)
    assert any("1 open executions" in finding.text and "SQL Server 16.0" in finding.text for finding in findings)


def test_check_of_a_server_that_is_away_is_one_problem(made: Rig) -> None:
    """
    With the reason; never an exception.
    """
    findings = made.source(settings=made.settings(server="127.0.0.1:1")).check()

    assert [FindingLevel.PROBLEM] == [finding.level for finding in findings]
    assert "port 1 does not answer" in findings[0].text


def test_the_facts_of_a_run_are_kept_when_its_figures_change(made: Rig) -> None:
    """
    A figure never makes another run of it.
    """
    made.estate.add()
    source = made.source()
    first, second = only(source.snapshot()), only(source.snapshot())

    assert first.facts is second.facts
    assert replace(first, duration=timedelta()) == replace(second, duration=timedelta())
