"""What every HTTP answer has in common: headers, one-sentence errors, who may ask at all."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.routing import Matcher
from tornado.web import RequestHandler, stream_request_body

log = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "deny",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

MAX_BODY_BYTES = 1024 * 1024
"""Of one request."""

TOO_LARGE = f"the body is larger than {MAX_BODY_BYTES} bytes"

NOT_FOUND = "not found; the pages are linked from /"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served."""

    status: HTTPStatus
    sentence: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Guard(Protocol):
    """Decides who may ask; stands in the application's settings under `guard`."""

    async def check(self, authorization: str | None) -> Refusal | None:
        """None for a request that may be served."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers for every answer."""


class Handler(RequestHandler):
    """Answers in plain text unless told otherwise; knows its methods; never names the server."""

    def set_default_headers(self) -> None:
        """The headers of every answer, also of errors."""
        self.clear_header("Server")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        for name, value in SECURITY_HEADERS.items():
            self.set_header(name, value)
        guard = self.settings.get("guard")
        if guard is not None:
            for name, value in guard.headers.items():
                self.set_header(name, value)

    async def prepare(self) -> None:
        """Asks the guard."""
        guard: Guard | None = self.settings.get("guard")
        if guard is not None:
            refusal = await guard.check(self.request.headers.get("Authorization"))
            if refusal is not None:
                self.refuse(refusal.status, refusal.sentence, refusal.headers)

    def compute_etag(self) -> str | None:
        """None: no answer is ever the same twice, and the sum over a large one would block the event loop."""
        return None

    def refuse(self, status: HTTPStatus, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        """Answers with a status and one sentence."""
        self.set_status(status)
        for name, value in (headers or {}).items():
            self.set_header(name, value)
        self.finish(sentence + "\n")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """One sentence and, for a wrong method, which ones there are. What went wrong inside is for the log."""
        del kwargs
        self.set_default_headers()
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            methods = ", ".join(self.methods())
            self.set_header("Allow", methods)
            self.finish(f"only {methods} here\n")
            return
        try:
            self.finish(HTTPStatus(status_code).phrase + "\n")
        except ValueError:
            self.finish(f"{status_code}\n")

    @classmethod
    def methods(cls) -> tuple[str, ...]:
        """The methods this handler has."""
        names = RequestHandler.SUPPORTED_METHODS
        return tuple(name for name in names if getattr(cls, name.lower()) is not getattr(RequestHandler, name.lower()))

    def came_from_another_site(self) -> bool:
        """
        Whether a browser says that a page of another site sent this.

        Credentials go along with such requests, so whatever changes something refuses them.
        """
        fetch_site = self.request.headers.get("Sec-Fetch-Site")
        if fetch_site is not None:
            return fetch_site not in ("same-origin", "none")
        return "Origin" in self.request.headers

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Bodies are read whole."""
        raise NotImplementedError


def body_is_too_large(headers: HTTPHeaders) -> bool:
    """By the length that a head announces."""
    length = headers.get("Content-Length", "")
    # A number of thousands of digits is not made: that takes long, and Python refuses it.
    return length.isascii() and length.isdecimal() and (len(length) > 18 or int(length) > MAX_BODY_BYTES)


class UnfitBodies(Matcher):
    """Routes requests with too large a body, or one whose length nobody told, whatever their path."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """As `Matcher`."""
        return {} if "Transfer-Encoding" in request.headers or body_is_too_large(request.headers) else None


@stream_request_body
class UnfitBody(Handler):
    """Every request with such a body: answered before anything of it is read."""

    async def prepare(self) -> None:
        """411 or 413 for every method, once the guard let it pass."""
        await super().prepare()
        if self._finished:
            return
        if "Transfer-Encoding" in self.request.headers:
            self.refuse(HTTPStatus.LENGTH_REQUIRED, "no path here takes a body without Content-Length")
        else:
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_LARGE)


class NotFound(Handler):
    """Every path that is not served."""

    async def prepare(self) -> None:
        """404 for every method, once the guard let it pass."""
        await super().prepare()
        if not self._finished:
            self.refuse(HTTPStatus.NOT_FOUND, NOT_FOUND)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """404 also for a method that nobody knows: there is none that would be right."""
        if status_code != HTTPStatus.METHOD_NOT_ALLOWED:
            super().write_error(status_code, **kwargs)
            return
        self.set_default_headers()
        self.refuse(HTTPStatus.NOT_FOUND, NOT_FOUND)


def log_request(handler: RequestHandler) -> None:
    """For the application's setting `log_function`: what was asked, at debug level, without the query."""
    status = handler.get_status()
    milliseconds = 1000 * handler.request.request_time()
    log.log(
        logging.ERROR if status == HTTPStatus.INTERNAL_SERVER_ERROR else logging.DEBUG,
        "%s %s from %s: %d in %.1f ms",
        handler.request.method,
        handler.request.path[:200],
        handler.request.remote_ip,
        status,
        milliseconds,
    )
