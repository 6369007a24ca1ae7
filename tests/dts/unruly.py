"""
A helper that becomes the real one, or does what that never does; the file `mode` in the estate's folder says which.

Started as a source's `helper`; the mode is read when it starts and, where it is not the real one, at each request.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

MODE = Path(os.environ["SSIS_TEST_ESTATE"]) / "mode"


def mode() -> str:
    """What is wanted now; nothing: the real helper."""
    return MODE.read_text() if MODE.exists() else ""


def become_the_real_one(arguments: list[str]) -> None:
    """From here on this process is the helper that is shipped."""
    command = [sys.executable, "-P", "-X", "utf8", "-m", "ssis_exporter.sources.dts.helper", "--runtime", "mono"]
    os.execv(command[0], [*command, *arguments])


def say(**what: Any) -> None:
    """One line of the protocol."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """Becomes the real one, or answers as the mode wants."""
    while mode() == "slow":
        time.sleep(0.05)
    if mode() == "dies":
        sys.exit("no CLR here")
    if mode() == "missing":
        parent = sys.argv[sys.argv.index("--parent") :]
        token = sys.argv[sys.argv.index("--public-key-token") :][:2]
        become_the_real_one(["--release", "170", *token, *parent])
    if not mode():
        become_the_real_one(sys.argv[1:])
    # Seen from outside the machine, only this differs for an account that is no administrator.
    elevated = mode() != "own"
    say(hello=1, pid=os.getpid(), release=160, assembly="X, Version=16.0.0.0", machine="M", elevated=elevated)
    for line in sys.stdin:
        number = json.loads(line)["id"]
        match mode():
            case "junk":
                print("Segmentation fault (core dumped)", flush=True)
            case "late answer":
                say(id=number - 1, ok={"running": []})
            case "nothing of use":
                say(id=number, ok={"running": ["no such row"]})
            case _:
                say(id=number, ok={"running": ["a"], "rows": [{"instance": "a", "name": "Load"}]})


if __name__ == "__main__":
    main()
