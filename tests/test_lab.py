"""JupyterLab as `make lab` starts it: pages open as notebooks, outputs stay, the text stays as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "notebooks").glob("*.md"))
PAGE = "02_complexity"
PATIENCE = 120  # seconds that anything may take
# Nothing of the user's is read or written, and nothing is asked of the network.
SETTINGS = {
    "ServerApp": {"allow_root": True},
    "ExtensionApp": {"open_browser": False},
    "LabApp": {
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "expose_app_in_browser": True,  # so that one can wait for what it knows
        "news_url": None,
    },
}


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A repository of its own, with the files of this one as they are now."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    who = ["-c", "user.name=lmmem", "-c", "user.email=lmmem@localhost", "-c", "commit.gpgsign=false"]
    git(folder, *who, "commit", "--quiet", "--message", "as it is")
    return folder


def announced(process: subprocess.Popen, runtime: Path, log: Path) -> dict:
    """What the server says of itself, as soon as it does."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        for file in runtime.glob("jpserver-*.json"):
            if (text := file.read_text()).rstrip().endswith("}"):
                return json.loads(text)
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def server(browser, cache, checkout, tmp_path_factory) -> Iterator[dict]:
    """The server that `make lab` starts, in the environment of these tests."""
    home = tmp_path_factory.mktemp("jupyter")
    (home / "jupyter_server_config.json").write_text(json.dumps(SETTINGS))
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PORT": "0",  # any that is free
        "MAKEFLAGS": "",  # of the make that runs these tests
    }
    environment.pop("JUPYTER_TOKEN", None)  # one is drawn
    installed = ["VENV=" + sys.prefix, "--old-file=" + sys.prefix + "/.installed"]
    with (
        open(home / "log", "w") as log,
        subprocess.Popen(
            ["make", "lab", *installed],
            cwd=checkout,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield announced(process, home / "runtime", home / "log")
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the server ends its kernels


@pytest.fixture
def tab(browser, server):
    """JupyterLab as it opens, without the tabs of the test before."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{server['url']}?token={server['token']}")
    opened = page.url
    page.goto(f"{opened}?reset")
    listed(page, PAGES[0]).wait_for()
    yield page
    page.close()


# A notebook is in front, and what its kernel says of itself has reached it.
READY = """path => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.context?.path === path
        && panel.context.sessionContext?.session?.kernel?.status === "idle"
        && panel.context.model.getMetadata("language_info");
}"""
RAN = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(e => /\\[\\d+\\]/.test(e.textContent))"


def listed(tab, name: str):
    """A file in the list of files."""
    return tab.locator(".jp-DirListing-item").get_by_text(name, exact=True)


def open_page(tab, name: str) -> None:
    """A double click, and a notebook with a toolbar and a kernel."""
    listed(tab, name).dblclick()
    tab.wait_for_function(READY, arg=f"notebooks/{name}")
    tab.locator(".jp-NotebookPanel:visible .jp-NotebookPanel-toolbar").wait_for()


def save(tab) -> None:
    with tab.expect_response(lambda answer: answer.request.method == "PUT" and "/api/contents/" in answer.url) as saved:
        tab.keyboard.press("Control+s")
    assert saved.value.ok


@pytest.mark.parametrize("source", ["the text alone", "the pair"])
def test_saving_pages_that_were_only_opened_leaves_their_bytes(tab, checkout, source):
    for page in PAGES:
        text = checkout / "notebooks" / page
        before = text.read_bytes()
        assert text.with_suffix(".ipynb").exists() == (source == "the pair")
        open_page(tab, page)
        save(tab)
        assert text.read_bytes() == before
        listed(tab, text.with_suffix(".ipynb").name).wait_for()  # what is below it has moved
    assert git(checkout, "status", "--porcelain") == ""


def test_page_runs_from_top_to_bottom_and_its_outputs_outlive_the_tab(tab, checkout):
    text = (checkout / "notebooks" / f"{PAGE}.md").read_text()
    open_page(tab, f"{PAGE}.md")
    small = text.replace('model = "pocket" ', 'model = "pocket-mini" ').replace("n_sequences = 32 ", "n_sequences = 4 ")
    tab.locator(".jp-CodeCell .cm-content").first.click()
    tab.keyboard.press("ControlOrMeta+a")
    tab.keyboard.insert_text(re.search(r":tags: \[parameters\]\n\n(.*?)\n```", small, flags=re.S).group(1))
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    tab.wait_for_function(RAN)
    said = tab.locator(".jp-OutputArea").last
    said.scroll_into_view_if_needed()
    assert re.search(r"model pocket-mini, step \d+", said.inner_text())
    save(tab)

    assert (checkout / "notebooks" / f"{PAGE}.md").read_text() == small
    assert git(checkout, "status", "--porcelain") == f" M notebooks/{PAGE}.md\n"
    cells = [c for c in nbformat.read(checkout / "notebooks" / f"{PAGE}.ipynb", 4).cells if c.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert cells[0].metadata.tags == ["parameters"]

    tab.reload()
    tab.locator(".jp-OutputArea").get_by_text("model pocket-mini").wait_for()


def test_readme_is_shown_and_saving_it_leaves_its_bytes(tab, checkout):
    tab.locator(".jp-BreadCrumbs-home").click()
    listed(tab, "README.md").dblclick()
    tab.locator(".jp-Dialog").get_by_role("button", name="No Kernel").click()
    tab.get_by_role("heading", name="lmmem").first.wait_for()
    save(tab)
    assert "README.md" not in git(checkout, "status", "--porcelain")
    assert not (checkout / "README.ipynb").exists()
