"""Brings what tests need from Debian: Chromium, a Chinese font, systemd-analyze; installed where we are root."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import NAMES

FONT = Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc")


def missing() -> list[str]:
    """Debian packages that are not here yet."""
    packages = []
    if not any(shutil.which(name) for name in NAMES):
        packages.append("chromium")
    if not FONT.exists():
        packages.append("fonts-noto-cjk")
    if shutil.which("systemd-analyze") is None:
        packages.append("systemd")
    return packages


def main() -> int:
    packages = missing()
    if not packages:
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"the tests need {' and '.join(packages)}: install them first", file=sys.stderr)
        return 1
    print(f"installing {' '.join(packages)}")
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
    return subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=False, **quiet
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
