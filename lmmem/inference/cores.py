"""Processes that compute on one machine share its cores: decoding and scoring run within :func:`shared_cores`.

OpenMP's threads spin while they wait for one another, so two processes with as many threads as there
are cores all but stop each other; with a share of the cores each, they do more in sum than one alone.
Each process leaves a sign in a folder of the user's that says whether it computes, and takes its share
of the cores by the signs of others: an idle one takes nothing. Knows no models.
"""

from __future__ import annotations

import atexit
import functools
import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

__all__ = ["cores", "look", "shared_cores"]

LOOK = 0.2  # seconds between two looks at who else computes
FRESH = 1.0  # seconds for which a process counts that has just stopped computing
_mine = threading.local()  # of each thread: its own number of threads, what it was given, when it looked


def folder() -> Path:
    """Where processes of this user on this machine leave their signs."""
    return Path(tempfile.gettempdir()) / f"lmmem-{os.getuid()}-{platform.node()}-{_numbers()}"


@functools.cache
def _numbers() -> str:
    """What tells the numbers of this machine's processes from those of a container that has its own."""
    try:
        return re.sub(r"\D", "", str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        return ""


@contextmanager
def shared_cores(device: torch.device) -> Iterator[None]:
    """While the block runs, torch computes on this process's share of the cores; afterwards as before.

    Never on more threads than it had, so that whoever has set their number keeps it.

    Parameters
    ----------
    device : where the block computes; on a GPU nothing changes.

    >>> before = torch.get_num_threads()
    >>> with shared_cores(torch.device("cpu")):
    ...     torch.get_num_threads() <= before
    True
    """
    if device.type != "cpu" or getattr(_mine, "own", None):
        yield
        return
    _mine.own, _mine.looked = torch.get_num_threads(), 0.0
    look()
    try:
        yield
    finally:
        with suppress(OSError):
            (folder() / str(os.getpid())).write_bytes(b"")  # at rest
        if torch.get_num_threads() != _mine.own:
            torch.set_num_threads(_mine.own)
        _mine.own = None


def look() -> None:
    """Within the block: give a sign, and take as many threads as the others leave; at most now and then."""
    own, now = getattr(_mine, "own", None), time.monotonic()
    if own is None or now - _mine.looked < LOOK:
        return
    _mine.looked = now
    others = _others()
    share = max(1, min(own, cores() // (1 + others)))
    if share != torch.get_num_threads():
        torch.set_num_threads(share)


def _others() -> int:
    """How many other processes compute at this moment."""
    place = folder()
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        sign = place / str(os.getpid())
        if not sign.exists():
            atexit.register(sign.unlink, missing_ok=True)
        sign.write_bytes(_born(os.getpid()))
        now = sign.stat().st_mtime
        return sum(_computes(path, now) for path in place.iterdir() if path.name != sign.name)
    except OSError:  # nowhere to leave a sign: as if alone
        return 0


def _computes(sign: Path, now: float) -> bool:
    """Whether the process of a sign is at work, or was a moment ago."""
    try:
        born = sign.read_bytes()
        if not born:
            return now - sign.stat().st_mtime < FRESH
        if _born(int(sign.name)) == born:  # as long as it lives: a step of a large model may take minutes
            return True
    except (OSError, ValueError):
        pass
    sign.unlink(missing_ok=True)  # it has ended, or another has its number
    return False


def _born(process: int) -> bytes:
    """When a living process began, in ticks of the system; where that is not known, that it lives.

    Raises
    ------
    OSError : it has ended.
    """
    try:
        state, *known = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        os.kill(process, 0)
        return b"lives"
    if state in (b"Z", b"X"):
        raise ProcessLookupError(f"process {process} has ended")
    return known[18]  # proc(5): starttime, the 22nd, 19 after the state


def cores() -> int:
    """How many cores this process may use.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
