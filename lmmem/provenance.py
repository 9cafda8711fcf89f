"""What a number was made with: versions and hardware. Imports none of what it reports on."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

__all__ = ["commit", "environment", "processor"]

PACKAGES = ("lmmem", "torch", "transformers", "numpy", "tokenizers", "numba")


def environment() -> dict[str, str]:
    """Versions, hardware and time of this process, as strings.

    >>> "torch" in environment()
    True
    """
    versions = {package: _version(package) for package in PACKAGES}
    return versions | {
        "commit": commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    """As an imported package gives it: torch's metadata may lack the build, as in 2.13.0+cu130."""
    return getattr(sys.modules.get(package), "__version__", None) or importlib.metadata.version(package)


@functools.cache
def commit() -> str:
    """The commit of the checkout that this lmmem is part of, with a plus if the library was changed; else empty.

    >>> len(commit()) in (0, 12, 13)
    True
    """
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        git("ls-files", "--error-unmatch", here.name)  # or an lmmem installed somewhere within another project
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    """The processor's name, as far as the platform tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
