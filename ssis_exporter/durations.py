"""Spans of time as people write them: `30s`, `5m`, `1h30m`."""

from __future__ import annotations

import re
from datetime import timedelta

_PATTERN = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?", re.ASCII)
_UNITS = (
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("m", timedelta(minutes=1)),
    ("s", timedelta(seconds=1)),
    ("ms", timedelta(milliseconds=1)),
)

LONGEST = timedelta(days=3650)
"""Longer is a slip of the keyboard, and additions to the clock must not overflow."""


def parse_duration(text: str) -> timedelta:
    """
    Reads `1h30m`: days, hours, minutes, seconds and milliseconds (`d h m s ms`), each at most once, longest first.

    Raises `ValueError` with one sentence that says what would be right.
    """
    if text == "0":
        return timedelta()
    found = _PATTERN.fullmatch(text)
    if found is None or not text:
        raise ValueError(f"{text[:40]!r} is no duration; write it like 30s, 5m or 1h30m")
    # Summed as whole milliseconds: a timedelta of 999999999 days would overflow before it could be compared.
    milliseconds = sum(
        int(count) * (unit // timedelta(milliseconds=1))
        for count, (_, unit) in zip(found.groups(), _UNITS, strict=True)
        if count is not None
    )
    if milliseconds > LONGEST // timedelta(milliseconds=1):
        raise ValueError(f"{text[:40]!r} is longer than ten years")
    return timedelta(milliseconds=milliseconds)


def print_duration(span: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as `span` (to the millisecond); `span` is not negative."""
    rest = span
    parts: list[str] = []
    for name, unit in _UNITS:
        count, rest = divmod(rest, unit)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts) or "0s"


def short_duration(span: timedelta) -> str:
    """For people: the two largest units, cut off and not rounded: `2d4h`, `1h30m`, `5m12s`, `42s`."""
    rest = max(span, timedelta())
    parts: list[str] = []
    for name, unit in _UNITS[:-1]:
        count, rest = divmod(rest, unit)
        if count or parts:
            parts.append(f"{count}{name}")
        if len(parts) == 2:
            break
    return "".join(part for part in parts if not part.startswith("0")) or "0s"
