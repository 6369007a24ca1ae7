"""The page in a real browser: no script, no overflow, and hostile names are text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tornado.web import Application

from ssis_exporter.errors import SourceUnreachable
from ssis_exporter.model import ExecutionKey, StopMode, StopOutcome
from ssis_exporter.stoppanel import render as render_stops
from ssis_exporter.stopview import PastStop, PendingStop, Stage
from ssis_exporter.testing import FakeSource
from ssis_exporter.web import WebSettings, make_application
from tests.browser import Chromium, Seen
from tests.fake_exporter import FakeExporter
from tests.serving import Served, serving

pytestmark = pytest.mark.real

RUNS = 1000
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WIDTHS = (360, 768, 1140, 1440)

# Each would do something if it were more than text; the last ones push at the edges of the page.
HOSTILE = (
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</td></tr></table><h1>owned</h1>",
    "<svg/onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "&lt;b&gt;already escaped&lt;/b&gt; &amp;amp;",
    "\u202egnirts desrever\u202c",
    "line\nbreak\ttab\x00null\x1b[31mred",
    "W" * 250,
    "日本語の長い名前" * 30,
    "no_break_" * 28,
)

# The head of a table is clipped away on a narrow screen. `Canvas` is what the browser paints where a page says nothing.
IN_THE_PAGE = """
    canvas = document.body.appendChild(document.createElement('div')),
    canvas.style.backgroundColor = 'Canvas',
    ({
        title: document.title,
        width: document.documentElement.scrollWidth,
        window: window.innerWidth,
        outside: [...document.querySelectorAll('body *')].filter(
            (each) => each.getBoundingClientRect().right > window.innerWidth + 0.5
                && (window.innerWidth > 1120 || !each.closest('thead'))
        ).length,
        tags: [...new Set([...document.querySelectorAll('*')].map((each) => each.localName))],
        headings: document.querySelectorAll('h1').length,
        rows: document.querySelectorAll('tbody tr').length,
        texts: [...document.querySelectorAll('tbody tr td:first-child')].map((each) => each.textContent),
        back: getComputedStyle(canvas).backgroundColor,
        front: getComputedStyle(document.body).color,
        broken: [...document.querySelectorAll('td time')].filter((each) => each.getClientRects().length > 1).length,
        split: [...document.querySelectorAll('td[data-label=Outcome]')].filter((each) => {
            const range = document.createRange()
            range.selectNodeContents(each)
            return range.getClientRects().length > 1
        }).length,
        small: [...document.querySelectorAll('td')].some((each) => parseFloat(getComputedStyle(each).fontSize) < 12),
    })
"""


class Stops:
    """A stopper with something to show, under hostile names, too."""

    mode = StopMode.ARMED
    held = HOSTILE[0]
    breaker_is_open = True

    def pending(self) -> list[PendingStop]:
        """One with every hostile name."""
        key = ExecutionKey(HOSTILE[1], HOSTILE[2])
        return [
            PendingStop(key=key, stage=Stage.ALLOWED, nominated_at=NOW, package_name=name, rule=name, text=name)
            for name in HOSTILE
        ]

    def last_outcomes(self, count: int = 20) -> list[PastStop]:
        """Likewise."""
        key = ExecutionKey(HOSTILE[1], HOSTILE[2])
        return [PastStop(at=NOW, key=key, outcome=StopOutcome.STOPPED, package_name=name) for name in HOSTILE]


def sources() -> list[FakeSource]:
    """A thousand runs, every hostile name among them, and a source that does not answer in hostile words."""
    source = FakeSource("sql01")
    for number in range(RUNS):
        name = HOSTILE[number % len(HOSTILE)] if number < 5 * len(HOSTILE) else f"Load_{number:04}"
        source.start(
            str(number),
            name,
            folder=HOSTILE[(number + 1) % len(HOSTILE)] if number < len(HOSTILE) else "Finance",
            project="GeneralLedger",
            user_name=HOSTILE[(number + 2) % len(HOSTILE)] if number < len(HOSTILE) else "CORP\\svc_etl_fin",
        )
    silent = FakeSource("sql02")
    silent.fail_with = SourceUnreachable(f"sql02: nobody answers at {HOSTILE[1]}{HOSTILE[-1]}")
    return [source, silent]


@pytest.fixture(scope="module")
def page() -> Iterator[Served]:
    """The page, served as it is."""
    exporter = FakeExporter(sources())
    application: Application = make_application(exporter, WebSettings(page_sections=lambda: (render_stops(Stops()),)))
    try:
        with serving(application) as served:
            yield served
    finally:
        exporter.close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all tests."""
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    try:
        yield browser
    finally:
        browser.close()


def look(chromium: Chromium, page: Served, *, width: int, dark: bool = False) -> tuple[Seen, dict[str, Any]]:
    """What the browser made of it."""
    seen = chromium.look(f"http://127.0.0.1:{page.port}/", [IN_THE_PAGE], width=width, dark=dark)
    found: dict[str, Any] = seen.values[0]
    return seen, found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_fits_the_window(chromium: Chromium, page: Served, width: int, dark: bool) -> None:
    """
    A thousand runs on a phone and on a desk: nothing reaches out of the window, no trouble in the console.
    """
    seen, found = look(chromium, page, width=width, dark=dark)

    assert [] == seen.troubles
    assert width == found["window"]
    assert found["width"] <= width
    assert 0 == found["outside"]
    assert RUNS <= found["rows"]
    assert not found["small"]


@pytest.mark.parametrize("width", [width for width in WIDTHS if width > 480])
def test_moments_and_outcomes_stay_on_one_line(chromium: Chromium, page: Served, width: int) -> None:
    """
    But on a phone a date and its time stand side by side, and no outcome is cut in two.
    """
    _, found = look(chromium, page, width=width)

    assert 0 == found["broken"]
    assert 0 == found["split"]


def test_hostile_names_are_text(chromium: Chromium, page: Served) -> None:
    """
    Names do nothing and stand there as they are; what is no character to read is shown as a replacement.
    """
    seen, found = look(chromium, page, width=1440)

    assert "owned" not in found["title"]
    assert not {"script", "img", "svg", "iframe", "form"} & set(found["tags"])
    assert 1 == found["headings"]
    for name in HOSTILE[:7]:
        assert name in found["texts"]
    assert not [text for text in found["texts"] if "\u202e" in text or "\x1b" in text or "\n" in text]
    assert [f"http://127.0.0.1:{page.port}/"] == [url for url in seen.requests if not url.startswith("data:")]


def test_dark_is_dark(chromium: Chromium, page: Served) -> None:
    """
    Who prefers dark gets light text on a dark page, and the other way round.
    """

    def brightness(color: str) -> float:
        red, green, blue = (float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    _, light = look(chromium, page, width=1440)
    _, dark = look(chromium, page, width=1440, dark=True)

    assert brightness(light["back"]) - brightness(light["front"]) > 150
    assert brightness(dark["front"]) - brightness(dark["back"]) > 150
