"""Asks a running exporter what it sees."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from ssis_exporter.api import EXECUTIONS_PATH, Document
from ssis_exporter.errors import SourceUnreachable

MAX_BYTES = 64 * 1024 * 1024

T = TypeVar("T")


def fetch(url: str, timeout: float) -> Document:
    """What runs now, as `fetch_as` does it."""
    return fetch_as(Document, url, EXECUTIONS_PATH, timeout)


def fetch_as(kind: type[T], url: str, path: str, timeout: float) -> T:
    """
    What the exporter at `url` answers. Raises `SourceUnreachable` with one sentence where it does not.

    No proxy is used: an exporter is a neighbour.
    """
    base = _checked(url)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    # The timeout is the exporter's deadline too, as a scrape's is, and a little more is waited for its answer.
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": str(timeout), "Accept": "application/json"}
    request = urllib.request.Request(base + path, headers=headers)  # noqa: S310 - the scheme was checked
    try:
        with opener.open(request, timeout=timeout + 1) as answer:
            body = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as exc:
        raise SourceUnreachable(f"{base} answered {exc.code}: {_why(exc)}") from exc
    except urllib.error.URLError as exc:
        raise SourceUnreachable(f"{base} does not answer: {_reason(exc.reason)}") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise SourceUnreachable(f"{base} does not answer: {_reason(exc)}") from exc
    if len(body) > MAX_BYTES:
        raise SourceUnreachable(f"{base} answered more than {MAX_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise SourceUnreachable(f"{base} answered what no exporter of this version does: {exc}") from exc


def _checked(url: str) -> str:
    wrong = click.BadParameter(f"{url[:80]!r} must be like http://127.0.0.1:10058", param_hint="--url")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise wrong from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise wrong
    if parts.username is not None or parts.password is not None:
        raise click.BadParameter("a password on the command line can be seen by everybody", param_hint="--url")
    return url.rstrip("/").removesuffix(EXECUTIONS_PATH)


def _why(exc: urllib.error.HTTPError) -> str:
    if exc.code == HTTPStatus.UNAUTHORIZED:
        return "it asks for a user and password; run list on its machine without --url"
    try:
        text = exc.read(300).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        text = ""
    return " ".join(text.split()) or str(exc.reason)


def _reason(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "the time is up"
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
