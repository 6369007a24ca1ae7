"""Spans of time as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter.durations import LONGEST, parse_duration, print_duration, short_duration


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(hours=1, minutes=30)),
        ("2d4h", timedelta(days=2, hours=4)),
        ("1s500ms", timedelta(seconds=1.5)),
        ("90m", timedelta(minutes=90)),
        ("0s", timedelta()),
        ("0", timedelta()),
    ],
)
def test_a_duration_is_read(text: str, span: timedelta) -> None:
    """
    Numbers with units, the largest unit first.
    """
    assert span == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "30",
        "s",
        "5 m",
        "-5m",
        "+5m",
        "1.5h",
        "30m1h",
        "5m5m",
        "5M",
        "1w",
        "\u0665m",
        "5m\n",
        "ten minutes",
        "1h-5m",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """
    The sentence says how to write one.
    """
    with pytest.raises(ValueError, match="is no duration; write it like 30s, 5m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["3651d", "999999999d", "999999999d999999999h"])
def test_a_duration_has_an_upper_bound(text: str) -> None:
    """
    What would overflow a clock is refused, and does not raise something else.
    """
    with pytest.raises(ValueError, match="is longer than ten years"):
        parse_duration(text)


@given(st.integers(0, LONGEST // timedelta(milliseconds=1)))
def test_what_is_printed_is_read_back(milliseconds: int) -> None:
    """
    Printing and reading are each other's inverse, to the millisecond.
    """
    span = timedelta(milliseconds=milliseconds)

    assert span == parse_duration(print_duration(span))


@given(st.text(alphabet="0123456789dhms -.", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """
    No text raises anything but `ValueError`.
    """
    try:
        span = parse_duration(text)
    except ValueError:
        return

    assert timedelta() <= span <= LONGEST


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(seconds=-3), "0s"),
        (timedelta(seconds=42, milliseconds=900), "42s"),
        (timedelta(minutes=5, seconds=12), "5m12s"),
        (timedelta(hours=1), "1h"),
        (timedelta(hours=1, seconds=59), "1h"),
        (timedelta(hours=26, minutes=59), "1d2h"),
        (timedelta(days=400, minutes=3), "400d"),
    ],
)
def test_people_are_told_the_two_largest_units(span: timedelta, text: str) -> None:
    """
    Cut off and not rounded.
    """
    assert text == short_duration(span)
