"""What a source of kind `dts` keeps over a restart of the exporter: the bookmark of its snapshots."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from ssis_exporter.readiness import make_ready
from ssis_exporter.sources.dts.firstsight import Decided

log = logging.getLogger(__name__)


class Bookmark(msgspec.Struct, frozen=True):
    """What the next life cannot find out by looking."""

    release: int | None = None
    """Whose packages the last look showed; None where it showed none."""

    starts: Mapping[str, Decided] = {}
    """By instance; of those only that could have been two."""


make_ready(Bookmark)


def to_text(bookmark: Bookmark) -> str:
    """As a snapshot carries it."""
    return msgspec.json.encode(bookmark).decode()


def from_text(source: str, text: str) -> Bookmark:
    """What `to_text` was given; an empty one where it was somebody else's."""
    if text:
        try:
            return msgspec.json.decode(text, type=Bookmark)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            log.debug("source %s: the bookmark cannot be read: %s", source, exc)
    return Bookmark()
