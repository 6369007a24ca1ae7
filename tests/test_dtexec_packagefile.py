"""Package files: both formats, projects, and files that nobody should trust."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_exporter.sources.dtexec import packagefile
from ssis_exporter.sources.dtexec.packagefile import (
    FileUnreadable,
    PackageFile,
    PackageFiles,
    path_as_seen_by,
    read_command_file,
    read_package,
)
from tests.test_dtexec_arguments import texts_of

GUID = "{8E3A1C90-5B7D-4E2F-9A61-0C4D7B2E5F18}"

# Written after the contract page: 2012 and later keep the facts in attributes of the root.
ATTRIBUTES = f"""<?xml version="1.0"?>
<DTS:Executable xmlns:DTS="www.microsoft.com/SqlServer/Dts" DTS:refId="Package" DTS:CreationName="Microsoft.Package"
  DTS:Description="Loads &lt;sales&gt;" DTS:DTSID="{GUID.lower()}" DTS:ExecutableType="Microsoft.Package"
  DTS:ObjectName="Load Sales" DTS:ProtectionLevel="0">
  <DTS:Property DTS:Name="PackageFormatVersion">8</DTS:Property>
  <DTS:Executables>
    <DTS:Executable DTS:DTSID="{{00000000-0000-0000-0000-000000000001}}" DTS:ObjectName="A task"/>
  </DTS:Executables>
</DTS:Executable>"""

# 2008: property elements, the root's own at the end, after those of tasks and connections.
ELEMENTS = f"""<?xml version="1.0"?>
<DTS:Executable xmlns:DTS="www.microsoft.com/SqlServer/Dts" DTS:ExecutableType="SSIS.Package.2">
  <DTS:Property DTS:Name="PackageFormatVersion">3</DTS:Property>
  <DTS:ConnectionManager>
    <DTS:Property DTS:Name="ObjectName">A connection</DTS:Property>
    <DTS:Property DTS:Name="DTSID">{{00000000-0000-0000-0000-000000000002}}</DTS:Property>
  </DTS:ConnectionManager>
  <DTS:Executable DTS:ExecutableType="SSIS.Pipeline.2">
    <DTS:Property DTS:Name="ObjectName">A task</DTS:Property>
    <DTS:Property DTS:Name="Description">Of a task</DTS:Property>
  </DTS:Executable>
  <DTS:Property DTS:Name="ObjectName">Load Sales</DTS:Property>
  <DTS:Property DTS:Name="DTSID">{GUID}</DTS:Property>
  <DTS:Property DTS:Name="Description">Loads &lt;sales&gt;</DTS:Property>
</DTS:Executable>"""

# Whether a package that is encrypted as a whole looks like this was never seen (contract D.2).
ENCRYPTED = """<?xml version="1.0"?>
<EncryptedData xmlns="http://www.w3.org/2001/04/xmlenc#" Salt="x" IV="y"><CipherData/></EncryptedData>"""

BOMB = """<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<DTS:Executable xmlns:DTS="www.microsoft.com/SqlServer/Dts" DTS:ObjectName="&b;"/>"""

EXTERNAL = """<?xml version="1.0"?>
<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">
<DTS:Executable xmlns:DTS="www.microsoft.com/SqlServer/Dts" DTS:ObjectName="x"/>"""

SALES = PackageFile(name="Load Sales", package_id=GUID, description="Loads <sales>")


def parsed(text: str | bytes) -> PackageFile:
    """The facts in some XML."""
    return read_package(io.BytesIO(text.encode() if isinstance(text, str) else text).read)


@pytest.mark.parametrize("text", [ATTRIBUTES, ELEMENTS], ids=["2012", "2008"])
def test_both_formats_tell_the_same(text: str) -> None:
    """
    Name, ID and description are the root's own, in braces and upper case.
    """
    assert SALES == parsed(text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings(encoding: str) -> None:
    """
    A byte order mark tells the encoding.
    """
    assert SALES == parsed(ATTRIBUTES.encode(encoding))


def test_what_is_missing_is_empty() -> None:
    """
    Attributes at their default are left out of the file, and a strange ID is none.
    """
    text = '<D:Executable xmlns:D="www.microsoft.com/SqlServer/Dts" D:ObjectName="x" D:DTSID="{1}"/>'

    assert PackageFile(name="x") == parsed(text)


def test_reading_stops_when_all_is_known() -> None:
    """
    Of a large package only the beginning is read.
    """
    file = io.BytesIO(ATTRIBUTES.encode() + b" " * (packagefile.LARGEST_PACKAGE + 1))

    assert SALES == read_package(file.read)
    assert file.tell() <= 1 << 16


def test_encrypted_package_tells_nothing() -> None:
    """
    A package that is encrypted as a whole is no error; it has no name of its own.
    """
    assert PackageFile() == parsed(ENCRYPTED)


@pytest.mark.parametrize("text", [BOMB, EXTERNAL, "", "x", ATTRIBUTES[:200], ELEMENTS[:300], b"\xff\x00\xff"])
def test_what_is_not_a_package_is_refused(text: str | bytes) -> None:
    """
    No DTD, no entities, no half files.
    """
    with pytest.raises(FileUnreadable):
        parsed(text)


def test_too_large_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The limit holds for what comes out of an archive, too.
    """
    monkeypatch.setattr(packagefile, "LARGEST_PACKAGE", 1000)
    with pytest.raises(FileUnreadable):
        parsed(ELEMENTS.replace("A task", "A task" * 200))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """
    Nothing but `FileUnreadable` is raised.
    """
    try:
        parsed(content)
    except FileUnreadable:
        return


