"""Run many independent measurements: here, in local processes, or on any Dask scheduler.

Each is a part of a table (:class:`lmmem.results.Part`). What is on disk is not measured again,
what is measured is kept at once, and however a sweep ends it goes on from there. Workers only
measure; the process that asked for the sweep writes, so workers need no folder in common with it.
Knows nothing of models.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import os
import random
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from lmmem.results import Part, code_hash, find, keep_part, measure_part

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["SCHEDULER_VARIABLE", "SweepError", "Task", "on_worker", "run"]

SCHEDULER_VARIABLE = "LMMEM_SCHEDULER"  # where to measure, if a page or call does not say
LOCAL = "local"
LOOPBACK = "127.0.0.1"
ATTEMPTS = 2  # of a measurement that fails; errors that name bad input are raised at once
DEATHS = 5  # times that a task is given out again after its workers died and Dask gave it up, or its table was lost
AHEAD = 2  # tasks that a worker has at most, the one it does included
PATIENCE = 2  # seconds between two looks at which workers there are
CONNECT = "10s"  # to wait for a scheduler's answer
FETCH = 60  # seconds to wait for a table that has been measured
CONNECTED = ("running", "connecting")  # states of a client
THREADS = os.environ.get("OMP_NUM_THREADS")  # of each process, as the user has it: Dask changes it later
BAD_INPUT = (ValueError, TypeError, LookupError)


class SweepError(RuntimeError):
    """Some measurements of a sweep failed, each time they were tried; all others are kept."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes
    ----------
    part : what is measured, and where it is kept.
    measure : a function of a module, so that it can be sent to a worker; gives the table.
    arguments : what it is called with.
    size : how much work it is, in the sweep's unit.
    needs : what a worker has to load for it, by a name; a worker that has loaded it takes these first.
    """

    part: Part
    measure: Callable[..., pd.DataFrame]
    arguments: tuple[Any, ...] = ()
    size: int = 1
    needs: str = ""


def run(
    tasks: Sequence[Task],
    scheduler: str | None = None,
    *,
    what: str = "sweep",
    unit: str = "task",
    collect: bool = True,
) -> list[pd.DataFrame]:
    """The tables of all tasks, in their order: read if they are on disk, else measured and kept.

    Parameters
    ----------
    tasks : no two of the same part. In one process they are measured in order; a worker goes on with
        those that need what it has loaded before it loads anything else.
    scheduler : where to measure. "local" is a process for each GPU, or for each core where there
        is none, "local:4" is four of them; "tcp://host:8786" or "tls://host:8786" is a Dask
        scheduler, and a path that ends in .json the file that names one. None is the
        environment variable ``LMMEM_SCHEDULER``, and without it, this process.
    what, unit : for the progress bar.
    collect : False holds no table and returns none: for sweeps that are larger than memory.

    Raises
    ------
    SweepError : tasks failed twice; it names them. All others have been measured and are kept.
    ConnectionError : the scheduler does not answer, or was lost.
    ValueError, TypeError, LookupError : from a measurement, at once: its input is bad.
    OSError : a table cannot be written.
    """
    place = address(scheduler)
    tables: dict[int, pd.DataFrame] = {}
    kept: set[int] = set()  # which tasks are on disk

    def take(number: int, table: pd.DataFrame | None) -> None:
        if table is not None:
            kept.add(number)
            if collect:
                tables[number] = table

    for number, task in enumerate(tasks):
        take(number, find(task.part))
    missing = [number for number in range(len(tasks)) if number not in kept]
    failed: dict[int, BaseException] = {}
    total = sum(task.size for task in tasks)
    done = sum(tasks[number].size for number in kept)
    with (
        tqdm(total=total, initial=done, desc=what, unit=f" {unit}", unit_scale=True, disable=not missing) as bar,
        _told_how_to_go_on(kept, len(tasks)),
    ):
        for number, result in _there(place, tasks, missing) if place else _here(tasks, missing):
            if isinstance(result, BaseException):
                failed[number] = result
            else:
                table = result if isinstance(result, pd.DataFrame) else keep_part(tasks[number].part, result)
                take(number, table)
            bar.update(tasks[number].size)
    if failed:
        lines = [f"{_name(tasks[number])}: {type(error).__name__}: {error}" for number, error in failed.items()]
        raise SweepError(
            f"{len(failed)} of {len(tasks)} measurements failed, each tried {ATTEMPTS} times; the others are kept, "
            "and are not measured again when you start again. Failed:\n" + "\n".join(lines)
        ) from next(iter(failed.values()))
    return [tables[number] for number in sorted(tables)]


def on_worker(scheduler: str | None, ask: Callable[[], Any]) -> Any:
    """What a question about the machine is answered where the measuring is done, by all workers alike.

    Parameters
    ----------
    scheduler : as for :func:`run`.
    ask : a function of a module.

    Raises
    ------
    ValueError : workers differ in their answers.

    >>> import os
    >>> on_worker(None, os.getpid) == os.getpid()
    True
    """
    place = address(scheduler)
    if not place:
        return ask()
    client = _client(place)
    with _connected(client):
        if not _workers(client):
            print("waiting for a first worker")
        first = client.submit(ask, pure=False).result()  # asked for, or a cluster that adapts would start no worker
        answers = {first, *client.run(ask, on_error="ignore").values()}  # those that die meanwhile say nothing
    if len(answers) > 1:
        found = " and ".join(sorted(map(str, answers)))
        raise ValueError(f"the workers differ in {ask.__name__}: {found}. Use workers of one kind")
    return answers.pop()


def address(scheduler: str | None) -> str:
    """Where to measure, as asked or by the environment; empty for this process.

    Raises
    ------
    ValueError : it is none of what :func:`run` takes.

    >>> address("tcp://127.0.0.1:8786")
    'tcp://127.0.0.1:8786'
    """
    place = os.environ.get(SCHEDULER_VARIABLE, "") if scheduler is None else scheduler
    if not isinstance(place, str):
        raise ValueError(f"scheduler={place!r}: {_PLACES}")
    kind, _, workers = place.partition(":")
    known = place.startswith(("tcp://", "tls://")) or place.endswith(".json")
    local = kind == LOCAL and (place == LOCAL or (workers.isdigit() and int(workers) > 0))
    if place and not known and not local:
        raise ValueError(f"scheduler={place!r}: {_PLACES}")
    return place


_PLACES = 'give "local", "local:4", an address such as "tcp://127.0.0.1:8786", or a scheduler file that ends in .json'


def _here(tasks: Sequence[Task], missing: Sequence[int]) -> Iterator[tuple[int, pd.DataFrame | bytes | BaseException]]:
    for number in missing:
        task = tasks[number]
        if (table := find(task.part)) is not None:  # another sweep has measured it meanwhile
            yield number, table
            continue
        for _ in range(ATTEMPTS):
            try:
                result: bytes | BaseException = measure_part(
                    task.part, functools.partial(task.measure, *task.arguments)
                )
                break
            except BAD_INPUT:
                raise
            except Exception as error:
                result = error
        yield number, result


def _there(
    place: str, tasks: Sequence[Task], missing: Sequence[int]
) -> Iterator[tuple[int, pd.DataFrame | bytes | BaseException]]:
    """As :func:`_here`, in the order in which workers end; each worker is given a task ahead of the one it does."""
    if not missing:
        return
    from distributed import TimeoutError, wait
    from distributed.scheduler import KilledWorker

    client = _client(place)
    run_id, serial = os.urandom(4).hex(), itertools.count()  # a task of an earlier, interrupted run is another task
    waiting, tries, deaths = _Waiting(tasks, missing), Counter[int](), Counter[int]()
    given: dict[Future, tuple[int, str]] = {}  # which task, and the worker that it is meant for; "" is any
    with _connected(client):
        resources = {"GPU": 1} if _all_have_gpus(client) else None

    def give_out(number: int, worker: str = "", only: bool = False) -> None:
        """To a worker, from whom an idle one may take it, unless `only` it is to do it."""
        task = tasks[number]
        future = client.submit(
            _measure_there,
            *(task.part, task.measure, task.arguments, code_hash()),
            key=f"{task.part.kind}-{task.part.key}-{run_id}-{next(serial)}",
            resources=resources,
            workers=[worker] if worker else None,
            allow_other_workers=bool(worker) and not only,
            pure=False,
        )
        given[future] = number, worker

    def look_after() -> None:
        """Give each worker a task ahead, and to any worker what one that died has left behind."""
        workers = list(_workers(client))
        left = [future for future, (_, worker) in given.items() if worker and worker not in workers]
        if left and workers:  # Dask keeps them for the worker that died, if it was the only one
            taken = {key for keys in client.processing().values() for key in keys}
            for future in left:
                if not future.done() and future.key not in taken:
                    number, _ = given.pop(future)
                    future.cancel(force=True)
                    give_out(number)
        waiting.forget_all_but(workers)
        busy = Counter(worker for _, worker in given.values())
        for worker in workers or [""]:
            for _ in range(AHEAD - busy[worker]):
                if waiting.queues:
                    give_out(waiting.take(worker), worker)

    def outcome(future: Future) -> bytes | BaseException | None:
        """What a measurement gave or raised; None if it is to be done again, which has been seen to."""
        number, worker = given.pop(future)
        if future.cancelled():
            future.result()  # says why
        died = False
        try:
            error = future.exception(timeout=FETCH)
            result: bytes | BaseException = future.result(timeout=FETCH) if error is None else error
        except OSError as lost:  # its worker died before the table was fetched
            future.cancel(force=True)
            died, error, result = True, lost, lost
        died |= isinstance(error, KilledWorker)
        if died and deaths[number] < DEATHS:
            deaths[number] += 1
            give_out(number)
            return None
        if died or error is None or isinstance(error, BAD_INPUT):
            return result
        tries[number] += 1
        if tries[number] == ATTEMPTS:
            return result
        others = [other for other in _workers(client) if other != worker]  # it may be the worker that is broken
        give_out(number, random.choice(others or [""]), only=bool(others))  # noqa: S311
        return None

    try:
        while True:
            with _connected(client):
                look_after()
                if not given:
                    return
                with suppress(TimeoutError):
                    wait(list(given), timeout=PATIENCE, return_when="FIRST_COMPLETED")
                ended = [future for future in given if future.done()]
            for future in ended:
                number, _ = given[future]
                with _connected(client):
                    result = outcome(future)
                if isinstance(result, BAD_INPUT):
                    raise result
                if result is not None:
                    yield number, result
    finally:
        with suppress(Exception):  # of a scheduler that is gone
            client.cancel(list(given), force=True)


class _Waiting:
    """Tasks that nobody has been given yet, by what they need."""

    def __init__(self, tasks: Sequence[Task], missing: Sequence[int]) -> None:
        self.queues: dict[str, deque[int]] = {}
        for number in missing:
            self.queues.setdefault(tasks[number].needs, deque()).append(number)
        self.loaded: dict[str, str] = {}  # by each worker, the last

    def forget_all_but(self, workers: Collection[str]) -> None:
        """Workers that are gone hold nothing any more."""
        self.loaded = {worker: needs for worker, needs in self.loaded.items() if worker in workers}

    def take(self, worker: str) -> int:
        """The next task of this worker: of what it has loaded, else of what most tasks for each worker are left."""
        needs = self.loaded.get(worker)
        if needs not in self.queues:
            at_it = Counter(self.loaded.values())
            needs = max(self.queues, key=lambda name: len(self.queues[name]) / (1 + at_it[name]))
            self.loaded[worker] = needs
        number = self.queues[needs].popleft()
        if not self.queues[needs]:
            del self.queues[needs]
        return number


_measuring = threading.Lock()  # one task at a time in a process, whatever its worker's threads


def _measure_there(part: Part, measure: Callable[..., pd.DataFrame], arguments: tuple[Any, ...], code: str) -> bytes:
    """Measure a part in a worker."""
    if code_hash() != code:
        raise ValueError("a worker runs another version of lmmem than this process: install the same on both")
    with _measuring:
        return measure_part(part, functools.partial(measure, *arguments))


_clients: dict[str, Client] = {}  # by place, for as long as this process lives


@contextmanager
def _connected(client: Client) -> Iterator[None]:
    """Whatever comes of a connection that is lost is one error, and the next sweep connects anew."""
    from distributed.client import FutureCancelledError, FuturesCancelledError

    where = client.scheduler.address if client.scheduler else "its address"
    try:
        yield
    except Exception as error:
        of_connection = isinstance(error, (FutureCancelledError, FuturesCancelledError, OSError))
        if not of_connection and client.status in CONNECTED:
            raise
        _forget(client)
        raise ConnectionError(f"the scheduler at {where} was lost; start it, and then this again, to go on") from error


def _forget(client: Client) -> None:
    for place in [place for place, known in _clients.items() if known is client]:
        del _clients[place]
    with suppress(Exception):
        client.close(timeout=1)
    if client.cluster is not None:
        with suppress(Exception):
            client.cluster.close(timeout=1)


def _workers(client: Client) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker, by its address."""
    return client.sync(client.scheduler.identity, n_workers=-1)["workers"]


