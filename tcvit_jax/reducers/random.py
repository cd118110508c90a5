"""Random pruning: the baseline for every selection."""

from __future__ import annotations

from dataclasses import dataclass

from tcvit_jax.reducers.base import Reducer, check_seed
from tcvit_jax.reducers.fusions import DROP
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.reducers.scores import random_order


@dataclass(frozen=True, repr=False)
class Random(Reducer):
    """Random pruning.

    Attributes:
        seed: Seed of the random score, in [0, 2**32). Each number of tokens has its own order, the same for all
            images, so that the result for an image does not depend on its batch.
        proportional_attention: See `Reducer`. Sizes stay 1.
        attention_keep: See `Reducer`.
    """

    proportional_attention: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        check_seed(self.seed)

    @property
    def parts(self) -> Parts:
        """A random score, no match, no fusion."""
        return Parts(Score(lambda tokens, signals, keep: random_order(tokens, self.seed)), None, DROP)
