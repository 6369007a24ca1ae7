"""The source `dts`: what `Application.GetRunningPackages` shows, and `RunningPackage.Stop`."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import msgspec

from ssis_exporter.errors import (
    ConfigError,
    IdentityUnknown,
    NoSuchExecution,
    SourceError,
    SourceMissing,
    SourceUnreachable,
    StopDenied,
)
from ssis_exporter.model import (
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Finding,
    FindingLevel,
    Scope,
    Snapshot,
    SourceInfo,
    StopReply,
    Visibility,
)
from ssis_exporter.sources.dts.bookmark import Bookmark, from_text, to_text
from ssis_exporter.sources.dts.firstsight import FirstSights
from ssis_exporter.sources.dts.hresults import ACCESS_DENIED, error_for
from ssis_exporter.sources.dts.managed import MICROSOFT_TOKEN
from ssis_exporter.sources.dts.protocol import NO_IDENTITY, Answer, Hello, ListAnswer, Listing, Row, Trouble
from ssis_exporter.sources.dts.services import KNOWN_RELEASES, checked_server, is_installed, running_releases
from ssis_exporter.sources.dts.supervisor import HelperStarting, Patience, Supervisor
from ssis_exporter.sources.interface import SourceSettings, StoppableSource

log = logging.getLogger(__name__)

DEFAULT_RUNTIME: Literal["netfx", "mono"] = "netfx" if sys.platform == "win32" else "mono"


class DtsSettings(SourceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of a source of kind `dts`."""

    server: str = "."
    """This machine, as the API takes it: `.`, `localhost`, its name."""

    release: int | None = None
    """160 is SQL Server 2022; by default that of the highest service `MsDtsServer<n>` that runs."""

    runtime: Literal["netfx", "mono"] | None = None
    """By default the .NET Framework on Windows, which the API is made for, and Mono elsewhere."""

    public_key_token: str = MICROSOFT_TOKEN
    helper: tuple[str, ...] = ()
    """Another helper's command, for one that speaks the protocol but is not this Python."""

    def __post_init__(self) -> None:
        if self.time_limit <= timedelta():
            raise ValueError('"time_limit" must be longer than nothing')


