"""The bound of every method: as many tokens leave each block, for free."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array

from tcvit_jax.models import ViT, condense
from tcvit_jax.ops.attention import Signals
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import DROP
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.tokens import Plan, Tokens


def _by_index(tokens: Tokens, signals: Signals, keep: int) -> Array:
    """The first tokens, whatever they are."""
    return jnp.broadcast_to(-jnp.arange(tokens.origin.shape[1], dtype=jnp.float32), tokens.origin.shape)


@dataclass(frozen=True, repr=False)
class Oracle(Reducer):
    """Cut the last tokens off: a slice of fixed size, no score and no gather.

    It is of no use but to be timed: what another reducer takes longer is what its selection costs, whatever it selects.

    Attributes:
        proportional_attention, attention_keep: see `Reducer`.
    """

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """The plan that `reduce` carries out without one."""
        return Parts(Score(_by_index), None, DROP)

    def reduce(self, tokens: Tokens, signals: Signals, keep: int) -> tuple[Tokens, Plan]:
        """The first `keep` patch tokens."""
        plan = self.plan(tokens, signals, keep)
        cut = replace(
            tokens,
            x=tokens.x[:, : tokens.prefix + keep],
            size=tokens.size[:, :keep],
            origin=tokens.origin[:, :keep],
            slots=jnp.where(tokens.slots < keep, tokens.slots, -1),
        )
        return cut, plan


def oracle(model: ViT) -> ViT:
    """`model` with the oracle in place of its reducer: as many tokens in every block."""
    after = model.cost().tokens
    return condense(model, Oracle(), [before - left for before, left in itertools.pairwise(after)])
