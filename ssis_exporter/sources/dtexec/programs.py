"""Which program a process is: by its name, or by what a loader or a script before it was given to run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from ssis_exporter.sources.dtexec.arguments import Arguments


class Program(StrEnum):
    """The programs that run packages."""

    DTEXEC = "dtexec"
    DTSHOST = "dtshost"
    ISSERVEREXEC = "ISServerExec"
    DTEXECUI = "DTExecUI"
    DTSDEBUGHOST = "DtsDebugHost"

    @property
    def is_host(self) -> bool:
        """Whether it only may host packages: that it runs does not say that a package runs."""
        return self in (Program.ISSERVEREXEC, Program.DTEXECUI, Program.DTSDEBUGHOST)


class Via(Enum):
    """What stands between the kernel's process and the program."""

    NOTHING = auto()
    LOADER = auto()
    """The program's code runs in the loader's process: `wine`, `ld.so`, `qemu`."""
    SCRIPT = auto()
    """A script of the program's name, which starts the program below itself or becomes it."""


@dataclass(frozen=True, slots=True)
class Identified:
    """A process that is one of the programs."""

    program: Program
    first_argument: int
    """Where in the process's arguments those of the program begin."""

    via: Via


class NameSays(Enum):
    """What the kernel's name of a process alone tells, where it is none of the programs."""

    NOTHING = auto()
    """Not ours, whatever its arguments are."""
    LOADER = auto()
    """It may run one of the programs: its arguments tell."""


KERNEL_NAME_LENGTH = 15
"""Linux cuts the name of a process here (TASK_COMM_LEN without its end)."""

_BY_NAME = {name: program for program in Program for name in (program.lower(), f"{program.lower()}.exe")}
_BY_KERNEL_NAME = {name[:KERNEL_NAME_LENGTH]: program for name, program in _BY_NAME.items()} | _BY_NAME

_WINE = ("wine", "wine64", "wine-preloader", "wine64-preloader", "wine64-preloader"[:KERNEL_NAME_LENGTH])
_MONO = ("mono", "mono-sgen", "mono-sgen64", "dotnet")
_LOADERS = frozenset((*_WINE, *_MONO, "box64", "box86", "ld.so", "ld.so.1"))
_LOADERS_BEGIN = ("ld-", "qemu-")
_SHELLS = frozenset(["sh", "bash", "dash", "ksh", "mksh", "zsh", "ash", "busybox"])
_MOST_LOADER_ARGUMENTS = 32


def _pattern(text: str) -> re.Pattern[bytes]:
    return re.compile(text.encode(), re.IGNORECASE | re.DOTALL)


_FOLDER = r"(?:.*[\\/])?"
_PROGRAM_FILE = _pattern(f"{_FOLDER}(?P<name>{'|'.join(map(re.escape, _BY_NAME))})(?:\\.dll)?")
_LOADER_FILE = _pattern(
    f"{_FOLDER}(?:{'|'.join(map(re.escape, _LOADERS))}|(?:{'|'.join(map(re.escape, _LOADERS_BEGIN))})[^\\\\/]*)"
)
_OPTION = _pattern("-.*")
_OPTION_WITH_VALUE = _pattern("-.*=.*")
_SHELL_COMMAND = re.compile(b"-(?!-).*c.*", re.DOTALL)
_DOTNET_COMMAND = re.compile(b"exec")


def by_kernel_name(name: str) -> Program | NameSays:
    """What the kernel's name of a process tells, in any case and cut."""
    name = name.lower()
    program = _BY_KERNEL_NAME.get(name)
    if program is not None:
        return program
    return NameSays.LOADER if _is_loader(name) or name in _SHELLS else NameSays.NOTHING


def identify(kernel_name: str, arguments: Arguments) -> Identified | None:
    """
    Which of the programs a process is, by its name and arguments; None where it is none of them.

    No argument becomes text: other programs have secrets among theirs, too.
    """
    match by_kernel_name(kernel_name):
        case Program() as program:
            return _named(program, arguments)
        case NameSays.LOADER:
            if kernel_name.lower() in _SHELLS:
                return _given_to_shell(arguments)
            return _given_to_loader(arguments)
        case NameSays.NOTHING:
            return None


def last_step(path: str) -> str:
    """The last step of a path, Windows' or POSIX's: both stand on these command lines on both systems."""
    return re.split(r"[\\/]", path)[-1]


def _is_loader(name: str) -> bool:
    return name in _LOADERS or name.startswith(_LOADERS_BEGIN)


def _program_of_file(arguments: Arguments, at: int) -> Program | None:
    found = arguments.match(at, _PROGRAM_FILE)
    return _BY_NAME[found["name"].decode().lower()] if found is not None else None


def _named(program: Program, arguments: Arguments) -> Identified:
    """The kernel's name is the program's; a loader or an interpreter may still stand first in the arguments."""
    if not arguments or _program_of_file(arguments, 0) is program:
        return Identified(program, 1, Via.NOTHING)
    given = _given_to_loader(arguments)
    if given is None or given.program is not program:
        # Whoever started it chose another word for argument 0.
        return Identified(program, 1, Via.NOTHING)
    if arguments.match(0, _LOADER_FILE):
        return given
    # The kernel puts the interpreter of a script's first line before the script.
    return Identified(program, given.first_argument, Via.SCRIPT)


def _given_to_loader(arguments: Arguments) -> Identified | None:
    """The first argument that is no option, no option's value and no further loader must be the program."""
    after_option = False
    for at in range(1, min(len(arguments), _MOST_LOADER_ARGUMENTS)):
        program = _program_of_file(arguments, at)
        if program is not None:
            return Identified(program, at + 1, Via.LOADER)
        if arguments.match(at, _OPTION):
            after_option = not arguments.match(at, _OPTION_WITH_VALUE)
        elif after_option:
            after_option = False
        elif not arguments.match(at, _LOADER_FILE) and not arguments.match(at, _DOTNET_COMMAND):
            return None
    return None


def _given_to_shell(arguments: Arguments) -> Identified | None:
    """A shell runs a script of that name; with `-c` it runs a command, which is a process of its own."""
    for at in range(1, min(len(arguments), _MOST_LOADER_ARGUMENTS)):
        if arguments.match(at, _SHELL_COMMAND):
            return None
        if not arguments.match(at, _OPTION):
            program = _program_of_file(arguments, at)
            return Identified(program, at + 1, Via.SCRIPT) if program is not None else None
    return None
