"""A disk that hangs for as long as a test wants, under a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.real import cannot_run, need_program

SOURCE = Path(__file__).with_name("hangingdisk.c")


class HangingDisk:
    """What a process started with `env` writes does not return between `hang` and `answer`."""

    def __init__(self, folder: Path) -> None:
        if sys.platform != "linux":
            cannot_run("a library can be put before the system's on Linux only")
        library = folder / "hangingdisk.so"
        cc = need_program("cc", "gcc")
        subprocess.run([cc, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True, capture_output=True)
        self._held = folder / "the disk hangs"
        self.env = {"LD_PRELOAD": str(library), "DISK_HANGS": str(self._held)}

    def hang(self) -> None:
        """From now on."""
        self._held.touch()

    def answer(self) -> None:
        """It goes on."""
        self._held.unlink()
