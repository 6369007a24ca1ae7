"""The source `dts`: what `Application.GetRunningPackages` shows, and `RunningPackage.Stop`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal, Self

import msgspec

from ssis_exporter.errors import ConfigError, NoSuchExecution, SourceError, StopDenied
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
from ssis_exporter.sources.dts.hresults import ACCESS_DENIED, error_for
from ssis_exporter.sources.dts.localtime import utc_start
from ssis_exporter.sources.dts.managed import MICROSOFT_TOKEN
from ssis_exporter.sources.dts.protocol import Answer, ListAnswer, Row
from ssis_exporter.sources.dts.services import KNOWN_RELEASES, checked_server, running_releases
from ssis_exporter.sources.dts.supervisor import Patience, Supervisor
from ssis_exporter.sources.interface import SourceSettings, StoppableSource

DEFAULT_RUNTIME: Literal["netfx", "mono"] = "netfx" if sys.platform == "win32" else "mono"


class DtsSettings(SourceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of a source of kind `dts`."""

    server: str = "."
    """This machine, as the API takes it: `.`, `localhost`, its name."""

    release: int | None = None
    """160 is SQL Server 2022; by default that of the highest service `MsDtsServer<n>` that runs."""

    runtime: Literal["netfx", "mono"] = DEFAULT_RUNTIME
    public_key_token: str = MICROSOFT_TOKEN
    helper: tuple[str, ...] = ()
    """Another helper's command, for one that speaks the protocol but is not this Python."""


class DtsSource(StoppableSource):
    """Running packages of this machine through the SSIS service, read by a helper process."""

    kind: ClassVar[str] = "dts"
    Settings: ClassVar[type[SourceSettings]] = DtsSettings

    def __init__(
        self,
        name: str,
        settings: DtsSettings,
        *,
        patience: Patience | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name)
        self._settings = settings
        self._patience = patience
        self._environment = environment
        self._server = checked_server(name, settings.server)
        self._supervisor: Supervisor | None = None
        self._info = SourceInfo(kind=self.kind)
        self._facts: dict[str, ExecutionFacts] = {}
        self._stopping: dict[str, datetime] = {}
        self._last_look: datetime | None = None
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

    def snapshot(self) -> Snapshot:
        """Lists the running packages. Raises `SourceError` whenever the API did not answer in full."""
        line = self._ask("list")
        supervisor = self._supervised()
        try:
            answer = self._list_decoder.decode(line)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            raise supervisor.broke_the_protocol(str(exc)) from exc
        if answer.error is not None:
            raise error_for(self.name, answer.error)
        if answer.ok is None:
            raise supervisor.broke_the_protocol("neither ok nor error")
        now = datetime.now(UTC)
        self._learn(answer.ok.rows, now)
        executions = []
        facts = self._facts
        for instance in answer.ok.running:
            known = facts.get(instance)
            if known is None:
                raise supervisor.broke_the_protocol(f"no properties of {instance}")
            executions.append(self._execution(known, now))
        if len(facts) > len(executions):
            running = set(answer.ok.running)
            self._facts = {instance: known for instance, known in facts.items() if instance in running}
            self._stopping = {instance: since for instance, since in self._stopping.items() if instance in running}
        self._last_look = now
        return Snapshot(
            source=self.name,
            taken_at=now,
            visibility=self._visibility(),
            executions=tuple(executions),
        )

    def request_stop(self, execution: Execution) -> StopReply:
        """`RunningPackage.Stop` of the package that runs under this InstanceID now; a request, no more."""
        instance = execution.key.instance_id
        known = self._facts.get(instance)
        if execution.key.source != self.name or (known is not None and known != execution.facts):
            raise NoSuchExecution(f"{self.name}: {instance} is not the run that was meant")
        if instance in self._stopping:
            return StopReply.ALREADY_STOPPING
        answer = self._answer(self._ask("stop", instance))
        if answer.error is not None:
            error = error_for(self.name, answer.error)
            if answer.error.hresult == ACCESS_DENIED:
                raise StopDenied(str(error)) from error
            raise error
        if not (answer.ok or {}).get("found"):
            raise NoSuchExecution(f"{self.name}: no package runs under {instance}")
        self._stopping[instance] = datetime.now(UTC)
        return StopReply.ACCEPTED

    def probe(self) -> dict[str, Any]:
        """What the API really answers here: raw values, types, assembly name."""
        answer = self._answer(self._ask("probe"))
        if answer.error is not None:
            raise error_for(self.name, answer.error)
        probed = (answer.ok or {}).get("probe")
        return dict(probed) if isinstance(probed, dict) else {}

    def check(self) -> Sequence[Finding]:
        """Whether the API answers, what the account sees, and what to change."""
        try:
            seen = self.snapshot()
        except SourceError as exc:
            return [Finding(level=FindingLevel.PROBLEM, text=str(exc))]
        text = f"{self._info.version}: {len(seen.executions)} running packages"
        findings = [Finding(level=FindingLevel.OK, text=text)]
        if seen.visibility.scope is not Scope.ALL:
            findings.append(
                Finding(
                    level=FindingLevel.WARNING,
                    text="this account sees only the packages that it started itself",
                    remedy="run the exporter as an administrator of this machine, elevated",
                )
            )
        return findings

    def close(self) -> None:
        """Ends the helper."""
        if self._supervisor is not None:
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
                start = utc_start(row.start_ticks, seen_at=now, not_there_at=self._last_look)
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

    def _visibility(self) -> Visibility:
        """An elevated administrator sees every package, anyone else those they started (documented)."""
        hello = self._supervised().hello
        if hello is None or hello.elevated is None:
            return Visibility(Scope.UNKNOWN)
        if hello.elevated:
            return Visibility(Scope.ALL, "elevated administrator")
        return Visibility(Scope.OWN, "not an elevated administrator")

    def _ask(self, do: Literal["list", "stop", "probe"], instance: str | None = None) -> bytes:
        supervisor = self._supervised()
        before = supervisor.hello
        line = supervisor.ask(do, limit=self._settings.time_limit, server=self._server, instance=instance)
        hello = supervisor.hello
        if hello is not None and hello is not before:
            version = hello.assembly.partition("Version=")[2].partition(",")[0]
            self._info = SourceInfo(kind=self.kind, server=hello.machine, version=version)
        return line

    def _answer(self, line: bytes) -> Answer:
        try:
            return self._answer_decoder.decode(line)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            raise self._supervised().broke_the_protocol(str(exc)) from exc

    def _supervised(self) -> Supervisor:
        if self._supervisor is None:
            self._supervisor = Supervisor(
                self.name, self._command(), environment=self._environment, patience=self._patience
            )
        return self._supervisor

    def _command(self) -> list[str]:
        if self._settings.helper:
            command = list(self._settings.helper)
        else:
            command = [sys.executable, "-m", "ssis_exporter.sources.dts.helper", "--runtime", self._settings.runtime]
        if self._settings.release is not None:
            releases: Sequence[int] = [self._settings.release]
        else:
            releases = running_releases() or KNOWN_RELEASES
        for release in releases:
            command += ["--release", str(release)]
        return [*command, "--public-key-token", self._settings.public_key_token]
