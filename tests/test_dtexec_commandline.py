"""Command lines of dtexec: what is kept of them, and that no secret is."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter.sources.dtexec.arguments import Arguments
from ssis_exporter.sources.dtexec.commandline import (
    _OPTIONS,
    PackageCall,
    Place,
    read_arguments,
    split_windows,
    without_agent_quotes,
)
from tests.test_dtexec_arguments import texts_of

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
TRICKY = st.text(st.sampled_from('ab \t"\\/-;'), max_size=12)


def split(line: str) -> list[str]:
    """The arguments in a line."""
    return texts_of(split_windows(line.encode()))


def read(arguments: list[str], files: dict[str, list[str]] | None = None) -> PackageCall | None:
    """What arguments run, with these command files."""
    known = {path: Arguments.of(texts) for path, texts in (files or {}).items()}
    return read_arguments(Arguments.of(arguments), known.get)


def quoted(argument: str) -> str:
    """An argument in quotes as Microsoft's rules want it, written without looking at the splitting."""
    made = ['"']
    backslashes = 0
    for letter in argument:
        if letter == '"':
            made.append("\\" * (backslashes + 1))
            backslashes = 0
        elif letter == "\\":
            backslashes += 1
        else:
            backslashes = 0
        made.append(letter)
    made.append("\\" * backslashes + '"')
    return "".join(made)


@given(st.lists(WORDS | TRICKY))
def test_what_was_quoted_comes_back(arguments: list[str]) -> None:
    """
    Splitting undoes quoting.
    """
    assert arguments == split(" ".join(quoted(argument) for argument in arguments))


@given(st.lists(TRICKY))
def test_what_python_quotes_comes_back(arguments: list[str]) -> None:
    """
    Splitting undoes the quoting that Python does on Windows.
    """
    assert arguments == split(subprocess.list2cmdline(arguments))


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ('"abc" d e', ["abc", "d", "e"]),
        (r'a\\\b d"e f"g h', [r"a\\\b", "de fg", "h"]),
        (r"a\\\"b c d", [r"a\"b", "c", "d"]),
        (r'a\\\\"b c" d e', [r"a\\b c", "d", "e"]),
        ('"a""b" c', ['a"b', "c"]),
        ('a"b"" c d', ['ab" c d']),
        (r'""', [""]),
        ("  \t ", []),
        (r'Name;"\"\\srv\share\dir\\\""', [r'Name;"\\srv\share\dir\"']),
        (r'"\"name\"";value', ['"name";value']),
    ],
)
def test_splits_as_the_c_runtime_does(line: str, arguments: list[str]) -> None:
    """
    The examples of Microsoft's page on parsing arguments, and those seen in Agent's steps.
    """
    assert arguments == split(line)


