"""
What an HRESULT of the managed API means for an operator.

Classified by number, not by exception class: no page says which class carries which. 0xC00160AA is documented
(Integration Services Error and Message Reference); the others are COM's and .NET's own.
"""

from __future__ import annotations

from ssis_exporter.errors import (
    SourceAccessDenied,
    SourceBroken,
    SourceError,
    SourceMissing,
    SourceTimeout,
    SourceUnreachable,
)
from ssis_exporter.sources.dts.protocol import Trouble

ACCESS_DENIED = 0x80070005

_MEANINGS: dict[int, tuple[type[SourceError], str]] = {
    0xC00160AA: (
        SourceUnreachable,
        "the SSIS service does not answer: start the Windows service MsDtsServer of this release",
    ),
    0x800706BA: (SourceUnreachable, "the SSIS service cannot be reached (RPC server unavailable): is it running?"),
    0x800706BE: (SourceUnreachable, "the SSIS service ended during the call (RPC call failed)"),
    0x80010108: (SourceUnreachable, "the SSIS service was restarted (object disconnected from its clients)"),
    0x80010105: (SourceBroken, "the SSIS service failed inside the call (server threw an exception)"),
    0x8001010A: (SourceTimeout, "the SSIS service is busy (call rejected, retry later)"),
    0x80080005: (SourceUnreachable, "the SSIS service could not be started by DCOM (server execution failed)"),
    ACCESS_DENIED: (
        SourceAccessDenied,
        "access denied: grant this account Launch, Activation and Access on SSIS in DCOM Config (event 10016)",
    ),
    0x80040154: (
        SourceMissing,
        "the SSIS runtime is not registered for this bitness or release (class not registered)",
    ),
    0x80070002: (SourceMissing, "the assembly Microsoft.SqlServer.ManagedDTS of this release is not installed"),
    0x8007007E: (SourceMissing, "a native module of the SSIS runtime is not installed"),
    0x80131040: (SourceMissing, "another version of Microsoft.SqlServer.ManagedDTS was found than was asked for"),
}


def error_for(source: str, trouble: Trouble) -> SourceError:
    """The error to raise for an exception of the managed side; its sentence names source, meaning and HRESULT."""
    kind, meaning = _MEANINGS.get(trouble.hresult, (SourceBroken, trouble.message or "no message"))
    if trouble.type == "MissingExtra":
        kind, meaning = SourceMissing, trouble.message
    code = f", HRESULT 0x{trouble.hresult:08X}" if trouble.hresult else ""
    return kind(f"{source}: {meaning} ({trouble.type}{code})")
