"""
Alertmanager's webhook message: from bytes to a checked value, and which runs it nominates. No input or output.

What is checked is what is used; fields that Alertmanager adds later are fine. The format:
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec

from ssis_exporter.model import ExecutionKey, Nomination
from ssis_exporter.readiness import make_ready

VERSION = "4"
"""The only version of the message there is; a custom body without it is refused, not guessed at."""

MAX_ALERTS = 1000
MAX_LABELS = 128
"""Labels of one alert; Prometheus targets seldom have thirty."""

MAX_LABEL_NAME = 256
MAX_LABEL_VALUE = 4096
MAX_KEY = 256
"""Length of `source` and `instance_id`: label values of ours are never longer."""

ACTION_LABEL = "ssis_action"
ACTION_STOP = "stop"

LabelName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_NAME)]
LabelValue = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_VALUE)]
Labels = Annotated[dict[LabelName, LabelValue], msgspec.Meta(max_length=MAX_LABELS)]
Time = Annotated[str, msgspec.Meta(max_length=64)]
ShortText = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_VALUE)]


class RawAlert(msgspec.Struct, frozen=True, rename="camel"):
    """One alert as it stands in the body. Annotations and links are not even read."""

    status: Literal["firing", "resolved"]
    labels: Labels
    starts_at: Time
    ends_at: Time = ""
    fingerprint: ShortText = ""


class RawMessage(msgspec.Struct, frozen=True, rename="camel"):
    """The message as it stands in the body. Its `status` is the group's, so nothing may rest on it."""

    version: Literal["4"]
    alerts: Annotated[list[RawAlert], msgspec.Meta(max_length=MAX_ALERTS)]
    receiver: ShortText = ""
    group_key: str = ""
    truncated_alerts: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 0


