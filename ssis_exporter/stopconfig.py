"""The section `stop` of the configuration: off unless it is there, a dry run unless armed."""

from __future__ import annotations

import re
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from ssis_exporter.addresses import WEBHOOK_PORT, Address, parse_address
from ssis_exporter.durations import print_duration
from ssis_exporter.policy import Action, Hours, Match, Rule


class MatchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs a rule is about; every key that is given must match. `*` and `?` stand for any text, any character."""

    source: str | None = None
    folder: str | None = None
    project: str | None = None
    package_name: str | None = None
    user_name: str | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, key) is None for key in self.__struct_fields__):
            raise ValueError(
                f'must name at least one of {", ".join(self.__struct_fields__)}; for every run: package_name: "*"'
            )


class RuleConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One entry under `stop.rules`."""

    match: MatchConfig
    action: Literal["never", "stop"]
    min_duration: timedelta | None = None
    """A run younger than this is not stopped."""

    min_overrun: Annotated[float, msgspec.Meta(ge=1)] | None = None
    """Times its own typical duration; without a history nothing is stopped."""

    hours: str | None = None
    """`20:00-06:00`, the exporter's local time; outside nothing is stopped."""

    grace: timedelta | None = None
    """Wait this long for a veto before stopping."""

    escalate_after: timedelta | None = None
    """End the host process of a run that did not end within this time."""

    @property
    def rule(self) -> Rule:
        """As the policy takes it."""
        return Rule(
            match=Match(**msgspec.structs.asdict(self.match)),
            action=Action(self.action),
            min_duration=self.min_duration or timedelta(),
            min_overrun=self.min_overrun,
            hours=parse_hours(self.hours) if self.hours is not None else None,
            grace=self.grace or timedelta(),
            escalate_after=self.escalate_after,
        )

    def __post_init__(self) -> None:
        if self.action == "never":
            given = [
                key
                for key in self.__struct_fields__
                if key not in ("match", "action") and getattr(self, key) is not None
            ]
            if given:
                raise ValueError(f'a rule with action "never" takes no other keys; remove {", ".join(given)}')
        for key in ("min_duration", "escalate_after"):
            span = getattr(self, key)
            if span is not None and span <= timedelta():
                raise ValueError(f'"{key}" must be longer than 0s')
        if self.hours is not None:
            parse_hours(self.hours)


class BreakerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """At most so many stops within so long, over all sources."""

    stops: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    window: timedelta = timedelta(minutes=10)

    def __post_init__(self) -> None:
        if self.window < timedelta(seconds=1):
            raise ValueError('"window" must be at least 1s')


class StopTlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """TLS of the webhook's listener."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    """When given, a client certificate of this CA is demanded."""

    client_allowed_sans: tuple[str, ...] = ()
    """When given, the client's certificate must carry one of these names."""

    def __post_init__(self) -> None:
        if self.client_allowed_sans and self.client_ca_file is None:
            raise ValueError('"client_allowed_sans" needs "client_ca_file"')


class StopConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The section `stop`."""

    mode: Literal["dry-run", "armed"] = "dry-run"
    listen_address: str = f"127.0.0.1:{WEBHOOK_PORT}"
    tls: StopTlsConfig | None = None
    token_files: tuple[Path, ...] = ()
    """Each holds one bearer token; several for rotation."""

    alertmanager_url: str | None = None
    """Where silences are asked for during grace."""

    max_runs_per_message: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    request_ttl: timedelta = timedelta(minutes=15)
    confirm_timeout: timedelta = timedelta(minutes=5)
    """How long after a request it is looked whether the run is gone."""

    breaker: BreakerConfig = BreakerConfig()
    entries: tuple[RuleConfig, ...] = msgspec.field(default=(), name="rules")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What may be stopped, as the policy takes it."""
        return tuple(entry.rule for entry in self.entries)

    @property
    def address(self) -> Address:
        """Where the webhook listens."""
        return parse_address(self.listen_address)

    @property
    def has_credential(self) -> bool:
        """Whether who sends must prove who they are."""
        return bool(self.token_files) or (self.tls is not None and self.tls.client_ca_file is not None)

    def __post_init__(self) -> None:
        try:
            address = self.address
        except ValueError as exc:
            raise ValueError(f'"listen_address": {exc}') from exc
        if not address.is_loopback:
            missing = [
                word
                for word, there in (("tls", self.tls), ("token_files or tls.client_ca_file", self.has_credential))
                if not there
            ]
            if missing:
                raise ValueError(
                    f'"listen_address" {self.listen_address} can be reached from other machines, which demands '
                    f"{' and '.join(missing)}; or listen on 127.0.0.1:{address.port}"
                )
        if self.alertmanager_url is not None:
            _check_url(self.alertmanager_url)
        if self.request_ttl < timedelta(seconds=1):
            raise ValueError('"request_ttl" must be at least 1s')
        if self.confirm_timeout < timedelta(seconds=1):
            raise ValueError('"confirm_timeout" must be at least 1s')
        longest = max((rule.grace for rule in self.rules), default=timedelta())
        if longest >= self.request_ttl:
            raise ValueError(
                f'"request_ttl" of {print_duration(self.request_ttl)} must be longer than the grace of every rule, '
                f"and one has {print_duration(longest)}: its nominations would all expire"
            )
        if self.mode == "armed" and not any(entry.action == "stop" for entry in self.entries):
            raise ValueError(
                '"mode" is armed and no rule has action "stop", so nothing could ever be stopped; add one under "rules"'
            )


def _check_url(url: str) -> None:
    wrong = '"alertmanager_url" must be like http://127.0.0.1:9093'
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(wrong) from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(wrong)
    if parts.username is not None or parts.password is not None:
        raise ValueError('"alertmanager_url" must not hold a user or password')
    if parts.query or parts.fragment:
        raise ValueError('"alertmanager_url" must not hold "?" or "#"')


_HOURS = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})", re.ASCII)


def parse_hours(text: str) -> Hours:
    """Reads `20:00-06:00`; the end is not included, and an end before the start is on the next day."""
    wrong = f'"hours" must be like "20:00-06:00", not {text[:40]!r}'
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(wrong)
    from_hour, from_minute, to_hour, to_minute = (int(number) for number in found.groups())
    try:
        start, end = time(from_hour, from_minute), time(to_hour % 24, to_minute)
    except ValueError as exc:
        raise ValueError(wrong) from exc
    if to_hour > 24 or (to_hour == 24 and to_minute):
        raise ValueError(wrong)
    if start == end:
        raise ValueError(f'"hours" {text} is empty; leave the key out for the whole day')
    return Hours(start, end)
