"""All stopping on hold: a file beside the ledger that an operator, or the service itself, puts there and takes away."""

from __future__ import annotations

from pathlib import Path

from ssis_exporter.errors import StorageError
from ssis_exporter.labels import clean_line
from ssis_exporter.storagefolder import replace_file

NAME = "hold"


class Hold:
    """
    Nothing is stopped while the file is there; what it holds is the reason.

    Works on the file alone, so that it takes effect without the service's help. Every method blocks for a moment.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def reason(self) -> str | None:
        """Why nothing may be stopped now; None when nothing is on hold. What cannot be read holds."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as exc:
            return f"the file {self.path} cannot be read: {exc.strerror}"
        return clean_line(" ".join(text.split())) or "no reason given"

    def begin(self, reason: str) -> None:
        """Puts everything on hold, on disk when it returns. Raises `StorageError`."""
        replace_file(self.path, reason.encode("utf-8", errors="replace") + b"\n")

    def end(self) -> None:
        """Ends it; harmless when nothing is on hold. Raises `StorageError`."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as exc:
            raise StorageError(f"the file {self.path} cannot be removed: {exc.strerror}") from exc
