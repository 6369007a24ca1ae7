"""Alert rules for an estate that runs faster than real life: every span in them is divided by the speed."""

from __future__ import annotations

import re
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"(?<![\w.])(\d+)(ms|s|m|h|d|w)(?!\w)")
_NUMBER = re.compile(r"\* (60|3600|86400)\b")
"""Rules write numbers of seconds so: `4 * 3600`."""


def span(text: str, speed: float) -> str:
    """Every span in a text, in whole milliseconds."""
    return _SPAN.sub(lambda found: f"{max(round(int(found[1]) * _SECONDS[found[2]] * 1000 / speed), 1)}ms", text)


def expression(text: str, speed: float) -> str:
    """Spans and numbers of seconds in an expression."""
    return _NUMBER.sub(lambda found: f"* {int(found[1]) / speed:.6f}", span(text, speed))


def rules(path: Path, speed: float) -> str:
    """A whole rule file."""
    yaml = YAML(typ="safe")
    loaded = yaml.load(path)
    for group in loaded["groups"]:
        if "interval" in group:
            group["interval"] = span(group["interval"], speed)
        for rule in group["rules"]:
            rule["expr"] = expression(rule["expr"], speed)
            for key in ("for", "keep_firing_for"):
                if key in rule:
                    rule[key] = span(rule[key], speed)
    out = StringIO()
    yaml.dump(loaded, out)
    text: str = out.getvalue()
    return text
