"""Alertmanager's way in: its messages, on a listener of their own, are handed to the stopper and answered at once."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any, Protocol, TypeAlias

from prometheus_client import CollectorRegistry, Counter
from tornado.web import Application

from ssis_exporter.admission import CODES, Admission, CarefulHandler, make_careful_application
from ssis_exporter.alertmessage import AlertMessage, Disposition, NotAMessage, Selected, read_message, select
from ssis_exporter.certificates import ServerTls, TlsSettings, names_in
from ssis_exporter.credentials import Tokens
from ssis_exporter.errors import ConfigError, StorageError, TooManyPending
from ssis_exporter.listening import Limits
from ssis_exporter.model import Decision, ExecutionKey, Nomination
from ssis_exporter.stopconfig import StopConfig, StopTlsConfig

log = logging.getLogger(__name__)

PATH = "/webhook/alertmanager"

DECIDE_SECONDS = 5.0
"""How long writing the ledger may take. Alertmanager's other cluster members wait 15 s before they send it, too."""

MOST_UNDECIDED = 32
"""Messages that may wait for the ledger, those included whose sender was told to send them again."""

LIMITS = Limits(head_seconds=5.0, body_seconds=15.0, max_connections=128)
"""The handler answers 408 after its own limit; the listener's is for peers that do not even read that."""


Became: TypeAlias = Decision | bool | None
"""Of an alert: what was decided, whether a veto met a waiting stop, or nothing."""


class Decider(Protocol):
    """The part of the stopper that the webhook needs."""

    async def submit(self, nominations: Sequence[Nomination]) -> list[Decision]:
        """What becomes of each, in the order given, once it is on disk. Raises `StorageError`, `TooManyPending`."""

    async def veto(self, key: ExecutionKey, reason: str, *, ended_at: datetime | None = None) -> bool:
        """Gives up a stop that was not requested yet; whether there was one. Raises `StorageError`."""


class WebhookMetrics:
    """What came in; every counter starts at 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "ssis_webhook_requests_total",
            "Requests to the webhook's listener, by the HTTP status code of the answer; 401 and 403 were not let in.",
            ["code"],
            registry=registry,
        )
        self.alerts = Counter(
            "ssis_webhook_alerts_total",
            "Alerts in accepted messages: nominated for a stop, veto (resolved), not_for_us (without "
            'ssis_action="stop"), incomplete (names no run).',
            ["disposition"],
            registry=registry,
        )
        self.truncated = Counter(
            "ssis_webhook_truncated_alerts_total",
            "Alerts that Alertmanager left out of its messages because of max_alerts; they never arrive.",
            registry=registry,
        )
        for code in CODES:
            self.requests.labels(str(int(code)))
        for disposition in Disposition:
            self.alerts.labels(disposition)

    def answered(self, code: int) -> None:
        """Counts one answer."""
        self.requests.labels(str(code)).inc()


def make_admission(config: StopConfig, metrics: WebhookMetrics) -> Admission:
    """
    What the webhook's listener demands. Raises `ConfigError` for token files that cannot be used.

    Also refuses, once more, an address that others can reach without TLS and a credential.
    """
    if not config.address.is_loopback and (config.tls is None or not config.has_credential):
        raise ConfigError(
            f"stop.listen_address {config.listen_address} can be reached from other machines; "
            "that demands stop.tls and a credential (stop.token_files or stop.tls.client_ca_file)"
        )
    if not config.has_credential:
        log.warning("the webhook has no credential: every account of this machine may nominate runs; add token_files")
    demands_certificate = config.tls is not None and config.tls.client_ca_file is not None
    return Admission(
        tokens=Tokens(config.token_files) if config.token_files else None,
        client_names=_names(config.tls.client_allowed_sans) if config.tls is not None and demands_certificate else None,
        only_loopback=config.address.is_loopback and config.tls is None,
        count=metrics.answered,
    )


def make_tls(config: StopTlsConfig) -> ServerTls:
    """
    The TLS of the webhook's listener; its files are read again when they change.

    A client certificate that cannot be verified ends the handshake. Who has none, or one without an allowed name, is
    let through to the handler, whose answer is counted.
    """
    return ServerTls(
        TlsSettings(
            cert_file=config.cert_file,
            key_file=config.key_file,
            client_ca_file=config.client_ca_file,
            client_certificate=ssl.CERT_NONE if config.client_ca_file is None else ssl.CERT_OPTIONAL,
        )
    )


def make_webhook_application(
    decider: Decider, admission: Admission, metrics: WebhookMetrics, *, decide_seconds: float = DECIDE_SECONDS
) -> Application:
    """The application of the webhook's own listener: one path, everything else is 404."""
    given = {"decider": decider, "metrics": metrics, "decide_seconds": decide_seconds, "undecided": set()}
    return make_careful_application(admission, [(PATH, AlertmanagerHandler, given)])


