"""A real SIGKILL at every commit and around every call to the source: nothing is lost, nothing is asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from ssis_exporter.ledger import read_events
from ssis_exporter.model import StopOutcome

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

FULL = os.environ.get("SSIS_EXPORTER_FULL") == "1"

POINTS = 100
"""More than there are in any plan: the first process that comes to no such point is the last."""

PLANS: dict[str, dict[str, Any]] = {
    "signal": {"tells": False, "obeys": True, "grace": False, "escalates": False},
    "catalog": {"tells": True, "obeys": True, "grace": True, "escalates": False},
    "stubborn": {"tells": False, "obeys": False, "grace": False, "escalates": True},
}


class Exporters:
    """Starts exporters, one after the other, each a process of its own."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.crashing"],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, **plan: Any) -> int:
        """How it ended."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({"folder": str(folder), **plan}) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        """Ends what starts them."""
        self._server.communicate(timeout=30)


@pytest.fixture(scope="module")
def exporters() -> Iterator[Exporters]:
    """One for all tests."""
    made = Exporters()
    yield made
    made.close()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def crash_at(exporters: Exporters, folder: Path, point: int, plan: dict[str, Any], *, second: int = 0) -> bool:
    """Ends the exporter at one point, starts it again, and checks; whether it came to that point."""
    folder.mkdir()
    for instance_id in ("1", "2"):
        (folder / f"run-{instance_id}").write_text("running")
    ended = exporters.run(folder, at=point, nominate=["1"], **plan)
    accepted = lines(folder / "accepted")
    # What was not accepted comes again, as Alertmanager sends it; what was accepted must not need to.
    again = [] if "1" in accepted else ["1"]
    if second:
        exporters.run(folder, at=second, nominate=again, **plan)
        again = [] if "1" in lines(folder / "accepted") else ["1"]
    assert 0 == exporters.run(folder, at=0, nominate=again, **plan)

    requests, forced = lines(folder / "requests"), lines(folder / "forces")
    assert requests in ([], ["1"]), f"asked more than once: {requests}"
    assert forced in ([], ["1"]), f"ended more than once: {forced}"
    assert (folder / "run-2").exists(), "another run was touched"
    events = list(read_events(folder / "storage"))
    outcomes = [event.outcome for event in events if event.outcome is not None]
    assert 1 == len(outcomes), "every accepted nomination comes to one outcome"
    if not requests:
        # Only where the source cannot tell, and only for a crash in the very moment of asking.
        assert not plan["tells"]
        assert any("in the moment of asking" in event.text for event in events)
        assert ([], StopOutcome.UNCONFIRMED) == (forced, outcomes[0])
    elif plan["obeys"]:
        assert StopOutcome.STOPPED == outcomes[0]
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.timeout(600)
def test_a_crash_at_every_point(tmp_path: Path, exporters: Exporters, name: str) -> None:
    """
    At most one request, one outcome, and the other run runs on, wherever the process was ended.
    """
    step = 1 if FULL or name == "signal" else 2
    points = range(1, POINTS, step)
    crashes = sum(1 for _ in takewhile(lambda at: crash_at(exporters, tmp_path / str(at), at, PLANS[name]), points))

    # Together more than forty, in full size more than sixty.
    assert 20 // step <= crashes < (POINTS - 1) // step


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.timeout(600)
def test_two_crashes_in_a_row(tmp_path: Path, exporters: Exporters, name: str) -> None:
    """
    Also a start that takes up what an earlier one left may be ended anywhere.
    """
    for first in range(1, 30) if FULL else (14, 17):
        for second in range(1, 20) if FULL else (2, 6):
            crash_at(exporters, tmp_path / f"{first}-{second}", first, PLANS[name], second=second)
