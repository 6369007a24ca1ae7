"""Asks Alertmanager whether the alert of a nomination is silenced."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal
from urllib.parse import urlencode

import msgspec
from tornado.httpclient import HTTPClientError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from ssis_exporter.errors import AlertmanagerError
from ssis_exporter.model import Nomination
from ssis_exporter.readiness import make_ready

TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class _Status(msgspec.Struct, frozen=True):
    state: Literal["unprocessed", "active", "suppressed"]


class _Alert(msgspec.Struct, frozen=True):
    labels: dict[str, str]
    status: _Status


make_ready(list[_Alert])


class Silences:
    """
    Alertmanager's view of an alert, through its API.

    https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/api/v2/alerts"

    async def silenced(self, nomination: Nomination) -> bool:
        """
        Whether the alert that nominated is silenced or inhibited now; a person's nomination never is.

        Raises `AlertmanagerError` when nobody can tell: no answer, or it does not know the alert.
        """
        if not nomination.labels:
            return False
        for alert in await self._alerts(nomination):
            if alert.labels == nomination.labels:
                return alert.status.state == "suppressed"
        raise AlertmanagerError(f"{self._url} does not know the alert that nominated {nomination.key.instance_id}")

    async def _alerts(self, nomination: Nomination) -> list[_Alert]:
        wanted = {"source": nomination.key.source, "instance_id": nomination.key.instance_id}
        query = urlencode([("filter", f"{name}={_quoted(value)}") for name, value in wanted.items()])
        # One for each question: it is asked a few times a night, and an open connection would be one more thing to age.
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=MAX_ANSWER_BYTES)
        try:
            answer = await client.fetch(
                f"{self._url}?{query}",
                connect_timeout=TIMEOUT_SECONDS,
                request_timeout=TIMEOUT_SECONDS,
                follow_redirects=False,
            )
            if answer.code != HTTPStatus.OK:
                raise AlertmanagerError(f"{self._url} answered with status {answer.code}")
            return msgspec.json.decode(answer.body, type=list[_Alert])
        except (HTTPClientError, OSError) as exc:
            raise AlertmanagerError(f"{self._url} could not be asked: {exc}") from exc
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise AlertmanagerError(f"{self._url} gave an answer that is not understood: {exc}") from exc
        finally:
            client.close()


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
