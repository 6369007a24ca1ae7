"""Makes docs/landing-page.png: starts the demo, lets Chromium look at its page. Run by `make picture`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PICTURE = Path(__file__).parent / "landing-page.png"
SIZE = "1360,1000"

# No sandbox, because a container's root may not make one; without the rest Chromium asks the network for things.
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    f"--window-size={SIZE}",
)


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, demo: subprocess.Popen[bytes]) -> None:
    """Waits until the exporter answers; raises when it ended instead, or after half a minute."""
    for _ in range(300):
        if demo.poll() is not None:
            raise SystemExit(f"the demo ended with exit code {demo.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - an address of our own
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def main() -> None:
    """Takes the picture."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("make_picture: chromium is missing; on Debian install the package chromium")
    url = f"http://127.0.0.1:{free_port()}/"
    with tempfile.TemporaryDirectory() as folder:
        address = url.removeprefix("http://").rstrip("/")
        arguments = ["demo", "--packages=20", f"--web.listen-address={address}", f"--storage.path={folder}/state"]
        demo = subprocess.Popen([sys.executable, "-m", "ssis_exporter", *arguments], stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            wait_until_ready(url + "-/healthy", demo)
            shot = Path(folder) / "page.png"
            profile = f"--user-data-dir={folder}/profile"
            subprocess.run([chromium, *CHROMIUM_FLAGS, profile, f"--screenshot={shot}", url], check=True, timeout=120)  # noqa: S603
            shutil.copyfile(shot, PICTURE)
        finally:
            demo.terminate()
            demo.wait(timeout=30)


if __name__ == "__main__":
    main()