AGENT_ISSERVER = (
    r'/ISSERVER "\"\SSISDB\F\P\x.dtsx\"" /SERVER "\"HOST\INST\"" /ENVREFERENCE 5'
    r' /Par "\"$ServerOption::LOGGING_LEVEL(Int16)\"";1 /Par "\"$ServerOption::SYNCHRONIZED(Boolean)\"";True'
    r" /CALLERINFO SQLAGENT /REPORTING E"
)
AGENT_DTS = r'/DTS "\"\MSDB\Folder\Pkg\"" /SERVER HOST /CHECKPOINTING OFF /REPORTING E'
AGENT_SQL = (
    r'/SQL "\"\Finance\Load Sales\"" /SERVER "\"HOST\INST\"" /X86 /CHECKPOINTING OFF'
    r' /SET "\"\Package.Variables[x].Value\"";"\"secret\"" /CALLERINFO SQLAGENT'
)
AGENT_FILE = (
    r'/FILE "\"C:\etl\Load Sales.dtsx\"" /CONNECTION "\"DW\"";"\"Data Source=x;Password=secret\""'
    r' /DECRYPT "\"secret\"" /REPORTING EWP'
)


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (AGENT_ISSERVER, None),
        (AGENT_DTS, PackageCall(place=Place.DTS, path=r"MSDB\Folder\Pkg")),
        (AGENT_SQL, PackageCall(place=Place.SQL, path=r"Finance\Load Sales", caller="SQLAGENT")),
        (AGENT_FILE, PackageCall(place=Place.FILE, path=r"C:\etl\Load Sales.dtsx")),
        (r'/DTS "\File System\Load"', PackageCall(place=Place.DTS, path=r"File System\Load")),
        ("/f x.dtsx", PackageCall(place=Place.FILE, path="x.dtsx")),
        ("-F x.dtsx", PackageCall(place=Place.FILE, path="x.dtsx")),
        ("-fil x.dtsx", PackageCall(place=Place.FILE, path="x.dtsx")),
        ("/FILE /home/etl/x.dtsx", PackageCall(place=Place.FILE, path="/home/etl/x.dtsx")),
        ("/SQ x", PackageCall(place=Place.SQL, path="x")),
        ("/d x", PackageCall(place=Place.DTS, path="x")),
        (
            r"/Proj C:\p\DW.ispac /Pack Load.dtsx",
            PackageCall(place=Place.PROJECT, path=r"C:\p\DW.ispac", package="Load.dtsx"),
        ),
        ("/PACKAGE a /project b", PackageCall(place=Place.PROJECT, path="b", package="a")),
        ("/F a /F b", PackageCall(place=Place.FILE, path="b")),
        ("/F a /Ca SQLAGENT", PackageCall(place=Place.FILE, path="a", caller="SQLAGENT")),
        ("/F a /De /Rep V", PackageCall(place=Place.FILE, path="a")),
        ("/De /F a", PackageCall(place=Place.FILE, path="a")),
        ("/De geheim /F a", PackageCall(place=Place.FILE, path="a")),
        ("/P /F /F a", PackageCall(place=Place.FILE, path="a")),
        ("/Pa x /F a", PackageCall(place=Place.FILE, path="a")),
        ("/Dump x /F a", PackageCall(place=Place.FILE, path="a")),
        ("/DumpOnError /F a", PackageCall(place=Place.FILE, path="a")),
        ("/Pack a", None),
        ("/F a /Va", None),
        ("/F a /validate", None),
        ("/I x /F a", None),
        ("/F a /?", None),
        ("-?", None),
        ("/H", None),
        ("/help file", None),
        ("/Rep E", None),
        ("/Fi", PackageCall(place=Place.FILE, path="")),
        ("/Filed a", None),
        ("/ F a", None),
        ("", None),
    ],
)
def test_keeps_the_package_and_who_called(line: str, call: PackageCall | None) -> None:
    """
    Each way of naming a package, in any case and abbreviation; clients and runs of nothing are none.
    """
    assert call == read_arguments(split_windows(line.encode()))


@pytest.mark.parametrize(
    ("word", "full"),
    [
        *[(word, "password") for word in ("p", "pa", "pas", "password")],
        *[(word, "parameter") for word in ("par", "param", "parameter")],
        *[(word, "package") for word in ("pack", "packa", "package")],
        *[(word, "project") for word in ("proj", "project")],
        *[(word, "dts") for word in ("d", "dt", "dts")],
        *[(word, "decrypt") for word in ("de", "dec", "decrypt")],
        ("dump", "dump"),
        ("dumponerror", "dumponerror"),
        ("ser", "server"),
        ("set", "set"),
        ("sq", "sql"),
        ("su", "sum"),
        ("conn", "connection"),
        ("com", "commandfile"),
        ("conf", "configfile"),
        ("cons", "consolelog"),
        ("checkf", "checkfile"),
        ("checkp", "checkpointing"),
        ("va", "validate"),
        ("vlog", "vlog"),
        ("verifyp", "verifypackageid"),
        ("res", "restart"),
        ("rep", "reporting"),
        ("rem", "rem"),
    ],
)
def test_abbreviations_mean_one_option(word: str, full: str) -> None:
    """
    Each word is exactly one option.
    """
    assert [full] == [option.full for option in _OPTIONS if re.fullmatch(option.pattern, word)]


