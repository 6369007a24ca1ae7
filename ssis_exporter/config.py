"""YAML to a frozen, validated `Config`. Only validation makes one, so who takes a `Config` need not check again."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ssis_exporter.errors import ConfigError, SsisExporterError
from ssis_exporter.model import ExecutionFacts, ExecutionKey
from ssis_exporter.policy import Match
from ssis_exporter.shapes import nearest, read_shape
from ssis_exporter.sources.interface import Source, SourceSettings
from ssis_exporter.sources.kinds import known_kinds, load_kind
from ssis_exporter.stopconfig import StopConfig
from ssis_exporter.yamlfile import Node, read_yaml

WHAT = "the configuration file"


class LabelsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The section `labels`."""

    user_name: Literal["keep", "drop"] = "keep"
    """`drop` leaves the label `user_name` empty."""


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The section `limits`: how many series a source may have, how much of its time its past may take."""

    executions_per_source: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    """Runs with series of their own; the longest running are kept, the rest is counted."""

    packages_per_source: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2000
    """Packages with series of their own; those that ran last are kept."""

    backfill_share: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.1
    """The part of a source's time that reading what ended before the first start may take; 0 to leave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """One entry under `sources`, with the settings of its kind."""

    name: str
    kind: str
    source_class: type[Source]
    settings: SourceSettings
    where: str = field(default="", compare=False)
    """`FILE:LINE: sources[0]`, for errors that only the source can find."""

    def build(self) -> Source:
        """The source itself; nothing is opened yet. Raises `ConfigError` or `MissingExtra` with one sentence."""
        with self._told_where():
            return self.source_class.from_settings(self.name, self.settings)

    def check_files(self) -> None:
        """Reads the files that it names, and asks no server. Raises as `build` does."""
        source = self.build()
        with self._told_where():
            source.check_files()

    @contextmanager
    def _told_where(self) -> Iterator[None]:
        try:
            yield
        except SsisExporterError as exc:
            if not self.where:
                raise
            raise ConfigError(f"{self.where}: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that the configuration file says, checked."""

    sources: tuple[SourceConfig, ...]
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    stop: StopConfig | None = None
    path: Path | None = None
    """The file it was read from; None for the built-in one."""

    @property
    def keep_user_names(self) -> bool:
        """Whether the label `user_name` is filled."""
        return self.labels.user_name == "keep"


class FileShape(msgspec.Struct, frozen=True, kw_only=True):
    """The top level; `sources` is read by hand, since each kind has keys of its own."""

    labels: LabelsConfig = LabelsConfig()
    limits: LimitsConfig = LimitsConfig()
    stop: StopConfig | None = None


def load_config(path: Path) -> Config:
    """
    Reads and checks the file. What it leaves out keeps its default; without `sources` the default ones are read.

    Raises `ConfigError` with one sentence that names file, line, key and what would be right.
    """
    root = read_yaml(path, what=WHAT)
    base = path.absolute().parent
    rest = read_shape(root, FileShape, base=base, ignore=("sources",))
    assert isinstance(root.value, Mapping)
    entries = root.value.get("sources")
    sources = default_config().sources if entries is None else _sources(entries, base)
    if rest.stop is not None:
        _check_rules(root, rest.stop, sources)
    return Config(sources=sources, labels=rest.labels, limits=rest.limits, stop=rest.stop, path=path)


def _fits(pattern: str, name: str) -> bool:
    """Whether the policy will take the pattern of a rule to mean this source."""
    facts = ExecutionFacts(key=ExecutionKey(name, ""), package_name="")
    return Match(source=pattern).names_that_fit(facts)


def _check_rules(root: Node, stop: StopConfig, sources: Sequence[SourceConfig]) -> None:
    """A rule about a source that is not configured is a slip: a `never` with it protects nothing."""
    for index, rule in enumerate(stop.rules):
        pattern = rule.match.source
        if pattern is not None and not any(_fits(pattern, source.name) for source in sources):
            where = root.at("stop", "rules", index, "match", "source")
            raise where.error(f"no source is called {pattern!r}; configured: {', '.join(s.name for s in sources)}")


def default_config() -> Config:
    """What is read without a configuration: processes everywhere, on Windows also the SSIS service where one runs."""
    sources = [default_source("local", "dtexec")]
    if sys.platform == "win32" and "dts" in known_kinds() and _ssis_service_runs():
        sources.append(default_source("dts", "dts"))
    return Config(sources=tuple(sources))


def default_source(name: str, kind: str, settings: SourceSettings | None = None) -> SourceConfig:
    """A source that no file describes."""
    source_class = load_kind(kind)
    return SourceConfig(
        name=name,
        kind=kind,
        source_class=source_class,
        settings=settings if settings is not None else source_class.Settings(),
    )


def _ssis_service_runs() -> bool:
    """Whether the SSIS service of a release that can be read is running on this Windows machine."""
    from ssis_exporter.sources.dts.services import running_releases  # noqa: PLC0415 - only here, and only on Windows

    return bool(running_releases())


NAME_PATTERN = "[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?"
"""What a source may be called: safe as a label, in a URL and on a command line."""


def _sources(node: Node, base: Path) -> tuple[SourceConfig, ...]:
    if node.value is None:
        raise node.error("has no value; name at least one source, or leave the key out for the default ones")
    if not isinstance(node.value, tuple):
        raise node.error("must be a list of sources: [{name: local, kind: dtexec}]")
    if not node.value:
        raise node.error("must name at least one source; leave the key out for the default ones")
    found: dict[str, Node] = {}
    sources: list[SourceConfig] = []
    for entry in node.value:
        source = _source(entry, base)
        folded = source.name.casefold()
        if folded in found:
            raise entry.error(f"the name {source.name!r} stands twice; it is first in line {found[folded].line}")
        found[folded] = entry
        sources.append(source)
    return tuple(sources)


class _NameAndKind(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: str


def _source(entry: Node, base: Path) -> SourceConfig:
    if not isinstance(entry.value, Mapping):
        raise entry.error("must be a mapping with name and kind: {name: local, kind: dtexec}")
    own = {key: child for key, child in entry.value.items() if key in ("name", "kind")}
    head = read_shape(Node(own, entry.file, entry.line, entry.path), _NameAndKind, base=base)
    if re.fullmatch(NAME_PATTERN, head.name) is None:
        raise own["name"].error(
            "a name has at most 64 letters, digits, '.', '_' and '-', with none of '.-' at its ends"
        )
    kinds = sorted(known_kinds())
    if head.kind not in kinds:
        raise own["kind"].error(f"unknown kind {head.kind[:40]!r}; {nearest(head.kind, kinds)}")
    try:
        source_class = load_kind(head.kind)
    except SsisExporterError as exc:
        raise own["kind"].error(str(exc)) from exc
    settings = read_shape(entry, source_class.Settings, base=base, ignore=("name", "kind"))
    if settings.time_limit <= timedelta():
        raise entry.value["time_limit"].error("must be longer than 0s")
    return SourceConfig(
        name=head.name,
        kind=head.kind,
        source_class=source_class,
        settings=settings,
        where=f"{entry.file}:{entry.line}: {entry.path}",
    )
