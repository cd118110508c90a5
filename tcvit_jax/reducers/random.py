"""Random pruning: the baseline for every selection."""

from __future__ import annotations

from dataclasses import dataclass

from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import DROP
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.reducers.scores import random_order


@dataclass(frozen=True, repr=False)
class Random(Reducer):
    """Random pruning.

    Attributes:
        seed: Seed of the random score. Each number of tokens has its own order, which is the same for all images, so
            that the result for an image does not depend on its batch.
        proportional_attention: See `Reducer`. Sizes stay 1.
        attention_keep: See `Reducer`.
    """

    proportional_attention: bool = False
    seed: int = 0

    @property
    def parts(self) -> Parts:
        """A random score, no match, no fusion."""
        return Parts(Score(lambda tokens, signals, keep: random_order(tokens, self.seed)), None, DROP)
