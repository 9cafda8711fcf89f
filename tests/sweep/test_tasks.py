"""Sweeps here, in local processes and on a scheduler, while processes are killed: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import sweep_tasks
from distributed import Client
from sweep_tasks import tasks

from lmmem.experiments.disturbed import perturbation_table
from lmmem.storage.files import cache_folder
from lmmem.storage.tables import load
from lmmem.sweep import cluster as places
from lmmem.sweep import tasks as sweep
from lmmem.sweep.tasks import BadInputError, SweepError, run

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ALONE = ["--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
SQUARES = [k**2 for k in range(12) for _ in range(3)]


@pytest.fixture
def own_cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("LMMEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Cluster:
    """A scheduler and workers, each a process that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.file, self.log = folder / "scheduler.json", folder / "log"
        self.processes: list[subprocess.Popen] = []
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")

    def start(self, what: str, *options: str, by_file: bool = True) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", what, *options]
        command += ["--scheduler-file", str(self.file)] if by_file else []
        environment = os.environ | {"PYTHONPATH": str(HERE)}
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def worker(self, *options: str) -> subprocess.Popen:
        return self.start("worker", *ALONE, *options)

    def pids(self) -> list[int]:
        """Of the processes that measure."""
        return list(places.connect(str(self.file)).run(os.getpid).values())


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    wait_until(cluster.file.exists)
    yield cluster
    for client in list(places._clients.values()):
        places.forget(client)
    for process in reversed(cluster.processes):
        process.terminate()
    for process in cluster.processes:
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def squares(tables: list[pd.DataFrame]) -> list[int]:
    return pd.concat(tables)["square"].tolist()


def kept(cache: Path) -> list[Path]:
    return list(cache.rglob("*.parquet"))


def test_same_table_here_and_on_workers_that_are_killed(cluster, mini_corpus, tmp_path, monkeypatch):
    index = mini_corpus.canaries["index"][:16].tolist()
    organism = cache_folder() / "organisms"

    def table(cache: str, scheduler: str | None) -> bytes:
        (tmp_path / cache).mkdir()
        (tmp_path / cache / "organisms").symlink_to(organism)
        monkeypatch.setenv("LMMEM_CACHE", str(tmp_path / cache))
        options = {"sigma": 0.02, "draws": 120, "seed": 5, "scheduler": scheduler}
        found = perturbation_table("pocket-mini", mini_corpus, index, **options)
        assert len(kept(tmp_path / cache)) == 12
        return found.to_csv().encode()

    expected = table("here", None)
    for _ in range(2):
        cluster.worker()  # with nannies, that start them again
    undisturbed = table("workers", str(cluster.file))
    assert undisturbed == expected
    over, killed = threading.Event(), []

    def kill() -> None:
        """One after every third part: workers killed by the clock might never get so far as to measure one."""
        while not over.wait(0.05):
            if len(kept(tmp_path / "killed")) > 3 * len(killed):
                with contextlib.suppress(OSError, IndexError):  # those just killed neither answer nor are there to kill
                    pid = random.choice(cluster.pids())  # noqa: S311
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        disturbed = table("killed", str(cluster.file))
    finally:
        over.set()
        killer.join()
    assert len(killed) >= 2
    assert disturbed == expected


def test_all_workers_killed_and_others_come(cluster, own_cache):
    first = cluster.worker("--no-nanny")
    result: list[list[int]] = []
    places.connect(str(cluster.file))
    at_work = threading.Thread(target=lambda: result.append(squares(run(tasks(12, 0.3), str(cluster.file)))))
    at_work.start()
    wait_until(lambda: kept(own_cache))
    first.kill()
    time.sleep(1)
    cluster.worker("--no-nanny")
    at_work.join(60)
    assert result == [SQUARES]


