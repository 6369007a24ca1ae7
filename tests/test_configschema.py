"""The schema that editors use is made from what the exporter reads."""

from __future__ import annotations

import re
from pathlib import Path

from ssis_exporter.configschema import DURATION, as_text, config_schema

FILE = Path(__file__).parent.parent / "docs" / "config.schema.json"


def test_the_file_is_what_is_generated() -> None:
    """
    After a change of the structs: python -m ssis_exporter.configschema > docs/config.schema.json
    """
    assert as_text() == FILE.read_text(encoding="utf-8")


def test_each_kind_has_its_own_keys() -> None:
    """
    A source's kind decides which keys it may have; no others are allowed.
    """
    kinds = {
        one["properties"]["kind"]["const"]: one for one in config_schema()["properties"]["sources"]["items"]["oneOf"]
    }

    assert {"demo", "dtexec", "dts"} <= set(kinds)
    assert "speed" in kinds["demo"]["properties"]
    assert "speed" not in kinds["dtexec"]["properties"]
    assert all(one["additionalProperties"] is False for one in kinds.values())
    assert all(one["required"][:2] == ["name", "kind"] for one in kinds.values())


def test_defaults_and_bounds_are_told() -> None:
    """
    An editor shows them.
    """
    stop = config_schema()["properties"]["stop"]["properties"]

    assert {"enum": ["armed", "dry-run"], "default": "dry-run"} == stop["mode"]
    assert "15m" == stop["request_ttl"]["default"]
    assert {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10} == stop["max_runs_per_message"]
    assert ["match", "action"] == stop["rules"]["items"]["required"]


def test_a_duration_is_told_apart() -> None:
    """
    The pattern takes what is read as a duration, and refuses what is not.
    """
    pattern = str(DURATION["pattern"])

    assert all(re.search(pattern, text) for text in ("30s", "5m", "1h30m", "0", "2d4h5ms"))
    assert not any(re.search(pattern, text) for text in ("30", "5 m", "-5m", "30m1h", "1.5h"))
