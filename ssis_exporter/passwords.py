"""Basic authentication against bcrypt hashes: the same cost for every wrong answer, never on the event loop."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from ssis_exporter.extras import need
from ssis_exporter.handlers import Refusal
from ssis_exporter.yamlfile import Node

CACHE_SIZE = 100
MAX_WAITING = 16
"""Comparisons take a tenth of a second each, one at a time; beyond this many, who asks is told to come again."""

MAX_PASSWORD_BYTES = 72
"""What bcrypt looks at. A longer one is wrong, not cut."""

_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}", re.ASCII)

WRONG = Refusal(HTTPStatus.UNAUTHORIZED, "user or password is missing or wrong", {"WWW-Authenticate": "Basic"})
BUSY = Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many logins at once", {"Retry-After": "5"})


def check_hashes(users: Mapping[str, str], *, where: Node) -> None:
    """
    Checks at start what each login would need.

    Raises `ConfigError` for a user without a bcrypt hash, `MissingExtra` where `bcrypt` is not installed.
    """
    assert isinstance(where.value, Mapping)
    for user, hashed in users.items():
        if not user or ":" in user:
            raise where.value[user].error("a user name must not be empty and cannot hold a colon")
        if _HASH.fullmatch(hashed) is None:
            # Not the value: it may be the password itself.
            raise where.value[user].error("must be a bcrypt hash; make one with: htpasswd -nBC 10 USER")
    need("bcrypt", extra="auth", what="basic_auth_users in the web configuration file")


class Passwords:
    """Compares, and remembers a hundred right answers without remembering a password."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, None] = {}
        self._waiting = 0
        self._thread: ThreadPoolExecutor | None = None
        self.comparisons = 0
        """How many hashes were computed so far."""

    async def check(self, users: Mapping[str, str], authorization: str | None) -> Refusal | None:
        """None for the right password of one of these users."""
        found = _credentials(authorization)
        if found is None:
            return WRONG
        user, password = found
        hashed = users.get(user)
        seal = self._seal(user, hashed or "", password)
        if seal in self._right:
            return None
        if self._waiting >= MAX_WAITING:
            return BUSY
        self._waiting += 1
        try:
            # For an unknown user the dearest of the hashes is compared, so that time tells no names.
            against = hashed if hashed is not None else max(users.values(), key=lambda one: one[4:6])
            same = await asyncio.get_running_loop().run_in_executor(self._one_thread(), _compare, password, against)
        finally:
            self._waiting -= 1
        self.comparisons += 1
        if not same or hashed is None:
            return WRONG
        if len(self._right) >= CACHE_SIZE:
            self._right.pop(secrets.choice(list(self._right)))
        self._right[seal] = None
        return None

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def _one_thread(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")
        return self._thread

    def _seal(self, user: str, hashed: str, password: bytes) -> bytes:
        """Stands for the three without telling them; the lengths keep "a" + "bc" and "ab" + "c" apart."""
        parts = (user.encode(), hashed.encode(), password)
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._key, message, hashlib.sha256)


def _credentials(authorization: str | None) -> tuple[str, bytes] | None:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        name = user.decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


def _compare(password: bytes, hashed: str) -> bool:
    import bcrypt  # noqa: PLC0415 - an extra, whose absence was told at start

    usable = len(password) <= MAX_PASSWORD_BYTES and b"\0" not in password
    try:
        same = bcrypt.checkpw(password if usable else b"", hashed.encode())
    except ValueError:
        return False
    return same and usable
