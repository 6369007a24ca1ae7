"""
What an HRESULT of the managed API means for an operator.

Classified by number, not by exception class: no page says which class carries which. 0xC00160AA and 0xC00160AE are
documented (Integration Services Error and Message Reference; API reference, HResults); the others are COM's and
.NET's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssis_exporter.errors import (
    SourceAccessDenied,
    SourceBroken,
    SourceError,
    SourceMissing,
    SourceTimeout,
    SourceUnreachable,
)
from ssis_exporter.sources.dts.protocol import Trouble

ACCESS_DENIED = frozenset({0x80070005, 0xC00160AE})
"""E_ACCESSDENIED, and what SSIS makes of it: DTS_E_CONNECTTOSERVERFAILED_ACCESSDENIED."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: type[SourceError]
    text: str
    remedy: str = ""
    """`{n}` stands for the release: 160."""


_START = "start the service, as an administrator:\nStart-Service MsDtsServer{n}"
_INSTALL = "install Integration Services of that release, or name the installed one in the key release"

_RIGHTS = """\
run the exporter as an administrator of this machine, elevated; or grant its account these rights:
dcomcnfg > Component Services > Computers > My Computer > DCOM Config
  > Microsoft SQL Server Integration Services {v} > Properties > Security
  Launch and Activation Permissions: Local Launch, Local Activation; Access Permissions: Local Access
then, while no package runs (a service that stops asks them to stop): Restart-Service MsDtsServer{n}
The System log tells who was refused: source DistributedCOM, event 10016"""

_MEANINGS: dict[int, _Meaning] = {
    0xC00160AA: _Meaning(
        SourceUnreachable,
        "the SSIS service does not answer: start the Windows service MsDtsServer of this release",
        _START,
    ),
    0x800706BA: _Meaning(
        SourceUnreachable, "the SSIS service cannot be reached (RPC server unavailable): is it running?", _START
    ),
    0x800706BE: _Meaning(SourceUnreachable, "the SSIS service ended during the call (RPC call failed)", _START),
    0x80010108: _Meaning(SourceUnreachable, "the SSIS service was restarted (object disconnected from its clients)"),
    0x80010105: _Meaning(SourceBroken, "the SSIS service failed inside the call (server threw an exception)"),
    0x8001010A: _Meaning(SourceTimeout, "the SSIS service is busy (call rejected, retry later)"),
    0x80080005: _Meaning(
        SourceUnreachable, "the SSIS service could not be started by DCOM (server execution failed)", _START
    ),
    **dict.fromkeys(
        ACCESS_DENIED,
        _Meaning(
            SourceAccessDenied,
            "access denied: grant this account Launch, Activation and Access on SSIS in DCOM Config (event 10016)",
            _RIGHTS,
        ),
    ),
    0x80040154: _Meaning(
        SourceMissing,
        "the SSIS runtime is not registered for this bitness or release (class not registered)",
        _INSTALL,
    ),
    0x80070002: _Meaning(
        SourceMissing, "the assembly Microsoft.SqlServer.ManagedDTS of this release is not installed", _INSTALL
    ),
    0x8007007E: _Meaning(SourceMissing, "a native module of the SSIS runtime is not installed", _INSTALL),
    0x80131040: _Meaning(
        SourceMissing, "another version of Microsoft.SqlServer.ManagedDTS was found than was asked for", _INSTALL
    ),
}


def error_for(source: str, trouble: Trouble, *, release: int | None = None) -> SourceError:
    """The error to raise for an exception of the managed side; its sentence names source, meaning and HRESULT."""
    if trouble.type == "MissingExtra":
        return SourceMissing(f"{source}: {trouble.message}")
    meaning = _MEANINGS.get(trouble.code, _Meaning(SourceBroken, trouble.message or "no message"))
    code = f", HRESULT 0x{trouble.code:08X}" if trouble.code else ""
    error = meaning.kind(f"{source}: {meaning.text} ({trouble.type}{code})")
    number, version = ("<n>", "<n>.0") if release is None else (str(release), f"{release // 10}.0")
    error.remedy = meaning.remedy.replace("{n}", number).replace("{v}", version)
    return error
