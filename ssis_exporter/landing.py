"""The page at `/`: what runs now, how the sources are. Plain HTML; every text in it is cleaned and escaped."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ssis_exporter.baseline import Baseline
from ssis_exporter.errors import SourceError
from ssis_exporter.labels import clean_line
from ssis_exporter.model import Execution, ExecutionFacts, ExecutionStatus, Reading, Scope, Snapshot

MAX_ROWS = 1000
"""Rows of the table of runs; beyond it a sentence says how many there are."""

REFRESH_SECONDS = 15

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the page says beside the readings."""

    version: str
    now: datetime
    """Aware, in UTC."""

    metrics_path: str = "metrics"
    """Relative to the page, so that it works behind a proxy with a prefix."""

    keep_user_names: bool = True
    usual: Callable[[ExecutionFacts], Baseline | None] | None = None
    """What is usual for a run's package, where that is kept."""

    refreshes: bool = False
    """The page loads itself again now and then. Off unless asked for: each load looks at the sources."""

    sections: tuple[str, ...] = ()
    """Further sections as ready HTML, between the runs and the sources."""


def render(readings: Sequence[Reading], around: Surroundings) -> bytes:
    """The whole page."""
    runs = [run for reading in readings if isinstance(reading.outcome, Snapshot) for run in reading.outcome.executions]
    silent = [reading for reading in readings if isinstance(reading.outcome, SourceError)]
    parts = [
        _head(around),
        _summary(runs, readings, silent),
        _runs(runs, silent, around),
        *around.sections,
        _sources(readings),
        _foot(around),
    ]
    return "".join(parts).encode("utf-8")


def text(value: str) -> str:
    """Any text, fit to stand in the page."""
    return html.escape(clean_line(value))


def when(moment: datetime | None) -> str:
    """A moment in UTC."""
    if moment is None:
        return ""
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%Y-%m-%d %H:%M:%S}</time>'


def span(length: timedelta) -> str:
    """A span as people say it: `42 s`, `7 min 05 s`, `3 h 20 min`, `2 d 4 h`."""
    seconds = int(length.total_seconds())
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    if minutes:
        return f"{minutes} min {seconds % 60:02d} s"
    return f"{seconds} s"


