"""policy: refuses by default; never comes first; what a nomination says can only refuse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from ssis_exporter.model import (
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Nomination,
    RefusalReason,
)
from ssis_exporter.policy import (
    CLOCK_TOLERANCE,
    Action,
    Allowed,
    Breaker,
    Hours,
    Match,
    Policy,
    Refused,
    Rule,
    Verdict,
    plain_name,
)

NOW = datetime(2026, 11, 22, 22, 0, tzinfo=UTC)
KEY = ExecutionKey("local", "42")
ANY = Match(package_name="*")


def run_of(
    package_name: str = "Load",
    *,
    folder: str = "Finance",
    project: str = "DW",
    user_name: str = "CORP\\etl",
    status: ExecutionStatus = ExecutionStatus.RUNNING,
    age: timedelta = timedelta(hours=1),
    orphaned: bool = False,
) -> Execution:
    facts = ExecutionFacts(
        key=KEY,
        package_name=package_name,
        folder=folder,
        project=project,
        user_name=user_name,
        started_at=NOW - age,
    )
    return Execution(facts=facts, status=status, duration=age, orphaned=orphaned)


def stop(match: Match = ANY, **conditions: object) -> Rule:
    return Rule(match=match, action=Action.STOP, **conditions)  # type: ignore[arg-type]


def never(match: Match) -> Rule:
    return Rule(match=match, action=Action.NEVER)


def decide(
    *rules: Rule,
    run: Execution | None = None,
    nomination: Nomination | None = None,
    typical: timedelta | None = None,
    now: datetime = NOW,
    local: ZoneInfo | None = None,
) -> Verdict:
    return Policy(rules).decide(
        nomination or Nomination(key=KEY, asked_since=NOW),
        run or run_of(),
        now,
        typical=typical,
        local=local or UTC,
    )


def test_package_without_a_rule_is_refused() -> None:
    """
    A package that no rule names is not stopped.
    """
    assert Refused("", RefusalReason.NO_RULE) == decide()
    assert Refused("", RefusalReason.NO_RULE) == decide(stop(Match(package_name="Other")))


def test_the_first_rule_that_matches_decides_alone() -> None:
    """
    A later rule that would allow it changes nothing.
    """
    first = stop(Match(folder="Finance"), min_duration=timedelta(hours=2))

    assert Refused("rule 1", RefusalReason.TOO_YOUNG) == decide(first, stop())
    assert Allowed("rule 1", timedelta(minutes=2)) == decide(stop(grace=timedelta(minutes=2)), first)


def test_never_wins_wherever_it_stands() -> None:
    """
    A rule that says never comes before every other one.
    """
    assert Refused("rule 2", RefusalReason.NEVER) == decide(stop(), never(Match(package_name="L*")))
    assert Allowed("rule 1") == decide(stop(), never(Match(package_name="M*")))


@pytest.mark.parametrize("unknown", ["folder", "project", "package_name", "user_name"])
def test_never_also_holds_for_what_is_not_known(unknown: str) -> None:
    """
    A run that a never rule would match but for something unknown about it is not stopped.
    """
    run = run_of(**{unknown: ""})
    rule = never(Match(**{"source": "local", unknown: "Payroll*"}))

    assert Refused("rule 2", RefusalReason.NEVER) == decide(stop(Match(source="*")), rule, run=run)


@pytest.mark.parametrize(
    ("pattern", "package_name"),
    [
        pytest.param("Gro?rechnung", "Gro\N{LATIN SMALL LETTER SHARP S}rechnung", id="sharp s"),
        pytest.param("gro??rechnung.DTSX", "Gro\N{LATIN SMALL LETTER SHARP S}rechnung", id="sharp s folded"),
        pytest.param("GRO?RECHNUNG.dtsx", "Gro\N{LATIN SMALL LETTER SHARP S}rechnung.DTSX", id="sharp s, other case"),
        pytest.param("?stanbul", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}stanbul", id="dotted I"),
        pytest.param("?bersicht", "U\N{COMBINING DIAERESIS}bersicht", id="decomposed"),
        pytest.param(
            "\N{GREEK CAPITAL LETTER IOTA}\N{COMBINING DIAERESIS}\N{COMBINING ACUTE ACCENT}*",
            "\N{GREEK SMALL LETTER IOTA WITH DIALYTIKA AND TONOS}os",
            id="taken apart by folding",
        ),
    ],
)
def test_never_holds_however_a_name_is_written(pattern: str, package_name: str) -> None:
    """
    Case and composition make no other name, and `?` stands for any one character, also for one that folds to two.
    """
    run = run_of(package_name)

    assert Refused("rule 2", RefusalReason.NEVER) == decide(stop(), never(Match(package_name=pattern)), run=run)


def test_never_does_not_spread_to_other_sources() -> None:
    """
    What is unknown of a run matters only where the rest of the rule fits it.
    """
    rule = never(Match(source="sql01", folder="Payroll"))

    assert Allowed("rule 1") == decide(stop(), rule, run=run_of(folder=""))


def test_a_rule_to_stop_needs_to_know() -> None:
    """
    What is not known of a run matches no pattern of a rule to stop, but one for any text.
    """
    run = run_of(folder="")

    assert Refused("", RefusalReason.NO_RULE) == decide(stop(Match(folder="Fin*")), run=run)
    assert Allowed("rule 1") == decide(stop(Match(folder="*")), run=run)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("Load", "load", True),
        ("LOAD.DTSX", "Load", True),
        ("load", "LOAD.DtsX", True),
        ("Load*", "Load_Fact", True),
        ("Load*.dtsx", "Load_Fact", True),
        ("*Fact", "Load_Fact", True),
        ("L?ad", "Load", True),
        ("L?ad", "Lad", False),
        ("Load", "Load2", False),
        ("Load", "xLoad", False),
        ("Load [old]", "Load [old]", True),
        ("Load [old]", "Load o", False),
        ("Load.*", "Loads", False),
        ("Load*", "Load\nFact", True),
        ("Load", "Load\n", False),
        ("Gr\u00fcn", "GRU\u0308N", True),
        ("*", "", True),
        ("?", "", False),
    ],
)
def test_patterns(pattern: str, name: str, *, fits: bool) -> None:
    """
    `*` is any text, `?` one character, all else itself; without case and `.dtsx`.
    """
    expected = Allowed("rule 1") if fits else Refused("", RefusalReason.NO_RULE)

    assert expected == decide(stop(Match(package_name=pattern)), run=run_of(name))


def test_every_given_pattern_must_match() -> None:
    """
    A rule with several patterns is about the runs that fit all.
    """
    match = Match(source="local", folder="Finance", project="DW", package_name="Load", user_name="corp\\*")

    assert Allowed("rule 1") == decide(stop(match))
    for name in ("source", "folder", "project", "package_name", "user_name"):
        assert Refused("", RefusalReason.NO_RULE) == decide(stop(replace(match, **{name: "Other"})))


def test_young_runs_are_left_alone() -> None:
    """
    At `min_duration` a run is old enough, before it is not.
    """
    rule = stop(min_duration=timedelta(minutes=30))

    assert Refused("rule 1", RefusalReason.TOO_YOUNG) == decide(
        rule, run=run_of(age=timedelta(minutes=30) - timedelta(microseconds=1))
    )
    assert Allowed("rule 1") == decide(rule, run=run_of(age=timedelta(minutes=30)))


def test_overrun_needs_a_history() -> None:
    """
    Without a typical duration nothing overruns; a factor beyond all numbers is never reached.
    """
    rule = stop(min_overrun=3)

    assert Refused("rule 1", RefusalReason.NO_HISTORY) == decide(rule)
    assert Refused("rule 1", RefusalReason.NO_HISTORY) == decide(rule, typical=timedelta())
    assert Refused("rule 1", RefusalReason.NOT_OVERDUE) == decide(rule, typical=timedelta(minutes=21))
    assert Allowed("rule 1") == decide(rule, typical=timedelta(minutes=20))
    assert Refused("rule 1", RefusalReason.NOT_OVERDUE) == decide(stop(min_overrun=1e300), typical=timedelta(minutes=1))


@pytest.mark.parametrize(
    ("clock", "within"),
    [("20:00", True), ("19:59", False), ("23:59", True), ("00:00", True), ("05:59", True), ("06:00", False)],
)
def test_hours_cross_midnight(clock: str, *, within: bool) -> None:
    """
    From 20:00 up to, and not including, 06:00.
    """
    hours = Hours(time(20), time(6))

    assert within == hours.contain(time.fromisoformat(clock))


def test_hours_within_a_day() -> None:
    """
    An end after the start is on the same day.
    """
    hours = Hours(time(9), time(17))

    assert [False, True, True, False] == [hours.contain(time(hour)) for hour in (8, 9, 16, 17)]


def test_hours_are_those_of_the_wall_clock() -> None:
    """
    The zone decides, and when summer time ends the hour that comes twice counts both times.
    """
    berlin = ZoneInfo("Europe/Berlin")
    rule = stop(hours=Hours(time(2), time(3)))

    def at(hour: int, minute: int = 30) -> Verdict:
        return decide(rule, now=datetime(2026, 10, 25, hour, minute, tzinfo=UTC), local=berlin)

    # 02:30 comes at 00:30 and, after the clocks went back, at 01:30 UTC.
    assert Allowed("rule 1") == at(0)
    assert Allowed("rule 1") == at(1)
    assert Refused("rule 1", RefusalReason.OUTSIDE_HOURS) == at(2)


def test_hours_in_the_hour_that_is_left_out() -> None:
    """
    When summer time begins the clock jumps over the hour, and nothing is stopped in it.
    """
    berlin = ZoneInfo("Europe/Berlin")
    rule = stop(hours=Hours(time(2), time(3)))
    moments = [datetime(2026, 3, 29, 0, 59, tzinfo=UTC) + timedelta(minutes=count) for count in range(120)]

    refused = Refused("rule 1", RefusalReason.OUTSIDE_HOURS)
    assert {refused} == {decide(rule, now=moment, local=berlin) for moment in moments}


@pytest.mark.parametrize(
    ("believed", "reason"),
    [
        ({"package_name": "Other"}, RefusalReason.PACKAGE_DIFFERS),
        ({"folder": "HR"}, RefusalReason.FOLDER_DIFFERS),
        ({"folder": ""}, RefusalReason.FOLDER_DIFFERS),
        ({"project": "Other"}, RefusalReason.PROJECT_DIFFERS),
        ({"package_name": "Load\n"}, RefusalReason.PACKAGE_DIFFERS),
        ({"package_name": "Load\0"}, RefusalReason.PACKAGE_DIFFERS),
        ({"package_name": "*"}, RefusalReason.PACKAGE_DIFFERS),
    ],
)
def test_a_nomination_that_contradicts_the_run_is_refused(believed: dict[str, str], reason: RefusalReason) -> None:
    """
    What the alert says of the run must be so.
    """
    nomination = Nomination(key=KEY, asked_since=NOW, **believed)  # type: ignore[arg-type]

    assert Refused("", reason) == decide(stop(), nomination=nomination)


def test_a_nomination_may_say_what_is_so() -> None:
    """
    Names agree without case and `.dtsx`, and as our labels show them.
    """
    said = Nomination(key=KEY, asked_since=NOW, package_name="load.DTSX", folder="finance", project="dw")

    assert Allowed("rule 1") == decide(stop(), nomination=said)


@pytest.mark.parametrize(
    ("said", "found", "agree"),
    [
        ("Lo\nad", "Lo\nad", True),
        ("Lo\ufffdad", "Lo\rad", True),
        ("Lo\ufffd\nad", "Lo\r\nad", True),
        ("Lo\ufffdad", "Lo\nad", False),
        ("Lo\nad", "Lo\ufffdad", False),
        ("Lo ad", "Lo\nad", False),
        ("Load", "Lo\nad", False),
        ("Lo\\nad", "Lo\nad", False),
    ],
)
def test_names_are_compared_as_labels_show_them(said: str, found: str, agree: bool) -> None:
    """
    A line feed is part of a name, and nothing else stands for it.
    """
    nomination = Nomination(key=KEY, asked_since=NOW, package_name=said)
    expected = Allowed("rule 1") if agree else Refused("", RefusalReason.PACKAGE_DIFFERS)

    assert expected == decide(stop(), nomination=nomination, run=run_of(found))


def test_the_key_must_be_the_runs() -> None:
    """
    A nomination of another run, or of the same id in another source, allows nothing.
    """
    for key in (ExecutionKey("local", "43"), ExecutionKey("other", "42")):
        nomination = Nomination(key=key, asked_since=NOW)

        assert Refused("", RefusalReason.IDENTITY_CHANGED) == decide(stop(), nomination=nomination)


def test_an_alert_that_is_older_than_the_run_is_about_another() -> None:
    """
    It must have begun after the run did, as far as clocks can tell; one without a zone proves nothing.
    """
    run = run_of()
    assert run.facts.started_at is not None

    def began(moment: datetime) -> Verdict:
        return decide(stop(), run=run, nomination=Nomination(key=KEY, asked_since=moment))

    refused = Refused("", RefusalReason.ALERT_BEFORE_RUN)
    assert Allowed("rule 1") == began(run.facts.started_at - CLOCK_TOLERANCE)
    assert refused == began(run.facts.started_at - CLOCK_TOLERANCE - timedelta(microseconds=1))
    assert refused == began(datetime(1, 1, 1, tzinfo=UTC))
    assert refused == began(NOW.replace(tzinfo=None))


def test_an_alert_is_also_older_than_what_the_run_is_known_for() -> None:
    """
    By this machine's clock; whichever is later counts, and it never makes an alert younger.
    """
    run = run_of()
    assert run.facts.started_at is not None

    def began(moment: datetime, known_since: datetime) -> Verdict:
        known = replace(run, known_since=known_since)
        return decide(stop(), run=known, nomination=Nomination(key=KEY, asked_since=moment))

    refused = Refused("", RefusalReason.ALERT_BEFORE_RUN)
    since = run.facts.started_at + timedelta(minutes=30)
    assert Allowed("rule 1") == began(since - CLOCK_TOLERANCE, since)
    assert refused == began(since - timedelta(minutes=1), since)
    assert refused == began(run.facts.started_at - timedelta(minutes=1), run.facts.started_at - timedelta(hours=3))


def test_an_operator_names_no_start() -> None:
    """
    A person at the command line has no alert that could be too old.
    """
    assert Allowed("rule 1") == decide(stop(), nomination=Nomination(key=KEY))


def test_a_run_whose_start_is_not_known_is_refused() -> None:
    """
    Nobody could say whether the alert is about it.
    """
    run = run_of()
    unknown = replace(run, facts=replace(run.facts, started_at=None))

    assert Refused("", RefusalReason.START_UNKNOWN) == decide(stop(), run=unknown)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (run_of(status=ExecutionStatus.CREATED), RefusalReason.NOT_RUNNING),
        (run_of(status=ExecutionStatus.PENDING), RefusalReason.NOT_RUNNING),
        (run_of(status=ExecutionStatus.STOPPING), RefusalReason.ALREADY_STOPPING),
        (run_of(orphaned=True), RefusalReason.ORPHANED),
    ],
)
def test_only_what_runs_is_stopped(run: Execution, reason: RefusalReason) -> None:
    """
    A run that has not begun, is being stopped, or has no process any more is not asked.
    """
    assert Refused("", reason) == decide(stop(), run=run)


def test_what_a_rule_says_of_the_how_comes_with_it() -> None:
    """
    Grace and escalation are those of the rule that allows.
    """
    rule = stop(grace=timedelta(minutes=2), escalate_after=timedelta(minutes=15))

    assert Allowed("rule 1", timedelta(minutes=2), timedelta(minutes=15)) == decide(rule)


def test_every_refusal_says_why() -> None:
    """
    A refusal carries a sentence with the facts.
    """
    refused = decide(stop(min_duration=timedelta(hours=2)))

    assert isinstance(refused, Refused)
    assert "rule 1 waits until it has run for 2h; it has run for 1h" == refused.text


def test_breaker_counts_what_is_within_the_window() -> None:
    """
    Three within ten minutes; the fourth has no room until the first leaves the window.
    """
    breaker = Breaker(stops=3, window=timedelta(minutes=10))
    ages = [timedelta(minutes=10) - timedelta(microseconds=1), timedelta(minutes=1), timedelta()]

    assert breaker.has_room(ages[:2])
    assert not breaker.has_room(ages)
    assert breaker.has_room([timedelta(minutes=10), *ages[1:]])
    assert 2 == breaker.taken([timedelta(minutes=10), *ages[1:]])


def test_plain_names() -> None:
    """
    Without case and one `.dtsx`.
    """
    assert ["load", "load", "strasse", "a.dtsx"] == [
        plain_name(name) for name in ("Load", "LOAD.dtsX", "Stra\u00dfe", "a.dtsx.dtsx")
    ]
