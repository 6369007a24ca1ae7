"""What a page or a command shows of stopping: what is pending, what became of others, what would be decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ssis_exporter.model import ExecutionKey, RefusalReason, StopOutcome


class Stage(StrEnum):
    """How far a nomination has come. Each step is on disk before the next is taken."""

    NOMINATED = "nominated"
    """To be looked at."""

    ALLOWED = "allowed"
    """A rule allows it and it has a place in the breaker; waiting for a veto."""

    REQUESTED = "requested"
    """The source is being asked; whether the request went out is not known yet."""

    ASKED = "asked"
    """The source was asked; it is looked at until it is gone."""

    MAYBE_ASKED = "maybe_asked"
    """Nobody knows whether the request arrived. It is looked at likewise, and neither asked again nor escalated."""

    ESCALATED = "escalated"
    """Its host process is being ended, or has been."""

    CLOSED = "closed"
    """It has come to an outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingStop:
    """A nomination that is being worked on."""

    key: ExecutionKey
    stage: Stage
    nominated_at: datetime
    package_name: str = ""
    """Empty until its first look."""

    rule: str = ""
    text: str = ""
    """What it waits for, for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastStop:
    """What became of a nomination."""

    at: datetime
    key: ExecutionKey
    outcome: StopOutcome
    package_name: str = ""
    reason: RefusalReason | None = None
    rule: str = ""
    text: str = ""
    origin: str = ""
    """Who asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What would be decided for one nomination now, had it come as a message; nothing was done or written."""

    key: ExecutionKey
    outcome: StopOutcome | None
    """`refused`, `would_stop` (dry run), `already_ended`, or what it has come to; None where it would be stopped, or
    nobody can say because the source could not be looked at (see `text`)."""

    would_be_asked_to_stop: bool = False
    reason: RefusalReason | None = None
    rule: str = ""
    text: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the decision rests on, by name, ready to print."""
