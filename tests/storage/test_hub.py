"""Files of the Hub by range, through the real client and a server on this machine."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import pytest

from lmmem.storage import hub
from lmmem.storage.files import DamagedError
from lmmem.storage.hub import listing, read_range
from tests.loopback_hub import Fault, LoopbackHub

CONTENT = bytes(range(256)) * 400
REPO = "someone/data"


@pytest.fixture
def file(loopback: LoopbackHub) -> hub.HubFile:
    loopback.add(REPO, {"a.bin": CONTENT, "small.txt": b"0123456789"}, repo_type="dataset")
    found = listing(REPO, repo_type="dataset").files["a.bin"]
    loopback.requests.clear()
    return found


def test_listing_names_the_commit_and_every_file(loopback):
    commit = loopback.add(REPO, {"a.bin": CONTENT, "small.txt": b"0123456789"}, repo_type="dataset")
    found = listing(REPO, repo_type="dataset")
    assert found.commit == commit
    assert {path: file.size for path, file in found.files.items()} == {"a.bin": len(CONTENT), "small.txt": 10}
    assert [request.path for request in loopback.requests if "agent" not in request.path] == [
        "/api/datasets/someone/data/revision/main"
    ]


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (10, 20), (len(CONTENT) - 1, len(CONTENT)), (0, len(CONTENT))])
def test_range_is_those_bytes_and_no_others(loopback, file, start, stop):
    assert read_range(file, start, stop) == CONTENT[start:stop]
    assert loopback.sent() == stop - start


def test_file_within_the_repository_is_read_by_range_too(loopback, file):
    small = listing(REPO, repo_type="dataset").files["small.txt"]
    assert read_range(small, 2, 5) == b"234"


def test_address_is_asked_for_once(loopback, file):
    for start in range(5):
        read_range(file, start, start + 1)
    assert len(loopback.requests) == 6


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (5, 5), (6, 5), (0, len(CONTENT) + 1)])
def test_range_outside_is_refused(loopback, file, start, stop):
    with pytest.raises(ValueError, match=r"are not within someone/data/a\.bin@"):
        read_range(file, start, stop)
    assert not loopback.requests


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /cdn", times=2, status=503, headers={"Retry-After": "0"}),
        Fault("GET /cdn", times=2, status=429, headers={"Retry-After": "0"}),
        Fault("GET /cdn", times=2, status=500),
        Fault("GET /cdn", times=2, cut_after=7),
        Fault("GET /cdn", times=1, cut_after=0),
        Fault("GET /cdn", times=1, status=403),  # a signed address that has run out
    ],
    ids=["503", "429", "500", "cut in mid-range", "cut before it", "expired address"],
)
def test_passing_fault_is_tried_again(loopback, file, fault):
    loopback.faults.append(fault)
    assert read_range(file, 100, 200) == CONTENT[100:200]
    assert fault.times == 0


def test_server_that_asks_for_a_pause_gets_it(loopback, file):
    loopback.faults.append(Fault("GET /cdn", times=1, status=429, headers={"Retry-After": "1"}))
    start = time.monotonic()
    read_range(file, 0, 1)
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("status", hub.AGAIN)
def test_listing_is_asked_for_again_while_the_hub_is_busy(loopback, file, status):
    hub._listings.clear()  # as another process
    loopback.faults.append(Fault("/api/", times=hub.TRIES - 1, status=status))
    assert listing(REPO, repo_type="dataset").files["a.bin"] == file
    assert len([request for request in loopback.requests if REPO in request.path]) == hub.TRIES


def test_listing_that_is_refused_is_asked_for_once(loopback):
    loopback.faults.append(Fault("/api/", status=400))
    with pytest.raises(ConnectionError, match="someone/data at main: the Hub answered 400"):
        listing(REPO, repo_type="dataset")
    assert loopback.faults[0].times == 1_000_000 - 1


@pytest.mark.parametrize(
    "headers", [{"Retry-After": "7"}, {"RateLimit": '"api";r=0;t=7', "RateLimit-Policy": '"api";q=500;w=300'}]
)
@pytest.mark.parametrize("where", ["/api/", "/cdn/"])
def test_pause_is_that_which_the_server_asks_for(loopback, file, monkeypatch, where, headers):
    pauses = []
    monkeypatch.setattr(time, "sleep", lambda seconds: seconds and pauses.append(seconds))
    hub._listings.clear()
    loopback.faults.append(Fault(where, times=4, status=429, headers=headers))
    read_range(listing(REPO, repo_type="dataset").files["a.bin"], 0, 1)
    assert pauses == [7, 14, 28, 56]


def test_lasting_fault_ends_with_its_reason(loopback, file):
    loopback.faults.append(Fault("GET /cdn", status=503, headers={"Retry-After": "0"}))
    with pytest.raises(
        ConnectionError, match=r"bytes 0 .. 9 could not be read in 6 tries; last: the server answered 503"
    ):
        read_range(file, 0, 10)


def test_server_that_ignores_ranges_is_refused_before_it_sends_the_file(loopback, tmp_path):
    size = 2**31
    with open(tmp_path / "large.bin", "wb") as sparse:
        sparse.truncate(size)
    loopback.add(REPO, {"large.bin": tmp_path / "large.bin"}, repo_type="dataset")
    loopback.faults.append(Fault("GET /cdn", ignore_range=True))
    large = listing(REPO, repo_type="dataset").files["large.bin"]
    with pytest.raises(DamagedError, match=r"ignores byte ranges and would send all 2,147,483,648 bytes"):
        read_range(large, 0, 10)
    assert loopback.sent() < size / 100  # what lay in the sockets' buffers


@pytest.mark.parametrize("content", [CONTENT[:-1], b"x" + CONTENT[1:]], ids=["shorter", "other bytes"])
def test_file_that_has_changed_under_its_name_is_refused(loopback, file, content):
    loopback.faults.append(Fault("resolve/.*a.bin", replace=content))
    with pytest.raises(DamagedError, match="it has changed"):
        read_range(file, 0, 10)


def test_file_that_changes_between_two_ranges_is_refused(loopback, file):
    read_range(file, 0, 10)
    loopback.faults.append(Fault("/cdn", replace=CONTENT + b"more"))
    with pytest.raises(DamagedError, match="bytes 0-9/102400"):
        read_range(file, 0, 10)


@pytest.mark.parametrize(
    ("status", "headers", "error", "message"),
    [
        (401, {}, PermissionError, "hf auth login"),
        (403, {}, PermissionError, "hf auth login"),
        (403, {"X-Error-Code": "GatedRepo"}, PermissionError, "access has to be granted on the Hub first"),
        (404, {"X-Error-Code": "RepoNotFound"}, ValueError, "no such repository, or it is private"),
        (404, {"X-Error-Code": "RevisionNotFound"}, ValueError, "no such revision"),
        (503, {"Retry-After": "0"}, ConnectionError, "the Hub answered 503"),
    ],
)
def test_refusal_says_what_to_do(loopback, status, headers, error, message):
    loopback.faults.append(Fault("/api/", status=status, headers=headers))
    with pytest.raises(error, match=f"someone/data at main: .*{message}"):
        listing(REPO, repo_type="dataset")


def test_private_repository_needs_a_login(loopback, file, monkeypatch):
    loopback.private.add(REPO)
    hub._listings.clear()  # as another process
    with pytest.raises(ValueError, match="it is private"):
        listing(REPO, repo_type="dataset")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    loopback.requests.clear()
    assert read_range(listing(REPO, repo_type="dataset").files["a.bin"], 0, 3) == CONTENT[:3]
    tokens = {request.path.split("/")[1]: request.token for request in loopback.requests}
    assert tokens == {"api": "hf_secret", "datasets": "hf_secret", "cdn": None}  # a token is for the Hub alone


def test_without_the_network_the_last_listing_is_known(loopback, file, monkeypatch):
    hub._listings.clear()  # as another process
    loopback.faults.append(Fault("/api/", status=503))
    with pytest.warns(UserWarning, match=f"the Hub answered 503; .*going on with its commit {file.commit[:12]}"):
        assert listing(REPO, repo_type="dataset").files["a.bin"] == file
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=f"{REPO} at main: the Hub cannot be reached"):  # of another Hub
        listing(REPO, repo_type="dataset")


def test_branch_that_moves_stays_at_its_commit_for_a_process(loopback, file):
    moved = loopback.add(REPO, {"a.bin": CONTENT[::-1]}, repo_type="dataset")
    assert listing(REPO, repo_type="dataset").files["a.bin"] == file
    assert read_range(file, 0, 3) == CONTENT[:3]
    hub._listings.clear()
    assert listing(REPO, repo_type="dataset").commit == moved


def test_threads_that_list_at_once_agree(loopback, file):
    def ask(_: int) -> str:
        hub._listings.clear()
        return listing(REPO, repo_type="dataset").commit

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, range(60))) == {file.commit}


def test_offline_mode_is_named(loopback, file, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert listing(REPO, repo_type="dataset").files["a.bin"] == file
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE forbids fetching it"):
        read_range(file, 0, 10)
    assert not loopback.requests
