"""Over random estates, policies and messages: never a stop that a rule did not allow for exactly that run."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssis_exporter.errors import SourceUnreachable
from ssis_exporter.ledger import read_events
from ssis_exporter.model import (
    Execution,
    ExecutionKey,
    ExecutionStatus,
    Nomination,
    Scope,
    StopMode,
    StopReply,
    Visibility,
)
from ssis_exporter.policy import Action, Breaker, Match, Policy, Rule
from tests.stopping import Scene

EXAMPLES = 100_000 if os.environ.get("SSIS_EXPORTER_FULL") == "1" else 150

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""What a crash leaves on a disk is not the matter here."""

BREAKER = Breaker(stops=2, window=timedelta(minutes=10))
SOURCES = ("a", "b")
IDS = ("1", "2", "3")
NAMES = ("Load", "Load", "load.dtsx", "Payroll", "Loads", "")
FOLDERS = ("Finance", "Finance", "HR", "")

names = st.sampled_from(NAMES)
folders = st.sampled_from(FOLDERS)
keys = st.builds(ExecutionKey, st.sampled_from(("a", "a", "b")), st.sampled_from(IDS))
patterns = st.none() | st.sampled_from(("*", "Load*", "LOAD", "p?yroll", "Fin*", "hr", "a", "b"))
minutes = st.sampled_from((0, 0, 1, 5, 30)).map(lambda count: timedelta(minutes=count))

rules = st.builds(
    Rule,
    match=st.builds(Match, source=patterns, folder=patterns, package_name=patterns),
    action=st.sampled_from((Action.STOP, Action.STOP, Action.STOP, Action.NEVER)),
    min_duration=minutes,
    grace=minutes,
    escalate_after=st.none() | minutes,
)
generous = st.builds(
    Rule, match=st.just(Match()), action=st.just(Action.STOP), grace=minutes, escalate_after=st.none() | minutes
)
policies = st.one_of(st.tuples(generous), st.lists(rules, max_size=3).map(tuple), st.tuples(rules, generous))

runs = st.tuples(
    keys,
    names,
    folders,
    st.sampled_from((*[ExecutionStatus.RUNNING] * 8, ExecutionStatus.PENDING, ExecutionStatus.STOPPING)),
    minutes,
)
nominations = st.one_of(
    st.tuples(keys, st.none(), st.none(), st.just(0)),
    st.tuples(keys, st.none() | names, st.none() | folders, st.sampled_from((0, 0, 0, -1, -3600))),
    st.tuples(
        st.builds(ExecutionKey, st.sampled_from(("a", "a\n", "c", "a\0")), st.sampled_from(("1", "1\n", "9", "\0"))),
        st.none(),
        st.none(),
        st.just(0),
    ),
)
submits = st.tuples(st.just("submit"), st.lists(nominations, min_size=1, max_size=4))
# What each example begins with, so that most of them come as far as a stop: runs, and a message that may be right.
estates = st.tuples(
    *(
        st.tuples(
            st.just(ExecutionKey(source, instance_id)),
            names,
            folders,
            st.sampled_from((*[ExecutionStatus.RUNNING] * 8, ExecutionStatus.PENDING)),
            minutes,
        )
        for source, instance_id in (("a", "1"), ("a", "2"), ("b", "1"))
    )
)
first_messages = st.tuples(
    st.just("submit"),
    st.lists(
        st.tuples(
            st.builds(ExecutionKey, st.sampled_from(("a", "b")), st.sampled_from(("1", "2"))),
            st.none() | names,
            st.none(),
            st.just(0),
        ),
        min_size=1,
        max_size=3,
    ),
)
changes = st.one_of(
    st.tuples(st.just("end"), keys),
    st.tuples(st.just("begin"), runs),
    st.tuples(st.just("rename"), keys),
    st.tuples(st.just("orphan"), keys),
)
advances = st.tuples(st.just("advance"), st.sampled_from((0, 1, 61, 301, 700)))
steps = st.one_of(
    submits,
    submits,
    advances,
    changes,
    st.tuples(st.just("see"), st.tuples(st.sampled_from(SOURCES), st.sampled_from(list(Scope)))),
    st.tuples(st.just("fail"), st.tuples(st.sampled_from(SOURCES), st.booleans())),
    st.tuples(st.just("hang"), st.tuples(st.sampled_from(SOURCES), st.booleans())),
    st.tuples(st.just("obey"), st.tuples(st.sampled_from(SOURCES), st.booleans())),
    st.tuples(st.just("hold"), st.booleans()),
    st.tuples(st.just("veto"), keys),
    st.tuples(st.just("rules"), policies),
    st.tuples(st.just("mode"), st.sampled_from((StopMode.ARMED, StopMode.ARMED, StopMode.DRY_RUN, StopMode.OFF))),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("set"), st.sampled_from((-86_400, -700, 700, 86_400))),
)


