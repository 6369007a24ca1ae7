"""docs/cardinality.md counts right."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.day import Day

PAGE = Path(__file__).parent.parent / "docs" / "cardinality.md"


async def first_page(folder: Path) -> str:
    """The first scrape of forty packages at two sources."""
    day = Day(datetime(2026, 3, 1, tzinfo=UTC), packages=40, folder=folder)
    try:
        await day.fill()
        return (await day.page()).decode()
    finally:
        await day.close()


def test_series_are_as_many_as_told(tmp_path: Path) -> None:
    """
    A source, a run and a package bring as many series as the page says.
    """
    lines = [line for line in asyncio.run(first_page(tmp_path)).splitlines() if not line.startswith("#")]
    names = Counter(re.split(r"[{ ]", line, maxsplit=1)[0] for line in lines)
    runs = {name: count for name, count in names.items() if name.startswith("ssis_package_execution_")}
    packages = {name for name in names if name.startswith("ssis_package_")} - runs.keys()
    of_a_source = [line for line in lines if 'source="sql01"' in line and "package_name" not in line]
    text = PAGE.read_text(encoding="utf-8")
    of_a_run = re.search(r"\| (\d+) from any source; (\d+) more with process figures, (\d+) more", text)
    assert of_a_run is not None

    assert sum(map(int, of_a_run.groups())) == sum(runs.values()) / names["ssis_package_execution_info"]
    assert f"| {sum(names[name] for name in packages) // names['ssis_package_duration_samples']}, and one more" in text
    assert f"about {round(len(of_a_source), -1)}," in text
