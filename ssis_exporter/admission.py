"""Request handlers that decide all they can from a request's head: nothing of a body is read before."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from asyncio import Future
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from tornado.web import Application, RequestHandler, stream_request_body

from ssis_exporter.credentials import Failures, Tokens, name_is_allowed
from ssis_exporter.handlers import MAX_BODY_BYTES, SECURITY_HEADERS, TOO_LARGE, body_is_too_large, log_request

log = logging.getLogger(__name__)

MAX_BODIES_BYTES = 16 * MAX_BODY_BYTES
"""Of all bodies that are being received or worked on."""

BODY_SECONDS = 10.0
"""For a whole body; a byte that drips in does not renew it."""

SLOW_ANSWER_SECONDS = 1.0
"""How long the answer to a failed attempt waits once there were too many."""

CODES = (
    HTTPStatus.ACCEPTED,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.LENGTH_REQUIRED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""Every code that the webhook answers."""


@dataclass(kw_only=True)
class Admission:
    """What is demanded of whoever sends something to a listener."""

    tokens: Tokens | None = None
    """One of these must be sent; None: no token is demanded."""

    client_names: Collection[str] | None = None
    """The client certificate must carry one of these names, any certificate when empty; None: none is demanded."""

    only_loopback: bool = True
    """The listener is on loopback without TLS: a name other than loopback's means a browser was tricked."""

    body_seconds: float = BODY_SECONDS
    count: Callable[[int], None] = lambda _: None
    """Told the code of every answer."""

    failures: Failures = field(default_factory=Failures)
    bodies: int = 0
    """Bytes of all bodies under way."""


@stream_request_body
class CarefulHandler(RequestHandler):
    """
    Demands POST, a credential and a JSON body of known and modest length, and answers at once what lacks one of them.

    A handler derives from it and implements `post`, with the body in `body`.
    """

    def initialize(self, admission: Admission) -> None:
        """Called by Tornado for each request."""
        self.admission = admission
        self.body = bytearray()
        self._booked = 0
        self._deadline: asyncio.TimerHandle | None = None

    def set_default_headers(self) -> None:
        """No server name, nothing kept, nothing guessed."""
        self.clear_header("Server")
        self.clear_header("Content-Type")
        for name, value in SECURITY_HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> str | None:
        """None: no answer is asked for twice."""
        return None

    async def prepare(self) -> None:
        """Everything that the head tells, in the order in which it matters. Only then is the body read."""
        if self.request.method != "POST":
            self.set_header("Allow", "POST")
            self.refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only POST is answered here")
        elif self._is_from_a_browser():
            log.warning("a request for host %r from %s was refused", self.request.host[:80], self.request.remote_ip)
            self.refuse(HTTPStatus.FORBIDDEN)
        elif not await self._is_let_in():
            return
        else:
            self._expect_body()

    def data_received(self, chunk: bytes) -> None:
        """A piece of the body; never more than `Content-Length` announced."""
        self.body += chunk

    def refuse(self, code: HTTPStatus, sentence: str = "") -> None:
        """Ends the request with a code and a sentence, and the connection where its body was not read."""
        self.set_status(code)
        if sentence:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(f"{sentence}\n")
        else:
            self.finish()

    def answer(self, code: HTTPStatus, value: Any) -> None:
        """Ends the request with a value as JSON."""
        self.set_status(code)
        self.set_header("Content-Type", "application/json")
        # Escaped to ASCII, because a name may hold what is no valid UTF-8.
        self.finish(json.dumps(msgspec.to_builtins(value)) + "\n")

    def write_error(self, status_code: int, **_: Any) -> None:
        """What nobody foresaw is answered without a word; the log has it."""
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", "POST")
        self.finish()

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        """Counts the answer before the peer can have it."""
        self.admission.count(self.get_status())
        return super().finish(chunk)

    def on_finish(self) -> None:
        """Called by Tornado after the answer."""
        self._let_go()

    def on_connection_close(self) -> None:
        """Called by Tornado when the peer leaves before its answer."""
        super().on_connection_close()
        self._let_go()

    def _is_from_a_browser(self) -> bool:
        headers = self.request.headers
        if "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return True
        return self.admission.only_loopback and not _is_loopback(self.request.host_name)

    async def _is_let_in(self) -> bool:
        """Answers whoever is not."""
        admission = self.admission
        code, why = HTTPStatus.UNAUTHORIZED, ""
        if admission.client_names is not None:
            certificate: Any = self.request.get_ssl_certificate()
            if not certificate:
                why = "no client certificate"
            elif not name_is_allowed(certificate, admission.client_names):
                code, why = HTTPStatus.FORBIDDEN, "its certificate has none of the allowed names"
        if not why and admission.tokens is not None:
            authorization = self.request.headers.get("Authorization")
            if not await asyncio.to_thread(admission.tokens.accept, authorization):
                why = "no credential" if authorization is None else "a wrong credential"
        if not why:
            return True
        if admission.failures.failed(self.request.remote_ip or "", why):
            await asyncio.sleep(SLOW_ANSWER_SECONDS)
        if code is HTTPStatus.UNAUTHORIZED and admission.tokens is not None:
            self.set_header("WWW-Authenticate", "Bearer")
        self.refuse(code)
        return False

    def _expect_body(self) -> None:
        headers = self.request.headers
        length = headers.get("Content-Length")
        media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if "Transfer-Encoding" in headers:
            self.refuse(HTTPStatus.NOT_IMPLEMENTED, "Transfer-Encoding is not understood; send Content-Length")
        elif length is None:
            self.refuse(HTTPStatus.LENGTH_REQUIRED, "the request has no Content-Length")
        elif not (length.isascii() and length.isdecimal()):
            self.refuse(HTTPStatus.BAD_REQUEST, "Content-Length is not one number")
        elif body_is_too_large(headers):
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE)
        elif media_type != "application/json" or headers.get("Content-Encoding", "identity") != "identity":
            self.refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be plain application/json")
        elif self.admission.bodies + int(length) > MAX_BODIES_BYTES:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too much is being received at once; send it again")
        else:
            self._booked = int(length)
            self.admission.bodies += self._booked
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self.admission.body_seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if len(self.body) < self._booked:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {self.admission.body_seconds:g} s")

    def _let_go(self) -> None:
        self.admission.bodies -= self._booked
        self._booked = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class UnknownPath(CarefulHandler):
    """Every path that is not one of ours."""

    async def prepare(self) -> None:
        """404, whatever the method."""
        self.refuse(HTTPStatus.NOT_FOUND, "there is nothing at this path")


def make_careful_application(admission: Admission, handlers: list[Any]) -> Application:
    """An application of careful handlers: each entry is a path, its handler and what it is initialised with."""
    return Application(
        [(path, handler, {"admission": admission, **arguments}) for path, handler, arguments in handlers],
        default_handler_class=UnknownPath,
        default_handler_args={"admission": admission},
        log_function=log_request,
    )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
