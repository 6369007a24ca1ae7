"""A distribution of somebody else that brings the kind of source `outside`, for the installed command to find."""

from __future__ import annotations

import os
from pathlib import Path

# A look waits while the file `wait` is there, says so by the file `waiting`, and fails while the file `fail` is there.
OBEDIENT = """
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from ssis_exporter import Execution, ExecutionFacts, ExecutionKey, ExecutionStatus, Scope, Snapshot, Source
from ssis_exporter import SourceSettings, SourceUnreachable, Visibility


class Settings(SourceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    folder: Path
    user_name: str = "CORP\\\\etl"


class Kind(Source):
    kind = "outside"
    Settings = Settings

    @classmethod
    def from_settings(cls, name, settings):
        source = cls(name)
        source.settings = settings
        return source

    def snapshot(self):
        folder = self.settings.folder
        while (folder / "wait").exists():
            (folder / "waiting").touch()
            Event().wait(0.02)
        if (folder / "fail").exists():
            raise SourceUnreachable(f"{self.name}: nobody is at home")
        facts = ExecutionFacts(
            key=ExecutionKey(self.name, "1"),
            package_name="Load[red]Sales",
            user_name=self.settings.user_name,
            started_at=datetime.now(UTC),
        )
        run = Execution(facts=facts, status=ExecutionStatus.RUNNING)
        return Snapshot(
            source=self.name, taken_at=datetime.now(UTC), visibility=Visibility(Scope.ALL), executions=(run,)
        )
"""


def install(folder: Path, code: str = OBEDIENT) -> dict[str, str]:
    """Puts it there; gives the environment in which Python finds it."""
    folder.mkdir(exist_ok=True)
    (folder / "outside_kind.py").write_text(code)
    metadata = folder / "outside_kind-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-kind\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[ssis_exporter.sources]\noutside = outside_kind:Kind\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))}
