"""Stopping through `catalog.stop_operation`: what each answer means, and that only the run that was meant is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ssis_exporter.errors import (
    IdentityUnknown,
    NoSuchExecution,
    NotAsked,
    SourceError,
    StopDenied,
    StopError,
    StopFailed,
)
from ssis_exporter.model import Execution, StopReply
from ssis_exporter.sources.catalog import CatalogSource
from tests.catalogs import WINDOWS_ACCOUNT, Rig, ids, statuses, windows_auth, windows_rig


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    with windows_rig(tmp_path) as one:
        one.estate.add(70)
        one.estate.add(71)
        yield one


@pytest.fixture
def source(made: Rig) -> CatalogSource:
    """A source that logs in with a Windows account, by the real NTLM exchange."""
    pauses: list[float] = []
    settings = made.settings(auth=windows_auth(made))
    found = made.source(settings=settings, pause=pauses.append)
    found.pauses = pauses  # type: ignore[attr-defined]
    return found


def run_of(source: CatalogSource, execution_id: int = 70) -> Execution:
    return next(run for run in source.snapshot().executions if run.key.instance_id == str(execution_id))


def test_exactly_this_run_is_asked_to_stop(made: Rig, source: CatalogSource) -> None:
    """
    The procedure is called once, with the id as bigint; the run ends as canceled and the other goes on.
    """
    run = run_of(source)

    assert StopReply.ACCEPTED == source.request_stop(run)

    seen = source.snapshot()
    assert ([70], {71}) == (made.server.stop_operation.calls, ids(seen))
    assert ["70", "canceled"] == [seen.ended[0].facts.key.instance_id, seen.ended[0].result]
    (call,) = [one for one in made.server.exchanges if one.kind == "catalog.stop_operation"]
    assert [("@operation_id", "bigint", 70)] == [(p.name, p.type_name, p.value) for p in call.parameters]
    assert "ssis_exporter" == call.application


def test_a_stop_looks_at_what_is_committed(made: Rig, source: CatalogSource) -> None:
    """
    The look before the request reads committed, waits for locks and gives way to nobody.
    """
    run = run_of(source)
    made.server.forget()

    source.request_stop(run)

    last = [one for one in made.server.exchanges if one.kind in ("sql", "catalog.stop_operation")][-2:]
    assert ["READ COMMITTED", "READ COMMITTED"] == [one.settings["ISOLATION"] for one in last]
    assert "NORMAL" == last[-1].settings["DEADLOCK_PRIORITY"]


def test_a_run_that_does_not_obey_is_told_as_stopping(made: Rig, source: CatalogSource) -> None:
    """
    Accepted is not stopped: the row stays at stopping, and a second request asks nothing.
    """
    made.server.stop_operation.obeys = False
    run = run_of(source)

    first, second = source.request_stop(run), source.request_stop(run)

    assert (StopReply.ACCEPTED, StopReply.ALREADY_STOPPING) == (first, second)
    assert ([70], {70: "stopping", 71: "running"}) == (made.server.stop_operation.calls, statuses(source.snapshot()))


@pytest.mark.parametrize("status", [3, 4, 6, 7, 9])
def test_a_run_that_ended_meanwhile_is_not_asked(made: Rig, source: CatalogSource, status: int) -> None:
    """
    It is gone: ordinary.
    """
    run = run_of(source)
    made.estate.end(70, status)

    with pytest.raises(NoSuchExecution, match="has ended"):
        source.request_stop(run)
    assert [] == made.server.stop_operation.calls


@pytest.mark.parametrize(("status", "word"), [(1, "created"), (5, "pending")])
def test_a_run_that_has_not_begun_is_not_asked(made: Rig, source: CatalogSource, status: int, word: str) -> None:
    """
    The procedure takes running ones only; one that waits is not "ended".
    """
    made.estate.add(72, status=status)

    with pytest.raises(StopFailed, match=f"has not begun yet .{word}"):
        source.request_stop(run_of(source, 72))
    assert [] == made.server.stop_operation.calls


@pytest.mark.parametrize(
    ("number", "expected", "words"),
    [
        (27100, StopFailed, "27100"),
        (27103, StopDenied, "runs, and the server denies it"),
        (27105, StopDenied, "runs, and the server denies it"),
        (27112, StopFailed, "the row could not be updated"),
        (27123, StopDenied, "logins of SQL Server cannot stop"),
        (27124, StopDenied, "runs, and the server denies it"),
        (27125, StopFailed, "has no process yet"),
        (27126, StopReply.ALREADY_STOPPING, ""),
        (27130, StopFailed, "could not impersonate"),
        (27131, StopFailed, "could not start its process"),
        (27133, StopFailed, "could not wait"),
        (27143, StopDenied, "may not access the operation"),
        (27153, StopDenied, "rights on the stop's own row"),
        (27195, StopFailed, "ran out of time"),
        (27218, StopFailed, "the row is an orphan"),
        (27219, StopDenied, "may not run the procedure"),
        (229, StopDenied, "may not run the procedure"),
        (2812, StopFailed, r"has no catalog\.stop_operation"),
        (1205, StopFailed, "deadlock"),
        (1222, StopFailed, "the row is locked"),
        (50000, StopFailed, "the server refused"),
    ],
)
def test_each_error_number_has_its_own_meaning(
    made: Rig, source: CatalogSource, number: int, expected: type[StopError] | StopReply, words: str
) -> None:
    """
    With the run still running: who may not, what did not work, what passes; never "ended".
    """
    run = run_of(source)
    made.server.stop_operation.raises = [number] * 5

    if isinstance(expected, StopReply):
        assert expected == source.request_stop(run)
    else:
        with pytest.raises(expected, match=words) as told:
            source.request_stop(run)
        assert str(number) in str(told.value)

    tries = 3 if number in (27112, 27125, 27195, 1205, 1222) else 1
    assert tries == len(made.server.stop_operation.calls)
    assert tries - 1 == len(source.pauses)  # type: ignore[attr-defined]
    assert {70, 71} == ids(source.snapshot())


@pytest.mark.parametrize("number", [27103, 27105, 27124])
def test_not_found_is_an_end_only_when_the_row_says_so(made: Rig, source: CatalogSource, number: int) -> None:
    """
    27124 also means pending, 27105 also means no rights: the committed row decides.
    """
    run = run_of(source)
    procedure = made.server.stop_operation
    procedure.raises, procedure.ends_row_with = [number], 7

    with pytest.raises(NoSuchExecution, match="has ended"):
        source.request_stop(run)

    other = run_of(source, 71)
    procedure.raises, procedure.ends_row_with, procedure.leaves_stopping = [number], None, True
    assert StopReply.ALREADY_STOPPING == source.request_stop(other)


@pytest.mark.parametrize("number", [27112, 27125, 27195, 1205])
def test_what_passes_is_tried_again(made: Rig, source: CatalogSource, number: int) -> None:
    """
    A refusal that passes by itself is met a second time before it is told.
    """
    run = run_of(source)
    made.server.stop_operation.raises = [number]

    assert StopReply.ACCEPTED == source.request_stop(run)
    assert 2 == len(made.server.stop_operation.calls)


def test_a_stop_that_failed_in_its_middle_says_what_it_left(made: Rig, source: CatalogSource) -> None:
    """
    The row may stay at stopping when the server could not signal the process; that is told.
    """
    run = run_of(source)
    made.server.stop_operation.raises, made.server.stop_operation.leaves_stopping = [27130], True

    with pytest.raises(StopFailed, match="left at stopping"):
        source.request_stop(run)


def test_a_procedure_that_returns_an_error_without_raising(made: Rig, source: CatalogSource) -> None:
    """
    A return value other than 0 is no success by itself; where the row stops all the same, it is.
    """
    run = run_of(source)
    made.server.stop_operation.returns = [-1]
    with pytest.raises(StopFailed, match="returned -1"):
        source.request_stop(run)

    made.server.stop_operation.returns = [5]
    made.server.stop_operation.before = lambda number: made.estate.set(number, status=8)
    assert StopReply.ACCEPTED == source.request_stop(run)


def test_an_error_that_comes_without_ending_the_call(made: Rig, source: CatalogSource) -> None:
    """
    An error message beside a normal end counts as that error.
    """
    run = run_of(source)
    made.server.stop_operation.whispers = [27126]

    assert StopReply.ALREADY_STOPPING == source.request_stop(run)


def test_a_login_of_sql_server_is_told_so(made: Rig) -> None:
    """
    27123, as the real procedure answers to such a login; the sentence says what to use.
    """
    made.estate.accounts["exporter"].roles.add("ssis_admin")
    source = made.source()

    with pytest.raises(StopDenied, match="use auth: windows, kerberos, or a domain account"):
        source.request_stop(run_of(source))
    assert {70, 71} == ids(source.snapshot())


def test_a_reader_is_told_what_to_grant(made: Rig, source: CatalogSource) -> None:
    """
    `ssis_logreader` sees all and stops nothing.
    """
    run = run_of(source)
    made.estate.accounts[WINDOWS_ACCOUNT.casefold()].roles = {"ssis_logreader"}

    with pytest.raises(StopDenied, match=r"ALTER ROLE ssis_admin ADD MEMBER \[CORP\\svc_ssis\];"):
        source.request_stop(run)


def test_a_row_that_is_not_shown_is_not_an_end(made: Rig, source: CatalogSource) -> None:
    """
    Without the right to see it, nobody can say; with it, the run is gone.
    """
    run = run_of(source)
    account = made.estate.accounts[WINDOWS_ACCOUNT.casefold()]
    account.roles.clear()
    with pytest.raises(IdentityUnknown, match="is not shown to this login"):
        source.request_stop(run)

    account.roles.add("ssis_admin")
    made.estate.delete(70)
    with pytest.raises(NoSuchExecution, match="is not in the catalog"):
        source.request_stop(run)
    assert [] == made.server.stop_operation.calls


@pytest.mark.parametrize(
    "changes",
    [
        {"package_name": "Another"},
        {"folder": "Other"},
        {"project": "Other"},
        {"created_at": None},
        {"process_id": 4999},
    ],
)
def test_a_forged_identity_stops_nothing(made: Rig, source: CatalogSource, changes: dict[str, object]) -> None:
    """
    The id alone is not enough: what was seen of the run must still be so.
    """
    run = run_of(source)
    forged = replace(run, facts=replace(run.facts, **changes))  # type: ignore[arg-type]

    with pytest.raises(IdentityUnknown):
        source.request_stop(forged)
    with pytest.raises((IdentityUnknown, StopError)):
        source.force_stop(forged)
    assert [] == made.server.stop_operation.calls


def test_an_id_that_was_given_out_again_is_another_run(made: Rig, source: CatalogSource) -> None:
    """
    After a restore the same id names another run, even of the same package.
    """
    run = run_of(source, 71)
    made.estate.restore(70)
    made.estate.add(71, created_time=made.estate.now() + timedelta(seconds=5))

    with pytest.raises(IdentityUnknown, match="another run"):
        source.request_stop(run)


@pytest.mark.parametrize("name", ["", "0", "070", "x", "70; DROP", "-70", "7" * 30, "\u0667\u0660", "70\n"])
def test_a_name_that_is_no_id_is_no_run(made: Rig, source: CatalogSource, name: str) -> None:
    """
    Only a plain number is asked for.
    """
    run = run_of(source)
    forged = replace(run, facts=replace(run.facts, key=replace(run.key, instance_id=name)))

    with pytest.raises(NoSuchExecution):
        source.request_stop(forged)


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_connection_that_breaks_leaves_it_open(made: Rig, source: CatalogSource, when: str) -> None:
    """
    Before the call it is certain that nothing was asked. From then on nobody can say whether the request arrived: that
    is an error of the source, not a refusal and not a success.
    """
    run = run_of(source)
    if when == "before":
        made.server.faults.cut = 1
    else:
        made.server.stop_operation.before = lambda _: setattr(made.server.faults, "cut_midway", 1)

    with pytest.raises(NotAsked if when == "before" else SourceError):
        source.request_stop(run)
    assert (0 if when == "before" else 1) == len(made.server.stop_operation.calls)


def test_a_stop_leaves_no_connection(made: Rig, source: CatalogSource) -> None:
    """
    Each stop has a connection of its own, closed whatever comes.
    """
    run = run_of(source)
    made.server.stop_operation.raises = [27143]
    with pytest.raises(StopDenied):
        source.request_stop(run)
    source.request_stop(run)

    assert made.server.wait_until_count(1)


def test_evidence_is_kept_from_the_messages(made: Rig, source: CatalogSource) -> None:
    """
    The newest messages of this run only, and who called it.
    """
    columns = "event_message_id, operation_id, message_time, message_type, message, message_source_name"
    moment = "2026-03-01T08:00:00.0000000+00:00"
    for number in range(1, 9):
        made.estate.db.execute(
            f"INSERT INTO catalog_event_messages ({columns}) VALUES (?, 70, ?, 70, ?, ?)",
            (number, moment, f"message {number}", "Data Flow"),
        )

    kept = source.evidence(run_of(source))

    assert "2026-03-01T08:00:00+00:00 Data Flow: message 8" == kept["message 1"]
    assert "CORP\\etl" == kept["caller"]
    assert 5 == sum(name.startswith("message") for name in kept)
