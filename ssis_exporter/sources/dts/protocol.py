"""
What the exporter and its helper say to each other: one JSON object a line, UTF-8, in both directions.

The helper is a program that holds the managed API; it may be written in any language. It says **hello** once, then
answers requests, one at a time, in order::

    helper    {"hello": 1, "pid": 4711, "release": 160, "assembly": "Microsoft.SqlServer.ManagedDTS, Version=...",
               "machine": "SQL01", "elevated": true}
    exporter  {"id": 1, "do": "list", "server": "."}
    helper    {"id": 1, "ok": {"running": ["6f0e...", "c1d2..."], "rows": [{...}]}}
    exporter  {"id": 2, "do": "stop", "server": ".", "instance": "6f0e..."}
    helper    {"id": 2, "ok": {"found": true}}
    exporter  {"id": 3, "do": "probe", "server": "."}
    helper    {"id": 3, "ok": {"probe": {...}}}

``running`` names every package that runs now, by InstanceID. ``rows`` has one object for each of them whose
properties this helper has not sent before, or sent while the name was still empty; a package without an InstanceID
(`NO_IDENTITY`) has one in every answer. A call that failed is answered
``{"id": 1, "error": {"type": "COMException", "hresult": 2147943674, "message": "..."}}``, with the HRESULT as a
number of either sign (0 where there is none). A helper that cannot load the API says ``{"failed": {...}}`` with the
same three fields instead of hello, and ends.

A stop whose InstanceID names more than one package stops none and is answered with an error of the type ``Ambiguous``.

The helper ends when its standard input ends. Whatever else comes on its standard output is taken as its death.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ssis_exporter.readiness import make_ready

PROTOCOL_VERSION = 1

NO_IDENTITY = "00000000-0000-0000-0000-000000000000"
"""The InstanceID of a package to which nobody gave one: it names no run."""


class Trouble(msgspec.Struct, frozen=True):
    """An exception of the managed side."""

    type: str
    hresult: int = 0
    message: str = ""

    @property
    def code(self) -> int:
        """The HRESULT as it is written: .NET's own is signed, and a helper may hand it on so."""
        return self.hresult & 0xFFFFFFFF


class Row(msgspec.Struct, frozen=True):
    """The properties of one RunningPackage. Null and empty texts are ordinary."""

    instance: str
    package: str | None = None
    """PackageID, dashed lower-case text without braces."""

    name: str | None = None
    description: str | None = None
    user: str | None = None
    start_ticks: int | None = None
    """ExecutionStartTime.Ticks: 100 ns since year 1, local time of the machine (a COM date has no zone)."""

    start_utc: bool = False
    """Its Kind says that it is in UTC."""

    raw_duration: int | None = None
    """ExecutionDuration as it came; no page states its unit, so it is for diagnosis only."""


class Hello(msgspec.Struct, frozen=True):
    """The helper is ready."""

    hello: int
    pid: int
    release: int
    assembly: str
    machine: str = ""
    elevated: bool | None = None
    """Whether the account is an elevated administrator; None where nothing tells."""


class Failed(msgspec.Struct, frozen=True):
    """The helper cannot load the API."""

    failed: Trouble


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing for the helper to do."""

    id: int
    do: Literal["list", "stop", "probe"]
    server: str
    instance: str | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a request: exactly one of `ok` and `error`."""

    id: int
    ok: dict[str, Any] | None = None
    error: Trouble | None = None


class Listing(msgspec.Struct, frozen=True):
    """The answer to `list`."""

    running: list[str]
    rows: list[Row] = []


class ListAnswer(msgspec.Struct, frozen=True):
    """`Answer` to a `list`, decoded in one go."""

    id: int
    ok: Listing | None = None
    error: Trouble | None = None


make_ready(Hello, Failed, Request, Answer, ListAnswer)
