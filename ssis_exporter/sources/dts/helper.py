"""
The helper: a process of its own that holds the managed API and answers on its standard output.

Started by the supervisor as ``python -m ssis_exporter.sources.dts.helper``. One thread, one request at a time: the
API's instance members are not thread-safe, and a property that hangs holds the whole interpreter, so nothing here
tries to be clever; the supervisor ends it.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import BinaryIO

import msgspec

from ssis_exporter.sources.dts.lifeline import end_with_parent
from ssis_exporter.sources.dts.managed import MICROSOFT_TOKEN, ApiMissing, ManagedApi, trouble_of
from ssis_exporter.sources.dts.protocol import PROTOCOL_VERSION, Answer, Failed, Hello, Request

EXIT_MISSING = 3


def main() -> int:
    """Says hello, answers until its input ends."""
    options = _options()
    end_with_parent(options.parent)
    # The runtime may print to descriptor 1 (a crashing one prints its dump there): that becomes stderr, and the
    # protocol gets a descriptor that nobody else knows.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        api = ManagedApi(options.release, public_key_token=options.public_key_token, runtime=options.runtime)
    except ApiMissing as exc:
        _say(out, Failed(exc.trouble))
        return EXIT_MISSING
    hello = Hello(
        hello=PROTOCOL_VERSION,
        pid=os.getpid(),
        release=api.release,
        assembly=api.assembly_name,
        machine=api.machine,
        elevated=_is_elevated(),
    )
    _say(out, hello)
    decoder = msgspec.json.Decoder(Request)
    for line in sys.stdin.buffer:
        _say(out, _answer(api, decoder.decode(line)))
    return 0


def _answer(api: ManagedApi, request: Request) -> Answer:
    try:
        match request.do:
            case "list":
                running, rows = api.running(request.server)
                return Answer(request.id, ok={"running": running, "rows": rows})
            case "stop":
                return Answer(request.id, ok={"found": api.stop(request.server, request.instance or "")})
            case "probe":
                return Answer(request.id, ok={"probe": api.probe(request.server)})
    except Exception as exc:  # noqa: BLE001 - every exception of the managed side is an answer
        return Answer(request.id, error=trouble_of(exc))


def _say(out: BinaryIO, message: msgspec.Struct) -> None:
    data = memoryview(msgspec.json.encode(message) + b"\n")
    while data:
        data = data[os.write(out.fileno(), data) :]


def _is_elevated() -> bool | None:
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415

        return bool(ctypes.windll.shell32.IsUserAnAdmin())
    return os.geteuid() == 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ssis_exporter.sources.dts.helper")
    parser.add_argument("--release", type=int, action="append", required=True, help="160 is SQL Server 2022")
    parser.add_argument("--public-key-token", default=MICROSOFT_TOKEN)
    parser.add_argument("--runtime", choices=("netfx", "mono"), default="netfx" if sys.platform == "win32" else "mono")
    parser.add_argument("--parent", type=int, required=True, help="the process to end with")
    return parser.parse_args()


if __name__ == "__main__":
    # os._exit: a CLR that is torn down with calls abandoned in it may print a dump and change the exit code.
    code = main()
    sys.stdout.flush()
    os._exit(code)
