"""Speaks to the exporter that works with a storage folder, when one runs."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import msgspec

from ssis_exporter.addresses import Address, parse_address
from ssis_exporter.control import ADDRESS, FOLDER, KEY, Decisions, Explanations
from ssis_exporter.errors import ServiceError, StorageError, TooManyPending
from ssis_exporter.model import Decision, Nomination
from ssis_exporter.stopview import Explanation

T = TypeVar("T")

ANSWER_SECONDS = 60.0
"""A look at a slow source may take a while."""


class NotThere(Exception):
    """Nobody answers where the folder says that a service does: it was killed, or is just ending."""


class RunningService:
    """The service of a storage folder. Every method raises `NotThere`, `ServiceError` or `StorageError`."""

    def __init__(self, address: Address, key: str) -> None:
        self._address = address
        self._key = key

    def submit(self, nominations: Sequence[Nomination]) -> list[Decision]:
        """Nominates, as the webhook does. Raises `TooManyPending`, too."""
        return self._ask("stop", {"nominations": list(nominations)}, Decisions).decisions

    def explain(self, nominations: Sequence[Nomination]) -> list[Explanation]:
        """What would be decided of the nominations of one message."""
        return self._ask("explain", {"nominations": list(nominations)}, Explanations).explanations

    def hold(self, reason: str) -> None:
        """Puts all stopping on hold."""
        self._ask("hold", {"reason": reason}, dict)

    def resume(self) -> str:
        """Ends the hold; returns what it was."""
        return str(self._ask("resume", {}, dict).get("was", ""))

    def acknowledge_damage(self) -> str:
        """Sets a damaged ledger aside; returns where it is kept."""
        return str(self._ask("acknowledge-damage", {}, dict).get("kept", ""))

    def _ask(self, command: str, order: object, kind: type[T]) -> T:
        connection = http.client.HTTPConnection(self._address.host, self._address.port, timeout=ANSWER_SECONDS)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", f"/api/v1/{command}", json.dumps(msgspec.to_builtins(order)).encode(), headers)
            answer = connection.getresponse()
            body = answer.read()
        except TimeoutError as exc:
            raise ServiceError(f"the exporter at {self._address} did not answer within {ANSWER_SECONDS:g} s") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise NotThere(str(exc)) from exc
        finally:
            connection.close()
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND):
            # Another program has the port of a service that was killed.
            raise NotThere(f"{self._address} is not the exporter of this folder")
        text = " ".join(body.decode("utf-8", "replace").split())
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            raise StorageError(text or "the exporter's ledger cannot be written")
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise TooManyPending(text)
        if answer.status != HTTPStatus.OK:
            raise ServiceError(f"the exporter at {self._address} answered {answer.status}: {text[:300]}")
        try:
            return msgspec.convert(json.loads(body), kind)
        except (msgspec.MsgspecError, ValueError) as exc:
            raise ServiceError(f"the exporter at {self._address} is of another version: {exc}") from exc


def find_service(storage_folder: Path) -> RunningService | None:
    """
    The service that works with the folder, as far as the folder tells.

    Raises `StorageError` when this account may not read its key.
    """
    folder = storage_folder / FOLDER
    try:
        address = parse_address((folder / ADDRESS).read_text(encoding="utf-8").strip())
        key = (folder / KEY).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StorageError(
            f"{folder} cannot be read ({exc.strerror}); run this as the account of the exporter, or as administrator"
        ) from exc
    except ValueError:
        return None
    return RunningService(address, key)
