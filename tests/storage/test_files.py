"""Files are whole or absent, and damage is found."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmmem.storage import files as storage


def write(folder: Path, content: str = "content") -> None:
    with storage.folder_being_written(folder) as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text(content)
        (part / "other").write_bytes(b"other")


def test_cache_folder_is_the_one_of_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path / "a" / "b"))
    assert storage.cache_folder() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_cache_folder_defaults_to_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("LMMEM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path in storage.cache_folder().parents


def test_cache_folder_that_cannot_be_written_says_how_to_choose_another(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        PermissionError, match=r"cannot write to the cache folder .* set the environment variable LMMEM"
    ):
        storage.cache_folder()


def test_written_folder_is_whole(tmp_path):
    write(tmp_path / "folder")
    storage.check_folder(tmp_path / "folder")
    assert storage.recorded_sha256(tmp_path / "folder" / "other") == hashlib.sha256(b"other").hexdigest()


def test_failed_write_leaves_the_old_folder_and_nothing_else(tmp_path):
    write(tmp_path / "folder", "old")
    with pytest.raises(RuntimeError), storage.folder_being_written(tmp_path / "folder") as part:
        (part / "file").write_text("new")
        raise RuntimeError
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_new_folder_replaces_the_old_one(tmp_path):
    write(tmp_path / "folder", "old")
    write(tmp_path / "folder", "new")
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "new"
    storage.check_folder(tmp_path / "folder")


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    leftover = tmp_path / ".folder.killed.part"
    leftover.mkdir()
    (leftover / "half").write_text("half")
    write(tmp_path / "folder")
    assert not leftover.exists()


def test_killed_writer_leaves_the_old_folder_whole(tmp_path):
    write(tmp_path / "folder", "old")
    code = (
        "import os, pathlib, sys; from lmmem.storage.files import folder_being_written\n"
        "with folder_being_written(pathlib.Path(sys.argv[1])) as part:\n"
        "    (part / 'half').write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "folder")])
    assert done.returncode == -signal.SIGKILL
    storage.check_folder(tmp_path / "folder")
    assert len(list(tmp_path.iterdir())) == 2
    write(tmp_path / "folder", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_killed_writer_leaves_the_old_file_whole(tmp_path):
    (tmp_path / "file").write_text("old")
    code = (
        "import os, pathlib, sys; from lmmem.storage.files import write_whole\n"
        "with write_whole(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")])
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"


def test_any_flipped_bit_of_the_checksums_is_found(tmp_path):
    write(tmp_path / "folder")
    sums = tmp_path / "folder" / "checksums.json"
    data = sums.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        sums.write_bytes(flipped)
        with pytest.raises(storage.DamagedError):
            storage.check_folder(tmp_path / "folder")


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "no checksums"])
def test_damage_is_found_and_named(tmp_path, damage):
    write(tmp_path / "folder")
    file = tmp_path / "folder" / "inner" / "file"
    if damage == "change":
        file.write_text("cOntent")
    elif damage == "truncate":
        file.write_text("cont")
    elif damage == "remove":
        file.unlink()
    else:
        file = tmp_path / "folder" / "checksums.json"
        file.write_text("{")
    with pytest.raises(storage.DamagedError, match=str(file)):
        storage.check_folder(tmp_path / "folder")


def test_missing_folder_is_not_whole(tmp_path):
    with pytest.raises(storage.DamagedError, match="cannot be read"):
        storage.check_folder(tmp_path / "none")


def test_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    with storage.write_whole(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(RuntimeError), storage.write_whole(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["file"]
