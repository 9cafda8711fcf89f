"""Fixtures shared by tests and examples: a cache of their own, and the small organism, trained once."""

from __future__ import annotations

import os

import pytest

import lmmem
from lmmem.corpora import Corpus

MINI = "pocket-mini"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Tests never touch the user's cache; the commands they start inherit this one."""
    folder = tmp_path_factory.mktemp("cache")
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
