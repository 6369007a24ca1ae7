"""The shape of the project: imports point one way, and importing it loads no driver."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ssis_exporter"

# What each module may import of ours. A name stands for the module and, for a folder, for all in it.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "model": {"errors"},
    "labels": set(),
    "families": {"labels"},
    "runlabels": {"families", "labels", "model"},
    "sourcemetrics": {"families", "runlabels"},
    "sourcepage": {"families", "labels", "model", "runlabels", "sourcemetrics"},
    "collector": {"errors", "families", "labels", "model", "runlabels", "sourcemetrics", "sourcepage"},
    "exposition": {"families", "labels"},
    "selfmetrics": {"families"},
    "durations": set(),
    "extras": {"errors"},
    "addresses": set(),
    "logs": set(),
    "yamlfile": {"errors"},
    "shapes": {"errors", "durations", "yamlfile"},
    "secretfile": {"errors", "yamlfile"},
    "stopconfig": {"addresses", "durations", "policy"},
    "config": {"errors", "model", "policy", "shapes", "sources", "stopconfig", "yamlfile"},
    "configschema": {"config", "durations", "sources"},
    "exporter": {
        "errors",
        "model",
        "config",
        "scrape",
        "reconcile",
        "sources",
        "collector",
        "history",
        "historymetrics",
        "selfmetrics",
        "stopper",
    },
    "readiness": set(),
    "sources": {"errors", "model", "sources", "extras", "readiness", "secretfile"},
    "scrape": {"errors", "model", "sources"},
    "reconcile": {"model"},
    "testing": {"errors", "model", "sources"},
    "policy": {"model", "durations", "labels"},
    "storagefolder": {"errors"},
    "baseline": set(),
    "ends": {"model"},
    "historyfile": {"baseline", "ends", "labels", "model", "readiness"},
    "historymemory": {"ends", "historyfile", "model", "reconcile"},
    "history": {"baseline", "errors", "historyfile", "historymemory", "model", "reconcile", "storage", "storagefolder"},
    "backfill": {"baseline", "errors", "history", "model", "sources"},
    "failurepanel": {"historyfile", "labels", "landing", "model"},
    "historymetrics": {"families", "historyfile", "model"},
    "storage": {"errors", "storagefolder"},
    "stopview": {"model"},
    "looking": {"errors", "model", "sources"},
    "wallclock": set(),
    "stopsettings": {"model", "hold", "ledger", "ledgerrows", "policy", "sources", "wallclock"},
    "stopwork": {
        "errors",
        "model",
        "ledgerrows",
        "ledgersteps",
        "looking",
        "policy",
        "sighting",
        "sources",
        "stopsettings",
        "stopview",
    },
    "aftermath": {
        "model",
        "looking",
        "policy",
        "sighting",
        "stopwork",
        "stopview",
    },
    "acquaintance": {"errors", "model", "ledgerrows", "looking", "sighting", "sources", "stopsettings"},
    "onestop": {
        "errors",
        "model",
        "acquaintance",
        "durations",
        "ledgersteps",
        "looking",
        "policy",
        "sighting",
        "aftermath",
        "stopwork",
        "stopview",
    },
    "explaining": {
        "errors",
        "model",
        "acquaintance",
        "durations",
        "ledgerrows",
        "looking",
        "policy",
        "sighting",
        "sources",
        "stopsettings",
        "stopview",
    },
    "door": {"ledgerrows", "model", "sources", "stopsettings"},
    "holding": {"hold"},
    "outcomes": {"ledger", "ledgerrows", "model", "stopmetrics", "stopview"},
    "stopper": {
        "errors",
        "model",
        "door",
        "explaining",
        "hold",
        "holding",
        "ledger",
        "ledgerrows",
        "onestop",
        "outcomes",
        "sources",
        "stopmetrics",
        "stopsettings",
        "stopview",
        "wallclock",
    },
    "ledgerclock": {"wallclock"},
    "ledgerrows": {"model", "readiness", "stopview"},
    "ourstops": {"ledgerrows", "model", "stopview", "storage"},
    "ledgersteps": {"errors", "model", "ledgerrows", "stopview"},
    "ledger": {
        "errors",
        "model",
        "ledgerclock",
        "ledgerrows",
        "ledgersteps",
        "ourstops",
        "policy",
        "storage",
        "storagefolder",
        "stopview",
        "wallclock",
    },
    "following": {"errors", "model", "ledger", "ledgerrows", "storage"},
    "hold": {"errors", "labels", "storagefolder"},
    "sighting": {"errors", "model"},
    "stopmetrics": {"model"},
    "alertmessage": {"model", "readiness"},
    "credentials": {"errors", "certificates", "secretfile"},
    "admission": {"credentials", "handlers"},
    "silences": {"errors", "model", "readiness"},
    "stoppanel": {"landing", "model", "stopview"},
    "control": {"errors", "model", "addresses", "admission", "credentials", "listening", "stopview"},
    "webhook": {
        "errors",
        "model",
        "admission",
        "alertmessage",
        "certificates",
        "credentials",
        "listening",
        "stopconfig",
    },
    "sockets": {"errors", "addresses"},
    "connections": set(),
    "listening": {"errors", "addresses", "connections", "sockets"},
    "certificates": {"errors", "secretfile", "yamlfile"},
    "handlers": set(),
    "passwords": {"extras", "handlers", "yamlfile"},
    "webconfig": {"errors", "certificates", "handlers", "passwords", "shapes", "yamlfile"},
    "landing": {"baseline", "labels", "model", "errors"},
    "api": {"baseline", "historyfile", "labels", "model", "errors"},
    "pages": {"model"},
    "web": {
        "api",
        "baseline",
        "config",
        "errors",
        "exposition",
        "handlers",
        "historyfile",
        "labels",
        "landing",
        "model",
        "pages",
        "scrape",
    },
}

DRIVERS = {
    "tornado",
    "rich",
    "pytds",
    "clr",
    "pythonnet",
    "bcrypt",
    "spnego",
    "OpenSSL",
    "isal",
    "psutil",
    "defusedxml",
}


def modules() -> list[Path]:
    """Every source file of the package but the ones that may import anything."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py" and path.parent.name != "cli")


