"""Secrets: read from a file where they are needed, never printed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ssis_exporter.errors import ConfigError
from ssis_exporter.yamlfile import read_file

log = logging.getLogger(__name__)

MAX_SECRET_BYTES = 4096


class Secret:
    """A text that must not be seen: `repr`, `str` and formatting show `<secret>`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "<secret>"

    def __str__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


def read_secret(path: Path, *, what: str) -> Secret:
    """
    The secret in a file: its text without the line end.

    Warns when every account of the machine can read the file. Raises `ConfigError` for a file that cannot be read,
    is larger than 4 KiB, is empty, is no UTF-8, or has more than one line.
    """
    data = read_file(path, what=what, max_bytes=MAX_SECRET_BYTES)
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        # Without the cause: it would carry the bytes of the secret.
        raise ConfigError(
            f"{path}: {what} is not UTF-8; save it as UTF-8 (PowerShell: Set-Content -Encoding utf8)"
        ) from None
    if not text:
        raise ConfigError(f"{path}: {what} is empty")
    if not text.isprintable():
        raise ConfigError(f"{path}: {what} must be one line without control characters")
    warning = too_open(path, what=what)
    if warning:
        log.warning("%s", warning)
    return Secret(text)


def too_open(path: Path, *, what: str) -> str:
    """A sentence when every account of this machine can read the file, otherwise empty (always so on Windows)."""
    if os.name != "posix":
        return ""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    return (
        f"{path}: {what} can be read by every account of this machine; run: chmod o-rwx {path}" if mode & 0o004 else ""
    )
