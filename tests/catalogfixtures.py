"""What most tests of reading a catalog begin with; a test module asks for these with `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catalogs import Clock, Rig, make_estate, rig


@pytest.fixture
def clock() -> Clock:
    """The server's."""
    return Clock()


@pytest.fixture
def made(tmp_path: Path, clock: Clock) -> Iterator[Rig]:
    """A catalog in which nothing ever ran, and which shows all."""
    with rig(tmp_path, make_estate(clock=clock)) as one:
        yield one
