"""
Name, ID and description of a package, from its file.

The path stands on somebody else's command line, so the file is not trusted: only regular files, bounded sizes, no DTD,
no entities, and nothing is unpacked to the disk.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote

from ssis_exporter.errors import SsisExporterError
from ssis_exporter.sources.dtexec.arguments import Arguments, Wiped
from ssis_exporter.sources.dtexec.commandline import split_windows


class FileUnreadable(SsisExporterError):
    """The file tells nothing: not there, not allowed, no package, too large, or not what it must be."""


@dataclass(frozen=True, slots=True)
class PackageFile:
    """What a package's file says about the package. Empty where it does not say it."""

    name: str = ""
    """Empty for a file that is encrypted as a whole."""

    package_id: str = ""
    """A GUID in braces and upper case."""

    description: str = ""


LARGEST_PACKAGE = 32 << 20
LARGEST_PROJECT = 256 << 20
LARGEST_COMMAND_FILE = 64 << 10

_NAMESPACE = "{www.microsoft.com/SqlServer/Dts}"
_CHUNK = 64 << 10
_LONGEST_TEXT = 4096
_MOST_ENTRIES = 10_000
_LARGEST_DIRECTORY = 4 << 20
_GUID = re.compile(r"\{?([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}?")
# A FIFO must not be waited for, and a terminal must not become ours.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)


class PackageFiles:
    """Reads package files and remembers them by path, time, size and inode. May be used by several threads."""

    def __init__(self, *, remembered: int = 1024) -> None:
        self._remembered = remembered
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], tuple[tuple[int, int, int], PackageFile | None]] = OrderedDict()
        self.reads = 0
        """How many files were really read."""

    def package(self, path: str) -> PackageFile:
        """A `.dtsx` file. Raises `FileUnreadable`."""
        return self._remember(path, "", LARGEST_PACKAGE, lambda file: read_package(file.read))

    def package_in_project(self, path: str, package: str) -> PackageFile:
        """A package within an `.ispac` file. Raises `FileUnreadable`."""
        return self._remember(path, package, LARGEST_PROJECT, lambda file: read_package_in_project(file, package))

    def _remember(self, path: str, package: str, limit: int, read: Callable[[BinaryIO], PackageFile]) -> PackageFile:
        with _open(path, limit) as file:
            status = os.fstat(file.fileno())
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            with self._lock:
                known = self._known.get((path, package))
                if known is not None:
                    self._known.move_to_end((path, package))
            found: PackageFile | None
            if known is not None and known[0] == version:
                found = known[1]
            else:
                self.reads += 1
                try:
                    found = read(file)
                except FileUnreadable:
                    found = None
                with self._lock:
                    self._known[(path, package)] = (version, found)
                    while len(self._known) > self._remembered:
                        self._known.popitem(last=False)
        if found is None:
            raise FileUnreadable(f"{path} is no readable package")
        return found


def read_command_file(path: str) -> Arguments:
    """The arguments in a command file; they may hold secrets. Raises `FileUnreadable`."""
    content, length = Wiped(LARGEST_COMMAND_FILE), 0
    # A buffer would keep what it held.
    with os.fdopen(_open_number(path, LARGEST_COMMAND_FILE), "rb", buffering=0) as file:
        try:
            while part := file.readinto(memoryview(content)[length:]):
                length += part
        except OSError as exc:
            raise FileUnreadable(f"{path} cannot be read: {exc.strerror}") from exc
    return split_windows(_as_utf8(memoryview(content)[:length]), blanks=b" \t\r\n")


def _as_utf8(text: memoryview) -> memoryview:
    """UTF-16, where its mark says so, as UTF-8; anything else as it is, without a mark."""
    mark = bytes(text[:3])
    if mark == codecs.BOM_UTF8:
        return text[3:]
    if not mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return text
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    line, length = Wiped(2 * len(text)), 0
    # Two bytes at a time: what is decoded in one piece stays in memory in one piece.
    for at in range(0, len(text), 2):
        letter = decoder.decode(text[at : at + 2]).encode()
        line[length : length + len(letter)] = letter
        length += len(letter)
    return memoryview(line)[:length]