class AlertmanagerHandler(CarefulHandler):
    """`POST /webhook/alertmanager`."""

    def initialize(  # type: ignore[override]
        self,
        admission: Admission,
        decider: Decider,
        metrics: WebhookMetrics,
        decide_seconds: float,
        undecided: set[asyncio.Future[list[Became]]],
    ) -> None:
        """Called by Tornado for each request."""
        super().initialize(admission)
        self._undecided = undecided
        self._decide_seconds = decide_seconds
        self._decider = decider
        self._metrics = metrics

    async def post(self) -> None:
        """202 with what became of each alert; 400 for what is no message; 503 when it has to come again."""
        message = await asyncio.to_thread(read_message, bytes(self.body))
        if isinstance(message, NotAMessage):
            log.info("a message from %s was refused: %s", self.request.remote_ip, message.sentence)
            self.refuse(HTTPStatus(message.code), message.sentence)
            return
        if len(self._undecided) >= MOST_UNDECIDED:
            log.error("nothing was decided: %d messages wait for the ledger already", MOST_UNDECIDED)
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the ledger is slow; send it again")
            return
        chosen = select(message)
        deciding = asyncio.ensure_future(_decide(self._decider, chosen))
        self._undecided.add(deciding)
        deciding.add_done_callback(self._decided)
        try:
            async with asyncio.timeout(self._decide_seconds):
                # What was begun goes on: when it comes again, it is found in the ledger.
                became = await asyncio.shield(deciding)
        except StorageError as exc:
            log.error("nothing was decided, Alertmanager will send it again: %s", exc)  # noqa: TRY400 - an operator's case
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the ledger cannot be written; send it again")
            return
        except TooManyPending as exc:
            log.error("nothing of a message was taken, Alertmanager will send it again: %s", exc)  # noqa: TRY400
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{exc}; send it again")
            return
        except TimeoutError:
            log.error("nothing was decided within %g s, Alertmanager will send it again", self._decide_seconds)  # noqa: TRY400
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the ledger is slow; send it again")
            return
        self._count(message, chosen)
        for one, result in zip(chosen, became, strict=True):
            _tell(one, result)
        self.answer(
            HTTPStatus.ACCEPTED,
            {
                "alerts": [_shown(one, result) for one, result in zip(chosen, became, strict=True)],
                "truncated": message.truncated,
            },
        )

    def _decided(self, decided: asyncio.Future[list[Became]]) -> None:
        self._undecided.discard(decided)
        if not decided.cancelled() and decided.exception() is not None:
            # Who still waits for it tells it; nobody does where it came too late.
            log.debug("a message came to: %s", decided.exception())

    def _count(self, message: AlertMessage, chosen: Sequence[Selected]) -> None:
        self._metrics.truncated.inc(message.truncated)
        if message.truncated:
            log.warning("Alertmanager left out %d alerts; set max_alerts: 0 on this receiver", message.truncated)
        for one in chosen:
            self._metrics.alerts.labels(one.disposition).inc()


def _names(allowed: Sequence[str]) -> frozenset[str]:
    """The allowed names, written as those in a certificate are."""
    return frozenset(names_in({"subjectAltName": [("", name) for name in allowed]}))


async def _decide(decider: Decider, chosen: Sequence[Selected]) -> list[Became]:
    """
    What became of each alert; None for one that asks for nothing.

    Vetoes come last: where one message both nominates and vetoes a run, it is left alone. They count also where
    there is no room for the nominations beside them.
    """
    no_room: TooManyPending | None = None
    became: list[Became] = [None] * len(chosen)
    nominated = {
        number: one.nomination
        for number, one in enumerate(chosen)
        if one.disposition is Disposition.NOMINATED and one.nomination is not None
    }
    if nominated:
        try:
            decisions = await decider.submit(list(nominated.values()))
        except TooManyPending as exc:
            no_room, decisions = exc, []
        for number, decision in zip(nominated, decisions, strict=not no_room):
            became[number] = decision
    for number, one in enumerate(chosen):
        if one.disposition is Disposition.VETO and one.nomination is not None:
            reason = f"the alert was resolved ({one.nomination.origin})"
            became[number] = await decider.veto(one.nomination.key, reason, ended_at=one.alert.ends_at)
    if no_room is not None:
        raise no_room
    return became


def _shown(one: Selected, became: Became) -> dict[str, Any]:
    shown: dict[str, Any] = {"fingerprint": one.alert.fingerprint, "disposition": one.disposition}
    if one.nomination is not None:
        shown |= {"source": one.nomination.key.source, "instance_id": one.nomination.key.instance_id}
    if one.reason:
        shown["text"] = one.reason
    match became:
        case Decision():
            shown |= shown_decision(became)
        case bool():
            shown["gave_up_a_stop"] = became
        case None:
            pass
    return shown


def shown_decision(decision: Decision) -> dict[str, Any]:
    """A decision as JSON shows it; `outcome` is null while it is being worked on."""
    return {
        "outcome": decision.outcome,
        "reason": decision.reason,
        "rule": decision.rule,
        "text": decision.text,
        "repeated": decision.repeated,
    }


def _tell(one: Selected, became: Became) -> None:
    if one.nomination is None:
        log.debug("alert %s was ignored: %s", one.alert.fingerprint, one.reason)
        return
    key = one.nomination.key
    match became:
        case Decision():
            result = became.outcome or "accepted"
            log.info("nominated: %s of %s: %s; %s", key.instance_id, key.source, result, became.text)
        case bool():
            result = "its stop is given up" if became else "no stop of it was waiting"
            log.info("resolved: %s of %s; %s", key.instance_id, key.source, result)
        case None:
            pass
