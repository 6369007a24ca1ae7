"""
A helper without a CLR, started as the real one is; misbehaves as the file `mode` in its folder says.

Imports nothing of ours: what it says is what the page on the protocol says.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[1])

TEXT = "Ünïcode 名前 \U0001f680"
LINES = "one\r\ntwo\x1a\x00three\u2028four"
LONG = "名" * 1_000_000


def mode() -> str:
    """What the test wants now."""
    path = FOLDER / "mode"
    return path.read_text() if path.exists() else ""


def say(text: str) -> None:
    """One line, in UTF-8, as it is."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogatepass") + b"\n")
    sys.stdout.buffer.flush()


def started(name: str, pid: int) -> None:
    """Tells the test which process this is."""
    (FOLDER / f"{name}.new").write_text(str(pid))
    (FOLDER / f"{name}.new").replace(FOLDER / name)


def child() -> None:
    """Starts a process that lives for long and holds our output."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started("child", process.pid)


def rows() -> list[dict[str, object]]:
    """What runs."""
    if mode() == "long":
        return [{"instance": str(number), "name": TEXT} for number in range(3000)] + [{"instance": "a", "name": LONG}]
    return [{"instance": "a", "name": TEXT, "description": LINES}]


JUNK = {
    "junk": "Unhandled Exception: OutOfMemoryException",
    "no utf-8": '{"id":1,"ok":{"running":["\ud800"]}}',
    "lone surrogate": '{"id":1,"ok":{"running":["\\ud800"]}}',
    "wrong id": '{"id":4711,"ok":{"running":[]}}',
}


def misbehave(how: str) -> None:
    """What comes instead of an answer, or before it."""
    match how:
        case "hang":
            time.sleep(600)
        case "family":
            child()
            time.sleep(600)
        case "last words":
            sys.exit(f"{TEXT}: es ist vorbei")
        case "crash":
            ctypes.WinDLL("kernel32").TerminateProcess(ctypes.c_void_p(-1), 0xC0000005)
        case "cut":
            sys.stdout.buffer.write(b'{"id":1,"ok":{"run')
            sys.exit(0)
        case "flood":
            while True:
                say("x" * 65536)
        case "much on standard error":
            for _ in range(2000):
                print("warning: " + "x" * 200, file=sys.stderr)


def answer(number: int, do: str) -> None:
    """One answer."""
    if do == "probe":
        kernel32 = ctypes.WinDLL("kernel32")
        in_job = ctypes.c_int()
        kernel32.IsProcessInJob(ctypes.c_void_p(-1), None, ctypes.byref(in_job))
        ok: object = {"probe": {"window": kernel32.GetConsoleWindow(), "in_job": in_job.value}}
    else:
        ok = {"running": [row["instance"] for row in rows()], "rows": rows()}
    say(json.dumps({"id": number, "ok": ok}, ensure_ascii=False))


def main() -> None:
    """Says hello, answers until its input ends."""
    sys.stderr.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    started("pid", ctypes.WinDLL("kernel32").GetCurrentProcessId())
    match mode():
        case "silent":
            time.sleep(600)
        case "junk first":
            say("Welcome to the Common Language Runtime")
            time.sleep(600)
        case "ends at once":
            sys.exit("no CLR here")
        case "another version":
            say('{"hello": 99, "pid": 1, "release": 160, "assembly": "X"}')
            time.sleep(600)
    hello = {"hello": 1, "pid": 1, "release": 160, "assembly": "X, Version=16.0.0.0", "machine": "M", "elevated": True}
    say(json.dumps(hello))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        misbehave(mode())
        if mode() in JUNK:
            say(JUNK[mode()])
        answer(request["id"], request["do"])


if __name__ == "__main__":
    main()