class Cable:
    """A connection to an address, over a port of its own, that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self.there, self.ends = (host, port), []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                here, _ = self.listening.accept()
                there = socket.create_connection(self.there)
            except OSError:  # cut
                return
            self.ends += [here, there]
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=self.carry, args=(one, other), daemon=True).start()

    @staticmethod
    def carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)

    def cut(self) -> None:
        for end in [self.listening, *self.ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_worker_that_loses_its_connection_is_replaced(cluster, own_cache):
    address = urllib.parse.urlsplit(json.loads(cluster.file.read_text())["address"])
    cable = Cable(address.hostname, address.port)
    cluster.start("worker", f"tcp://127.0.0.1:{cable.port}", *ALONE, "--no-nanny", by_file=False)
    places.connect(str(cluster.file)).wait_for_workers(1)
    result: list[list[int]] = []
    at_work = threading.Thread(target=lambda: result.append(squares(run(tasks(12, 0.3), str(cluster.file)))))
    at_work.start()
    wait_until(lambda: len(kept(own_cache)) >= 2)
    cable.cut()
    wait_until(lambda: not places.connect(str(cluster.file)).scheduler_info()["workers"])
    assert len(kept(own_cache)) < 12
    cluster.worker("--no-nanny")
    at_work.join(60)
    assert result == [SQUARES]


def test_scheduler_killed_is_named_and_the_sweep_goes_on_elsewhere(cluster, own_cache):
    cluster.worker("--no-nanny")
    places.connect(str(cluster.file))

    def kill() -> None:
        wait_until(lambda: len(kept(own_cache)) >= 2)
        cluster.scheduler.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ConnectionError, match=r"the scheduler at tcp://127.0.0.1:\d+ was lost; start it, and then"):
        run(tasks(12, 0.3), str(cluster.file))
    killer.join()
    before = {path: path.stat().st_mtime_ns for path in kept(own_cache)}
    assert 2 <= len(before) < 12
    assert squares(run(tasks(12, 0.3))) == SQUARES
    assert len(kept(own_cache)) == 12
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["", "local:2"])
def test_stopped_sweep_keeps_what_is_done_and_goes_on(own_cache, how, where):
    command = [sys.executable, str(HERE / "sweep_tasks.py"), where, "12", "0.4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: len(kept(own_cache)) >= 2)
    time.sleep(0.1)  # within the next task, not while the second part comes to be
    process.send_signal(how)
    start = time.monotonic()
    said = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    before = {path: path.stat().st_mtime_ns for path in kept(own_cache)}
    assert 2 <= len(before) < 12
    if how != signal.SIGKILL:
        assert time.monotonic() - start < 30, said
        assert f"stopped: {len(before)} of 12 parts are kept; run the same again to go on" in said
    assert squares(run(tasks(12, 0.0))) == SQUARES
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


@pytest.fixture(params=["here", "scheduler"])
def place(request) -> str:
    if request.param == "here":
        return ""
    cluster = request.getfixturevalue("cluster")
    cluster.worker("--no-nanny")
    return str(cluster.file)


def test_task_that_fails_once_is_tried_again(place, own_cache, tmp_path):
    assert squares(run(tasks(12, 0, sweep_tasks.failing, 1, str(tmp_path)), place)) == SQUARES


def test_task_that_always_fails_is_named_and_the_others_are_kept(place, own_cache, tmp_path):
    mixed = tasks(12)
    mixed[3] = unlucky = tasks(4, 0, sweep_tasks.failing, 99, str(tmp_path))[3]
    with pytest.raises(SweepError, match="1 of 12 measurements failed each time that they were tried") as caught:
        run(mixed, place)
    assert f"sweep {unlucky.part.path.stem} (k 3), tried 2 times: RuntimeError: number 3 is unlucky" in str(
        caught.value
    )
    assert len(kept(own_cache)) == 11


def test_what_failed_holds_no_model_while_others_are_measured(own_cache):
    with pytest.raises(SweepError, match="3 of 3 measurements failed") as caught:
        run(tasks(3, 0, sweep_tasks.failing_with_a_model))
    assert str(caught.value).count("RuntimeError: 1 in memory") == 3
    assert isinstance(caught.value.__cause__.__cause__, MemoryError)
    assert not sweep_tasks.Model.alive


def test_bad_input_is_raised_at_once(place, own_cache):
    with pytest.raises(ValueError, match="is a bad number"):
        run(tasks(12, 0, sweep_tasks.bad), place)
    assert not kept(own_cache)


def test_worker_with_other_code_is_refused(own_cache, monkeypatch):
    part = tasks(1)[0].part
    with pytest.raises(BadInputError, match="a worker runs another version of lmmem"):
        sweep._measure_on_worker(part, sweep_tasks.slow, (1, 0), "another")


def test_threads_of_a_worker_read_its_code_one_after_another(own_cache, monkeypatch):
    reading = threading.Lock()

    def code() -> str:
        assert reading.acquire(blocking=False), "two at once, which Python 3.11 answers with a SystemError"
        time.sleep(0.05)
        reading.release()
        return "mine"

    monkeypatch.setattr(sweep, "code_hash", code)
    with ThreadPoolExecutor(4) as pool:
        done = [
            pool.submit(sweep._measure_on_worker, task.part, task.measure, task.arguments, "mine") for task in tasks(4)
        ]
    assert all(future.result() for future in done)


@pytest.mark.parametrize("where", ["", "local:1"])
def test_two_sweeps_on_one_folder_share_the_work_and_give_one_table(own_cache, tmp_path, where):
    command = [sys.executable, str(HERE / "sweep_tasks.py"), where, "24", "0.4" if where else "0.2", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines(keepends=True)[-1] for process in both]
    assert said == [f"sum {3 * sum(k**2 for k in range(24))} rows 72\n"] * 2
    assert len(kept(own_cache)) == 24
    for path in kept(own_cache):
        load(path)
    measured = len(list(tmp_path.glob("measured-*")))
    assert 24 <= measured <= 36  # not 48: by chance both are at one task a few times


def test_result_that_cannot_be_written_says_so_and_keeps_the_rest(own_cache):
    run(tasks(4))
    done = subprocess.run(
        [sys.executable, str(HERE / "sweep_tasks.py"), "", "12", "0"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),  # less than a part
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "cannot be kept. Those kept before are whole: make room or give write permission" in done.stderr
    assert "stopped: 4 of 12 parts are kept" in done.stdout + done.stderr
    assert len([path for path in own_cache.rglob("*") if path.is_file()]) == 4
    assert squares(run(tasks(12))) == SQUARES


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "lmmem", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a file system, on Linux")
    yield place
    subprocess.run(["umount", place], check=True)


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The sweep of 12 tasks, in a process with this cache."""
    command = [sys.executable, str(HERE / "sweep_tasks.py"), "", "12", "0", *arguments]
    return subprocess.run(command, env=os.environ | {"LMMEM_CACHE": str(folder)}, capture_output=True, text=True)


