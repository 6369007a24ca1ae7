"""Builds the documented contract (contract/ManagedDTS.cs) into strong-named assemblies in a private GAC of Mono's."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.real import need_module, need_program

CONTRACT = Path(__file__).parent / "contract" / "ManagedDTS.cs"
FACADES = Path("/usr/lib/mono/4.5/Facades")


@dataclass(frozen=True)
class Gac:
    """A folder with assemblies, and how a process is told of it."""

    root: Path
    public_key_token: str

    @property
    def environment(self) -> dict[str, str]:
        """What the process that loads them needs."""
        return {
            "MONO_GAC_PREFIX": str(self.root),
            "MONO_PATH": str(FACADES),
            "MONO_THREADS_SUSPEND": "preemptive",
        }


def build(folder: Path, releases: tuple[int, ...]) -> Gac:
    """One assembly a release (15 means Version=15.0.0.0), all with one throwaway key."""
    compiler = need_program("mcs", "mono-mcs")
    strong_name = need_program("sn", "mono-devel")
    gac_tool = need_program("gacutil", "mono-devel")
    need_module("clr_loader")
    key = folder / "throwaway.snk"
    run([strong_name, "-k", str(key)])
    token = ""
    for release in releases:
        out = folder / str(release) / "Microsoft.SqlServer.ManagedDTS.dll"
        out.parent.mkdir()
        about = out.parent / "About.cs"
        about.write_text(f'[assembly: System.Reflection.AssemblyVersion("{release}.0.0.0")]\n')
        options = ["-target:library", "-langversion:6", f"-keyfile:{key}", f"-out:{out}"]
        run([compiler, *options, str(CONTRACT), str(about)])
        run([gac_tool, "-i", str(out), "-root", str(folder / "gac" / "lib")])
        said = run([strong_name, "-T", str(out)])
        found = re.search(r"Public Key Token: ([0-9a-f]{16})", said)
        assert found, said
        token = found[1]
    # Mono looks for PREFIX/lib/mono/gac.
    return Gac(folder / "gac", token)


def run(command: list[str]) -> str:
    """Runs a tool of Mono's; its output, or a failure that shows it."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout
