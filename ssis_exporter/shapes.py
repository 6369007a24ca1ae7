"""Nodes of a YAML file to `msgspec` structs; whatever does not fit becomes one sentence with its line."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from ssis_exporter.durations import parse_duration
from ssis_exporter.errors import ConfigError, SsisExporterError
from ssis_exporter.yamlfile import Node

S = TypeVar("S", bound=msgspec.Struct)


def read_shape(node: Node, shape: type[S], *, base: Path, ignore: Sequence[str] = ()) -> S:
    """
    A struct from a mapping: keys, types and bounds checked, defaults filled in, relative paths put below `base`.

    Keys in `ignore` are known and read elsewhere. A struct may refuse a combination in `__post_init__` by raising
    `ValueError` with one sentence; one that begins with a key in double quotes is told at that key. Raises
    `ConfigError` with file, line, key and what would be right.
    """
    found: S = _Shapes(base).struct(node, inspect.type_info(shape), ignore)
    return found


def nearest(word: str, known: Sequence[str]) -> str:
    """`did you mean "x"?` for a likely slip, otherwise all that is known."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known here: {', '.join(known)}"


class _Shapes:
    def __init__(self, base: Path) -> None:
        self._base = base

    def struct(self, node: Node, shape: Any, ignore: Sequence[str] = ()) -> Any:
        if not isinstance(node.value, Mapping):
            known = [*ignore, *(field.encode_name for field in shape.fields)]
            raise node.error(f"must be a mapping with keys such as {', '.join(known[:3])}")
        fields = {field.encode_name: field for field in shape.fields}
        values: dict[str, Any] = {}
        for key, child in node.value.items():
            if key in ignore:
                continue
            if key not in fields:
                raise child.error(f"unknown key; {nearest(key, [*ignore, *fields])}")
            values[fields[key].name] = self.value(child, fields[key].type)
        for field in shape.fields:
            if field.required and field.name not in values:
                raise node.error(f'the key "{field.encode_name}" is missing')
        try:
            return shape.cls(**values)
        except (SsisExporterError, ValueError, TypeError) as exc:
            raise _at_key(node, str(exc)) from exc

    def value(self, node: Node, shape: Any) -> Any:
        if node.value is None:
            raise node.error("has no value; give one or leave the key out")
        match shape:
            case inspect.UnionType():
                return self.union(node, shape)
            case inspect.StructType():
                return self.struct(node, shape)
            case inspect.ListType() | inspect.VarTupleType():
                return self.sequence(node, shape)
            case inspect.DictType():
                if not isinstance(node.value, Mapping):
                    raise node.error("must be a mapping")
                return {key: self.value(child, shape.value_type) for key, child in node.value.items()}
            case _:
                return self.scalar(node, shape)

    def union(self, node: Node, shape: Any) -> Any:
        """Of several possible types the first that fits; a mapping can only be the struct among them."""
        types = [kind for kind in shape.types if not isinstance(kind, inspect.NoneType)]
        if isinstance(node.value, Mapping):
            of_mapping = [kind for kind in types if isinstance(kind, inspect.StructType | inspect.DictType)]
            types = of_mapping or types
        elif isinstance(node.value, tuple):
            types = [kind for kind in types if isinstance(kind, inspect.ListType | inspect.VarTupleType)] or types
        else:
            types = [kind for kind in types if not isinstance(kind, inspect.StructType)] or types
        problem: ConfigError | None = None
        for kind in types:
            try:
                return self.value(node, kind)
            except ConfigError as exc:
                problem = problem or exc
        assert problem is not None
        raise problem

    def sequence(self, node: Node, shape: Any) -> Any:
        if not isinstance(node.value, tuple):
            raise node.error("must be a list: [a, b]")
        items = [self.value(item, shape.item_type) for item in node.value]
        return tuple(items) if isinstance(shape, inspect.VarTupleType) else items

    def scalar(self, node: Node, shape: Any) -> Any:
        match shape:
            case inspect.BoolType():
                if not isinstance(node.value, bool):
                    raise node.error("must be true or false")
                return node.value
            case inspect.IntType() | inspect.FloatType():
                return _number(node, shape)
            case inspect.LiteralType():
                return _one_of(node, shape.values)
            case inspect.EnumType():
                return shape.cls(_one_of(node, [member.value for member in shape.cls]))
            case inspect.TimeDeltaType():
                return _duration(node)
            case inspect.StrType():
                return _bounded_text(node, shape)
            case inspect.CustomType(cls=cls) if cls is Path:
                return self._base / _text(node)
        raise node.error(f"cannot be configured (a field of type {shape})")


def _at_key(node: Node, sentence: str) -> ConfigError:
    """An error of the whole mapping, or of the key that the sentence begins with: `"window" must be at least 1s`."""
    found = re.match(r'"([a-z0-9_]+)":? (.*)', sentence, re.DOTALL)
    if found is not None and isinstance(node.value, Mapping) and found[1] in node.value:
        return node.value[found[1]].error(found[2])
    return node.error(sentence)


def _one_of(node: Node, words: Sequence[Any]) -> Any:
    if isinstance(node.value, bool) or node.value not in words:
        raise node.error(f"must be {' or '.join(str(word) for word in words)}, not {_shown(node.value)}")
    return node.value


def _shown(value: Any) -> str:
    return f"{str(value)[:40]!r}" if isinstance(value, str | int | float) else "a list or mapping"


def _text(node: Node) -> str:
    if isinstance(node.value, Mapping | tuple):
        raise node.error("must be text, not a list or mapping")
    if not isinstance(node.value, str):
        raise node.error(f'must be text; put it in quotes: "{node.value}"')
    if not node.value.strip():
        raise node.error("must not be empty")
    return node.value


def _bounded_text(node: Node, shape: inspect.StrType) -> str:
    text = _text(node)
    if shape.min_length is not None and len(text) < shape.min_length:
        raise node.error(f"must have at least {shape.min_length} characters")
    if shape.max_length is not None and len(text) > shape.max_length:
        raise node.error(f"must have at most {shape.max_length} characters")
    if shape.pattern is not None and re.search(shape.pattern, text) is None:
        raise node.error(f"must match {shape.pattern}")
    return text


def _duration(node: Node) -> timedelta:
    if isinstance(node.value, int | float) and not isinstance(node.value, bool):
        raise node.error(f"must be a duration with a unit, like 30s, 5m or 1h30m, not {node.value}")
    if not isinstance(node.value, str):
        raise node.error("must be a duration like 30s, 5m or 1h30m")
    try:
        return parse_duration(node.value)
    except ValueError as exc:
        raise node.error(str(exc)) from exc


def _number(node: Node, shape: Any) -> int | float:
    value = node.value
    whole = isinstance(shape, inspect.IntType)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not math.isfinite(value):
        raise node.error("must be a whole number" if whole else "must be a number")
    for bound, holds, words in (
        (shape.ge, operator.ge, "at least"),
        (shape.gt, operator.gt, "more than"),
        (shape.le, operator.le, "at most"),
        (shape.lt, operator.lt, "less than"),
    ):
        if bound is not None and not holds(value, bound):
            raise node.error(f"must be {words} {bound}, not {value}")
    return value if whole else float(value)
