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
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
    tasks: Sequence[Task], scheduler: str | None = None, *, what: str = "sweep", unit: str = "task"
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

    Raises
    ------
    SweepError : tasks failed twice; it names them. All others have been measured and are kept.
    ConnectionError : the scheduler does not answer, or was lost.
    ValueError, TypeError, LookupError : from a measurement, at once: its input is bad.
    OSError : a table cannot be written.
    """
    tables = [find(task.part) for task in tasks]
    missing = [number for number, table in enumerate(tables) if table is None]
    place = address(scheduler)
    failed: dict[int, BaseException] = {}
    total = sum(task.size for task in tasks)
    done = total - sum(tasks[number].size for number in missing)
    with (
        tqdm(total=total, initial=done, desc=what, unit=f" {unit}", unit_scale=True, disable=not missing) as bar,
        _told_how_to_go_on(tasks, tables),
    ):
        for number, result in _there(place, tasks, missing) if place else _here(tasks, missing):
            if isinstance(result, BaseException):
                failed[number] = result
            else:
                tables[number] = result if isinstance(result, pd.DataFrame) else keep_part(tasks[number].part, result)
            bar.update(tasks[number].size)
    if failed:
        lines = [f"{_name(tasks[number])}: {type(error).__name__}: {error}" for number, error in failed.items()]
        raise SweepError(
            f"{len(failed)} of {len(tasks)} measurements failed, each tried {ATTEMPTS} times; the others are kept, "
            "and are not measured again when you start again. Failed:\n" + "\n".join(lines)
        ) from next(iter(failed.values()))
    return tables  # type: ignore[return-value]  # none is missing


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
    if not client.scheduler_info()["workers"]:
        print("waiting for a first worker")
    client.wait_for_workers(1)
    answers = set(client.run(ask).values())
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
    from distributed.client import FutureCancelledError, FuturesCancelledError
    from distributed.scheduler import KilledWorker

    client = _client(place)
    run_id, serial = os.urandom(4).hex(), itertools.count()  # a task of an earlier, interrupted run is another task
    waiting, deaths = _Waiting(tasks, missing), dict.fromkeys(missing, 0)
    given: dict[Future, tuple[int, str]] = {}  # which task, and the worker that it is meant for; "" is any
    resources = {"GPU": 1} if _have_gpus(client) else None

    def give_out(number: int, worker: str = "") -> None:
        task = tasks[number]
        future = client.submit(
            _measure_there,
            *(task.part, task.measure, task.arguments, code_hash()),
            key=f"{task.part.kind}-{task.part.key}-{run_id}-{next(serial)}",
            retries=ATTEMPTS - 1,
            resources=resources,
            workers=[worker] if worker else None,
            allow_other_workers=bool(worker),  # if it dies
            pure=False,
        )
        given[future] = number, worker

    def look_after() -> None:
        """Give each worker a task ahead, and to any worker what one that died has left behind."""
        workers = list(client.scheduler_info()["workers"])
        left = [future for future, (_, worker) in given.items() if worker and worker not in workers]
        if left and workers:  # Dask keeps them for the worker that died, if it was the only one
            taken = {key for keys in client.processing().values() for key in keys}
            for future in left:
                if not future.done() and future.key not in taken:
                    number, _ = given.pop(future)
                    future.cancel(force=True)
                    give_out(number)
        busy = Counter(worker for _, worker in given.values())
        for worker in workers or [""]:
            for _ in range(AHEAD - busy[worker]):
                if waiting.queues:
                    give_out(waiting.take(worker), worker)

    try:
        look_after()
        while given:
            with suppress(TimeoutError):
                wait(list(given), timeout=PATIENCE, return_when="FIRST_COMPLETED")
            for future in [future for future in given if future.done()]:
                number, _ = given.pop(future)
                error = future.exception()
                if isinstance(error, BAD_INPUT):
                    raise error
                died = isinstance(error, KilledWorker)
                try:
                    result = future.result() if error is None else error
                except OSError as lost:  # its worker died before the table was fetched
                    died, result = True, lost
                if died and deaths[number] < DEATHS:
                    deaths[number] += 1
                    give_out(number)
                else:
                    yield number, result
            look_after()
    except (FutureCancelledError, FuturesCancelledError, OSError) as error:  # of the connection
        raise _lost(client) from error
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


def _lost(client: Client) -> ConnectionError:
    where = client.scheduler.address if client.scheduler else "its address"
    _client.cache_clear()
    with suppress(Exception):
        client.close(timeout=1)
    return ConnectionError(f"the scheduler at {where} was lost; start it, and then this again, to go on")


def _have_gpus(client: Client) -> bool:
    """Whether workers say that they have GPUs to give out, one to a task."""
    workers = client.scheduler_info()["workers"].values()
    return any("GPU" in worker["resources"] for worker in workers)


@functools.cache
def _client(place: str) -> Client:
    """The client of a scheduler, or of local processes, one for as long as this process lives."""
    from distributed import Client

    if place.startswith(LOCAL):
        client = Client(_local_cluster(place))
    else:
        try:
            client = Client(scheduler_file=place) if place.endswith(".json") else Client(place, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {place} ({error})") from error
    dashboard = client.dashboard_link if "dashboard" in client.scheduler_info()["services"] else None
    print(f"measuring on {client.scheduler.address}" + (f"; dashboard: {dashboard}" if dashboard else ""))
    return client


def _local_cluster(place: str) -> Any:
    """Processes on this machine that only it can reach, each with a GPU of its own or a share of the cores."""
    import torch
    from distributed import Nanny, Scheduler, SpecCluster

    logging.getLogger("distributed").setLevel(logging.WARNING)  # of scheduler and nannies, which live in this process
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if visible[0] else [str(number) for number in range(torch.cuda.device_count())]
    cores = os.cpu_count() or 1
    n = int(place.partition(":")[2] or len(gpus) or cores)
    specifications = {}
    for number in range(n):
        env = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // n))}
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
def _told_how_to_go_on(tasks: Sequence[Task], tables: Sequence[pd.DataFrame | None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block in order, with a line that says what is kept."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except BaseException:
        kept = sum(table is not None for table in tables)
        tqdm.write(f"stopped: {kept} of {len(tasks)} parts are kept; run the same again to go on")
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _name(task: Task) -> str:
    block = ", ".join(f"{key} {value}" for key, value in task.part.block.items())
    return f"{task.part.kind} {task.part.key}" + (f" ({block})" if block else "")