class DtsSource(StoppableSource):
    """Running packages of this machine through the SSIS service, read by a helper process."""

    kind: ClassVar[str] = "dts"
    Settings: ClassVar[type[SourceSettings]] = DtsSettings

    tells_stopping: ClassVar[bool] = False
    """
    The API has no status. Who asked for a stop is remembered by this object alone, for the page and for `request_stop`;
    after a restart of the exporter a run that was asked to stop looks like any other. So nothing may be concluded from
    `running`: where the exporter was ended in the moment of asking, the run is never asked again.
    """

    def __init__(
        self,
        name: str,
        settings: DtsSettings,
        *,
        patience: Patience | None = None,
        environment: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        services: Callable[[], Sequence[int]] = running_releases,
    ) -> None:
        super().__init__(name)
        self._settings = settings
        self._now = now
        self._patience = patience if patience is not None else Patience()
        self._server = checked_server(name, settings.server)
        self._services = services
        self._releases: Sequence[int] = ()
        self._bound_to: int | None = None
        """The release whose packages the last look showed: what another one does not list has not ended."""

        self._supervisor = Supervisor(name, self._command, environment=environment, patience=self._patience)
        self._info = SourceInfo(kind=self.kind)
        self._facts: dict[str, ExecutionFacts] = {}
        self._stopping: dict[str, datetime] = {}
        self._sights = FirstSights(name)
        self._list_decoder = msgspec.json.Decoder(ListAnswer)
        self._answer_decoder = msgspec.json.Decoder(Answer)

    @classmethod
    def from_settings(cls, name: str, settings: Any) -> Self:
        """Checks what only this source can judge: the server's name, the release, the bitness."""
        if settings.release is not None and settings.release not in KNOWN_RELEASES:
            known = ", ".join(str(release) for release in sorted(KNOWN_RELEASES))
            raise ConfigError(f"source {name}: release {settings.release} is unknown; known are {known} (160 is 2022)")
        if sys.platform == "win32" and sys.maxsize <= 2**32 and not settings.helper:
            raise ConfigError(f"source {name}: this Python is a 32-bit one; the managed API needs a 64-bit Python")
        return cls(name, settings)

    @property
    def info(self) -> SourceInfo:
        """The machine and the assembly version, once the helper said them."""
        return self._info

    def resume(self, bookmark: str, open_ids: Collection[str]) -> None:
        """Remembers whose packages an earlier life of the exporter saw, and what it decided about their starts."""
        kept = from_text(self.name, bookmark)
        self._bound_to = kept.release if open_ids else None
        self._sights.resume(kept.starts, open_ids)

    def snapshot(self) -> Snapshot:
        """Lists the running packages. Raises `SourceError` whenever the API did not answer in full."""
        supervisor = self._supervisor
        answer = supervisor.ask("list", self._list_decoder, limit=self._settings.time_limit, server=self._server)
        hello = self._take_hello()
        if answer.ok is None:
            raise self._refused(answer.error)
        now = self._now()
        visibility = _visibility(hello)
        self._sights.look(visibility, hello.release)
        running, rows = _told_apart(answer.ok)
        self._learn(rows, now)
        executions = []
        facts = self._facts
        for instance in running:
            known = facts.get(instance)
            if known is None:
                raise supervisor.broke_the_protocol(f"no properties of {instance}")
            executions.append(self._execution(known, now))
        supervisor.trust()
        if len(facts) > len(executions):
            self._facts = {instance: known for instance, known in facts.items() if instance in running}
            self._stopping = {instance: since for instance, since in self._stopping.items() if instance in running}
        starts = self._sights.looked(now, running)
        self._bound_to = hello.release if running else None
        return Snapshot(
            source=self.name,
            taken_at=now,
            visibility=visibility,
            executions=tuple(executions),
            bookmark=to_text(Bookmark(self._bound_to, starts)),
        )

    def request_stop(self, execution: Execution) -> StopReply:
        """`RunningPackage.Stop` of the package that runs under this InstanceID now; a request, no more."""
        instance = execution.key.instance_id
        if execution.key.source != self.name or self._facts.get(instance) != execution.facts:
            raise NoSuchExecution(f"{self.name}: {instance} is not a run that the last look showed")
        if instance.startswith(NO_IDENTITY):
            raise IdentityUnknown(f"{self.name}: the API gave this run no InstanceID, so nothing tells it from another")
        if instance in self._stopping:
            return StopReply.ALREADY_STOPPING
        answer = self._ask("stop", instance)
        if answer.error is not None:
            error = self._refused(answer.error)
            if answer.error.type == "Ambiguous":
                raise IdentityUnknown(str(error)) from error
            if answer.error.code in ACCESS_DENIED:
                raise StopDenied(str(error)) from error
            raise error
        if not (answer.ok or {}).get("found"):
            raise NoSuchExecution(f"{self.name}: no package runs under {instance}")
        self._stopping[instance] = self._now()
        return StopReply.ACCEPTED

    def probe(self) -> dict[str, Any]:
        """What the API really answers here: raw values, types, assembly name."""
        answer = self._ask("probe")
        if answer.error is not None:
            raise self._refused(answer.error)
        probed = (answer.ok or {}).get("probe")
        return dict(probed) if isinstance(probed, dict) else {}

    def first_snapshot(self) -> Snapshot:
        """As `snapshot`, but waits for a helper that is starting, for as long as it may start."""
        until = time.monotonic() + self._patience.start.total_seconds()
        while True:
            try:
                return self.snapshot()
            except HelperStarting:
                if time.monotonic() > until:
                    raise

    def check(self) -> Sequence[Finding]:
        """Whether the API answers, what the account sees, and what to change."""
        try:
            seen = self.first_snapshot()
        except SourceError as exc:
            return [Finding(level=FindingLevel.PROBLEM, text=str(exc), remedy=exc.remedy)]
        text = f"{self._info.version}: {len(seen.executions)} running packages"
        findings = [Finding(level=FindingLevel.OK, text=text)]
        match seen.visibility.scope:
            case Scope.ALL:
                pass
            case Scope.UNKNOWN:
                text = "the helper does not say whose packages this account sees, so no end is ever certain"
                findings.append(Finding(level=FindingLevel.WARNING, text=text))
            case _:
                text = "this account is no elevated administrator: it sees and stops only the packages that it started"
                remedy = "run the exporter as an administrator of this machine, elevated (a service of Windows is)"
                findings.append(Finding(level=FindingLevel.WARNING, text=text, remedy=remedy))
        return findings

    def give_up(self) -> None:
        """Does not wait any longer for what the helper lists."""
        self._supervisor.give_up()

    def close(self) -> None:
        """Ends the helper."""
        self._supervisor.close()

    def _learn(self, rows: Sequence[Row], now: datetime) -> None:
        machine = self._info.server
        for row in rows:
            known = self._facts.get(row.instance)
            began: datetime | None = None
            uncertain = False
            if known is not None and known.started_at is not None:
                # Sent again (its name was empty, or the helper is new): when it began was decided at first sight.
                began, uncertain = known.started_at, known.start_uncertain
            elif row.start_ticks is not None:
                start = self._sights.start(row.instance, row.start_ticks, seen_at=now, is_utc=row.start_utc)
                if start is not None:
                    began, uncertain = start.at, not start.certain
            facts = ExecutionFacts(
                key=ExecutionKey(self.name, row.instance),
                package_name=(row.name or "").removesuffix(".dtsx"),
                package_id=f"{{{row.package.upper()}}}" if row.package else "",
                user_name=row.user or "",
                started_at=began,
                start_uncertain=uncertain,
                machine=machine,
                description=row.description or "",
            )
            if facts != known:
                self._facts[row.instance] = facts

    def _execution(self, facts: ExecutionFacts, now: datetime) -> Execution:
        since = self._stopping.get(facts.key.instance_id) if self._stopping else None
        duration = timedelta()
        if facts.started_at is not None and now > facts.started_at:
            duration = now - facts.started_at
        return Execution(
            facts=facts,
            status=ExecutionStatus.RUNNING if since is None else ExecutionStatus.STOPPING,
            duration=duration,
            stopping_since=since,
        )

    def _ask(self, do: Literal["stop", "probe"], instance: str | None = None) -> Answer:
        limit = self._settings.time_limit
        answer = self._supervisor.ask(do, self._answer_decoder, limit=limit, server=self._server, instance=instance)
        self._take_hello()
        self._supervisor.trust()
        return answer

    def _take_hello(self) -> Hello:
        """What the helper that has just answered said of itself."""
        hello = self._supervisor.hello
        assert hello is not None
        version = hello.assembly.partition("Version=")[2].partition(",")[0]
        if (hello.machine, version) != (self._info.server, self._info.version):
            self._info = SourceInfo(kind=self.kind, server=hello.machine, version=version)
        return hello

    def _refused(self, trouble: Trouble | None) -> SourceError:
        """The error for a call that failed in the managed API, which the helper told as it should."""
        supervisor = self._supervisor
        supervisor.trust()
        error = error_for(self.name, trouble or Trouble("unknown"), release=self._take_hello().release)
        if isinstance(error, SourceMissing | SourceUnreachable) and self._releases != self._wanted_releases():
            log.info("source %s: another SSIS service is to be asked than when the helper was started", self.name)
            supervisor.close()
        return error

    def _wanted_releases(self) -> Sequence[int]:
        if self._settings.release is not None:
            return [self._settings.release]
        if self._bound_to is not None and is_installed(self._bound_to):
            return [self._bound_to]
        return self._services() or KNOWN_RELEASES

    def _command(self) -> list[str]:
        if self._settings.helper:
            command = list(self._settings.helper)
        else:
            # -P: what lies in the folder that the exporter was started in is not imported instead of the real modules.
            # -W: what it says last is told as the reason of its end, and a library's warning at its start is none.
            command = [interpreter(), "-P", "-W", "ignore", "-X", "utf8", "-m", "ssis_exporter.sources.dts.helper"]
            command += ["--runtime", self._settings.runtime or DEFAULT_RUNTIME]
        self._releases = self._wanted_releases()
        for release in self._releases:
            command += ["--release", str(release)]
        return [*command, "--public-key-token", self._settings.public_key_token]


