"""What a number was made with: versions, hardware, and the code that measured it.

Every measured table bears :func:`environment`; :func:`code_hash` is part of its name, so that other
code gives another table. Imports none of what it reports on.
"""

from __future__ import annotations

import ast
import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["code_hash", "commit", "environment", "gpu", "measuring", "processor"]

PACKAGES = ("lmmem", "torch", "transformers", "numpy", "tokenizers", "rapidfuzz")

PACKAGE = Path(__file__).parents[1]
MEASURING = "experiments"  # the room whose tables are kept
# Rooms that it uses and whose code changes no number: where tables lie, where they are measured, and
# the organisms, whose weights and rows have hashes of their own.
CHANGE_NOTHING = ("storage", "sweep", "pocket")


def environment() -> dict[str, str]:
    """Versions, hardware and time of this process, as strings.

    >>> "torch" in environment()
    True
    """
    versions = {package: _version(package) for package in PACKAGES}
    graphics = {"gpu": name} if (name := gpu()) else {}
    return versions | {
        "commit": commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
        **graphics,
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

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        git("ls-files", "--error-unmatch", __file__)  # or an lmmem installed somewhere within another project
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""


def gpu() -> str:
    """The name of the GPU that torch computes on; empty if it sees none, or has not been imported.

    >>> isinstance(gpu(), str)
    True
    """
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else ""


def processor() -> str:
    """The processor's name, as far as the platform tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def code_hash() -> str:
    """What tells the code that measures from any other: a hash of all that the measuring room imports.

    Of the code as it was when this module was first imported, not of what replaces it on disk while it lives.

    >>> len(code_hash())
    16
    """
    digest = hashlib.sha256()
    for name in measuring(_SOURCES):
        digest.update(f"{name}\0{_SOURCES[name]}\0".encode())
    return digest.hexdigest()[:16]


def measuring(sources: Mapping[str, str]) -> list[str]:
    """The modules that decide numbers: those of the measuring room, what they import, what those import.

    Parameters
    ----------
    sources : of every module of the package, by names such as "measures.distance".
    """
    found: set[str] = set()
    waiting = [name for name in sources if name.split(".")[0] == MEASURING]
    while waiting:
        name = waiting.pop()
        if name not in found and name.split(".")[0] not in CHANGE_NOTHING:
            found.add(name)
            waiting += _imports(sources[name]) & sources.keys()
    return sorted(found)


def _imports(source: str) -> set[str]:
    """What a source imports of this package, anywhere in it, and what it might: a name may be a module's."""
    found = set()
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("lmmem.") for name in found if name.startswith("lmmem.")}


def _parsed(source: str) -> ast.Module:
    """A source's tree. Python 3.11 cannot parse in two threads at once, and other packages parse while they load."""
    for wait in (0.01, 0.1, 1.0):
        try:
            return ast.parse(source)
        except SystemError:
            time.sleep(wait)
    return ast.parse(source)


def _sources(package: Path) -> dict[str, str]:
    files = {".".join(path.relative_to(package).with_suffix("").parts): path for path in package.rglob("*.py")}
    files = {name: path for name, path in files.items() if all(map(str.isidentifier, name.split(".")))}  # no leftovers
    return {name: file.read_text() for name, file in files.items()}


_SOURCES = _sources(PACKAGE)