def project(path: Path, entries: dict[str, str | bytes]) -> Path:
    """An `.ispac` file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_package_in_a_project(tmp_path: Path) -> None:
    """
    Found by its name, in any case, with or without ending, also where the archive writes blanks as `%20`.
    """
    path = project(tmp_path / "DW.ispac", {"@Project.manifest": "<x/>", "Load%20Sales.dtsx": ATTRIBUTES})
    files = PackageFiles()

    for name in ("Load Sales.dtsx", "LOAD SALES.DTSX", "load sales"):
        assert SALES == files.package_in_project(str(path), name)


def test_project_without_the_package(tmp_path: Path) -> None:
    """
    What is not in it is not invented.
    """
    path = project(tmp_path / "DW.ispac", {"Other.dtsx": ATTRIBUTES})
    with pytest.raises(FileUnreadable):
        PackageFiles().package_in_project(str(path), "Load.dtsx")


def test_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """
    A small archive that holds a huge package is left at the limit.
    """
    huge = ELEMENTS.replace("A task", " " * (packagefile.LARGEST_PACKAGE + 10))
    path = project(tmp_path / "DW.ispac", {"Load.dtsx": huge})
    assert path.stat().st_size < 1 << 20

    with pytest.raises(FileUnreadable):
        PackageFiles().package_in_project(str(path), "Load.dtsx")


@pytest.mark.parametrize("limit", ["_MOST_ENTRIES", "_LARGEST_DIRECTORY"])
def test_archive_with_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """
    The table of contents is measured before it is read.
    """
    monkeypatch.setattr(packagefile, limit, 1)
    path = project(tmp_path / "DW.ispac", {"a": "", "Load.dtsx": ATTRIBUTES})
    with pytest.raises(FileUnreadable):
        PackageFiles().package_in_project(str(path), "Load.dtsx")


def test_archive_that_is_none(tmp_path: Path) -> None:
    """
    Anything may have the ending `.ispac`.
    """
    path = tmp_path / "DW.ispac"
    for content in (b"", b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 18, b"x" * 100_000):
        path.write_bytes(content)
        with pytest.raises(FileUnreadable):
            PackageFiles().package_in_project(str(path), "Load.dtsx")


def test_file_is_read_once_per_version(tmp_path: Path) -> None:
    """
    A file is read again when it has changed, and only then; also one that is no package.
    """
    path = tmp_path / "Load.dtsx"
    path.write_text(ATTRIBUTES)
    files = PackageFiles()
    for _ in range(3):
        assert SALES == files.package(str(path))
    assert 1 == files.reads

    path.write_text("broken")
    for _ in range(3):
        with pytest.raises(FileUnreadable):
            files.package(str(path))
    assert 2 == files.reads


def test_memory_is_bounded(tmp_path: Path) -> None:
    """
    The longest unused file is forgotten.
    """
    files = PackageFiles(remembered=2)
    paths = [tmp_path / f"{number}.dtsx" for number in range(3)]
    for path in paths:
        path.write_text(ATTRIBUTES)
        files.package(str(path))
    files.package(str(paths[2]))
    assert 3 == files.reads
    files.package(str(paths[0]))
    assert 4 == files.reads


def test_only_regular_files_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A folder, a FIFO that nobody writes to, a device, a missing or too large file: refused at once, none is waited for.
    """
    large = tmp_path / "large.dtsx"
    large.write_text(ATTRIBUTES)
    monkeypatch.setattr(packagefile, "LARGEST_PACKAGE", 100)
    paths = [str(large), str(tmp_path), str(tmp_path / "missing"), "a\0b"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        paths += [str(tmp_path / "fifo"), "/dev/zero", "/dev/tty"]
    for path in paths:
        with pytest.raises(FileUnreadable):
            PackageFiles().package(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_command_file(tmp_path: Path, encoding: str) -> None:
    """
    Lines are blanks; quotes work as on the command line.
    """
    path = tmp_path / "options.txt"
    path.write_bytes('/F "\u00e4 \U0001f4e6.dtsx"\r\n/De\tx\r\n'.encode(encoding))

    assert ["/F", "\u00e4 \U0001f4e6.dtsx", "/De", "x"] == texts_of(read_command_file(str(path)))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\xff\xfe", []),
        (b"a\xe4", ["a\ufffd"]),
        (b"\xff\xfea\x00b", ["a"]),
        (b"\xff\xfea\x00\x00\xd8b\x00", ["a\ufffdb"]),
        (b"\xfe\xff" + "\u20ac".encode("utf-16-be") * 3000, ["\u20ac" * 3000]),
    ],
)
def test_command_file_in_a_code_page_or_cut(tmp_path: Path, content: bytes, text: list[str]) -> None:
    """
    What is no UTF-8 and no UTF-16 is replaced, letter by letter.
    """
    path = tmp_path / "options.txt"
    path.write_bytes(content)

    assert text == texts_of(read_command_file(str(path)))


def test_paths_are_those_of_the_process() -> None:
    """
    A relative path means a file in the process's own folder; without that folder it means nothing.
    """
    absolute = os.path.abspath("/a/b.dtsx")

    assert absolute == path_as_seen_by(absolute, None)
    assert os.path.join("/x", "b.dtsx") == path_as_seen_by("b.dtsx", "/x")
    assert path_as_seen_by("b.dtsx", None) is None
