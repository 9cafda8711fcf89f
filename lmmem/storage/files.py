"""Where lmmem keeps files, and how each comes to be whole or not at all: every other room writes through it.

Knows nothing of their content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

__all__ = [
    "CACHE_VARIABLE",
    "DamagedError",
    "cache_folder",
    "check_folder",
    "folder_being_written",
    "keep",
    "recorded_sha256",
    "sha256_of",
    "write_whole",
]

CACHE_VARIABLE = "LMMEM_CACHE"  # overrides the platform's cache folder
CHECKSUMS = "checksums.json"  # SHA-256 of every other file of a folder


class DamagedError(ValueError):
    """A file on disk is not what was written there."""


def cache_folder() -> Path:
    """The folder for trained models and measured tables, made if it is missing.

    Returns
    -------
    The folder named by the environment variable ``LMMEM_CACHE``, else the platform's cache
    folder for lmmem.

    Raises
    ------
    PermissionError : it cannot be made or written to; the message says how to choose another.
    """
    folder = Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("lmmem")).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"cannot write to the cache folder {folder} ({error.strerror}): "
            f"set the environment variable {CACHE_VARIABLE} to a folder you may write to"
        ) from error
    return folder


@contextmanager
def folder_being_written(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends without an exception.

    Readers see the old state or the whole new one, with checksums, never a part: files are synced
    and the folder is renamed last. A folder that already has that name is replaced. What an
    interrupted writer left behind is removed by the next one, so callers hold a lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(leftover)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield part
        files = sorted(path for path in part.rglob("*") if path.is_file())
        sums = {str(path.relative_to(part)): sha256_of(path) for path in files}
        (part / CHECKSUMS).write_text(json.dumps(sums, indent=1))
        for path in [*files, part / CHECKSUMS]:
            _sync(path)
        part.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A temporary path that is renamed to `path` when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # of this writer alone
    try:
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def keep(path: Path) -> Iterator[Path]:
    """As :func:`write_whole`, for what can be fetched again: a full disk is a warning, not an error."""
    try:
        with write_whole(path) as part:
            yield part
    except OSError as error:
        warnings.warn(f"{path} cannot be kept and is fetched again next time: {error.strerror}", stacklevel=3)


def check_folder(folder: Path) -> None:
    """Read every file of a folder that :func:`folder_being_written` wrote, and compare checksums.

    Raises
    ------
    DamagedError : a file is missing or differs; the message names it.
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder / CHECKSUMS} cannot be read ({error})") from error
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != expected:
            raise DamagedError(f"{path} is not the file that was written there (SHA-256 differs)")


def recorded_sha256(path: Path) -> str:
    """The SHA-256 that :func:`folder_being_written` recorded for one file of its folder."""
    return json.loads((path.parent / CHECKSUMS).read_text())[path.name]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
