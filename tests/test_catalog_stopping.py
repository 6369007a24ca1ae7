"""Stops of catalog runs from nomination to outcome, through the real stopper and driver, and from Alertmanager."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ssis_exporter.errors import SourceUnreachable
from ssis_exporter.hold import Hold
from ssis_exporter.ledger import read_events
from ssis_exporter.ledgerrows import Event
from ssis_exporter.model import StopOutcome
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.patience import Patience
from ssis_exporter.sources.catalog.session import CatalogSession
from tests.catalogs import WINDOWS_ACCOUNT, Rig, statuses, windows_auth, windows_rig
from tests.installed import COMMAND
from tests.stack import AT_ONCE, LOOPBACK, Alertmanager, Program, filled, free_port, wait_until
from tests.stopping import InlineWorker, Scene, kinds, play

TOKEN = "5eed0fd1e70ad57001bad1dea5c0ffee"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    with windows_rig(tmp_path) as one:
        yield one


def scene(made: Rig, work: Callable[[Scene], Awaitable[None]], **arguments: object) -> None:
    """A stopper whose source is the catalog; the server's clock is the scene's."""

    async def run(one: Scene) -> None:
        made.estate.now = one.time.now
        made.estate.add(70)
        made.estate.add(71)
        ticks = itertools.count()
        source = made.source(
            settings=made.settings(auth=windows_auth(made)),
            now=one.time.now,
            pause=lambda _: None,
            patience=Patience(monotonic=lambda: 10.0 * next(ticks), jitter=lambda: 0.0),
        )
        one.workers["sql01"] = InlineWorker(source)
        one.time.seconds += 600
        one.time.shortest_wait = 20
        await work(one)
        source.close()

    play(made.folder / "state", run, sources=["sql01"], **arguments)


async def outcome(one: Scene) -> str:
    await one.stopper.submit([one.nominate("70", "sql01")])
    return await one.outcome("70", "sql01")


@pytest.mark.parametrize(
    ("numbers", "row", "expected"),
    [
        ([], "obeys", "stopped"),
        ([], "stays", "unconfirmed"),
        ([27126], "", "unconfirmed"),
        ([27124], "ends", "already_ended"),
        ([27105], "ends", "already_ended"),
        ([27103], "", "failed"),
        ([27105], "", "failed"),
        ([27124], "", "failed"),
        ([27123], "", "failed"),
        ([27143], "", "failed"),
        ([27153], "", "failed"),
        ([27219], "", "failed"),
        ([27100], "", "failed"),
        ([27112] * 3, "", "failed"),
        ([27125] * 3, "", "failed"),
        ([27195] * 3, "", "failed"),
        ([27130], "stopping", "failed"),
        ([27131], "stopping", "failed"),
        ([27133], "stopping", "failed"),
        ([27218], "", "failed"),
        ([27195], "obeys", "stopped"),
    ],
)
def test_each_answer_comes_to_its_outcome(made: Rig, numbers: list[int], row: str, expected: str) -> None:
    """
    What the server answers, and what the row then says, decide the outcome; the other run goes on in any case.
    """
    procedure = made.server.stop_operation
    procedure.raises = list(numbers)
    procedure.obeys = row == "obeys"
    procedure.ends_row_with = 7 if row == "ends" else None
    procedure.leaves_stopping = row == "stopping"

    async def work(one: Scene) -> None:
        assert expected == await outcome(one)
        assert 71 in statuses(one.workers["sql01"].source.snapshot())

    scene(made, work)
    assert {70} == set(procedure.calls)


def test_a_run_that_takes_its_time_is_stopped_in_the_end(made: Rig) -> None:
    """
    Accepted, stopping for a minute, then canceled: stopped, with one request.
    """
    made.server.stop_operation.obeys = False

    async def work(one: Scene) -> None:
        await one.stopper.submit([one.nominate("70", "sql01")])
        await one.time.advance(60)
        made.estate.end(70, 3)
        assert "stopped" == await one.outcome("70", "sql01")

    scene(made, work)
    assert [70] == made.server.stop_operation.calls


def test_a_restart_of_the_exporter_asks_no_second_time(made: Rig) -> None:
    """
    The catalog shows who is being stopped, whoever looks.
    """
    made.server.stop_operation.obeys = False

    async def work(one: Scene) -> None:
        await one.stopper.submit([one.nominate("70", "sql01")])
        await one.time.advance(30)
        await one.restart()
        await one.time.advance(30)
        made.estate.end(70, 3)
        assert "stopped" == await one.outcome("70", "sql01")

    scene(made, work)
    assert [70] == made.server.stop_operation.calls


@pytest.mark.parametrize("trouble", ["login", "role", "frozen"])
def test_a_catalog_that_cannot_be_read_stops_nothing(made: Rig, trouble: str) -> None:
    """
    Nothing is stopped and nothing called ended; the nomination waits, and expires.
    """

    async def work(one: Scene) -> None:
        one.workers["sql01"].source.snapshot()
        if trouble == "login":
            made.server.faults.refuse_login = 18456
            made.server.cut_all()
        elif trouble == "role":
            made.estate.accounts[WINDOWS_ACCOUNT.casefold()].roles.clear()
        else:
            made.server.faults.errors = [(1222, None)]
        assert "expired" == await outcome(one)
        made.server.faults.refuse_login, made.server.faults.errors = None, []
        made.estate.accounts[WINDOWS_ACCOUNT.casefold()].roles.add("ssis_admin")
        assert {70, 71} == set(statuses(one.workers["sql01"].source.snapshot()))

    scene(made, work)
    assert [] == made.server.stop_operation.calls


def test_a_run_that_is_locked_when_the_exporter_starts_is_not_called_gone(made: Rig) -> None:
    """
    An end that is not committed proves nothing, whoever asks.
    """

    async def work(one: Scene) -> None:
        source = one.workers["sql01"].source
        source.snapshot()
        made.estate.hold_lock(70, status=3)
        await one.stopper.submit([one.nominate("70", "sql01")])
        await one.time.advance(60)
        assert one.stopper.pending() or "already_ended" != one.stopper.last_outcomes()[0].outcome
        made.estate.roll_back(70)
        assert 70 in statuses(source.snapshot()) or made.server.stop_operation.calls == [70]

    scene(made, work)


class Between:
    """What happens while the stop connects, after it was written down and before the server is asked."""

    def __init__(self, scene: Scene, *troubles: Callable[[], None]) -> None:
        source = scene.workers["sql01"].source
        assert isinstance(source, CatalogSource)
        source.snapshot()
        self._connect, self._troubles = source._connect, list(troubles)
        source._connect = self  # type: ignore[method-assign, assignment]

    def __call__(self, deadline: Deadline) -> CatalogSession:
        if self._troubles:
            self._troubles.pop(0)()
        return self._connect(deadline)


def no_answer() -> None:
    raise SourceUnreachable("sql01: nobody answers")


def test_a_server_that_is_away_for_a_moment_is_asked_when_it_is_back(made: Rig) -> None:
    """
    What was certainly not asked is no outcome: it is looked at and tried again.
    """

    async def work(one: Scene) -> None:
        Between(one, no_answer, no_answer)
        assert "stopped" == await outcome(one)

    scene(made, work)
    assert [70] == made.server.stop_operation.calls
    assert "not_asked" in kinds(made.folder / "state")


def test_a_server_that_stays_away_is_told_when_the_nomination_expires(made: Rig) -> None:
    """
    With what kept it from being asked.
    """

    async def work(one: Scene) -> None:
        # It can be looked at, again and again, and never asked.
        Between(one, *[no_answer, lambda: None] * 1000)
        assert "expired" == await outcome(one)
        assert "nobody answers" in one.stopper.last_outcomes()[0].text

    scene(made, work)
    assert [] == made.server.stop_operation.calls


def test_a_hold_counts_until_the_server_is_asked(made: Rig) -> None:
    """
    Also one that begins while the stop is connecting.
    """

    async def work(one: Scene) -> None:
        Between(one, lambda: Hold(made.folder / "state").begin("not now"))
        assert "vetoed" == await outcome(one)

    scene(made, work)
    assert [] == made.server.stop_operation.calls


def test_a_lock_at_the_last_look_is_no_request(made: Rig) -> None:
    """
    The row is locked when the stop looks: nothing was asked, and it is tried again.
    """

    async def work(one: Scene) -> None:
        def lock() -> None:
            made.server.faults.errors = [(1222, None)]

        def unlock() -> None:
            made.server.faults.errors = []

        Between(one, lock, unlock)
        one.time.shortest_wait = 5
        await one.stopper.submit([one.nominate("70", "sql01")])
        await one.time.advance(30)
        unlock()
        assert "stopped" == await one.outcome("70", "sql01")

    scene(made, work)
    assert [70] == made.server.stop_operation.calls


CONFIG = """
sources:
  - name: sql01
    kind: catalog
    server: 127.0.0.1:{port}
    encrypt: false
    auth: {user: '{user}', password_file: windows-password}
