"""
Does what docs/first-alert.md tells a newcomer, word for word: its files are written, its commands run in one shell.

`python tests/newcomer.py` uses the exporter of this Python instead of installing one, `--bin DIR` one that is installed
there. Ports are replaced by free ones. The exit code is that of the shell.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "first-alert.md"
PORTS = ("10058", "10059", "19090", "19093")
INSTALLS = ("apt-get", "-m venv", "pip install")

_BLOCK = re.compile(r"(?:^|`(?P<file>[\w.]+)`:\n\n)```(?P<kind>sh|yaml)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def told(page: str) -> list[tuple[str, str]]:
    """What the page tells to do: a file's name and text, or an empty name and commands."""
    return [(found["file"] or "", found["text"]) for found in _BLOCK.finditer(page)]


def script(page: str) -> str:
    """The page as one shell script; installing is left out."""
    lines = ["set -eux"]
    for file, text in told(page):
        if file:
            lines.append(f"cat >{file} <<'END_OF_{file}'\n{text}END_OF_{file}")
        elif not any(word in text for word in INSTALLS):
            lines.append(text)
    return "\n".join(lines)


def run(folder: Path, binaries: Path, *, seconds: float) -> subprocess.CompletedProcess[str]:
    """Runs the page in a folder; whatever it leaves behind is ended with it."""
    page = PAGE.read_text(encoding="utf-8")
    for known, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        page = page.replace(known, str(free))
    (folder / "ssis").mkdir()
    (folder / "ssis" / "bin").symlink_to(binaries)
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script(page)], cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = shell.wait(seconds)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            # Its own session, so nobody else is meant.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
        output.seek(0)
        return subprocess.CompletedProcess([], code, output.read(), "")


def main() -> int:
    """Runs it and prints what was said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bin", type=Path, default=Path(sys.executable).parent, help="folder of the installed exporter"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = run(Path(folder), given.bin.absolute(), seconds=300)
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
