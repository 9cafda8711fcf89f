"""The two figures of the README, drawn from results/ as the pages draw theirs: ``make figures``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from lmmem.analysis import between_organisms, hidden, plotting
from lmmem.experiments import relearning, replicates

FOLDER = Path(__file__).parent / "_static"
SHOWN = 20  # passages at least of a point; late lags hold few
KINDS = ("hidden", "erased", "forgotten", "just after")


def dynamics() -> plt.Figure:
    """What one exposure leaves in each organism, in bits and in tokens."""
    runs = replicates.measured()
    labels = {"both": "bits of the passage", "kl_ahead": "kl-LD ahead (tokens)"}
    tables = {label: _by_lag(runs, value) for value, label in labels.items()}
    axes = plotting.plot_beside(tables, "since", hue="organism", band=True)
    for ax in axes:
        ax.set_xlabel("steps since the only exposure")
    axes[-1].get_legend().remove()
    return axes[0].figure


def _by_lag(runs: pd.DataFrame, value: str) -> pd.DataFrame:
    found = between_organisms.by_organism(runs, value=value)
    return found[found.n >= SHOWN]


def taught_again() -> plt.Figure:
    """kl-LD after each presentation of passages that were there, beside passages that were not."""
    again = relearning.measured()
    curves = hidden.learning(again[again.kind.isin(KINDS)])
    axes = plotting.plot_facets(curves, "presentation", "kind", hue="what", band=True)
    axes[0].set_ylabel("mean kl-LD (tokens)")
    return axes[0].figure


def main(folder: Path = FOLDER) -> None:
    """Draw both into a folder."""
    plotting.set_style()
    for name, draw in {"dynamics": dynamics, "relearning": taught_again}.items():
        figure = draw()
        figure.savefig(
            folder / f"{name}.png", dpi=110, bbox_inches="tight", facecolor="white", metadata={"Software": None}
        )
        plt.close(figure)


if __name__ == "__main__":
    main()
