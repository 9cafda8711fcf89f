"""What a number was made with."""

from __future__ import annotations

import ast
import datetime
import platform
import shutil
import subprocess
import sys

import numpy
import torch

from lmmem.storage import provenance
from lmmem.storage.provenance import environment, processor


def test_versions_are_those_of_the_imported_packages():
    found = environment()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == numpy.__version__
    assert found["python"] == platform.python_version()


def test_date_is_now_in_utc():
    date = datetime.datetime.fromisoformat(environment()["date"])
    assert abs(datetime.datetime.now(datetime.UTC) - date) < datetime.timedelta(minutes=1)


def test_processor_has_a_name():
    assert processor()
    assert environment()["processor"] == processor()


def test_gpu_is_named_where_torch_sees_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "gpu" not in environment()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert environment()["gpu"] == "a GPU"


def test_commit_is_that_of_the_checkout_and_tells_changes(tmp_path):
    package, room = tmp_path / "lmmem", tmp_path / "lmmem" / "storage"
    room.mkdir(parents=True)
    shutil.copy(provenance.__file__, room / "provenance.py")
    (package / "protocol.py").write_text("")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import provenance; print(provenance.commit())"

    def commit() -> str:
        done = subprocess.run([sys.executable, "-c", code, room], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=n@localhost", "-C", str(tmp_path)]
        return subprocess.run(["git", *who, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    assert commit() == ""
    git("init")
    git("commit", "--allow-empty", "-m", "another project")
    assert commit() == ""  # lmmem lies in it, and is not of it
    git("add", ".")
    git("commit", "-m", "lmmem")
    assert commit() == git("rev-parse", "--short=12", "HEAD")
    with (package / "protocol.py").open("a") as file:
        file.write("\n# changed\n")
    assert commit() == git("rev-parse", "--short=12", "HEAD") + "+"


def test_source_that_another_thread_kept_from_being_parsed_is_parsed_again(monkeypatch):
    """As Python 3.11 refuses it: AST constructor recursion depth mismatch."""
    parse, refused = ast.parse, iter([True, False])

    def parsed(source: str) -> ast.Module:
        if next(refused):
            raise SystemError("AST constructor recursion depth mismatch (before=51, after=64)")
        return parse(source)

    monkeypatch.setattr(provenance.ast, "parse", parsed)
    assert provenance._imports("from lmmem.measures import distance\n") == {"measures", "measures.distance"}
