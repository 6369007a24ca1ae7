"""For tests of the catalog source: a server with an estate, and the real source that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ssis_exporter.model import Snapshot
from ssis_exporter.sources.catalog import CatalogSource
from ssis_exporter.sources.catalog.settings import CatalogSettings, Credentials
from tests.tds.server import TdsServer, ntlm_users
from tests.tds.tables import Estate

USER = "exporter"
WINDOWS_ACCOUNT = "CORP\\svc_ssis"
PASSWORD = "pass'word \N{GREEK SMALL LETTER OMEGA}"


class Clock:
    """The server's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_time(self, **span: float) -> None:
        """Time passes."""
        self.now += timedelta(**span)


def make_estate(*, release: int = 2022, clock: Clock | None = None, roles: set[str] | None = None) -> Estate:
    """An estate whose user sees all, unless other roles are given."""
    estate = Estate(release=release, now=clock)
    estate.add_account(USER, PASSWORD, roles={"ssis_logreader"} if roles is None else roles)
    return estate


class Rig:
    """A server, its estate, and sources that read it."""

    def __init__(self, server: TdsServer, folder: Path) -> None:
        self.server = server
        self.estate = server.estate
        self.folder = folder
        self._sources: list[CatalogSource] = []
        self._password = folder / "password"
        self._password.write_text(PASSWORD, encoding="utf-8")
        self._password.chmod(0o600)

    def settings(self, **changes: Any) -> CatalogSettings:
        """Settings for this server."""
        given: dict[str, Any] = {
            "server": f"127.0.0.1:{self.server.port}",
            "auth": Credentials(user=USER, password_file=self._password),
            "encrypt": False,
            "time_limit": timedelta(seconds=20),
            **changes,
        }
        return CatalogSettings(**given)

    def source(
        self, name: str = "sql01", *, settings: CatalogSettings | None = None, **arguments: Any
    ) -> CatalogSource:
        """A source that is closed with the rig."""
        source = CatalogSource(name, settings or self.settings(), **arguments)
        self._sources.append(source)
        return source

    def close(self) -> None:
        """Closes all."""
        for source in self._sources:
            source.close()
        self.server.close()


@contextmanager
def rig(folder: Path, estate: Estate | None = None, **server: Any) -> Iterator[Rig]:
    """A rig that is closed afterwards."""
    made = Rig(TdsServer(estate if estate is not None else make_estate(), **server), folder)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def windows_rig(folder: Path) -> Iterator[Rig]:
    """A rig whose server lets `WINDOWS_ACCOUNT` stop runs, by the real NTLM exchange; see `windows_auth`."""
    estate = make_estate()
    estate.add_account(WINDOWS_ACCOUNT, windows=True, roles={"ssis_admin"})
    password = folder / "windows-password"
    password.write_text("secret\n", encoding="utf-8")
    password.chmod(0o600)
    with ntlm_users(folder / "ntlm", ("CORP", "svc_ssis", "secret")), rig(folder, estate) as made:
        yield made


def windows_auth(made: Rig) -> Credentials:
    """How a source logs in to the server of a `windows_rig` as that account."""
    return Credentials(user=WINDOWS_ACCOUNT, password_file=made.folder / "windows-password")


def ids(seen: Snapshot) -> set[int]:
    """The open execution ids of a snapshot."""
    return {int(run.key.instance_id) for run in seen.executions}


def statuses(seen: Snapshot) -> dict[int, str]:
    """Status by execution id."""
    return {int(run.key.instance_id): str(run.status) for run in seen.executions}


def complete(source: CatalogSource) -> Snapshot:
    """Looks until the first fill is done."""
    for _ in range(1000):
        seen = source.snapshot()
        if not seen.incomplete:
            return seen
    raise AssertionError("the first fill is never done")


def told(seen: Snapshot) -> list[int]:
    """The execution ids of the ends that a snapshot tells."""
    return sorted(int(end.facts.key.instance_id) for end in seen.ended)
