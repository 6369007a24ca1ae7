"""Building blocks of the dashboards: Grafana's classic JSON, one function per kind of panel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

TARGET = 'job=~"$job", instance=~"$instance"'
"""In every selector: which exporters."""

SOURCE = f'{TARGET}, source=~"$source"'
"""In selectors of metrics that a source has."""

GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "text"


def query(expr: str, legend: str = "", *, instant: bool = False) -> Json:
    """One query; an instant one comes as a table."""
    return {
        "datasource": DATASOURCE,
        "expr": expr,
        "legendFormat": legend or "__auto",
        "instant": instant,
        "range": not instant,
        "format": "table" if instant else "time_series",
    }


def steps(*thresholds: tuple[float | None, str]) -> Json:
    """From which value on which colour; the first has None."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in thresholds]}


PLAIN = steps((None, GREY))
BAD_ABOVE_0 = steps((None, GREEN), (1, RED))
ODD_ABOVE_0 = steps((None, GREEN), (1, YELLOW))
BAD_BELOW_1 = steps((None, RED), (1, GREEN))


def words(mapping: Mapping[str, tuple[str, str]]) -> list[Json]:
    """Words and colours instead of numbers."""
    options = {value: {"text": text, "color": color} for value, (text, color) in mapping.items()}
    return [{"type": "value", "options": options}]


def stat(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "short",
    thresholds: Json = PLAIN,
    mappings: Sequence[Json] = (),
    decimals: int | None = 0,
    width: int = 4,
    legend: str = "",
    text_mode: str = "auto",
) -> Json:
    """A tile with one number, or one per series."""
    defaults: Json = {"unit": unit, "thresholds": thresholds, "color": {"mode": "thresholds"}}
    if decimals is not None:
        defaults["decimals"] = decimals
    if mappings:
        defaults["mappings"] = list(mappings)
    one = query(expr, legend)
    one |= {"instant": True, "range": False}
    return {
        "type": "stat",
        "title": title,
        "description": description,
        "size": (width, 4),
        "targets": [one],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": text_mode,
            "wideLayout": True,
        },
    }


def graph(
    title: str,
    description: str,
    *targets: Json,
    unit: str = "short",
    stacked: bool = False,
    width: int = 12,
    height: int = 8,
    minimum: float | None = 0,
    dashed: str = "",
) -> Json:
    """Lines over time; series whose name fits `dashed` are drawn as such, for what they are compared with."""
    defaults: Json = {
        "unit": unit,
        "color": {"mode": "palette-classic"},
        "custom": {
            "drawStyle": "line",
            "fillOpacity": 30 if stacked else 0,
            "lineWidth": 1,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        },
    }
    if minimum is not None:
        defaults["min"] = minimum
    overrides = []
    if dashed:
        style = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}}
        overrides.append({"matcher": {"id": "byRegexp", "options": dashed}, "properties": [style]})
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "size": (width, height),
        "targets": list(targets),
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": {
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def column(name: str, *, unit: str = "", link: Json | None = None, bar: bool = False, width: int = 0) -> Json:
    """How one column of a table looks."""
    properties: list[Json] = []
    if unit:
        properties.append({"id": "unit", "value": unit})
    if link is not None:
        properties.append({"id": "links", "value": [link]})
    if bar:
        properties.append({"id": "custom.cellOptions", "value": {"type": "gauge", "mode": "basic"}})
    if width:
        properties.append({"id": "custom.width", "value": width})
    return {"matcher": {"id": "byName", "options": name}, "properties": properties}


def table(
    title: str,
    description: str,
    targets: Sequence[Json],
    *,
    names: Mapping[str, str],
    hidden: Iterable[str] = (),
    columns: Sequence[Json] = (),
    sort: str = "",
    width: int = 24,
    height: int = 9,
) -> Json:
    """
    Instant queries, merged by the labels that they share.

    `names` says what a label or `Value #A` is called, in the order of the columns; `hidden` leaves labels out.
    """
    order = {name: place for place, name in enumerate(names)}
    organize = {
        "excludeByName": dict.fromkeys(["Time", *hidden], True),
        "indexByName": order,
        "renameByName": dict(names),
    }
    return {
        "type": "table",
        "title": title,
        "description": description,
        "size": (width, height),
        "targets": list(targets),
        "transformations": [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}],
        "fieldConfig": {
            "defaults": {"unit": "short", "custom": {"align": "auto", "filterable": True}},
            "overrides": list(columns),
        },
        "options": {
            "cellHeight": "sm",
            "showHeader": True,
            "sortBy": [{"displayName": sort, "desc": True}] if sort else [],
        },
    }


