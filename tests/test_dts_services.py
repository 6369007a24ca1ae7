"""Releases of the SSIS service, and the names of this machine."""

from __future__ import annotations

import socket

import pytest

from ssis_exporter.errors import ConfigError, SourceBroken, SourceMissing, SourceUnreachable
from ssis_exporter.sources.dts import DtsSource
from ssis_exporter.sources.dts.hresults import error_for
from ssis_exporter.sources.dts.protocol import Trouble
from ssis_exporter.sources.dts.services import checked_server, running_releases


@pytest.mark.parametrize("name", [".", "localhost", socket.gethostname(), socket.gethostname().upper()])
def test_names_of_this_machine_are_taken(name: str) -> None:
    """
    The API takes `.`, `localhost` and the machine's own name.
    """
    assert name == checked_server("local", name)


def test_no_service_runs_where_there_are_none() -> None:
    """
    A system without Windows services has no release of the SSIS service.
    """
    assert [] == running_releases()


def test_an_unknown_release_is_refused() -> None:
    """
    A release that never was is refused with those that are.
    """
    with pytest.raises(ConfigError, match=r"release 155 is unknown; known are 110, .*, 170 \(160 is 2022\)"):
        DtsSource.from_settings("local", DtsSource.Settings(release=155))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("trouble", "kind", "says"),
    [
        (Trouble("DtsRuntimeException", 0xC00160AA), SourceUnreachable, "start the Windows service MsDtsServer"),
        (Trouble("COMException", 0x80040154), SourceMissing, "not registered"),
        (Trouble("Exception", 0, "what nobody foresaw"), SourceBroken, "what nobody foresaw"),
        (Trouble("MissingExtra", 0, "needs pythonnet"), SourceMissing, "needs pythonnet"),
    ],
)
def test_hresults_mean_something(trouble: Trouble, kind: type[Exception], says: str) -> None:
    """
    An exception of the managed side is classified by its HRESULT, and said in words.
    """
    error = error_for("local", trouble)

    assert kind is type(error)
    assert says in str(error)


def test_a_missing_extra_is_told_without_what_only_a_programmer_knows() -> None:
    """
    What to install, and no name of a class behind it.
    """
    told = "the helper needs pythonnet, which is not installed; run: pip install 'ssis-exporter[dts]'"

    assert f"local: {told}" == str(error_for("local", Trouble("MissingExtra", 0, told)))
