"""What a number was made with: versions and hardware. Imports none of what it reports on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

__all__ = ["environment", "processor"]

PACKAGES = ("lmmem", "torch", "transformers", "numpy", "tokenizers", "rapidfuzz")


def environment() -> dict[str, str]:
    """Versions, hardware and time of this process, as strings.

    >>> "torch" in environment()
    True
    """
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return versions | {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """The processor's name, as far as the platform tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