def count(number: int, one: str, many: str) -> str:
    """`1 source`, `2 sources`."""
    return f"{number} {one if number == 1 else many}"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of ready HTML cells. On a narrow screen each row becomes a card, so each cell carries its column."""
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    body = "".join(_row(columns, cells) for cells in rows)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>\n"


def _row(columns: Sequence[str], cells: Sequence[str]) -> str:
    shown = zip(columns, cells, strict=True)
    return "<tr>" + "".join(f'<td data-label="{html.escape(name)}">{cell}</td>' for name, cell in shown) + "</tr>\n"


def section(name: str, title: str, content: str) -> str:
    """A part of the page with its heading."""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{content}</section>\n'


def _summary(runs: Sequence[Execution], readings: Sequence[Reading], silent: Sequence[Reading]) -> str:
    running = sum(1 for run in runs if run.status.is_active and not run.orphaned)
    answered = len(readings) - len(silent)
    said = f"<p><strong>{count(running, 'package is', 'packages are')} running</strong>"
    said += f" on {count(answered, 'source', 'sources')}.</p>\n"
    if silent:
        names = ", ".join(text(reading.source) for reading in silent)
        said += (
            f'<p class="bad" role="status">{len(silent)} of {count(len(readings), "source", "sources")} could not be '
            f"read: {names}. What runs there is not known.</p>\n"
        )
    blind = [reading for reading in readings if _sees_less_than_all(reading)]
    if blind:
        names = ", ".join(text(reading.source) for reading in blind)
        said += f'<p class="warn">Not everything that runs can be seen on: {names}.</p>\n'
    return said


def _sees_less_than_all(reading: Reading) -> bool:
    return isinstance(reading.outcome, Snapshot) and reading.outcome.visibility.scope is not Scope.ALL


def _runs(runs: Sequence[Execution], silent: Sequence[Reading], around: Surroundings) -> str:
    if not runs:
        nothing = "Nothing is open on the sources that answered." if silent else "Nothing is running."
        return section("runs", "Running now", f"<p>{nothing}</p>\n")
    # Longest running first, then what waits.
    ordered = sorted(runs, key=lambda run: (not run.status.is_active, -run.duration.total_seconds()))
    shown = ordered[:MAX_ROWS]
    columns = ("Package", "Folder / project", "Source", "User", "Age", "Started (UTC)", "Status")
    content = table("Open executions, the longest running first", columns, (_run(run, around) for run in shown))
    if len(ordered) > len(shown):
        content += (
            f"<p>{len(ordered) - len(shown)} more are not shown; all are in "
            '<a href="api/v1/executions">the JSON answer</a>.</p>\n'
        )
    return section("runs", "Running now", content)


def _run(run: Execution, around: Surroundings) -> tuple[str, ...]:
    facts = run.facts
    place = " / ".join(text(part) for part in (facts.folder, facts.project) if part)
    return (
        f'<span title="{text(facts.key.instance_id)}">{text(facts.package_name)}</span>',
        place,
        text(facts.key.source),
        text(facts.user_name) if around.keep_user_names else "",
        age(run, around),
        when(facts.started_at),
        status(run),
    )


def age(run: Execution, around: Surroundings) -> str:
    """The cell with the age of a run, against what is usual for its package."""
    if run.facts.started_at is None:
        return ""
    if around.usual is None:
        return span(run.duration)
    baseline = around.usual(run.facts)
    if baseline is None:
        return f'{span(run.duration)} <span class="faint">(usual: not known yet)</span>'
    against = f"usual: {span(baseline.typical)}"
    if run.duration > baseline.p95 and baseline.typical > timedelta():
        return (
            f'{span(run.duration)} <span class="warn">({against}, now {times(run.duration / baseline.typical)})</span>'
        )
    return f'{span(run.duration)} <span class="faint">({against})</span>'


def times(factor: float) -> str:
    """How many times as long: `1.4 times`, `12 times`."""
    return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"


def status(run: Execution) -> str:
    """The cell with the status of a run."""
    if run.orphaned:
        return f'<span class="bad">{run.status}, but its process is gone</span>'
    if run.status is ExecutionStatus.STOPPING:
        return f'<span class="warn">{run.status}</span>'
    return str(run.status)


SIGHT = {
    Scope.ALL: "everything",
    Scope.PARTIAL: '<span class="warn">a part of it</span>',
    Scope.OWN: '<span class="warn">only its own runs</span>',
    Scope.NONE: '<span class="bad">nothing: it has no right to</span>',
    Scope.UNKNOWN: '<span class="warn">cannot tell</span>',
}
"""What an account can see, in words."""


def _sources(readings: Sequence[Reading]) -> str:
    if not readings:
        return section("sources", "Sources", "<p>No source is configured.</p>\n")
    columns = ("Source", "Kind", "Server", "State", "The account sees", "Look took")
    return section("sources", "Sources", table("Where packages are looked for", columns, map(_source, readings)))


def _source(reading: Reading) -> tuple[str, ...]:
    outcome = reading.outcome
    server = " ".join(text(part) for part in (reading.info.server, reading.info.version) if part)
    if isinstance(outcome, SourceError):
        # The sentence begins with the source's name, which stands in this row already.
        why = str(outcome).removeprefix(f"{reading.source}: ")
        state, sight = f'<span class="bad">down</span>: {text(why)}', ""
    else:
        state = '<span class="warn">up, still reading what is older</span>' if outcome.incomplete else "up"
        sight = SIGHT[outcome.visibility.scope]
        if outcome.visibility.detail:
            sight += f' <span class="faint">({text(outcome.visibility.detail)})</span>'
    took = f"{reading.took.total_seconds():.3f} s"
    return text(reading.source), text(reading.info.kind), server, state, sight, took


def _head(around: Surroundings) -> str:
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">\n' if around.refreshes else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'{refresh}<title>SSIS exporter</title>\n<link rel="icon" href="data:,">\n<style>{_STYLE}</style>\n</head>\n'
        "<body>\n<header><h1>SSIS exporter</h1>"
        f"<p>Version {text(around.version)}, as of {when(around.now)} UTC. {_links(around)}</p></header>\n<main>\n"
    )


def _links(around: Surroundings) -> str:
    refresh = '<a href="./">Stop refreshing</a>' if around.refreshes else '<a href="?refresh=on">Refresh by itself</a>'
    return (
        f'<a href="{html.escape(around.metrics_path)}">Metrics</a> · <a href="api/v1/executions">JSON</a> · '
        f'<a href="-/healthy">Healthy</a> · <a href="-/ready">Ready</a> · {refresh}'
    )


def _foot(around: Surroundings) -> str:
    del around
    return "</main>\n</body>\n</html>\n"


_STYLE = """
:root{color-scheme:light dark;--line:#d0d7de;--faint:#59636e;--bad:#c0182b;--warn:#8a5a00;--card:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--line:#3d444d;--faint:#9aa4af;--bad:#ff8182;--warn:#e3b341;--card:#1c2128}}
*{box-sizing:border-box}
body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:96rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.2rem;margin:1.5rem 0 .5rem}
header p{margin:.25rem 0 1rem;color:var(--faint)}
table{border-collapse:collapse;width:100%}
caption{text-align:left;color:var(--faint);padding-bottom:.25rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line)}
td{min-width:5.5rem;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
td>.warn,td>.faint{display:inline-block}
.bad{color:var(--bad);font-weight:600}.warn{color:var(--warn);font-weight:600}.faint{color:var(--faint)}
@media(min-width:30.01rem){td time{white-space:nowrap}}
@media(min-width:70.01rem){
td[data-label=Package],td[data-label=User]{min-width:11.5rem}
td[data-label=Source]{min-width:6rem}td[data-label=Server]{min-width:12rem}
td[data-label="Instance id"]{min-width:10.5rem}
td[data-label="Folder / project"]{min-width:9.5rem}
td[data-label=Age]{min-width:12rem}
td[data-label=Outcome]{min-width:7.5rem}
}
@media(min-width:80rem){td[data-label=Age]{min-width:19.5rem}}
@media(max-width:70rem){
thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
table,tbody,td,caption{display:block;width:100%}
tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:0 1rem}
tr{background:var(--card);border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.4rem .6rem}
td{border:0;min-width:0;padding:.1rem 0 .1rem 8.6rem;position:relative}td:empty{display:none}
td::before{content:attr(data-label);position:absolute;left:0;width:8rem;color:var(--faint)}
}
""".strip()
