"""Files on the Hugging Face Hub, by the byte range or whole: for models, training data and published counts.

Everything goes through huggingface_hub: its addresses, login, retries and offline mode. What this
adds is that a range is either exactly the bytes asked for, of the file that was listed, or an error.
Knows nothing of what is in them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import huggingface_hub as hf
from huggingface_hub import errors
from huggingface_hub.utils import build_hf_headers, get_session

from lmmem.storage.files import DamagedError, cache_folder, keep

__all__ = ["AnswerError", "HubFile", "Listing", "download", "free_space", "listing", "read_range"]

TRIES = 6  # of one range, or one listing
PAUSE, PATIENCE = 0.5, 60  # seconds before the second try; before any, at most
TIMEOUT = 30  # seconds without a byte
AGAIN = (408, 429, 500, 502, 503, 504)
# Hub documentation, "Rate limits": how many requests are left in a window of five minutes, and seconds to its end.
LIMITED = re.compile(r";\s*r=0;\s*t=(\d+)")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"

T = TypeVar("T")

_listings: dict[tuple[str, ...], Listing] = {}  # asked for once, so that a process sees one commit of a branch
_locations: dict[HubFile, str] = {}  # where the bytes of a file lie, as the Hub told this process
_locks: defaultdict[HubFile, threading.Lock] = defaultdict(threading.Lock)  # each is asked for by one thread


class AnswerError(ConnectionError):
    """The Hub can be reached, and answers that it is busy or broken."""


@dataclasses.dataclass(frozen=True)
class HubFile:
    """One file of a repository at one commit.

    Attributes
    ----------
    repo, repo_type, commit, path : where it is.
    size : bytes.
    etag : what the Hub calls this content: the SHA-256 of a large file, a git hash of a small one.
    """

    repo: str
    repo_type: str
    commit: str
    path: str
    size: int
    etag: str

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes ``start .. stop - 1``, as :func:`read_range` gives them."""
        return read_range(self, start, stop)

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}@{self.commit[:12]}"


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit, by path."""

    repo: str
    commit: str
    files: dict[str, HubFile]


def listing(repo: str, revision: str = "main", repo_type: str = "model") -> Listing:
    """Which commit a revision is, and its files with their sizes.

    Asked for once in the life of the process, so that a branch which moves meanwhile does not mix two
    commits, and again, as a range is, when the Hub is busy. What it said is kept, and used with a warning if
    it cannot be asked another time.

    Parameters
    ----------
    repo : "owner/name" on the Hub.
    revision : branch, tag or commit.
    repo_type : "model" or "dataset".

    Raises
    ------
    PermissionError : the Hub wants a login.
    ValueError : there is no such repository or revision.
    ConnectionError : the Hub cannot be reached, or is busy or broken (AnswerError), and this revision has not been
        listed before.
    """
    key = (hf.constants.ENDPOINT, repo_type, repo, revision)
    if key not in _listings:
        _listings[key] = _listing(key)
    return _listings[key]


def _listing(key: tuple[str, str, str, str]) -> Listing:
    _, repo_type, repo, revision = key
    name = f"{repo.replace('/', '--')}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    kept = cache_folder() / "hub" / name

    def ask() -> Any:
        try:
            return hf.HfApi().repo_info(repo, revision=revision, repo_type=repo_type, files_metadata=True)
        except errors.HfHubHTTPError as error:
            if error.response.status_code not in AGAIN:
                raise
            return _Again(error, _pause_asked_for(error.response.headers))

    try:
        with _plain_errors(f"{repo} at {revision}"):
            info = _tried(ask)
            if isinstance(info, _Again):
                raise info.error
    except ConnectionError as error:
        try:
            commit, files = json.loads(kept.read_text())
        except (OSError, ValueError):
            raise error from None
        if not hf.constants.HF_HUB_OFFLINE:
            warnings.warn(f"{error}; going on with its commit {commit[:12]}, as listed before", stacklevel=4)
    else:
        commit, siblings = str(info.sha), getattr(info, "siblings", None) or []
        files = [[s.rfilename, s.size, s.lfs.sha256 if s.lfs else s.blob_id] for s in siblings]
        with keep(kept) as part:
            part.write_text(json.dumps([commit, files]))
    found = {path: HubFile(repo, repo_type, commit, path, size or 0, etag) for path, size, etag in files}
    return Listing(repo, commit, found)


def download(file: HubFile) -> Path:
    """A file on this machine: in the cache of huggingface_hub, fetched if it is not there.

    Raises
    ------
    PermissionError, ConnectionError : as for :func:`listing`.
    """
    with _plain_errors(str(file)):
        path = hf.hf_hub_download(file.repo, file.path, repo_type=file.repo_type, revision=file.commit)
    return Path(path)


def free_space() -> int:
    """Bytes that are free on the disk where :func:`download` keeps files."""
    cache = Path(hf.constants.HF_HUB_CACHE).absolute()
    return shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free


def read_range(file: HubFile, start: int, stop: int) -> bytes:
    """The bytes ``start .. stop - 1`` of a file, and nothing more over the wire.

    Tries again, with growing pauses or those the server asks for, when a connection breaks or the
    server is busy.

    Raises
    ------
    ValueError : the range is not within the file.
    DamagedError : the file on the server is not the one that was listed, or the server sends
        something else than the range.
    PermissionError, ConnectionError : as for :func:`listing`.
    """
    if not 0 <= start < stop <= file.size:
        raise ValueError(f"bytes {start} .. {stop - 1} are not within {file}, which has {file.size}")

    def once() -> bytes | _Again:
        with _plain_errors(str(file)):
            location = _locate(file)
        try:
            answer = _get(file, location, start, stop)
        except errors.OfflineModeIsEnabled as error:
            raise ConnectionError(_offline(str(file))) from error
        except OSError as error:  # a broken connection, at any point
            return _Again(error)
        if isinstance(answer, _Again):
            _locations.pop(file, None)  # the address may have run out
        return answer

    answer = _tried(once)
    if isinstance(answer, _Again):
        span = f"bytes {start} .. {stop - 1}"
        raise ConnectionError(f"{file}: {span} could not be read in {TRIES} tries; last: {answer.error}")
    return answer


@dataclasses.dataclass(frozen=True)
class _Again:
    """What went wrong, where another try may do better, and the seconds that the server wants before it."""

    error: Exception
    pause: float = 0.0


def _tried(once: Callable[[], T | _Again]) -> T | _Again:
    """What the last of up to TRIES tries gave, with growing pauses between them or those the server asks for."""
    answer, pause = once(), float(PAUSE)
    for _ in range(TRIES - 1):
        if not isinstance(answer, _Again):
            break
        pause = max(pause, answer.pause)
        time.sleep(min(pause, PATIENCE))
        pause *= 2
        answer = once()
    return answer


def _pause_asked_for(headers: Mapping[str, str]) -> float:
    """Seconds, in the standard's words or in the Hub's."""
    after, limited = headers.get("Retry-After", ""), LIMITED.search(headers.get("RateLimit", ""))
    return float(after) if after.isdigit() else float(limited[1]) if limited else 0.0


def _get(file: HubFile, location: str, start: int, stop: int) -> bytes | _Again:
    """The bytes, or why another try may do better and after how many seconds."""
    ours = urlsplit(location).netloc == urlsplit(hf.constants.ENDPOINT).netloc
    headers = build_hf_headers() if ours else {}  # a token is for the Hub alone
    headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    session = get_session()
    parts, got = [], 0
    try:
        with session.stream("GET", location, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            status = response.status_code
            if status in AGAIN or status in (401, 403):
                return _Again(ConnectionError(f"the server answered {status}"), _pause_asked_for(response.headers))
            if status == 200:
                raise DamagedError(
                    f"{file}: the server ignores byte ranges and would send all {file.size:,} bytes; nothing was read"
                )
            expected = f"bytes {start}-{stop - 1}/{file.size}"
            if status != 206 or response.headers.get("Content-Range") != expected:
                said = response.headers.get("Content-Range")
                raise DamagedError(f"{file}: asked for {expected!r}, the server answered {status} with {said!r}")
            for part in response.iter_bytes():
                parts.append(part)
                got += len(part)
                if got > stop - start:
                    break
    except (DamagedError, OSError):
        raise
    except Exception as error:  # the errors of whichever HTTP client huggingface_hub uses
        return _Again(ConnectionError(f"{type(error).__name__}: {error}"))
    if got != stop - start:
        return _Again(ConnectionError(f"the connection ended after {got} of {stop - start} bytes"))
    return b"".join(parts)


def _locate(file: HubFile) -> str:
    with _locks[file]:
        if file not in _locations:
            address = hf.hf_hub_url(file.repo, file.path, repo_type=file.repo_type, revision=file.commit)
            seen = hf.get_hf_file_metadata(address, timeout=TIMEOUT, retry_on_errors=True)
            if (seen.size, seen.etag) != (file.size, file.etag):
                raise DamagedError(
                    f"{file} is {seen.size} bytes with ETag {seen.etag} on the server, "
                    f"and was listed as {file.size} bytes with ETag {file.etag}: it has changed"
                )
            _locations[file] = seen.location
        return _locations[file]


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """One line that says what to do, for whatever huggingface_hub raises."""
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(f"{what}: access has to be granted on the Hub first; then {LOGIN}") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{what}: the Hub has no such repository, or it is private ({LOGIN})") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{what}: the repository has no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        if hf.constants.HF_HUB_OFFLINE:
            raise ConnectionError(_offline(what)) from error
        raise ConnectionError(f"{what}: the Hub cannot be reached ({error.__cause__ or error})") from error
    except errors.EntryNotFoundError as error:
        raise ValueError(f"{what}: the repository has no such file") from error
    except errors.OfflineModeIsEnabled as error:
        raise ConnectionError(_offline(what)) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(f"{what}: the Hub refuses access ({status}); {LOGIN}") from error
        raise AnswerError(f"{what}: the Hub answered {status}; try again later") from error
    except (DamagedError, ConnectionError, PermissionError):
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0].startswith("httpx"):  # its client's, when the network fails
            raise ConnectionError(f"{what}: the Hub cannot be reached ({error})") from error
        raise


def _offline(what: str) -> str:
    return f"{what} has not been fetched before, and HF_HUB_OFFLINE forbids fetching it: unset it once"