def _visibility(hello: Hello) -> Visibility:
    """An elevated administrator sees every package, anyone else those they started (documented)."""
    match hello.elevated:
        case None:
            return Visibility(Scope.UNKNOWN)
        case True:
            return Visibility(Scope.ALL, "elevated administrator")
        case False:
            return Visibility(Scope.OWN, "not an elevated administrator")


def _told_apart(listing: Listing) -> tuple[Collection[str], Sequence[Row]]:
    """
    Names for all that runs, and the rows under these names.

    A run that is told twice is shown once, and `request_stop` does not touch it. Runs without InstanceID each count.
    They are told apart by what does not change in them and, where that is equal, by a number: when one of those ends,
    any of them may be the one that is gone.
    """
    running = dict.fromkeys(listing.running)
    if NO_IDENTITY not in running:
        return running, listing.rows
    rows = [row for row in listing.rows if row.instance != NO_IDENTITY]
    nameless = [row for row in listing.rows if row.instance == NO_IDENTITY]
    if len(nameless) != listing.running.count(NO_IDENTITY):
        # The one name that is left has no properties, and what misses them is no answer.
        return running, rows
    del running[NO_IDENTITY]
    equal: Counter[str] = Counter()
    for row in sorted(nameless, key=lambda row: (row.name or "", row.user or "")):
        what = f"{NO_IDENTITY}/{row.package}/{row.start_ticks}"
        equal[what] += 1
        rows.append(msgspec.structs.replace(row, instance=f"{what}/{equal[what]}"))
        running[rows[-1].instance] = None
    return running, rows


def interpreter() -> str:
    """The Python to start the helper with. A service of Windows runs inside pythonservice.exe, which is none."""
    here = Path(sys.executable)
    if sys.platform == "win32" and here.stem.lower() != "python":
        for folder in (here.parent, Path(sys.prefix), Path(sys.prefix) / "Scripts", Path(sys.base_prefix)):
            if (folder / "python.exe").is_file():
                return str(folder / "python.exe")
    return sys.executable
