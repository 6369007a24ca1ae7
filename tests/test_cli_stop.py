"""The commands about stopping, through a service that runs and without one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tornado.web import Application, RequestHandler

from ssis_exporter import following, ledger, storage
from ssis_exporter.addresses import Address, parse_address
from ssis_exporter.alertmessage import AlertMessage, read_message
from ssis_exporter.cli import exits, run
from ssis_exporter.cli import stop as stop_command
from ssis_exporter.cli.standalone import stopping
from ssis_exporter.config import load_config
from ssis_exporter.control import ADDRESS, FOLDER, KEY, Control
from ssis_exporter.errors import StorageLocked
from ssis_exporter.ledger import NAME
from ssis_exporter.listening import Listener
from ssis_exporter.model import StopMode
from ssis_exporter.policy import Action, Match, Rule
from tests.serving import LoopThread, loop_thread
from tests.stopping import GRACE, Scene
from tests.test_alertmessage import BODIES, FOREIGN, LABELS, OURS, alert, body

RULES = (
    Rule(match=Match(package_name="Payroll*"), action=Action.NEVER),
    Rule(match=Match(folder="Finance"), action=Action.STOP, min_duration=timedelta(hours=1)),
)


class Service:
    """What `serve` is for the commands: a stopper, the operator's listener, a storage folder."""

    def __init__(self, folder: Path, thread: LoopThread, **settings: Any) -> None:
        self.folder = folder
        self.thread = thread
        self.scene = Scene(folder, rules=RULES, sources=("sqlprod01",), **settings)
        self.control = Control(self.scene.stopper, folder)
        self._moving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """As at the start of `serve`."""
        await self.scene.stopper.start()
        await self.control.start()
        self._moving = asyncio.get_running_loop().create_task(self._move())

    async def close(self) -> None:
        """As at its end."""
        await self.control.close()
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)
        await self.scene.stopper.close()
        self.scene.storage.release()

    async def _move(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            await self.scene.time.advance(0.25)

    def begin(self, instance_id: str, package_name: str = "Load", folder: str = "Finance", hours: float = 12) -> None:
        """A run that has been running for so long."""
        started_at = self.scene.time.now() - timedelta(hours=hours)
        self.scene.source.start(instance_id, package_name, folder=folder, project="DW", started_at=started_at)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with served(tmp_path / "state") as running:
        yield running


@contextlib.contextmanager
def served(folder: Path, **settings: Any) -> Iterator[Service]:
    """A service that runs."""
    with loop_thread() as thread:
        made = thread.call(lambda: Service(folder, thread, **settings))
        thread.run(made.start)
        try:
            yield made
        finally:
            thread.run(made.close)


def begin_all(service: Service, path: Path) -> AlertMessage:
    """Every run that a body names runs."""
    message = read_message(path.read_bytes())
    assert isinstance(message, AlertMessage)
    for one in message.alerts:
        if one.firing:
            labels = one.labels
            service.begin(labels["instance_id"], labels["package_name"], labels["folder"])
    return message


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_explain_tells_rule_reason_and_facts(service: Service, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    For each alert of each body: the decision, the rule and the reason, and the facts that it rests on.
    """
    message = begin_all(service, path)

    assert exits.OK == run(["explain", str(path), "--storage.path", str(service.folder)])
    shown = capsys.readouterr().out.split("alert ")[1:]
    assert len(message.alerts) == len(shown)
    for number, (one, text) in enumerate(zip(message.alerts, shown, strict=True), 1):
        instance_id, folder = one.labels["instance_id"], one.labels["folder"]
        assert text.startswith(f"{number} of {len(message.alerts)}: SSISRunawayPackage {one.fingerprint}, ")
        assert f"run:      {instance_id} of sqlprod01" in text
        if not one.firing:
            assert "decision: a stop of this run that was not requested yet is given up" in text
        elif folder == "Finance":
            assert "decision: it would be asked to stop" in text
            assert "rule:     rule 2" in text
        else:
            assert "decision: refused (no_rule)" in text
            assert "why:      no rule" in text
        if one.firing:
            assert re.search(r"^    duration: 1[12]h", text, re.MULTILINE)
            assert f"    package_name: {one.labels['package_name']}\n" in text
            assert "    visibility: all\n" in text
    assert [] == service.scene.source.stop_requests


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: path.stem)
def test_explain_ignores_what_is_not_ours(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Bodies without our labels nominate nothing; no service and no configuration is needed to see that.
    """
    assert exits.OK == run(["explain", str(path), "--storage.path", str(tmp_path)])
    shown = capsys.readouterr().out

    assert shown.count("decision: ignored (not_for_us)") == len(json.loads(path.read_bytes())["alerts"])
    assert 'it does not carry ssis_action="stop"' in shown
    assert [] == list(tmp_path.iterdir())


def test_explain_as_json(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """
    One object for each alert, with all that the text says.
    """
    begin_all(service, BODIES / "mixed.json")
    assert exits.OK == run(["explain", str(BODIES / "mixed.json"), "--json", "--storage.path", str(service.folder)])
    resolved, firing = (json.loads(line) for line in capsys.readouterr().out.splitlines())

    assert ("resolved", "veto", "41287") == (resolved["status"], resolved["disposition"], resolved["instance_id"])
    assert ("firing", "nominated", "rule 2") == (firing["status"], firing["disposition"], firing["rule"])
    assert True is firing["would_be_asked_to_stop"]
    assert "Load Dim_Customer" == firing["facts"]["package_name"]


def test_explain_reads_stdin(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    `-` is the message on standard input.
    """
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((BODIES / "firing.json").read_bytes())))

    assert exits.OK == run(["explain", "-", "--storage.path", str(service.folder)])
    assert "decision: already_ended" in capsys.readouterr().out


def test_explain_of_too_many_runs(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Fifty runs in one message: none would be stopped, and each says why.
    """
    many = [alert(labels=alert()["labels"] | {"instance_id": str(number)}) for number in range(50)]
    path = tmp_path / "many.json"
    path.write_bytes(body(*many))

    assert exits.OK == run(["explain", str(path), "--storage.path", str(service.folder)])
    assert 50 == capsys.readouterr().out.count("decision: refused (too_many_runs)")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{}", 'the webhook would answer 400: the body is not an Alertmanager webhook message of version "4"'),
        (b"hello", "the webhook would answer 400: the body is not JSON"),
        pytest.param(
            b" " * (1024 * 1024 + 1),
            "the webhook would answer 413: the body is larger than 1048576 bytes",
            id="too large",
        ),
    ],
)
def test_explain_of_what_is_no_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, sentence: str
) -> None:
    """
    It says what the webhook would answer.
    """
    path = tmp_path / "body.json"
    path.write_bytes(content)

    assert exits.FOUND == run(["explain", str(path), "--storage.path", str(tmp_path)])
    assert f"{sentence}\n" == capsys.readouterr().out


def test_explain_of_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    One sentence with the file's name.
    """
    assert exits.USAGE == run(["explain", str(tmp_path / "missing.json")])
    assert "missing.json cannot be read" in capsys.readouterr().err


def test_explain_without_a_service_looks_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Without a service it uses the configuration, and leaves no ledger behind.
    """
    config = tmp_path / "ssis.yml"
    config.write_text("sources: [{name: sqlprod01, kind: demo}]\nstop: {rules: []}\n")
    state = tmp_path / "state"
    command = ["explain", str(BODIES / "firing.json"), "--config.file", str(config), "--storage.path", str(state)]

    assert exits.OK == run(command)
    assert "decision: refused (no_such_run)" in capsys.readouterr().out
    assert not state.exists()


def test_a_command_without_a_service_leaves_alone_what_is_open(tmp_path: Path) -> None:
    """
    What an earlier service left open, also in its grace, stays for the next one.
    """

    async def work() -> list[str]:
        async with Scene(tmp_path, rules=[GRACE], sources=("sqlprod01",)) as scene:
            scene.source.start("1")
            await scene.stopper.submit([scene.nominate("1", "sqlprod01")])
            await scene.time.advance(1)
        path = tmp_path / "ssis.yml"
        path.write_text("sources: [{name: sqlprod01, kind: demo}]\nstop: {rules: []}\n")
        async with stopping(load_config(path), tmp_path, writes=True) as made:
            await made.stopper.submit([scene.nominate("none", "sqlprod01")])
            return [pending.key.instance_id for pending in made.stopper.pending()]

    assert ["none"] == asyncio.run(work())
    assert "allowed" == [event.kind for event in ledger.read_events(tmp_path) if event.key.instance_id == "1"][-1]


def test_without_a_section_stop_nothing_may_be_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    One sentence that says what is missing.
    """
    config = tmp_path / "ssis.yml"
    config.write_text("sources: [{name: sqlprod01, kind: demo}]\n")
    command = ["stop", "1", "--source", "sqlprod01", "--config.file", str(config), "--storage.path", str(tmp_path)]

    assert exits.USAGE == run(command)
    told = capsys.readouterr().err
    assert f"no exporter that may stop anything runs with {tmp_path} (--storage.path)" in told
    assert "the configuration (--config.file) has no section stop, so nothing may be stopped" in told


def stop(service: Service, instance_id: str, *flags: str) -> int:
    """`ssis-exporter stop`."""
    return run(["stop", instance_id, "--source", "sqlprod01", "--storage.path", str(service.folder), *flags])


def test_stop_goes_the_same_way_as_an_alert(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The rule, each step and the proof are shown; the ledger names the operator.
    """
    service.begin("41287")
    service.begin("41291")

    assert exits.OK == stop(service, "41287", "--yes")
    shown = capsys.readouterr().out
    assert "decision: it would be asked to stop" in shown
    for step in ("nominated", "seen", "allowed by rule 2", "requested", "asked", "stopped by rule 2"):
        assert f" {step}" in shown
    assert ["41287"] == service.scene.source.stop_requests
    assert exits.OK == run(["audit", "--storage.path", str(service.folder), "--json"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["details"]["nomination"]["origin"].startswith("operator ")


def test_stop_asks_first(service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without a yes nothing is nominated; without anybody to ask neither.
    """
    service.begin("41287")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    declined = stop(service, "41287")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    nobody = stop(service, "41287")

    assert (exits.OK, exits.INTERRUPTED) == (declined, nobody)
    assert "Stop this run? [y/N]" in capsys.readouterr().out
    assert [] == service.scene.source.stop_requests
    assert exits.OK == run(["audit", "--storage.path", str(service.folder)])
    assert "the ledger is empty" in capsys.readouterr().out

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert exits.OK == stop(service, "41287")
    assert ["41287"] == service.scene.source.stop_requests


@pytest.mark.parametrize(
    ("instance_id", "decision", "code"),
    [
        ("41287", "it would be asked to stop", exits.OK),
        ("50000", "refused (no_rule)", exits.FOUND),
        ("50001", "refused (never)", exits.FOUND),
        ("50002", "refused (too_young)", exits.FOUND),
        ("99999", "already_ended", exits.OK),
        (" 41287", "refused (invalid_label)", exits.FOUND),
    ],
)
def test_what_a_rule_does_not_allow_is_not_even_nominated(
    service: Service, capsys: pytest.CaptureFixture[str], instance_id: str, decision: str, code: int
) -> None:
    """
    The decision, its reason and an exit status; nothing is asked, nothing is written. `--dry-run` does that for all.
    """
    service.begin("41287")
    service.begin("50000", folder="HR")
    service.begin("50001", "Payroll_Load")
    service.begin("50002", hours=0.5)
    flags = ("--dry-run",) if instance_id == "41287" else ("--yes",)

    assert code == stop(service, instance_id, *flags)
    assert f"decision: {decision}" in capsys.readouterr().out
    assert [] == service.scene.source.stop_requests


def test_a_mistyped_id_is_no_run_that_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    There is no such run, and the exit status says so; one that was seen before has ended, and a script may ask again.
    """
    with served(tmp_path, remembers=False) as service:
        service.begin("41287")

        assert exits.FOUND == stop(service, "41278", "--yes")
        shown = capsys.readouterr().out
        assert "decision: refused (no_such_run)" in shown
        assert "why:      there is no such run: it is not there, and the account would see it; no look and no" in shown
        assert [exits.OK, exits.OK] == [stop(service, "41287", "--yes") for _ in range(2)]
        assert ["41287"] == service.scene.source.stop_requests
        service.scene.remembers = True
        assert exits.OK == stop(service, "41278", "--yes")
        assert "decision: already_ended" in capsys.readouterr().out


def test_following_a_stop_reads_what_is_new(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However long it takes: the ledger's pages are not checked again and again while the service writes it.
    """
    checked: list[Path] = []
    check = storage.check_content

    def counted(connection: sqlite3.Connection, path: Path, schema: Sequence[str], **how: bool) -> None:
        if how.get("pages", True):
            checked.append(path)
        check(connection, path, schema, **how)

    monkeypatch.setattr(storage, "check_content", counted)
    monkeypatch.setattr(stop_command, "POLL_SECONDS", 0.001)
    service.begin("41287")
    service.scene.source.obeys = False

    assert exits.FOUND == stop(service, "41287", "--yes")
    assert "unconfirmed by rule 2" in capsys.readouterr().out
    assert [] == checked


def test_an_old_outcome_is_not_taken_for_the_new_one(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A run that was refused before is followed to its new outcome; where the old steps cannot be read, nothing begins.
    """
    service.begin("41287")
    service.thread.run(lambda: service.scene.stopper.hold("now"))
    service.thread.run(lambda: service.scene.stopper.submit([service.scene.nominate("41287", "sqlprod01")]))
    service.thread.run(service.scene.stopper.resume)

    def locked(*_: object, **__: object) -> None:
        raise StorageLocked("the ledger is held by another program")

    with monkeypatch.context() as patched:
        patched.setattr(following, "open_read_only", locked)
        assert exits.STORAGE == stop(service, "41287", "--yes")
    assert [] == service.scene.source.stop_requests
    assert exits.OK == stop(service, "41287", "--yes")
    assert "stopped by rule 2" in capsys.readouterr().out


def test_a_service_that_works_on_too_much_says_so(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nothing is taken, and the sentence says why.
    """
    service.begin("41287")
    monkeypatch.setattr(ledger, "MOST_PENDING", 0)

    assert exits.FOUND == stop(service, "41287", "--yes")
    told = "ssis-exporter: 0 runs are being worked on, and no more than 0 may be\n"
    assert told == capsys.readouterr().err
    assert [] == service.scene.source.stop_requests


def test_a_service_in_a_dry_run_records_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    In a dry run the command says so, and the ledger has what would have been done.
    """
    with served(tmp_path, mode=StopMode.DRY_RUN) as service:
        service.begin("41287")

        assert exits.OK == stop(service, "41287", "--yes")
        assert [] == service.scene.source.stop_requests
    shown = capsys.readouterr().out
    assert "decision: would_stop" in shown
    assert "would_stop by rule 2" in shown


def test_a_source_that_hangs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    When nobody can look, nobody can say: nothing is stopped.
    """
    with served(tmp_path) as service:
        service.begin("41287")
        service.scene.workers["sqlprod01"].hangs = True

        assert exits.FOUND == stop(service, "41287", "--yes")
        assert "decision: nobody can say now" in capsys.readouterr().out
        service.thread.call(service.scene.workers["sqlprod01"].go_on)
        assert [] == service.scene.source.stop_requests


def test_hold_and_resume_through_a_service(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A hold takes effect at once, is told with its reason, and ends with `resume`.
    """
    service.begin("41287")
    folder = ["--storage.path", str(service.folder)]

    assert exits.OK == run(["hold", "--reason", "month end", *folder])
    held = service.thread.call(lambda: service.scene.stopper.held)
    assert held is not None
    assert held.startswith("month end (")
    assert exits.FOUND == stop(service, "41287", "--yes")
    assert exits.OK == run(["resume", *folder])
    assert exits.OK == stop(service, "41287", "--yes")
    shown = capsys.readouterr().out
    assert "decision: refused (held)" in shown
    assert "the hold is ended; it was: month end (" in shown
    assert ["41287"] == service.scene.source.stop_requests


def test_hold_where_the_file_cannot_be_written(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The service holds all the same until it ends, and the command tells what is wrong with the file.
    """
    (service.folder / "hold.new").mkdir()

    assert exits.STORAGE == run(["hold", "--storage.path", str(service.folder)])
    told = (
        "ssis-exporter: the service that runs stops nothing until `resume` or its end, and no later one knows of it: "
    )
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{told}{service.folder / 'hold'} cannot be written: ")
    assert service.thread.call(lambda: service.scene.stopper.held) is not None
    assert exits.OK == run(["resume", "--storage.path", str(service.folder)])
    assert service.thread.call(lambda: service.scene.stopper.held) is None
    assert "the hold is ended; it was: " in capsys.readouterr().out


def test_hold_rests_on_the_file_and_on_nobodys_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Another program has the port of a service that was killed, and says yes to everything: the file is there all the
    same.
    """

    class SaysYes(RequestHandler):
        def post(self) -> None:
            self.finish({})

    (tmp_path / "lock").touch()
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / KEY).write_text("0" * 64)
    with loop_thread() as thread:
        listener = Listener(Application([(".*", SaysYes)]), [Address("127.0.0.1", 0)])
        thread.run(listener.start)
        (tmp_path / FOLDER / ADDRESS).write_text(str(listener.addresses[0]))
        assert exits.OK == run(["hold", "--reason", "month end", "--storage.path", str(tmp_path)])
        thread.run(lambda: listener.drain(1))
    assert "on hold" in capsys.readouterr().out

    assert "month end" in (tmp_path / "hold").read_text()


def test_hold_that_nobody_can_write_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Without a service nothing holds, and one sentence says so.
    """
    (tmp_path / "lock").touch()
    (tmp_path / "hold.new").mkdir()

    assert exits.STORAGE == run(["hold", "--storage.path", str(tmp_path)])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ssis-exporter: {tmp_path / 'hold'} cannot be written: ")


def test_hold_and_resume_without_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The file beside the ledger holds the next service, whatever it was started with.
    """
    with served(tmp_path):
        pass
    folder = ["--storage.path", str(tmp_path)]
    assert exits.OK == run(["hold", "--reason", "disk swap", *folder])
    with served(tmp_path) as service:
        assert "disk swap" in str(service.thread.call(lambda: service.scene.stopper.held))
    assert exits.OK == run(["resume", *folder])
    assert exits.OK == run(["resume", *folder])
    with served(tmp_path) as service:
        assert None is service.thread.call(lambda: service.scene.stopper.held)
    assert "nothing was on hold" in capsys.readouterr().out


def test_a_service_sees_a_file_that_somebody_puts_there(tmp_path: Path) -> None:
    """
    The file alone holds, and its absence ends that, each within a second.
    """

    async def play() -> tuple[str | None, str | None]:
        async with Scene(tmp_path) as scene:
            (tmp_path / "hold").write_text("by hand\n")
            await scene.time.advance(1.0)
            held = scene.stopper.held
            (tmp_path / "hold").unlink()
            await scene.time.advance(1.0)
            return held, scene.stopper.held

    assert ("by hand", None) == asyncio.run(play())


@pytest.mark.parametrize("command", ["hold", "resume"])
def test_hold_in_a_folder_that_no_exporter_knows(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A hold in the wrong folder would hold nothing, so it is refused.
    """
    assert exits.STORAGE == run([command, "--storage.path", str(tmp_path / "elsewhere")])
    assert "give --storage.path as its serve has it" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


def test_audit_shows_what_happened_since(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Oldest first, as a table, or whole as JSON; `--since` is a span or a time.
    """
    service.begin("41287")
    stop(service, "41287", "--yes")
    capsys.readouterr()
    folder = ["--storage.path", str(service.folder)]

    assert exits.OK == run(["audit", *folder])
    head, *rows = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", head) == ["TIME (UTC)", "SOURCE", "INSTANCE ID", "WHAT", "RULE", "REASON", "TEXT"]
    assert ["nominated", "seen", "allowed", "requested", "asked", "stopped"] == [
        re.split(r"\s{2,}", row)[3] for row in rows
    ]
    assert exits.OK == run(["audit", "--since", "2026-11-22T22:30:00Z", *folder])
    assert "nothing happened since then\n" == capsys.readouterr().out
    assert exits.OK == run(["audit", "--since", "2026-11-22T21:00", "--json", *folder])
    assert 6 == len(capsys.readouterr().out.splitlines())


def test_audit_without_a_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    One sentence, and nothing is made.
    """
    assert exits.STORAGE == run(["audit", "--storage.path", str(tmp_path / "state")])
    assert "nothing was recorded yet, or --storage.path is another one" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["yesterday", "5 minutes", "2026-13-01", "", "0001-01-01T00:00:00+14:00"])
def test_audit_since_what_is_no_time(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The sentence says how it is written.
    """
    assert exits.USAGE == run(["audit", "--since", text, "--storage.path", str(tmp_path)])
    assert "must be like 12h, 7d or 2026-11-22T20:00:00Z" in capsys.readouterr().err


def test_names_cannot_move_the_cursor(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    What a package is called is printed as text, in every command, also where it is no valid Unicode.
    """
    service.begin("41287", "Load\x1b[2J\x07\u202e\udcff")
    folder = ["--storage.path", str(service.folder)]
    path = tmp_path / "body.json"
    path.write_bytes(body(alert(labels={name: LABELS[name] for name in ("ssis_action", "source", "instance_id")})))

    assert exits.OK == run(["explain", str(path), *folder])
    assert exits.OK == run(["explain", str(path), "--json", *folder])
    assert exits.OK == stop(service, "41287", "--yes")
    assert exits.OK == run(["audit", *folder])
    assert exits.OK == run(["audit", "--json", *folder])
    shown = capsys.readouterr().out

    assert not {"\x1b", "\x07", "\u202e", "\udcff"} & set(shown)


def test_a_damaged_ledger_is_acknowledged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Nothing is stopped until an operator says that the loss is known; the old file is kept.
    """
    (tmp_path / NAME).write_bytes(b"no database" * 100)
    with served(tmp_path) as service:
        service.begin("41287")
        refused = stop(service, "41287", "--yes")
        assert exits.OK == run(["resume", "--set-aside-damaged-ledger", "--storage.path", str(tmp_path)])
        stopped = stop(service, "41287", "--yes")
        assert ["41287"] == service.scene.source.stop_requests
    shown = capsys.readouterr()

    assert (exits.STORAGE, exits.OK) == (refused, stopped)
    assert "is damaged" in shown.err
    [kept] = tmp_path.glob(f"{NAME}.damaged-*")
    assert str(kept) in shown.out
    assert kept.read_bytes().startswith(b"no database")


def test_a_damaged_ledger_is_acknowledged_without_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The same while no service runs.
    """
    (tmp_path / NAME).write_bytes(b"")

    assert exits.OK == run(["resume", "--set-aside-damaged-ledger", "--storage.path", str(tmp_path)])
    [kept] = tmp_path.glob(f"{NAME}.damaged-*")
    assert str(kept) in capsys.readouterr().out


def test_a_service_that_was_killed_is_not_waited_for(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """
    What it left behind names an address where nobody answers: the command works by itself, if the lock is free.
    """
    address = service.folder / FOLDER / ADDRESS
    address.write_text("127.0.0.1:1")
    config = service.folder / "ssis.yml"
    config.write_text("sources: [{name: sqlprod01, kind: demo}]\nstop: {rules: []}\n")

    assert exits.STORAGE == stop(service, "1", "--yes", "--config.file", str(config))
    assert "another ssis-exporter" in capsys.readouterr().err


def ask(service: Service, command: str, content: object, *, key: str | None = None, **headers: str) -> tuple[int, str]:
    """One request to the operator's listener."""
    folder = service.folder / FOLDER
    address = parse_address((folder / ADDRESS).read_text())
    sent = {"Authorization": f"Bearer {key if key is not None else (folder / KEY).read_text()}"}
    connection = http.client.HTTPConnection(address.host, address.port, timeout=20)
    with contextlib.closing(connection):
        whole = {"Content-Type": "application/json"} | sent | headers
        connection.request("POST", f"/api/v1/{command}", json.dumps(content), whole)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("command", ["stop", "explain", "hold", "resume", "acknowledge-damage"])
def test_the_operators_listener_has_a_key_of_its_own(service: Service, command: str) -> None:
    """
    Who cannot read the storage folder commands nothing, and neither does a browser.
    """
    assert (401, "") == ask(service, command, {}, key="c0ffee5eed0fd1e70ad57001bad1dea5")
    assert (401, "") == ask(service, command, {}, key=(service.folder / FOLDER / KEY).read_text()[:-1])
    assert (403, "") == ask(service, command, {}, Origin="http://evil.example.com")
    assert (403, "") == ask(service, command, {}, Host="evil.example.com")
    assert None is service.thread.call(lambda: service.scene.stopper.held)


@pytest.mark.parametrize(
    ("command", "content"),
    [
        ("stop", {}),
        ("stop", {"nominations": [{"key": {"source": "sqlprod01"}}]}),
        ("stop", {"nominations": [], "force": True}),
        ("explain", []),
        ("hold", {}),
        ("hold", {"reason": 7}),
        ("resume", {"all": True}),
    ],
)
def test_the_operators_listener_takes_only_what_it_knows(service: Service, command: str, content: object) -> None:
    """
    Another shape is 400, and does nothing.
    """
    status, sentence = ask(service, command, content)

    assert 400 == status
    assert sentence.startswith("the body is not understood: ")
    assert None is service.thread.call(lambda: service.scene.stopper.held)


def test_the_operators_listener_is_gone_with_the_service(tmp_path: Path) -> None:
    """
    Its key is readable by its account only, new at each start, and gone at the end.
    """
    keys = []
    for _ in range(2):
        with served(tmp_path):
            key = tmp_path / FOLDER / KEY
            keys.append(key.read_text())
            if os.name == "posix":
                assert 0o600 == key.stat().st_mode & 0o777
                assert 0o700 == key.parent.stat().st_mode & 0o777
        assert [] == list((tmp_path / FOLDER).iterdir())

    assert 2 == len(set(keys))
    assert {64} == {len(key) for key in keys}
