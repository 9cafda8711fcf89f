"""``python -m lmmem.pocket [name]``: train an organism, or finish what an interrupted run began."""

from __future__ import annotations

import argparse

from lmmem.pocket.organisms import train
from lmmem.pocket.recipe import ORGANISMS


def main(arguments: list[str] | None = None) -> None:
    """Train the organism named on the command line and print where it lies."""
    parser = argparse.ArgumentParser(prog="python -m lmmem.pocket", description="Train a model organism.")
    parser.add_argument("name", nargs="?", default="pocket", choices=ORGANISMS)
    print(train(parser.parse_args(arguments).name))


if __name__ == "__main__":
    main()
