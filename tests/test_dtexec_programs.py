"""Which program a process is."""

from __future__ import annotations

import pytest

from ssis_exporter.sources.dtexec.arguments import Arguments
from ssis_exporter.sources.dtexec.programs import Identified, NameSays, Program, Via, by_kernel_name, identify


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dtexec", Program.DTEXEC),
        ("DTExec.exe", Program.DTEXEC),
        ("dtshost.exe", Program.DTSHOST),
        ("ISServerExec.exe", Program.ISSERVEREXEC),
        ("ISServerExec.ex", Program.ISSERVEREXEC),
        ("DTExecUI.exe", Program.DTEXECUI),
        ("DtsDebugHost.ex", Program.DTSDEBUGHOST),
        ("dtexec2", NameSays.NOTHING),
        ("mydtexec", NameSays.NOTHING),
        ("dtexec ", NameSays.NOTHING),
        ("", NameSays.NOTHING),
        ("MsDtsSrvr.exe", NameSays.NOTHING),
        ("python3", NameSays.NOTHING),
        ("wine64-preloade", NameSays.LOADER),
        ("ld-linux-x86-64", NameSays.LOADER),
        ("qemu-x86_64", NameSays.LOADER),
        ("sh", NameSays.LOADER),
    ],
)
def test_kernel_name(name: str, says: Program | NameSays) -> None:
    """
    Names count in any case and cut to 15 bytes, and only whole.
    """
    assert says == by_kernel_name(name)


@pytest.mark.parametrize(
    ("name", "arguments", "found"),
    [
        ("dtexec", ["/opt/ssis/bin/dtexec", "/F", "x"], Identified(Program.DTEXEC, 1, Via.NOTHING)),
        ("dtexec", ["anything", "/F", "x"], Identified(Program.DTEXEC, 1, Via.NOTHING)),
        ("dtexec", ["dtexec"], Identified(Program.DTEXEC, 1, Via.NOTHING)),
        ("dtexec", ["dtexec", "/F", "/x/dtexec"], Identified(Program.DTEXEC, 1, Via.NOTHING)),
        ("dtexec", ["/bin/sh", "/x/dtexec", "/F", "x"], Identified(Program.DTEXEC, 2, Via.SCRIPT)),
        ("dtexec", ["/usr/bin/python3", "-u", "/x/dtexec", "/F"], Identified(Program.DTEXEC, 3, Via.SCRIPT)),
        ("dtexec.exe", ["/usr/bin/wine", "/x/dtexec.exe", "/F"], Identified(Program.DTEXEC, 2, Via.LOADER)),
        (
            "wine64-preloade",
            ["wine64-preloader", "wine64", r"C:\b\DTExec.exe", "/F"],
            Identified(Program.DTEXEC, 3, Via.LOADER),
        ),
        (
            "ld-linux-x86-64",
            ["/lib64/ld-linux-x86-64.so.2", "/opt/dtexec", "/F"],
            Identified(Program.DTEXEC, 2, Via.LOADER),
        ),
        (
            "ld-linux-x86-64",
            ["/lib64/ld-linux-x86-64.so.2", "--library-path", "/lib", "/opt/dtexec", "/F"],
            Identified(Program.DTEXEC, 4, Via.LOADER),
        ),
        (
            "qemu-x86_64",
            ["qemu-x86_64", "-L", "/x", "-cpu", "max", "dtexec", "/F"],
            Identified(Program.DTEXEC, 6, Via.LOADER),
        ),
        ("mono", ["mono", "--debug", "ISServerExec.exe", "x"], Identified(Program.ISSERVEREXEC, 3, Via.LOADER)),
        ("dotnet", ["dotnet", "exec", "dtexec.dll", "/F"], Identified(Program.DTEXEC, 3, Via.LOADER)),
        ("sh", ["sh", "-e", "/x/dtexec", "/F"], Identified(Program.DTEXEC, 3, Via.SCRIPT)),
        ("sh", ["sh", "-c", "/x/dtexec"], None),
        ("bash", ["bash", "-lc", "dtexec /F x"], None),
        ("bash", ["-bash"], None),
        ("sh", ["sh", "run.sh", "dtexec", "/F"], None),
        ("wine", ["wine", "cmd.exe", "/c", "dtexec.exe"], None),
        ("dotnet", ["dotnet", "app.dll", "dtexec"], None),
        ("vim", ["vim", "dtexec"], None),
    ],
)
def test_program_of_a_process(name: str, arguments: list[str], found: Identified | None) -> None:
    """
    A loader or script before the program is seen through; a program that is only mentioned does not count.
    """
    assert found == identify(name, Arguments.of(arguments))
