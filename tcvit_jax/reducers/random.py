"""Random removal: the control that every selection has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import DROP
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.reducers.scores import random_order


@dataclass(frozen=True, repr=False)
class Random(Reducer):
    """A random choice stays, the others are dropped.

    Attributes:
        seed: each number of tokens has its own order, the same for every image, so that an image gives the same answer
            in any batch.
        proportional_attention, attention_keep: see `Reducer`; sizes stay 1.
    """

    proportional_attention: bool = False
    seed: int = 0

    @property
    def parts(self) -> Parts:
        """A random order, and nothing else."""
        return Parts(Score(lambda tokens, signals, keep: random_order(tokens, self.seed)), None, DROP)