def read_package(read: Callable[[int], bytes]) -> PackageFile:
    """
    Reads the XML of a package until it is known, through `read(count)`. Raises `FileUnreadable`.

    From 2012 on everything stands in the attributes of the root; before, in its `Property` children, of which some
    stand at the very end.
    """
    # Loaded here, because most command lines name no file.
    from defusedxml.common import DefusedXmlException  # noqa: PLC0415
    from defusedxml.ElementTree import DefusedXMLParser, ParseError  # noqa: PLC0415

    root = _Root()
    parser = DefusedXMLParser(target=root, forbid_dtd=True)
    left = LARGEST_PACKAGE
    try:
        while not root.is_known:
            chunk = read(_CHUNK)
            left -= len(chunk)
            if left < 0:
                raise FileUnreadable("it is larger than a package may be")
            if not chunk:
                parser.close()
                break
            parser.feed(chunk)
    except (ParseError, DefusedXmlException, ValueError, LookupError, OSError, zipfile.BadZipFile) as exc:
        raise FileUnreadable(f"it is not the XML of a package: {type(exc).__name__}") from exc
    return root.package()


def read_package_in_project(file: BinaryIO, package: str) -> PackageFile:
    """One package of an `.ispac`, which is a ZIP file. Raises `FileUnreadable`."""
    _check_directory(file)
    wanted = package.casefold().removesuffix(".dtsx") + ".dtsx"
    try:
        with zipfile.ZipFile(file) as project:
            entry = next(
                (entry for entry in project.infolist() if unquote(entry.filename).casefold() == wanted),
                None,
            )
            if entry is None:
                raise FileUnreadable("the project has no such package")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FileUnreadable("the project is packed in a way that projects are not")
            with project.open(entry) as content:
                return read_package(content.read)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as exc:
        raise FileUnreadable(f"it is not a project: {type(exc).__name__}") from exc


def _open(path: str, limit: int) -> BinaryIO:
    return os.fdopen(_open_number(path, limit), "rb")


def _open_number(path: str, limit: int) -> int:
    try:
        number = os.open(path, _FLAGS)
    except (OSError, ValueError) as exc:
        raise FileUnreadable(f"{path} cannot be opened: {type(exc).__name__}") from exc
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise FileUnreadable(f"{path} is not a regular file")
        if status.st_size > limit:
            raise FileUnreadable(f"{path} is larger than {limit} bytes")
    except BaseException:
        os.close(number)
        raise
    return number


def _check_directory(file: BinaryIO) -> None:
    """zipfile reads the whole table of contents at once, so its size is looked at before."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise FileUnreadable("it is not a project: it has no table of contents")
    entries, directory = struct.unpack_from("<HL", tail, at + 10)
    if entries > _MOST_ENTRIES or directory > _LARGEST_DIRECTORY:
        raise FileUnreadable("its table of contents is larger than a project's may be")
    file.seek(0)


class _Target(Protocol):
    """What the parser calls."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None: ...
    def data(self, text: str) -> None: ...
    def end(self, tag: str) -> None: ...
    def close(self) -> None: ...


class _Root(_Target):
    """Keeps the root's own facts and builds no tree. Tasks inside are `Executable` elements, too, so depth counts."""

    def __init__(self) -> None:
        self.is_known = False
        self._depth = 0
        self._facts: dict[str, str] = {}
        self._property: str | None = None

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            if tag != f"{_NAMESPACE}Executable":
                # A package that is encrypted as a whole.
                self.is_known = True
                return
            for name in ("ObjectName", "DTSID", "Description"):
                value = attributes.get(_NAMESPACE + name)
                if value is not None:
                    self._facts[name] = value[:_LONGEST_TEXT]
            self.is_known = "ObjectName" in self._facts
        elif self._depth == 2 and tag == f"{_NAMESPACE}Property" and not self.is_known:
            name = attributes.get(f"{_NAMESPACE}Name", "")
            if name in ("ObjectName", "DTSID", "Description"):
                self._property = name
                self._facts[name] = ""

    def data(self, text: str) -> None:
        if self._property is not None and self._depth == 2:
            self._facts[self._property] = (self._facts[self._property] + text)[:_LONGEST_TEXT]

    def end(self, tag: str) -> None:
        if self._depth == 2:
            self._property = None
            self.is_known = self.is_known or len(self._facts) == 3
        self._depth -= 1
        del tag

    def close(self) -> None:
        self.is_known = True

    def package(self) -> PackageFile:
        guid = _GUID.fullmatch(self._facts.get("DTSID", "").strip())
        return PackageFile(
            name=self._facts.get("ObjectName", "").strip(),
            package_id=f"{{{guid[1].upper()}}}" if guid is not None else "",
            description=self._facts.get("Description", "").strip(),
        )


def path_as_seen_by(path: str, folder: str | None) -> str | None:
    """The path of a file that a process in `folder` means; None where only that folder would tell."""
    if Path(path).is_absolute():
        return path
    return os.path.join(folder, path) if folder is not None else None  # noqa: PTH118 - a Path would change its text
