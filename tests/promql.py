"""What tests need to know of PromQL expressions in rules and dashboards, without a parser: promtool has one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SELECTOR = re.compile(
    r"(?P<call>\w+\s*\(\s*)?(?P<metric>\b[a-zA-Z_:][\w:]*)\{(?P<matchers>[^}]*)\}(?P<range>\[[^\]]*\])?"
)
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

# What Grafana puts in place of its own variables, for a scrape interval of 30 s and six hours on the screen.
GRAFANA = {"__rate_interval": "2m", "__range": "6h", "__interval": "30s"}


@dataclass(frozen=True)
class Selector:
    """One `metric{matchers}` with the function right around it and its range, both empty where there is none."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    function: str
    range: str


def selectors(expression: str) -> list[Selector]:
    """Every selector with braces."""
    return [
        Selector(
            metric=found["metric"],
            matchers=tuple(_MATCHER.findall(found["matchers"])),
            function=(found["call"] or "").rstrip("( "),
            range=(found["range"] or "").strip("[]"),
        )
        for found in _SELECTOR.finditer(expression)
    ]


def metrics(expression: str) -> set[str]:
    """Every name that may be a metric of ours or of a scrape, with braces or without."""
    bare = _GROUPING.sub("", _STRING.sub("", expression))
    return set(re.findall(r"\b(?:ssis_\w+|process_\w+|python_\w+|scrape_\w+|up)\b(?!\s*\()", bare))


def labels(expression: str) -> set[str]:
    """Every label in a matcher or a grouping."""
    used = {name for selector in selectors(expression) for name, _, _ in selector.matchers}
    for names in _GROUPING.findall(expression):
        used |= {name.strip() for name in names.split(",") if name.strip()}
    return used


def expanded(expression: str, values: Mapping[str, str]) -> str:
    """The expression with Grafana's and the dashboard's variables replaced."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return {**GRAFANA, **values}[name]

    return re.sub(r"\$(?:(\w+)|\{(\w+)(?::\w+)?\})", value, expression)
