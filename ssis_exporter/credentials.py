"""Who may ask for a stop: bearer tokens from files, names in client certificates, and a brake for failed attempts."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ssis_exporter.certificates import names_in
from ssis_exporter.errors import ConfigError
from ssis_exporter.secretfile import read_secret

log = logging.getLogger(__name__)

SHORTEST_TOKEN = 16
"""Characters; what `openssl rand -hex 32` writes has 64."""

MAX_SENT = 4096
"""A longer header is no token of ours and is not even hashed."""

_State: TypeAlias = tuple[int, ...]
"""What changes when a file does; empty where there is none."""


class Tokens:
    """
    The bearer tokens in some files, one in each. Only their hashes are kept.

    A file that changes counts from the next request on; one that cannot be read or holds no usable token any more
    counts for nothing until it is right again. Blocks for as long as reading a small file does; any thread may ask.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises `ConfigError` for a file that cannot be used."""
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[_State, bytes | None]] = {path: (_state(path), _read(path)) for path in paths}

    def accept(self, authorization: str | None) -> bool:
        """Whether the value of the header `Authorization` holds one of the tokens, whole."""
        sent = bearer(authorization)
        with self._lock:
            self._read_what_changed()
            kept = [digest for _, digest in self._known.values() if digest is not None]
        # All are compared, whichever fits, so that the time taken tells nothing of them.
        fits = [hmac.compare_digest(_digest(sent or ""), digest) for digest in kept]
        return any(fits) and sent is not None

    def _read_what_changed(self) -> None:
        for path, (state, _) in list(self._known.items()):
            now = _state(path)
            if now == state:
                continue
            try:
                self._known[path] = (now, _read(path))
            except ConfigError as exc:
                self._known[path] = (now, None)
                log.warning("nobody is let in by this token until it is right again: %s", exc)
            else:
                log.info("the token in %s was read again", path)


def bearer(authorization: str | None) -> str | None:
    """The token in a header `Authorization: Bearer TOKEN`; None where there is none."""
    if authorization is None or len(authorization) > MAX_SENT:
        return None
    scheme, _, token = authorization.partition(" ")
    return token.strip(" ") or None if scheme.lower() == "bearer" else None


class Failures:
    """
    A token bucket for failed attempts: ten at once, then one a second.

    It slows only the answer to a failed attempt, so nobody can lock out who has the right credential.
    """

    def __init__(self, *, burst: int = 10, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._monotonic = monotonic
        self._left = float(burst)
        self._at = monotonic()
        self._untold = 0
        self._told_at = float("-inf")

    def failed(self, peer: str, why: str) -> bool:
        """Notes one; whether its answer must wait. Logs the first, then at most one line a minute."""
        now = self._monotonic()
        self._left = min(self._burst, self._left + (now - self._at))
        self._at = now
        self._untold += 1
        if now - self._told_at >= 60:
            log.warning("a request from %s was turned away: %s (%d since the last such line)", peer, why, self._untold)
            self._told_at, self._untold = now, 0
        if self._left < 1:
            return True
        self._left -= 1
        return False


def name_is_allowed(certificate: Mapping[str, Any] | None, allowed: Collection[str]) -> bool:
    """Whether a verified client certificate carries one of the names; any will do where no names are given."""
    return bool(certificate) and (not allowed or not names_in(certificate).isdisjoint(allowed))


def _read(path: Path) -> bytes:
    token = read_secret(path, what="the token").reveal()
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"{path}: the token has {len(token)} characters and needs at least {SHORTEST_TOKEN}; "
            f"make one: openssl rand -hex 32 > {path}"
        )
    if token != token.strip():
        raise ConfigError(f"{path}: the token must not begin or end with a space")
    if not token.isascii():
        raise ConfigError(f"{path}: the token must be ASCII, because it travels in a header")
    return _digest(token)


def _digest(token: str) -> bytes:
    # Of equal length whatever was sent; a header's characters are bytes, so nothing can fail to encode.
    return hashlib.sha256(token.encode("latin-1")).digest()


def _state(path: Path) -> _State:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns)
