"""Processes that decode on one machine share its cores, whatever started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lmmem.inference import cores
from lmmem.inference.cores import look, shared_cores
from lmmem.inference.decoding import greedy
from lmmem.inference.scoring import cross_entropy

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def two_cores(tmp_path, monkeypatch) -> Iterator[Path]:
    """Signs of this test alone, on a machine of two cores."""
    monkeypatch.setattr(cores, "folder", lambda: tmp_path)
    monkeypatch.setattr(cores, "cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield tmp_path
    torch.set_num_threads(before)


def threads() -> int:
    with shared_cores(CPU):
        return torch.get_num_threads()


def test_process_alone_keeps_its_threads(two_cores):
    assert threads() == 2
    assert [path.name for path in two_cores.iterdir()] == [str(os.getpid())]


def test_process_beside_another_takes_its_share_and_gives_it_back(two_cores):
    (two_cores / "1").touch()
    assert threads() == 1
    assert torch.get_num_threads() == 2
    (two_cores / "2").touch()
    assert threads() == 1  # three on two cores


def test_process_that_is_idle_takes_nothing(two_cores):
    idle = two_cores / "1"
    idle.touch()
    os.utime(idle, times=(time.time() - 60, time.time() - 60))
    assert threads() == 2


def aged(sign: Path, seconds: float) -> None:
    os.utime(sign, times=(time.time() - seconds, time.time() - seconds))


def test_process_in_a_long_step_counts_as_long_as_it_lives(two_cores):
    living, dead = two_cores / str(os.getppid()), two_cores / "4194305"  # no system numbers as far
    living.write_bytes(cores._born(os.getppid()))
    dead.write_bytes(b"123")
    for sign in (living, dead):
        aged(sign, 600)
    assert threads() == 1
    living.unlink()
    assert not dead.exists()
    assert threads() == 2


def test_killed_process_takes_nothing_from_then_on(two_cores):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    sign = two_cores / str(process.pid)
    sign.write_bytes(cores._born(process.pid))
    assert threads() == 1
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked for its status
    assert threads() == 2
    process.wait()
    sign.write_bytes(b"123")
    assert threads() == 2
    assert not sign.exists()


def test_number_that_another_process_has_now_takes_nothing(two_cores):
    (two_cores / str(os.getppid())).write_bytes(b"1" + cores._born(os.getppid()))
    assert threads() == 2


def test_process_says_when_it_rests(two_cores):
    with shared_cores(CPU):
        assert (two_cores / str(os.getpid())).read_bytes()
    assert not (two_cores / str(os.getpid())).read_bytes()


def test_share_is_taken_while_it_computes_as_others_come_and_go(two_cores, monkeypatch):
    monkeypatch.setattr(cores, "LOOK", 0)
    with shared_cores(CPU):
        assert torch.get_num_threads() == 2
        (two_cores / "1").touch()
        look()
        assert torch.get_num_threads() == 1
        (two_cores / "1").unlink()
        look()
        assert torch.get_num_threads() == 2


def test_nobody_gets_more_threads_than_he_had(two_cores):
    torch.set_num_threads(1)
    assert threads() == 1
    assert torch.get_num_threads() == 1


def test_a_gpu_changes_nothing(two_cores):
    (two_cores / "1").touch()
    with shared_cores(torch.device("cuda")):
        assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error_within_a_block_within_a_block(two_cores):
    (two_cores / "1").touch()
    with pytest.raises(ArithmeticError), shared_cores(CPU), shared_cores(CPU):
        assert torch.get_num_threads() == 1
        raise ArithmeticError
    assert torch.get_num_threads() == 2
    assert threads() == 1


def test_place_that_cannot_be_written_is_as_if_alone(two_cores, monkeypatch):
    monkeypatch.setattr(cores, "folder", lambda: two_cores / "file" / "none")
    (two_cores / "file").write_text("")
    assert threads() == 2


@pytest.mark.slow
def test_decoding_and_scoring_say_the_same_on_their_share(two_cores, mini, mini_corpus):
    prompts, truth = mini_corpus[:40][:, :32], mini_corpus[:40][:, 32:]
    alone = greedy(mini, prompts), cross_entropy(mini, prompts, truth)
    (two_cores / "1").touch()
    shared = greedy(mini, prompts), cross_entropy(mini, prompts, truth)
    np.testing.assert_array_equal(shared[0], alone[0])
    np.testing.assert_allclose(shared[1], alone[1], rtol=1e-5)


BUSY = """
import os, sys, time, torch
from pathlib import Path
from lmmem.inference import cores
cores.folder, cores._cores = (lambda: Path(sys.argv[1])), (lambda: 2)
torch.set_num_threads(2)
used, end = set(), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    with cores.shared_cores(torch.device("cpu")):
        used.add(torch.get_num_threads())
        time.sleep(0.05)
print(*sorted(used), len(list(cores.folder().iterdir())))
"""


@pytest.mark.slow
def test_two_processes_see_each_other_and_one_alone_sees_nobody(two_cores):
    def start(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", BUSY, str(two_cores), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    assert start(0.5).communicate(timeout=60)[0].split() == ["2", "1"]
    assert not list(two_cores.iterdir())  # what has ended leaves no sign
    both = [start(6), start(6)]  # longer than a process needs to start
    for said in [process.communicate(timeout=60)[0].split() for process in both]:
        assert said[0] == "1"
