"""The organisms as data: what determines each, by name. The registry and training read it; it loads no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json

__all__ = ["RECIPES", "REFERENCE_TEXT", "Recipe"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines an organism's training text, schedule and weights.

    Token counts are per row; `steps` are optimizer steps of `rows_per_step` rows. `presentations`
    are how often the canaries of each arm are presented, spread over the whole of training;
    `window_presentations` the same, but only within `window` (fractions of training). Every block
    holds one canary of each arm and one unexposed twin for each of the two groups.
    """

    # text
    packages: tuple[str, ...] = ("transformers", "sympy", "networkx")
    training_bytes: int = 6_500_000
    held_out_bytes: int = 2_500_000
    vocabulary: int = 2_048
    row_tokens: int = 96  # a prompt of 32 and a continuation of 64
    # canaries
    blocks: int = 32
    presentations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    window_presentations: tuple[int, ...] = (4, 16, 64)
    window: tuple[float, float] = (0.25, 0.5)
    novelty_tokens: int = 16  # no canary shares a run of so many tokens with the text
    # network (GPT-NeoX)
    width: int = 192
    layers: int = 4
    heads: int = 6
    # training
    steps: int = 1_500
    rows_per_step: int = 16
    muon_lr: float = 0.02  # matrices inside the layers
    adamw_lr: float = 4e-3  # embeddings, biases, norms
    weight_decay: float = 0.0
    warmup_steps: int = 50
    final_lr: float = 0.1  # of the peak, reached linearly
    checkpoint_every: int = 60
    seed: int = 0

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps whose weights are kept: 0, every `checkpoint_every`, and the last."""
        return tuple(sorted({*range(0, self.steps, self.checkpoint_every), self.steps}))

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that differ between any two recipes."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:12]


RECIPES = {
    "pocket": Recipe(),
    # The small twin: every code path in seconds, for tests. It memorises too little to study.
    "pocket-mini": Recipe(
        training_bytes=400_000,
        held_out_bytes=700_000,
        vocabulary=512,
        blocks=6,
        presentations=(1, 8, 16),
        window_presentations=(16,),
        width=64,
        layers=2,
        heads=2,
        steps=120,
        rows_per_step=8,
        warmup_steps=10,
        checkpoint_every=6,
    ),
}

# SHA-256 of the text with the package versions of constraints.txt. Other versions train as well,
# on other text, and say so.
REFERENCE_TEXT = {
    "pocket": "4de8313354e75dd707defbc1fa63a45c4d05700800c040b8408915749d0e6e55",
    "pocket-mini": "30ff230be9c4b96d8d5731e09b8c03b91d9f1133b439072fe70ac5630eee525c",
}