def fits(pattern: str | None, value: str) -> bool:
    """The rules' patterns once more, by hand: what is compared here must not be what is tested."""
    if pattern is None:
        return True
    pattern, value = (text.lower().replace(".dtsx", "") for text in (pattern, value))
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return len(pattern) == len(value) and all(one in ("?", two) for one, two in zip(pattern, value, strict=True))


def allowed_by_hand(policy: Sequence[Rule], run: Execution) -> Rule | None:
    """The rule that allows to stop this run now; None when it may not be."""
    facts = run.facts

    def all_fit(rule: Rule) -> bool:
        match = rule.match
        pairs = (
            (match.source, facts.key.source),
            (match.folder, facts.folder),
            (match.package_name, facts.package_name),
        )
        return all(fits(pattern, value) for pattern, value in pairs)

    if any(rule.action is Action.NEVER and all_fit(rule) for rule in policy):
        return None
    first = next((rule for rule in policy if rule.action is Action.STOP and all_fit(rule)), None)
    return first if first is not None and run.duration >= first.min_duration else None


class Witness:
    """Plays one example, and checks at each request to a source that it was right to make it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.policy: Sequence[Rule] = scene.settings.policy.rules
        self.mode = scene.settings.mode
        self.held = False
        self.began: dict[ExecutionKey, float] = {}
        """When each run really began, whatever the clock on the wall says of it."""

        self.seen: list[Execution] = []
        """Every run as each look showed it."""

        self.nominated: dict[ExecutionKey, list[Nomination]] = {}
        self.asked: list[tuple[float, ExecutionKey]] = []
        self.forced: list[ExecutionKey] = []
        self.wrong: list[Exception] = []
        for worker in scene.workers.values():
            source: Any = worker.source
            source.request_stop = self._watched(source.request_stop, self._check_request)
            source.force_stop = self._watched(source.force_stop, self._check_force)
            source.snapshot = self._looked(source)

    def _watched(self, act: Any, check: Any) -> Any:
        def watched(execution: Execution) -> StopReply:
            source: Any = self.scene.workers[execution.key.source].source
            run = source._runs.get(execution.key.instance_id)
            if run is not None and run.facts == execution.facts:
                try:
                    check(execution)
                except Exception as exc:
                    # The stopper takes whatever a source raises, so it is kept for the end.
                    self.wrong.append(exc)
            # Another run, or none: the source refuses by itself, in the moment of acting.
            return act(execution)  # type: ignore[no-any-return]

        return watched

    def _looked(self, source: Any) -> Any:
        look = source.snapshot

        def snapshot() -> Any:
            seen = look()
            self.seen.extend(seen.executions)
            return seen

        return snapshot

    def _check_request(self, execution: Execution) -> None:
        run, rule = self._check(execution)
        assert execution.status is ExecutionStatus.RUNNING
        assert rule is not None
        assert execution.key not in {key for _, key in self.asked}, "asked twice"
        assert any(self._agrees(nomination, run) for nomination in self.nominated.get(execution.key, []))
        now = self.scene.time.seconds
        recent = [at for at, _ in self.asked if at > now - BREAKER.window.total_seconds()]
        assert len(recent) < BREAKER.stops, "more than the breaker lets through"
        self.asked.append((now, execution.key))

    def _check_force(self, execution: Execution) -> None:
        _, rule = self._check(execution)
        assert rule is not None
        assert rule.escalate_after is not None
        at = next(at for at, key in self.asked if key == execution.key)
        assert self.scene.time.seconds - at >= rule.escalate_after.total_seconds()
        assert execution.key not in self.forced, "ended twice"
        self.forced.append(execution.key)

    def _check(self, execution: Execution) -> tuple[Execution, Rule | None]:
        source: Any = self.scene.workers[execution.key.source].source
        run: Execution = source._as_of_now(source._runs[execution.key.instance_id])
        assert any(execution is seen for seen in self.seen), "not what a look showed"
        assert not execution.orphaned
        assert self.mode is StopMode.ARMED
        assert not self.held
        events = [event for event in read_events(self.scene.folder) if event.key == execution.key]
        seen = next(event for event in events if event.kind == "seen").details["facts"]
        assert (run.facts.package_name, run.facts.folder) == (seen["package_name"], seen["folder"])
        assert "requested" in [event.kind for event in events], "nothing on disk"
        age = timedelta(seconds=self.scene.time.seconds - self.began[execution.key])
        return run, allowed_by_hand(self.policy, replace(run, duration=age))

    def _agrees(self, nomination: Nomination, run: Execution) -> bool:
        facts = run.facts
        assert facts.started_at is not None
        assert nomination.asked_since is not None
        believed = ((nomination.package_name, facts.package_name), (nomination.folder, facts.folder))
        return nomination.asked_since >= facts.started_at - timedelta(seconds=1) and all(
            said is None or said.lower().removesuffix(".dtsx") == found.lower().removesuffix(".dtsx")
            for said, found in believed
        )

    async def step(self, what: str, argument: Any) -> None:  # noqa: PLR0912 - one branch per thing that may happen
        """One thing that happens."""
        scene = self.scene
        match what:
            case "submit":
                await self._submit(argument)
            case "advance":
                await scene.time.advance(argument)
            case "begin":
                key, name, folder, status, age = argument
                self.began[key] = scene.time.seconds - age.total_seconds()
                self._source(key.source).start(
                    key.instance_id, name, folder=folder, status=status, started_at=scene.time.now() - age
                )
            case "see":
                self._source(argument[0]).visibility = Visibility(argument[1])
            case "fail":
                name, failing = argument
                self._source(name).fail_with = SourceUnreachable("nobody answers") if failing else None
            case "hang":
                worker = scene.workers[argument[0]]
                worker.hangs = argument[1]
                if not worker.hangs:
                    worker.go_on()
            case "obey":
                self._source(argument[0]).obeys = argument[1]
            case "hold":
                self.held = argument
                await (scene.stopper.hold("now") if argument else scene.stopper.resume())
            case "veto":
                if await scene.stopper.veto(argument, "resolved"):
                    # What was nominated before must not lead to a request any more.
                    self.nominated[argument] = []
            case "rules":
                self.policy = argument
                self._reconfigure()
            case "mode":
                self.mode = argument
                self._reconfigure()
            case "restart":
                await scene.restart(reboots=argument)
            case "set":
                scene.time.set_by += argument
                # Somebody looks at the clock before it is set again.
                await scene.time.advance(21)
            case _:
                self._change_run(what, argument)

    def _change_run(self, what: str, key: ExecutionKey) -> None:
        source = self._source(key.source)
        run = source._runs.get(key.instance_id)
        if run is None:
            return
        if what == "end":
            source.end(key.instance_id)
        elif what == "rename":
            source._runs[key.instance_id] = replace(run, facts=replace(run.facts, package_name="Load Other"))
        else:
            source._runs[key.instance_id] = replace(run, orphaned=True)

    async def _submit(self, specs: list[Any]) -> None:
        message = []
        for key, name, folder, ago in specs:
            since = self.scene.time.now() + timedelta(seconds=ago)
            message.append(Nomination(key=key, package_name=name, folder=folder, asked_since=since))
        for nomination in message:
            self.nominated.setdefault(nomination.key, []).append(nomination)
        await self.scene.stopper.submit(message)

    def _reconfigure(self) -> None:
        changed = replace(self.scene.settings, mode=self.mode, policy=Policy(tuple(self.policy)))
        self.scene.settings = changed
        self.scene.stopper.reconfigure(changed)

    def _source(self, name: str) -> Any:
        return self.scene.workers[name].source


async def play(folder: Path, policy: Sequence[Rule], estate: Sequence[Any], happenings: Sequence[Any]) -> int:
    scene = Scene(
        folder, rules=policy, sources=SOURCES, breaker=BREAKER, max_runs_per_message=3, request_ttl=timedelta(hours=1)
    )
    scene.time.shortest_wait = 20.0
    async with scene:
        witness = Witness(scene)
        for run in estate:
            await witness.step("begin", run)
        for what, argument in happenings:
            await witness.step(what, argument)
        for worker in scene.workers.values():
            worker.go_on()
        await scene.time.run_until(lambda: not scene.stopper.pending(), limit=3 * 3600)
        if witness.wrong:
            raise witness.wrong[0]
        return len(witness.asked)


@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(policy=policies, estate=estates, first=first_messages, happenings=st.lists(steps, min_size=2, max_size=12))
@pytest.mark.timeout(0 if EXAMPLES > 1000 else 120)
def test_never_a_stop_that_no_rule_allowed_for_this_run(
    policy: Sequence[Rule], estate: Sequence[Any], first: Any, happenings: Sequence[Any]
) -> None:
    """
    Each request to a source is checked in its moment against the estate, the rules and the messages, by other code
    than that which decided; and every accepted nomination comes to an outcome.
    """
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        asyncio.run(play(Path(folder), policy, estate, [first, *happenings]))


def test_the_property_test_sees_stops() -> None:
    """
    The check is not empty: in a plain estate the witness sees the stop it allows.
    """
    run = (ExecutionKey("a", "1"), "Load", "Finance", ExecutionStatus.RUNNING, timedelta(minutes=5))
    message = ("submit", [(ExecutionKey("a", "1"), "Load", None, 0)])
    with tempfile.TemporaryDirectory() as folder:
        rule = Rule(match=Match(package_name="L*"), action=Action.STOP)
        asked = asyncio.run(play(Path(folder), [rule], [run], [message]))

    assert 1 == asked
