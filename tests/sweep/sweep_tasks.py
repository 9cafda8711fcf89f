"""Measurements for the tests of sweeps, in a module so that they can be sent to workers; and a sweep of them.

python tests/sweep/sweep_tasks.py SCHEDULER TASKS SECONDS [FOLDER] runs one, and prints a digest of its tables; in
the folder it leaves a file for each measurement.
"""

from __future__ import annotations

import sys
import time
import uuid
import weakref
from pathlib import Path
from typing import ClassVar

import pandas as pd

from lmmem.storage.files import DamagedError
from lmmem.storage.results import Part
from lmmem.sweep.tasks import BadInputError, Task, run


def slow(number: int, seconds: float, folder: str = "") -> pd.DataFrame:
    time.sleep(seconds)
    if folder:
        (Path(folder) / f"measured-{number}-{uuid.uuid4().hex}").touch()
    return pd.DataFrame({"number": [number] * 3, "square": [number**2] * 3})


def failing(number: int, times: int, folder: str) -> pd.DataFrame:
    """Fails the first `times` times that it is tried, on any process."""
    tries = len(list(Path(folder).glob(f"{number}-*")))
    (Path(folder) / f"{number}-{tries}").touch()
    if tries < times:
        raise RuntimeError(f"number {number} is unlucky")
    return slow(number, 0)


class Model:
    """What takes room for as long as anything holds it."""

    alive: ClassVar[weakref.WeakSet[Model]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.alive.add(self)


def failing_with_a_model(number: int) -> pd.DataFrame:
    def compute(model: Model) -> None:
        raise MemoryError("there is no room for keys and values")

    model = Model()
    try:
        compute(model)
    except MemoryError as error:
        raise RuntimeError(f"{len(Model.alive)} in memory") from error
    return pd.DataFrame()


def bad(number: int) -> pd.DataFrame:
    raise BadInputError(f"{number} is a bad number")


def deadly(number: int) -> pd.DataFrame:
    import os

    os._exit(1)


def pid(number: int) -> pd.DataFrame:
    import os

    return pd.DataFrame({"pid": [os.getpid()]})


def threads(number: int) -> pd.DataFrame:
    import os

    import torch

    env = os.environ.get("OMP_NUM_THREADS")
    return pd.DataFrame({"pid": [os.getpid()], "env": [env], "torch": [torch.get_num_threads()]})


def broken_on(number: int, pid: int) -> pd.DataFrame:
    import os

    if os.getpid() == pid:
        raise RuntimeError("CUDA error: unspecified launch failure")
    time.sleep(0.1)
    return pd.DataFrame({"pid": [os.getpid()]})


def damaged_on(number: int, pid: int, seconds: float) -> pd.DataFrame:
    import os

    if os.getpid() == pid:
        raise DamagedError("a file of this worker is not what was written there")
    time.sleep(seconds)
    return pd.DataFrame({"pid": [os.getpid()]})


def timed(number: int) -> pd.DataFrame:
    import os

    begun = time.monotonic()
    time.sleep(0.1)
    return pd.DataFrame({"pid": [os.getpid()], "begun": [begun], "ended": [time.monotonic()]})


def tasks(n: int, seconds: float = 0.0, measure=slow, *more: object) -> list[Task]:
    arguments = [(k, seconds, *more) if measure is slow else (k, *more) for k in range(n)]
    settings = {"model": measure.__name__}
    return [Task(Part("sweep", settings, {"k": k}, of=3 * n), measure, arguments[k]) for k in range(n)]


if __name__ == "__main__":
    tables = run(tasks(int(sys.argv[2]), float(sys.argv[3]), slow, *sys.argv[4:]), sys.argv[1])
    whole = pd.concat(tables, ignore_index=True)
    print("sum", whole["square"].sum(), "rows", len(whole))
