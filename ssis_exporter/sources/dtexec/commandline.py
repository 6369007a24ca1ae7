"""
What a command line of dtexec says about the package it runs, and nothing else.

Passwords, connection strings and parameter values stand on these command lines. `read_arguments` keeps only where the
package is and who called; everything else is dropped while reading, so that no value, log line or error can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto


class Place(StrEnum):
    """Where the package is taken from."""

    FILE = "file"
    SQL = "sql"
    DTS = "dts"
    PROJECT = "project"
    UNKNOWN = "unknown"
    """A command file names the package, and it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageCall:
    """One run of a package as its command line describes it. Holds no secret."""

    place: Place
    path: str = ""
    """A file's path, or the path within msdb or the package store, without the first backslash."""

    package: str = ""
    """The package's name within a project file; empty for the other places."""

    caller: str = ""
    """`/CallerInfo`; SQL Server Agent says `SQLAGENT`."""


class _Value(Enum):
    """Whether an option takes a value."""

    NONE = auto()
    ONE = auto()
    MAYBE = auto()
    """One that does not itself look like an option."""


@dataclass(frozen=True, slots=True)
class _Option:
    shortest: str
    full: str
    value: _Value = _Value.ONE

    def is_meant_by(self, word: str) -> bool:
        return self.full.startswith(word) and word.startswith(self.shortest)


# https://learn.microsoft.com/sql/integration-services/packages/dtexec-utility: any abbreviation between the shortest
# form and the full name is legal. The ranges do not overlap: /P and /Pa are Password, /Par is Parameter.
_OPTIONS = (
    _Option("f", "file"),
    _Option("sq", "sql"),
    _Option("d", "dts"),
    _Option("i", "isserver"),
    _Option("proj", "project"),
    _Option("pack", "package"),
    _Option("ser", "server"),
    _Option("env", "envreference"),
    _Option("u", "user"),
    _Option("p", "password"),
    # Without a value dtexec asks for the password, so the next option must not be taken for it.
    _Option("de", "decrypt", _Value.MAYBE),
    _Option("conn", "connection"),
    _Option("set", "set"),
    _Option("par", "parameter"),
    _Option("l", "logger"),
    _Option("com", "commandfile"),
    _Option("conf", "configfile"),
    _Option("checkf", "checkfile"),
    _Option("checkp", "checkpointing", _Value.MAYBE),
    _Option("res", "restart", _Value.MAYBE),
    _Option("cons", "consolelog", _Value.MAYBE),
    _Option("rep", "reporting", _Value.MAYBE),
    _Option("ca", "callerinfo"),
    _Option("m", "maxconcurrent"),
    _Option("va", "validate", _Value.NONE),
    _Option("verifyb", "verifybuild", _Value.MAYBE),
    _Option("verifyp", "verifypackageid", _Value.MAYBE),
    _Option("verifys", "verifysigned", _Value.NONE),
    _Option("verifyv", "verifyversionid", _Value.MAYBE),
    _Option("vlog", "vlog", _Value.MAYBE),
    _Option("dump", "dump", _Value.MAYBE),
    _Option("dumponerror", "dumponerror", _Value.NONE),
    _Option("su", "sum", _Value.NONE),
    _Option("w", "warnaserror", _Value.NONE),
    _Option("x86", "x86", _Value.NONE),
    _Option("rem", "rem", _Value.MAYBE),
    _Option("h", "help", _Value.NONE),
    _Option("?", "?", _Value.NONE),
)

_RUNS_NOTHING_HERE = frozenset({"isserver", "validate", "help", "?"})
_PLACES = {"file": Place.FILE, "sql": Place.SQL, "dts": Place.DTS, "project": Place.PROJECT}


def read_arguments(
    arguments: Sequence[str], read_command_file: Callable[[str], Sequence[str] | None] | None = None
) -> PackageCall | None:
    """
    What the arguments of dtexec (without the program) run on this machine; None where they run nothing here.

    `/ISServer` runs in the catalog's own host, `/Validate` and help run nothing, and so does a command line that
    names no package. An option that comes again replaces the one before.

    A command file is expanded where it stands, by `read_command_file` (a path to its arguments). Where that is None
    or answers None the file may name any package, so what stood before it counts for nothing.
    """
    return _Reader(read_command_file).read(arguments)


