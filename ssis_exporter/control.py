"""
The operator's way to a running service: a listener on loopback whose address and key stand in the storage folder.

Its key is not Alertmanager's. Who may read that folder could change the ledger and the hold file anyway, so the rights
of the file system are the credential; what Alertmanager holds can nominate runs, and cannot end a hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import msgspec
from tornado.web import Application

from ssis_exporter.addresses import Address
from ssis_exporter.admission import Admission, CarefulHandler, make_careful_application
from ssis_exporter.credentials import Tokens
from ssis_exporter.errors import StorageError, TooManyPending
from ssis_exporter.listening import Limits, Listener
from ssis_exporter.model import Decision, Nomination, RefusalReason, StopOutcome
from ssis_exporter.stopview import Explanation

log = logging.getLogger(__name__)

FOLDER = "control"
KEY = "key"
ADDRESS = "address"

LIMITS = Limits(head_seconds=5.0, body_seconds=15.0, max_connections=32)

MAX_REASON = 200


class Settings(Protocol):
    """What the operator's commands need to know of the settings in force."""

    @property
    def max_runs_per_message(self) -> int:
        """A message that nominates more is refused as a whole."""


class Controlled(Protocol):
    """The part of the stopper that an operator commands."""

    @property
    def settings(self) -> Settings:
        """Those in force."""

    async def submit(self, nominations: Sequence[Nomination]) -> list[Decision]:
        """Nominates. Raises `StorageError`, `TooManyPending`."""

    async def explain(self, nomination: Nomination) -> Explanation:
        """What would be decided."""

    async def hold(self, reason: str) -> None:
        """Nothing is stopped from now on. Raises `StorageError`."""

    async def resume(self) -> str | None:
        """Ends it; what it was. Raises `StorageError`."""

    async def acknowledge_damage(self) -> str:
        """Sets a damaged ledger aside; where it is kept. Raises `StorageError`."""


class Nominations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `stop` and `explain`."""

    nominations: list[Nomination]


class HoldReason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `hold`."""

    reason: str


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `resume` and `acknowledge-damage`: an empty object."""


class Decisions(msgspec.Struct, frozen=True):
    """The answer of `stop`."""

    decisions: list[Decision]


class Explanations(msgspec.Struct, frozen=True):
    """The answer of `explain`."""

    explanations: list[Explanation]


async def explain_all(controlled: Controlled, nominations: Sequence[Nomination]) -> list[Explanation]:
    """What would become of each nomination of one message; nothing is done."""
    runs = {nomination.key for nomination in nominations}
    most = controlled.settings.max_runs_per_message
    if len(runs) > most:
        text = f"the message nominates {len(runs)} runs and max_runs_per_message is {most}"
        return [
            Explanation(key=nomination.key, outcome=StopOutcome.REFUSED, reason=RefusalReason.TOO_MANY_RUNS, text=text)
            for nomination in nominations
        ]
    return [await controlled.explain(nomination) for nomination in nominations]


class CommandHandler(CarefulHandler):
    """One command: a JSON body of the shape `body_type`, an answer as JSON."""

    def initialize(self, admission: Admission, body_type: type[Any], run: Callable[[Any], Awaitable[Any]]) -> None:  # type: ignore[override]
        """Called by Tornado for each request."""
        super().initialize(admission)
        self._body_type = body_type
        self._run = run

    async def post(self) -> None:
        """200 with the answer, 400 for another shape, 429 and 503 with why nothing was taken, or could be written."""
        try:
            order = msgspec.json.decode(bytes(self.body), type=self._body_type)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            self.refuse(HTTPStatus.BAD_REQUEST, f"the body is not understood: {exc}")
            return
        try:
            answer = await self._run(order)
        except StorageError as exc:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(exc))
            return
        except TooManyPending as exc:
            self.refuse(HTTPStatus.TOO_MANY_REQUESTS, str(exc))
            return
        self.answer(HTTPStatus.OK, answer)


def make_control_application(controlled: Controlled, admission: Admission) -> Application:
    """The application of the operator's listener."""

    async def stop(order: Nominations) -> Decisions:
        for one in order.nominations:
            log.info("%s nominates %s of %s", one.origin, one.key.instance_id, one.key.source)
        return Decisions(await controlled.submit(order.nominations))

    async def explain(order: Nominations) -> Explanations:
        return Explanations(await explain_all(controlled, order.nominations))

    async def hold(order: HoldReason) -> dict[str, str]:
        await controlled.hold(order.reason[:MAX_REASON])
        return {}

    async def resume(_: Nothing) -> dict[str, str]:
        return {"was": await controlled.resume() or ""}

    async def acknowledge_damage(_: Nothing) -> dict[str, str]:
        return {"kept": await controlled.acknowledge_damage()}

    commands: dict[str, tuple[type[Any], Callable[[Any], Awaitable[Any]]]] = {
        "stop": (Nominations, stop),
        "explain": (Nominations, explain),
        "hold": (HoldReason, hold),
        "resume": (Nothing, resume),
        "acknowledge-damage": (Nothing, acknowledge_damage),
    }
    return make_careful_application(
        admission,
        [
            (f"/api/v1/{name}", CommandHandler, {"body_type": body_type, "run": run})
            for name, (body_type, run) in commands.items()
        ],
    )


class Control:
    """The operator's listener: started after the folder was claimed, and gone from it when it is closed."""

    def __init__(self, controlled: Controlled, storage_folder: Path) -> None:
        self._controlled = controlled
        self._folder = storage_folder / FOLDER
        self._listener: Listener | None = None

    async def start(self) -> None:
        """Listens on a free port of the loopback and says where. Raises `StorageError`, `ListenError`."""
        await asyncio.to_thread(self._forget)
        await asyncio.to_thread(_write_private, self._folder / KEY, secrets.token_hex(32))
        admission = Admission(tokens=Tokens([self._folder / KEY]))
        application = make_control_application(self._controlled, admission)
        self._listener = Listener(application, [Address("127.0.0.1", 0)], limits=LIMITS)
        await self._listener.start()
        await asyncio.to_thread(_write_private, self._folder / ADDRESS, str(self._listener.addresses[0]))

    async def close(self, seconds: float = 5.0) -> None:
        """Answers what is asked and stops listening; may be called twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await asyncio.to_thread(self._forget)
            await listener.drain(seconds)

    def _forget(self) -> None:
        for name in (ADDRESS, KEY):
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()


def _write_private(path: Path, text: str) -> None:
    """A file that only this account can read. On Windows the mode 0700 gives the folder such rights."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        number = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as exc:
        raise StorageError(f"{path} cannot be written: {exc.strerror}") from exc
