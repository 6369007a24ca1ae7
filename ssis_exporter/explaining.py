"""What would be decided for a nomination now, with the facts used: looks, does nothing, writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from ssis_exporter.acquaintance import never_there, was_there
from ssis_exporter.durations import print_duration
from ssis_exporter.errors import SourceError, StorageError
from ssis_exporter.ledgerrows import Door, Row
from ssis_exporter.looking import look_afresh
from ssis_exporter.model import Execution, Nomination, RefusalReason, StopMode, StopOutcome
from ssis_exporter.policy import Allowed, Refused
from ssis_exporter.sighting import Another, Gone, Seen, Unclear, sight
from ssis_exporter.sources.worker import SourceWorker
from ssis_exporter.stopsettings import Surroundings
from ssis_exporter.stopview import Explanation


async def explain(asked: Nomination | Door, around: Surroundings, places: Sequence[float]) -> Explanation:
    """
    The first decision for this nomination, had it come alone now.

    `places` are those of the breaker that are taken. Without a ledger that can be read, nothing is known of earlier
    nominations. Never raises.
    """
    nomination = asked.nomination if isinstance(asked, Door) else asked
    row = await _row(nomination, around)
    if row is not None and row.final and not row.is_open:
        text = f"it was asked to stop before, and that came to: {row.outcome}; {row.text}"
        return Explanation(key=row.key, outcome=row.outcome, reason=row.reason, rule=row.rule, text=text)
    if isinstance(asked, Door):
        return _refused(nomination, asked.reason, "", asked.text)
    worker = around.worker(nomination.key.source)
    if worker is None:
        return _refused(nomination, RefusalReason.UNKNOWN_SOURCE, "", "no such source is configured here")
    seen = await look_afresh(worker, around.settings().look_timeout, around.wait)
    before, seen_under = (row.facts, row.seen_under) if row is not None else (None, None)
    named_at = row.requested_at or row.nominated_at if row is not None and row.is_open else None
    match sight(nomination.key, seen, before=before, seen_under=seen_under, named_at=named_at):
        case Gone() as gone:
            return await _not_there(nomination, gone, row, worker, around)
        case Unclear(text):
            return _nobody_can_say(nomination, text, around)
        case Another(reason, text):
            return _refused(nomination, reason, "", text)
        case Seen(run, visibility):
            facts = _facts(run, around.typical(run.facts)) | {"visibility": str(visibility.scope)}
            return _judged(nomination, run, around, places=places, row=row, facts=facts)


async def _not_there(
    nomination: Nomination, gone: Gone, row: Row | None, worker: SourceWorker, around: Surroundings
) -> Explanation:
    match await was_there(nomination.key, gone, row, worker, around):
        case True:
            return Explanation(key=nomination.key, outcome=StopOutcome.ALREADY_ENDED, text=gone.text)
        case False:
            return _refused(nomination, RefusalReason.NO_SUCH_RUN, "", never_there(gone))
        case SourceError() as exc:
            return _nobody_can_say(nomination, str(exc), around)


def _nobody_can_say(nomination: Nomination, why: str, around: Surroundings) -> Explanation:
    ttl = print_duration(around.settings().request_ttl)
    text = f"it would be looked at again, for up to {ttl}: {why}"
    return Explanation(key=nomination.key, outcome=None, text=text)


def _judged(
    nomination: Nomination,
    run: Execution,
    around: Surroundings,
    *,
    places: Sequence[float],
    row: Row | None,
    facts: dict[str, str],
) -> Explanation:
    settings = around.settings()
    match around.judge([nomination], run):
        case Refused(rule, reason, text):
            return _refused(nomination, reason, rule, text, facts)
        case Allowed() as allowed:
            pass
    ages = around.ledger.ages(places)
    facts["breaker"] = (
        f"{settings.breaker.taken(ages)} of {settings.breaker.stops} within {print_duration(settings.breaker.window)}"
    )
    is_dry = settings.mode is not StopMode.ARMED
    has_place = row is not None and (row.is_open or row.placed_at is not None)
    if not settings.breaker.has_room(ages) and not has_place:
        text = f"as many runs were stopped as may be: {facts['breaker']}"
        return _refused(nomination, RefusalReason.BREAKER_OPEN, allowed.rule, text, facts)
    text = f"{allowed.rule} allows it"
    if allowed.grace > timedelta():
        text += f", after a grace of {print_duration(allowed.grace)} without a veto"
    text += "; nothing would be stopped, because this is a dry run" if is_dry else "; it would be asked to stop"
    return Explanation(
        key=nomination.key,
        outcome=StopOutcome.WOULD_STOP if is_dry else None,
        would_be_asked_to_stop=not is_dry,
        rule=allowed.rule,
        text=text,
        facts=facts,
    )


async def _row(nomination: Nomination, around: Surroundings) -> Row | None:
    # A ledger that is not open would be made.
    if not around.ledger.is_open:
        return None
    try:
        return await around.ledger.find(nomination.key)
    except StorageError:
        return None


def _refused(
    nomination: Nomination,
    reason: RefusalReason,
    rule: str,
    text: str,
    facts: dict[str, str] | None = None,
) -> Explanation:
    return Explanation(
        key=nomination.key,
        outcome=StopOutcome.REFUSED,
        reason=reason,
        rule=rule,
        text=text,
        facts=facts or {},
    )


def _facts(run: Execution, typical: timedelta | None) -> dict[str, str]:
    facts = run.facts
    found = {
        "package_name": facts.package_name,
        "folder": facts.folder,
        "project": facts.project,
        "user_name": facts.user_name,
        "status": str(run.status),
        "started_at": facts.started_at.isoformat() if facts.started_at is not None else "",
        "duration": print_duration(run.duration),
        "typical_duration": print_duration(typical) if typical is not None else "unknown: no run to learn from",
    }
    if typical is not None and typical > timedelta():
        found["overrun"] = f"{run.duration / typical:.1f} times its typical duration"
    return {name: value or "unknown" for name, value in found.items()}
