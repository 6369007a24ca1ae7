"""The catalog source's first fill of a server that cannot read much in the time that a scrape has."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssis_exporter.errors import SourceTimeout
from ssis_exporter.sources.catalog import memory
from ssis_exporter.sources.catalog.deadline import Deadline
from ssis_exporter.sources.catalog.queries import Queries
from ssis_exporter.sources.catalog.rows import Row
from tests.catalogs import Clock, complete, ids, make_estate, rig


def test_a_piece_that_cannot_be_read_in_time_is_smaller_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    read = Queries.open_between

    def slow(self: Queries, low: int, high: int, deadline: Deadline) -> list[Row]:
        widths.append(high - low)
        if high - low > 1000:
            raise TimeoutError
        return read(self, low, high, deadline)

    monkeypatch.setattr(Queries, "open_between", slow)
    # No piece of a slow server is so quick that the next one should be wider.
    monkeypatch.setattr(memory, "QUICK", 0.0)
    with rig(tmp_path, make_estate(clock=Clock())) as made:
        made.estate.fill(range(1, 3001), status=7)
        made.estate.set(5, status=2, end_time=None)
        source = made.source()
        for _ in range(4):
            with pytest.raises(SourceTimeout):
                source.snapshot()
        seen = complete(source)

    assert [True] * 4 == [width > 1000 for width in widths[:4]]
    assert ({5}, False) == (ids(seen), seen.incomplete)