class _Reader:
    """Collects the few options that are kept."""

    def __init__(self, read_command_file: Callable[[str], Sequence[str] | None] | None) -> None:
        self._read_command_file = read_command_file
        self._place: Place | None = None
        self._path = ""
        self._package = ""
        self._caller = ""
        self._hidden = False
        self._runs_nothing_here = False

    def read(self, arguments: Sequence[str]) -> PackageCall | None:
        self._take(arguments, inside_file=False)
        if self._runs_nothing_here:
            return None
        if self._place is None:
            return PackageCall(place=Place.UNKNOWN, caller=self._caller) if self._hidden else None
        package = self._package if self._place is Place.PROJECT else ""
        return PackageCall(place=self._place, path=self._path, package=package, caller=self._caller)

    def _take(self, arguments: Sequence[str], *, inside_file: bool) -> None:
        for option, value in _options(arguments):
            if option in _RUNS_NOTHING_HERE:
                self._runs_nothing_here = True
            elif option in _PLACES:
                self._place = _PLACES[option]
                self._path = without_agent_quotes(value)
                if self._place in (Place.SQL, Place.DTS):
                    self._path = self._path.removeprefix("\\")
            elif option == "package":
                self._package = without_agent_quotes(value)
            elif option == "callerinfo":
                self._caller = without_agent_quotes(value)
            elif option == "commandfile":
                self._take_file(without_agent_quotes(value), inside_file=inside_file)

    def _take_file(self, path: str, *, inside_file: bool) -> None:
        # A command file within a command file is not documented; following it could go round in circles.
        arguments = None if inside_file or self._read_command_file is None else self._read_command_file(path)
        if arguments is None:
            self._place, self._path, self._package, self._hidden = None, "", "", True
        else:
            self._take(arguments, inside_file=True)


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Full name and value of each known option. What belongs to no option is dropped: it may be a secret."""
    at = 0
    while at < len(arguments):
        option = _find_option(arguments[at])
        at += 1
        if option is None:
            continue
        value = ""
        takes_next = option.value is _Value.ONE or (
            option.value is _Value.MAYBE and at < len(arguments) and _find_option(arguments[at]) is None
        )
        if takes_next and at < len(arguments):
            value = arguments[at]
            at += 1
        yield option.full, value


def _find_option(argument: str) -> _Option | None:
    if argument[:1] not in ("/", "-"):
        return None
    word = argument[1:].lower()
    return next((option for option in _OPTIONS if option.is_meant_by(word)), None)


def without_agent_quotes(value: str) -> str:
    """
    Takes away the second level of quotes.

    SQL Server Agent writes `"\\"value\\""`, which after splitting is still a value in quotes.
    """
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


def split_windows(line: str, *, blanks: str = " \t") -> list[str]:
    """
    Splits the arguments in a Windows command line (without the program's own name) as the C runtime does.

    Backslashes count only before a quote: two are one, and an odd one makes the quote literal. Within quotes, two
    quotes are one.
    https://learn.microsoft.com/cpp/c-language/parsing-c-command-line-arguments
    """
    arguments: list[str] = []
    at = 0
    while at < len(line):
        if line[at] in blanks:
            at += 1
        else:
            argument, at = _one_argument(line, at, blanks)
            arguments.append(argument)
    return arguments


def _one_argument(line: str, at: int, blanks: str) -> tuple[str, int]:
    """The argument that begins at `at`, and where it ended."""
    taken: list[str] = []
    in_quotes = False
    while at < len(line) and (in_quotes or line[at] not in blanks):
        if line[at] == "\\":
            end = at
            while end < len(line) and line[end] == "\\":
                end += 1
            count = end - at
            at = end
            if end < len(line) and line[end] == '"':
                taken.append("\\" * (count // 2))
                if count % 2:
                    taken.append('"')
                    at += 1
            else:
                taken.append("\\" * count)
        elif line[at] == '"':
            if in_quotes and line[at + 1 : at + 2] == '"':
                taken.append('"')
                at += 2
            else:
                in_quotes = not in_quotes
                at += 1
        else:
            taken.append(line[at])
            at += 1
    return "".join(taken), at