def _all_have_gpus(client: Client) -> bool:
    """Whether all workers say that they have GPUs to give out, one to a task."""
    workers = _workers(client).values()
    return bool(workers) and all("GPU" in worker["resources"] for worker in workers)


def _client(place: str) -> Client:
    """The client of a scheduler, or of local processes."""
    from distributed import Client

    known = _clients.get(place)
    if known is not None and known.status in CONNECTED:
        return known
    if known is not None:
        _forget(known)
    if place.startswith(LOCAL):
        client = Client(_local_cluster(place))
    else:
        by_file = place.endswith(".json")
        if by_file and not Path(place).is_file():
            raise ConnectionError(f"there is no scheduler file {place}: start the scheduler that writes it")
        try:
            client = Client(**{"scheduler_file" if by_file else "address": place}, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {place} ({error})") from error
    _clients[place] = client
    dashboard = client.dashboard_link if "dashboard" in client.scheduler_info()["services"] else None
    print(f"measuring on {client.scheduler.address}" + (f"; dashboard: {dashboard}" if dashboard else ""))
    return client


def _local_cluster(place: str) -> Any:
    """Processes on this machine that only it can reach, each with a GPU of its own or a share of the cores."""
    import torch
    from distributed import Nanny, Scheduler, SpecCluster

    logging.getLogger("distributed").setLevel(logging.WARNING)  # of scheduler and nannies, which live in this process
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if visible[0] not in ("", "-1") else [str(number) for number in range(torch.cuda.device_count())]
    cores = os.cpu_count() or 1
    n = int(place.partition(":")[2] or len(gpus) or cores)
    specifications = {}
    for number in range(n):
        share = THREADS or str(max(1, cores // n))
        env = {f"{name}_NUM_THREADS": share for name in ("OMP", "MKL", "OPENBLAS")}  # Dask sets each of them to 1
        options: dict[str, Any] = {
            "nthreads": 1,
            "memory_limit": 0,
            "host": LOOPBACK,
            "env": env,
            "silence_logs": logging.WARNING,
        }
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            options["resources"] = {"GPU": 1}
        specifications[number] = {"cls": Nanny, "options": options}
    scheduler = {"cls": Scheduler, "options": {"host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0"}}
    return SpecCluster(workers=specifications, scheduler=scheduler)


@contextmanager
def _told_how_to_go_on(kept: Collection[int], of: int) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block in order, with a line that says what is kept."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except BaseException:
        tqdm.write(f"stopped: {len(kept)} of {of} parts are kept; run the same again to go on")
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _name(task: Task) -> str:
    block = ", ".join(f"{key} {value}" for key, value in task.part.block.items())
    return f"{task.part.kind} {task.part.key}" + (f" ({block})" if block else "")