def test_no_two_options_overlap() -> None:
    """
    No legal abbreviation means two options.
    """
    legal = [
        option.full[:length] for option in _OPTIONS for length in range(len(option.shortest), len(option.full) + 1)
    ]

    assert len(set(legal)) == len(legal)


SECRET = "s3cr3t-Kx"
SECRET_VALUES = st.sampled_from(
    [
        SECRET,
        f'"{SECRET}"',
        f"/{SECRET}",
        f"-f{SECRET}",
        f'"DW";"Data Source=x;Password={SECRET}"',
        f'"$Package::p(String)";"{SECRET}"',
        rf'"\Package.Variables[User::x].Value";{SECRET}',
        rf'DTS.LogProviderTextFile;"{SECRET}\\"',
    ]
)
SECRET_OPTIONS = st.sampled_from(
    ["P", "Pas", "password", "De", "decr", "DECRYPT", "Conn", "connection", "Set", "Par", "Parameter", "L", "Logger"]
)


@st.composite
def options_with_secrets(draw: st.DrawFn) -> list[str]:
    """One option with its secret, by the rules or somewhat against them."""
    option = draw(st.sampled_from("/-")) + draw(SECRET_OPTIONS)
    value = draw(SECRET_VALUES)
    form = draw(st.sampled_from(["parted", "joined", "colon", "equals", "unknown"]))
    return {
        "parted": [option, value],
        "joined": [option + value],
        "colon": [f"{option}:{value}"],
        "equals": [f"{option}={value}"],
        "unknown": [f"{option}x", value],
    }[form]


HARMLESS = st.sampled_from([["/F", "x.dtsx"], ["/SQL", "\\a\\b"], ["/Rep", "E"], ["/Ca", "SQLAGENT"], ["/X86"], ["/W"]])


@given(st.lists(options_with_secrets() | HARMLESS, max_size=8))
def test_no_secret_survives(options: list[list[str]]) -> None:
    """
    Whatever comes with an option that may hold a secret is gone after reading.
    """
    call = read([argument for option in options for argument in option])

    assert SECRET not in repr(call)


@given(st.lists(WORDS | TRICKY | st.sampled_from(["/F", "/P", "/De", "/Com", "/?"])))
def test_reading_never_fails(arguments: list[str]) -> None:
    """
    Any arguments can be read.
    """
    read(arguments)


def test_command_file_is_expanded_where_it_stands() -> None:
    """
    The last option wins, also over a command file.
    """
    files = {"before.txt": ["/F", "from-file.dtsx", "/P", SECRET]}

    first = read(["/F", "a.dtsx", "/Com", "before.txt"], files)
    last = read(["/Com", "before.txt", "/F", "a.dtsx"], files)

    assert PackageCall(place=Place.FILE, path="from-file.dtsx") == first
    assert PackageCall(place=Place.FILE, path="a.dtsx") == last


def test_command_file_that_cannot_be_read_makes_the_package_unknown() -> None:
    """
    It may name any package, so what stood before it counts for nothing, and what comes after it counts.
    """
    assert PackageCall(place=Place.UNKNOWN) == read(["/F", "a.dtsx", "/Com", "x"])
    assert PackageCall(place=Place.FILE, path="b") == read(["/Com", "x", "/F", "b"])


def test_command_file_may_turn_it_into_a_client() -> None:
    """
    What runs nothing here does so also when the command file says it.
    """
    assert read(["/Com", "x"], {"x": ["/ISServer", r"\SSISDB\f\p\x.dtsx"]}) is None


def test_command_file_within_a_command_file_is_not_followed() -> None:
    """
    A file that names itself does not go round in circles.
    """
    assert PackageCall(place=Place.UNKNOWN) == read(["/Com", "x"], {"x": ["/F", "a", "/Com", "x"]})


@pytest.mark.parametrize(
    ("value", "without"), [('"a b"', "a b"), ("a", "a"), ('"', '"'), ('""', ""), ('"a', '"a'), ('a"', 'a"')]
)
def test_one_level_of_quotes_is_taken_away(value: str, without: str) -> None:
    """
    Quotes go in pairs.
    """
    assert without == without_agent_quotes(value)
