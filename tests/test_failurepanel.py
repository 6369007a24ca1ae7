"""The page's section about failures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ssis_exporter.failurepanel import LONGEST_MESSAGE, render
from ssis_exporter.historyfile import Failure
from ssis_exporter.model import Result

EVIL = "<script>alert('1')</script>\"&\x1b[31m\ud800"


def failure(message: str | None, *, text: str = "Load", result: Result = Result.FAILED) -> Failure:
    """A run that failed."""
    return Failure(
        source="sql01",
        instance_id=text,
        folder=text,
        project="DW",
        package_name=text,
        result=result,
        ended_at=datetime(2026, 11, 22, 3, 0, tzinfo=UTC),
        duration=timedelta(minutes=7),
        message=message,
    )


def test_without_a_failure_that_is_said() -> None:
    """
    An empty table says nothing.
    """
    assert "No failure is known." in render(())


def test_a_failure_is_a_row() -> None:
    """
    When, which, how, and why as far as that is known.
    """
    page = render([failure("Login failed"), failure(None, result=Result.ENDED_UNEXPECTEDLY)])

    assert "The last 2 failures, newest first" in page
    assert "Login failed" in page
    assert "ended unexpectedly" in page
    assert "7 min 00 s" in page
    assert "The last failure<" in render([failure("Login failed")])


def test_nothing_from_outside_is_code_or_endless() -> None:
    """
    Names and messages are texts, and a message is cut.
    """
    page = render([failure(EVIL * 1000, text=EVIL)])

    assert "<script" not in page
    assert "\x1b" not in page
    assert len(page) < 10 * LONGEST_MESSAGE
    assert page.encode()
