"""Where measurements run: this process, processes of this machine, or the workers of a Dask scheduler.

:func:`connect` turns what a user says of it into a ``distributed.Client``, which sweeps submit to;
:func:`on_worker` asks the workers themselves. Knows nothing of what they measure.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "SCHEDULER_VARIABLE",
    "checked",
    "connect",
    "connected",
    "forget",
    "on_one_worker",
    "on_worker",
    "one_at_a_time",
    "workers_of",
]

SCHEDULER_VARIABLE = "LMMEM_SCHEDULER"  # where to measure, if a page or call does not say
LOCAL = "local"
LOOPBACK = "127.0.0.1"
CONNECT = "10s"  # to wait for a scheduler's answer
CONNECTED = ("running", "connecting")  # states of a client
THREADS = os.environ.get("OMP_NUM_THREADS")  # of each process, as the user has it: Dask changes it later
PLACES = (
    'give "local", "local:4", an address such as "tcp://127.0.0.1:8786", a scheduler file that ends in .json, '
    "or a distributed.Client"
)

one_at_a_time = threading.Lock()  # who touches a model in a process, whatever its worker's threads
_clients: dict[str, Client] = {}  # by place, for as long as this process lives


def checked(scheduler: str | Client | None) -> str | Client:
    """Where to measure, as asked or by the environment; empty for this process.

    Raises
    ------
    ValueError : it is none of what :func:`lmmem.sweep.tasks.run` takes.

    >>> checked("tcp://127.0.0.1:8786")
    'tcp://127.0.0.1:8786'
    """
    place = os.environ.get(SCHEDULER_VARIABLE, "") if scheduler is None else scheduler
    if not isinstance(place, str):
        from distributed import Client

        if isinstance(place, Client):
            return place
        raise ValueError(f"scheduler={place!r}: {PLACES}")
    kind, _, workers = place.partition(":")
    known = place.startswith(("tcp://", "tls://")) or place.endswith(".json")
    local = kind == LOCAL and (place == LOCAL or (workers.isdigit() and int(workers) > 0))
    if place and not known and not local:
        raise ValueError(f"scheduler={place!r}: {PLACES}")
    return place


def connect(scheduler: str | Client | None) -> Client | None:
    """The client of a scheduler or of local processes, which are started; None is this process.

    Raises
    ------
    ValueError : as for :func:`checked`.
    ConnectionError : no scheduler answers there.
    """
    place = checked(scheduler)
    if not isinstance(place, str):
        return place
    if not place:
        return None
    from distributed import Client

    known = _clients.get(place)
    if known is not None and known.status in CONNECTED:
        return known
    if known is not None:
        forget(known)
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


@contextmanager
def connected(client: Client) -> Iterator[None]:
    """Whatever comes of a connection that is lost is one error, and the next sweep connects anew."""
    from distributed.client import FutureCancelledError, FuturesCancelledError

    where = client.scheduler.address if client.scheduler else "its address"
    try:
        yield
    except Exception as error:
        of_connection = isinstance(error, (FutureCancelledError, FuturesCancelledError, OSError))
        if not of_connection and client.status in CONNECTED:
            raise
        forget(client)
        raise ConnectionError(f"the scheduler at {where} was lost; start it, and then this again, to go on") from error


def forget(client: Client) -> None:
    """Close a client that :func:`connect` made, and its local processes; a user's own is left as it is."""
    places = [place for place, known in _clients.items() if known is client]
    for place in places:
        del _clients[place]
        with suppress(Exception):
            client.close(timeout=1)
        if client.cluster is not None:
            with suppress(Exception):
                client.cluster.close(timeout=1)


def workers_of(client: Client) -> list[str]:
    """The addresses of the workers that a scheduler has."""
    return list(client.sync(client.scheduler.identity, n_workers=-1)["workers"])


def on_worker(scheduler: str | Client | None, ask: Callable[[], Any]) -> Any:
    """What a question about the machine is answered where the measuring is done, by all workers alike.

    Parameters
    ----------
    scheduler : as for :func:`lmmem.sweep.tasks.run`.
    ask : a function of a module, or a ``functools.partial`` of one.

    Raises
    ------
    ValueError : workers differ in their answers.

    >>> import os
    >>> on_worker("", os.getpid) == os.getpid()
    True
    """
    client = connect(scheduler)
    if client is None:
        return ask()
    with connected(client):
        if not workers_of(client):
            print("waiting for a first worker")
        first = client.submit(ask, pure=False).result()  # asked for, or a cluster that adapts would start no worker
        answers = {first, *client.run(ask, on_error="ignore").values()}  # those that die meanwhile say nothing
    if len(answers) > 1:
        found = " and ".join(sorted(map(str, answers)))
        what = getattr(ask, "func", ask).__name__  # of a partial, its function
        raise ValueError(f"the workers differ in {what}: {found}. Use workers of one kind")
    return answers.pop()


def on_one_worker(scheduler: str | Client | None, ask: Callable[[], Any]) -> tuple[Any, int]:
    """What a question is answered by one of those who measure, and how many they are.

    Parameters
    ----------
    scheduler : as for :func:`lmmem.sweep.tasks.run`.
    ask : as for :func:`on_worker`; it may use a model: a worker that measures answers between two tasks.

    >>> on_one_worker("", lambda: "here")
    ('here', 1)
    """
    client = connect(scheduler)
    if client is None:
        return ask(), 1
    with connected(client):
        return client.submit(_alone, ask, pure=False).result(), max(1, len(workers_of(client)))


def _alone(ask: Callable[[], Any]) -> Any:
    with one_at_a_time:
        return ask()


def _local_cluster(place: str) -> Any:
    """Processes on this machine that only it can reach, each with a GPU of its own or a share of the cores it may use.

    By hand, because ``LocalCluster`` gives all of its processes one environment, and so one GPU.
    """
    import torch
    from distributed import Nanny, Scheduler, SpecCluster

    logging.getLogger("distributed").setLevel(logging.WARNING)  # of scheduler and nannies, which live in this process
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if visible[0] not in ("", "-1") else [str(number) for number in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n = int(place.partition(":")[2] or len(gpus) or cores)
    share = THREADS or str(max(1, cores // n))
    workers = {}
    for number in range(n):
        env = {f"{name}_NUM_THREADS": share for name in ("OMP", "MKL", "OPENBLAS")}  # Dask sets each of them to 1
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        options = {"nthreads": 1, "memory_limit": 0, "host": LOOPBACK, "env": env, "silence_logs": logging.WARNING}
        workers[number] = {"cls": Nanny, "options": options}
    scheduler = {"cls": Scheduler, "options": {"host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0"}}
    return SpecCluster(workers=workers, scheduler=scheduler)
