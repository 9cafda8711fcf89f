"""What was timed once, files in benchmarks/, found from wherever a page runs. Knows no key's meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["FOLDERS", "benchmark"]

# Of the checkout that a page runs in, at its root or in notebooks/; then of the one that lmmem is part of.
FOLDERS = (Path("benchmarks"), Path("../benchmarks"), Path(__file__).parents[2] / "benchmarks")


def benchmark(name: str, folder: str | Path | None = None) -> dict[str, Any]:
    """A file of benchmarks/, as it was written.

    Parameters
    ----------
    name : of the file: "results", "gpu", "scaling" or "sharing".
    folder : where to look; None is the repository's.

    Raises
    ------
    ValueError : there is no such file, or it is not JSON.

    >>> sorted(benchmark("gpu"))
    ['environment', 'gpu', 'rows']
    """
    folders = FOLDERS if folder is None else (Path(folder),)
    found = next((one / f"{name}.json" for one in folders if (one / f"{name}.json").is_file()), None)
    if found is None:
        how = "make bench" if name == "results" else f"python -m benchmarks.{name}"
        raise ValueError(f"there is no {name}.json in {' or '.join(map(str, folders))}: {how} writes it")
    try:
        return json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{found} is not JSON: {error}") from error
