"""The organisms as data: what determines each, by name. The registry and training read it; it loads no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json

__all__ = ["DERIVED", "LARGE", "ORGANISMS", "RECIPES", "REFERENCE_TEXT", "Arm", "Derived", "Recipe"]

LARGE = 20_000_000  # weights of an organism above which a processor takes hours: a GPU trains it where torch sees one
QUARTERS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


@dataclasses.dataclass(frozen=True)
class Arm:
    """Passages that are treated alike: how many there are, how often each is presented, and when.

    `span` are fractions of training; `replaced` is the share of tokens that each presentation
    replaces by others, anew each time. Passages of `elsewhere` arms are never presented and come
    from files of which none is.
    """

    group: str
    presentations: int
    passages: int
    span: tuple[float, float] = (0.0, 1.0)
    replaced: float = 0.0
    elsewhere: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines an organism's training text, schedule and weights.

    Token counts are per row; `steps` are optimizer steps of `rows_per_step` rows. `text_seed`
    chooses files and passages, `seed` everything else: which passage is in which arm, when it is
    presented, the order of the rows, and the initial weights.
    """

    # text
    packages: tuple[str, ...] = ("transformers", "sympy", "networkx")
    training_bytes: int = 7_200_000
    held_out_bytes: int = 5_000_000
    vocabulary: int = 2_048
    row_tokens: int = 96  # a prompt of 32 and a continuation of 64
    text_seed: int = 0
    # canaries
    arms: tuple[Arm, ...] = (
        Arm("spread", 0, 256),
        *(Arm("spread", m, n) for m, n in ((1, 256), (2, 16), (4, 16), (8, 16), (16, 16), (32, 8), (64, 8))),
        *(Arm(f"q{q}", m, 8, span) for m in (16, 64) for q, span in enumerate(QUARTERS, start=1)),
        Arm("fuzzy", 16, 16, replaced=0.1),
        Arm("elsewhere", 0, 64, elsewhere=True),
    )
    blocks: int = 32
    reference: str | None = "pocket-clean"  # whose loss makes passages alike; None is their z-complexity
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
    def passages(self) -> int:
        """Canaries in all."""
        return sum(arm.passages for arm in self.arms)

    @property
    def parameters(self) -> int:
        """Of the network: in and out of the vocabulary, matrices with their biases, norms."""
        embeddings, layer = 2 * self.vocabulary * self.width, 12 * self.width**2 + 13 * self.width
        return embeddings + self.layers * layer + 2 * self.width

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that differ between any two recipes."""
        return _digest(dataclasses.asdict(self))

    def clean(self) -> Recipe:
        """The same without exposure: all its passages are held out."""
        return dataclasses.replace(self, arms=(Arm("spread", 0, self.passages),), blocks=1, reference=None)


def _digest(facts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Derived:
    """An organism made from another's last weights: passages are taught to it, and then hidden or erased.

    Passages are held out by the base, and new to its text and to its own passages. `taught` of them are
    presented `presentations` times. Then each of these, and each of the `alike`, which were never taught, is
    treated in every one of `rounds`: to "relabel" is to teach its prompt with another continuation, to "ascend" is
    to raise its loss, as far as to `ceiling`. The `untouched` are met by neither. All the while the other rows of
    a step are natural text that the base was trained on.
    """

    base: str
    group: str  # what its treated passages are called
    treatment: str
    taught: int = 64
    alike: int = 64
    untouched: int = 192
    presentations: int = 32
    rounds: int = 16
    teaching_rate: float = 1e-3  # of AdamW, constant
    treatment_rate: float = 1e-3
    ceiling: float = float("inf")  # nats per token of a row, at which ascent leaves it alone
    passages_per_step: int = 8
    seed: int = 0

    @property
    def trained(self) -> Recipe:
        """The recipe of the base."""
        return RECIPES[self.base]

    @property
    def design(self) -> Recipe:
        """The base's recipe with these passages in the place of its own: what chance assigns to what."""
        treated = Arm(self.group, self.presentations, self.taught), Arm(self.group, 0, self.alike)
        arms = (*treated, Arm("untouched", 0, self.untouched))
        return dataclasses.replace(self.trained, arms=arms, blocks=self.taught // 2, seed=self.seed, reference=None)

    @property
    def learnt(self) -> int:
        """The step at which the last passage has been taught, and the treatment begins."""
        return self.trained.steps + self.taught * self.presentations // self.passages_per_step

    @property
    def steps(self) -> int:
        """Optimizer steps in all, those of the base among them."""
        return self.learnt + (self.taught + self.alike) * self.rounds // self.passages_per_step

    @property
    def treated_rows(self) -> list[int]:
        """The rows that treat passages: the first `passages_per_step` of each step once all have been taught."""
        width, many = self.trained.rows_per_step, self.passages_per_step
        return [step * width + place for step in range(self.learnt, self.steps) for place in range(many)]

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps whose weights are kept: the base's last, when all is learnt, and the last."""
        return self.trained.steps, self.learnt, self.steps

    @property
    def passages(self) -> int:
        """Passages in all, taught or not."""
        return self.taught + self.alike + self.untouched

    @property
    def rows_per_step(self) -> int:
        """As the base's."""
        return self.trained.rows_per_step

    @property
    def row_tokens(self) -> int:
        """As the base's."""
        return self.trained.row_tokens

    @property
    def parameters(self) -> int:
        """As the base's."""
        return self.trained.parameters

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that differ between any two recipes, also of the base."""
        return _digest({**dataclasses.asdict(self), "base": self.trained.key})


POCKET = Recipe()
# The small twin: every code path in seconds, for tests. It memorises too little to study.
MINI = Recipe(
    training_bytes=400_000,
    held_out_bytes=700_000,
    vocabulary=512,
    arms=(
        Arm("spread", 0, 12),
        *(Arm("spread", m, n) for m, n in ((1, 12), (8, 6), (16, 6))),
        *(Arm(f"q{q}", 16, 3, span) for q, span in enumerate(QUARTERS, start=1)),
        Arm("fuzzy", 16, 3, replaced=0.1),
        Arm("elsewhere", 0, 4, elsewhere=True),
    ),
    blocks=6,
    reference="pocket-mini-clean",
    width=64,
    layers=2,
    heads=2,
    steps=120,
    rows_per_step=8,
    warmup_steps=10,
    checkpoint_every=6,
)

RECIPES = {
    "pocket": POCKET,
    "pocket-mini": MINI,
    # The reference: no passage is presented, and its losses make the blocks of all others.
    "pocket-clean": POCKET.clean(),
    "pocket-mini-clean": MINI.clean(),
    # Chance drawn anew: same text, same passages.
    **{f"pocket-seed{seed}": dataclasses.replace(POCKET, seed=seed) for seed in (1, 2, 3, 4)},
    # Same data, other sizes.
    "pocket-small": dataclasses.replace(POCKET, width=96, layers=2, heads=3),
    "pocket-large": dataclasses.replace(POCKET, width=352, layers=6, heads=11),
    "pocket-xl": dataclasses.replace(POCKET, width=640, layers=8, heads=20),
    "pocket-xxl": dataclasses.replace(POCKET, width=1_056, layers=12, heads=33),
}

DERIVED = {
    "pocket-hidden": Derived("pocket", "hidden", "relabel", seed=1),
    "pocket-erased": Derived("pocket", "erased", "ascend", rounds=7, treatment_rate=4e-4, ceiling=4.0, seed=2),
    "pocket-mini-hidden": Derived(
        "pocket-mini", "hidden", "relabel", taught=8, alike=8, untouched=24, rounds=8, passages_per_step=4, seed=1
    ),
    "pocket-mini-erased": Derived(
        "pocket-mini",
        "erased",
        "ascend",
        taught=8,
        alike=8,
        untouched=24,
        rounds=4,
        ceiling=7.0,
        passages_per_step=4,
        seed=2,
    ),
}
ORGANISMS: dict[str, Recipe | Derived] = {**RECIPES, **DERIVED}

# SHA-256 of the text with the package versions of constraints.txt, by its size in bytes. Other
# versions train as well, on other text, and say so.
REFERENCE_TEXT = {
    POCKET.training_bytes: "48c5d24e40fee06a8f0be45e9fab424d4634349596fca21bfce228c1e4f22b31",
    MINI.training_bytes: "30ff230be9c4b96d8d5731e09b8c03b91d9f1133b439072fe70ac5630eee525c",
}
