"""What most tests of the source `dts` begin with; a test module asks for these with `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ssis_exporter.sources.dts import DtsSource
from tests.dts.assemblies import Gac, build
from tests.dts.estate import Estate, source_on


@pytest.fixture(scope="session")
def gac(tmp_path_factory: pytest.TempPathFactory) -> Gac:
    """The contract as 15.0.0.0 and 16.0.0.0."""
    return build(tmp_path_factory.mktemp("assemblies"), (15, 16))


@pytest.fixture
def estate(tmp_path: Path, gac: Gac, monkeypatch: pytest.MonkeyPatch) -> Iterator[Estate]:
    """A machine on which nothing runs yet; a CLR that crashes writes its dump into it."""
    (tmp_path / "estate").mkdir()
    monkeypatch.chdir(tmp_path / "estate")
    made = Estate(tmp_path / "estate", gac)
    yield made
    made.close()


@pytest.fixture
def source(estate: Estate) -> Iterator[DtsSource]:
    """A source that sees the estate."""
    with source_on(estate) as made:
        yield made


@pytest.fixture
def children() -> Callable[[], list[psutil.Process]]:
    """The helpers that a test itself started and that live."""
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    return lambda: [child for child in me.children() if child.pid not in before]
