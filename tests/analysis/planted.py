"""Effects to plant in simulated trajectories, and how often intervals hold what was planted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from lmmem.analysis.trajectories import BITS, EVERY

LAST = 840
QUIET = {"noise": 0.0, "drift": 0.0, "file_drift": 0.0}
ARMS = {"spread 0": 8, "spread 1": 8, "spread 4": 1, "spread 16": 1}
BAND = (0.935, 0.965)  # book/plan.md, "Intervals and tests"


def power(since: np.ndarray) -> np.ndarray:
    return 80 * (1 + since / 30) ** -0.5


def exponential(since: np.ndarray) -> np.ndarray:
    return 80 * np.exp(-since / 200)


def none(since: np.ndarray) -> np.ndarray:
    return 0.0 * since


def of_bins(effect: Callable, bins: int) -> np.ndarray:
    """Mean effect in each bin, any time in it being as likely."""
    return effect(np.arange(bins * EVERY, dtype=float)).reshape(bins, EVERY).mean(axis=1)


def at_end(table: pd.DataFrame) -> pd.DataFrame:
    return table[table.step == table.step.max()].copy()


def plus(table: pd.DataFrame, bits: object) -> pd.DataFrame:
    return table.assign(cross_entropy=table.cross_entropy - bits / BITS)


def covered(table: pd.DataFrame, truth: object) -> np.ndarray:
    return (table.low.to_numpy() <= truth) & (truth <= table.high.to_numpy())


def assert_covers(hits: list, band: tuple[float, float] = BAND) -> None:
    found = np.mean(hits, axis=0)
    assert ((found >= band[0]) & (found <= band[1])).all(), found
