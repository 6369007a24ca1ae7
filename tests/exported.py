"""Every metric the exporter has, with its labels, read from the code: what rules and dashboards may use."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path

from ssis_exporter.families import Definition

PACKAGE = Path(__file__).parent.parent / "ssis_exporter"
_INSTRUMENTS = {"Counter", "CounterInstrument", "Gauge", "Histogram", "GaugeMetricFamily", "CounterMetricFamily"}


@cache
def exported_metrics() -> dict[str, frozenset[str]]:
    """Metric name to its labels; the labels that Prometheus adds to every series are not among them."""
    found: dict[str, frozenset[str]] = {}
    for path in sorted(PACKAGE.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "Definition(" in text:
            module = importlib.import_module(f"ssis_exporter.{path.stem}")
            values = [
                each for value in vars(module).values() for each in (value if isinstance(value, tuple) else (value,))
            ]
            definitions = [value for value in values if isinstance(value, Definition)]
            found.update((definition.name, frozenset(definition.labels)) for definition in definitions)
        constants = _constants(ast.parse(text))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _INSTRUMENTS:
                found.update(_instrument(node, constants))
    return found


def _constants(tree: ast.Module) -> dict[str, str]:
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _instrument(call: ast.Call, constants: dict[str, str]) -> dict[str, frozenset[str]]:
    match call.args:
        case [ast.Constant(value=str(name)), *_]:
            pass
        case [ast.Name(id=constant), *_] if constant in constants:
            name = constants[constant]
        case _:
            return {}
    given = [argument for argument in call.args[2:3] if isinstance(argument, ast.List | ast.Tuple)]
    given += [
        keyword.value
        for keyword in call.keywords
        if keyword.arg in ("labels", "labelnames") and isinstance(keyword.value, ast.List | ast.Tuple)
    ]
    labels = frozenset(item.value for group in given for item in group.elts if isinstance(item, ast.Constant))
    if isinstance(call.func, ast.Name) and call.func.id == "Histogram":
        return {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return {name: labels}
