"""The page: says what runs, says when it does not know, and nothing in it is code."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from ssis_exporter import landing
from ssis_exporter.baseline import Baseline
from ssis_exporter.errors import SourceError, SourceUnreachable
from ssis_exporter.landing import MAX_ROWS, Surroundings, render, section, span
from ssis_exporter.model import (
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Reading,
    Scope,
    Snapshot,
    SourceInfo,
    Visibility,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AROUND = Surroundings(version="1.2.3", now=NOW)
EVIL = "<script>alert('1')</script>\"&\x1b[31m\ud800"


def run(
    number: int = 1,
    *,
    minutes: float = 5,
    status: ExecutionStatus = ExecutionStatus.RUNNING,
    package_name: str = "Load",
    orphaned: bool = False,
) -> Execution:
    """A run that is so many minutes old."""
    started = status.is_active
    facts = ExecutionFacts(
        key=ExecutionKey("a", str(number)),
        package_name=package_name,
        folder="Finance",
        project="DW",
        user_name="CORP\\etl",
        started_at=NOW - timedelta(minutes=minutes) if started else None,
    )
    duration = timedelta(minutes=minutes) if started else timedelta()
    return Execution(facts=facts, status=status, duration=duration, orphaned=orphaned)


def reading(
    *runs: Execution,
    source: str = "a",
    visibility: Visibility = Visibility(Scope.ALL),  # noqa: B008 - frozen
    incomplete: bool = False,
) -> Reading:
    """A source that answered."""
    seen = Snapshot(source=source, taken_at=NOW, visibility=visibility, executions=runs, incomplete=incomplete)
    return answered(source, seen)


def answered(source: str, outcome: Snapshot | SourceError) -> Reading:
    """What a source gave."""
    info = SourceInfo(kind="catalog", server="sql01", version="16.0")
    return Reading(source=source, info=info, outcome=outcome, took=timedelta(milliseconds=12))


class Page(HTMLParser):
    """What a browser would make of it: tables of texts, tags, and text outside of tables."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html.decode())
        self.close()
        assert [] == self.open, "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Follows what is open."""
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Checks the nesting."""
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        """Collects."""
        if "style" in self.open:
            return
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        else:
            self.text += data


def page(readings: Sequence[Reading], around: Surroundings = AROUND) -> Page:
    """The page, read."""
    return Page(render(readings, around))


def test_what_runs_is_one_row_each() -> None:
    """
    A run's row: package, folder and project, source, user, age, start, status.
    """
    shown = page([reading(run(minutes=200))])

    assert ["Package", "Folder / project", "Source", "User", "Age", "Started (UTC)", "Status"] == shown.rows[0]
    assert ["Load", "Finance / DW", "a", "CORP\\etl", "3 h 20 min", "2026-03-01 08:40:00", "running"] == shown.rows[1]
    assert "1 package is running on 1 source." in shown.text


def test_the_longest_running_comes_first_and_what_waits_last() -> None:
    """
    The run somebody may be looking for stands at the top.
    """
    runs = [
        run(1, minutes=1, package_name="young"),
        run(2, package_name="waits", status=ExecutionStatus.PENDING),
        run(3, minutes=90, package_name="old", status=ExecutionStatus.STOPPING),
    ]
    shown = page([reading(*runs)])

    assert ["old", "young", "waits"] == [row[0] for row in shown.rows[1:4]]
    assert ["stopping", "running", "pending"] == [row[-1] for row in shown.rows[1:4]]
    assert ["", ""] == shown.rows[3][4:6]
    assert "2 packages are running on 1 source." in shown.text


def test_nothing_runs_only_where_all_sources_said_so() -> None:
    """
    While a source is down the page does not say that nothing is running.
    """
    down = answered("b", SourceUnreachable("b: nobody answers at sql01:1433"))

    assert "Nothing is running." in page([reading()]).text
    assert "Nothing is running." not in page([reading(), down]).text
    assert "1 of 2 sources could not be read: b. What runs there is not known." in page([reading(), down]).text


def test_a_source_row_says_how_it_is() -> None:
    """
    Up or down with the reason, what the account sees, how long it took.
    """
    readings = [
        reading(source="a", incomplete=True),
        reading(source="b", visibility=Visibility(Scope.OWN, "no role ssis_admin")),
        answered("c", SourceUnreachable("c: nobody answers at sql01:1433")),
    ]
    rows = page(readings).rows[-3:]

    assert ["a", "catalog", "sql01 16.0", "up, still reading what is older", "everything", "0.012 s"] == rows[0]
    assert ["b", "catalog", "sql01 16.0", "up", "only its own runs (no role ssis_admin)", "0.012 s"] == rows[1]
    assert ["c", "catalog", "sql01 16.0", "down: nobody answers at sql01:1433", "", "0.012 s"] == rows[2]


def test_less_than_everything_is_said_at_the_top() -> None:
    """
    When an account sees only a part, the count is a lower bound, and the page says so.
    """
    shown = page([reading(run(), visibility=Visibility(Scope.PARTIAL))])

    assert "Not everything that runs can be seen on: a." in shown.text


@pytest.mark.parametrize("scope", list(Scope))
def test_each_scope_has_words(scope: Scope) -> None:
    """
    Whatever an account can see has words on the page.
    """
    assert landing.SIGHT[scope]


def test_an_orphan_is_told_and_not_counted() -> None:
    """
    A run whose process is gone stands in the table as such, and is not among what runs.
    """
    shown = page([reading(run(orphaned=True))])

    assert "running, but its process is gone" == shown.rows[1][-1]
    assert "0 packages are running on 1 source." in shown.text


def test_nothing_from_outside_is_code() -> None:
    """
    Names, users, servers and errors are text, whatever they hold.
    """
    facts = ExecutionFacts(
        key=ExecutionKey(EVIL, EVIL), package_name=EVIL, folder=EVIL, project=EVIL, user_name=EVIL, started_at=NOW
    )
    seen = Snapshot(
        source=EVIL,
        taken_at=NOW,
        visibility=Visibility(Scope.OWN, EVIL),
        executions=(Execution(facts=facts, status=ExecutionStatus.RUNNING),),
    )
    info = SourceInfo(kind=EVIL, server=EVIL, version=EVIL)
    readings = [
        Reading(source=EVIL, info=info, outcome=outcome, took=timedelta())
        for outcome in (seen, SourceUnreachable(EVIL))
    ]
    around = Surroundings(version=EVIL, now=NOW, metrics_path='"><script>')
    html = render(readings, around)
    shown = Page(html)

    assert b"<script" not in html
    assert b"\x1b" not in html
    assert "script" not in {tag for tag, _ in shown.tags}
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]


def test_a_thousand_runs_fit_and_more_are_counted() -> None:
    """
    Beyond a thousand rows a sentence says how many are left out and where they are.
    """
    shown = page([reading(*(run(number, minutes=number) for number in range(MAX_ROWS + 234)))])

    assert MAX_ROWS == sum(1 for row in shown.rows if row[-1] == "running")
    assert "234 more are not shown; all are in the JSON answer." in shown.text


def test_works_without_scripts_and_on_narrow_screens() -> None:
    """
    No script, no form, no other host; the page fits the width of the screen and each cell knows its column.
    """
    html = render([reading(run())], AROUND)
    shown = Page(html)
    links = [attributes["href"] for tag, attributes in shown.tags if tag == "a"]

    assert not {"script", "form", "img", "iframe"} & {tag for tag, _ in shown.tags}
    assert ["metrics", "api/v1/executions", "-/healthy", "-/ready", "?refresh=on"] == links
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [each for _, each in shown.tags]
    assert all("data-label" in attributes for tag, attributes in shown.tags if tag == "td")
    assert b"prefers-color-scheme:dark" in html


def test_no_source_is_said() -> None:
    """
    Without sources the page says why it is empty.
    """
    assert "No source is configured." in page([]).text


def test_further_sections_stand_between_runs_and_sources() -> None:
    """
    Other parts add a section of their own.
    """
    around = Surroundings(version="1", now=NOW, sections=(section("stops", "Stops", "<p>armed</p>"),))
    text = page([reading()], around).text

    assert text.index("Running now") < text.index("armed") < text.index("Sources")


def test_user_names_can_be_left_out() -> None:
    """
    Where users are not shown, the column is empty.
    """
    shown = page([reading(run())], Surroundings(version="1", now=NOW, keep_user_names=False))

    assert "" == shown.rows[1][3]


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (timedelta(), "0 s"),
        (timedelta(seconds=59.9), "59 s"),
        (timedelta(seconds=60), "1 min 00 s"),
        (timedelta(minutes=59, seconds=59), "59 min 59 s"),
        (timedelta(hours=1), "1 h 00 min"),
        (timedelta(hours=23, minutes=59), "23 h 59 min"),
        (timedelta(days=2, hours=4, minutes=30), "2 d 4 h"),
    ],
)
def test_spans_as_people_say_them(length: timedelta, said: str) -> None:
    """
    A span has at most two parts.
    """
    assert said == span(length)


@pytest.mark.parametrize(
    ("minutes", "baseline", "said"),
    [
        (5, None, '5 min 00 s <span class="faint">(usual: not known yet)</span>'),
        (5, Baseline(timedelta(minutes=4), timedelta(minutes=6), 9), '<span class="faint">(usual: 4 min 00 s)</span>'),
        (
            10,
            Baseline(timedelta(minutes=4), timedelta(minutes=6), 9),
            '<span class="warn">(usual: 4 min 00 s, now 2.5 times)</span>',
        ),
        (
            100,
            Baseline(timedelta(minutes=4), timedelta(minutes=6), 9),
            '<span class="warn">(usual: 4 min 00 s, now 25 times)</span>',
        ),
        (10, Baseline(timedelta(), timedelta(), 1), '<span class="faint">(usual: 0 s)</span>'),
    ],
)
def test_age_stands_against_what_is_usual(minutes: float, baseline: Baseline | None, said: str) -> None:
    """
    A package without samples says so; one that takes longer than nearly always says how much.
    """
    around = Surroundings(version="1", now=NOW, usual=lambda _: baseline)

    assert said in render([reading(run(minutes=minutes))], around).decode()
    assert "usual" not in render([reading(run(minutes=minutes))], AROUND).decode()