def test_disk_that_is_full_loses_only_what_could_not_be_written(small_disk):
    ballast = small_disk / "ballast"
    assert run_in(small_disk).returncode == 0
    size = sum(path.stat().st_size for path in kept(small_disk))
    for path in kept(small_disk)[4:]:
        path.unlink()
    ballast.write_bytes(bytes(512 * 1024 - 4096 * 40))  # pages for some parts, not for all
    while shutil.disk_usage(small_disk).free > size // 2:
        with ballast.open("ab") as file:
            file.write(bytes(4096))
    full = run_in(small_disk)
    assert full.returncode != 0
    assert "No space left on device: a measured table cannot be kept. Those kept before are whole" in full.stderr
    whole = kept(small_disk)
    assert 4 <= len(whole) < 12
    assert f"stopped: {len(whole)} of 12 parts are kept" in full.stdout + full.stderr
    for path in whole:
        load(path)
    assert sorted(path.name for path in small_disk.rglob("*") if path.is_file()) == sorted(
        ["ballast", *(path.name for path in whole)]
    )
    before = {path: path.stat().st_mtime_ns for path in whole}
    ballast.unlink()
    assert run_in(small_disk).stdout == f"sum {sum(SQUARES)} rows 36\n"
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


def test_folder_that_turns_read_only_says_so_and_keeps_the_rest(small_disk):
    environment = os.environ | {"LMMEM_CACHE": str(small_disk)}
    command = [sys.executable, str(HERE / "sweep_tasks.py"), "", "12", "0.3"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: len(kept(small_disk)) >= 2)
    remounted = 1
    while remounted:  # busy while a file is open for writing
        remounted = subprocess.run(["mount", "-o", "remount,ro", small_disk], capture_output=True).returncode
    said = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "Read-only file system" in said
    assert "set the environment variable LMMEM_CACHE" in said or "give write permission" in said
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert 2 <= len(kept(small_disk)) < 12
    for path in kept(small_disk):
        load(path)
    assert run_in(small_disk).stdout == f"sum {sum(SQUARES)} rows 36\n"


