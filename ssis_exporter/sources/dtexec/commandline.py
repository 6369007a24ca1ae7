"""
What a command line of dtexec says about the package it runs, and nothing else.

Passwords, connection strings and parameter values stand on these command lines. `read_arguments` keeps only where the
package is and who called; everything else is dropped while reading, so that no value, log line or error can hold it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from functools import partial

from ssis_exporter.sources.dtexec.arguments import Arguments, Wiped


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

    @property
    def pattern(self) -> str:
        """Matches every word that means it: `f(?:i(?:l(?:e)?)?)?`."""
        rest = ""
        for letter in reversed(self.full[len(self.shortest) :]):
            rest = f"(?:{letter}{rest})?"
        return re.escape(self.shortest) + rest


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

_ANY_OPTION = re.compile(f"[/-](?:{'|'.join(f'({option.pattern})' for option in _OPTIONS)})".encode(), re.IGNORECASE)
_RUNS_NOTHING_HERE = frozenset({"isserver", "validate", "help", "?"})
_BACKSLASH, _QUOTE = b'\\"'
_PLACES = {"file": Place.FILE, "sql": Place.SQL, "dts": Place.DTS, "project": Place.PROJECT}


def read_arguments(
    arguments: Arguments, read_command_file: Callable[[str], Arguments | None] | None = None
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
    """Collects the few options that are kept; the values of all others never become text."""

    def __init__(self, read_command_file: Callable[[str], Arguments | None] | None) -> None:
        self._read_command_file = read_command_file
        self._place: Place | None = None
        self._path = ""
        self._package = ""
        self._caller = ""
        self._hidden = False
        self._runs_nothing_here = False

    def read(self, arguments: Arguments) -> PackageCall | None:
        self._take(arguments, inside_file=False)
        if self._runs_nothing_here:
            return None
        if self._place is None:
            return PackageCall(place=Place.UNKNOWN, caller=self._caller) if self._hidden else None
        package = self._package if self._place is Place.PROJECT else ""
        return PackageCall(place=self._place, path=self._path, package=package, caller=self._caller)

    def _take(self, arguments: Arguments, *, inside_file: bool) -> None:
        def text(at: int | None) -> str:
            return without_agent_quotes(arguments.text(at)) if at is not None else ""

        for option, value in _options(arguments):
            if option in _RUNS_NOTHING_HERE:
                self._runs_nothing_here = True
            elif option in _PLACES:
                self._place = _PLACES[option]
                self._path = text(value)
                if self._place in (Place.SQL, Place.DTS):
                    self._path = self._path.removeprefix("\\")
            elif option == "package":
                self._package = text(value)
            elif option == "callerinfo":
                self._caller = text(value)
            elif option == "commandfile":
                self._take_file(text(value), inside_file=inside_file)

    def _take_file(self, path: str, *, inside_file: bool) -> None:
        # A command file within a command file is not documented; following it could go round in circles.
        arguments = None if inside_file or self._read_command_file is None else self._read_command_file(path)
        if arguments is None:
            self._place, self._path, self._package, self._hidden = None, "", "", True
        else:
            self._take(arguments, inside_file=True)


def _options(arguments: Arguments) -> Iterator[tuple[str, int | None]]:
    """Full name of each known option, and where its value stands. What belongs to none may be a secret: dropped."""
    at = 0
    while at < len(arguments):
        option = _find_option(arguments, at)
        at += 1
        if option is None:
            continue
        takes_next = option.value is _Value.ONE or (
            option.value is _Value.MAYBE and at < len(arguments) and _find_option(arguments, at) is None
        )
        if takes_next and at < len(arguments):
            yield option.full, at
            at += 1
        else:
            yield option.full, None


def _find_option(arguments: Arguments, at: int) -> _Option | None:
    found = arguments.match(at, _ANY_OPTION)
    return _OPTIONS[found.lastindex - 1] if found is not None and found.lastindex is not None else None


def without_agent_quotes(value: str) -> str:
    """
    Takes away the second level of quotes.

    SQL Server Agent writes `"\\"value\\""`, which after splitting is still a value in quotes.
    """
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


def split_windows(line: bytes | memoryview, *, blanks: bytes = b" \t") -> Arguments:
    """
    Splits the arguments in a Windows command line (without the program's own name) as the C runtime does.

    Backslashes count only before a quote: two are one, and an odd one makes the quote literal. Within quotes, two
    quotes are one. The line is UTF-8, where no part of another letter is a quote, backslash or blank.
    https://learn.microsoft.com/cpp/c-language/parsing-c-command-line-arguments
    """
    # What is split off is never longer than what it was made from.
    place = Wiped(len(line))
    begins = [0]
    at = 0
    while at < len(line):
        if line[at] in blanks:
            at += 1
        else:
            at, end = _one_argument(line, at, blanks, place, begins[-1])
            begins.append(end + 1)
    return Arguments(place, tuple(begins), partial(str, encoding="utf-8", errors="replace"))


def _one_argument(line: bytes | memoryview, at: int, blanks: bytes, place: Wiped, end: int) -> tuple[int, int]:
    """Puts the argument that begins at `at` into `place` from `end` on. Where each of the two has come to."""
    in_quotes = False
    while at < len(line) and (in_quotes or line[at] not in blanks):
        if line[at] == _BACKSLASH:
            begin = at
            while at < len(line) and line[at] == _BACKSLASH:
                at += 1
            count = at - begin
            if line[at : at + 1] == b'"':
                end = _put(place, end, b"\\" * (count // 2))
                if count % 2:
                    end = _put(place, end, b'"')
                    at += 1
            else:
                end = _put(place, end, b"\\" * count)
        elif line[at] == _QUOTE:
            if in_quotes and line[at + 1 : at + 2] == b'"':
                end = _put(place, end, b'"')
                at += 2
            else:
                in_quotes = not in_quotes
                at += 1
        else:
            end = _put(place, end, line[at : at + 1])
            at += 1
    return at, end


def _put(place: Wiped, at: int, part: bytes | memoryview) -> int:
    """Where the part ends."""
    end = at + len(part)
    place[at:end] = part
    return end
