"""``python -m lmmem.experiments [name ..]``: measure organisms into results/, by default all but the largest two.

What was measured before is read, so that an interrupted run goes on. Knows which experiments there are.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lmmem.experiments import own_words, probes, relearning, replicates
from lmmem.experiments.kept import RESULTS
from lmmem.pocket.organisms import write_reference_losses
from lmmem.pocket.recipe import ORGANISMS

# Each a folder of files.
EXPERIMENTS = {"organisms": replicates, "relearning": relearning, "probes": probes, "own_words": own_words}


def main(arguments: list[str] | None = None) -> None:
    """Measure the organisms named on the command line, and say how long each took."""
    parser = argparse.ArgumentParser(prog="python -m lmmem.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(ORGANISMS)}")
    parser.add_argument("--only", choices=EXPERIMENTS, help="one of the experiments")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of their folders")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in ORGANISMS]:
        parser.error(f"there is no organism {', '.join(unknown)}; there are {', '.join(ORGANISMS)}")
    if chosen.results == RESULTS:
        print(f"lmmem: losses of the references are in {write_reference_losses()}", file=sys.stderr)
    for kind in [chosen.only] if chosen.only else EXPERIMENTS:
        for name in chosen.names or EXPERIMENTS[kind].NAMES:
            start = time.monotonic()
            path = EXPERIMENTS[kind].measure(name, chosen.results / kind)
            print(f"{path} ({path.stat().st_size / 1e3:.0f} kB, {(time.monotonic() - start) / 60:.1f} minutes)")


if __name__ == "__main__":
    main()
