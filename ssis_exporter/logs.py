"""Log records to one line each, as logfmt or JSON; nothing that a package or a peer is called can break the line."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("logfmt", "json")

MAX_CHARACTERS = 4096
"""Of one value; the rest of a longer one is cut off, visibly."""


def configure(*, level: str, format: str, file: Path | None = None, stream: TextIO | None = None) -> None:  # noqa: A002
    """
    Sends all records at or above `level` to stderr, or to the file. Replaces what was configured before.

    Raises `OSError` when the file cannot be opened.
    """
    handler = _handler(file, stream)
    handler.setFormatter(_formatter(format, tracebacks=level == "debug"))
    # A stderr that nobody reads any more must not cause tracebacks about itself.
    logging.raiseExceptions = False
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING if level == "warn" else level.upper())
    # What peers send that is no HTTP or no TLS: they could fill the log with it.
    logging.getLogger("tornado.general").setLevel(logging.NOTSET if level == "debug" else logging.ERROR)
    # The catalog's driver tells each request that it sends.
    logging.getLogger("pytds").setLevel(logging.NOTSET if level == "debug" else logging.WARNING)


def _handler(file: Path | None, stream: TextIO | None) -> logging.Handler:
    if file is None:
        return logging.StreamHandler(stream if stream is not None else sys.stderr)
    if os.name == "posix":
        # Opens the file again when logrotate has moved it away.
        return logging.handlers.WatchedFileHandler(file, encoding="utf-8")
    return logging.FileHandler(file, encoding="utf-8")


def _formatter(format: str, *, tracebacks: bool) -> logging.Formatter:  # noqa: A002
    import structlog  # noqa: PLC0415 - brings rich along; `--help` and a slip in a flag need neither

    renderer: structlog.typing.Processor = structlog.processors.LogfmtRenderer()
    if format == "json":
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.stdlib.ProcessorFormatter(processors=[_Fields(tracebacks=tracebacks), renderer])


class _Fields:
    """The fields of a line, in their order, from what was logged."""

    def __init__(self, *, tracebacks: bool) -> None:
        self._tracebacks = tracebacks

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        del logger, name
        record: logging.LogRecord = event["_record"]
        fields = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": "warn" if record.levelno == logging.WARNING else record.levelname.lower(),
            "logger": one_line(record.name),
            "msg": one_line(str(event["event"])),
        }
        kind, exc, trace = event.get("exc_info") or (None, None, None)
        if exc is not None:
            fields["error"] = one_line(f"{type(exc).__name__}: {exc}")
            if self._tracebacks:
                text = "".join(traceback.format_exception(kind, exc, trace))
                fields["traceback"] = one_line(text, 4 * MAX_CHARACTERS)
        return fields


def one_line(text: str, limit: int = MAX_CHARACTERS) -> str:
    """
    The text with everything that could end the line, move the cursor or hide something written as an escape.

    Control characters, line and paragraph separators, marks that turn the direction of writing, lone surrogates.
    """
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text) - limit} more)"
    if text.isprintable():
        return text
    return "".join(char if char == " " or char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
