"""Stopping through the managed API: a real Alertmanager, real processes, and a SIGKILL in the worst moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_exporter.ledger import read_events
from ssis_exporter.ledgerrows import Event, EventKind
from ssis_exporter.model import StopOutcome
from tests.dts.estate import Estate, Package
from tests.dts.served import Served, Webhook, nomination, served, source_entry
from tests.stack import AT_ONCE, Alertmanager, filled, wait_until

pytest_plugins = ("tests.dts.fixtures",)
pytestmark = pytest.mark.real


class Stoppable:
    """A folder with the configuration of an armed exporter, and what its ledger says."""

    def __init__(self, folder: Path, estate: Estate) -> None:
        self.folder = folder
        self.estate = estate
        self.webhook = Webhook(folder)

    @contextmanager
    def serve(self) -> Iterator[Served]:
        """The exporter, ready to be asked."""
        entry = source_entry(self.estate, time_limit="20s")
        with served(self.folder, self.estate, entry, more=self.webhook.config) as exporter:
            exporter.wait_until_up()
            yield exporter

    def events(self) -> list[Event]:
        """The ledger."""
        return list(read_events(self.folder / "state"))

    def outcomes(self) -> list[StopOutcome]:
        """What became of the nominations."""
        return [event.outcome for event in self.events() if event.outcome is not None]


def test_alertmanager_stops_one_of_twenty(tmp_path: Path, estate: Estate) -> None:
    """
    Of twenty packages of one name a real Alertmanager names one: its process ends, and no other; the ledger proves it.
    """
    packages = [estate.add(Package("Load"), with_process=True) for _ in range(20)]
    target = packages[13]
    assert target.process is not None
    stoppable = Stoppable(tmp_path, estate)
    config = filled(AT_ONCE, webhook=stoppable.webhook.port, token_file=stoppable.webhook.token_file)
    with stoppable.serve() as exporter, Alertmanager(tmp_path / "alertmanager", config) as alertmanager:
        alert = nomination(target) | {"endsAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
        alertmanager.send(alert)
        assert -15 == target.process.wait(60)
        wait_until(stoppable.outcomes, "its outcome in the ledger")
        left = exporter.scrape().runs("local")

    assert [StopOutcome.STOPPED] == stoppable.outcomes()
    assert [target.instance] == estate.stops()
    assert {package.instance for package in packages} - {target.instance} == left.keys()
    assert all(package.process.poll() is None for package in packages if package is not target and package.process)


@pytest.mark.parametrize(
    ("fault", "stops"), [("stop delay 600", 0), ("stopped delay 600", 1)], ids=["before", "after it went out"]
)
def test_an_exporter_that_is_killed_while_asking_never_asks_again(
    tmp_path: Path, estate: Estate, fault: str, stops: int
) -> None:
    """
    The API does not show who was asked to stop. So a run that may have been asked is not asked again, whatever alerts
    come: neither by the next exporter nor by a person's command; its end is still seen.
    """
    target = estate.add(Package("Load"))
    other = estate.add(Package("Load"))
    stoppable = Stoppable(tmp_path, estate)
    with stoppable.serve() as exporter:
        estate.faults(fault)
        stoppable.webhook.stop(target)
        wait_until(lambda: EventKind.REQUESTED in {event.kind for event in stoppable.events()}, "the request on disk")
        if stops:
            wait_until(estate.stops, "the request itself")
        else:
            wait_until(lambda: (estate.folder / "stop.hangs").exists(), "the call")
        exporter.serving.process.kill()
        exporter.serving.process.wait(30)
    estate.faults()
    with stoppable.serve() as exporter:
        stoppable.webhook.stop(target)
        wait_until(
            lambda: EventKind.ASKED in {event.kind for event in stoppable.events()}, "what the next one made of it"
        )
        stoppable.webhook.stop(target)
        assert {target.instance, other.instance} == exporter.scrape().runs("local").keys()
        estate.packages.remove(target)
        estate.write()
        wait_until(stoppable.outcomes, "its outcome")
        stoppable.webhook.stop(target)

    assert [target.instance] * stops == estate.stops()
    assert [StopOutcome.STOPPED] == stoppable.outcomes()
    assert 1 == len([event for event in stoppable.events() if event.kind is EventKind.REQUESTED])
