"""Run many independent measurements and keep each as soon as it is there: :func:`run`.

Each is a part of a table (:class:`lmmem.storage.results.Part`). What is on disk is not measured
again, and however a sweep ends it goes on from there. Workers only measure; the process that asked
for the sweep writes, so workers need no folder in common with it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import random
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from lmmem.storage.provenance import code_hash
from lmmem.storage.results import Part, find, keep_part, measure_part
from lmmem.sweep.cluster import checked, connect, connected, one_at_a_time, workers_of

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["BadInputError", "SweepError", "Task", "run"]

ATTEMPTS = 2  # of a measurement that fails
DEATHS = 20  # of workers while a measurement was theirs: then it is what ends them
AHEAD = 2  # tasks that a worker has at most, the one it does included
PATIENCE = 2  # seconds between two looks at which workers there are
FETCH = 60  # seconds to wait for a table that has been measured
WHERE = "lmmem_worker"  # the attribute of a measurement's error that tells on which worker it was raised


class BadInputError(ValueError):
    """A measurement cannot be made from what it was given, here or anywhere else: it is not tried again."""


class SweepError(RuntimeError):
    """Some measurements of a sweep failed, each time they were tried; all others are kept."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """What a measurement raised at last, and how often it was tried; it holds nothing that was measured with."""

    error: BaseException
    times: int

    def __post_init__(self) -> None:
        waiting, seen = [self.error], list[BaseException]()
        while waiting:
            seen.append(error := waiting.pop())
            traceback.clear_frames(error.__traceback__)  # whose variables are the model, and what it computed
            behind = (error.__cause__, error.__context__)
            waiting += [other for other in behind if other is not None and other not in seen]

    def __str__(self) -> str:
        where = f" (on {vars(self.error)[WHERE]})" if WHERE in vars(self.error) else ""
        return f"tried {self.times} times: {type(self.error).__name__}: {self.error}{where}"


Result = bytes | pd.DataFrame | Failure


@dataclasses.dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes
    ----------
    part : what is measured, and where it is kept.
    measure : a function of a module, so that it can be sent to a worker; gives the table.
    arguments : what it is called with.
    size : how much work it is, in the sweep's unit.
    needs : what has to be loaded for it, by a name; a worker that has loaded it takes these first.
    """

    part: Part
    measure: Callable[..., pd.DataFrame]
    arguments: tuple[Any, ...] = ()
    size: int = 1
    needs: str = ""

    def __str__(self) -> str:
        span = ", ".join(f"{key} {value}" for key, value in self.part.span.items())
        return f"{self.part.kind} {self.part.key}" + (f" ({span})" if span else "")


def run(
    tasks: Sequence[Task],
    scheduler: str | Client | None = None,
    *,
    what: str = "sweep",
    unit: str = "task",
    collect: bool = True,
) -> list[pd.DataFrame]:
    """The tables of all tasks, in their order: read if they are on disk, else measured and kept.

    Parameters
    ----------
    tasks : no two of the same part. Whoever measures goes on with those that need what is loaded
        before anything else is loaded.
    scheduler : where to measure. "local" is a process for each GPU, or for each core where there
        is none, "local:4" is four of them; "tcp://host:8786" or "tls://host:8786" is a Dask
        scheduler, a path that ends in .json the file that names one; or a ``distributed.Client``.
        None is the environment variable ``LMMEM_SCHEDULER``, and without it, this process.
    what, unit : for the progress bar.
    collect : False holds no table and returns none: for sweeps that are larger than memory.

    Raises
    ------
    SweepError : tasks failed each time that they were tried; it names them. All others have been measured and are kept.
    BadInputError : from a measurement, at once.
    ConnectionError : the scheduler does not answer, or was lost.
    ValueError : `scheduler` is none of these.
    OSError : a table cannot be written.
    """
    place = checked(scheduler)
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
    failed: dict[int, Failure] = {}
    total = sum(task.size for task in tasks)
    done = sum(tasks[number].size for number in kept)
    with (
        tqdm(total=total, initial=done, desc=what, unit=f" {unit}", unit_scale=True, disable=not missing) as bar,
        _told_how_to_go_on(kept, len(tasks)),
    ):
        client = connect(place) if missing else None
        for number, result in _by_workers(client, tasks, missing) if client else _by_this_process(tasks, missing):
            if isinstance(result, Failure):
                failed[number] = result
            else:
                table = result if isinstance(result, pd.DataFrame) else keep_part(tasks[number].part, result)
                take(number, table)
            bar.update(tasks[number].size)
    if failed:
        lines = [f"{tasks[number]}, {failure}" for number, failure in failed.items()]
        raise SweepError(
            f"{len(failed)} of {len(tasks)} measurements failed each time that they were tried; the others are kept, "
            "and are not measured again when you start again. Failed:\n" + "\n".join(lines)
        ) from next(iter(failed.values())).error
    return [tables[number] for number in sorted(tables)]


