"""Writes the dashboards: `python -m dashboards.generate`, from the project's folder. The files are committed."""

from __future__ import annotations

import json
from pathlib import Path

from dashboards import machinery, overview, package
from dashboards.panels import Json

FOLDER = Path(__file__).parent


def made() -> dict[str, str]:
    """Each file's name and text; the same every time."""
    return {f"{each['uid']}.json": _text(each) for each in (overview.make(), package.make(), machinery.make())}


def _text(dashboard: Json) -> str:
    return json.dumps(dashboard, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Writes all."""
    for name, text in made().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
