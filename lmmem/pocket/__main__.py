"""``python -m lmmem.pocket [name ..]``: train organisms, or finish what an interrupted run began."""

from __future__ import annotations

import argparse

from lmmem.pocket.organisms import train_together
from lmmem.pocket.recipe import ORGANISMS


def main(arguments: list[str] | None = None) -> None:
    """Train the organisms named on the command line, and print where each lies."""
    parser = argparse.ArgumentParser(prog="python -m lmmem.pocket", description="Train model organisms.")
    parser.add_argument("names", nargs="*", default=["pocket"], metavar="name", help=f"of {', '.join(ORGANISMS)}")
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in ORGANISMS]:
        parser.error(f"there is no organism {', '.join(unknown)}; there are {', '.join(ORGANISMS)}")
    print(*train_together(names), sep="\n")


if __name__ == "__main__":
    main()