def test_worker_goes_on_with_what_it_has_loaded(cluster, own_cache):
    for _ in range(2):
        cluster.worker("--no-nanny")
    places.connect(str(cluster.file)).wait_for_workers(2)
    alternating = [
        dataclasses.replace(task, needs=f"model {number % 4}")
        for number, task in enumerate(tasks(24, 0, sweep_tasks.timed))
    ]
    found = pd.concat(run(alternating, str(cluster.file))).assign(needs=[number % 4 for number in range(24)])
    loads = [(worker.sort_values("begun").needs.diff() != 0).sum() for _, worker in found.groupby("pid")]
    assert len(loads) == 2
    assert sum(loads) <= 4 + 2  # each model once, and twice where the last tasks are shared


def test_waiting_tasks_are_taken_by_what_is_loaded():
    made = [dataclasses.replace(task, needs=needs) for task, needs in zip(tasks(7), "aababba", strict=True)]
    queue, both = sweep._Queue(made, range(7)), ("one", "two")
    assert [queue.take("one", both) for _ in range(2)] == [0, 1]
    assert [queue.take("two", both) for _ in range(3)] == [2, 4, 5]  # what nobody has loaded
    assert queue.take("two", both) == 3  # then what is left
    assert queue.take("one", both) == 6
    assert not queue


def test_task_that_failed_is_left_to_another_worker_while_there_is_one():
    queue = sweep._Queue(tasks(2), [0, 1])
    assert queue.take("one", ("one", "two")) == 0
    queue.put_back(0, "one")
    assert queue.take("one", ("one", "two")) == 1
    assert queue.take("one", ("one", "two")) is None
    assert queue.take("one", ("one",)) == 0


def test_clock_that_jumps_changes_no_duration(own_cache, monkeypatch):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + random.choice([-1e7, 1e7]))  # noqa: S311
    run(tasks(12, 0.05))
    seconds = [load(path)[1]["seconds"] for path in kept(own_cache)]
    assert len(seconds) == 12
    assert all(0.04 < found < 10 for found in seconds)


@pytest.mark.parametrize("scheduler", ["locally", "local:0", "local:x", "127.0.0.1:8786", 3])
def test_what_is_no_scheduler_says_what_would_be(scheduler, own_cache):
    with pytest.raises(ValueError, match='give "local", "local:4", an address such as'):
        run(tasks(1), scheduler)


def test_scheduler_that_does_not_answer_is_named(own_cache, monkeypatch):
    monkeypatch.setattr(places, "CONNECT", "1s")
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 "):
        run(tasks(1), "tcp://127.0.0.1:9")


