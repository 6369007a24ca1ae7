"""
The JSON Schema of the configuration file, from the structs that read it, for editors that check while one types.

`python -m ssis_exporter.configschema` prints it; `docs/config.schema.json` is that, and a test compares.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

from msgspec import inspect

from ssis_exporter.config import NAME_PATTERN, FileShape
from ssis_exporter.durations import print_duration
from ssis_exporter.sources.kinds import known_kinds, load_kind

DURATION = {"type": "string", "pattern": "^(0|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$", "minLength": 1}


def config_schema() -> dict[str, Any]:
    """The schema of a whole file, with the kinds of source that this distribution brings."""
    schema = _struct(inspect.type_info(FileShape))
    kinds = sorted(kind for kind, point in known_kinds().items() if point.value.startswith("ssis_exporter."))
    sources = {"type": "array", "minItems": 1, "items": {"oneOf": [_source(kind) for kind in kinds]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ssis_exporter configuration",
        **schema,
        "properties": {"sources": sources, **schema["properties"]},
    }


def _source(kind: str) -> dict[str, Any]:
    schema = _struct(inspect.type_info(load_kind(kind).Settings))
    head = {"name": {"type": "string", "pattern": f"^{NAME_PATTERN}$"}, "kind": {"const": kind}}
    return {
        **schema,
        "properties": {**head, **schema["properties"]},
        "required": ["name", "kind", *schema.get("required", [])],
    }


def _struct(shape: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.encode_name: _field(field) for field in shape.fields},
    }
    required = [field.encode_name for field in shape.fields if field.required]
    return {**schema, "required": required} if required else schema


def _field(field: inspect.Field) -> dict[str, Any]:
    schema = _type(field.type)
    if isinstance(field.default, timedelta):
        return {**schema, "default": print_duration(field.default)}
    if isinstance(field.default, str | int | float | bool):
        return {**schema, "default": field.default}
    return schema


def _type(shape: inspect.Type) -> dict[str, Any]:
    match shape:
        case inspect.StructType():
            return _struct(shape)
        case inspect.UnionType():
            # A key without a value is an error, so what may be None may be left out and nothing else.
            types = [_type(one) for one in shape.types if not isinstance(one, inspect.NoneType)]
            return types[0] if len(types) == 1 else {"anyOf": types}
        case inspect.VarTupleType() | inspect.ListType():
            return {"type": "array", "items": _type(shape.item_type)}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _type(shape.value_type)}
        case inspect.LiteralType():
            return {"enum": list(shape.values)}
        case inspect.EnumType():
            return {"enum": [member.value for member in shape.cls]}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType() | inspect.FloatType():
            bounds = {
                "minimum": shape.ge,
                "exclusiveMinimum": shape.gt,
                "maximum": shape.le,
                "exclusiveMaximum": shape.lt,
            }
            kind = "integer" if isinstance(shape, inspect.IntType) else "number"
            return {"type": kind, **{word: bound for word, bound in bounds.items() if bound is not None}}
        case inspect.TimeDeltaType():
            return dict(DURATION)
        case _:
            return {"type": "string", "minLength": 1}


def as_text() -> str:
    """The schema as it stands in the file."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_text())