make_ready(RawMessage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert of a message."""

    firing: bool
    """Otherwise it is resolved."""

    labels: Mapping[str, str]
    starts_at: datetime
    """Aware, in UTC; a fraction finer than a microsecond is cut off."""

    ends_at: datetime | None = None
    """When it was resolved; aware, in UTC. None while it is firing, and where nothing tells."""

    fingerprint: str = ""
    """A hash of the labels; names an alert in a log and proves nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """What Alertmanager said."""

    alerts: tuple[Alert, ...]
    receiver: str = ""
    truncated: int = 0
    """How many alerts `max_alerts` cut off; they are never delivered."""


@dataclass(frozen=True, slots=True)
class NotAMessage:
    """Why a body is no message of Alertmanager's. The sentence ends up in Alertmanager's log."""

    sentence: str
    code: int = 400


def read_message(body: bytes) -> AlertMessage | NotAMessage:
    """Checks a body. What is wrong with it is said in one sentence, without repeating what it holds."""
    try:
        plain = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError:
        return NotAMessage("the body is not UTF-8")
    except _Duplicate as exc:
        return NotAMessage(str(exc))
    except RecursionError:
        return NotAMessage("the body is nested too deeply")
    except ValueError:
        # JSONDecodeError, and what Python says of numbers with thousands of digits.
        return NotAMessage("the body is not JSON")
    if not isinstance(plain, dict):
        return NotAMessage("the body is not a JSON object")
    if plain.get("version") != VERSION:
        return NotAMessage('the body is not an Alertmanager webhook message of version "4"')
    try:
        raw = msgspec.convert(plain, RawMessage)
        return AlertMessage(
            alerts=tuple(_alert(alert, number) for number, alert in enumerate(raw.alerts)),
            receiver=_text(raw.receiver, "receiver"),
            truncated=raw.truncated_alerts,
        )
    except msgspec.ValidationError as exc:
        return NotAMessage(_one_line(str(exc)))
    except UnicodeEncodeError:
        return NotAMessage("a key of the body holds half of a surrogate pair")


class Disposition(StrEnum):
    """What one alert is to us, before anything is decided."""

    NOMINATED = "nominated"
    """Firing and complete: its run is looked at again."""

    VETO = "veto"
    """Resolved: a stop of its run that has not been requested yet is given up."""

    NOT_FOR_US = "not_for_us"
    """Without `ssis_action="stop"`: ignored."""

    INCOMPLETE = "incomplete"
    """With `ssis_action="stop"`, but without a `source` and an `instance_id` that could name a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """One alert of a message and what it is to us."""

    alert: Alert
    disposition: Disposition
    nomination: Nomination | None = None
    """The run it names: to be stopped when nominated, to be left alone when vetoed."""

    reason: str = ""
    """Why it names no run."""


def select(message: AlertMessage) -> tuple[Selected, ...]:
    """What each alert is to us, in the order of the message."""
    return tuple(_select(alert, message.receiver) for alert in message.alerts)


def _select(alert: Alert, receiver: str) -> Selected:
    labels = alert.labels
    if labels.get(ACTION_LABEL) != ACTION_STOP:
        reason = f'it does not carry {ACTION_LABEL}="{ACTION_STOP}"'
        return Selected(alert=alert, disposition=Disposition.NOT_FOR_US, reason=reason)
    for name in ("source", "instance_id"):
        if not _names_something(labels.get(name, "")):
            reason = f"its label {name} is missing or no name"
            return Selected(alert=alert, disposition=Disposition.INCOMPLETE, reason=reason)
    nomination = Nomination(
        key=ExecutionKey(labels["source"], labels["instance_id"]),
        package_name=labels.get("package_name"),
        folder=labels.get("folder"),
        project=labels.get("project"),
        asked_since=alert.starts_at,
        origin=f"alertmanager {receiver} {alert.fingerprint}".strip(),
        labels=dict(labels),
    )
    disposition = Disposition.NOMINATED if alert.firing else Disposition.VETO
    return Selected(alert=alert, disposition=disposition, nomination=nomination)


def _names_something(value: str) -> bool:
    # Exactly what our own label could hold: a value with a control character or an outer space was not read from it.
    return 0 < len(value) <= MAX_KEY and value.isprintable() and value == value.strip()


class _Duplicate(ValueError):
    """A key that stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers of the same body could take different ones of two equal keys.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Duplicate("a key stands twice in one object of the body")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _alert(raw: RawAlert, number: int) -> Alert:
    for name, value in raw.labels.items():
        _text(name, f"alerts[{number}].labels")
        _text(value, f"alerts[{number}].labels")
    firing = raw.status == "firing"
    starts_at = _time(raw.starts_at, f"alerts[{number}].startsAt")
    ends_at = _time(raw.ends_at, f"alerts[{number}].endsAt") if raw.ends_at else None
    # A firing alert has Go's zero time here, or the moment at which it would be taken for resolved; an end before the
    # beginning tells nothing.
    ended = not firing and ends_at is not None and ends_at >= starts_at
    return Alert(
        firing=firing,
        labels=raw.labels,
        starts_at=starts_at,
        ends_at=ends_at if ended else None,
        fingerprint=_text(raw.fingerprint, f"alerts[{number}].fingerprint"),
    )


def _text(value: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise msgspec.ValidationError(f"half of a surrogate pair - at `$.{where}`") from exc
    return value


EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
RFC_3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)


def _time(text: str, where: str) -> datetime:
    found = RFC_3339.fullmatch(text)
    if found is None:
        raise msgspec.ValidationError(f"not an RFC 3339 time - at `$.{where}`")
    day, clock, fraction, offset = found.groups()
    microseconds = (fraction or "").ljust(6, "0")[:6]
    offset = "+00:00" if offset in "Zz" else offset
    try:
        local = datetime.fromisoformat(f"{day}T{clock}.{microseconds}{offset}")
    except ValueError as exc:
        raise msgspec.ValidationError(f"not an RFC 3339 time - at `$.{where}`") from exc
    try:
        return local.astimezone(UTC)
    except OverflowError:
        # Go's zero time seen from a zone east of Greenwich, and its mirror image.
        return EARLIEST if local.year == 1 else LATEST


def _one_line(sentence: str) -> str:
    return "".join(character if character.isprintable() else " " for character in sentence)[:300]
