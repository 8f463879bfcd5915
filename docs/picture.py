"""Take the README's picture: a report as headless Chromium shows it.

Usage: python docs/picture.py runs/demo/report.html docs/report.png
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(page: Path, picture: Path) -> None:
    """Write a screenshot of the top of `page` to `picture`."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-sync",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                "--virtual-time-budget=4000",
                "--window-size=1180,1560",
                f"--screenshot={picture.absolute()}",
                page.absolute().as_uri(),
            ],
            check=True,
            capture_output=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