stop:
  mode: armed
  listen_address: 127.0.0.1:{webhook}
  token_files: [stop.token]
  breaker: {stops: 100, window: 10m}
  confirm_timeout: 3s
  rules:
    - match: {package_name: "Runaway*"}
      action: stop
"""

FAILS = (
    *(27100, 27103, 27105, 27112, 27123, 27124, 27125, 27130, 27131, 27133),
    *(27139, 27143, 27153, 27195, 27218, 27219, 229, 50000),
)
"""Errors after which a run that still runs was not stopped."""

# By execution id: the error that the procedure answers with, and the outcome.
ANSWERS: dict[int, tuple[int | None, StopOutcome]] = {
    1: (None, StopOutcome.STOPPED),
    2: (27126, StopOutcome.UNCONFIRMED),
    3: (27124, StopOutcome.ALREADY_ENDED),
    4: (27105, StopOutcome.ALREADY_ENDED),
    **{number: (error, StopOutcome.FAILED) for number, error in enumerate(FAILS, 10)},
}
ENDS_MEANWHILE = {3, 4}


@pytest.mark.real
def test_from_a_real_alertmanager_each_answer_has_its_own_outcome(made: Rig, tmp_path: Path) -> None:
    """
    Serve as installed, an alert of a real Alertmanager for each answer of the server: the ledger tells each apart, by
    its number and its sentence.
    """
    for number, (error, _) in ANSWERS.items():
        made.estate.add(number, package_name=f"Runaway{number}.dtsx", start_time=datetime(2026, 1, 1, tzinfo=UTC))
        if error is not None:
            made.server.stop_operation.raises_for[number] = error
    made.estate.add(99, package_name="Runaway99.dtsx")
    procedure = made.server.stop_operation
    procedure.before = lambda number: made.estate.end(number) if number in ENDS_MEANWHILE else None
    webhook, metrics = free_port(), free_port()
    token = tmp_path / "stop.token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    config = filled(CONFIG, port=made.server.port, user=WINDOWS_ACCOUNT, webhook=webhook)
    (tmp_path / "ssis_exporter.yml").write_text(config)
    command = [
        *(str(COMMAND), "serve", "--config.file", "ssis_exporter.yml"),
        *("--storage.path", "state", "--log.level", "debug", "--web.listen-address", f"{LOOPBACK}:{metrics}"),
    ]
    with ExitStack() as stack:
        exporter = stack.enter_context(Program(tmp_path, "exporter", command))
        exporter.wait_for(f"http://{LOOPBACK}:{metrics}/-/ready")
        alertmanager = stack.enter_context(
            Alertmanager(tmp_path / "alertmanager", filled(AT_ONCE, webhook=webhook, token_file=token))
        )
        for number in ANSWERS:
            labels = {"alertname": "Runaway", "ssis_action": "stop", "source": "sql01", "instance_id": str(number)}
            alertmanager.send({"labels": labels, "startsAt": datetime.now(UTC).isoformat()})

        def told() -> dict[int, Event]:
            events = read_events(tmp_path / "state")
            return {int(event.key.instance_id): event for event in events if event.outcome is not None}

        wait_until(lambda: len(told()) == len(ANSWERS), "an outcome for each")
        found = told()
        output = exporter.output()

    assert {number: outcome for number, (_, outcome) in ANSWERS.items()} == {
        number: event.outcome for number, event in found.items()
    }
    failed = {error: found[number].text for number, (error, outcome) in ANSWERS.items() if outcome == "failed"}
    assert len(FAILS) == len(set(failed.values()))
    assert [] == [(error, text) for error, text in failed.items() if str(error) not in text]
    assert set(ANSWERS) == set(procedure.calls)
    assert 2 == made.estate.get(99)["status"]  # type: ignore[index]
    assert TOKEN not in output
    assert "secret" not in output.replace("<secret>", "")
