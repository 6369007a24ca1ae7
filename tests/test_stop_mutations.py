"""Bodies that stop a run, changed at random: never a stop that a rule did not allow for exactly the run in the body."""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter import webhook
from ssis_exporter.alertmessage import AlertMessage, read_message, select
from ssis_exporter.model import Execution, ExecutionKey, StopReply
from ssis_exporter.policy import Action, Breaker, Match, Rule
from tests.stopping import Scene
from tests.test_alertmessage import BODIES

MUTATIONS = 10_000 if os.environ.get("SSIS_EXPORTER_FULL") == "1" else 400

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

RULES = (
    Rule(match=Match(package_name="Payroll*"), action=Action.NEVER),
    Rule(match=Match(source="sqlprod01", folder="Finance", package_name="Load*"), action=Action.STOP),
)

BODY_NAMES = ("firing", "grouped", "mixed", "refired", "truncated-resolved-takes-a-place", "peer-a")
"""Bodies whose firing alerts name runs that the rules allow, once their folder is Finance."""


class Watch:
    """An estate around one body: the runs that it names, and others that are nearly the same."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.body = b""
        self.stopped: list[ExecutionKey] = []
        self.wrong: list[Exception] = []
        self._number = 0
        for worker in scene.workers.values():
            source: Any = worker.source
            source.request_stop = self._checked(source.request_stop)

    def _checked(self, act: Any) -> Any:
        def request_stop(execution: Execution) -> StopReply:
            try:
                self._check(execution)
            except Exception as exc:
                # The stopper takes whatever a source raises, so it is kept for the end.
                self.wrong.append(exc)
            self.stopped.append(execution.key)
            reply: StopReply = act(execution)
            return reply

        return request_stop

    def _check(self, execution: Execution) -> None:
        facts = execution.facts
        # The rules once more, by hand.
        assert "sqlprod01" == facts.key.source
        assert "Finance" == facts.folder
        assert facts.package_name.startswith("Load")
        # The body once more, by a reader that checks nothing: it names this run, and says nothing else of it.
        alerts = json.loads(self.body)["alerts"]
        assert any(
            alert["status"] == "firing"
            and alert["labels"]["ssis_action"] == "stop"
            and alert["labels"]["source"] == facts.key.source
            and alert["labels"]["instance_id"] == facts.key.instance_id
            and alert["labels"].get("package_name", facts.package_name).lower() == facts.package_name.lower()
            and alert["labels"].get("folder", facts.folder).lower() == facts.folder.lower()
            and alert["labels"].get("project", facts.project).lower() == facts.project.lower()
            for alert in alerts
            if {"ssis_action", "source", "instance_id"} <= set(alert["labels"])
        ), self.body

    def fresh(self, name: str) -> tuple[bytes, list[str]]:
        """One of the real bodies with run ids that were never used, and an estate in which they run."""
        self._number += 1
        text = (BODIES / f"{name}.json").read_text(encoding="utf-8").replace('"folder":"Archive"', '"folder":"Finance"')
        alerts = json.loads(text)["alerts"]
        ids = {alert["labels"]["instance_id"] for alert in alerts}
        fresh = {old: f"{self._number}{old}" for old in ids}
        for old, new in fresh.items():
            text = text.replace(f'"{old}"', f'"{new}"')
        text = text.replace("Archive_", "Load_Archive_")
        for alert in json.loads(text)["alerts"]:
            self._start_around(alert["labels"]["instance_id"], alert["labels"]["package_name"])
        return text.encode(), list(fresh.values())

    def _start_around(self, instance_id: str, package_name: str) -> None:
        began = self.scene.time.now() - timedelta(hours=12)
        first, second = (worker.source for worker in self.scene.workers.values())
        near = {
            instance_id: (package_name, "Finance"),
            instance_id + "0": (package_name, "HR"),
            instance_id[:-1] + "x": ("Payroll_Load", "Finance"),
            "9" + instance_id: ("Payroll_Load", "Finance"),
            instance_id[1:] + "y": ("Other", "Finance"),
        }
        for other, (package, folder) in near.items():
            first.start(other, package, folder=folder, project="DW", started_at=began)  # type: ignore[attr-defined]
            second.start(other, package_name, folder="Finance", project="DW", started_at=began)  # type: ignore[attr-defined]

    async def send(self, body: bytes) -> list[ExecutionKey]:
        """What the webhook does with a body; the runs that were asked to stop because of it."""
        self.body, self.stopped = body, []
        message = read_message(body)
        if isinstance(message, AlertMessage):
            await webhook._decide(self.scene.stopper, select(message))
            await self.scene.time.run_until(lambda: not self.scene.stopper.pending())
        if self.wrong:
            raise self.wrong[0]
        return self.stopped

    def clear(self) -> None:
        """Nothing runs any more."""
        for worker in self.scene.workers.values():
            source: Any = worker.source
            source._runs.clear()


def mutated(body: bytes, dice: random.Random) -> bytes:
    """The body, changed in one to four places."""
    changed = bytearray(body)
    for _ in range(dice.randint(1, 4)):
        dice.choice((_flip, _drop, _double, _insert, _swap_words, _swap_words, _swap_words, _copy_piece))(changed, dice)
    return bytes(changed)


def _flip(body: bytearray, dice: random.Random) -> None:
    if body:
        body[dice.randrange(len(body))] = dice.choice(b'"{}[]:,\\0123456789abcxyz \n\x00\xff')


def _drop(body: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(body) + 1)
    del body[at : at + dice.randint(1, 30)]


def _double(body: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(body) + 1)
    body[at:at] = body[at : at + dice.randint(1, 60)]


def _insert(body: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(body) + 1)
    body[at:at] = dice.choice((b"0", b"9", b"x", b"\\u0000", b"\\n", b" ", b"\\ud800", b"\xc3\xa9", b",", b"{}", b'"'))


def _swap_words(body: bytearray, dice: random.Random) -> None:
    quoted = [piece for piece in bytes(body).split(b'"')[1::2] if piece]
    if not quoted:
        return
    words = [*quoted, b"firing", b"resolved", b"stop", b"sqlprod02", b"Payroll_Load", b"HR", b"source", b"instance_id"]
    old, new = b'"' + dice.choice(quoted) + b'"', b'"' + dice.choice(words) + b'"'
    ids = [piece for piece in quoted if piece.isdigit()]
    if ids and dice.random() < 0.3:
        # The ids of runs that are nearly the one that is meant.
        one = dice.choice(ids)
        old, new = (
            b'"' + one + b'"',
            b'"' + dice.choice((one + b"0", one[:-1] + b"x", b"9" + one, one[1:] + b"y")) + b'"',
        )
    at = bytes(body).find(old, dice.randrange(len(body)))
    at = bytes(body).find(old) if at < 0 else at
    if at >= 0:
        body[at : at + len(old)] = new


def _copy_piece(body: bytearray, dice: random.Random) -> None:
    start, to = dice.randrange(len(body) + 1), dice.randrange(len(body) + 1)
    body[to:to] = body[start : start + dice.randint(1, 200)]


def scene(folder: Path) -> Scene:
    """Two sources, of which the rules allow to stop some runs of the first."""
    return Scene(
        folder,
        rules=RULES,
        sources=("sqlprod01", "sqlprod02"),
        breaker=Breaker(stops=1_000_000, window=timedelta(minutes=10)),
    )


async def play(folder: Path, seed: int) -> tuple[int, int, int]:
    """Sends each body as it is, and many changed ones; how many did stop a run, of how many."""
    dice = random.Random(seed)
    async with scene(folder) as made:
        watch = Watch(made)
        unchanged = 0
        for name in BODY_NAMES:
            body, ids = watch.fresh(name)
            firing = [one["labels"]["instance_id"] for one in json.loads(body)["alerts"] if one["status"] == "firing"]
            assert firing
            assert {ExecutionKey("sqlprod01", one) for one in firing} == set(await watch.send(body)), (name, ids)
            unchanged += 1
            watch.clear()
        did = 0
        for _ in range(MUTATIONS):
            body, _ = watch.fresh(dice.choice(BODY_NAMES))
            did += bool(await watch.send(mutated(body, dice)))
            watch.clear()
        return unchanged, did, MUTATIONS


@pytest.mark.timeout(1800)
def test_a_changed_body_never_stops_a_run_that_it_does_not_name() -> None:
    """
    Whatever becomes of a body on its way: a run is stopped only where a rule allows it and the body names it.
    """
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        unchanged, did, count = asyncio.run(play(Path(folder), seed=20261122))
    print(f"{did} of {count} changed bodies stopped a run, each the one that it names")

    assert len(BODY_NAMES) == unchanged
    # Many are changed where it does not matter: without those the test would show nothing.
    assert count // 20 < did < count


def test_a_stop_that_the_body_does_not_name_is_noticed() -> None:
    """
    The check is not empty: a request for another run fails it, although the stopper takes what a source raises.
    """

    async def work(folder: Path) -> None:
        async with scene(folder) as made:
            watch = Watch(made)
            body, _ = watch.fresh("firing")
            source: Any = made.workers["sqlprod01"].source
            asked = source.request_stop
            other = next(run for run in source.snapshot().executions if run.facts.package_name == "Payroll_Load")
            source.request_stop = lambda _: asked(other)
            await watch.send(body)

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, pytest.raises(AssertionError):
        asyncio.run(work(Path(folder)))
