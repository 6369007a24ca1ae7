"""Checks what a source answered: somebody else's kind may answer anything, and nobody behind here looks again."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from operator import attrgetter
from types import NoneType

from ssis_exporter.errors import SourceBroken
from ssis_exporter.model import (
    DataFlow,
    EndedExecution,
    Execution,
    ExecutionFacts,
    ExecutionKey,
    ExecutionStatus,
    Figures,
    Result,
    Scope,
    Snapshot,
    SourceInfo,
    Visibility,
)
from ssis_exporter.sources.interface import Source

log = logging.getLogger(__name__)

_NUMBER = (int, float, NoneType)
_figures = attrgetter("cpu_time", "resident_bytes", "read_bytes", "written_bytes", "threads")

_TEXTS = ("package_name", "folder", "project", "package_id", "user_name", "machine", "description", "environment")


class AnswerCheck:
    """
    Takes a source's answers and refuses what is none.

    The facts of a run are checked when they are first seen; a source hands out the same object from then on.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._checked: dict[str, ExecutionFacts] = {}
        self._in_order: set[tuple[type, ...]] = set()

    def take(self, seen: object) -> Snapshot:
        """The answer itself. Raises `TypeError` or `ValueError` with what is wrong with it."""
        if not isinstance(seen, Snapshot):
            raise TypeError(f"it answered with {type(seen).__name__} instead of a Snapshot")
        if seen.source != self._source:
            raise ValueError(f"it answered for the source {seen.source!r}")
        _check_visibility(seen.visibility)
        _check_moment("taken_at", seen.taken_at)
        if seen.same_since is not None:
            _check_moment("same_since", seen.same_since)
        if not isinstance(seen.clock_ahead, timedelta | None):
            raise TypeError("clock_ahead is no timedelta")
        for shown, by in seen.set_forward:
            _check_moment("set_forward", shown)
            if not isinstance(by, timedelta):
                raise TypeError("set_forward tells no timedelta")
        known, checked = self._checked, {}
        for run in seen.executions:
            # Every run at every look passes here, and almost all of them are made of the same types.
            made_of = _made_of(run)
            if made_of not in self._in_order:
                _check_run(run)
                self._in_order.add(made_of)
            if run.stopping_since is not None:
                _check_moment(f"run {run.facts.key!r}: stopping_since", run.stopping_since)
            facts = run.facts
            identity = facts.key.instance_id
            if known.get(identity) is not facts:
                self._check_facts(facts)
            checked[identity] = facts
        self._checked = checked
        for ended in seen.ended:
            self._check_ended(ended)
        return seen

    def _check_facts(self, facts: ExecutionFacts) -> None:
        key = facts.key
        if not isinstance(key, ExecutionKey) or not isinstance(key.instance_id, str):
            raise TypeError("a run has no ExecutionKey")
        if key.source != self._source:
            raise ValueError(f"run {key.instance_id!r} is of the source {key.source!r}")
        for name in (*_TEXTS, "caller", "host"):
            if not isinstance(getattr(facts, name), str):
                raise TypeError(f"run {key.instance_id!r}: {name} is no text")
        for name in ("created_at", "started_at"):
            if getattr(facts, name) is not None:
                _check_moment(f"run {key.instance_id!r}: {name}", getattr(facts, name))
        if facts.process_id is not None and not isinstance(facts.process_id, int):
            raise TypeError(f"run {key.instance_id!r}: process_id is no number")

    def _check_ended(self, ended: EndedExecution) -> None:
        if not isinstance(ended, EndedExecution) or not isinstance(ended.facts, ExecutionFacts):
            raise TypeError("an ended run is no EndedExecution with ExecutionFacts")
        self._check_facts(ended.facts)
        if not isinstance(ended.result, Result) or not isinstance(ended.duration, timedelta):
            raise TypeError(f"ended run {ended.facts.key.instance_id!r}: result or duration is none")
        _check_moment(f"ended run {ended.facts.key.instance_id!r}: ended_at", ended.ended_at)


def info_of(source: Source) -> SourceInfo:
    """What a source says that it is; only its kind where it says nothing that can be shown."""
    try:
        info = source.info
        if isinstance(info, SourceInfo) and all(
            isinstance(text, str) for text in (info.kind, info.server, info.version)
        ):
            return info
    except Exception as exc:
        # One source's failure must not take the page from the others.
        log.debug("source %s cannot say what it is", source.name, exc_info=exc)
    return SourceInfo(kind=source.kind)


def told(exc: BaseException) -> str:
    """What kind of exception it is and what it says, where it can say anything."""
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001 - it is being told already
        return f"{type(exc).__name__}, which cannot say more"


def bearable(exc: BaseException, source: str) -> Exception:
    """The exception, or in its place one that can be told, and that ends no thread and no event loop."""
    try:
        str(exc)
        # A StopIteration would never arrive: a future of asyncio refuses it.
        if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
            return exc
    except Exception as silent:
        log.debug("source %s raised what cannot be told", source, exc_info=silent)
    broken = SourceBroken(f"{source}: {told(exc)}")
    broken.__cause__ = exc
    return broken


def _made_of(run: Execution) -> tuple[type, ...]:
    figures = run.figures
    numbers = _figures(figures) if isinstance(figures, Figures) else ()
    parts = (run.facts, run.status, run.duration, run.stopping_since, run.data_flow, figures, *numbers)
    return (type(run), *map(type, parts))


def _check_run(run: Execution) -> None:
    if not isinstance(run, Execution) or not isinstance(run.facts, ExecutionFacts):
        raise TypeError("a run is no Execution with ExecutionFacts")
    name = f"run {run.facts.key!r}"
    if not isinstance(run.status, ExecutionStatus) or not isinstance(run.duration, timedelta):
        raise TypeError(f"{name}: status or duration is none")
    if not isinstance(run.figures, Figures | None) or not isinstance(run.data_flow, DataFlow | None):
        raise TypeError(f"{name}: its figures or data-flow counters are none")
    if run.figures is not None:
        _, *numbers = _figures(run.figures)
        if not isinstance(run.figures.cpu_time, timedelta | None) or not all(isinstance(it, _NUMBER) for it in numbers):
            raise TypeError(f"{name}: its figures are no numbers")


def _check_visibility(visibility: Visibility) -> None:
    if not isinstance(visibility, Visibility) or not isinstance(visibility.scope, Scope):
        raise TypeError("visibility is no Visibility with a Scope")
    if not isinstance(visibility.detail, str):
        raise TypeError("the detail of visibility is no text")


def _check_moment(what: str, moment: object) -> None:
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise TypeError(f"{what} is no datetime with a time zone")
