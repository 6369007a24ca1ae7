"""Finds the class behind a kind of source, and loads only what the configuration names."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from ssis_exporter.errors import ConfigError, MissingExtra
from ssis_exporter.sources.interface import Source

ENTRY_POINT_GROUP = "ssis_exporter.sources"


def known_kinds() -> dict[str, EntryPoint]:
    """Every installed kind by its word, ours and others', without importing any of them."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_kind(kind: str) -> type[Source]:
    """
    Imports the class of one kind.

    Raises `ConfigError` for a word nobody registered or a class that is no source, `MissingExtra` where its driver
    is not installed.
    """
    kinds = known_kinds()
    if kind not in kinds:
        raise ConfigError(f"unknown kind of source {kind!r}; known kinds are {', '.join(sorted(kinds))}")
    try:
        loaded = kinds[kind].load()
    except MissingExtra:
        raise
    except Exception as exc:
        # Whatever somebody else's module does while it is imported.
        raise ConfigError(f"the source kind {kind!r} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not (isinstance(loaded, type) and issubclass(loaded, Source)):
        raise ConfigError(f"the source kind {kind!r} names {kinds[kind].value}, which is not a Source")
    return loaded