def part(path: Path) -> str:
    """The name in the map: the first step below the package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports of ours, anywhere in it; of what it takes from a module, both readings."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith("ssis_exporter.")}


def imported_parts(path: Path) -> set[str]:
    """The same as names in the map."""
    return {name.split(".")[1] for name in imported(path)}


def dotted(path: Path) -> str:
    """The name by which a file is imported."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """
    A module imports only what stands below it.
    """
    name = part(path)
    if name in {"cli", "__init__"}:
        return

    assert name in MAY_IMPORT, f"{name} has no place in the map yet"
    allowed = MAY_IMPORT[name] | {name, "__version__"}
    assert imported_parts(path) <= allowed


def test_the_map_allows_only_what_is_imported() -> None:
    """
    What a module no longer needs is not left open to it.
    """
    used: dict[str, set[str]] = {name: set() for name in MAY_IMPORT}
    for path in modules():
        if part(path) in used:
            used[part(path)] |= imported_parts(path)

    assert {name: allowed - used[name] for name, allowed in MAY_IMPORT.items() if allowed - used[name]} == {}


def test_no_file_imports_itself_in_a_roundabout_way() -> None:
    """
    Within a folder, too, and whether the import is for a type or within a function.
    """
    files = {dotted(path): imported(path) for path in PACKAGE.rglob("*.py")}
    graph = {name: names & files.keys() - {name} for name, names in files.items()}

    list(graphlib.TopologicalSorter(graph).static_order())


def test_nothing_imports_the_command_line() -> None:
    """
    The command line wires the parts together; no part knows it.
    """
    guilty = [str(path) for path in modules() if part(path) != "cli" and "cli" in imported_parts(path)]

    assert [] == guilty


def test_importing_the_package_loads_no_driver() -> None:
    """
    A driver is loaded when what needs it is configured.
    """
    code = "import sys, ssis_exporter; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert set() == DRIVERS & set(loaded)