def _by_this_process(tasks: Sequence[Task], missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
    """One after another; in any order, so that two processes that want the same share the work."""
    groups = {needs: place for place, needs in enumerate(dict.fromkeys(tasks[number].needs for number in missing))}
    for number in sorted(missing, key=lambda number: (groups[tasks[number].needs], random.random())):  # noqa: S311
        task = tasks[number]
        if (table := find(task.part)) is not None:  # another sweep has measured it meanwhile
            yield number, table
            continue
        for _ in range(ATTEMPTS):
            try:
                result: Result = measure_part(task.part, functools.partial(task.measure, *task.arguments))
                break
            except BadInputError:
                raise
            except Exception as error:
                result = Failure(error, ATTEMPTS)
        yield number, result


def _by_workers(client: Client, tasks: Sequence[Task], missing: Sequence[int]) -> Iterator[tuple[int, Result]]:
    """In the order in which they end; given out in any, so that two sweeps that want the same share the work.

    Which worker does what is decided here, two tasks ahead; the rest is Dask's.
    Dask alone would give each task to whoever is free, and have every worker load every model. Its
    `retries` may go to the worker that is broken, and what is scattered is lost with its worker.
    """
    from distributed import TimeoutError, wait
    from distributed.scheduler import KilledWorker

    run_id, serial = os.urandom(4).hex(), itertools.count()  # a task of an earlier, interrupted run is another task
    queue, tries, deaths = _Queue(tasks, random.sample(missing, len(missing))), Counter[int](), Counter[int]()
    given: dict[Future, tuple[int, str]] = {}  # which task, and the worker that it is meant for; "" is any

    def give(number: int, worker: str) -> None:
        task = tasks[number]
        future = client.submit(
            _measure_on_worker,
            *(task.part, task.measure, task.arguments, code_hash()),
            key=f"{task.part.kind}-{task.part.key}-{run_id}-{next(serial)}",
            workers=[worker] if worker else None,
            allow_other_workers=bool(worker) and number not in queue.avoided,  # an idle one may take it
            pure=False,
        )
        given[future] = number, worker

    def ended(future: Future, gone: bool = False) -> Result | None:
        """What a task gave or raised; None if it is to be done again."""
        number, worker = given.pop(future)
        error: BaseException = ConnectionError("its worker died, each time")
        if future.cancelled():
            future.result()  # says why
        elif future.status == "error":
            raised = future.exception()
            gone = isinstance(raised, KilledWorker)
            error = error if gone else raised
            worker = vars(raised).get(WHERE, worker)  # an idle one may have taken it
        elif not gone:
            try:
                return future.result(timeout=FETCH)
            except OSError:  # its worker died before the table was fetched
                gone = True
        future.cancel(force=True)
        counted, most = (deaths, DEATHS) if gone else (tries, ATTEMPTS)
        counted[number] += 1
        if isinstance(error, BadInputError) or counted[number] == most:
            return Failure(error, counted[number])
        queue.put_back(number, "" if gone else worker)  # it may be the worker that is broken
        return None

    try:
        while queue or given:
            with connected(client):
                workers = workers_of(client)
                at = {key: worker for worker, keys in client.processing().items() for key in keys if worker in workers}
                over = []
                for future, (task, worker) in given.items():
                    if worker and worker not in workers and not future.done():
                        if future.key in at:  # an idle one has taken it
                            given[future] = task, at[future.key]
                        else:
                            over.append((future, True))
                given_to, found = Counter(worker for _, worker in given.values()), list[tuple[int, pd.DataFrame]]()
                for ahead, worker in itertools.product(range(AHEAD), workers or [""]):
                    while given_to[worker] == ahead and (number := queue.take(worker, workers)) is not None:
                        if (table := find(tasks[number].part)) is not None:  # another sweep has measured it meanwhile
                            found.append((number, table))
                        else:
                            give(number, worker)
                            given_to[worker] += 1
                with suppress(TimeoutError):
                    wait(list(given), timeout=0 if found else PATIENCE, return_when="FIRST_COMPLETED")
                over += [(future, False) for future in given if future.done()]
            yield from found
            for future, gone in dict(over).items():
                number, _ = given[future]
                with connected(client):
                    result = ended(future, gone)
                if isinstance(result, Failure) and isinstance(result.error, BadInputError):
                    raise result.error
                if result is not None:
                    yield number, result
    finally:
        with suppress(Exception):  # of a scheduler that is gone
            client.cancel(list(given), force=True)


class _Queue:
    """Tasks that nobody has been given, by what they need."""

    def __init__(self, tasks: Sequence[Task], missing: Sequence[int]) -> None:
        self.tasks = tasks
        self.waiting: dict[str, list[int]] = {}
        for number in missing:
            self.waiting.setdefault(tasks[number].needs, []).append(number)
        self.loaded: dict[str, str] = {}  # by each worker, the last
        self.avoided: dict[int, str] = {}  # by a task, the worker on which it failed

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def put_back(self, number: int, avoided: str = "") -> None:
        """A task is to be done again, by another worker than one if there is another."""
        self.waiting.setdefault(self.tasks[number].needs, []).insert(0, number)
        if avoided:
            self.avoided[number] = avoided

    def take(self, worker: str, workers: Collection[str] = ()) -> int | None:
        """The next task of this worker: of what it has loaded, else of what most tasks for each worker are left."""
        self.loaded = {other: needs for other, needs in self.loaded.items() if other in workers}
        at_it = Counter(self.loaded.values())
        mine = self.loaded.get(worker)
        for needs in sorted(self.waiting, key=lambda n: (n != mine, -len(self.waiting[n]) / (1 + at_it[n]))):
            for number in self.waiting[needs]:
                if self.avoided.get(number) != worker or len(workers) < 2:
                    self.waiting[needs].remove(number)
                    if not self.waiting[needs]:
                        del self.waiting[needs]
                    self.loaded[worker] = needs
                    return number
        return None


def _measure_on_worker(
    part: Part, measure: Callable[..., pd.DataFrame], arguments: tuple[Any, ...], code: str
) -> bytes:
    from distributed import get_worker

    with one_at_a_time:
        if code_hash() != code:  # within the lock: Python 3.11 cannot parse in two threads at once
            raise BadInputError("a worker runs another version of lmmem than this process: install the same on both")
        try:
            return measure_part(part, functools.partial(measure, *arguments))
        except Exception as error:
            with suppress(ValueError):  # called by no worker
                vars(error)[WHERE] = get_worker().address
            raise


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