def timeline(title: str, description: str, *targets: Json, mappings: Sequence[Json], height: int = 10) -> Json:
    """States over time, one row per series."""
    return {
        "type": "state-timeline",
        "title": title,
        "description": description,
        "size": (24, height),
        "targets": list(targets),
        "fieldConfig": {
            "defaults": {"unit": "short", "mappings": list(mappings), "custom": {"fillOpacity": 70, "lineWidth": 0}},
            "overrides": [],
        },
        "options": {
            "mergeValues": True,
            "perPage": 25,
            "rowHeight": 0.9,
            "showValue": "never",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "single"},
        },
    }


def variable(name: str, label: str, values: str, *, all_value: str = ".+", multi: bool = True) -> Json:
    """A choice among the values of a label."""
    everything: Json = {"text": ["All"], "value": ["$__all"], "selected": True} if multi else {}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": values, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "definition": values,
        "allValue": all_value if multi else None,
        "includeAll": multi,
        "multi": multi,
        "refresh": 2,
        "sort": 1,
        "regex": "",
        "hide": 0,
        "current": everything,
    }


def base_variables() -> list[Json]:
    """Every dashboard's: which Prometheus, which exporters."""
    datasource = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "current": {},
    }
    # A target below /probe has no metrics of the exporter itself, and one without sources has none of sources.
    known = '__name__=~"ssis_up|ssis_exporter_build_info"'
    return [
        datasource,
        variable("job", "Job", f"label_values({{{known}}}, job)"),
        variable("instance", "Instance", f'label_values({{{known}, job=~"$job"}}, instance)'),
    ]


def source_variable() -> Json:
    """Which sources of these exporters."""
    return variable("source", "Source", f"label_values(ssis_up{{{TARGET}}}, source)")


STOPS_ANNOTATION: Json = {
    "datasource": DATASOURCE,
    "enable": True,
    "expr": f'sum by (source, outcome) (increase(ssis_stop_requests_total{{{TARGET}, outcome=~"stopped|would_stop"}}'
    "[$__rate_interval])) > 0",
    "iconColor": "orange",
    "name": "Stops",
    "step": "60s",
    "tagKeys": "source,outcome",
    "textFormat": "",
    "titleFormat": "{{outcome}} on {{source}}",
}


def dashboard(uid: str, title: str, description: str, variables: Sequence[Json], rows: Sequence[Json]) -> Json:
    """The whole; `rows` are `row`s, whose panels are placed from left to right."""
    return {
        "annotations": {"list": [STOPS_ANNOTATION]},
        "description": description,
        "editable": False,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": [
            {
                "asDropdown": False,
                "icon": "external link",
                "includeVars": True,
                "keepTime": True,
                "tags": ["ssis"],
                "targetBlank": False,
                "title": "SSIS",
                "type": "dashboards",
            }
        ],
        "panels": _placed(rows),
        "refresh": "1m",
        "schemaVersion": 39,
        "tags": ["ssis"],
        "templating": {"list": list(variables)},
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": title,
        "uid": uid,
        "version": 1,
        "weekStart": "",
    }


def row(title: str, *panels: Json, collapsed: bool = False) -> Json:
    """A heading and what stands below it."""
    return {"title": title, "panels": list(panels), "collapsed": collapsed}


def _placed(rows: Sequence[Json]) -> list[Json]:
    placed: list[Json] = []
    number, y = 1, 0
    for each in rows:
        head = {
            "type": "row",
            "id": number,
            "title": each["title"],
            "collapsed": each["collapsed"],
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            "panels": [],
        }
        number, y = number + 1, y + 1
        x = tallest = 0
        children = []
        for panel in each["panels"]:
            width, height = panel["size"]
            if x + width > 24:
                x, y, tallest = 0, y + tallest, 0
            own = {key: value for key, value in panel.items() if key != "size"}
            own |= {"id": number, "datasource": DATASOURCE, "gridPos": {"x": x, "y": y, "w": width, "h": height}}
            own["targets"] = [target | {"refId": chr(65 + at)} for at, target in enumerate(panel["targets"])]
            children.append(own)
            number, x, tallest = number + 1, x + width, max(tallest, height)
        y += tallest
        if each["collapsed"]:
            placed.append(head | {"panels": children})
        else:
            placed += [head, *children]
    return placed