def test_environment_names_the_scheduler(cluster, own_cache, monkeypatch):
    worker = cluster.worker("--no-nanny")
    monkeypatch.setenv("LMMEM_SCHEDULER", str(cluster.file))
    assert [table.pid.item() for table in run(tasks(2, 0, sweep_tasks.pid))] == [worker.pid] * 2
    assert places.on_worker(None, os.getpid) == worker.pid
    assert places.on_worker("", os.getpid) == os.getpid()
    cluster.worker("--no-nanny")
    places.connect(str(cluster.file)).wait_for_workers(2)
    for ask in (os.getpid, functools.partial(os.getpid)):
        with pytest.raises(ValueError, match=r"the workers differ in getpid: .*Use workers of one kind"):
            places.on_worker(None, ask)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_share_the_cores(own_cache, workers):
    code = (
        "from sweep_tasks import *\n"
        "if __name__ == '__main__':\n"
        f"    found = pd.concat(run(tasks(8, 0, threads), 'local:{workers}'))\n"
        "    print(found.pid.nunique() in (1, 2), sorted({*found.env, *found.torch.astype(str)}))"
    )
    script = own_cache.parent / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    environment.pop("OMP_NUM_THREADS", None)  # that of these tests; what a user sets is kept
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    share = str(max(1, len(os.sched_getaffinity(0)) // workers))
    assert done.stdout.splitlines()[-1] == f"True ['{share}']"
    assert "INFO" not in done.stderr


def test_worker_processes_are_as_many_as_the_cores_that_may_be_used(own_cache):
    script = own_cache.parent / "script.py"
    script.write_text(
        "from sweep_tasks import *\nimport os\n"
        "if __name__ == '__main__':\n"
        "    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "    print(pd.concat(run(tasks(8, 0, timed), 'local')).pid.nunique())"
    )
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1"


def test_task_that_ends_its_workers_says_how_often(cluster, own_cache, monkeypatch):
    monkeypatch.setattr(sweep, "DEATHS", 3)
    cluster.worker()  # with a nanny, that starts it again
    with pytest.raises(SweepError, match=r"\(k 0\), tried 3 times: ConnectionError: its worker died, each time"):
        run(tasks(1, 0, sweep_tasks.deadly), str(cluster.file))


ADAPTIVE = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
    cluster.adapt(minimum=0, maximum=1, interval="200ms")
    with open(sys.argv[1], "w") as file:
        file.write(cluster.scheduler_address)
    time.sleep(600)
"""


def test_cluster_that_starts_workers_when_there_is_work_is_given_some(own_cache, tmp_path):
    script, place = tmp_path / "adaptive.py", tmp_path / "address"
    script.write_text(ADAPTIVE)
    process = subprocess.Popen([sys.executable, script, place], env=os.environ | {"PYTHONPATH": str(HERE)})
    try:
        wait_until(lambda: place.exists() and place.read_text())
        assert places.on_worker(place.read_text(), os.getpid) not in (os.getpid(), process.pid)
        assert squares(run(tasks(12), place.read_text())) == SQUARES
    finally:
        places.forget(places.connect(place.read_text()))
        process.terminate()
        process.wait()


def test_worker_of_several_threads_measures_one_task_at_a_time(cluster, own_cache):
    cluster.start("worker", "--host", "127.0.0.1", "--nthreads", "4", "--no-dashboard", "--no-nanny")
    found = pd.concat(run(tasks(8, 0, sweep_tasks.timed), str(cluster.file))).sort_values("begun")
    assert len(found) == 8
    assert found.pid.nunique() == 1
    assert (found.begun[1:].to_numpy() >= found.ended[:-1].to_numpy()).all()


def test_worker_of_several_threads_that_measures_is_asked_between_two_tasks(cluster, own_cache):
    cluster.start("worker", "--host", "127.0.0.1", "--nthreads", "4", "--no-dashboard", "--no-nanny")
    place = str(cluster.file)
    places.connect(place).wait_for_workers(1)
    with ThreadPoolExecutor(3) as pool:
        ask = functools.partial(sweep_tasks.timed, 0)
        asked = [pool.submit(places.on_one_worker, place, ask) for _ in range(3)]
        measured = run(tasks(4, 0, sweep_tasks.timed), place)
    found = pd.concat([*measured, *(future.result()[0] for future in asked)]).sort_values("begun")
    assert (len(found), found.pid.nunique()) == (7, 1)
    assert (found.begun[1:].to_numpy() >= found.ended[:-1].to_numpy()).all()


def test_worker_whose_file_is_damaged_ends_no_sweep(cluster, own_cache):
    damaged = cluster.worker("--no-nanny")
    client = places.connect(str(cluster.file))
    client.wait_for_workers(1)
    (address,) = places.workers_of(client)
    many = tasks(25, 0, sweep_tasks.damaged_on, damaged.pid, 0.6)
    with pytest.raises(SweepError, match=rf"is not what was written there \(on {address}\)$"):
        run(many[:1], str(cluster.file))
    cluster.worker("--no-nanny")
    client.wait_for_workers(2)
    for first in range(1, 25, 4):  # in most, the damaged worker is soon idle and takes what the other waits with
        found = run(many[first : first + 4], str(cluster.file))
        assert {table.pid.item() for table in found}.isdisjoint({damaged.pid})


def test_client_of_ones_own_is_measured_with_and_left_open(cluster, own_cache):
    worker = cluster.worker("--no-nanny")
    with Client(scheduler_file=str(cluster.file)) as client:
        assert [table.pid.item() for table in run(tasks(2, 0, sweep_tasks.pid), client)] == [worker.pid] * 2
        assert places.on_worker(client, os.getpid) == worker.pid
        places.forget(client)
        assert client.status == "running"
        assert not places._clients


def test_broken_worker_costs_no_measurement(cluster, own_cache):
    broken = cluster.worker("--no-nanny")
    client = places.connect(str(cluster.file))
    client.wait_for_workers(1)
    pid = places.on_worker(str(cluster.file), os.getpid)
    assert pid == broken.pid
    cluster.worker("--no-nanny")
    client.wait_for_workers(2)
    found = run(tasks(12, 0, sweep_tasks.broken_on, pid), str(cluster.file))
    assert {table.pid.item() for table in found}.isdisjoint({pid})


def test_same_process_goes_on_with_another_scheduler(cluster, own_cache):
    cluster.worker("--no-nanny")
    place = str(cluster.file)
    assert len(run(tasks(2), place)) == 2
    cluster.scheduler.kill()
    cluster.scheduler.wait()
    with pytest.raises(ConnectionError, match="was lost; start it, and then this again"):
        run(tasks(12), place)
    cluster.file.unlink()
    with pytest.raises(ConnectionError, match=r"there is no scheduler file .*scheduler\.json: start the scheduler"):
        run(tasks(12), place)
    cluster.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    wait_until(cluster.file.exists)
    cluster.worker("--no-nanny")
    assert squares(run(tasks(12), place)) == SQUARES


def test_page_measures_on_a_scheduler(cluster, mini_corpus, tmp_path):
    for _ in range(2):
        cluster.worker("--no-nanny")
    address = json.loads(cluster.file.read_text())["address"]
    command = [
        *(Path(sys.executable).with_name("papermill"), "notebooks/03_perturbation.md", tmp_path / "out.ipynb"),
        *["-p", "model", "pocket-mini", "-p", "n_sequences", "2", "-p", "draws", "11", "-p", "once_draws", "1"],
        *("-p", "scheduler", address),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4_000:]
    outputs = [o for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for o in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert f"measuring on {address}" in said
    assert "continuations/s" in said
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) >= 2


def test_documented_slurm_script_asks_for_what_it_should(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "book" / "cluster.md").read_text()
    (code,) = [block.split("```")[0] for block in page.split("```python\n")[1:] if "SLURMCluster(" in block]
    code = code.replace("cluster.adapt(minimum=0, maximum=16)", "print(cluster.job_script())")
    code = code.replace("scheduler_options={", 'scheduler_options={"host": "127.0.0.1", "dashboard_address": None, ')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in (
        "#SBATCH --gres=gpu:1",
        "#SBATCH -t 04:00:00",
        "--lifetime 230m",
        "--nthreads 1",
    ):
        assert words in done.stdout
