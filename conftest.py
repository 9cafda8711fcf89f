"""Fixtures shared by tests and examples: a cache of their own, the small organism, trained once, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmmem
from lmmem.corpora.corpus import Corpus
from tests.loopback_hub import LoopbackHub

MINI = "pocket-mini"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
IN_ONE_PROCESS = ("tests/test_book.py", "tests/test_lab.py")  # their fixtures take longer than their tests


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """With `-n`, each test goes to the process that is free; those of some files, begun first, stay together."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in IN_ONE_PROCESS else nodeid

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Tests never touch the user's cache; the commands they start inherit this one.

    Processes that share the tests have one organism, and each its own tables.
    """
    folder = tmp_path_factory.mktemp("cache")
    if "PYTEST_XDIST_WORKER" in os.environ:
        organisms = tmp_path_factory.getbasetemp().parent / "organisms"
        organisms.mkdir(exist_ok=True)
        (folder / "organisms").symlink_to(organisms)
    before = os.environ.get("LMMEM_CACHE")
    os.environ["LMMEM_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["LMMEM_CACHE"]
    else:
        os.environ["LMMEM_CACHE"] = before


@pytest.fixture(scope="session")
def mini(cache):
    """The small organism at its last step."""
    return lmmem.load_model(MINI)


@pytest.fixture(scope="session")
def mini_corpus(cache) -> Corpus:
    """The small organism's training data."""
    return lmmem.training_data(MINI)


@pytest.fixture
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub on this machine; this process's client talks to it, with caches of its own."""
    import huggingface_hub

    from lmmem.storage import hub

    with LoopbackHub() as server:
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
        monkeypatch.setattr(hub, "PAUSE", 0)
        monkeypatch.setenv("LMMEM_CACHE", str(tmp_path / "lmmem"))
        yield server
    hub._locations.clear()
    hub._listings.clear()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, the system's own."""
    from playwright.sync_api import sync_playwright

    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        if os.environ.get("LMMEM_REQUIRE_BROWSER"):
            pytest.fail("no Chromium found, and LMMEM_REQUIRE_BROWSER is set")
        pytest.skip("no Chromium on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=flags)
        yield chromium
        chromium.close()
