"""May this run be stopped? No input or output; refuses by default."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import TypeAlias, assert_never

from ssis_exporter.durations import print_duration
from ssis_exporter.labels import clean_label
from ssis_exporter.model import Execution, ExecutionFacts, ExecutionStatus, Nomination, RefusalReason

CLOCK_TOLERANCE = timedelta(seconds=1)
"""
How much earlier than the run its alert may seem to have begun.

The start of a process is known to the second, because the kernel tells the time of boot in whole seconds. Clocks of
two machines that are further apart than this refuse: in doubt the alert is about another run.
"""


def plain_name(name: str) -> str:
    """A package, folder or project as it is compared: without case, without `.dtsx`."""
    # Folding may take a composed character apart, so that one spelling is composed again after it.
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return folded.removesuffix(".dtsx")


class Action(StrEnum):
    """What a rule says of the runs that it matches."""

    STOP = "stop"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Hours:
    """
    A part of the day by the exporter's local clock: from `start`, up to but not including `end`.

    An end before the start is on the next day; equal ends are the whole day. The clock on the wall decides, so an
    hour that comes twice when summer time ends counts both times, and one that is left out never comes.
    """

    start: time
    end: time

    def contain(self, moment: time) -> bool:
        """Whether the clock on the wall is within."""
        if self.start < self.end:
            return self.start <= moment < self.end
        return moment >= self.start or moment < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """
    Which runs a rule is about: everything that is given must match. None where nothing is said.

    `*` stands for any text and `?` for any one character; all else stands for itself. Compared as `plain_name` does.
    """

    source: str | None = None
    folder: str | None = None
    project: str | None = None
    package_name: str | None = None
    user_name: str | None = None

    def names_that_fit(self, facts: ExecutionFacts) -> bool:
        """Whether each given pattern matches what is known of the run."""
        return all(_fits(pattern, value) for _, pattern, value in self._given(facts))

    def names_that_could_fit(self, facts: ExecutionFacts) -> str | None:
        """What is not known of the run (`folder`), where only that keeps the patterns from matching; else None."""
        misfits = [(name, value) for name, pattern, value in self._given(facts) if not _fits(pattern, value)]
        if misfits and all(not value for _, value in misfits):
            return ", ".join(name for name, _ in misfits)
        return None

    def _given(self, facts: ExecutionFacts) -> Iterable[tuple[str, str, str]]:
        pairs = (
            ("source", self.source, facts.key.source),
            ("folder", self.folder, facts.folder),
            ("project", self.project, facts.project),
            ("package_name", self.package_name, facts.package_name),
            ("user_name", self.user_name, facts.user_name),
        )
        return ((name, pattern, value) for name, pattern, value in pairs if pattern is not None)


def _fits(pattern: str, value: str) -> bool:
    # Folding makes two characters of some, like the German sharp s: `?` also stands for the one that was written.
    return any(_covers(form(pattern), form(value)) for form in (plain_name, _written_name))


def _written_name(name: str) -> str:
    composed = unicodedata.normalize("NFC", name)
    return composed[: -len(".dtsx")] if composed.lower().endswith(".dtsx") else composed


def _covers(pattern: str, value: str) -> bool:
    pieces = (".*" if sign == "*" else "." if sign == "?" else re.escape(sign) for sign in pattern)
    return re.fullmatch("".join(pieces), value, re.DOTALL | re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry under `stop.rules`. A rule with the action `never` has no conditions beside its match."""

    match: Match
    action: Action
    min_duration: timedelta = timedelta()
    """A run younger than this is not stopped."""

    min_overrun: float | None = None
    """Times its own typical duration; without a history nothing is stopped."""

    hours: Hours | None = None
    """Outside of these nothing is stopped."""

    grace: timedelta = timedelta()
    """How long a veto is waited for before the request."""

    escalate_after: timedelta | None = None
    """How long after the request the host process is ended; None: never."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The run may be stopped now."""

    rule: str
    grace: timedelta = timedelta()
    escalate_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The run may not be stopped, because."""

    rule: str
    """The rule that refused; empty where none did."""

    reason: RefusalReason
    text: str = field(default="", compare=False)
    """One sentence with the facts used."""


Verdict: TypeAlias = Allowed | Refused


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules of a configuration."""

    rules: Sequence[Rule] = ()

    def decide(
        self,
        nomination: Nomination,
        run: Execution,
        now: datetime,
        *,
        typical: timedelta | None = None,
        local: tzinfo | None = None,
    ) -> Verdict:
        """
        Whether `run`, as a fresh look showed it, may be stopped for `nomination`.

        `now` is aware; `typical` is how long the package usually takes, None until it has a history; `local` is the
        zone of the hours, None for this machine's. What the nomination says can only refuse; rules with the action
        `never` come first, then the first other rule that matches decides alone.
        """
        return (
            _contradiction(nomination, run)
            or _nothing_to_stop(run)
            or self._never(run.facts)
            or self._first_that_matches(run, now, typical, local)
            or Refused("", RefusalReason.NO_RULE, f"no rule names {_named(run.facts)}")
        )

    def _never(self, facts: ExecutionFacts) -> Refused | None:
        for name, rule in self._named_rules(Action.NEVER):
            if rule.match.names_that_fit(facts):
                return Refused(name, RefusalReason.NEVER, f"{name} says never to stop {_named(facts)}")
            unknown = rule.match.names_that_could_fit(facts)
            if unknown is not None:
                text = f"{name} may mean {_named(facts)}, whose {unknown} is not known, and says never to stop it"
                return Refused(name, RefusalReason.NEVER, text)
        return None

    def _first_that_matches(
        self, run: Execution, now: datetime, typical: timedelta | None, local: tzinfo | None
    ) -> Verdict | None:
        for name, rule in self._named_rules(Action.STOP):
            if rule.match.names_that_fit(run.facts):
                refusal = _too_early(name, rule, run, typical) or _outside_hours(name, rule, now.astimezone(local))
                return refusal or Allowed(name, rule.grace, rule.escalate_after)
        return None

    def _named_rules(self, action: Action) -> Iterable[tuple[str, Rule]]:
        """The rules with this action, in order, each called by its place among all: `rule 1` is the first."""
        return ((f"rule {number}", rule) for number, rule in enumerate(self.rules, 1) if rule.action is action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """At most so many stops within so long, over all sources: a rule that runs away must not become a mass stop."""

    stops: int = 3
    window: timedelta = timedelta(minutes=10)

    def taken(self, ages: Iterable[timedelta]) -> int:
        """How many places are taken, where each of `ages` is how long ago another run took one, at least."""
        return sum(age < self.window for age in ages)

    def has_room(self, ages: Iterable[timedelta]) -> bool:
        """Whether one more run may be stopped."""
        return self.taken(ages) < self.stops


def _contradiction(nomination: Nomination, run: Execution) -> Refused | None:
    facts = run.facts
    if nomination.key != facts.key:
        text = f"{nomination.key.instance_id} was nominated and {facts.key.instance_id} was found"
        return Refused("", RefusalReason.IDENTITY_CHANGED, text)
    believed = (
        ("package", nomination.package_name, facts.package_name, RefusalReason.PACKAGE_DIFFERS),
        ("folder", nomination.folder, facts.folder, RefusalReason.FOLDER_DIFFERS),
        ("project", nomination.project, facts.project, RefusalReason.PROJECT_DIFFERS),
    )
    for what, said, found, reason in believed:
        # What the alert says was read from our label.
        if said is not None and plain_name(clean_label(said)) != plain_name(clean_label(found)):
            return Refused("", reason, f"the alert says {what} {said!r}, and this run's is {found!r}")
    if facts.started_at is None:
        return Refused("", RefusalReason.START_UNKNOWN, "when this run began is not known")
    return _alert_before_run(nomination.asked_since, facts.started_at, run.known_since or facts.started_at)


def _alert_before_run(asked_since: datetime | None, started_at: datetime, known_since: datetime) -> Refused | None:
    if asked_since is None:
        return None
    earliest = max(started_at, known_since)
    # A time without a zone cannot be compared, so it proves nothing.
    if asked_since.tzinfo is not None and earliest - asked_since <= CLOCK_TOLERANCE:
        return None
    known = f", known under its name since {earliest.isoformat()}" if earliest > started_at else ""
    text = (
        f"the alert began at {asked_since.isoformat()} and this run at {started_at.isoformat()}{known}; either it is"
        " about another run, or the clocks of Prometheus, the source and this machine differ"
    )
    return Refused("", RefusalReason.ALERT_BEFORE_RUN, text)


def _nothing_to_stop(run: Execution) -> Refused | None:
    match run.status:
        case ExecutionStatus.CREATED | ExecutionStatus.PENDING:
            return Refused("", RefusalReason.NOT_RUNNING, f"it is {run.status}, not running")
        case ExecutionStatus.STOPPING:
            return Refused("", RefusalReason.ALREADY_STOPPING, "somebody else has already asked it to stop")
        case ExecutionStatus.RUNNING:
            pass
        case _:
            assert_never(run.status)
    if run.orphaned:
        return Refused("", RefusalReason.ORPHANED, "its host process is gone, so there is nothing to stop")
    return None


def _too_early(name: str, rule: Rule, run: Execution, typical: timedelta | None) -> Refused | None:
    age = print_duration(run.duration)
    if run.duration < rule.min_duration:
        text = f"{name} waits until it has run for {print_duration(rule.min_duration)}; it has run for {age}"
        return Refused(name, RefusalReason.TOO_YOUNG, text)
    if rule.min_overrun is None:
        return None
    if typical is None or typical <= timedelta():
        text = f"{name} compares with how long it usually takes, and there is no history of it"
        return Refused(name, RefusalReason.NO_HISTORY, text)
    if run.duration / typical < rule.min_overrun:
        usual = print_duration(typical)
        text = f"{name} waits for {rule.min_overrun:g} times its usual {usual}; it has run for {age}"
        return Refused(name, RefusalReason.NOT_OVERDUE, text)
    return None


def _outside_hours(name: str, rule: Rule, local_now: datetime) -> Refused | None:
    if rule.hours is None or rule.hours.contain(local_now.time()):
        return None
    text = f"{name} stops only during {rule.hours}; here it is {local_now:%H:%M}"
    return Refused(name, RefusalReason.OUTSIDE_HOURS, text)


def _named(facts: ExecutionFacts) -> str:
    return f"package {facts.package_name!r} of {facts.key.source}"
