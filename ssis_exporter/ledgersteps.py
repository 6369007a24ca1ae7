"""What one transaction does to the ledger: a row moves, and the event that says so is written beside it."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Mapping
from datetime import datetime

from ssis_exporter.errors import TooManyPending
from ssis_exporter.ledgerrows import Door, Event, EventKind, Row, add_event, find, insert, to_text, update
from ssis_exporter.model import Nomination, RefusalReason, StopOutcome
from ssis_exporter.stopview import Stage

MOST_BELIEFS = 16
"""Nominations of one run, while it is worked on, that may believe different things of it; all of them are judged."""


class RowMoved(Exception):
    """The row is not where the caller believed: a veto or a later nomination came first. Nothing was written."""


def nominate_run(
    connection: sqlite3.Connection, asked: Nomination | Door, at: datetime, passed: float
) -> tuple[Row | None, bool]:
    """
    Takes one nomination, or notes that it was refused at the door; `passed` is the ledger's own clock.

    Returns its row, none for a refused one, and whether that was there before and is open or final. Raises
    `TooManyPending`.
    """
    nomination = asked.nomination if isinstance(asked, Door) else asked
    row = find(connection, nomination.key)
    is_known = row is not None and (row.is_open or row.final)
    if isinstance(asked, Door) and not (asked.unless_known and is_known):
        add_event(connection, _refused(asked, at))
        return None, False
    if row is None:
        insert(connection, nomination.key, at, passed)
        add_event(connection, _nominated(nomination, at, episode=1))
        return find(connection, nomination.key), False
    if not is_known:
        changes = {"stage": Stage.NOMINATED, "episode": row.episode + 1, "nominated_at": to_text(at)}
        changes |= {"nominated_after": passed, "outcome": None, "reason": None, "rule": "", "text": ""}
        if not update(connection, row, changes):
            raise RowMoved
        add_event(connection, _nominated(nomination, at, episode=row.episode + 1))
        return find(connection, nomination.key), False
    event = _nominated(nomination, at, episode=row.episode)
    if isinstance(asked, Door) or not row.is_open or row.has_heard(nomination):
        event = dataclasses.replace(event, kind=EventKind.REPEATED, details=_without_labels(nomination))
    elif len(row.nominations) >= MOST_BELIEFS:
        raise TooManyPending(
            f"{nomination.key.instance_id} of {nomination.key.source} is being worked on for {MOST_BELIEFS} alerts "
            "that say different things of it, and no more than that may be"
        )
    add_event(connection, event)
    return find(connection, nomination.key), True


def _refused(asked: Door, at: datetime) -> Event:
    return Event(
        at=at,
        key=asked.nomination.key,
        kind=EventKind.OUTCOME,
        outcome=StopOutcome.REFUSED,
        reason=asked.reason,
        text=asked.text,
        details=_without_labels(asked.nomination),
    )


def _without_labels(nomination: Nomination) -> dict[str, object]:
    # Whoever may send messages must not be able to fill the disk with what is never acted on.
    return {"nomination": dataclasses.replace(nomination, labels={}), "origin": nomination.origin}


def _nominated(nomination: Nomination, at: datetime, *, episode: int) -> Event:
    return Event(
        at=at,
        key=nomination.key,
        episode=episode,
        kind=EventKind.NOMINATED,
        details={"nomination": nomination, "origin": nomination.origin},
    )


def step_row(
    connection: sqlite3.Connection,
    row: Row,
    at: datetime,
    kind: EventKind,
    changes: Mapping[str, object],
    *,
    rule: str = "",
    text: str = "",
    details: Mapping[str, object] | None = None,
) -> Row:
    """Moves a row on; returns it as it is then. Raises `RowMoved`."""
    if not update(connection, row, changes):
        raise RowMoved
    add_event(
        connection,
        Event(at=at, key=row.key, episode=row.episode, kind=kind, rule=rule, text=text, details=details or {}),
    )
    moved = find(connection, row.key)
    assert moved is not None
    return moved


def settle_row(
    connection: sqlite3.Connection,
    row: Row,
    outcome: StopOutcome,
    *,
    at: datetime,
    passed: float,
    reason: RefusalReason | None = None,
    rule: str = "",
    text: str = "",
    final: bool = False,
) -> Row:
    """Closes a row with its outcome; returns it as it is then. Raises `RowMoved`."""
    changes: dict[str, object] = {
        "stage": Stage.CLOSED,
        "outcome": outcome,
        "reason": reason,
        "rule": rule,
        "text": text,
        "final": int(final),
    }
    if outcome is StopOutcome.WOULD_STOP and row.placed_at is None:
        changes |= {"placed_at": to_text(at), "placed_after": passed}
    if not update(connection, row, changes):
        raise RowMoved
    details = {
        "package_name": row.facts.package_name if row.facts is not None else "",
        "origin": row.nominations[0].origin if row.nominations else "",
    }
    add_event(
        connection,
        Event(
            at=at,
            key=row.key,
            episode=row.episode,
            kind=EventKind.OUTCOME,
            outcome=outcome,
            reason=reason,
            rule=rule,
            text=text,
            details=details,
        ),
    )
    settled = find(connection, row.key)
    assert settled is not None
    return settled
